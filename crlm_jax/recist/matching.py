"""Matches the lesions of two time points by the places that they take up.

The time points must share patient coordinates: both scans of one examination, or registered scans.
Their grids may differ, since places are points in mm and no mask is resampled.
"""

import dataclasses
from collections.abc import Iterable, Sequence

import numpy as np
from scipy.optimize import linear_sum_assignment
from scipy.spatial import KDTree

from crlm_jax.imaging.geometry import Geometry
from crlm_jax.imaging.lesions import label_lesions
from crlm_jax.imaging.regions import Region, split

STEP = 1.0  # mm, the widest gap between the points of a lesion along an axis of its grid
SAMPLE = 5000  # points of a lesion, about the most that are looked at for its share
SHARE = 0.5  # of a lesion, the least that must lie in another's place to be the same lesion
MARGIN = 1 / 3  # of the longer lesion: how far breathing and registration may move a lesion …
LEAST_MARGIN, MOST_MARGIN = 1.0, 5.0  # … in mm, within these limits


@dataclasses.dataclass(frozen=True)
class Match:
    """Which lesions of two time points are the same, as indices (before, after)."""

    pairs: tuple[tuple[int, int], ...] = ()  # one to one
    fragments: tuple[tuple[int, int], ...] = ()  # further parts of a paired lesion that split
    merged: tuple[tuple[int, int], ...] = ()  # lesions that became part of another's partner
    new: tuple[int, ...] = ()  # after only
    registered: bool = False  # whether the scans were aligned by their images


@dataclasses.dataclass(frozen=True, eq=False)
class Body:
    """Where a lesion lies: points (N, 3) all over it, in patient coordinates (L, P, S) in mm.

    Every point stands for the same volume, `point_volume` in mm³.
    """

    points: np.ndarray
    point_volume: float

    @property
    def volume(self) -> float:
        """Volume of the lesion, in mm³."""
        return len(self.points) * self.point_volume

    @property
    def length(self) -> float:
        """Diameter of the ball of the same volume, in mm."""
        return float(np.cbrt(6 * self.volume / np.pi))


def locate_lesions(mask: np.ndarray, geometry: Geometry) -> list[Body]:
    """Locates the lesions of a mask, bool (Z, H, W), in the order of `lesions.label_lesions`."""
    return locate_labels(label_lesions(mask)[0], geometry)


def locate_labels(labels: np.ndarray, geometry: Geometry) -> list[Body]:
    """Locates the lesions of a label map (Z, H, W), 1 … n, in label order."""
    return locate_regions(split(labels), geometry)


def locate_regions(regions: Iterable[Region], geometry: Geometry) -> list[Body]:
    """Locates lesions that were drawn apart, on the axial slices of a grid."""
    spacing = np.array(geometry.axial_spacing)
    parts = np.ceil(spacing / STEP).astype(int)  # of a voxel, along each axis
    offsets = (np.argwhere(np.ones(parts, bool)) + 0.5) / parts - 0.5
    bodies = []
    for region in regions:
        voxels = np.argwhere(region.inside) + region.start
        points = geometry.to_patient((voxels[:, None] + offsets).reshape(-1, 3))
        bodies.append(Body(points, float(spacing.prod() / len(offsets))))
    return bodies


def out_of_view(
    before: Sequence[Body], after: Sequence[Body], view_before: Geometry, view_after: Geometry
) -> list[str]:
    """Says which lesions the image of the other time point shows less than half of.

    Nobody can say of such a lesion that it vanished, or that it is new. All is in shared patient
    coordinates.
    """

    def unseen(bodies: Sequence[Body], view: Geometry) -> list[int]:
        shares = [view.shows(body.points).mean() for body in bodies]
        return [number for number, share in enumerate(shares, start=1) if share < SHARE]

    return [
        f"lesion {number} of the baseline lies outside the follow-up's image, so that nobody can "
        "say whether it vanished"
        for number in unseen(before, view_after)
    ] + [
        f"lesion {number} of the follow-up lies outside the baseline's image, so that nobody can "
        "say whether it is new"
        for number in unseen(after, view_before)
    ]


def match_lesions(before: Sequence[Body], after: Sequence[Body]) -> Match:
    """Matches lesions that lie in the same place in shared patient coordinates.

    The place of a lesion is the lesion and a margin around it, which is a third of the longer of
    both lesions, and 1 to 5 mm. Two lesions can be a pair if half of one lies in the place of the
    other. So a shrunken lesion keeps its partner if it moved by a few mm, and a new lesion beside
    the place of a vanished one gets none. The pairs are the one-to-one assignment with the greatest
    sum of shared volume; the volume that two lesions share is relative to that of both.

    A later lesion without a partner is a fragment of the earlier lesion whose place holds most of
    it, if that is half of it or more; otherwise it is new. An earlier lesion without a partner
    merged into the later lesion whose place holds most of it, if that is half of it or more;
    otherwise it vanished.
    """
    if not before or not after:
        return Match(new=tuple(range(len(after))))
    inside, within = _shares(before, after)
    sizes_before = np.array([[body.volume] for body in before])
    sizes_after = np.array([body.volume for body in after])
    # With a gain instead of a cost, a lesion stays unpaired rather than take the partner that fits
    # another lesion best.
    gain = (inside * sizes_after + within * sizes_before) / (sizes_before + sizes_after)
    gain[np.maximum(inside, within) < SHARE] = 0
    assigned = np.transpose(linear_sum_assignment(gain, maximize=True)).tolist()
    pairs = [(i, j) for i, j in assigned if gain[i, j] > 0]
    alone = sorted(set(range(len(before))) - {i for i, _ in pairs})
    left = sorted(set(range(len(after))) - {j for _, j in pairs})
    return Match(
        pairs=tuple(pairs),
        fragments=tuple(
            (int(inside[:, j].argmax()), j) for j in left if inside[:, j].max() >= SHARE
        ),
        merged=tuple((i, int(within[i].argmax())) for i in alone if within[i].max() >= SHARE),
        new=tuple(j for j in left if inside[:, j].max() < SHARE),
    )


def _shares(before: Sequence[Body], after: Sequence[Body]) -> tuple[np.ndarray, np.ndarray]:
    """Returns which share of each later lesion lies in the place of each earlier one, and vice
    versa; both (before, after).
    """
    inside, within = np.zeros((2, len(before), len(after)))
    trees = [[KDTree(body.points) for body in bodies] for bodies in (before, after)]
    low = [np.array([tree.mins for tree in each]) for each in trees]
    high = [np.array([tree.maxes for tree in each]) for each in trees]
    # Only lesions whose boxes are close are looked at: noisy masks have thousands of specks.
    close = (low[0][:, None] <= high[1] + MOST_MARGIN) & (low[1] <= high[0][:, None] + MOST_MARGIN)
    for i, j in np.argwhere(close.all(axis=2)):
        earlier, later = trees[0][i], trees[1][j]
        length = max(before[i].length, after[j].length)
        margin = float(np.clip(MARGIN * length, LEAST_MARGIN, MOST_MARGIN))
        inside[i, j] = _share(later, earlier, margin)
        within[i, j] = _share(earlier, later, margin)
    return inside, within


def _share(part: KDTree, whole: KDTree, margin: float) -> float:
    """Returns the share of the points of `part` that are at most `margin` mm from `whole`."""
    low, high = whole.mins - margin, whole.maxes + margin
    some = part.data[:: -(-part.n // SAMPLE)]
    near = some[((some >= low) & (some <= high)).all(axis=1)]
    if not len(near):
        return 0.0
    distances, _ = whole.query(near, distance_upper_bound=margin)
    return float(np.isfinite(distances).sum() / len(some))
