"""Windows, grey levels, and the doubt that a window clips the tumour."""

from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from crlm_jax.config.schema import Data
from crlm_jax.imaging.grey import clipping_doubt, find_window, image_doubts, to_uint8
from crlm_jax.imaging.volumes import Volume, read_image
from tests.imaging.test_volumes import SHAPE, save, scan

BODY, PERCENTILES = Data(mr_window="body"), Data(mr_window="percentiles")


def test_ct_window(tmp_path):
    array = np.full(SHAPE, -1000, np.int16)
    array[0, 0, :5] = [-150, 50, 250, 3000, 51]
    volume = read_image(save(tmp_path / "a.nrrd", array))
    grey = to_uint8(volume, "ct", Data())
    assert grey.dtype == np.uint8
    assert grey[0, 0, :6].tolist() == [0, 128, 255, 255, 128, 0]  # 50 HU: 127.5, to the even
    assert to_uint8(volume, "ct_portal", Data(ct_window=(0.0, 255.0)))[0, 0, 1] == 50


@pytest.mark.parametrize("data", [BODY, PERCENTILES])
def test_mri_is_windowed_by_its_own_voxels(tmp_path, data):
    array = np.random.default_rng(0).gamma(2, 100, SHAPE).astype(np.float32)
    array[0, 0, 0] = 2000
    volume = read_image(save(tmp_path / "a.nrrd", array))
    grey = to_uint8(volume, "pre_dwi", data)
    low, high = np.percentile(array, (0.5, 99.5))
    if data is BODY:
        high = 1.5 * np.percentile(array[array > array.mean()], 99)
    assert find_window(volume, "pre_dwi", data) == pytest.approx((low, high))
    expected = np.clip((array - low) / (high - low) * 255, 0, 255)
    np.testing.assert_allclose(grey, expected, atol=0.51)
    doubled = read_image(save(tmp_path / "b.nrrd", array * 2))
    np.testing.assert_array_equal(to_uint8(doubled, "pre_dwi", data), grey)


def body(air: int) -> Volume:
    """A body of 100 ± 10 with organs and a lesion of 400, within so many pixels of air."""
    rng = np.random.default_rng(0)
    voxels = rng.normal(100, 10, (4, 60, 60)).astype(np.float32)
    voxels[:, 10:22, 10:22] += 300
    voxels = np.pad(voxels, ((0, 0), (air, air), (air, air)))
    voxels += np.abs(rng.normal(0, 2, voxels.shape)).astype(np.float32)
    return Volume(voxels, None, False, Path("x"))


def test_air_around_the_body_hardly_moves_the_window():
    """By the percentiles of all voxels, little air clips the lesion, and much air does not."""
    highs = [find_window(body(air), "pre_dwi", BODY)[1] for air in (0, 10, 30, 60)]
    assert max(highs) / min(highs) < 1.05
    assert min(highs) > 1.3 * 430


def test_a_crop_without_air_has_headroom_too():
    crop = np.random.default_rng(0).normal(600, 30, (4, 40, 40)).astype(np.float32)
    crop[:, 5:9, 5:9] = 800
    low, high = find_window(Volume(crop, None, False, Path("x")), "pre_dwi", BODY)
    assert low > 400
    assert high > 900


def test_values_below_zero_move_the_window_with_them():
    volume = body(10)
    low, high = find_window(volume, "pre_dwi", BODY)
    shifted = Volume(volume.voxels - 500, None, False, Path("x"))
    found = find_window(shifted, "pre_dwi", BODY)
    assert found == pytest.approx((low - 500, high - 500), abs=5)


@pytest.mark.parametrize("data", [BODY, PERCENTILES])
def test_mri_that_is_almost_empty(tmp_path, data):
    array = np.zeros(SHAPE, np.float32)
    array[0, 0, 0] = 3
    volume = read_image(save(tmp_path / "a.nrrd", array))
    grey = to_uint8(volume, "post_t2wi", data)
    assert grey[0, 0, 0] > 150
    assert np.count_nonzero(grey) == 1


@pytest.mark.parametrize("condition", ["ct", "pre_dwi"])
def test_eight_bit_images_stay_as_they_are(tmp_path, condition):
    grey = scan(shape=(20, 16), dtype=np.uint8)
    volume = read_image(save(tmp_path / "a.png", grey))
    np.testing.assert_array_equal(to_uint8(volume, condition, Data()), grey[None])


# Clipping


@pytest.mark.parametrize(
    ("condition", "value", "doubted"),
    [("ct", 100, False), ("ct", 400, True), ("ct", -300, True), ("pre_dwi", 30, False)],
)
def test_tumour_beyond_the_window_is_doubted(condition, value, doubted):
    voxels = np.tile(np.arange(-200, 200, dtype=np.float32), (2, 10, 1))
    mask = np.zeros(voxels.shape, bool)
    mask[0, :4, :10] = True
    voxels[mask] = value
    doubt = clipping_doubt(Volume(voxels, None, False, Path("x")), mask, condition, Data())
    assert (doubt is not None) == doubted
    if doubted:
        assert doubt.startswith("100% of its tumour voxels are black or white")
        assert "data.ct_window" in doubt


def test_the_old_window_clips_a_bright_lesion_and_the_new_one_does_not():
    volume = body(60)
    mask = volume.voxels > 350
    volume.voxels[0, 100, 100] = 1000  # as flowing blood
    assert clipping_doubt(volume, mask, "pre_dwi", BODY) is None
    few = np.zeros_like(mask)
    few[0] = mask[0]
    volume.voxels[few] *= 1.2
    assert "tumour voxels" in clipping_doubt(volume, few, "pre_dwi", PERCENTILES)


def test_an_image_without_tumour_is_not_doubted():
    volume = body(5)
    assert clipping_doubt(volume, np.zeros(volume.voxels.shape, bool), "ct", Data()) is None


def test_a_scan_of_eight_bits_that_was_clipped_at_its_source():
    voxels = np.zeros((1, 8, 8), np.float32)
    voxels[0, 2:6, 2:6] = 255
    volume = Volume(voxels, None, True, Path("x"))
    assert "wider window" in clipping_doubt(volume, voxels > 0, "ct", Data())


@pytest.mark.parametrize(
    ("largest", "kind", "shape", "doubted"),
    [
        (59, np.uint8, (6, 12, 12), True), (127, np.uint8, (6, 12, 12), True),
        (128, np.uint8, (6, 12, 12), False), (255, np.uint8, (6, 12, 12), False),
        (59, np.int16, (6, 12, 12), False), (59, np.uint8, (12, 12), False),
    ],
)  # fmt: skip
def test_a_volume_of_eight_bits_that_is_dark(tmp_path, largest, kind, shape, doubted):
    voxels = np.random.default_rng(0).integers(0, largest, shape, endpoint=True).astype(kind)
    voxels.flat[0] = largest
    path = tmp_path / "a.nii.gz"
    sitk.WriteImage(sitk.GetImageFromArray(voxels), str(path))
    said = image_doubts(read_image(path), "pre_t2wi")
    assert ["so that the network sees it dark" in text for text in said] == [True] * doubted
