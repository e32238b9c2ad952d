"""A run again on its training and validation patients, and the choice of the checkpoint."""

import copy
import json

import pytest

from crlm_jax.config.schema import ConfigError
from crlm_jax.method.checkpoint import Checkpoints
from crlm_jax.runs.finished import read_finished
from crlm_jax.runs.log import read_log
from crlm_jax.training import experiment
from tests.cohorts import make_cohort, tiny_config

pytestmark = pytest.mark.usefixtures("blank_pictures", "one_device")


@pytest.fixture(scope="module")
def source(one_device, tmp_path_factory):
    """A finished run whose checkpoint is chosen by whole volumes, on the first of two folds."""
    folder = tmp_path_factory.mktemp("refit")
    config = tiny_config(make_cohort(folder / "cohort"), folder / "cache")
    config.data.fold, config.train.select = "1/2", "clinical"
    config.optimizer.schedule = "polynomial"
    config.train.epochs, config.train.checkpoint_every = 6, 2
    experiment.run(config, folder / "run")
    return config, folder / "run"


def refit_of(source, **changes):
    config = copy.deepcopy(source[0])
    config.train.refit = str(source[1])
    for name, value in changes.items():
        group, field = name.split("__")
        setattr(getattr(config, group), field, value)
    return config


def test_the_clinical_choice_has_its_own_name_in_log_and_card(source):
    run = read_finished(source[1])
    name = "validation_dsc_clinical"
    values = {line["step"]: line[name] for line in run.log if name in line}
    assert not any("validation_dsc" in line for line in run.log)
    with Checkpoints(run.folder.checkpoints, saves=False) as saved:
        best = saved.chosen
    assert values[best] == max(values.values())
    card = dict(run.card)
    assert card["checkpoint"] == (
        f"step {best}, the best on the validation patients: mean DSC of their whole volumes, at "
        "their own resolution"
    )
    assert card["patients"] == (
        "test: fold 1/2 of the patients (seed 0); validation: 20% of the training patients, taken "
        "out of them"
    )


def test_a_refit_trains_on_validation_patients_too_for_the_steps_they_chose(source, tmp_path):
    with Checkpoints(source[1] / "checkpoints", saves=False) as saved:
        best = saved.chosen
    experiment.run(refit_of(source), tmp_path / "again")
    before, run = read_finished(source[1]), read_finished(tmp_path / "again")
    together = before.splits["train"]["patients"] + before.splits["validation"]["patients"]
    assert run.splits["train"]["patients"] == sorted(together)
    assert run.splits["validation"]["patients"] == []
    assert run.splits["test"] == before.splits["test"]
    assert [row.patient for row in run.rows] == [row.patient for row in before.rows]
    log = read_log(run.folder.log)
    assert max(line["step"] for line in log) == best
    assert not any("validation" in key for line in log for key in line)
    card = dict(run.card)
    assert (
        card["checkpoint"] == f"step {best}, the last: a refit of {source[1]} validates on nobody"
    )
    assert f"those who validated in {source[1]} are trained on" in card["patients"]
    assert card["training"].startswith(f"{best} steps ")


def test_what_cannot_be_refitted_is_told(source, tmp_path):
    def refuse(words: str, config) -> None:
        with pytest.raises(ConfigError, match=words):
            experiment.run(config, tmp_path / "refused")
        assert not (tmp_path / "refused").exists()

    refuse(r"another experiment \(train\.seed: 0 → 1\)", refit_of(source, train__seed=1))
    refuse("no run is here", refit_of(source, train__refit=str(tmp_path / "none")))
    begun = tmp_path / "begun"
    begun.mkdir()
    (begun / "config.json").write_bytes((source[1] / "config.json").read_bytes())
    refuse("not finished", refit_of(source, train__refit=str(begun)))


def test_a_refit_of_a_refit_and_one_without_a_choice_are_refused(source, tmp_path):
    experiment.run(refit_of(source), tmp_path / "again")
    with pytest.raises(ConfigError, match="is a refit itself"):
        experiment.run(refit_of(source, train__refit=str(tmp_path / "again")), tmp_path / "b")
    config = copy.deepcopy(source[0])
    config.data.validation_fraction = 0.0
    experiment.run(config, tmp_path / "nobody")
    config.train.refit = str(tmp_path / "nobody")
    with pytest.raises(ConfigError, match=r"no validation patient .*data\.validation_fraction"):
        experiment.run(config, tmp_path / "c")


def test_a_refit_needs_the_same_patients(source, tmp_path):
    data = source[1] / "data.json"
    text = data.read_text()
    other = json.loads(text)
    other["test"]["patients"][0] = "somebody"
    try:
        data.write_text(json.dumps(other))
        with pytest.raises(ConfigError, match="other patients or images to test"):
            experiment.run(refit_of(source), tmp_path / "d")
    finally:
        data.write_text(text)
