"""Matches the lesions of two time points by position.

The time points must share patient coordinates: both scans of one examination, or registered scans.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np
from scipy.optimize import linear_sum_assignment
from scipy.spatial import distance

from crlm_jax.imaging.lesions import Lesion


@dataclasses.dataclass(frozen=True)
class Match:
    """Which lesions of two time points are the same, as indices (before, after)."""

    pairs: tuple[tuple[int, int], ...] = ()  # one to one
    fragments: tuple[tuple[int, int], ...] = ()  # further parts of a paired lesion that split
    merged: tuple[tuple[int, int], ...] = ()  # lesions that became part of another's partner
    new: tuple[int, ...] = ()  # after only


def match_lesions(before: Sequence[Lesion], after: Sequence[Lesion]) -> Match:
    """Matches lesions by the distance of their centres in shared patient coordinates (mm).

    The pairs are the one-to-one assignment with the greatest sum of 1 − distance / limit, where the
    limit is the diameter of the larger lesion of the pair. Lesions at the limit or beyond are never
    a pair.

    Unpaired lesions are then looked at by the nearest centre of the other time point, relative to
    the diameter there. A later lesion less than half an earlier lesion's diameter from that
    lesion's centre is its fragment; otherwise it is new. An earlier lesion less than half a later
    lesion's diameter from that lesion's centre merged into it; otherwise it vanished.
    """
    if not before or not after:
        return Match(new=tuple(range(len(after))))
    distances = distance.cdist(
        [lesion.centre for lesion in before], [lesion.centre for lesion in after]
    )
    long_before = np.array([[lesion.diameter] for lesion in before])
    long_after = np.array([lesion.diameter for lesion in after])
    # With a gain instead of a cost, a lesion stays unpaired rather than take the partner that fits
    # another lesion best.
    gain = np.maximum(1 - distances / np.maximum(long_before, long_after), 0)
    assigned = np.transpose(linear_sum_assignment(gain, maximize=True)).tolist()
    pairs = [(i, j) for i, j in assigned if gain[i, j] > 0]
    alone = sorted(set(range(len(before))) - {i for i, _ in pairs})
    left = sorted(set(range(len(after))) - {j for _, j in pairs})
    # Distances in radii of the earlier, and of the later lesion.
    inside, within = distances / (long_before / 2), distances / (long_after / 2)
    return Match(
        pairs=tuple(pairs),
        fragments=tuple((int(inside[:, j].argmin()), j) for j in left if inside[:, j].min() < 1),
        merged=tuple((i, int(within[i].argmin())) for i in alone if within[i].min() < 1),
        new=tuple(j for j in left if inside[:, j].min() >= 1),
    )
