"""The GPU kit runs from end to end on a CPU, at tiny size, and keeps what it has when cut off."""

import json
import os
import signal
import subprocess
import sys
import time
import zipfile
from importlib import metadata
from pathlib import Path

import pytest

from tests.benchmarks import gpu
from tests.benchmarks.gpu_kit import steps, table, wheels
from tests.benchmarks.gpu_kit.cards import CARDS
from tests.benchmarks.gpu_kit.options import FULL
from tests.benchmarks.gpu_kit.parts import _expected

ROOT = Path(__file__).parents[1]
PARTS = ["machine", "step-2-float32", "torch-2"]


def start(out: Path, *words: str) -> subprocess.Popen:
    """Starts the kit on the CPU, where a PyTorch that may be installed cannot be imported."""
    fake = out / "fake" / "torch"
    fake.mkdir(parents=True, exist_ok=True)
    (fake / "__init__.py").write_text("raise ImportError('none here')\n")
    environment = {"JAX_PLATFORMS": "cpu"} | os.environ
    environment["PYTHONPATH"] = f"{ROOT}:{fake.parent}"
    command = [
        sys.executable, "-m", "tests.benchmarks.gpu", "--tiny", f"--out={out}",
        f"--work={out / 'work'}", *words,
    ]  # fmt: skip
    return subprocess.Popen(
        command, cwd=ROOT, env=environment, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip


def finish(kit: subprocess.Popen, out: Path) -> tuple[str, dict]:
    text, _ = kit.communicate(timeout=900)
    assert kit.returncode == 0, text
    return text, json.loads((out / "gpu.json").read_text())


def test_measures_a_step_and_says_that_pytorch_is_missing(tmp_path):
    kit = start(tmp_path, "--parts", *PARTS, "--limit", "400")
    text, found = finish(kit, tmp_path)
    assert {name: part["status"] for name, part in found["parts"].items()} == dict.fromkeys(
        PARTS, "done"
    )
    counted, row = found["parts"]["step-2-float32"]["rows"]
    assert row["batch"] == 2
    assert 0 < row["least_seconds"] <= row["median_seconds"] <= row["most_seconds"]
    assert row["slices_per_second"] == pytest.approx(2 / row["median_seconds"])
    whole, segmenter = counted["flops_of_a_slice"]
    assert whole > segmenter > 0
    assert row["flops"] == 2 * whole
    assert row["products"] == "segmenter float32, critic float32"
    assert "PyTorch is not installed here" in text
    assert (tmp_path / "gpu.txt").read_text().strip() in text
    versions = found["parts"]["machine"]["rows"][0]["versions"]
    assert versions["jax"] == metadata.version("jax")


def test_a_limit_leaves_what_there_is(tmp_path):
    text, found = finish(start(tmp_path, "--limit", "1"), tmp_path)
    assert list(found["parts"]) == [name for name in gpu.names(tiny=True) if name != "train"]
    for name, part in found["parts"].items():
        assert part["status"] == "skipped", name
        assert "no time left" in part["words"]
    assert "step-2-float32: skipped, no time left" in text


def test_a_kit_that_is_told_to_stop_keeps_its_rows(tmp_path):
    kit = start(tmp_path, "--parts", "step-2-float32", "parity")
    result = tmp_path / "gpu.json"
    end = time.monotonic() + 120
    while not result.exists() and time.monotonic() < end:
        time.sleep(0.1)
    kit.send_signal(signal.SIGTERM)
    _, found = finish(kit, tmp_path)
    assert found["stopped"] is True
    assert found["parts"]["machine"]["status"] == "done"
    assert found["parts"]["step-2-float32"]["words"] == "told to stop"
    assert found["parts"]["parity"]["status"] == "skipped"


@pytest.mark.slow
def test_every_kind_of_part(tmp_path):
    """One part of each kind; the others differ by batch and precision alone."""
    small = gpu.names(tiny=True)[1].split("-")[1]
    kinds = [
        f"step-{small}-auto", f"torch-{small}", "parity", "pipeline", "forms", "largest-auto",
        "train",
    ]  # fmt: skip
    kit = start(tmp_path, "--train", "--limit", "850", "--parts", *kinds)
    text, found = finish(kit, tmp_path)
    parts = found["parts"]
    assert list(parts) == ["machine", *kinds]
    assert {part["status"] for part in parts.values()} == {"done"}, text
    assert not [row for part in parts.values() for row in part["rows"] if "error" in row], text
    assert all(row["agrees"] for row in parts["parity"]["rows"])
    assert parts["largest-auto"]["rows"][-1]["largest"] == 8
    assert parts["pipeline"]["rows"][-1]["fed_to_alone"] > 0
    assert parts["train"]["rows"][-1]["finished"] is True
    assert parts["train"]["rows"][-1]["steps"] == 6


def test_a_failed_part_says_why_and_the_others_go_on(tmp_path, monkeypatch):
    monkeypatch.setenv("JAX_PLATFORMS", "abacus")
    text, found = finish(start(tmp_path, "--parts", "torch-2"), tmp_path)
    assert found["parts"]["machine"]["status"] == "failed"
    assert "abacus" in found["parts"]["machine"]["words"]
    assert "machine: failed" in text
    assert found["parts"]["torch-2"]["status"] == "done"


def test_shares_of_a_card(monkeypatch):
    class Device:
        device_kind, platform = "NVIDIA H100 80GB HBM3", "gpu"

    monkeypatch.setattr(steps.jax, "devices", lambda: [Device])
    config = steps.configure(FULL, 16, "float32")
    # All of the segmenter at TF32's peak takes one second, all of the critic at float32's another.
    card = CARDS[Device.device_kind]
    found = steps.shares(config, 4.0, (card.tf32 + card.float32, card.tf32))
    assert found["share_of_units_used"] == pytest.approx(0.5)
    assert found["peak_share"] == pytest.approx((card.tf32 + card.float32) / 4 / card.tf32)
    Device.device_kind = "NVIDIA of next year"
    assert "not in the table" in steps.shares(config, 4.0, (1.0, 1.0))["peak"]
    assert CARDS["Tesla T4"].product("bfloat16")[0] == "float32"  # it has no unit for bfloat16


def test_the_largest_batch_is_expected_along_a_line(monkeypatch):
    class Device:
        @staticmethod
        def memory_stats():
            return {"bytes_limit": 1000}

    monkeypatch.setattr("jax.devices", lambda: [Device])
    known = [{"batch": 16, "peak_bytes": 110}, {"batch": 64, "peak_bytes": 300}]
    assert _expected(known, 1024) == 232  # 0.97 · (1000 − 110) / 190 · 48 + 16, in eights
    assert _expected(known, 128) == 128
    assert _expected(known[:1], 1024) == 32


def test_the_table_of_parts_that_failed():
    part = {"status": "failed", "words": "exit code 1: out of luck", "seconds": 1.0, "rows": []}
    text = table.write({"parts": {"step-16-auto": part}})
    assert "step-16-auto: failed, exit code 1: out of luck" in text


def wheel(folder: Path, name: str, needs: str, content: bytes = b"") -> Path:
    path = folder / name
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as made:
        made.writestr("a.py", content)
        made.writestr("a-1.dist-info/METADATA", f"Name: a\nRequires-Dist: {needs}\n")
    return path


def test_a_large_wheel_is_packed_and_comes_back(tmp_path):
    content = os.urandom(wheels.LARGE + 1)
    folder, place = tmp_path / "folder", tmp_path / "place"
    folder.mkdir()
    place.mkdir()
    packed = wheels.pack(wheel(tmp_path, "a-1-py3-none-any.whl", "b", content), folder)
    assert packed.name == "a-1-py3-none-any.whl.xz"
    (back,) = wheels.unpack(folder, place)
    with zipfile.ZipFile(back) as read:
        assert read.read("a.py") == content


def test_flax_is_chosen_by_the_jax_of_the_machine(tmp_path, monkeypatch):
    old = wheel(tmp_path, "flax-0.12.8-py3-none-any.whl", "jax>=0.10.0")
    new = wheel(tmp_path, "flax-0.12.12-py3-none-any.whl", "jax>=0.11.1")
    other = wheel(tmp_path, "optax-0.2.8-py3-none-any.whl", "jax>=0.5")
    for version, kept in (("0.10.2", old), ("0.11.0", old), ("0.11.2", new)):
        monkeypatch.setattr(wheels.metadata, "version", lambda name, found=version: found)
        assert wheels.without_other_flax([old, new, other]) == [kept, other]
    monkeypatch.setattr(wheels.metadata, "version", lambda name: "0.9.2")
    with pytest.raises(SystemExit, match="too old"):
        wheels.without_other_flax([old, new, other])


def test_the_script(tmp_path):
    script = str(ROOT / "tests" / "benchmarks" / "gpu.sh")
    told = subprocess.run(["bash", script], capture_output=True, text=True)
    assert told.returncode == 2
    assert "gpu.sh prepare" in told.stderr
    environment = os.environ | {
        "WHEELS": str(tmp_path), "SITE": str(tmp_path / "site"), "PYTHON": sys.executable,
    }  # fmt: skip
    empty = subprocess.run(["bash", script, "run"], env=environment, capture_output=True, text=True)
    assert empty.returncode == 1
    assert "run `gpu.sh prepare` where there is a network" in empty.stderr
    shellcheck = Path(sys.executable).parent / "shellcheck"
    if shellcheck.exists():
        found = subprocess.run([shellcheck, script], capture_output=True, text=True)
        assert found.returncode == 0, found.stdout
