"""The lesions of one time point found again at another, by their position."""

import dataclasses
from collections.abc import Sequence

import numpy as np
from scipy.optimize import linear_sum_assignment
from scipy.spatial import distance

from crlm_jax.imaging.lesions import Lesion


@dataclasses.dataclass(frozen=True)
class Match:
    """Which lesions of two time points are the same; (before, after) are indices."""

    pairs: tuple[tuple[int, int], ...]  # one to one
    fragments: tuple[tuple[int, int], ...]  # further parts of a paired lesion that split
    merged: tuple[tuple[int, int], ...]  # lesions that became part of another one's partner
    new: tuple[int, ...]


def match(before: Sequence[Lesion], after: Sequence[Lesion]) -> Match:
    """Finds lesions again at a later time, by their centres in shared patient coordinates.

    Pairs are one to one, and such that the sum of 1 − distance / limit is greatest, with the limit
    the diameter (mm) of the larger of the two; at the limit and beyond it there is no pair. A later
    lesion left over is a fragment of the earlier one whose centre is less than half the latter's
    diameter away, else new; an earlier one left over merged into the later one whose centre is less
    than half the latter's diameter away, else vanished.
    """
    if not before or not after:
        return Match((), (), (), tuple(range(len(after))))
    apart = distance.cdist(
        [lesion.centre for lesion in before], [lesion.centre for lesion in after]
    )
    long_before = np.array([[lesion.diameter] for lesion in before])
    long_after = np.array([lesion.diameter for lesion in after])
    # A gain, not a cost: a lesion stays alone rather than take the partner that fits another best.
    gain = np.maximum(1 - apart / np.maximum(long_before, long_after), 0)
    places = np.transpose(linear_sum_assignment(gain, maximize=True)).tolist()
    pairs = [(i, j) for i, j in places if gain[i, j] > 0]
    alone = sorted(set(range(len(before))) - {i for i, _ in pairs})
    left = sorted(set(range(len(after))) - {j for _, j in pairs})
    inside, within = apart / (long_before / 2), apart / (long_after / 2)
    return Match(
        pairs=tuple(pairs),
        fragments=tuple((int(inside[:, j].argmin()), j) for j in left if inside[:, j].min() < 1),
        merged=tuple((i, int(within[i].argmin())) for i in alone if within[i].min() < 1),
        new=tuple(j for j in left if inside[:, j].min() >= 1),
    )
