"""Where a grid of voxels lies, and the error for an image that cannot be used."""

import dataclasses
import itertools

import numpy as np

GEOMETRY_TOLERANCE = 1e-3  # of a voxel's size (spacing, origin); absolute for direction cosines


class VolumeError(ValueError):
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
                f"{between} differ in {name} ({_plain(ours)} and {_plain(theirs)}); resample the "
                "mask onto the image's grid, or name the image that it was drawn on"
            )


def _plain(values: np.ndarray) -> str:
    return "(" + ", ".join(f"{value:.6g}" for value in values) + ")"
