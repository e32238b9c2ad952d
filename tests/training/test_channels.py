"""Two sequences together: what only the second shows is found, in every way a run is used."""

import csv
import importlib.util
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from crlm_jax.config.schema import ConfigError, validate
from crlm_jax.config.storage import from_json, to_json
from crlm_jax.data.cohort.cases import read_cohort
from crlm_jax.data.cohort.channels import with_channels
from crlm_jax.data.cohort.rows import CohortError
from crlm_jax.evaluate import command as evaluate_command
from crlm_jax.explain import command as explain_command
from crlm_jax.export import bundle
from crlm_jax.predict import segmenter
from crlm_jax.system.console import exit_code
from crlm_jax.training.experiment import describe_data
from crlm_jax.training.fit_picture import chequered
from tests import solvable
from tests.imaging.dicom import dicoms
from tests.solvable import dsc, predict, read

CHANNELS = ("pre_dwi", "pre_t2wi")
DEPTH, STEPS = 6, 150
# The second sequence has finer pixels and slices, one pixel and one slice more on each side.
FINE, SHIFT = (0.75, 0.75, 3.5), (-1.125, -1.125, -5.25)


@pytest.fixture(scope="module")
def cohort(tmp_path_factory) -> Path:
    """The tumour is what T2WI shows; DWI, whose grid the masks have, shows other discs."""
    folder = tmp_path_factory.mktemp("second")
    lines = ["patient,condition,image,mask,split"]
    for patient in range(7):
        rng = np.random.default_rng(patient)
        mask, other = solvable.discs(rng, DEPTH), solvable.discs(rng, DEPTH)
        solvable.write(folder / f"{patient}_dwi.nii.gz", solvable.shown(rng, other))
        solvable.write(folder / f"{patient}_mask.nii.gz", mask.astype(np.uint8))
        twice = np.pad(mask.repeat(2, 0).repeat(2, 1).repeat(2, 2), 1)
        t2wi = folder / f"{patient}_t2wi.nii.gz"
        solvable.write(t2wi, solvable.shown(rng, twice), FINE, SHIFT)
        for name in ("dwi", "t2wi"):
            lines.append(
                f"p{patient},pre_{name},{patient}_{name}.nii.gz,"
                f"{patient}_mask.nii.gz,{solvable.split_of(patient)}"
            )
    (folder / "cohort.csv").write_text("\n".join(lines) + "\n")
    return folder / "cohort.csv"


@pytest.fixture(scope="module")
def solved(cohort, tmp_path_factory, one_device) -> solvable.Solved:
    folder = tmp_path_factory.mktemp("runs") / "channels"
    return solvable.train(folder, cohort, STEPS, channels=CHANNELS)


@pytest.fixture(scope="module")
def pair(cohort) -> tuple[Path, Path, np.ndarray]:
    """DWI and T2WI of a test patient, and the tumour."""
    dwi, t2wi, mask = (cohort.parent / f"6_{name}.nii.gz" for name in ("dwi", "t2wi", "mask"))
    return dwi, t2wi, read(mask)


def test_the_second_sequence_is_found_and_without_it_there_is_nothing_to_find(
    solved, cohort, tmp_path, one_device
):
    assert solved.dsc() > 0.9
    assert solvable.train(tmp_path / "plain", cohort, STEPS).dsc() < 0.4


def test_prediction_takes_an_image_a_channel(solved, pair, tmp_path, capsys):
    dwi, t2wi, wanted = pair
    out = tmp_path / "mask.nii.gz"
    assert predict(solved.folder, "--image", dwi, t2wi, "--out", out) == 0
    assert "breathing" in capsys.readouterr().err
    assert dsc(read(out), wanted) > 0.9
    by_call = segmenter.load(solved.folder, engine="xla")
    images = [sitk.ReadImage(str(path)) for path in (dwi, t2wi)]
    np.testing.assert_array_equal(sitk.GetArrayFromImage(by_call(images)) > 0, read(out))
    for given, said in (
        ([dwi], r"1 image\(s\) of a scan are given.*--image PRE_DWI PRE_T2WI"),
        ([dwi, t2wi, dwi], r"3 image\(s\)"),
    ):
        with pytest.raises(ConfigError, match=said):
            by_call([sitk.ReadImage(str(path)) for path in given])
    assert predict(solved.folder, "--image", dwi, "--out", tmp_path / "no.nii.gz") == 1
    assert "give one of each" in capsys.readouterr().err


def test_prediction_of_a_cohort_puts_rows_together_by_patient(solved, cohort, tmp_path, capsys):
    assert predict(solved.folder, "--image", cohort, "--out", tmp_path / "masks") == 0
    masks = sorted(path.name for path in (tmp_path / "masks").glob("*.nii.gz"))
    assert masks == [f"p{patient}_pre_dwi.nii.gz" for patient in range(7)]
    assert dsc(read(tmp_path / "masks" / masks[6]), read(cohort.parent / "6_mask.nii.gz")) > 0.9
    lacking = cohort.with_name("lacking.csv")
    kept = [line for line in cohort.read_text().splitlines() if not line.startswith("p3,pre_t2wi")]
    lacking.write_text("\n".join(kept) + "\n")
    assert predict(solved.folder, "--image", lacking, "--out", tmp_path / "masks") == 1
    assert "patient 'p3' has pre_dwi but no row with pre_t2wi" in capsys.readouterr().err


def test_dicom_series_are_laid_over_each_other(solved, pair, tmp_path):
    folders = []
    for number, (path, (x, y, z)) in enumerate(zip(pair, [(1.5, 1.5, 7.0), FINE], strict=False)):
        image = sitk.ReadImage(str(path))
        folders.append(tmp_path / f"series{number}")
        dicoms.write_series(
            folders[-1], sitk.GetArrayFromImage(image), series=dicoms.uid(number + 1),
            modality="MR", spacing=(z, y, x), origin=image.GetOrigin(),
        )  # fmt: skip
    out = tmp_path / "seg.dcm"
    assert predict(solved.folder, "--image", *folders, "--out", out) == 0
    assert out.exists()


def test_attribution_says_that_the_second_sequence_counts(solved, pair, tmp_path):
    words = ["--run", solved.folder, "--image", *pair[:2], "--out", tmp_path / "e", "--steps", 32]
    words += ["--lesion", 1, "--method", "integrated_gradients"]
    assert exit_code(explain_command.main, list(map(str, words))) == 0
    about = json.loads((tmp_path / "e" / "explain.json").read_text())
    assert about["images"] == ["pre_dwi", "pre_t2wi", "pre_dwi"]
    assert about["lesions"][0]["share_by_image"][1] > 0.6


def test_the_exported_example_gives_the_same_mask(solved, pair, tmp_path):
    description = bundle.export_run(solved.folder, tmp_path / "out", "stablehlo")
    assert description["channels"] == list(CHANNELS)
    assert set(description["windows"]) == set(CHANNELS)
    spec = importlib.util.spec_from_file_location("example", tmp_path / "out" / bundle.EXAMPLE)
    example = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(example)
    first, second = (sitk.ReadImage(str(path)) for path in pair[:2])
    network = example.load(bundle.STABLEHLO)
    found = example.segment(first, network, "pre_dwi", [second])
    expected = segmenter.load(solved.folder, engine="xla")([first, second])
    np.testing.assert_array_equal(*map(sitk.GetArrayFromImage, (found, expected)))


def test_evaluation_and_report_show_the_fit(solved, cohort, tmp_path):
    run = shutil.copytree(solved.folder, tmp_path / "run")
    data = {"digest": solved.slices.digest, **describe_data(solved.slices)}
    (run / "data.json").write_text(json.dumps(data))
    (run / "train.jsonl").write_text('{"step": 100, "loss": 0.1}\n')
    words = ["--run", run, "--cohort", cohort, "--split", "test", "--out", tmp_path / "out"]
    words += ["--cache", tmp_path / "cache"]
    assert exit_code(evaluate_command.main, list(map(str, words))) == 0
    rows = list(csv.DictReader((tmp_path / "out" / "cases.csv").open()))
    assert [(row["patient"], row["condition"]) for row in rows] == [
        ("p5", "pre_dwi"), ("p6", "pre_dwi"),
    ]  # fmt: skip
    assert min(float(row["dsc_paper"]) for row in rows) > 0.9
    assert (tmp_path / "out" / "channels.png").read_bytes().startswith(b"\x89PNG")
    report = (tmp_path / "out" / "report.html").read_text()
    assert "sequences that the network sees together" in report
    assert "breathing" in json.loads((tmp_path / "out" / "evaluation.json").read_text())["notes"][0]
    assert exit_code(evaluate_command.main, [*map(str, words), "--condition", "pre_t2wi"]) == 1


def test_the_picture_shows_both_in_turn():
    one, two = np.zeros((32, 32)), np.ones((32, 32))
    fields = chequered(one, two)
    assert fields.mean() == 0.5
    assert fields[0, 0] == 0 == fields[4, 4]
    assert fields[0, 4] == 1


def test_patients_without_a_sequence_are_named_with_the_remedy(cohort, tmp_path):
    lines = cohort.read_text().splitlines()
    lines = [line for line in lines if not line.startswith(("p2,pre_t2wi", "p4,pre_dwi"))]
    again = shutil.copy(cohort.parent / "5_t2wi.nii.gz", cohort.parent / "5_again.nii.gz")
    lines += [f"p5,pre_t2wi,{again.name},5_mask.nii.gz,test"]
    changed = cohort.with_name("changed.csv")
    changed.write_text("\n".join(lines) + "\n")
    cases = read_cohort(changed, conditions=CHANNELS)
    with pytest.raises(CohortError) as error:
        with_channels(changed, cases, CHANNELS)
    said = str(error.value).splitlines()
    assert len(said) == 3
    assert "patient 'p2' has pre_dwi but no row with pre_t2wi" in said[0]
    assert "take the patient's rows with pre_dwi out" in said[0]
    assert "patient 'p4' has pre_t2wi but no row with pre_dwi" in said[1]
    assert "patient 'p5' has 2 images of pre_t2wi (row " in said[2]


@pytest.mark.parametrize(
    ("data", "said"),
    [
        ({"context": 1}, r"both say what the three channels hold"),
        ({"channels": ("pre_dwi",)}, r"two or three different conditions"),
        ({"channels": ("pre_dwi", "pre_dwi")}, r"two or three different conditions"),
        ({"channels": CHANNELS[::-1]}, r"give --config\.data\.conditions=pre_t2wi"),
        ({"conditions": CHANNELS}, r"give --config\.data\.conditions=pre_dwi"),
    ],
)
def test_options_that_contradict_each_other_are_refused(solved, data, said):
    config = from_json(to_json(solved.config), "x")
    for name, value in data.items():
        setattr(config.data, name, value)
    with pytest.raises(ConfigError, match=said):
        validate(config)
