"""Lesions of two time points, matched by position."""

import pytest

from crlm_jax.imaging.lesions import Lesion
from crlm_jax.recist.matching import Match, match_lesions


def lesion(length, *centre) -> Lesion:
    return Lesion(1, 1.0, length, 0, centre, length, ((0.0, 0.0), (0.0, length)))


def test_moved_shrunk_vanished_and_new_lesions_are_matched():
    before = [lesion(30, 0, 0, 0), lesion(12, 60, 0, 0), lesion(20, 0, 80, 0)]
    after = [lesion(9, 63, 2, 0), lesion(25, 5, 0, 3), lesion(10, 100, 100, 0)]
    assert match_lesions(before, after) == Match(((0, 1), (1, 0)), (), (), (2,))
    assert match_lesions(before, []) == Match((), (), (), ())
    assert match_lesions([], after) == Match((), (), (), (0, 1, 2))


@pytest.mark.parametrize(("apart", "paired"), [(29.9, True), (30.0, False)])
def test_a_pair_is_nearer_than_the_larger_diameter(apart, paired):
    for pair in ((30, 10), (10, 30)):
        found = match_lesions([lesion(pair[0], 0, 0, 0)], [lesion(pair[1], 0, apart, 0)])
        assert (found.pairs, found.new) == ((((0, 0),), ()) if paired else ((), (0,)))


def test_a_lesion_does_not_give_up_a_good_partner_for_more_pairs():
    before = [lesion(30, 0, 0, 0), lesion(30, 25, 0, 0)]  # the second vanished
    after = [lesion(28, 2, 0, 0), lesion(20, -25, 0, 0)]  # the second is new
    assert match_lesions(before, after) == Match(((0, 0),), (), (), (1,))


def test_fragments_and_merged_lesions():
    whole, parts = [lesion(40, 0, 0, 0)], [lesion(15, 4, 0, 0), lesion(12, -15, 0, 0)]
    assert match_lesions(whole, parts) == Match(((0, 0),), ((0, 1),), (), ())
    assert match_lesions(parts, whole) == Match(((0, 0),), (), ((1, 0),), ())
