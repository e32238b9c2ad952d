"""A run that is trained for longer, and one that ends early."""

import copy
import json
import shutil

import pytest

from crlm_jax.config.schema import ConfigError
from crlm_jax.config.storage import to_json
from crlm_jax.runs.finished import read_finished
from crlm_jax.runs.folder import RunFolder, WorkdirError, open_workdir
from crlm_jax.runs.log import read_log
from crlm_jax.system.preemption import Notice, Preempted
from crlm_jax.training import experiment, loop
from crlm_jax.training.patience import Patience
from tests.cohorts import make_cohort, tiny_config

pytestmark = pytest.mark.usefixtures("blank_pictures", "one_device")


@pytest.fixture(scope="module")
def source(one_device, tmp_path_factory):
    """The configuration of a run of two steps, and a folder for runs."""
    folder = tmp_path_factory.mktemp("longer")
    config = tiny_config(make_cohort(folder / "cohort"), folder / "cache")
    config.train.steps, config.train.checkpoint_every, config.train.log_every = 2, 1, 1
    config.evaluation.attribution_steps = 0
    return config, folder


def changed(config, **changes):
    config = copy.deepcopy(config)
    for name, value in changes.items():
        group, field = name.split("__")
        setattr(getattr(config, group), field, value)
    return config


@pytest.mark.parametrize("last", [2, 4])
def test_a_stop_at_a_validation_loses_none(source, tmp_path, monkeypatch, last):
    """Told to stop at a step that is validated, or at the last: it is validated later."""
    config, _ = source
    config = changed(config, train__steps=4, train__checkpoint_every=2)
    told, whole = tmp_path / "told", tmp_path / "whole"
    with monkeypatch.context() as patched:
        patched.setattr(Notice, "reached", lambda _, step: step == last)
        with pytest.raises(Preempted):
            experiment.run(config, told)
    assert not any("validation_dsc" in line for line in read_log(told / "train.jsonl")[-1:])
    experiment.run(config, told)
    experiment.run(config, whole)
    found = [
        [(line["step"], line["validation_dsc"]) for line in read_log(run / "train.jsonl")
         if "validation_dsc" in line]
        for run in (told, whole)
    ]  # fmt: skip
    assert found[0] == found[1]
    assert [step for step, _ in found[0]] == [2, 4]
    metrics = [
        {path.name: (path / "metrics" / "metrics").read_text()
         for path in (run / "checkpoints").iterdir()}
        for run in (told, whole)
    ]  # fmt: skip
    assert metrics[0] == metrics[1]
    assert (told / "cases.csv").read_bytes() == (whole / "cases.csv").read_bytes()


def test_a_finished_run_goes_on_and_ends_as_a_run_of_that_length(source, tmp_path, capsys):
    config, _ = source
    run, whole = tmp_path / "run", tmp_path / "whole"
    experiment.run(config, run)
    before = {name: (run / name).read_bytes() for name in ("results.json", "cases.csv")}
    assert experiment.run(config, run) is None  # it is finished
    longer = changed(config, train__steps=4)
    grown = experiment.run(longer, run)
    assert "kept in" in capsys.readouterr().out
    for name, content in before.items():
        assert (run / "until_2" / name).read_bytes() == content
    assert (run / "until_2" / "report.html").is_file()
    assert list((run / "until_2" / "figures").iterdir())
    at_once = experiment.run(longer, whole)
    assert grown.to_json() == at_once.to_json()
    assert [line["step"] for line in read_log(run / "train.jsonl") if "loss" in line] == [
        1,
        2,
        3,
        4,
    ]
    for name in ("cases.csv", "lesions.csv", "data.json", "config.json"):
        assert (run / name).read_bytes() == (whole / name).read_bytes()
    assert experiment.run(longer, run) is None
    with pytest.raises(WorkdirError, match=r"train\.steps: 4 → 2"):
        experiment.run(config, run)


def test_what_was_planned_for_its_length_does_not_grow(source, tmp_path):
    config = changed(source[0], optimizer__schedule="polynomial")
    experiment.run(config, tmp_path / "run")
    report = (tmp_path / "run" / "report.html").read_bytes()
    with pytest.raises(
        WorkdirError, match=r"train\.steps: 2 → 4.*schedule = 'polynomial'\) is.*train\.init="
    ):
        experiment.run(changed(config, train__steps=4), tmp_path / "run")
    assert (tmp_path / "run" / "report.html").read_bytes() == report
    begun = changed(config, train__patience=1)
    patient = changed(config, train__patience=3)
    folder = tmp_path / "patient"
    folder.mkdir()
    (folder / "config.json").write_text(to_json(begun))
    shutil.copy(tmp_path / "run" / "data.json", folder)
    assert open_workdir(patient, RunFolder(folder)) is False  # the planned length stays


@pytest.mark.parametrize("first", [0.0, 0.5])
def test_a_start_with_no_update_left_leaves_no_folder(source, tmp_path, first, capsys):
    config = changed(source[0], train__tumour_first=first)
    experiment.run(config, tmp_path / "run")
    card = " ".join(capsys.readouterr().out.replace("│", " ").split())
    assert ("up to step 1 on slices with tumour alone" in card) == bool(first)
    if first:
        longer = changed(config, train__steps=4)
        with pytest.raises(WorkdirError, match=r"\(train\.tumour_first = 0\.5\) is planned.*init="):
            experiment.run(longer, tmp_path / "run")
        with pytest.raises(WorkdirError, match=r"give another --workdir$"):
            open_workdir(longer, RunFolder(tmp_path / "run"), of_folds=True)
    again = changed(config, train__init=str(tmp_path / "run"))
    with pytest.raises(ConfigError, match="that run is at step 2, and this one has 2 in all"):
        experiment.run(again, tmp_path / "again")
    assert not (tmp_path / "again" / "config.json").exists()
    experiment.run(changed(again, train__steps=3), tmp_path / "again")


def test_other_data_stop_a_longer_run_before_its_results_are_moved(source, tmp_path):
    run = tmp_path / "run"
    experiment.run(source[0], run)
    data = json.loads((run / "data.json").read_text())
    (run / "data.json").write_text(json.dumps(data | {"digest": "other"}))
    with pytest.raises(WorkdirError, match="have changed since this run was started"):
        experiment.run(changed(source[0], train__steps=4), run)
    assert (run / "report.html").is_file()
    assert not (run / "until_2").exists()


def test_a_training_ends_when_validation_no_longer_improves(source, tmp_path, monkeypatch):
    given = iter([0.1, 0.3, 0.2, 0.3, 0.9, 0.1, 0.1, 0.1])
    monkeypatch.setattr(loop, "_validate", lambda *args: next(given))
    config = changed(source[0], train__steps=9, train__patience=2)
    experiment.run(config, tmp_path / "run")
    run = read_finished(tmp_path / "run")
    assert [line["validation_dsc"] for line in run.log if "validation_dsc" in line] == [
        0.1, 0.3, 0.2, 0.3,
    ]  # fmt: skip
    card = dict(run.card)
    assert card["ended early"] == (
        "at step 4 of 9: no better validation DSC in 2 validations in a row"
    )
    assert card["checkpoint"].startswith("step 4, the best")  # the later of equals
    assert experiment.run(config, tmp_path / "run") is None
    # More patience goes on where the training ended.
    experiment.run(changed(config, train__patience=3), tmp_path / "run")
    assert dict(read_finished(tmp_path / "run").card)["ended early"].startswith("at step 8 of 9")
    assert (tmp_path / "run" / "until_4" / "report.html").is_file()


def test_a_run_that_was_killed_keeps_its_count(source, tmp_path, monkeypatch):
    given = iter([0.3, 0.2, 0.1, 0.9])
    monkeypatch.setattr(loop, "_validate", lambda *args: next(given))
    config = changed(source[0], train__steps=9, train__patience=2)

    def kill(*args, **kwargs):
        raise KeyboardInterrupt

    with monkeypatch.context() as context:
        context.setattr(experiment, "measure_best", kill)
        with pytest.raises(KeyboardInterrupt):
            experiment.run(config, tmp_path / "run")
    experiment.run(config, tmp_path / "run")  # trains no further
    assert next(given) == 0.9
    assert dict(read_finished(tmp_path / "run").card)["ended early"].startswith("at step 3 of 9")


def test_patience_without_anybody_to_validate_on_is_refused(source, tmp_path, monkeypatch):
    described = experiment.describe_data

    def without(prepared):
        data = described(prepared)
        data["validation"]["tumour_slices"] = 0
        return data

    monkeypatch.setattr(experiment, "describe_data", without)
    with pytest.raises(ConfigError, match=r"train\.patience = 2: no validation patient"):
        experiment.run(changed(source[0], train__patience=2), tmp_path / "run")
    assert not (tmp_path / "run" / "config.json").exists()


def test_patience_counts_from_the_best():
    patience = Patience(2, [0.1, 0.2])
    for dsc, over in ((0.2, False), (0.3, False), (0.3, False), (0.1, True)):
        patience.add(dsc)
        assert patience.over == over
    assert not Patience(0, [0.5] * 99).over


def test_a_run_may_not_test_the_images_that_its_init_learned_from(source, tmp_path):
    experiment.run(source[0], tmp_path / "first")
    other = changed(source[0], data__split_seed=3, train__steps=4)
    other.train.init = str(tmp_path / "first")
    with pytest.raises(ConfigError, match=r"has learned from \d+ of the \d+ images to test"):
        experiment.run(other, tmp_path / "second")
    assert not (tmp_path / "second" / "config.json").exists()


def test_the_same_names_alone_are_a_doubt(source, tmp_path, capsys):
    first = tmp_path / "first"
    experiment.run(source[0], first)
    data = json.loads((first / "data.json").read_text())
    test = data["test"]["patients"]
    data["train"]["patients"] = sorted({*data["train"]["patients"], *test})
    (first / "data.json").write_text(json.dumps(data))
    config = changed(source[0], train__steps=4)
    config.train.init = str(first)
    experiment.run(config, tmp_path / "second")
    said = f"names of {len(test)} that are tested here ({', '.join(test)})"
    assert said in capsys.readouterr().err.replace("\n", " ")
    assert said in dict(read_finished(tmp_path / "second").card)["doubt"]
