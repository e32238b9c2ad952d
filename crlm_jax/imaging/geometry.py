"""The grid of an image: its position in the patient, its turn to axial slices, and its checks."""

import dataclasses
import itertools
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from crlm_jax.errors import UserError

SLIGHT_SHEAR = 0.01  # of a direction cosine, off the nearest rotation
GEOMETRY_TOLERANCE = 1e-3  # of a voxel's size (spacing, origin); absolute for direction cosines
MOST_VOXELS = 2**30  # of one image: 1024 slices of 1024 × 1024, 4 GiB as float32
SPACINGS = (1e-3, 100.0)  # mm, of any scan of a patient
NOT_FINITE = (
    "it has voxels that are NaN or infinite; replace them (for example by the background's value) "
    "and save the file again"
)
COMPLEX = (
    "its voxels are complex numbers; save their magnitude as an image of its own, for example with "
    "numpy.abs"
)


class VolumeError(UserError):
    """An image or mask that cannot be used; the message names the file and the remedy."""


@dataclasses.dataclass(frozen=True)
class Geometry:
    """The grid of an image file as ITK describes it: axes (x, y[, z]), mm, LPS."""

    size: tuple[int, ...]
    spacing: tuple[float, ...]
    origin: tuple[float, ...]
    direction: tuple[float, ...]

    @property
    def turn(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """The array axes that become (z, y, x), and which of the new axes are flipped."""
        if len(self.size) == 2:
            return (0, 1, 2), ()
        cosines = np.reshape(self.direction, (3, 3))  # rows: L, P, S; columns: i, j, k
        # The assignment of file axes to patient axes that agrees best; ties go to the first.
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
        first, second, third = self.turn[0]
        size = (1, *self.size[::-1])[-3:]
        return size[first], size[second], size[third]

    @property
    def axial_spacing(self) -> tuple[float, float, float]:
        """Spacing (z, y, x) in mm after the turn; a 2D image counts as a slice 1 mm thick."""
        if len(self.size) == 2:
            return (1.0, self.spacing[1], self.spacing[0])
        first, second, third = self.turn[0]
        spacing = self.spacing[::-1]
        return spacing[first], spacing[second], spacing[third]

    def to_axial(self, array: np.ndarray) -> np.ndarray:
        """Turns voxels from the file's own order into axial slices (Z, H, W)."""
        axes, flips = self.turn
        return np.ascontiguousarray(np.flip(array.transpose(axes), flips))

    def from_axial(self, array: np.ndarray) -> np.ndarray:
        """Turns axial slices (Z, H, W) back into the file's own order."""
        axes, flips = self.turn
        return np.ascontiguousarray(np.flip(array, flips).transpose(np.argsort(axes)))

    def to_patient(self, places: np.ndarray) -> np.ndarray:
        """Maps points (N, 3), (z, y, x) indices into the axial slices, to mm (L, P, S).

        A 2D image has no position in a patient: x and y lie in its own plane, and z is the slice.
        """
        own = self.to_own(places)[:, ::-1]  # (i, j, k)
        if len(self.size) == 2:
            return own * (*self.spacing, 1.0) + (*self.origin, 0.0)
        return own * self.spacing @ np.reshape(self.direction, (3, 3)).T + self.origin

    def to_own(self, places: np.ndarray) -> np.ndarray:
        """Maps points (N, 3), indices (z, y, x) into the axial slices, to the file's own order."""
        axes, flips = self.turn
        own = np.array(places, float)
        size = (1, *self.size[::-1])[-3:]
        for axis in flips:
            own[:, axis] = size[axes[axis]] - 1 - own[:, axis]
        return own[:, np.argsort(axes)]

    def shows(self, points: np.ndarray) -> np.ndarray:
        """Returns which points (N, 3) in mm (L, P, S) lie in a 3D image, with half a voxel around.

        The result is bool (N,).
        """
        axes = np.reshape(self.direction, (3, 3))
        places = (points - self.origin) @ axes / self.spacing
        inside: np.ndarray = (places >= -1) & (places <= self.size)
        return np.asarray(inside.all(axis=1))


def check_size(path: Path, size: Sequence[int]) -> None:
    """Raises VolumeError if a header claims no voxel, or more than `MOST_VOXELS`.

    Call it before memory is allocated for the voxels.

    Args:
      path: of the image.
      size: voxels along every axis by the header; channels count as an axis.
    """
    if not 0 < math.prod(size) <= MOST_VOXELS:
        raise VolumeError(
            f"{path}: its header claims {' × '.join(map(str, size))} voxels, not 1 to "
            f"{MOST_VOXELS:,}; export it again, or crop it to the liver"
        )


def check_spacing(path: Path, geometry: Geometry) -> None:
    """Raises VolumeError if a spacing cannot be that of a scan, as in another unit than mm.

    Along an axis with a single voxel any spacing above 0 will do.
    """
    spacing = np.array(geometry.spacing)
    several = np.array(geometry.size) > 1
    low, high = SPACINGS
    if not np.isfinite(spacing).all() or ((spacing < low) | (spacing > high))[several].any():
        raise VolumeError(
            f"{path}: its header says a spacing of {format_point(spacing)} mm along the file's "
            f"axes, but that of a scan lies between {low:g} and {high:g} mm; export it again with "
            "the spacing of the scan, in mm"
        )


def nearest_rotation(path: Path, direction: Sequence[float]) -> tuple[np.ndarray, float]:
    """Returns the rotation (with or without a flip) nearest to axes, and the distance to it.

    Args:
      path: of the image.
      direction: 9 numbers, whose columns are the axes of the file, of any length.

    Returns:
      The rotation (3, 3), and the largest difference of a direction cosine.

    Raises:
      VolumeError: the axes are too far off being perpendicular (`SLIGHT_SHEAR`), or not valid.
    """
    axes = np.reshape(np.asarray(direction, float), (3, 3))
    lengths = np.linalg.norm(axes, axis=0)
    if not (np.isfinite(axes).all() and lengths.min() > 0):
        raise VolumeError(f"{path}: its header has no valid direction of the axes; export it again")
    axes = axes / lengths
    left, _, right = np.linalg.svd(axes)
    off = float(np.abs(axes - left @ right).max())
    if off > SLIGHT_SHEAR:
        raise VolumeError(
            f"{path}: its axes are not perpendicular (direction cosines are off the nearest "
            f"rotation by {off:.2g}), as of a gantry tilt or a shear; resample it and its mask "
            "onto an upright grid, for example with dcm2niix from the DICOM series"
        )
    return left @ right, off


def check_same_grid(between: str, mask: Geometry, image: Geometry) -> None:
    """Raises VolumeError unless a mask lies on its image's grid, within `GEOMETRY_TOLERANCE`.

    `between` names the two files for the message: "the mask … and the image …".
    """
    if mask.size != image.size:
        sizes = " and ".join(" × ".join(map(str, size)) for size in (mask.size, image.size))
        raise VolumeError(f"{between} differ in size ({sizes} voxels); {ON_THE_GRID}")
    voxel = np.asarray(image.spacing)
    limits = {"spacing": voxel, "origin": voxel.min(), "direction": 1.0}
    for name, scale in limits.items():
        ours, theirs = np.asarray(getattr(mask, name)), np.asarray(getattr(image, name))
        if (np.abs(ours - theirs) > GEOMETRY_TOLERANCE * scale).any():
            raise VolumeError(
                f"{between} differ in {name} ({format_point(ours)} and {format_point(theirs)}); "
                f"{ON_THE_GRID}"
            )


# How a mask on another grid is taken, for messages.
IN_TRAINING = "in a training, --config.data.resample_masks=true"
RESAMPLES = f"--resample-masks does it; {IN_TRAINING}"
ON_THE_GRID = (
    f"resample the mask onto the image's grid ({RESAMPLES}), or give the image that the mask was "
    "drawn on"
)


def format_point(values: np.ndarray) -> str:
    """Writes coordinates for a message, such as `(1, 2.5, -3)`."""
    return "(" + ", ".join(f"{value:.6g}" for value in values) + ")"
