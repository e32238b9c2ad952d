"""Where a grid of voxels lies, and the error for an image that cannot be used."""

import dataclasses
import itertools
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from crlm_jax.errors import UserError

GEOMETRY_TOLERANCE = 1e-3  # of a voxel's size (spacing, origin); absolute for direction cosines
MOST_VOXELS = 2**30  # of one image: 1024 slices of 1024 × 1024, 4 GiB as float32
NOT_FINITE = (
    "it has voxels that are NaN or infinite; replace them (for example by the background's value) "
    "and save it again"
)


class VolumeError(UserError):
    """An image or a mask that cannot be used; the message names the file and the remedy."""


@dataclasses.dataclass(frozen=True)
class Geometry:
    """Where the file's own grid lies, in ITK's terms: axes (x, y[, z]), mm, LPS."""

    size: tuple[int, ...]
    spacing: tuple[float, ...]
    origin: tuple[float, ...]
    direction: tuple[float, ...]

    @property
    def turn(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """The array axes that become (z, y, x), and which of those are then flipped."""
        if len(self.size) == 2:
            return (0, 1, 2), ()
        cosines = np.reshape(self.direction, (3, 3))  # rows: L, P, S; columns: i, j, k
        # The assignment of file axes to patient axes that agrees best, unique but for exact ties.
        axes = max(
            itertools.permutations(range(3)),
            key=lambda axes: sum(abs(cosines[world, axis]) for world, axis in enumerate(axes)),
        )
        flips = [world for world, axis in enumerate(axes) if cosines[world, axis] < 0]
        # NumPy's axes run in the opposite order of ITK's.
        return tuple(2 - axis for axis in reversed(axes)), tuple(2 - world for world in flips)

    @property
    def axial_size(self) -> tuple[int, int, int]:
        """Size (Z, H, W) in voxels after the turn."""
        axes, _ = self.turn
        return tuple((1, *self.size[::-1])[-3:][axis] for axis in axes)

    @property
    def axial_spacing(self) -> tuple[float, float, float]:
        """Spacing (z, y, x) in mm after the turn; a picture's slice counts as 1 mm thick."""
        if len(self.size) == 2:
            return (1.0, self.spacing[1], self.spacing[0])
        axes, _ = self.turn
        return tuple(self.spacing[::-1][axis] for axis in axes)

    def to_axial(self, array: np.ndarray) -> np.ndarray:
        """Turns voxels from the file's own order into axial slices (Z, H, W)."""
        axes, flips = self.turn
        return np.ascontiguousarray(np.flip(array.transpose(axes), flips))

    def from_axial(self, array: np.ndarray) -> np.ndarray:
        """Turns axial slices (Z, H, W) back into the file's own order."""
        axes, flips = self.turn
        return np.ascontiguousarray(np.flip(array, flips).transpose(np.argsort(axes)))

    def to_patient(self, places: np.ndarray) -> np.ndarray:
        """Maps places (N, 3), as (z, y, x) indices of the axial slices, to mm (L, P, S).

        A picture has no place in a patient: x and y are in its own plane, z is the slice.
        """
        axes, flips = self.turn
        own = np.array(places, float)
        size = (1, *self.size[::-1])[-3:]
        for axis in flips:
            own[:, axis] = size[axes[axis]] - 1 - own[:, axis]
        own = own[:, np.argsort(axes)][:, ::-1]  # (i, j, k)
        if len(self.size) == 2:
            return own * (*self.spacing, 1.0) + (*self.origin, 0.0)
        return own * self.spacing @ np.reshape(self.direction, (3, 3)).T + self.origin


def check_size(path: Path, size: Sequence[int]) -> None:
    """Raises VolumeError where a header claims no voxel, or more than `MOST_VOXELS`.

    To be asked before memory is taken.

    Args:
      path: of the image.
      size: what the header says, along every axis; channels count too.
    """
    if not 0 < math.prod(size) <= MOST_VOXELS:
        raise VolumeError(
            f"{path}: its header claims {' × '.join(map(str, size))} voxels, not 1 to "
            f"{MOST_VOXELS:,}; export it again, or crop it to the liver"
        )


def check_same_grid(between: str, mask: Geometry, image: Geometry) -> None:
    """Raises VolumeError unless a mask lies on its image's grid, to `GEOMETRY_TOLERANCE`.

    `between` names the two files, as in "the mask … and the image …".
    """
    if mask.size != image.size:
        sizes = " and ".join(" × ".join(map(str, size)) for size in (mask.size, image.size))
        raise VolumeError(
            f"{between} differ in size ({sizes} voxels); resample the mask onto the "
            "image's grid, or name the image that it was drawn on"
        )
    voxel = np.asarray(image.spacing)
    limits = {"spacing": voxel, "origin": voxel.min(), "direction": 1.0}
    for name, scale in limits.items():
        ours, theirs = np.asarray(getattr(mask, name)), np.asarray(getattr(image, name))
        if (np.abs(ours - theirs) > GEOMETRY_TOLERANCE * scale).any():
            raise VolumeError(
                f"{between} differ in {name} ({plain(ours)} and {plain(theirs)}); resample the "
                "mask onto the image's grid, or name the image that it was drawn on"
            )


def plain(values: np.ndarray) -> str:
    """Writes coordinates for a message, as `(1, 2.5, -3)`."""
    return "(" + ", ".join(f"{value:.6g}" for value in values) + ")"
