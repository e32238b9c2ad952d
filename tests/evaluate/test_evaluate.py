"""Runs on other cohorts, and masks of any tool: the run's own numbers, and what is refused."""

import csv
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from crlm_jax.config.storage import to_json
from crlm_jax.evaluate import command
from crlm_jax.imaging.dicom.results import Algorithm
from crlm_jax.imaging.dicom.segmentation import write_segmentation
from crlm_jax.imaging.dicom.series import read_series
from crlm_jax.method.checkpoint import Checkpoints
from crlm_jax.method.step import create_state
from crlm_jax.predict import command as predict_command
from crlm_jax.runs.finished import read_finished
from crlm_jax.runs.folder import read_run
from crlm_jax.runs.taught import read_taught
from crlm_jax.system import parallel
from crlm_jax.system.console import exit_code
from crlm_jax.training import experiment
from crlm_jax.training.loop import segmenter_part
from tests.cohorts import make_cohort, tiny_config
from tests.imaging.dicom import dicoms

CONDITIONS = ("pre_dwi", "post_dwi")


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("evaluate")


@pytest.fixture(scope="module")
def cohort(place) -> Path:
    return make_cohort(place / "cohort", conditions=CONDITIONS)


@pytest.fixture(scope="module")
def run(place, cohort, one_device) -> Path:
    """A finished training of six patients, of whom three are tested."""
    config = tiny_config(cohort, place / "cache", CONDITIONS)
    config.segmenter.widths = (4, 8, 16)  # whose mean with other weights is neither empty nor full
    config.train.epochs, config.evaluation.attribution_steps = 2, 2
    config.evaluation.threshold = 0.4  # at which so short a training marks something, not all
    experiment.run(config, place / "run")
    return place / "run"


@pytest.fixture(scope="module")
def masks(place, run, cohort) -> Path:
    """What the run predicts of all images of its cohort."""
    words = ("--run", run, "--image", cohort, "--engine", "xla", "--out", place / "masks")
    assert exit_code(predict_command.main, list(map(str, words))) == 0
    return place / "masks"


@pytest.fixture
def evaluate(place, tmp_path):
    """Calls the command; returns its exit code and the folder that it writes."""

    def call(*words) -> tuple[int, Path]:
        out = tmp_path / "out"
        words = (*words, "--out", out, "--cache", place / "cache")
        return exit_code(command.main, list(map(str, words))), out

    return call


def rows(path: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(path.open(encoding="utf-8")))


def results(folder: Path) -> dict:
    found = json.loads((folder / "results.json").read_text())
    found.pop("card")
    return found


def data(run: Path, split: str) -> list[str]:
    return json.loads((run / "data.json").read_text())[split]["patients"]


def renamed(cohort: Path, out: Path, names: dict[str, str] | None = None, keep=lambda row: True):
    """Writes a cohort of the same files with other patients' names; returns its path."""
    told = rows(cohort)
    with out.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, told[0])
        writer.writeheader()
        for row in filter(keep, told):
            patient = row["patient"]
            row |= {key: str(cohort.parent / row[key]) for key in ("image", "mask")}
            writer.writerow(row | {"patient": (names or {}).get(patient, patient)})
    return out


# An ensemble


@pytest.fixture(scope="module")
def pair(place, run, one_device) -> Path:
    """A folder with the run, and with another that has the same patients and its own weights.

    By their threshold, the mean has tumour where neither alone has the same.
    """
    folder, config = place / "pair", read_run(run)
    config.evaluation.threshold = 0.465
    for seed, name in ((1, "a"), (0, "b")):
        config.train.seed = seed
        (folder / name).mkdir(parents=True)
        for file in ("data.json", "report.html"):
            shutil.copy(run / file, folder / name)
        (folder / name / "config.json").write_text(to_json(config))
    (folder / "b" / "checkpoints").symlink_to(run / "checkpoints", target_is_directory=True)
    config.train.seed = 1
    _, state = create_state(config, parallel.make_mesh(1))
    other = folder / "a"
    with Checkpoints(other / "checkpoints") as checkpoints:
        checkpoints.save(3, segmenter_part(state), None)
    return folder


def test_the_mean_of_several_runs_is_measured_as_predict_computes_it(
    pair, run, cohort, evaluate, place
):
    words = ("--run", pair, "--image", cohort, "--engine", "xla", "--out", place / "of_pair")
    assert exit_code(predict_command.main, list(map(str, words))) == 0
    code, out = evaluate("--run", pair, "--cohort", cohort, "--split", "test")
    assert code == 0
    found = rows(out / "cases.csv")
    assert {row["patient"] for row in found} == set(data(run, "test"))
    card = dict(json.loads((out / "results.json").read_text())["card"])
    assert card["evaluated"].startswith(f"the mean of 2 runs in {pair}")
    assert "a step 3, b step" in card["checkpoints"]
    shutil.rmtree(out)
    pattern = f"{place / 'of_pair'}/{{name}}.nii.gz"
    code, out = evaluate("--masks", pattern, "--cohort", cohort)
    assert code == 0
    by_masks = {(row["patient"], row["condition"]): row for row in rows(out / "cases.csv")}
    for row in found:
        same = by_masks[row["patient"], row["condition"]]
        for name in ("dsc", "precision", "hd95", "lesions_predicted", "volume_predicted"):
            assert row[name] == same[name]
    assert all(0 < float(row["dsc"]) < 1 for row in found)


def test_an_ensemble_has_learned_from_the_patients_of_every_member(
    pair, run, cohort, evaluate, capsys
):
    code, _ = evaluate("--run", pair, "--cohort", cohort)
    assert code == 1
    taught = json.loads((pair / "a" / "data.json").read_text())
    before = json.dumps(taught)
    taught["train"]["patients"], taught["test"]["patients"] = data(run, "test"), data(run, "train")
    (pair / "a" / "data.json").write_text(json.dumps(taught))
    both = read_taught(pair)
    assert evaluate("--run", pair, "--cohort", cohort, "--split", "test")[0] == 1
    assert "no patient is tested by all runs of" in capsys.readouterr().err
    (pair / "a" / "data.json").write_text(before)
    assert both.training >= {*data(run, "train"), *data(run, "test")}
    assert both.test == frozenset()


# A run


def test_the_runs_own_test_patients_give_the_runs_own_numbers(run, cohort, evaluate):
    code, out = evaluate("--run", run, "--cohort", cohort, "--split", "test")
    assert code == 0
    assert all(0 < float(row["dsc"]) < 1 for row in rows(run / "cases.csv"))
    for name in ("cases.csv", "lesions.csv", "responses.csv", "calibration.csv", "froc.csv"):
        assert (out / name).read_bytes() == (run / name).read_bytes(), name
    assert results(out) == results(run)
    assert results(run)["responses"]["dwi"]["patients"] == 3
    views = [sorted((folder / "views").iterdir()) for folder in (run, out)]
    for theirs, ours in zip(*views, strict=True):
        with np.load(theirs) as a, np.load(ours) as b:
            assert a.files == b.files
            assert all(np.array_equal(a[name], b[name]) for name in a.files)
    found = read_finished(out)
    assert found.evaluation.of == "run"
    assert found.warnings == read_finished(run).warnings
    html = (out / "report.html").read_text()
    assert "run on cohort/cohort.csv" in html
    assert "Loss terms" not in html


def test_without_a_cohort_the_runs_own_is_taken(run, cohort, evaluate):
    code, out = evaluate("--run", run, "--split", "test", "--condition", "pre_dwi")
    assert code == 0
    before = [row for row in rows(run / "cases.csv") if row["condition"] == "pre_dwi"]
    assert rows(out / "cases.csv") == before


# Rules that the command decides


def with_livers(cohort: Path, out: Path) -> Path:
    """Writes a cohort of the same files, whose livers are the masks of the tumour; returns it."""
    told = rows(cohort)
    with out.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, [*told[0], "liver"])
        writer.writeheader()
        for row in told:
            row |= {key: str(cohort.parent / row[key]) for key in ("image", "mask")}
            writer.writerow(row | {"liver": row["mask"]})
    return out


def trained_with(run: Path, out: Path, **rules) -> Path:
    """Copies a run as if its configuration had had other rules; returns the copy."""
    copy = shutil.copytree(run, out)
    config = read_run(copy)
    for name, value in rules.items():
        setattr(config.evaluation, name, value)
    (copy / "config.json").write_text(to_json(config))
    return copy


@pytest.mark.parametrize(
    ("words", "rules", "back"),
    [
        (
            ("--threshold", "0.45", "--liver", "column"),
            {"threshold": 0.45, "liver": "column"},
            ("--threshold", "0.4", "--liver", "none"),
        ),
        (
            ("--min-lesion-mm3", "300", "--mirror"),
            {"min_lesion_mm3": 300.0, "mirror": True},
            ("--min-lesion-mm3", "0", "--no-mirror"),
        ),
    ],
    ids=("threshold and liver", "small lesions and mirror images"),
)
def test_a_rule_of_the_command_measures_as_one_of_the_run(
    run, cohort, evaluate, tmp_path, words, rules, back
):
    cohort = with_livers(cohort, tmp_path / "cohort.csv")
    told = ("--cohort", cohort, "--split", "test", "--condition", "pre_dwi")
    assert evaluate("--run", run, *told, *words)[0] == 0
    out = (tmp_path / "out").rename(tmp_path / "asked")
    again = trained_with(run, tmp_path / run.name, **rules)
    assert evaluate("--run", again, *told)[0] == 0
    for name in ("cases.csv", "lesions.csv", "froc.csv", "calibration.csv"):
        assert (out / name).read_bytes() == (tmp_path / "out" / name).read_bytes(), name
    found = read_finished(out)
    notes = found.evaluation.notes[-2:]  # the first says that a condition is not there
    for (name, value), note in zip(rules.items(), notes, strict=True):
        assert getattr(found.config.evaluation, name) == value
        assert note.startswith(f"Measured with {name} = ")
        assert note in (out / "report.html").read_text()
    own = [row for row in rows(run / "cases.csv") if row["condition"] == "pre_dwi"]
    assert rows(out / "cases.csv") != own
    shutil.rmtree(tmp_path / "out")
    assert evaluate("--run", again, *told, *back)[0] == 0  # the command takes them back, too
    assert rows(tmp_path / "out" / "cases.csv") == own


def test_a_rule_counts_for_all_that_are_averaged(pair, cohort, evaluate, tmp_path, capsys):
    unlike = shutil.copytree(pair, tmp_path / "unlike", symlinks=True)
    config = read_run(unlike / "a")
    config.evaluation.threshold, config.evaluation.mirror = 0.6, True
    (unlike / "a" / "config.json").write_text(to_json(config))
    told = ("--cohort", cohort, "--split", "test", "--condition", "pre_dwi")
    assert evaluate("--run", unlike, *told)[0] == 1
    assert "give --threshold" in capsys.readouterr().err
    code, out = evaluate("--run", unlike, *told, "--threshold", "0.465", "--no-mirror")
    assert code == 0
    assert "Measured with threshold = 0.465; the runs have 0.6 and 0.465." in (
        read_finished(out).evaluation.notes
    )
    of_unlike = rows(out / "cases.csv")
    shutil.rmtree(out)
    assert evaluate("--run", pair, *told)[0] == 0
    assert of_unlike == rows(out / "cases.csv")


def test_a_rule_that_cannot_be_is_said_before_anything_is_read(run, cohort, evaluate, capsys):
    for told in ("--threshold 1.5", "--threshold nan", "--min-lesion-mm3 -1"):
        with pytest.raises(SystemExit):
            evaluate("--run", run, "--split", "test", *told.split())
        assert f"{told}: must be" in capsys.readouterr().err
    assert evaluate("--run", run, "--split", "test", "--liver", "column")[0] == 1
    assert "names no mask of a liver" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        evaluate("--masks", "{patient}.nii.gz", "--cohort", cohort, "--min-lesion-mm3", "3")
    assert "--min-lesion-mm3: is of --run" in capsys.readouterr().err


# Other cohorts


def test_every_patient_of_another_cohort_is_tested(run, evaluate, tmp_path):
    other = make_cohort(tmp_path / "other", 2, ("pre_dwi",), shape=(3, 40, 56))
    code, out = evaluate("--run", run, "--cohort", other, "--prefix", "B-")
    assert code == 0
    assert [row["patient"] for row in rows(out / "cases.csv")] == ["B-p00", "B-p01"]
    (note,) = read_finished(out).evaluation.notes
    assert "has no image of post_dwi" in note
    assert note.replace("'", "&#39;") in (out / "report.html").read_text()


def test_patients_whom_the_run_has_learned_from_are_refused(run, cohort, evaluate, capsys):
    code, out = evaluate("--run", run, "--cohort", cohort)
    said = capsys.readouterr().err
    assert code == 1
    assert not out.exists()
    for patient in data(run, "train") + data(run, "validation"):
        assert patient in said
    assert not any(patient in said for patient in data(run, "test"))
    assert all(way in said for way in ("--split test", "--allow-training-patients", "--prefix"))


def test_they_are_evaluated_with_a_warning_where_that_is_allowed(run, cohort, evaluate, capsys):
    code, out = evaluate("--run", run, "--cohort", cohort, "--allow-training-patients")
    assert code == 0
    assert len({row["patient"] for row in rows(out / "cases.csv")}) == 6
    assert "TRAINING PATIENTS: run has learned from 3 of the 6" in capsys.readouterr().err
    assert "TRAINING PATIENTS" in (out / "report.html").read_text()


def test_the_same_images_under_other_names_are_refused(run, cohort, evaluate, tmp_path, capsys):
    names = {f"p0{number}": f"x{number}" for number in range(6)}
    other = renamed(cohort, tmp_path / "other.csv", names)
    code, out = evaluate("--run", run, "--cohort", other)
    said = capsys.readouterr().err
    assert code == 1
    assert not out.exists()
    assert "the same images under other names" in said
    taught = data(run, "train") + data(run, "validation")
    assert all(names[patient] in said for patient in taught)
    assert not any(names[patient] in said for patient in data(run, "test"))
    only = renamed(
        cohort, tmp_path / "only.csv", names, lambda row: row["patient"] in data(run, "test")
    )
    code, out = evaluate("--run", run, "--cohort", only)
    assert code == 0
    assert results(out) == results(run)


def test_a_name_that_is_spelt_otherwise_is_a_warning(run, evaluate, tmp_path, capsys):
    other = make_cohort(tmp_path / "images", 1, CONDITIONS, shape=(3, 40, 40))
    taught = data(run, "train")[0]
    other = renamed(other, tmp_path / "other.csv", {"p00": taught.upper()})
    assert evaluate("--run", run, "--cohort", other)[0] == 0
    assert f"{taught.upper()} may be {taught}" in capsys.readouterr().err


def test_a_run_that_goes_on_from_another_has_learned_from_its_patients(
    run, evaluate, tmp_path, capsys
):
    later = shutil.copytree(run, tmp_path / "later")
    config = json.loads((later / "config.json").read_text())
    config["train"]["init"] = str(run)
    (later / "config.json").write_text(json.dumps(config))
    told = json.loads((later / "data.json").read_text())
    for split in ("train", "validation"):
        told[split] |= {"patients": ["somebody"], "prints": []}
    (later / "data.json").write_text(json.dumps(told))
    code, _ = evaluate("--run", later)
    assert code == 1
    assert data(run, "train")[0] in capsys.readouterr().err


def test_other_conditions(run, cohort, evaluate, tmp_path, capsys):
    text = cohort.read_text().replace(",pre_dwi,", ",ct,").replace(",post_dwi,", ",pre_t2wi,")
    (cohort.parent / "others.csv").write_text(text)
    words = ("--run", run, "--cohort", cohort.parent / "others.csv", "--prefix", "B-")
    code, out = evaluate(*words)
    assert code == 1
    assert "has ct, pre_t2wi, but" in capsys.readouterr().err
    assert evaluate(*words, "--condition", "post_t2wi")[0] == 1
    assert "no row with post_t2wi" in capsys.readouterr().err
    code, out = evaluate(
        *words, "--condition", "ct", "--condition", "pre_t2wi", "--allow-training-patients"
    )
    assert code == 0
    said = capsys.readouterr().err
    assert "condition ct is windowed as CT, but the run was trained on pre_dwi, post_dwi" in said
    assert "condition pre_t2wi: the run was trained on" in said
    assert {row["condition"] for row in rows(out / "cases.csv")} == {"ct", "pre_t2wi"}


def test_the_runs_own_cohort_may_be_gone(run, evaluate, tmp_path, capsys):
    moved = shutil.copytree(run, tmp_path / "moved")
    config = json.loads((moved / "config.json").read_text())
    config["data"]["cohort"] = "gone.csv"
    (moved / "config.json").write_text(json.dumps(config))
    assert evaluate("--run", moved, "--split", "test")[0] == 1
    assert "say where it is by --cohort" in capsys.readouterr().err


# Masks


def test_the_runs_own_masks_give_the_same_clinical_numbers(run, cohort, masks, evaluate):
    code, out = evaluate(
        "--run", run, "--masks", f"{masks}/{{patient}}_{{condition}}.nii.gz",
        "--masks", f"again={masks}/{{name}}.nii.gz", "--cohort", cohort, "--split", "test",
    )  # fmt: skip
    assert code == 0
    assert (out / "run" / "cases.csv").read_bytes() == (run / "cases.csv").read_bytes()
    clinical = [
        [
            {name: cell for name, cell in row.items() if not name.endswith(("_paper", "_slices"))}
            for row in rows(folder / "cases.csv")
        ]
        for folder in (run, out / "masks", out / "again")
    ]
    assert clinical[0] == clinical[1] == clinical[2]
    for name in ("lesions.csv", "responses.csv"):
        assert (out / "masks" / name).read_bytes() == (run / name).read_bytes()
    paper = [
        [float(row["dsc_paper"]) for row in rows(f / "cases.csv")] for f in (run, out / "again")
    ]
    np.testing.assert_allclose(*paper, atol=0.1)
    compared = rows(out / "comparison.csv")
    # Systems, conditions, measures: the paper's protocol measures masks otherwise than a network.
    assert len(compared) == 2 * 2 * 2
    assert {row["measure"] for row in compared} == {"dsc", "nsd_2mm"}
    assert {row["reference"] for row in compared} == {"run"}
    assert all(float(row["mean_difference"]) == 0 for row in compared if row["measure"] == "dsc")
    assert (
        "holds for these two trainings and not for the methods" in (out / "report.html").read_text()
    )


def test_masks_alone_need_no_run(cohort, evaluate, capsys):
    pattern = f"{cohort.parent}/{{patient}}_{{condition}}_mask.nii.gz"
    code, out = evaluate("--masks", pattern, "--cohort", cohort)
    assert code == 0
    assert all(float(row["dsc"]) == float(row["dsc_paper"]) == 1 for row in rows(out / "cases.csv"))
    assert "12 of the 12 masks are the cohort's own" in capsys.readouterr().err
    assert results(out)["method"] == "masks"
    assert not (out / "calibration.csv").exists()  # a mask says nothing of its doubts
    assert not (out / "froc.csv").exists()
    assert "RANDOM CRITIC" not in (out / "report.html").read_text()


def copy_masks(cohort: Path, folder: Path, change=lambda name, array: array) -> str:
    """Copies the cohort's masks, each changed; returns their pattern."""
    folder.mkdir()
    for file in cohort.parent.glob("*_mask.nii.gz"):
        image = sitk.ReadImage(str(file))
        changed = sitk.GetImageFromArray(change(file.name, sitk.GetArrayFromImage(image)))
        changed.SetSpacing(image.GetSpacing())
        sitk.WriteImage(changed, str(folder / file.name))
    return f"{folder}/{{patient}}_{{condition}}_mask.nii.gz"


def test_the_label_says_what_is_tumour(cohort, evaluate, tmp_path, capsys):
    """Such as of a tool that draws the liver as 1 and the tumour as 2."""
    pattern = copy_masks(cohort, tmp_path / "tool", lambda name, a: np.maximum(2 * a, 1 * (a < 5)))
    code, out = evaluate("--masks", pattern, "--cohort", cohort)
    said = capsys.readouterr().err
    assert code == 1
    assert not out.exists()
    assert "12 mask(s) cannot be used" in said
    assert said.count("has the labels 1 (") == 12
    assert "--label" in said
    code, out = evaluate("--masks", pattern, "--cohort", cohort, "--label", "2")
    assert code == 0
    assert all(float(row["dsc"]) == 1 for row in rows(out / "cases.csv"))


def test_all_masks_that_cannot_be_used_are_named(cohort, evaluate, tmp_path, capsys):
    def change(name: str, array: np.ndarray) -> np.ndarray:
        if name.startswith("p01_pre"):
            return array[:, :-8]  # rows are missing
        return array * 0.5 if name.startswith("p02_pre") else array

    pattern = copy_masks(cohort, tmp_path / "tool", change)
    moved = sitk.ReadImage(str(tmp_path / "tool" / "p03_pre_dwi_mask.nii.gz"))
    moved.SetOrigin((3.3, 0, 0))
    sitk.WriteImage(moved, str(tmp_path / "tool" / "p03_pre_dwi_mask.nii.gz"))
    code, out = evaluate("--masks", pattern, "--cohort", cohort)
    said = capsys.readouterr().err
    assert code == 1
    assert not out.exists()
    assert all(f"p0{number}, pre_dwi: " in said for number in (1, 2, 3))
    assert "p00" not in said


def test_all_missing_masks_are_named(cohort, evaluate, tmp_path, capsys):
    pattern = copy_masks(cohort, tmp_path / "tool")
    gone = ("p01_pre_dwi", "p04_post_dwi")
    for name in gone:
        (tmp_path / "tool" / f"{name}_mask.nii.gz").unlink()
    assert evaluate("--masks", pattern, "--cohort", cohort)[0] == 1
    said = capsys.readouterr().err
    assert "2 file(s) missing" in said
    assert all(f"{name}_mask.nii.gz is not there" in said for name in gone)


@pytest.mark.parametrize(
    ("pattern", "said"),
    [
        ("all.nii.gz", "has no {patient}"),
        ("{condition}.nii.gz", "has no {patient}"),
        ("{patient}_{series}.nii.gz", "{series} is nothing that a pattern can have"),
        ("{patient}_pre_dwi_mask.nii.gz", "would be the mask of"),
    ],
)
def test_a_pattern_that_does_not_tell_images_apart(cohort, evaluate, pattern, said, capsys):
    code, out = evaluate("--masks", f"{cohort.parent}/{pattern}", "--cohort", cohort)
    assert code == 1
    assert said in capsys.readouterr().err
    assert not out.exists()


def test_several_images_of_a_case_have_a_mask_each(cohort, evaluate, tmp_path):
    """Two images of one patient under one condition, named by their image files."""
    told = renamed(
        cohort, tmp_path / "twice.csv", {"p01": "p00"}, lambda row: row["patient"] < "p02"
    )
    code, out = evaluate(
        "--masks", f"{cohort.parent}/{{image}}.nii.gz", "--cohort", told, "--label", "lesions"
    )
    assert code == 1  # the images themselves are no masks
    folder = tmp_path / "tool"
    folder.mkdir()
    for file in cohort.parent.glob("p0[01]_*_mask.nii.gz"):
        shutil.copy(file, folder / file.name.replace("_mask", "_image"))
    code, out = evaluate("--masks", f"{folder}/{{image}}.nii.gz", "--cohort", told)
    assert code == 0
    found = rows(out / "cases.csv")
    assert [(row["slices"], float(row["dsc"])) for row in found] == [("8", 1.0)] * 2


def test_dicom_series_and_segmentations(evaluate, tmp_path):
    """A mask that is half of the reference, as DICOM-SEG both."""
    folder = tmp_path / "ct"
    array = np.full((6, 32, 32), 924, np.int16)  # -100 HU
    array[1:5, 8:14, 20:26] = 1224
    dicoms.write_series(folder, array, axes=dicoms.rotation(20))
    _, _, series = read_series(folder)
    drawn = array > 1000
    about = {"algorithm": Algorithm("a tool", "1", "f")}
    for name, rows_of in (("reference", slice(None)), ("p1", slice(8, 11))):
        mask = np.zeros_like(drawn)
        mask[:, rows_of] = drawn[:, rows_of]
        write_segmentation(tmp_path / f"{name}.dcm", mask, series, **about)
    cohort = tmp_path / "cohort.csv"
    cohort.write_text("patient,condition,image,mask\np1,ct,ct,reference.dcm\n")
    code, out = evaluate("--masks", f"{tmp_path}/{{patient}}.dcm", "--cohort", cohort)
    assert code == 0
    (row,) = rows(out / "cases.csv")
    assert float(row["dsc"]) == pytest.approx(2 / 3, abs=1e-6)
    assert float(row["precision"]) == 1


def test_a_cohort_without_any_tumour(run, cohort, evaluate, tmp_path):
    """There are false lesions to count, and no value by the paper's protocol."""
    lines = ["patient,condition,image,mask,tumour"]
    lines += [f"h{number},pre_dwi,{cohort.parent}/p0{number}_pre_dwi_image.nii.gz,,no"
              for number in range(2)]  # fmt: skip
    (tmp_path / "healthy.csv").write_text("\n".join(lines))
    code, out = evaluate(
        "--run", run, "--cohort", tmp_path / "healthy.csv", "--allow-training-patients"
    )
    assert code == 0
    assert {row["dsc_paper"] for row in rows(out / "cases.csv")} == {""}
    assert results(out)["conditions"]["pre_dwi"]["without_tumour_slices"] == 2


# What is refused


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "give --run or --masks"),
        (["--masks", "{patient}.nii.gz"], "give the --cohort"),
        (["--masks", "{patient}.nii.gz", "--cohort", "c", "--split", "test"], "give --run"),
        (["--run", "r", "--label", "2"], "--label: is of --masks"),
        (["--run", "r", "--split", "test", "--prefix", "B"], "--split test and --prefix"),
        (["--masks", "{patient}.nii", "--cohort", "c", "--prefix", "=B"], "--prefix"),
        (["--masks", "{patient}.nii", "--cohort", "c", "--label", "0"], "--label"),
    ],
)
def test_wrong_command_lines(evaluate, words, said, capsys):
    try:
        code = evaluate(*words)[0]
    except SystemExit as ended:
        code = ended.code
    assert code == 2
    assert said in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("patient,condition,image,mask\n", "no rows below the header"),
        (
            "patient,condition,image\np00,pre_dwi,p00_pre_dwi_image.nii.gz\n",
            "column 'mask': missing",
        ),
        ("patient,condition,image,mask\np00,pre_dwi,p00_pre_dwi_image.nii.gz,\n", "'mask': empty"),
    ],
)
def test_cohorts_that_cannot_be_evaluated(run, cohort, evaluate, text, said, capsys):
    (cohort.parent / "bad.csv").write_text(text)
    code, out = evaluate("--run", run, "--cohort", cohort.parent / "bad.csv")
    assert code == 1
    assert said in capsys.readouterr().err
    assert not out.exists()


def test_folders_that_are_no_runs_or_hold_something(run, cohort, evaluate, tmp_path, capsys):
    assert evaluate("--run", tmp_path, "--cohort", cohort)[0] == 1
    assert "no run is here" in capsys.readouterr().err
    code, out = evaluate("--masks", f"{cohort.parent}/{{patient}}_{{condition}}_mask.nii.gz",
                         "--cohort", cohort)  # fmt: skip
    assert code == 0
    before = {file.name for file in out.iterdir()}
    assert evaluate("--run", run, "--cohort", cohort)[0] == 1
    assert "not empty" in capsys.readouterr().err
    assert {file.name for file in out.iterdir()} == before
    moved = out.rename(tmp_path / "moved")
    assert evaluate("--run", moved, "--cohort", cohort)[0] == 1
    assert "holds an evaluation, not a run" in capsys.readouterr().err


def test_an_error_leaves_nothing_behind(run, cohort, evaluate, monkeypatch, tmp_path):
    def full(*_args, **_options):
        raise OSError("no space left on device")

    monkeypatch.setattr("crlm_jax.training.measuring.write_results", full)
    code, out = evaluate("--run", run, "--split", "test")
    assert code == 1
    assert not out.exists()
    assert list(tmp_path.iterdir()) == []


def test_without_a_test_patient_of_the_run(run, cohort, evaluate, tmp_path, capsys):
    other = renamed(
        cohort, tmp_path / "o.csv", keep=lambda row: row["patient"] in data(run, "train")
    )
    assert evaluate("--run", run, "--cohort", other, "--split", "test")[0] == 1
    assert "none of the 3 test patients" in capsys.readouterr().err
    some = data(run, "test")[:1]
    other = renamed(cohort, tmp_path / "o.csv", keep=lambda row: row["patient"] in some)
    assert evaluate("--run", run, "--cohort", other, "--split", "test")[0] == 0
    assert "1 of the 3 test patients of run are in" in capsys.readouterr().err
