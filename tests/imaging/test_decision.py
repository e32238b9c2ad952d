"""From probabilities to masks: what is removed, in one place."""

import numpy as np
import pytest

from crlm_jax.imaging.decision import MaskRule, grow, largest_part, outside_of
from crlm_jax.imaging.geometry import Geometry

UPRIGHT = (1.0, 0, 0, 0, 1.0, 0, 0, 0, 1.0)
GRID = Geometry((10, 10, 2), (0.5, 0.5, 8.0), (0.0, 0.0, 0.0), UPRIGHT)  # 2 mm³ a voxel


@pytest.fixture
def probability() -> np.ndarray:
    found = np.zeros((2, 10, 10), np.float32)
    found[0, 1, 1:3] = 0.9  # 2 voxels
    found[1, 5, 5:8] = 0.6  # 3 voxels
    found[1, 0, 9] = 0.3
    return found


def test_small_lesions_are_removed_by_volume(probability):
    left = {
        least: int(MaskRule(0.5, least).decide(probability, GRID).sum())
        for least in (0.0, 4.0, 4.1, 6.0, 6.1)
    }
    assert left == {0.0: 5, 4.0: 5, 4.1: 3, 6.0: 3, 6.1: 0}


def test_what_the_liver_cuts_off_a_lesion_counts_before_its_volume(probability):
    liver = np.ones(probability.shape, bool)
    liver[1, 5, 7] = False
    assert MaskRule(0.5, 6.0).decide(probability, GRID, outside_of(None, liver)).sum() == 0
    padding = np.zeros(probability.shape, bool)
    padding[0] = True
    mask = MaskRule(0.5).decide(probability, GRID, outside_of(padding, liver))
    assert np.argwhere(mask).tolist() == [[1, 5, 5], [1, 5, 6]]
    assert outside_of(padding, None) is padding
    assert outside_of(None, None) is None


def test_a_probability_of_the_networks_size_is_brought_to_the_images():
    small = np.full((2, 5, 5), 0.9, np.float32)
    assert MaskRule(0.5).decide(small, GRID).all()


def test_the_largest_part_is_grown_by_millimetres():
    mask = np.zeros((2, 10, 10), bool)
    mask[0, 5, 5:7] = mask[1, 0, 0] = True
    liver = largest_part(mask)
    assert np.argwhere(liver).tolist() == [[0, 5, 5], [0, 5, 6]]
    grown = grow(liver, 0.5, GRID)
    assert np.argwhere(grown[0]).tolist() == [
        [4, 5], [4, 6], [5, 4], [5, 5], [5, 6], [5, 7], [6, 5], [6, 6],
    ]  # fmt: skip
    assert not grown[1].any()  # 8 mm away
    assert not grow(np.zeros_like(mask), 5.0, GRID).any()
    assert largest_part(np.zeros_like(mask)).sum() == 0
