"""What is removed from a mask is removed alike wherever a mask is made or measured."""

import dataclasses

import numpy as np
import pytest

from crlm_jax.data import slice_cache
from crlm_jax.data.cohort.cases import read_cohort
from crlm_jax.data.cohort.reference import check_livers
from crlm_jax.data.cohort.rows import CohortError
from crlm_jax.imaging import volumes
from crlm_jax.imaging.geometry import VolumeError
from crlm_jax.measures import evaluate
from crlm_jax.measures.threshold import choose_threshold
from crlm_jax.predict.segmenter import ScanSegmenter
from crlm_jax.training.card import describe_mask
from tests.cohorts import tiny_config
from tests.finished_runs import evaluate_bright, write_volume

SIDE = 32  # of the images and of the network: nothing is resampled
VOXEL = 1.5 * 1.5 * 7.0  # mm³


def segment(slices):
    found = slices[..., 0] / np.float32(255)
    found[:, 0, 0] = 0  # the bright corner
    return found


@pytest.fixture
def cohort(tmp_path):
    """A lesion that is found, a false one of 2 voxels in the liver, and a large one outside it."""
    lines = ["patient,condition,image,mask,liver,split"]
    for patient, split in (("a", "test"), ("b", "test"), ("v", "validation"), ("t", "train")):
        image, mask = (np.zeros((3, SIDE, SIDE), np.int16) for _ in range(2))
        image[:, 0, 0] = 255
        mask[1, 8:16, 8:16] = 1
        image[1, 8:16, 8:16], image[1, 4, 4:6], image[1, 20:30, 22:30] = 200, 180, 220
        liver = np.zeros_like(mask)
        liver[:, :, :20] = 1
        for name, voxels in (("", image), ("_mask", mask), ("_liver", liver)):
            write_volume(tmp_path / f"{patient}{name}.nii.gz", voxels.astype(np.int16))
        known = f"{patient}_liver.nii.gz" * (patient != "b")
        lines.append(f"{patient},ct,{patient}.nii.gz,{patient}_mask.nii.gz,{known},{split}")
    path = tmp_path / "cohort.csv"
    path.write_text("\n".join(lines) + "\n")
    config = tiny_config(path, tmp_path / "cache", ("ct",))
    config.data.ct_window, config.data.image_size = (0.0, 255.0), SIDE
    cases = read_cohort(path, conditions=("ct",))
    return config, slice_cache.prepare(cases, config.data)


def change(config, least: float, liver: str, **train):
    evaluation = dataclasses.replace(config.evaluation, min_lesion_mm3=least, liver=liver)
    train = dataclasses.replace(config.train, **train)
    return dataclasses.replace(config, evaluation=evaluation, train=train)


def false_lesions(config, slices) -> dict[str, int]:
    found = evaluate.evaluate_cases(config, slices, segment)
    for result in found:  # the curve's point at the run's threshold is the table of lesions
        point = next(row for row in result.froc if row.threshold == config.evaluation.threshold)
        assert point.false_positives == result.row.measures["false_positives"]
        assert point.lesions_found == 1
    return {r.row.patient: int(r.row.measures["false_positives"]) for r in found}


def test_false_lesions_go_where_they_are_small_or_outside_the_liver(cohort):
    config, slices = cohort
    assert false_lesions(*cohort) == {"a": 2, "b": 2}
    assert false_lesions(change(config, 2 * VOXEL, "none"), slices) == {"a": 2, "b": 2}
    assert false_lesions(change(config, 2 * VOXEL + 1, "none"), slices) == {"a": 1, "b": 1}
    assert false_lesions(change(config, 0.0, "column"), slices) == {"a": 1, "b": 2}
    assert false_lesions(change(config, 2 * VOXEL + 1, "column"), slices) == {"a": 0, "b": 1}


@pytest.mark.parametrize(("least", "liver"), [(0.0, "none"), (40.0, "column")])
def test_prediction_validation_and_choice_see_the_same_mask(cohort, least, liver):
    config = change(cohort[0], least, liver, select="clinical")
    slices = cohort[1]
    network = lambda batch: segment(batch)  # noqa: E731
    segmenter = ScanSegmenter(
        config, "x", 1, "", tta=False, threshold=0.5, min_lesion_mm3=least, batch=8, network=network
    )
    (validated,) = (case for case in slices.cases if case.split == "validation")
    pair = validated.images[0]
    volume = volumes.read_image(pair.image)
    outside = evaluate.find_outside(pair, volume, liver)
    probability = segmenter.probability(segmenter.look([volume]).slices)
    mask = segmenter.finish(probability, volume.geometry, outside).mask
    reference = np.zeros_like(mask)
    reference[1, 8:16, 8:16] = True
    dsc = 2 * (mask & reference).sum() / (mask.sum() + reference.sum())
    assert (dsc == 1) == (liver == "column")
    assert evaluate.validation_dsc(config, slices, segment) == pytest.approx(dsc)
    assert choose_threshold(config, slices, segment, 1).dsc["0.5"] == pytest.approx(dsc)
    tested = {r.row.patient: r.row.measures["dsc"] for r in evaluate.evaluate_cases(
        config, slices, segment)}  # fmt: skip
    assert tested["a"] == pytest.approx(dsc)


def test_the_papers_protocol_measures_what_is_there_before(cohort):
    config, slices = cohort
    each = [
        evaluate_bright(each, slices)[0].row.measures["dsc_paper"]
        for each in (config, change(config, 40.0, "column"))
    ]
    assert each[0] == each[1] < 1


def test_a_liver_of_another_grid_is_one_error(cohort):
    config, slices = change(cohort[0], 0.0, "column"), cohort[1]
    (path,) = next(case.images[0].liver for case in slices.cases if case.patient == "a")
    liver = np.ones((3, SIDE, SIDE), np.int16)
    liver[:, 0] = 0
    write_volume(path, liver, spacing=(1.5, 1.5, 6.0))
    with pytest.raises(CohortError, match=r"cohort row \d+: liver mask: .*resample_masks=true"):
        check_livers(slices.cases)  # what a training does first
    with pytest.raises(VolumeError, match=r"liver mask: the mask .*a_liver.* differ in spacing"):
        evaluate.evaluate_cases(config, slices, segment)


def test_the_card_says_what_is_removed(cohort):
    config, cases = cohort[0], cohort[1].cases
    assert describe_mask(config, cases) == []
    ((_, text),) = describe_mask(change(config, 40.0, "column"), cases)
    assert text == (
        "lesions below 40 mm³ are removed; restricted to the liver masks of the column liver: 1 of "
        "2 test images; 1 is not"
    )
    none = [
        dataclasses.replace(c, images=(dataclasses.replace(c.images[0], liver=()),)) for c in cases
    ]
    ((_, text),) = describe_mask(change(config, 0.0, "column"), none)
    assert text.startswith("not restricted to the liver: no test image has a mask of it")
