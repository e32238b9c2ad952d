"""Runs at gs://, against an emulator that keeps a bucket of Google's in memory."""

import asyncio
import importlib
import os
import re
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from types import SimpleNamespace

import jax.numpy as jnp
import numpy as np
import pytest
import SimpleITK as sitk

from crlm_jax.config.schema import Config
from crlm_jax.method.checkpoint import Checkpoints
from crlm_jax.predict import segmenter
from crlm_jax.report import command as report_command
from crlm_jax.runs.folder import WorkdirError
from crlm_jax.study import command as study_command
from crlm_jax.system import files
from crlm_jax.training import experiment
from tests.cohorts import make_cohort, tiny_config
from tests.processes import Run, assert_same_weights, free_port, last_step, logged, own_caches

# gcsfs would ask Google itself for the kind of the bucket, and the machine for its project.
ALONE = {
    "GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT": "false",
    "NO_GCE_CHECK": "true",
    "GOOGLE_CLOUD_PROJECT": "crlm",
}


@pytest.fixture(scope="module")
def bucket(tmp_path_factory) -> str:
    """The address of an empty bucket, for this process and those that it starts."""
    pytest.importorskip("gcp_storage_emulator", reason="the emulator is not installed")
    port = free_port()
    words = ["start", "--host=localhost", f"--port={port}", "--in-memory", "--default-bucket=crlm"]
    address = f"http://localhost:{port}"
    log = tmp_path_factory.mktemp("bucket") / "emulator.txt"
    with log.open("w") as file, pytest.MonkeyPatch.context() as patch:
        emulator = subprocess.Popen(
            [sys.executable, "-m", "gcp_storage_emulator", *words], stdout=file, stderr=file
        )
        patch.setenv("STORAGE_EMULATOR_HOST", address)  # for gcsfs
        patch.setenv("TENSORSTORE_GCS_HTTP_URL", address)  # for the arrays of a checkpoint
        for name, value in ALONE.items():
            patch.setenv(name, value)
        try:
            _wait_for(f"{address}/storage/v1/b", log)
            yield "gs://crlm"
        finally:
            emulator.kill()
            emulator.wait()


def _wait_for(url: str, log: Path) -> None:
    end = time.monotonic() + 60
    while True:
        try:
            urllib.request.urlopen(url).close()
            return
        except OSError:
            assert time.monotonic() < end, log.read_text()[-2000:]
            time.sleep(0.1)


@pytest.fixture(scope="module")
def config(tmp_path_factory) -> Config:
    cohort = make_cohort(tmp_path_factory.mktemp("cohort"))
    config = tiny_config(cohort, tmp_path_factory.mktemp("cache"))
    config.optimizer.learning_rate = 3e-5  # so small that rounding does not grow over the steps
    config.train.epochs, config.train.checkpoint_every = 10, 12
    return config


@pytest.fixture(scope="module")
def finished(bucket, config, tmp_path_factory) -> tuple[Path, Path, int]:
    """A run on a disk, and the same in the bucket: of two processes, stopped, gone on with one.

    And the step at which that one was stopped.
    """
    folder = tmp_path_factory.mktemp("runs")
    alone = Run(config, folder / "alone")
    assert alone.end() == [0], alone.outputs()
    workdir = files.locate(f"{bucket}/runs/one")
    run = Run(config, workdir, 2, arguments=own_caches(folder, 2), outputs=folder)
    assert run.wait_for_step(4), run.outputs()
    run.stop()
    assert run.end() == [75, 75], run.outputs()
    assert not (workdir / "report.html").exists()
    stopped = last_step(workdir)
    run = Run(config, workdir, outputs=folder)
    assert run.end() == [0], run.outputs()
    return folder / "alone", workdir, stopped


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


@pytest.mark.slow
def test_a_run_in_a_bucket_is_that_of_a_disk(config, finished):
    disk, workdir, stopped = finished
    assert names(disk) == names(workdir)
    for folder in ("views", "figures"):
        assert names(disk / folder) == names(workdir / folder)
    assert_same_weights(config, disk, workdir, 1e-5)
    validated = [
        [line["validation_dsc"] for line in logged(run) if "validation_dsc" in line]
        for run in (disk, workdir)
    ]
    assert validated[0] == pytest.approx(validated[1], abs=1e-5)
    kept, there = (names(run / "checkpoints") for run in (workdir, disk))
    assert len(kept) == len(there)
    assert kept - {str(stopped)} <= there  # a stop late in the run leaves its own checkpoint
    assert len((workdir / "report.html").read_text()) > 10_000


@pytest.mark.slow
def test_a_run_in_a_bucket_is_used_like_one_of_a_disk(config, finished, tmp_path):
    disk, workdir, _ = finished
    before = (workdir / "report.html").read_text()
    (workdir / "report.html").unlink()
    report_command.main([str(workdir)])
    assert (workdir / "report.html").read_text() == before
    report_command.main([str(disk), str(workdir), "--out", str(tmp_path / "both.html")])
    assert "one" in (tmp_path / "both.html").read_text()
    scan = sitk.GetImageFromArray(np.mgrid[:2, :40, :40].sum(0, dtype=np.float32))
    masks = [sitk.GetArrayFromImage(segmenter.load(str(run))(scan)) for run in (disk, workdir)]
    np.testing.assert_array_equal(*masks)
    assert experiment.run(config, str(workdir)) is None
    other = tiny_config(Path(config.data.cohort), Path(config.data.cache))
    with pytest.raises(WorkdirError, match="gs://crlm/runs/one is the run of another"):
        experiment.run(other, str(workdir))


def test_a_damaged_checkpoint_of_a_bucket_is_moved_out(bucket, monkeypatch):
    # The emulator cannot move; gcsfs tries it again and again, and then copies.
    at_once = SimpleNamespace(sleep=lambda seconds: asyncio.sleep(0))
    monkeypatch.setattr("gcsfs.retry.asyncio", at_once)
    folder = files.locate(f"{bucket}/damaged/checkpoints")
    parts = {"segmenter": {"w": jnp.arange(3.0)}}
    with Checkpoints(folder) as checkpoints:
        for step in (1, 2, 3):
            checkpoints.save(step, parts, step / 10)
    assert names(folder) == {"2", "3"}
    for file in (folder / "3" / "segmenter").iterdir():
        if file.is_file():
            file.write_bytes(b"damaged")
    with Checkpoints(folder) as checkpoints:
        step, found = checkpoints.resume(parts)
        assert (step, checkpoints.latest) == (2, 2)
    np.testing.assert_array_equal(found["segmenter"]["w"], parts["segmenter"]["w"])
    assert names(folder.parent) == {"checkpoints", "unreadable_3"}


def test_a_study_in_a_bucket_is_listed(bucket, capsys):
    study_command.main(
        ["--study", "configs/studies/stages.py:seeds=1", "--workdir", f"{bucket}/s", "--list"]
    )
    assert "0 of 16 finished" in capsys.readouterr().out


def test_what_another_process_writes_is_seen(bucket):
    folder = files.locate(f"{bucket}/shared")
    files.write_whole(folder / "a", "")
    assert names(folder) == {"a"}
    code = (
        "from crlm_jax.system import files; "
        f"files.write_whole(files.locate({bucket!r}) / 'shared' / 'b', '')"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
    assert names(folder) == {"a", "b"}


def test_pathlibs_way_of_writing_an_address_is_understood(bucket):
    assert str(files.locate(Path("gs://crlm/runs/one"))) == "gs://crlm/runs/one"
    assert str(files.locate(files.locate("gs://crlm/runs"))) == "gs://crlm/runs"


@pytest.mark.parametrize("address", ["gs://nowhere/run", "gs://"])
def test_a_bucket_that_is_not_there_is_one_clear_error(bucket, address, config):
    with pytest.raises(OSError, match=r"gs://.*: no bucket '(nowhere)?' is there"):
        experiment.run(config, address)


@pytest.mark.parametrize("address", ["s3://bucket/run", "hf://datasets/x", "https://x.org/run"])
def test_another_store_is_one_clear_error(address, config):
    with pytest.raises(OSError, match=r"only gs:// is understood; mount the store"):
        experiment.run(config, address)


def test_without_gcsfs_the_error_says_what_to_install(monkeypatch):
    monkeypatch.setattr(files.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(OSError, match=r"gs://crlm/run: needs gcsfs; pip install 'crlm_jax\[gcs\]'"):
        files.locate("gs://crlm/run")


def test_a_bucket_that_cannot_be_reached_is_one_clear_line():
    pytest.importorskip("gcsfs", reason="gcsfs (the extra `gcs`) is not installed")
    code = (
        # It is tried six times, which would take 40 s.
        "import asyncio, gcsfs.retry, types; "
        "gcsfs.retry.asyncio = types.SimpleNamespace(sleep=lambda seconds: asyncio.sleep(0)); "
        "from crlm_jax.report.command import main; from crlm_jax.system.console import run; "
        "run(main, ['gs://crlm/run'])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        env=os.environ | ALONE | {"STORAGE_EMULATOR_HOST": f"http://localhost:{free_port()}"},
    )
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith("error: gs://crlm/run: the bucket cannot be")


@pytest.mark.parametrize(
    ("command", "words"),
    [
        ("predict", ["--run=runs/x", "--image=a.nii", "--out=gs://crlm/mask.nii"]),
        ("export", ["--run=runs/x", "--out=s3://crlm/exported"]),
        ("explain", ["--run=runs/x", "--image=gs://crlm/a.nii", "--out=explained"]),
        ("data.tcia", ["--dicom=gs://crlm/dicom", "--out=crlm_ct"]),
    ],
)
def test_what_a_bucket_cannot_hold_is_one_clear_line(command, words, capsys):
    with pytest.raises(SystemExit) as code:
        importlib.import_module(f"crlm_jax.{command}.command").main(words)
    assert code.value.code == 2
    line = capsys.readouterr().err.splitlines()[-1]
    assert re.search(r"(gs|s3)://crlm/.*: is not of this machine; give a path on its disk", line)
