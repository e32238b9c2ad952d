"""Lesions of two time points, matched by the places that they take up."""

import time

import numpy as np
import pytest

from crlm_jax.imaging.geometry import Geometry
from crlm_jax.recist.matching import Body, Match, locate_lesions, match_lesions
from tests.imaging.test_lesions import grid
from tests.recist.bodies import ball

PAIR = Match(pairs=((0, 0),))
VANISHED_AND_NEW = Match(new=(0,))


def test_moved_shrunk_vanished_and_new_lesions_are_matched():
    before = [ball(30, 0, 0, 0), ball(12, 60, 0, 0), ball(20, 0, 80, 0)]
    after = [ball(9, 63, 2, 0), ball(25, 5, 0, 3), ball(10, 100, 100, 0)]
    assert match_lesions(before, after) == Match(((0, 1), (1, 0)), (), (), (2,))
    assert match_lesions(before, []) == Match((), (), (), ())
    assert match_lesions([], after) == Match((), (), (), (0, 1, 2))
    # The order of the lesions changes nothing.
    assert match_lesions(before[::-1], after[::-1]) == Match(((1, 2), (2, 1)), (), (), (0,))


# Once a pair could be a whole diameter of the larger lesion apart: a new lesion of 12 mm that
# touched the place of a vanished one of 60 mm made a response of −80 %.
@pytest.mark.parametrize(
    ("before", "after", "apart", "expected"),
    [
        (60, 12, 36.5, VANISHED_AND_NEW),  # borders 0.5 mm apart
        (60, 12, 59, VANISHED_AND_NEW),
        (60, 12, 24, PAIR),  # within the old border: what is left of it
        (30, 10, 22, VANISHED_AND_NEW),
        (30, 10, 18, PAIR),  # beyond the old border by no more than breathing
        (20, 20, 8, PAIR),
        (20, 20, 20, VANISHED_AND_NEW),
        (4, 4, 4, VANISHED_AND_NEW),
    ],
)
def test_a_pair_lies_in_one_place(before, after, apart, expected):
    for first, second in ((before, after), (after, before)):
        assert match_lesions([ball(first, 0, 0, 0)], [ball(second, 0, apart, 0)]) == expected


def test_a_lesion_does_not_give_up_a_good_partner_for_more_pairs():
    before = [ball(30, 0, 0, 0), ball(30, 25, 0, 0)]  # the second vanished
    after = [ball(28, 2, 0, 0), ball(20, -25, 0, 0)]  # the second is new
    assert match_lesions(before, after) == Match(((0, 0),), (), (), (1,))


def test_fragments_and_merged_lesions():
    whole, parts = [ball(40, 0, 0, 0)], [ball(15, 4, 0, 0), ball(12, -15, 0, 0)]
    assert match_lesions(whole, parts) == Match(((0, 0),), ((0, 1),), (), ())
    assert match_lesions(parts, whole) == Match(((0, 0),), (), ((1, 0),), ())


def test_a_new_lesion_beside_one_that_stays_is_new():
    before = [ball(40, 0, 0, 0)]
    after = [ball(35, 0, 0, 0), ball(10, 26, 0, 0)]
    assert match_lesions(before, after) == Match(((0, 0),), (), (), (1,))


def test_points_of_a_lesion_fill_its_voxels_in_patient_coordinates():
    mask = np.zeros((4, 8, 8), bool)
    mask[1:3, 2, 3:5] = True
    mask[0, 7, 7] = True
    geometry = Geometry((8, 8, 4), (0.8, 0.8, 5.0), (-10.0, 5.0, 100.0), tuple(np.eye(3).ravel()))
    single, block = locate_lesions(mask, geometry)
    assert block.volume == pytest.approx(4 * 0.8 * 0.8 * 5)
    assert single.volume == pytest.approx(0.8 * 0.8 * 5)
    assert block.points.mean(axis=0) == pytest.approx((-10 + 3.5 * 0.8, 5 + 2 * 0.8, 107.5))
    heights = np.unique(block.points[:, 2].round(6))
    assert np.diff(heights) == pytest.approx(np.ones(9))
    assert heights[[0, -1]] == pytest.approx((103, 112))  # borders at 102.5 and 112.5


def test_grids_may_differ():
    axes = (1.0, 0.0, 0.0, 0.0, 0.0, 1.0, 0.0, -1.0, 0.0)  # coronal, against axial
    coronal = Geometry((64, 40, 12), (1.0, 1.5, 5.0), (0.0, 3.0, 55.0), axes)
    axial = grid((12, 64, 64), (1.0, 1.0, 5.0))
    bodies = []
    for geometry in (axial, coronal):
        places = geometry.to_patient(np.indices(geometry.axial_size).reshape(3, -1).T)
        inside = np.linalg.norm(places - np.array((30, 30, 30)), axis=1) <= 9
        bodies.append(locate_lesions(inside.reshape(geometry.axial_size), geometry))
    assert match_lesions(*bodies) == PAIR


def test_thousands_of_specks_are_matched_in_seconds():
    rng = np.random.default_rng(0)
    specks = [
        Body(place + rng.uniform(0, 1, (4, 3)), 1.0) for place in rng.uniform(0, 400, (2000, 3))
    ]
    start = time.perf_counter()
    found = match_lesions(specks, specks)
    assert time.perf_counter() - start < 30
    assert found.pairs == tuple((i, i) for i in range(2000))


@pytest.mark.parametrize("length", [12, 20, 40])
def test_simulated_patients(length):
    rng = np.random.default_rng(length)
    shrunken = neighbours = 0
    for _ in range(40):
        before = [ball(length, 0, 0, 0)]
        jitter = rng.normal(0, 1.5, 3)
        shrunken += match_lesions(before, [ball(length * rng.uniform(0.3, 1), *jitter)]) == PAIR
        direction = rng.normal(size=3)
        direction /= np.linalg.norm(direction)
        place = direction * length * rng.uniform(1, 1.5)
        new = ball(length * rng.uniform(0.2, 1), *place)
        neighbours += match_lesions(before, [new]) == VANISHED_AND_NEW
    assert (shrunken, neighbours) == (40, 40)
