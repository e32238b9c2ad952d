"""Evaluation with a segmenter whose answers are known: it thresholds the grey level."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import SimpleITK as sitk

from crlm_jax import evaluate, parallel
from crlm_jax.data import slices
from crlm_jax.data.cohort import read_cohort
from tests.cohorts import tiny_config


def write(folder, name, voxels, spacing=(1.5, 1.5, 7.0)):
    image = sitk.GetImageFromArray(voxels)
    image.SetSpacing(spacing)
    sitk.WriteImage(image, str(folder / name))


@pytest.fixture
def known(tmp_path):
    """Three test patients: half found, missed altogether, and one without any tumour."""
    lines = ["patient,condition,image,mask,split"]
    shape = (3, 64, 64)
    for patient in ("half", "missed", "clean", "teach"):
        image, mask = np.zeros(shape, np.int16), np.zeros(shape, np.uint8)
        image[:, 0, 0] = 255  # gives every image the same range
        if patient != "clean":
            mask[1, 16:32, 16:32] = 1
        if patient in ("half", "teach"):
            image[1, 16:32, 16:24] = 200
        write(tmp_path, f"{patient}.nii.gz", image)
        write(tmp_path, f"{patient}_mask.nii.gz", mask)
        split = "train" if patient == "teach" else "test"
        lines.append(f"{patient},ct,{patient}.nii.gz,{patient}_mask.nii.gz,{split}")
    cohort = tmp_path / "cohort.csv"
    cohort.write_text("\n".join(lines) + "\n")
    config = tiny_config(cohort, tmp_path / "cache", ("ct",))
    config.data.ct_window = (0.0, 255.0)
    cases = read_cohort(cohort, conditions=("ct",), validation_fraction=0.0)
    prepared = slices.prepare(
        cases, size=32, ct_window=config.data.ct_window, cache=tmp_path / "cache"
    )
    return config, prepared


def bright(variables, image):
    """Probability 1 where the slice is bright; the corner does not count."""
    found = (image[..., 0] > 150).at[:, 0, 0].set(False)
    return found.astype(jnp.float32)


@pytest.fixture
def results(known):
    config, prepared = known
    mesh = parallel.make_mesh(1)
    return evaluate.evaluate_cases(config, prepared, jax.jit(bright), {}, mesh)


def test_both_protocols_of_known_cases(results):
    rows = {row["patient"]: row for row in (r.row() for r in results)}
    assert set(rows) == {"half", "missed", "clean"}
    for suffix in ("", "_paper"):
        assert rows["half"]["recall" + suffix] == pytest.approx(0.5)
        assert rows["half"]["precision" + suffix] == pytest.approx(1.0)
        assert rows["half"]["dsc" + suffix] == pytest.approx(2 / 3)
        assert rows["missed"]["dsc" + suffix] == 0
    assert (rows["half"]["slices"], rows["half"]["tumour_slices"]) == (3, 1)
    assert rows["clean"]["tumour_slices"] == 0
    assert rows["clean"]["dsc"] == 1
    assert rows["clean"]["dsc_paper"] is None


def test_empty_masks_are_counted(known, results):
    config, _ = known
    ct = evaluate.summarise(config, results)["conditions"]["ct"]
    assert ct["cases"] == 3
    assert (ct["empty_prediction"], ct["empty_reference"], ct["both_empty"]) == (1, 0, 1)
    assert ct["without_tumour_slices"] == 1
    assert ct["dsc"]["n"] == 3
    assert ct["dsc"]["mean"] == pytest.approx((2 / 3 + 0 + 1) / 3)
    assert ct["dsc_paper"]["n"] == 2
    assert ct["dsc_paper"]["mean"] == pytest.approx(1 / 3)


def test_the_csv_leaves_an_undefined_cell_empty(known, results, tmp_path):
    config, _ = known
    evaluate.write_results(tmp_path, results, evaluate.summarise(config, results))
    line = next(x for x in (tmp_path / "cases.csv").read_text().splitlines() if "clean" in x)
    assert line == "clean,ct,3,0,1.000000,1.000000,1.000000,1.000000,1.000000,,,,,"


def test_the_key_slice_is_the_one_with_most_tumour(results):
    half = next(r for r in results if r.case.patient == "half")
    assert half.key_slice.z == 1
    assert half.key_slice.reference.sum() == 256
    assert half.key_slice.pixel == (1.5, 1.5)


@pytest.mark.parametrize("batch_size", [1, 4, 16])
def test_padding_of_the_last_batch_changes_nothing(known, results, batch_size):
    config, prepared = known
    config.evaluation.batch_size = batch_size
    again = evaluate.evaluate_cases(config, prepared, jax.jit(bright), {}, parallel.make_mesh(1))
    assert [r.row() for r in again] == [r.row() for r in results]


def test_without_validation_patients_there_is_no_validation_dsc(known):
    config, prepared = known
    mesh = parallel.make_mesh(1)
    assert evaluate.validation_dsc(config, prepared, jax.jit(bright), {}, mesh) is None
