"""Files that are no masks: refused by what they are, or made a mask with a word to the user."""

from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from scipy import ndimage

from crlm_jax.imaging.geometry import VolumeError
from crlm_jax.imaging.masks import read_mask
from crlm_jax.imaging.volumes import read_image

SIZE = 48


def disc(radius: float = 6.0, oversampled: int = 1) -> np.ndarray:
    """The share of each pixel (SIZE, SIZE) that lies in a disc."""
    n = oversampled
    y, x = (np.indices((SIZE * n, SIZE * n)) + 0.5) / n - 0.5
    inside = (y - 24) ** 2 + (x - 19) ** 2 < radius**2
    return inside.reshape(SIZE, n, SIZE, n).mean(axis=(1, 3))


def scan(seed: int = 0) -> np.ndarray:
    """A slice of noise, a body and a lesion, int16."""
    y, x = np.indices((SIZE, SIZE))
    body = (y - 24) ** 2 + (x - 24) ** 2 < 21**2
    noise = np.random.default_rng(seed).integers(0, 40, (SIZE, SIZE))
    return (300 * body + 400 * disc() + noise).astype(np.int16)


def save(path: Path, array: np.ndarray) -> Path:
    sitk.WriteImage(sitk.GetImageFromArray(array), str(path))
    return path


@pytest.fixture
def picture(tmp_path):
    return read_image(save(tmp_path / "scan.png", scan().clip(0, 255).astype(np.uint8)))


@pytest.fixture
def volume(tmp_path):
    return read_image(save(tmp_path / "scan.nii.gz", np.stack([scan(z) for z in range(3)])))


def stack(array: np.ndarray) -> np.ndarray:
    return np.stack([array] * 3)


@pytest.mark.parametrize("name", ["mask.jpg", "mask.jpeg"])
def test_a_jpeg_is_no_mask(tmp_path, picture, name):
    path = save(tmp_path / name, (disc() * 255).astype(np.uint8))
    with pytest.raises(VolumeError, match=r"mask\.jpe?g: a JPEG holds no mask.*PNG or NIfTI"):
        read_mask(path, None, picture)


@pytest.mark.parametrize(
    "soft",
    [
        disc(oversampled=2),
        disc(oversampled=8),
        disc(radius=9, oversampled=4),
        ndimage.gaussian_filter(disc(), 1.0),
        np.minimum(1, 1.001 * ndimage.gaussian_filter(disc(radius=10), 1.5)),
        1 - disc(radius=9, oversampled=4),
    ],
)
@pytest.mark.parametrize("label", [None, 255])
def test_soft_edges_count_from_half_with_a_word(tmp_path, picture, soft, label):
    grey = np.rint(soft * 255).astype(np.uint8)
    assert grey.max() == 255
    doubts = []
    found = read_mask(save(tmp_path / "mask.png", grey), label, picture, doubts)
    np.testing.assert_array_equal(found[0], grey > 127)
    doubt, *_ = doubts  # a large shape has a second one
    assert "soft edges" in doubt
    assert "counted as tumour from half" in doubt


def test_hard_masks_and_label_maps_stay_as_they_are(tmp_path, picture, volume):
    doubts = []
    hard = save(tmp_path / "hard.png", (disc() * 255).astype(np.uint8))
    np.testing.assert_array_equal(read_mask(hard, None, picture, doubts)[0], disc() > 0)
    liver = 127 * (disc(15) > 0) + 128 * (disc() > 0)
    save(tmp_path / "liver.png", liver.astype(np.uint8))
    np.testing.assert_array_equal(
        read_mask(tmp_path / "liver.png", 255, picture, doubts)[0], disc() > 0
    )
    many = np.zeros((3, SIZE, SIZE), np.uint8)  # a lesion each, of one to four pixels
    for number in range(200):
        row, column = divmod(number, 20)
        many[1, 4 * row : 4 * row + 2 - number % 2, 2 * column] = number + 56
    path = save(tmp_path / "many.nii.gz", many)
    np.testing.assert_array_equal(read_mask(path, "lesions", volume, doubts), many > 0)
    np.testing.assert_array_equal(read_mask(path, 255, volume, doubts), many == 255)
    assert doubts == []


def test_grey_values_of_a_picture_are_asked_about(tmp_path, picture):
    liver = 127 * (disc(15) > 0) + 128 * (disc() > 0)
    path = save(tmp_path / "liver.png", liver.astype(np.uint8))
    with pytest.raises(VolumeError, match=r"has the labels 127 \(588 voxels\), 255 .*mask_label"):
        read_mask(path, None, picture)
    assert read_mask(path, "127, 255", picture).sum() == (liver > 0).sum()


@pytest.mark.parametrize(
    "array",
    [
        scan(),
        scan().astype(np.float32),
        (scan() - 1000).astype(np.int16),
        scan().clip(0, 255).astype(np.uint8),  # most of it white
        (scan() // 3).astype(np.uint8),
        np.rint(ndimage.gaussian_filter(scan().astype(float), 2)).astype(np.int16),
    ],
)
def test_a_scan_is_no_mask(tmp_path, volume, array):
    path = save(tmp_path / "other.nii.gz", stack(array))
    with pytest.raises(VolumeError, match=r"other\.nii\.gz: a mask has few labels.*many grey val"):
        read_mask(path, None, volume)


def test_values_within_rounding_of_whole_numbers_count(tmp_path, volume):
    for factor in (0.9999999, 1.0005, 2.9995):
        path = save(tmp_path / "mask.nii.gz", stack(disc() * factor).astype(np.float32))
        found = read_mask(path, round(factor), volume)
        np.testing.assert_array_equal(found, stack(disc() > 0))


@pytest.mark.parametrize(("top", "shown"), [(0.93, "0.93"), (0.998, "0.998"), (0.25, "0.25")])
def test_a_probability_map_is_shown_as_it_is(tmp_path, volume, top, shown):
    path = save(tmp_path / "p.nii.gz", stack(disc() * top).astype(np.float32))
    with pytest.raises(
        VolumeError, match=rf"has {shown}; it looks like a probability map: threshold"
    ):
        read_mask(path, None, volume)
    path = save(tmp_path / "p.nii.gz", stack(disc() * (1 + top)).astype(np.float32))
    with pytest.raises(VolumeError, match=rf"whole numbers, but this file has 1{shown[1:]}; expo"):
        read_mask(path, None, volume)
