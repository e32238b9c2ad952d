"""Regions: numbered as lesions, measured whole, and said to be scattered."""

import numpy as np
import pytest

from crlm_jax.imaging.geometry import Geometry
from crlm_jax.imaging.lesions import label_lesions, measure_lesions
from crlm_jax.imaging.regions import (
    Region,
    components,
    fill,
    measure_regions,
    number,
    scattered,
    split,
)

SHAPE = (6, 20, 30)
GRID = Geometry((30, 20, 6), (1.0, 1.5, 5.0), (0.0, 0.0, 0.0), tuple(np.eye(3).ravel()))


def box(*edges: tuple[int, int], name: str = "") -> Region:
    mask = np.zeros(SHAPE, bool)
    mask[tuple(slice(*edge) for edge in edges)] = True
    return Region.of(mask, name)


def test_a_region_of_a_mask_and_of_places_is_the_same():
    mask = np.random.default_rng(0).random(SHAPE) > 0.99
    for region in (Region.of(mask), Region.at(np.argwhere(mask))):
        np.testing.assert_array_equal(fill([region], SHAPE), mask)
        assert region.first == tuple(np.argwhere(mask)[0])
    for empty in (Region.of(np.zeros(SHAPE, bool)), Region.at(np.zeros((0, 3), int))):
        assert not fill([empty], SHAPE).any()
        assert components(empty) == []
        assert empty.first == ()


@pytest.mark.parametrize("direction", [(1, 0, 0, 0, -1, 0, 0, 0, -1), (0, 0, 1, -1, 0, 0, 0, 1, 0)])
def test_a_region_turns_as_its_grid(direction):
    grid = Geometry((30, 20, 6), (1.0, 1.5, 5.0), (3.0, -4.0, 5.0), direction)
    mask = np.random.default_rng(1).random(SHAPE) > 0.995
    turned = Region.of(mask).to_axial(grid)
    np.testing.assert_array_equal(fill([turned], grid.axial_size), grid.to_axial(mask))


def test_touching_regions_stay_apart_and_are_measured_as_ever():
    left, right = box((1, 3), (5, 9), (2, 10)), box((1, 2), (5, 9), (10, 14))
    doubts = []
    labels, kept = number([left, right], SHAPE, doubts)
    assert label_lesions(labels > 0)[1] == 1
    assert doubts == []
    assert np.unique(labels).tolist() == [0, 1, 2]
    assert measure_regions(kept, GRID) == measure_lesions(labels, GRID)
    np.testing.assert_array_equal(fill(split(labels), SHAPE), labels > 0)


def test_an_overlap_takes_no_lesion_and_no_diameter():
    large, small = box((1, 2), (4, 5), (0, 20), name="a"), box((1, 2), (4, 5), (18, 24), name="b")
    doubts = []
    labels, kept = number([large, small], SHAPE, doubts)
    assert np.bincount(labels.ravel()).tolist()[1:] == [18, 6]
    assert [lesion.diameter for lesion in measure_regions(kept, GRID)] == [20.0, 6.0]
    (doubt,) = doubts
    assert "overlap in 2 voxels" in doubt


def test_a_lesion_within_an_outline_is_kept_and_a_second_outline_is_none():
    one, two = box((0, 1), (0, 4), (0, 4), name="one"), box((2, 3), (0, 4), (0, 4), name="two")
    both = Region.of(fill([one, two], SHAPE), "all")
    doubts = []
    labels, kept = number([both, one, two, box((0, 0), (0, 0), (0, 0))], SHAPE, doubts)
    assert [region.name for region in kept] == ["one", "two"]
    assert labels.max() == 2
    assert "all lies wholly within others" in doubts[0]
    assert len(doubts) == 1
    inner, doubts = box((0, 1), (1, 2), (1, 2), name="inner"), []
    assert [region.name for region in number([one, inner], SHAPE, doubts)[1]] == ["one", "inner"]
    assert "overlap in 1 voxels" in doubts[0]
    twice, doubts = number([one, box((0, 1), (0, 4), (0, 4), name="again")], SHAPE, []), []
    assert [region.name for region in twice[1]] == ["one"]


@pytest.mark.parametrize(("gap", "said"), [(10, 0), (11, 0), (13, 1)])
def test_parts_far_apart_are_said(gap, said):
    mask = np.zeros(SHAPE, bool)
    mask[2, 5, 3] = mask[2, 5, 3 + gap] = True
    found = scattered([Region.of(mask, "segment 'x'")], GRID)
    assert len(found) == said
    if said:
        assert found[0].startswith("segment 'x' is drawn in 2 parts more than 10 mm apart")
