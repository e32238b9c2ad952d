"""Polygons filled on pixels: which centres count, holes, islands, what crosses."""

import numpy as np
import pytest

from crlm_jax.imaging.polygons import fill_polygons

SHAPE = (20, 30)


def square(low: float, high: float, y: float = 0.0) -> np.ndarray:
    return np.array([(low, low + y), (high, low + y), (high, high + y), (low, high + y)])


def expected(low: int, high: int) -> np.ndarray:
    mask = np.zeros(SHAPE, bool)
    mask[low:high, low:high] = True
    return mask


@pytest.mark.parametrize("edge", [0.0, 0.3, 0.5, -0.0049])
def test_contours_through_the_centres_and_along_the_edges_give_the_mask_back(edge):
    found = fill_polygons([square(3 - edge, 9 + edge)], SHAPE)
    np.testing.assert_array_equal(found, expected(3, 10))
    reversed_and_closed = np.vstack([square(3 - edge, 9 + edge), square(3 - edge, 9 + edge)[:1]])
    np.testing.assert_array_equal(fill_polygons([reversed_and_closed[::-1]], SHAPE), found)


def test_a_disc_is_the_pixels_whose_centres_lie_in_it():
    angle = np.linspace(0, 2 * np.pi, 400, endpoint=False)
    circle = np.stack([14.2 + 6.25 * np.cos(angle), 9.7 + 6.25 * np.sin(angle)], axis=1)
    y, x = np.indices(SHAPE)
    inside = (x - 14.2) ** 2 + (y - 9.7) ** 2 <= 6.25**2
    np.testing.assert_array_equal(fill_polygons([circle], SHAPE), inside)


def test_holes_islands_and_keyholes():
    outer, hole, island = square(1.5, 16.5), square(4.5, 12.5), square(7.5, 9.5)
    mask = expected(2, 17) ^ expected(5, 13) ^ expected(8, 10)
    np.testing.assert_array_equal(fill_polygons([outer, hole, island], SHAPE), mask)
    np.testing.assert_array_equal(fill_polygons([island, outer, hole], SHAPE), mask)
    slit = np.vstack([outer, outer[:1], hole, hole[:1]])  # in along one line, and out again
    np.testing.assert_array_equal(
        fill_polygons([slit], SHAPE) & ~fill_polygons([hole], SHAPE),
        expected(2, 17) & ~expected(5, 13),
    )
    assert not fill_polygons([slit], SHAPE)[6:12, 6:12].any()


def test_what_crosses_is_joined_and_what_is_there_twice_counts_once():
    one, other = square(1.5, 8.5), square(5.5, 12.5)
    mask = expected(2, 9) | expected(6, 13)
    np.testing.assert_array_equal(fill_polygons([one, other], SHAPE), mask)
    np.testing.assert_array_equal(fill_polygons([one, other, np.roll(one, 1, axis=0)], SHAPE), mask)


def test_what_lies_outside_is_left_out():
    np.testing.assert_array_equal(fill_polygons([square(-40, 60)], SHAPE), np.ones(SHAPE, bool))
    assert not fill_polygons([square(3.2, 3.4)], SHAPE).any()
    assert not fill_polygons([np.array([(2.5, 2.5)])], SHAPE).any()
    assert not fill_polygons([square(-60, -40)], SHAPE).any()
