"""A run that chooses its threshold: where the choice is kept, and who uses it."""

import copy
import csv
import dataclasses
import json

import pytest

from crlm_jax import predict
from crlm_jax.config.schema import ConfigError
from crlm_jax.evaluate import command
from crlm_jax.export.bundle import describe
from crlm_jax.runs.finished import read_finished
from crlm_jax.runs.folder import RunFolder, read_begun, read_run
from crlm_jax.runs.threshold import ChosenThreshold, read_threshold, write_threshold
from crlm_jax.system import parallel
from crlm_jax.system.console import exit_code
from crlm_jax.training import experiment
from crlm_jax.training.refit import Refit
from crlm_jax.training.threshold import describe_threshold, settle_threshold
from tests.cohorts import make_cohort, tiny_config

pytestmark = pytest.mark.usefixtures("blank_pictures", "one_device")
CONFIGURED = 0.97  # which no choice would be


@pytest.fixture(scope="module")
def made(one_device, tmp_path_factory):
    """A finished run, and its configuration."""
    folder = tmp_path_factory.mktemp("threshold")
    config = tiny_config(make_cohort(folder / "cohort"), folder / "cache")
    config.evaluation.threshold, config.evaluation.choose_threshold = CONFIGURED, True
    config.evaluation.attribution_steps, config.train.epochs = 0, 3
    experiment.run(config, folder / "run")
    return config, RunFolder(folder / "run")


def test_the_choice_is_recorded_and_its_results_are_by_it(made):
    _, folder = made
    chosen = read_threshold(folder.threshold)
    assert chosen.threshold != CONFIGURED
    assert chosen.dsc[f"{chosen.threshold:g}"] == max(chosen.dsc.values())
    assert chosen.cases == len(json.loads(folder.data.read_text())["validation"]["patients"])
    run = read_finished(folder.path)
    told = dict(run.card)["threshold"]
    assert told.startswith(f"{chosen.threshold:g}, chosen on the {chosen.cases} validation cases")
    assert told.endswith(f"{chosen.dsc['0.97']:.3f} at 0.97")
    with folder.froc.open() as file:
        at = [row for row in csv.DictReader(file) if float(row["threshold"]) == chosen.threshold]
    assert [int(row["lesions_found"]) for row in at] == [
        row.measures["lesions_found"] for row in run.rows
    ]
    assert f"At the run’s threshold, {chosen.threshold:g}: " in folder.report.read_text()


def test_prediction_and_export_take_it(made):
    _, folder = made
    chosen = read_threshold(folder.threshold).threshold
    assert predict.load(folder.path).threshold == chosen
    assert predict.load(folder.path, threshold=0.25).threshold == 0.25
    assert describe(read_run(folder.path), "run", 1, {})["threshold"] == chosen
    assert read_begun(folder.path).evaluation.threshold == CONFIGURED


def test_an_evaluation_of_the_run_has_its_numbers(made, tmp_path):
    config, folder = made
    out = tmp_path / "out"
    words = ("--run", folder.path, "--split", "test", "--out", out, "--cache", config.data.cache)
    assert exit_code(command.main, list(map(str, words))) == 0
    for name in ("cases.csv", "calibration.csv", "froc.csv"):
        assert (out / name).read_bytes() == (folder.path / name).read_bytes()
    again = read_finished(out)
    assert again.config.evaluation.threshold == read_threshold(folder.threshold).threshold
    assert not again.config.evaluation.choose_threshold
    assert dict(again.card)["threshold"].startswith(f"{again.config.evaluation.threshold:g}, ")


def test_a_run_that_goes_on_keeps_its_choice_for_the_same_checkpoint(made):
    config, folder = made
    before = folder.threshold.read_bytes()
    kept = dataclasses.replace(read_threshold(folder.threshold), threshold=0.15)
    write_threshold(folder.threshold, kept)
    mesh = parallel.make_mesh(1)
    try:
        assert settle_threshold(config, None, folder, mesh, None) == kept  # no slice is read
        folder.report.unlink()
        experiment.run(copy.deepcopy(config), folder.path)
        assert read_finished(folder.path).config.evaluation.threshold == 0.15
        write_threshold(folder.threshold, dataclasses.replace(kept, step=kept.step - 1))
        refit = Refit(1, 1, {}, 0.35)
        taken = settle_threshold(config, None, folder, mesh, refit)
        assert taken == read_threshold(folder.threshold)
        assert (taken.threshold, taken.step, taken.cases) == (0.35, kept.step, 0)
        assert describe_threshold(taken)[0][1].startswith("0.35, as the run that is done again")
    finally:
        folder.threshold.write_bytes(before)
    assert settle_threshold(dataclasses.replace(config, evaluation=type(config.evaluation)()),
                            None, folder, mesh, None) is None  # fmt: skip


def test_a_run_that_has_not_chosen_yet_is_a_warning(made, capsys):
    _, folder = made
    text = folder.threshold.read_bytes()
    try:
        folder.threshold.unlink()
        for _ in range(2):
            assert read_run(folder.path).evaluation.threshold == CONFIGURED
        assert capsys.readouterr().err.count("has not chosen its threshold yet") == 1
        for damage in (
            b"{}",
            b"{",
            b"[" * 10**5,
            text.replace(b": {", b': 5, "x": {'),
            text.replace(b'"threshold": 0', b'"threshold": 7'),
        ):
            folder.threshold.write_bytes(damage)
            with pytest.raises(ConfigError, match=r"threshold\.json: damaged .*report\.html"):
                read_run(folder.path)
    finally:
        folder.threshold.write_bytes(text)


def test_somebody_must_be_there_to_choose_on(made, tmp_path):
    config = copy.deepcopy(made[0])
    config.data.validation_fraction = 0.0
    with pytest.raises(ConfigError, match=r"no validation patient has tumour.*validation_fraction"):
        experiment.run(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_the_card_of_a_choice_says_the_score_of_both():
    chosen = ChosenThreshold(0.35, 3, 4, {"0.35": 0.7123, "0.5": 0.69})
    ((name, text),) = describe_threshold(chosen, 0.5)
    assert name == "threshold"
    assert text == (
        "0.35, chosen on the 4 validation cases: mean clinical DSC 0.712 at 0.35, 0.690 at 0.5"
    )
    assert describe_threshold(chosen, 0.35)[0][1].endswith("DSC 0.712 at 0.35")
    assert describe_threshold(None, 0.5) == []
