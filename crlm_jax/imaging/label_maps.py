"""Whether voxels are those of a label map: whole numbers, without soft edges, and no scan.

Masks reach this package as smoothed, resampled and lossy files, as probability maps, and sometimes
as the scan itself. What can only be meant as a mask is made one, with a doubt for the user to read;
the rest is refused.
"""

from pathlib import Path

import numpy as np
from scipy import ndimage

from crlm_jax.imaging.geometry import VolumeError

LOSSY = (".jpg", ".jpeg")
_ALMOST = 1e-3  # how far a value may be off a whole number, as after a rescale by a float slope
_FEW = 16  # different labels, which need no second look
_WHITE = 255  # of a picture with soft edges
# Soft edges lie near the border of what is white at half: this many pixels.
_NEAR, _ACROSS = 6, 12


def check_lossless(path: Path) -> None:
    """Raises VolumeError if a mask is a JPEG, which changes the values at every edge."""
    with path.open("rb") as file:
        lossy = file.read(3) == b"\xff\xd8\xff" or path.suffix.lower() in LOSSY
    if lossy:
        raise VolumeError(
            f"{path}: a JPEG holds no mask, since its compression blurs every edge; save the mask "
            "as PNG or NIfTI from the program that it was drawn in"
        )


def as_label_map(path: Path, array: np.ndarray, doubts: list[str]) -> np.ndarray:
    """Returns voxels as a label map of whole numbers.

    Args:
      path: of the mask, for messages.
      array: (Z, H, W), finite.
      doubts: receives what was changed, a sentence each.

    Raises:
      VolumeError: the values are fractions, as of a probability map, or grey levels, as of a scan.
    """
    if array.dtype.kind == "f":
        array = _rounded(path, array)
    values = np.unique(array[array != 0])
    if len(values) < 2:
        return array
    if values[0] > 0 and values[-1] == _WHITE and _has_soft_edges(array):
        doubts.append(
            f"a mask with soft edges ({len(values)} grey levels above 0); counted as tumour from "
            f"half of {_WHITE}: save it without anti-aliasing to decide the edge yourself"
        )
        return np.where(array > _WHITE / 2, array.dtype.type(_WHITE), array.dtype.type(0))
    if len(values) > _FEW and _is_scan(array):
        raise VolumeError(
            f"{path}: a mask has few labels, but this file has many grey values ({len(values)} "
            "different ones), as a scan or a smoothed mask; give the mask, as a label map"
        )
    return array


def _rounded(path: Path, array: np.ndarray) -> np.ndarray:
    whole = np.round(array)
    off = np.abs(array - whole)
    if off.max() <= _ALMOST:
        return whole
    worst = array.flat[int(off.argmax())]
    shown = np.format_float_positional(worst, trim="-")
    what = "export it as a label map, without smoothing or interpolation"
    if array.min() >= 0 and array.max() <= 1:
        what = (
            "it looks like a probability map: threshold it, for example at 0.5, and export it as a "
            "label map"
        )
    raise VolumeError(f"{path}: a mask holds whole numbers, but this file has {shown}; {what}")


def _has_soft_edges(array: np.ndarray) -> bool:
    """Whether all that is neither 0 nor white looks like the edge of something white.

    Such values lie near both black and white, form no areas, and have no noise: nearly none is
    brighter, or darker, than all eight neighbours.
    """
    plane = np.ones((1, 3, 3), bool)
    between = (array != 0) & (array != _WHITE)
    near = ndimage.binary_dilation(array > _WHITE / 2, plane, _NEAR)
    near &= ndimage.binary_dilation(array == 0, plane, _ACROSS)
    if near[between].mean() < 0.95:
        return False
    ring = plane.copy()
    ring[0, 1, 1] = False
    alone = array > ndimage.maximum_filter(array, footprint=ring, mode="nearest")
    alone |= array < ndimage.minimum_filter(array, footprint=ring, mode="nearest")
    square = np.ones((1, 2, 2), bool)
    flat = ndimage.maximum_filter(array, footprint=square) == ndimage.minimum_filter(
        array, footprint=square
    )
    return bool(alone[between].mean() < 0.05 and flat[between].mean() < 0.5)


def _is_scan(array: np.ndarray) -> bool:
    """Whether most neighbours of a plane differ where neither is 0; labels form areas."""
    left, right = array[..., :-1], array[..., 1:]
    inside = (left != 0) & (right != 0) & (np.minimum(left, right) < array.max())
    return bool(inside.any() and (left != right)[inside].mean() > 0.5)
