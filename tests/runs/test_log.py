"""The training log: what is written of the steps, and what a resumed run keeps."""

import jax.numpy as jnp
import numpy as np
import pytest

from crlm_jax.config.schema import Config
from crlm_jax.runs.log import NonFiniteLoss, TrainLog, read_log


def terms(loss: float) -> dict:
    return {"bce": jnp.float32(loss / 2), "loss": jnp.float32(loss)}


def test_means_of_the_steps_are_written_total_first(tmp_path):
    log = TrainLog(tmp_path / "train.jsonl", 0, Config(), str)
    for step, loss in ((1, 1.0), (2, 3.0)):
        log.add(step, terms(loss), np.array([0]))
    assert log.flush().startswith("loss 2.000 bce 1.000 ")
    log.validation(2, 0.25)
    log.validation(4, None)  # no validation patient has a tumour
    first, second = read_log(tmp_path / "train.jsonl")
    assert list(first)[:3] == ["step", "loss", "bce"]
    assert (first["step"], first["loss"]) == (2, 2.0)
    assert first["host_peak_mib"] > 0
    assert second == {"step": 2, "validation_dsc": 0.25, "data": "phantom"}


def test_the_validation_dsc_has_the_name_of_its_protocol(tmp_path):
    config = Config()
    config.train.select = "clinical"
    TrainLog(tmp_path / "train.jsonl", 0, config, str).validation(2, 0.25)
    (line,) = read_log(tmp_path / "train.jsonl")
    assert line == {"step": 2, "validation_dsc_clinical": 0.25, "data": "phantom"}


def test_a_loss_that_is_not_finite_names_the_records(tmp_path):
    log = TrainLog(tmp_path / "train.jsonl", 0, Config(), lambda record: f"p{record}/ct z=3")
    log.add(7, terms(float("nan")), np.array([2, 1, 2]))
    with pytest.raises(NonFiniteLoss, match=r"step 7 .*cases of the batch: p1/ct z=3, p2/ct z=3; "):
        log.flush()


def test_steps_that_are_done_again_leave_the_log(tmp_path):
    path = tmp_path / "train.jsonl"
    assert read_log(path) == []
    path.write_text('{"step": 1}\n{"step": 2}\n{"step": 3}\n{"ste')
    assert [line["step"] for line in read_log(path)] == [1, 2, 3]
    TrainLog(path, 2, Config(), str)
    assert path.read_text() == '{"step": 1}\n{"step": 2}\n'
