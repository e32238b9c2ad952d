"""Lesions of a mask: parts, volumes, diameters and places, on shapes whose measures are known."""

import itertools

import numpy as np
import pytest

from crlm_jax.imaging import lesions
from crlm_jax.imaging.geometry import Geometry


def grid(shape, spacing) -> Geometry:
    return Geometry(shape[::-1], spacing, (0.0, 0.0, 0.0), tuple(np.eye(3).ravel()))


def ellipse(shape, centre, semiaxes, degrees=0.0, pixel=(1.0, 1.0)) -> np.ndarray:
    y, x = (np.indices(shape) + 0.0) * np.reshape(pixel, (2, 1, 1)) - np.reshape(centre, (2, 1, 1))
    c, s = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    return ((x * c + y * s) / semiaxes[0]) ** 2 + ((y * c - x * s) / semiaxes[1]) ** 2 <= 1


def only(mask, geometry) -> lesions.Lesion:
    labels, count = lesions.label_lesions(mask)
    assert count == 1
    return lesions.measure_lesions(labels, geometry)[0]


def test_parts_that_share_a_corner_are_one_lesion_and_a_gap_makes_two():
    mask = np.zeros((4, 8, 8), bool)
    mask[0, 1, 1] = mask[1, 2, 2] = True
    mask[3, 6, 6] = True
    labels, count = lesions.label_lesions(mask)
    assert count == 2
    assert labels[0, 1, 1] == labels[1, 2, 2] == 1
    assert labels[3, 6, 6] == 2
    labels, count = lesions.label_lesions(np.zeros((2, 4, 4), bool))
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
    assert lesion.short_axis == pytest.approx(16, abs=max(pixel))
    assert lesion.slice == 3
    first, second = (np.array(end) * pixel for end in lesion.ends)  # mm
    assert np.hypot(*(second - first)) == pytest.approx(lesion.diameter)
    np.testing.assert_allclose((first + second) / 2, centre, atol=max(pixel))
    down, right = second - first
    angle = np.degrees(np.arctan2(down, right))
    assert abs((angle - degrees + 90) % 180 - 90) < 5


def test_axes_of_a_rectangle_lie_where_it_does():
    mask = np.zeros((2, 20, 20), bool)
    mask[1, 4:7, 5:15] = True  # 3 × 10 pixels of 2 × 1 mm
    lesion = only(mask, grid(mask.shape, (1.0, 2.0, 5.0)))
    # From the middle of the first pixel's upper edge to that of the last one's lower edge, or so.
    assert lesion.diameter == pytest.approx(np.hypot(3 * 2, 9))
    rows, columns = zip(*lesion.ends, strict=True)
    assert sorted(rows) == [3.5, 6.5]
    assert sorted(columns) == [5, 14]
    assert all(type(place) is float for end in lesion.ends for place in end)
    # Across: from one long side to the other, 6 mm apart, at right angles to (6, 9) mm.
    assert lesion.short_axis == pytest.approx(6 * np.hypot(6, 9) / 9)


@pytest.mark.parametrize("seed", range(5))
def test_axes_of_any_shape_are_those_of_all_lines_between_its_edges(seed):
    mask = np.zeros((1, 20, 20), bool)
    for row, column in np.random.default_rng(seed).integers(2, 9, (3, 2)):
        mask[0, row : row + 8, column : column + 5] = True
    pixel = (0.6, 0.9)
    lesion = only(mask, grid(mask.shape, (0.9, 0.6, 3.0)))
    edges = np.concatenate(
        [np.argwhere(mask[0]) + step for step in ((0.5, 0), (-0.5, 0), (0, 0.5), (0, -0.5))]
    )
    points = np.unique(edges, axis=0) * pixel
    apart = np.linalg.norm(points[:, None] - points, axis=-1)
    assert lesion.diameter == pytest.approx(apart.max())
    start, end = np.array(lesion.ends) * pixel
    down, right = (end - start) / lesion.diameter
    along, aside = ((points - start) @ np.array([(down, -right), (right, down)])).T
    across = []
    for place in np.linspace(0.01, 0.99, 99) * lesion.diameter:
        i, j = np.nonzero((along[:, None] <= place) & (along > place))
        share = (place - along[i]) / (along[j] - along[i])
        across.append(np.ptp(aside[i] + share * (aside[j] - aside[i])))
    assert lesion.short_axis == pytest.approx(max(across), rel=0.01)
    assert lesion.short_axis >= max(across) - 1e-9


def test_short_axis_is_that_of_the_slice_of_the_diameter():
    mask = np.zeros((2, 12, 30), bool)
    mask[0, 5, 2:22] = True  # 20 long, 1 across
    mask[1, 1:10, 5:14] = True  # shorter, but wider
    lesion = only(mask, grid(mask.shape, (1.0, 1.0, 1.0)))
    assert (lesion.diameter, lesion.short_axis, lesion.slice) == pytest.approx((20, 1, 0))
    assert sorted(lesion.ends) == [(5.0, 1.5), (5.0, 21.5)]


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


def test_lesions_of_too_few_voxels_are_dropped():
    mask = np.zeros((2, 10, 10), bool)
    mask[0, 1, 1:3] = True  # 2 voxels
    mask[1, 5, 5:8] = True  # 3 voxels
    assert lesions.drop_small(mask, 3).sum() == 3
    assert lesions.drop_small(mask, 4).sum() == 0
    np.testing.assert_array_equal(lesions.drop_small(mask, 0), mask)
