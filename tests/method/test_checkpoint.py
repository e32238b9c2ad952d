import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

from crlm_jax.method import checkpoint as method_checkpoint
from crlm_jax.method.checkpoint import CheckpointError, Checkpoints, NewerCheckpoint


def state(value: float) -> dict:
    return {
        "segmenter": {"w": jnp.full((3,), value)},
        "training": {"step": jnp.asarray(value, jnp.int32)},
    }


def test_keeps_the_latest_and_the_best(tmp_path):
    with Checkpoints(tmp_path / "c", keep=2) as checkpoints:
        for step, dsc in enumerate([0.1, 0.9, 0.2, 0.3, 0.4], start=1):
            checkpoints.save(step, state(step), dsc)
    assert sorted(int(p.name) for p in (tmp_path / "c").iterdir()) == [2, 4, 5]
    with Checkpoints(tmp_path / "c", keep=2) as checkpoints:
        assert (checkpoints.latest, checkpoints.best) == (5, 2)
        found = checkpoints.load(2, {"segmenter": state(0)["segmenter"]})
    np.testing.assert_array_equal(found["segmenter"]["w"], np.full(3, 2.0))
    assert set(found) == {"segmenter"}


def test_a_dsc_is_kept_under_its_protocols_name(tmp_path):
    with Checkpoints(tmp_path / "c", keep=1) as checkpoints:
        for step, dsc in enumerate([0.1, 0.9, 0.2], start=1):
            checkpoints.save(step, state(step), dsc, "validation_dsc_clinical")
    with Checkpoints(tmp_path / "c", keep=1) as checkpoints:
        assert (checkpoints.latest, checkpoints.best, checkpoints.chosen) == (3, 2, 2)
    kept = json.loads((tmp_path / "c" / "2" / "metrics" / "metrics").read_text())
    assert kept == {"validation_dsc_clinical": 0.9}
    with Checkpoints(tmp_path / "other") as checkpoints:
        checkpoints.save(1, state(1), None)
    with Checkpoints(tmp_path / "other") as checkpoints:
        assert (checkpoints.best, checkpoints.chosen) == (1, None)


def test_of_equals_the_later_is_the_best(tmp_path):
    with Checkpoints(tmp_path / "c") as checkpoints:
        for step in (1, 2):
            checkpoints.save(step, state(step), 0.5)
    with Checkpoints(tmp_path / "c") as checkpoints:
        assert checkpoints.best == 2


def test_without_validation_the_latest_is_the_best(tmp_path):
    with Checkpoints(tmp_path / "c", keep=1) as checkpoints:
        for step in (1, 2, 3):
            checkpoints.save(step, state(step), None)
    with Checkpoints(tmp_path / "c", keep=1) as checkpoints:
        assert (checkpoints.latest, checkpoints.best) == (3, 3)
    assert [p.name for p in (tmp_path / "c").iterdir()] == ["3"]


def test_a_half_written_checkpoint_is_not_one(tmp_path):
    with Checkpoints(tmp_path / "c") as checkpoints:
        checkpoints.save(1, state(1), 0.5)
    (tmp_path / "c" / "2.orbax-checkpoint-tmp" / "metrics").mkdir(parents=True)
    (tmp_path / "c" / "2.orbax-checkpoint-tmp" / "metrics" / "metrics").write_text('{"valida')
    with Checkpoints(tmp_path / "c") as checkpoints:
        assert checkpoints.latest == 1
        checkpoints.save(2, state(2), 0.6)
    with Checkpoints(tmp_path / "c") as checkpoints:
        assert (checkpoints.latest, checkpoints.best) == (2, 2)
        assert int(checkpoints.load(2, state(0))["training"]["step"]) == 2


def test_an_empty_folder_has_none(tmp_path):
    with Checkpoints(tmp_path / "c") as checkpoints:
        assert checkpoints.latest is None
        assert checkpoints.best is None


def test_another_shape_is_refused(tmp_path):
    with Checkpoints(tmp_path / "c") as checkpoints:
        checkpoints.save(1, state(1), None)
        with pytest.raises(CheckpointError, match=r"c/1: not a whole .* move the folder away"):
            checkpoints.load(1, {"segmenter": {"w": jnp.zeros((4,))}})


def test_goes_on_from_the_newest_that_can_be_read(tmp_path):
    with Checkpoints(tmp_path / "c", keep=9) as checkpoints:
        assert checkpoints.resume(state(0)) is None
        for step in (1, 2, 3, 4):
            checkpoints.save(step, state(step), step / 10)
    truncate(tmp_path / "c" / "4")
    shutil.rmtree(tmp_path / "c" / "3" / "training")
    with Checkpoints(tmp_path / "c", keep=9) as checkpoints:
        step, parts = checkpoints.resume(state(0))
        assert (step, int(parts["training"]["step"])) == (2, 2)
        assert (checkpoints.latest, checkpoints.best) == (2, 2)
        checkpoints.save(3, state(30), 0.9)
    with Checkpoints(tmp_path / "c", keep=9) as checkpoints:
        assert int(checkpoints.load(3, state(0))["training"]["step"]) == 30
    assert sorted(p.name for p in tmp_path.iterdir()) == ["c", "unreadable_3", "unreadable_4"]


def test_where_none_can_be_read_nothing_is_moved(tmp_path):
    with Checkpoints(tmp_path / "c", keep=9) as checkpoints:
        for step in (1, 2):
            checkpoints.save(step, state(step), None)
    other = {"segmenter": {"w": jnp.zeros((4,))}, "training": state(0)["training"]}
    with (
        Checkpoints(tmp_path / "c", keep=9) as checkpoints,
        pytest.raises(CheckpointError, match=r"c/2: not a whole .* another --workdir"),
    ):
        checkpoints.resume(other)
    assert sorted(p.name for p in (tmp_path / "c").iterdir()) == ["1", "2"]


@pytest.mark.parametrize(
    "damage", [{"performance_metrics": 1}, {"commit_timestamp_nsecs": 10**30}, None]
)
def test_a_checkpoint_with_damaged_metadata_does_not_hide_the_others(tmp_path, damage):
    with Checkpoints(tmp_path / "c") as checkpoints:
        for step in (1, 2):
            checkpoints.save(step, state(step), 0.5)
    file = tmp_path / "c" / "2" / "_CHECKPOINT_METADATA"
    file.write_text(json.dumps([1] if damage is None else json.loads(file.read_text()) | damage))
    with pytest.raises(CheckpointError, match=r"c/2/_CHECKPOINT_METADATA: not a whole file"):
        Checkpoints(tmp_path / "c", saves=False)
    with Checkpoints(tmp_path / "c") as checkpoints:
        assert checkpoints.resume(state(0))[0] == checkpoints.best == 1
    assert sorted(p.name for p in tmp_path.iterdir()) == ["c", "unreadable_2"]


def test_of_a_newer_version_is_said_and_nothing_is_moved(tmp_path, monkeypatch):
    with Checkpoints(tmp_path / "c") as checkpoints:
        checkpoints.save(1, state(1), None)
        monkeypatch.setattr(method_checkpoint, "SCHEMA", method_checkpoint.SCHEMA + 1)
        monkeypatch.setattr(method_checkpoint, "__version__", "9.8")
        checkpoints.save(2, state(2), None)
        checkpoints.save(3, state(3), None)
    monkeypatch.undo()
    truncate(tmp_path / "c" / "3")  # a damaged one does not hide the newer one before it
    newer = r"c/2: written by crlm_jax 9\.8 in a form .* update crlm_jax, or give another"
    with Checkpoints(tmp_path / "c") as checkpoints:
        with pytest.raises(NewerCheckpoint, match=newer):
            checkpoints.resume(state(0))
        with pytest.raises(NewerCheckpoint, match=newer):
            checkpoints.load(2, state(0))
    assert sorted(p.name for p in (tmp_path / "c").iterdir()) == ["2", "3"]


def truncate(checkpoint: Path) -> None:
    """Cuts every file of a checkpoint to half of its length, as a failing disk does."""
    for file in checkpoint.rglob("*"):
        if file.is_file():
            os.truncate(file, file.stat().st_size // 2)


FULL_DISK = """
import resource, signal, sys
import jax.numpy as jnp
from crlm_jax.method.checkpoint import Checkpoints

big = {"segmenter": {"w": jnp.zeros(2_000_000)}}
with Checkpoints(__import__("pathlib").Path(sys.argv[1]), keep=1) as checkpoints:
    checkpoints.save(1, big, 0.5)
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))  # stands for a disk that is full
with Checkpoints(__import__("pathlib").Path(sys.argv[1]), keep=1) as checkpoints:
    checkpoints.save(2, {"segmenter": {"w": jnp.arange(2_000_000.0)}}, 0.9)
"""


def test_a_full_disk_leaves_the_earlier_checkpoint_whole(tmp_path):
    command = [sys.executable, "-c", FULL_DISK, str(tmp_path / "c")]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 1
    assert "CheckpointError" in done.stderr.splitlines()[-1]
    assert "the earlier ones are whole. Make room on the disk" in done.stderr
    like = {"segmenter": {"w": jnp.zeros(2_000_000)}}
    with Checkpoints(tmp_path / "c", keep=1) as checkpoints:
        step, parts = checkpoints.resume(like)
    assert step == 1
    assert not parts["segmenter"]["w"].any()
