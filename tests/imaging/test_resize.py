"""Resampling of slices against SimpleITK and SciPy."""

import jax
import numpy as np
import pytest
import scipy.ndimage
import SimpleITK as sitk

from crlm_jax.imaging.resize import resize, resize_mask, stretch_doubt
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
    found = resize(array, size, antialias=False)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, atol=1e-3)


@pytest.mark.parametrize("size", [7, 16, 50])
def test_without_antialias_a_mask_is_that_of_the_nearest_pixel(size):
    array = scan(shape=(3, 16, 16)) > 100
    found, _ = resize_mask(array, size, antialias=False)
    assert found.dtype == bool
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
        np.testing.assert_allclose(out, 77, rtol=1e-6)
    assert resize(np.ones(SHAPE), size).dtype == np.float32


def test_resize_rounds_and_stays_in_range():
    array = scan(dtype=np.uint8)
    found = resize(array, 31)
    np.testing.assert_allclose(found, resize(array.astype(np.float32), 31), atol=0.501)
    assert found.min() >= array.min()
    assert found.max() <= array.max()


@pytest.mark.parametrize("size", [20, 33, 64, (21, 224)])
def test_old_mask_up_and_back_is_the_identity(size):
    mask = scan() > 100
    up, _ = resize_mask(mask, size, antialias=False)
    assert up.dtype == bool
    np.testing.assert_array_equal(resize_mask(up, (20, 16), antialias=False)[0], mask)


@pytest.mark.parametrize("size", [16, 32, 50, 96, 224])
def test_a_blob_stays_where_it_is(size):
    y, x = np.mgrid[:64, :64]
    blob = np.exp(-((y - 20) ** 2 + (x - 37) ** 2) / 40).astype(np.float32)[None]
    out = resize(blob, size)[0]
    centre = (np.indices(out.shape) + 0.5) / size
    found = (centre * out).sum(axis=(1, 2)) / out.sum()
    np.testing.assert_allclose(found, [20.5 / 64, 37.5 / 64], atol=0.02 / 64)


def test_resize_of_labels_is_refused():
    with pytest.raises(ValueError, match="resize_mask"):
        resize(scan() > 0, 8)


# Shrinking


@pytest.mark.parametrize(("old", "new"), [(512, 224), (512, 112), (17, 5), (9, 8), (300, 1)])
def test_shrinking_averages_as_jax_does(old, new):
    array = np.random.default_rng(old).uniform(0, 255, (2, old, 40)).astype(np.float32)
    expected = jax.image.resize(array, (2, new, 40), "linear", antialias=True)
    np.testing.assert_allclose(resize(array, (new, 40)), expected, atol=5e-3)


def test_what_lies_between_pixels_is_not_skipped():
    """A grating of one pixel is grey once it is too fine to show, not black or white."""
    grating = np.zeros((1, 512, 512), np.uint8)
    grating[..., ::2] = 200
    middle = resize(grating, 112)[..., 1:-1]
    assert np.ptp(middle) <= 10
    assert np.ptp(resize(grating, 112, antialias=False)) > 90


def discs(pixels: int) -> np.ndarray:
    """Discs that many pixels across, at 25 places of the grid of a smaller picture."""
    mask = np.zeros((25, 512, 512), bool)
    y, x = np.indices((512, 512))
    for z, (down, across) in enumerate(np.ndindex(5, 5)):
        middle = 200 + down + (pixels - 1) / 2, 300 + across + (pixels - 1) / 2
        mask[z] = np.hypot(y - middle[0], x - middle[1]) <= pixels / 2
    return mask


@pytest.mark.parametrize("size", [224, 112])
@pytest.mark.parametrize("pixels", [1, 2, 3, 4, 5])
def test_no_lesion_vanishes(pixels, size):
    mask = discs(pixels)
    found, too_small = resize_mask(mask, size)
    assert found.any(axis=(1, 2)).all()
    # The pixel lies where the lesion does.
    for z in range(len(mask)):
        own = (np.argwhere(mask[z]).mean(0) + 0.5) / 512
        new = (np.argwhere(found[z]).mean(0) + 0.5) / size
        assert np.abs(own - new).max() <= 0.5 / size + 1e-9
    lost, by_old = resize_mask(mask, size, antialias=False)
    np.testing.assert_array_equal(by_old, ~lost.any(axis=(1, 2)))
    if pixels == 1:
        assert too_small.all()
        assert by_old.any()
    if pixels * size / 512 > 1.5:
        assert not too_small.any()


def test_a_small_lesion_beside_a_large_one_is_kept_too():
    mask = np.zeros((1, 256, 256), bool)
    mask[0, 100:140, 100:140] = True
    mask[0, 120, 143:145] = True
    mask[0, 30, 30] = mask[0, 33, 33] = True
    found, too_small = resize_mask(mask, 64)
    assert too_small[0] == 3
    assert found[0, 30, 36] or found[0, 30, 35]
    assert found[0, 7, 7]
    assert found[0, 8, 8]


@pytest.mark.parametrize(("old", "new", "least"), [(512, 224, 0.97), (512, 112, 0.93)])
def test_a_perfect_network_is_not_held_back(old, new, least):
    """Its mask, back at the image's size, agrees better than that of the nearest pixel."""
    y, x = np.indices((old, old))
    rng = np.random.default_rng(0)
    mask = np.stack([np.hypot(y - a, x - b) < 15 for a, b in rng.uniform(100, 400, (12, 2))])
    scores = {}
    for antialias in (True, False):
        small, _ = resize_mask(mask, new, antialias=antialias)
        back = resize(small.astype(np.float32), old) > 0.5
        scores[antialias] = 2 * (back & mask).sum() / (back.sum() + mask.sum())
    assert scores[True] > max(least, scores[False])


# Stretching


@pytest.mark.parametrize(
    ("shape", "spacing", "stretched"),
    [
        ((3, 256, 256), (5.0, 1.4, 1.4), False),
        ((3, 320, 260), (5.0, 1.0, 1.0), True),
        ((3, 260, 320), (5.0, 1.0, 1.0), True),
        ((3, 256, 128), (5.0, 1.0, 2.0), False),  # pixels that are no squares, in a square
        ((3, 256, 256), (5.0, 1.0, 1.2), True),
        ((3, 256, 250), (5.0, 1.0, 1.0), False),
    ],
)
def test_a_stretched_matrix_is_doubted(shape, spacing, stretched):
    doubt = stretch_doubt(shape, spacing)
    assert (doubt is not None) == stretched
    if stretched:
        assert "square" in doubt
