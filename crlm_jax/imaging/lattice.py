"""Places the regions of a mask on the grid of its image.

A mask lies on the image's lattice if each of its voxels is one of the image, or would be one if the
image went on: axes flipped or permuted, cropped, an origin a little off. Such a mask is placed, and
no value of it changes. A finer, coarser, shifted or turned grid is another matter: it is refused,
or resampled if the user asks for that.
"""

import dataclasses
import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

import numpy as np
from scipy import ndimage

from crlm_jax.imaging.geometry import (
    GEOMETRY_TOLERANCE,
    IN_TRAINING,
    ON_THE_GRID,
    Geometry,
    VolumeError,
    check_same_grid,
    check_size,
)
from crlm_jax.imaging.regions import Region

RESAMPLE = "take masks on another grid than the image's, and resample them"  # what the option does
SLIGHT = 0.1  # of a voxel: how far a mask's voxel may lie from one of the image
# The least share of a voxel that a resampled region must fill: half, but for rounding.
HALF = 0.5 - 1e-4
_SUBPOINTS = 8  # along an axis of a voxel, the most at which a finer mask is looked up
_TIE = 1e-3  # of a voxel, so that a mask shifted by half a voxel neither grows nor shrinks


def _to_mm(geometry: Geometry) -> tuple[np.ndarray, np.ndarray]:
    """Returns matrix and origin that map indices (x, y, z) to mm; a 2D image lies at z = 0."""
    matrix, origin = np.eye(3), np.zeros(3)
    n = len(geometry.size)
    matrix[:n, :n] = np.reshape(geometry.direction, (n, n)) * geometry.spacing
    origin[:n] = geometry.origin
    return matrix, origin


def _between(mask: Geometry, image: Geometry) -> tuple[np.ndarray, np.ndarray]:
    """Returns the matrix and the offset that map a mask's indices (x, y, z) to the image's."""
    (of_mask, from_mask), (of_image, from_image) = _to_mm(mask), _to_mm(image)
    return np.linalg.solve(of_image, of_mask), np.linalg.solve(of_image, from_mask - from_image)


def _size(geometry: Geometry) -> np.ndarray:
    return np.array((*geometry.size, 1)[:3])


def _corners(geometry: Geometry) -> np.ndarray:
    """Returns the indices (8, 3) of the corner voxels."""
    return np.array(list(itertools.product(*((0, n - 1) for n in _size(geometry).tolist()))))


def _apart(mask: Geometry, image: Geometry) -> bool:
    """Whether a mask lies beside its image, where resampling would find nothing of it."""
    if _is_default(mask) or _is_default(image):
        return False
    matrix, offset = _between(mask, image)
    corners = _corners(mask) @ matrix.T + offset
    beside = (corners.max(axis=0) < -0.5) | (corners.min(axis=0) > _size(image) - 0.5)
    return bool(beside.any())


def _is_default(geometry: Geometry) -> bool:
    """Whether a header says nothing of where its voxels lie, as that of a picture."""
    matrix, origin = _to_mm(geometry)
    return len(geometry.size) == 2 or (np.array_equal(matrix, np.eye(3)) and not origin.any())


@dataclasses.dataclass(frozen=True)
class Placement:
    """Which voxel of an image each voxel of a mask is; axes are (x, y, z)."""

    turn: np.ndarray  # (3, 3) of 0 and ±1, from the mask's axes to the image's
    offset: np.ndarray  # (3,) int: the image's voxel at which the mask's first voxel lies
    off: float  # the farthest that a voxel of the mask lies from that of the image, in voxels

    @classmethod
    def find(cls, mask: Geometry, image: Geometry) -> "Placement | None":
        """Finds the placement of a mask; None: the mask is not on the image's lattice."""
        matrix, offset = _between(mask, image)
        turn = np.rint(matrix)
        if not np.array_equal(np.abs(turn) @ np.abs(turn).T, np.eye(3)):
            return None
        drift = _corners(mask) @ (matrix - turn).T + offset
        whole = np.rint((drift.min(axis=0) + drift.max(axis=0)) / 2)
        off = float(np.abs(drift - whole).max())
        return cls(turn.astype(int), whole.astype(int), off) if off <= SLIGHT else None

    def place(self, region: Region) -> Region:
        """Turns and moves a region by (slice, row, column) onto the image's grid."""
        turn = self.turn[::-1, ::-1]  # of the arrays' axes, which run in the opposite order
        axes = np.abs(turn).argmax(axis=1)
        signs = turn[range(3), axes]
        inside = np.flip(region.inside.transpose(axes), tuple(np.flatnonzero(signs < 0).tolist()))
        low = self.offset[::-1] + signs * region.start[axes]
        low = low - np.where(signs < 0, np.array(inside.shape) - 1, 0)
        box = tuple(slice(a, a + n) for a, n in zip(low.tolist(), inside.shape, strict=True))
        return Region(box, np.ascontiguousarray(inside), region.name)

    def is_whole(self, mask: Geometry, image: Geometry) -> bool:
        """Whether the mask, turned, is as large as the image."""
        return np.array_equal(np.abs(self.turn) @ _size(mask), _size(image))

    def note(self, mask: Geometry, image: Geometry) -> list[str]:
        """Says in a sentence what was placed, if anything was."""
        said = []
        if not np.array_equal(self.turn, np.eye(3)):
            said.append("axes flipped or permuted")
        if not self.is_whole(mask, image):
            said.append("cropped, or larger than the image")
        elif (moved := self.offset - (self.turn.sum(axis=1) < 0) * (_size(image) - 1)).any():
            shown = ", ".join(map(str, moved.tolist()))
            said.append(f"moved by ({shown}) voxels along the image's axes, as its header says")
        if self.off > GEOMETRY_TOLERANCE:
            said.append(f"up to {self.off:.2g} of a voxel off")
        how = "placed on the image's grid, which its own is a part of"
        return [f"{how} ({', '.join(said)})"] if said else []


def place_regions(
    path: Path,
    regions: Sequence[Region],
    mask: Geometry,
    image: Geometry,
    image_path: Path,
    doubts: list[str],
    *,
    resample: bool = False,
) -> list[Region]:
    """Places the regions of a mask on the grid of its image.

    Args:
      path: of the mask.
      regions: by (slice, row, column) of the mask.
      mask: its geometry.
      image: that of the image.
      image_path: for messages.
      doubts: receives what the user should know, a sentence each.
      resample: resample a mask that is not on the image's lattice.

    Raises:
      VolumeError: the mask is on another grid, or marks voxels outside the image.
    """
    between = f"the mask {path} and the image {image_path}"
    same_kind = len(mask.size) == len(image.size)
    placement = Placement.find(mask, image) if same_kind else None
    if placement is not None:
        # A mask of another size is no crop if the header does not say where it lies, or says that
        # it begins where the image does: more likely it was resized and kept the image's header.
        near = GEOMETRY_TOLERANCE * min(image.spacing)
        unmoved = np.allclose(mask.origin, image.origin, rtol=0, atol=near)
        resized = not placement.is_whole(mask, image) and (unmoved or _is_default(mask))
        if resized and (_is_default(mask) or not resample):
            sizes = " and ".join(" × ".join(map(str, each.size)) for each in (mask, image))
            raise VolumeError(_UNPLACED.format(between, sizes))
        placed = [placement.place(region) for region in regions]
        size = _size(image)[::-1]
        inside = [
            all(e.start >= 0 and e.stop <= n for e, n in zip(region.box, size, strict=True))
            for region in placed
            if region.inside.size
        ]
        if not all(inside):
            raise VolumeError(_OUTSIDE.format(between))
        doubts += placement.note(mask, image)
        if resized:
            doubts.append(_CROPPED)
        return placed
    if not (resample and same_kind) or _is_default(mask):
        _refuse_grid(mask, image, between)
    shown = " × ".join(f"{value:.3g}" for value in mask.spacing)
    doubts.append(
        f"resampled from {shown} mm onto the image's grid, where a voxel counts from half of it; "
        "see that the lesions lie where they should"
    )
    return _resample(regions, mask, image, between, doubts)


def _refuse_grid(mask: Geometry, image: Geometry, between: str) -> NoReturn:
    """Says how a mask's grid is another than its image's, and what would help."""
    if len(mask.size) != len(image.size):
        raise VolumeError(_OTHER_KIND.format(between))
    if _apart(mask, image):
        raise VolumeError(_APART.format(between))
    check_same_grid(between, mask, image)
    raise VolumeError(_OTHER_GRID.format(between))


_OUTSIDE = (
    "{} do not cover the same place: the mask marks voxels outside the image; give the image that "
    "the mask was drawn on"
)
_APART = (
    "{} do not cover the same place by their headers, so that resampling would find nothing; give "
    "the image that the mask was drawn on, or export the mask again with that image's header"
)
_OTHER_KIND = (
    "{} differ: one is a single picture (2D), the other a volume; give the image that the mask was "
    "drawn on, or a mask of all its slices"
)
_CROPPED = (
    "it begins where the image does, and is smaller or larger; see that it was cropped, not resized"
)
_UNPLACED = (
    "{} differ in size ({} voxels), and the mask's header does not say which part of the image it "
    "covers; export or resample the mask onto the image's grid, with its header, or if the mask is "
    f"a crop from the image's first voxel on, give --resample-masks ({IN_TRAINING})"
)
_OTHER_GRID = "{} lie on grids that are shifted or turned; " + ON_THE_GRID


def _resample(
    regions: Sequence[Region], mask: Geometry, image: Geometry, between: str, doubts: list[str]
) -> list[Region]:
    """Resamples regions; see `place_regions`.

    The share of each voxel that a region fills is the mean of the mask, interpolated linearly, at
    points spread over the voxel: one along an axis on which the mask is coarser, so many that none
    of its voxels is missed where it is finer. So edges do not alias. A voxel counts that tumour
    fills to `HALF` or more, and belongs to each region that does so alone, or else to the one with
    the largest share. A region that fills no voxel so far keeps the fullest.
    """
    shares = [_share(region, mask, image, between) for region in regions if region.inside.any()]
    whole = np.zeros(_size(image)[::-1], np.float32)
    most = np.zeros_like(whole)
    for box, share, _ in shares:
        whole[box] += share
        np.maximum(most[box], share, out=most[box])
    placed, kept = [], 0
    for box, share, name in shares:
        inside = (share >= HALF) | ((whole[box] >= HALF) & (share > 0) & (share == most[box]))
        if not inside.any():
            if not share.any():
                raise VolumeError(_OUTSIDE.format(between))
            inside = share == share.max()
            kept += 1
        start = np.array([edge.start for edge in box])
        placed.append(Region.at(np.argwhere(inside) + start, name))
    if kept:
        doubts.append(
            f"{kept} lesion{'s' * (kept > 1)} would vanish at the image's resolution and kept the "
            "fullest voxel"
        )
    return placed


def _share(
    region: Region, mask: Geometry, image: Geometry, between: str
) -> tuple[tuple[slice, ...], np.ndarray, str]:
    """Returns a box of the image, the share of its voxels that a region fills, and its name."""
    matrix, offset = _between(image, mask)  # from the image's indices to the mask's
    back, shift = _between(mask, image)
    places = (np.argwhere(region.inside) + region.start)[:, ::-1]
    reached = places @ back.T + shift
    size = _size(image)
    if (reached < -0.5 - SLIGHT).any() or (reached > size - 0.5 + SLIGHT).any():
        raise VolumeError(_OUTSIDE.format(between))
    margin = np.abs(back).sum(axis=1) / 2 + 1
    low = np.clip(np.floor(reached.min(axis=0) - margin), 0, size - 1).astype(int)
    high = np.clip(np.ceil(reached.max(axis=0) + margin), 0, size - 1).astype(int) + 1
    # As many points along an axis as it passes voxels of the mask.
    steps = np.ceil(np.abs(matrix).max(axis=0) - 1e-3).clip(1, _SUBPOINTS).astype(int)
    axes = [np.arange(a, b) for a, b in zip(low, high, strict=True)]
    padded = np.pad(region.inside, 1).astype(np.float32)
    total = np.zeros([len(axis) for axis in axes], np.float32)
    spread = [(np.arange(n) + 0.5) / n - 0.5 + _TIE for n in steps.tolist()]
    for sub in itertools.product(*spread):
        points = np.meshgrid(*(a + s for a, s in zip(axes, sub, strict=True)), indexing="ij")
        own = np.tensordot(matrix, np.stack(points), 1) + offset[:, None, None, None]
        own = own[::-1] - (region.start - 1)[:, None, None, None]
        total += ndimage.map_coordinates(padded, own, order=1, prefilter=False)
    box = tuple(slice(int(a), int(b)) for a, b in zip(low[::-1], high[::-1], strict=True))
    return box, np.ascontiguousarray(total.T) / float(np.prod(steps)), region.name


def join(
    path: Path, drawings: Sequence[tuple[Sequence[Region], Geometry]]
) -> tuple[list[list[Region]], Geometry]:
    """Places the regions of several masks of one image on a grid that covers all of them.

    Args:
      path: of the first mask, for messages.
      drawings: the regions of each mask, and its geometry.

    Returns:
      The regions of each mask, placed, and the grid: the lattice of the first mask.

    Raises:
      VolumeError: the masks are not on one lattice, or the grid would be too large.
    """
    first = drawings[0][1]
    between = f"the mask {path} and another of the same image"
    placements, corners = [], []
    for _, geometry in drawings:
        placement = Placement.find(geometry, first)
        if placement is None or len(geometry.size) == 2:
            check_same_grid(between, geometry, first)
        if placement is None:
            raise VolumeError(_OTHER_GRID.format(between))
        placements.append(placement)
        corners.append(_corners(geometry) @ placement.turn.T + placement.offset)
    low = np.concatenate(corners).min(axis=0)
    size = (np.concatenate(corners).max(axis=0) - low + 1).tolist()
    check_size(path, size)
    matrix, origin = _to_mm(first)
    n = len(first.size)
    grid = dataclasses.replace(
        first, size=tuple(size[:n]), origin=tuple((origin + matrix @ low)[:n].tolist())
    )
    placed = [
        [dataclasses.replace(placement, offset=placement.offset - low).place(r) for r in regions]
        for placement, (regions, _) in zip(placements, drawings, strict=True)
    ]
    return placed, grid
