"""A cross-validation: a run for each fold, every patient once, and one report of all."""

import csv
import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from crlm_jax.config.schema import ConfigError
from crlm_jax.errors import UserError
from crlm_jax.measures.pooled import check_tested_once
from crlm_jax.measures.response import find_responses
from crlm_jax.measures.summary import summarise
from crlm_jax.predict import load
from crlm_jax.runs.finished import read_finished
from crlm_jax.runs.folder import WorkdirError
from crlm_jax.runs.members import find_members
from crlm_jax.runs.rows import read_calibration, read_froc
from crlm_jax.training import experiment
from crlm_jax.training.folds import run_folds
from tests.cohorts import make_cohort, tiny_config

CONDITIONS = ("pre_dwi", "post_dwi")
EVERY = [f"p{number:02d}" for number in range(5)]


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("folds")


@pytest.fixture(scope="module")
def config(place):
    cohort = make_cohort(place / "cohort", patients=5, conditions=CONDITIONS)
    config = tiny_config(cohort, place / "cache", CONDITIONS)
    config.train.epochs, config.evaluation.attribution_steps = 6, 0
    config.evaluation.threshold = 0.2  # so that networks that have hardly learned find something
    return config


@pytest.fixture(scope="module")
def crossed(place, config, one_device):
    """The folder of two folds, the summary, and what was measured of every case."""
    measured = []
    with pytest.MonkeyPatch.context() as patch:
        concluded = experiment.conclude

        def conclude(config, folder, results, card):
            measured.extend(results)
            return concluded(config, folder, results, card)

        patch.setattr(experiment, "conclude", conclude)
        summary = run_folds(config, place / "crossed", 2, source="configs/tiny.py")
    return place / "crossed", summary, measured


def rows(path: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(path.open(encoding="utf-8")))


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_every_patient_is_tested_once_by_the_fold_that_has_not_seen_that_patient(crossed):
    folder, _, _ = crossed
    found = rows(folder / "cases.csv")
    pairs = [(row["patient"], row["condition"]) for row in found]
    assert pairs == [(name, own) for name in EVERY for own in sorted(CONDITIONS)]
    for name in ("fold1of2", "fold2of2"):
        data = json.loads((folder / name / "data.json").read_text())
        tested = {row["patient"] for row in rows(folder / name / "cases.csv")}
        assert tested == set(data["test"]["patients"])
        assert not tested & {*data["train"]["patients"], *data["validation"]["patients"]}
        for row in rows(folder / name / "cases.csv"):
            assert row in found
    assert json.loads((folder / "data.json").read_text())["test"]["patients"] == EVERY


def test_the_numbers_are_those_of_all_cases_measured_as_one(crossed, config):
    folder, summary, measured = crossed
    measured = sorted(measured, key=lambda result: (result.row.patient, result.row.condition))
    expected = summarise(config, measured, find_responses(measured)).to_json()
    assert summary.conditions["pre_dwi"].means["dsc"]["n"] == 5
    assert summary.conditions["pre_dwi"].means["dsc"]["mean"] > 0.01  # else anything would agree
    found = summary.to_json()
    assert_close(found, expected)
    results = json.loads((folder / "results.json").read_text())
    assert dict(results.pop("card"))["patients"].startswith("5, dealt into 2 folds")
    assert results == json.loads(json.dumps(found))


def assert_close(found, expected) -> None:
    """Compares nested values: cases.csv has six decimals."""
    if isinstance(expected, dict):
        assert list(found) == list(expected)
        for name in expected:
            assert_close(found[name], expected[name])
    elif isinstance(expected, float):
        assert found == pytest.approx(expected, rel=1e-4, abs=2e-5)
    elif isinstance(expected, list) and expected and isinstance(expected[0], float):
        assert found == pytest.approx(expected)
    else:
        assert found == expected


def test_lesions_and_responses_of_all_folds_are_in_one_table(crossed):
    folder, summary, _ = crossed
    members = [folder / "fold1of2", folder / "fold2of2"]
    for name in ("lesions.csv", "responses.csv"):
        parts = [row for member in members for row in rows(member / name)]
        whole = rows(folder / name)
        assert [row["patient"] for row in whole] == sorted(row["patient"] for row in parts)
        assert sorted(map(str, whole)) == sorted(map(str, parts))
    assert summary.responses["dwi"].patients == 5


def test_what_was_counted_by_probability_is_in_one_table_too(crossed):
    folder, _, _ = crossed
    for name, read in (("calibration.csv", read_calibration), ("froc.csv", read_froc)):
        parts = [read(folder / fold / name) for fold in ("fold1of2", "fold2of2")]
        joined = read(folder / name)
        assert len(joined) == sum(map(len, parts)) > 0
        assert {row.patient for row in joined} == {row.patient for rows in parts for row in rows}
    assert "FROC" in (folder / "report.html").read_text(encoding="utf-8")


def test_the_report_shows_all_patients_and_what_the_intervals_mean(crossed):
    folder, _, _ = crossed
    html = (folder / "report.html").read_text()
    assert "Results on all patients, out of fold" in html
    assert "take the networks of the folds as fixed" in html
    assert len(list((folder / "views").iterdir())) == 10
    run = read_finished(folder)
    assert [row.patient for row, _ in run.cases()] == sorted(EVERY * 2)
    titles = [np.load(files[0])["facts"].tobytes().decode() for _, files in run.cases()]
    assert all(row.patient in title for (row, _), title in zip(run.cases(), titles, strict=True))
    plain = (folder / "fold1of2" / "report.html").read_text()
    assert "out of fold" not in plain


@pytest.mark.slow
def test_a_fold_is_the_run_of_that_fold(crossed, config, place, one_device):
    folder, _, _ = crossed
    alone = dataclasses.replace(config, data=dataclasses.replace(config.data, fold="2/2"))
    experiment.run(alone, place / "alone")
    for name in ("cases.csv", "lesions.csv", "responses.csv"):
        assert (place / "alone" / name).read_bytes() == (folder / "fold2of2" / name).read_bytes()


@pytest.mark.slow
def test_it_goes_on_and_then_is_finished(crossed, config, capsys, one_device):
    folder, _, _ = crossed
    before = contents(folder)
    assert run_folds(config, folder, 2) is None
    assert "is finished: see" in capsys.readouterr().out
    for name in ("report.html", "cases.csv", "fold2of2/report.html", "fold2of2/cases.csv"):
        (folder / name).unlink()
    with pytest.raises(UserError, match="fold2of2 in it is not finished"):
        find_members([folder])
    untouched = (folder / "fold1of2" / "report.html").stat().st_mtime_ns
    assert run_folds(config, folder, 2, source="configs/tiny.py") is not None
    assert (folder / "fold1of2" / "report.html").stat().st_mtime_ns == untouched
    after = contents(folder)
    assert after.keys() == before.keys()
    for name in ("cases.csv", "lesions.csv", "responses.csv", "results.json", "fold2of2/cases.csv"):
        assert after[name] == before[name]


def test_the_folds_are_an_ensemble(crossed, config):
    folder, _, _ = crossed
    segment = load(folder)
    assert [path.name for path in sorted(segment.folders)] == ["fold1of2", "fold2of2"]
    scan = sitk.ReadImage(str(Path(config.data.cohort).parent / "p00_pre_dwi_image.nii.gz"))
    assert sitk.GetArrayFromImage(segment(scan)).any()


def test_other_folders_are_refused_and_stay_as_they_are(crossed, config, tmp_path):
    folder, _, _ = crossed
    before = contents(folder)
    with pytest.raises(WorkdirError, match=r"holds fold1of2, of another number of folds than 3"):
        run_folds(config, folder, 3)
    with pytest.raises(WorkdirError, match="is a run without folds; give another --workdir"):
        run_folds(config, folder / "fold1of2", 2)
    with pytest.raises(WorkdirError, match=r"the folds of a cross-validation .*--folds"):
        experiment.run(config, folder)
    other = dataclasses.replace(config, method="unetpp")
    with pytest.raises(WorkdirError, match=r"fold1of2 is the run of another experiment \(method"):
        run_folds(other, folder, 2)
    (tmp_path / "thesis.docx").write_text("years of work")
    with pytest.raises(WorkdirError, match="holds no folds; give another --workdir"):
        run_folds(config, tmp_path, 2)
    assert contents(folder) == before


@pytest.mark.parametrize(
    ("group", "field", "value"), [("data", "fold", "1/2"), ("train", "refit", "runs/x")]
)
def test_nothing_else_says_who_is_tested(config, tmp_path, group, field, value):
    part = dataclasses.replace(getattr(config, group), **{field: value})
    with pytest.raises(ConfigError, match=f"{group}.{field} = '{value}': give one of the two"):
        run_folds(dataclasses.replace(config, **{group: part}), tmp_path / "none", 2)


def test_a_fold_without_tumour_is_refused_before_any_training(place, tmp_path, capsys):
    cohort = make_cohort(tmp_path / "cohort", patients=6)
    for name in EVERY[2:]:  # p00, p01 and p05 have tumour
        path = tmp_path / "cohort" / f"{name}_pre_dwi_mask.nii.gz"
        sitk.WriteImage(sitk.ReadImage(str(path)) * 0, str(path))
    config = tiny_config(cohort, place / "cache")
    with pytest.raises(UserError) as error:
        run_folds(config, tmp_path / "runs", 6)
    said = str(error.value)
    for number, name in enumerate(dealt(cohort, 6), start=1):
        without = name in EVERY[2:]
        assert (f"fold {number}/6 has no patient with tumour to test ({name})" in said) == without
    assert "3 of 6 patients have tumour; give fewer --folds" in said
    assert not (tmp_path / "runs").exists()


def dealt(cohort: Path, folds: int) -> list[str]:
    config = tiny_config(cohort, cohort.parent)
    found = []
    for number in range(1, folds + 1):
        config.data.fold = f"{number}/{folds}"
        cases = experiment.read_cases(config, [])
        found += [case.patient for case in cases if case.split == "test"]
    return found


@pytest.mark.parametrize(("spared", "said"), [(0, "no slice of the 1 training images"), (1, "2/2")])
def test_a_fold_without_tumour_to_train_on_is_refused(place, tmp_path, spared, said):
    cohort = make_cohort(tmp_path / "cohort", patients=4)
    tested = [dealt(cohort, 2)[:2], dealt(cohort, 2)[2:]]
    for name in tested[1 - spared]:  # only those whom one fold tests have tumour
        path = tmp_path / "cohort" / f"{name}_pre_dwi_mask.nii.gz"
        sitk.WriteImage(sitk.ReadImage(str(path)) * 0, str(path))
    config = tiny_config(cohort, place / "cache")
    with pytest.raises(UserError, match=said) as error:
        run_folds(config, tmp_path / "runs", 2)
    if spared:
        without = ", ".join(sorted(tested[0]))
        assert f"fold 1/2 has no patient with tumour to test ({without})" in str(error.value)
        assert "fold 2/2 has no patient with tumour to train on (" in str(error.value)
    assert not (tmp_path / "runs").exists()


def test_a_trunk_that_has_seen_the_patients_is_refused(crossed, config, tmp_path):
    folder, _, _ = crossed
    train = dataclasses.replace(config.train, init=str(folder / "fold1of2"))
    with pytest.raises(
        ConfigError, match=r"train.init .*learned from images .*the folds would test"
    ):
        run_folds(dataclasses.replace(config, train=train), tmp_path / "none", 2)
    assert not (tmp_path / "none").exists()


def test_folds_that_have_tested_one_patient_twice_are_refused(crossed):
    first = read_finished(crossed[0] / "fold1of2")
    again = dataclasses.replace(first)
    with pytest.raises(UserError, match=r"have both tested the patient p0\d"):
        check_tested_once([first, again])
