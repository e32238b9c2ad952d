import jax.numpy as jnp
import numpy as np
import pytest

from crlm_jax.checkpoint import CheckpointError, Checkpoints


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
    (tmp_path / "c" / "2.orbax-checkpoint-tmp").mkdir()
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
        with pytest.raises(CheckpointError, match=r"c/1: not a whole .* move this folder"):
            checkpoints.load(1, {"segmenter": {"w": jnp.zeros((4,))}})
