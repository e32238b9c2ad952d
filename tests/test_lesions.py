"""Lesions of a mask: parts, volumes, diameters and places, on shapes whose measures are known."""

import itertools

import numpy as np
import pytest

from crlm_jax import lesions
from crlm_jax.data.geometry import Geometry


def grid(shape, spacing) -> Geometry:
    return Geometry(shape[::-1], spacing, (0.0, 0.0, 0.0), tuple(np.eye(3).ravel()))


def ellipse(shape, centre, semiaxes, degrees=0.0, pixel=(1.0, 1.0)) -> np.ndarray:
    y, x = (np.indices(shape) + 0.0) * np.reshape(pixel, (2, 1, 1)) - np.reshape(centre, (2, 1, 1))
    c, s = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    return ((x * c + y * s) / semiaxes[0]) ** 2 + ((y * c - x * s) / semiaxes[1]) ** 2 <= 1


def only(mask, geometry) -> lesions.Lesion:
    labels, count = lesions.label(mask)
    assert count == 1
    return lesions.measure(labels, geometry)[0]


def test_parts_that_share_a_corner_are_one_lesion_and_a_gap_makes_two():
    mask = np.zeros((4, 8, 8), bool)
    mask[0, 1, 1] = mask[1, 2, 2] = True
    mask[3, 6, 6] = True
    labels, count = lesions.label(mask)
    assert count == 2
    assert labels[0, 1, 1] == labels[1, 2, 2] == 1
    assert labels[3, 6, 6] == 2
    labels, count = lesions.label(np.zeros((2, 4, 4), bool))
    assert (labels.shape, labels.any(), count) == ((2, 4, 4), False, 0)


@pytest.mark.parametrize("length", [1, 2, 7])
def test_a_row_of_pixels_is_as_long_as_its_pixels(length):
    mask = np.zeros((3, 12, 12), bool)
    mask[1, 5, 2 : 2 + length] = True
    lesion = only(mask, grid(mask.shape, (0.7, 0.9, 5.0)))
    assert lesion.diameter == pytest.approx(max(length * 0.7, 0.9))
    assert lesion.volume == pytest.approx(length * 0.7 * 0.9 * 5)
    assert (lesion.slice, lesion.voxels) == (1, length)


@pytest.mark.parametrize("degrees", [0, 20, 45, 70, 90])
@pytest.mark.parametrize("pixel", [(1.0, 1.0), (0.6, 0.9)])
def test_a_turned_ellipse_is_as_long_as_its_axis(degrees, pixel):
    mask = np.zeros((5, 90, 90), bool)
    centre = (45 * pixel[0], 45 * pixel[1])
    mask[3] = ellipse((90, 90), centre, (20.0, 8.0), degrees, pixel)
    mask[2] = ellipse((90, 90), centre, (12.0, 8.0), degrees, pixel)
    lesion = only(mask, grid(mask.shape, (pixel[1], pixel[0], 4.0)))
    assert lesion.diameter == pytest.approx(40, abs=max(pixel))
    assert lesion.slice == 3


@pytest.mark.parametrize("axes", list(itertools.permutations(range(3))))
@pytest.mark.parametrize("signs", [(1, 1, 1), (-1, 1, -1), (-1, -1, -1)])
def test_centre_is_in_patient_coordinates_however_the_file_is_turned(axes, signs):
    direction = np.eye(3)[list(axes)] * signs
    geometry = Geometry((9, 7, 5), (0.5, 0.7, 3.0), (10.0, -20.0, 30.0), tuple(direction.ravel()))
    stored = np.zeros((5, 7, 9), bool)
    stored[1, 2, 6] = True  # k, j, i
    mask = geometry.to_axial(stored)
    expected = direction @ (np.array((6, 2, 1)) * (0.5, 0.7, 3.0)) + (10, -20, 30)
    assert only(mask, geometry).centre == pytest.approx(tuple(expected))
    np.testing.assert_array_equal(geometry.from_axial(mask), stored)


def test_a_pictures_lesion_lies_in_its_plane():
    geometry = Geometry((9, 7), (1.0, 1.0), (0.0, 0.0), (1.0, 0.0, 0.0, 1.0))
    mask = np.zeros((1, 7, 9), bool)
    mask[0, 2, 6] = True
    assert only(mask, geometry).centre == (6, 2, 0)


def test_small_lesions_are_dropped_by_volume_not_by_voxels():
    mask = np.zeros((2, 10, 10), bool)
    mask[0, 1, 1:3] = True  # 2 voxels
    mask[1, 5, 5:8] = True  # 3 voxels
    geometry = grid(mask.shape, (0.5, 0.5, 8.0))  # 2 mm³ a voxel
    assert lesions.drop_small(mask, 6.0, geometry).sum() == 3
    assert lesions.drop_small(mask, 6.1, geometry).sum() == 0
    np.testing.assert_array_equal(lesions.drop_small(mask, 0.0, geometry), mask)
