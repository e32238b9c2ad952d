"""Resampling of slices against SimpleITK and SciPy."""

import numpy as np
import pytest
import scipy.ndimage
import SimpleITK as sitk

from crlm_jax.imaging.resize import resize
from tests.imaging.test_volumes import SHAPE, scan


@pytest.mark.parametrize("size", [(7, 9), (20, 16), (40, 32), (33, 5), (1, 1)])
def test_linear_resize_equals_simpleitk(size):
    array = scan(dtype=np.float32)
    reference = sitk.Image(size[1], size[0], len(array), sitk.sitkFloat32)
    spacing = [16 / size[1], 20 / size[0], 1.0]
    reference.SetSpacing(spacing)
    reference.SetOrigin([(spacing[0] - 1) / 2, (spacing[1] - 1) / 2, 0.0])
    # SimpleITK gives zero beyond the outermost centres: repeat the border for it.
    image = sitk.GetImageFromArray(np.pad(array, ((0, 0), (1, 1), (1, 1)), mode="edge"))
    image.SetOrigin((-1.0, -1.0, 0.0))
    expected = sitk.GetArrayFromImage(sitk.Resample(image, reference, sitk.Transform()))
    found = resize(array, size)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, atol=1e-3)


@pytest.mark.parametrize("size", [7, 16, 50])
def test_nearest_resize_equals_scipy(size):
    array = scan(shape=(3, 16, 16))
    found = resize(array, size, nearest=True)
    assert found.dtype == array.dtype
    expected = scipy.ndimage.zoom(
        array, (1, size / 16, size / 16), order=0, mode="nearest", grid_mode=True
    )
    # A centre halfway between two pixels may go to either.
    even = np.isclose((np.arange(size) + 0.5) * 16 / size % 1, 0)
    keep = np.ix_(range(3), ~even, ~even)
    np.testing.assert_array_equal(found[keep], expected[keep])


def test_resize_to_the_same_size_is_the_identity():
    for array in (scan(dtype=np.uint8), scan(dtype=np.float32)):
        same = resize(array, (20, 16))
        np.testing.assert_array_equal(same, array)
        assert not np.shares_memory(same, array)


@pytest.mark.parametrize("size", [5, 224, (31, 64)])
def test_resize_keeps_constants_and_types(size):
    for dtype in (np.uint8, np.float32):
        out = resize(np.full(SHAPE, 77, dtype), size)
        assert out.dtype == dtype
        assert (out == 77).all()
    assert resize(np.ones(SHAPE), size).dtype == np.float32


def test_resize_rounds_and_stays_in_range():
    array = scan(dtype=np.uint8)
    found = resize(array, 31)
    np.testing.assert_allclose(found, resize(array.astype(np.float32), 31), atol=0.501)
    assert found.min() >= array.min()
    assert found.max() <= array.max()


@pytest.mark.parametrize("size", [20, 33, 64, (21, 224)])
def test_mask_up_and_back_is_the_identity(size):
    mask = scan() > 100
    up = resize(mask, size, nearest=True)
    assert up.dtype == bool
    np.testing.assert_array_equal(resize(up, (20, 16), nearest=True), mask)


@pytest.mark.parametrize("size", [32, 96, 224])
def test_a_blob_stays_where_it_is(size):
    y, x = np.mgrid[:64, :64]
    blob = np.exp(-((y - 20) ** 2 + (x - 37) ** 2) / 40).astype(np.float32)[None]
    for nearest in (False, True):
        out = resize(blob, size, nearest=nearest)[0]
        centre = (np.indices(out.shape) + 0.5) / size
        found = (centre * out).sum(axis=(1, 2)) / out.sum()
        tolerance = 0.5 / 64 if nearest else 0.02 / 64
        np.testing.assert_allclose(found, [20.5 / 64, 37.5 / 64], atol=tolerance)


def test_linear_resize_of_labels_is_refused():
    with pytest.raises(ValueError, match="nearest=True"):
        resize(scan() > 0, 8)
