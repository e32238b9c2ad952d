"""The slices below and above: by the header, at the ends, and across gaps."""

import numpy as np
import pytest
import SimpleITK as sitk

from crlm_jax.config.schema import Data
from crlm_jax.imaging import volumes
from crlm_jax.imaging.context import (
    FURTHEST,
    context_doubt,
    find_neighbours,
    with_neighbours,
)
from crlm_jax.imaging.grey import to_uint8

COS, SIN = np.cos(0.3), np.sin(0.3)
OBLIQUE = np.array([[COS, -SIN, 0], [SIN, COS, 0], [0, 0, 1.0]]) @ np.array(
    [[1.0, 0, 0], [0, COS, -SIN], [0, SIN, COS]]
)


def read(voxels: np.ndarray, spacing=(1.0, 1.0, 5.0), direction=None) -> volumes.Volume:
    """An image whose array is in the order of its file."""
    image = sitk.GetImageFromArray(voxels)
    image.SetSpacing(spacing)
    image.SetDirection(np.ravel(np.eye(3) if direction is None else direction).tolist())
    return volumes.from_image(image)


def stack(levels) -> np.ndarray:
    """Slices (Z, 4, 4), each of one level and one dark pixel."""
    voxels = np.repeat(np.array(levels, np.int16), 16).reshape(-1, 4, 4)
    voxels[:, 0, 0] = 0
    return voxels


def neighbours(volume: volumes.Volume) -> list[list[int]]:
    grey = to_uint8(volume, "pre_dwi", Data())
    return find_neighbours(grey, volume.geometry).tolist()


def test_the_first_and_the_last_slice_stand_in_for_what_is_beyond_them():
    assert neighbours(read(stack([9, 8, 7, 6]))) == [[0, 0, 1], [0, 1, 2], [1, 2, 3], [2, 3, 3]]


def test_a_gap_is_not_bridged():
    voxels = stack([9, 8, 0, 6, 5])  # the third slice is missing
    volume = read(voxels)
    grey = to_uint8(volume, "pre_dwi", Data())
    found = find_neighbours(grey, volume.geometry)
    assert found.tolist() == [[0, 0, 1], [0, 1, 1], [1, 2, 3], [3, 3, 4], [3, 4, 4]]
    assert "between others" in context_doubt(grey, volume.geometry)
    # Air above and below the body is no gap.
    whole = read(stack([0, 8, 7, 6, 0]))
    grey = to_uint8(whole, "pre_dwi", Data())
    assert context_doubt(grey, whole.geometry) is None
    assert find_neighbours(grey, whole.geometry)[[1, 3]].tolist() == [[1, 1, 2], [2, 3, 3]]


def test_padding_is_a_gap():
    volume = read(np.random.default_rng(0).normal(100, 9, (4, 8, 8)).astype(np.float32))
    padding = np.zeros(volume.voxels.shape, bool)
    padding[2] = True
    padded = volumes.Volume(**{**vars(volume), "padding": padding})
    assert neighbours(padded) == [[0, 0, 1], [0, 1, 1], [1, 2, 3], [3, 3, 3]]
    padding[2, 0, 0] = False  # something was measured there
    assert neighbours(padded)[1] == [0, 1, 2]


@pytest.mark.parametrize(("distance", "near"), [(FURTHEST, True), (FURTHEST + 0.1, False)])
def test_far_slices_are_no_neighbours(distance, near):
    volume = read(stack([9, 8, 7]), spacing=(1, 1, distance))
    grey = to_uint8(volume, "pre_dwi", Data())
    assert neighbours(volume)[1] == ([0, 1, 2] if near else [1, 1, 1])
    doubt = context_doubt(grey, volume.geometry)
    assert doubt is None if near else "further apart than 15 mm" in doubt


def test_a_single_picture_has_itself_alone():
    image = sitk.GetImageFromArray(stack([9])[0].astype(np.uint8))
    volume = volumes.from_image(image)
    grey = to_uint8(volume, "pre_dwi", Data())
    assert find_neighbours(grey, volume.geometry).tolist() == [[0, 0, 0]]
    assert "single slice" in context_doubt(grey, volume.geometry)


@pytest.mark.parametrize("turn", [np.eye(3), OBLIQUE], ids=["upright", "oblique"])
@pytest.mark.parametrize("order", [(0, 1, 2), (2, 0, 1), (1, 2, 0)], ids=str)
@pytest.mark.parametrize("down", [False, True], ids=["", "flipped"])
def test_below_is_towards_the_feet_however_the_file_is_stored(turn, order, down):
    """Each axial slice has its own level, 1 at the feet; the file's axes are permuted."""
    axial = stack(range(1, 5))  # (z, y, x)
    direction = turn.copy()
    if down:
        axial, direction[:, 2] = axial[::-1], -direction[:, 2]
    # Axis i of the file is axis order[i] of the patient; NumPy has the axes in opposite order.
    file = axial.transpose([2 - axis for axis in order][::-1])
    # 1 mm in the slice, 5 mm between slices.
    spacing = [(1.0, 1.0, 5.0)[axis] for axis in order]
    volume = read(np.ascontiguousarray(file), spacing, direction[:, list(order)])
    assert volume.spacing == (5.0, 1.0, 1.0)
    levels = volume.voxels.max(axis=(1, 2))
    assert levels.tolist() == [1, 2, 3, 4]
    grey = to_uint8(volume, "pre_dwi", Data())
    seen = with_neighbours(volume.voxels, find_neighbours(grey, volume.geometry))
    assert seen.shape == (4, 4, 4, 3)
    assert seen.max(axis=(1, 2)).tolist() == [[1, 1, 2], [1, 2, 3], [2, 3, 4], [3, 4, 4]]
