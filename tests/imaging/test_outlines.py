"""Outlines of masks: filled, they give the mask back, one polygon a part, holes cut out."""

import numpy as np

from crlm_jax.imaging.outlines import trace_outlines
from crlm_jax.imaging.polygons import drop_doubles, fill_polygons


def test_random_masks_come_back_whatever_program_fills_them():
    random = np.random.default_rng(0)
    holes = 0
    for number in range(80):
        shape = tuple(random.integers(1, 12, 2))
        mask = random.random(shape) < random.random()
        outlines = trace_outlines(mask)
        each = [fill_polygons([outline], shape) for outline in outlines]
        np.testing.assert_array_equal(fill_polygons(outlines, shape), mask, str(number))
        union, parity = np.zeros((2, *shape), bool)
        for own in each:
            union |= own
            parity ^= own
        np.testing.assert_array_equal(union, mask)  # of programs that join contours
        np.testing.assert_array_equal(parity, mask)  # of programs that take their parity
        assert drop_doubles(outlines, shape)[1] == 0
        holes += sum(len(outline) != len(np.unique(outline, axis=0)) for outline in outlines)
    assert holes > 8


def test_a_ring_around_an_island_is_one_polygon_and_the_island_another():
    mask = np.zeros((20, 20), bool)
    mask[2:15, 3:16] = True
    mask[4:13, 5:14] = False
    mask[7:10, 8:11] = True
    ring, island = sorted(trace_outlines(mask), key=len, reverse=True)
    # Two octagons; where the line to the hole begins and ends, and the hole's first corner again.
    assert len(ring) == 8 + 8 + 2 + 1
    assert len(island) == 8
    assert island.min() == 6.5
    assert island[:, 0].max() == 10.5


def test_no_voxel_no_outline_and_one_voxel_is_a_diamond():
    assert trace_outlines(np.zeros((4, 4), bool)) == []
    mask = np.zeros((4, 4), bool)
    mask[0, 3] = True
    (outline,) = trace_outlines(mask)
    assert sorted(map(tuple, outline.tolist())) == [(2.5, 0), (3, -0.5), (3, 0.5), (3.5, 0)]
