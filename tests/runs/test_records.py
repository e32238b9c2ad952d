"""What a run records of its threads and its precision."""

import dataclasses

import pytest

from crlm_jax.config.schema import Config, System
from crlm_jax.config.storage import differences, to_json
from crlm_jax.runs.folder import RunFolder, WorkdirError, open_workdir
from crlm_jax.runs.records import keep_records, with_own_precision, with_threads
from crlm_jax.system import parallel


@pytest.fixture
def begun(tmp_path):
    """A run that was begun on three threads."""
    config = dataclasses.replace(Config(), system=System(threads=3))
    (tmp_path / "config.json").write_text(to_json(config))
    return RunFolder(tmp_path)


def test_the_number_of_threads_is_recorded(tmp_path, monkeypatch):
    monkeypatch.setenv("NPROC", "5")
    assert with_threads(Config(), RunFolder(tmp_path), "cpu").system.threads == 5
    assert with_threads(Config(), RunFolder(tmp_path), "gpu").system.threads == 0


def test_going_on_with_another_number_is_a_warning(begun, monkeypatch, capsys):
    monkeypatch.setenv("NPROC", "3")
    with_threads(Config(), begun, "cpu")
    assert capsys.readouterr().err == ""
    monkeypatch.setenv("NPROC", "2")
    assert with_threads(Config(), begun, "cpu").system.threads == 2
    told = capsys.readouterr().err
    assert "was begun on 3 threads and goes on with 2" in told
    assert "--config.system.threads=3" in told
    assert not open_workdir(Config(), begun)  # it is the same experiment


def test_without_a_wish_all_cores_count(monkeypatch):
    monkeypatch.setenv("NPROC", "")
    assert parallel.threads() >= 1
    parallel.use_threads(0)
    assert parallel.threads() >= 1
    parallel.use_threads(4)
    assert parallel.threads() == 4


def test_automatic_precision_is_that_of_the_platform_and_then_the_runs_own(tmp_path):
    config = Config()
    config.train.precision = "auto"
    folder = RunFolder(tmp_path)
    found = {name: with_own_precision(config, folder, name) for name in ("cpu", "gpu", "tpu")}
    assert [c.train.precision for c in found.values()] == ["float32", "bfloat16", "bfloat16"]
    assert config.train.precision == "auto"
    folder.config.write_text(to_json(found["tpu"]))
    assert with_own_precision(config, folder, "cpu").train.precision == "bfloat16"
    assert differences(found["tpu"], with_own_precision(Config(), folder, "tpu")) == [
        "train.precision: 'bfloat16' → 'float32'"  # which the folder refuses
    ]


def test_a_run_from_before_the_prints_goes_on(tmp_path):
    """Its data are the same, as the digest says; those of another digest are refused."""
    folder, split = RunFolder(tmp_path), {"patients": ["p1"], "images": 1}
    keep_records(Config(), folder, {"train": split}, "abc")
    before = folder.data.read_text()
    data = {"train": split | {"prints": ["0123456789abcdef"]}}
    with pytest.raises(WorkdirError, match="have changed"):
        keep_records(Config(), folder, data, "abd")
    assert folder.data.read_text() == before
    keep_records(Config(), folder, data, "abc")
    assert "0123456789abcdef" in folder.data.read_text()
    with pytest.raises(WorkdirError, match="have changed"):
        keep_records(Config(), folder, {"train": split | {"prints": ["f"]}}, "abc")
