"""Padding: voxels that fill up the array of an image and were never measured."""

import numpy as np

_BLOCKS = 64  # a corner's block is this share of the rows and columns, and at least one pixel
_BELOW_CT = -4096.0  # below every HU of 12 bits, of whatever intercept


def corner_padding(voxels: np.ndarray, *, is_mr: bool) -> np.ndarray | None:
    """Finds padding that no header marks, in an image that is not CT.

    A value is padding only if all of this holds: it is the image's least value, and negative, as no
    magnitude of MR is; it fills the blocks in all eight corners of the image (a 64th of the rows
    and columns of the first and of the last slice, at least one pixel); and it lies below the
    darkest other voxel by more than the range of the others. Air that a program set to 0 is thus no
    padding. Where the modality is unknown, the value must also be below -4096, so that the air and
    the padding of CT stay.

    Args:
      voxels: (Z, H, W), finite.
      is_mr: whether the image is known to be MR.

    Returns:
      bool (Z, H, W), True at padding; None if there is none.
    """
    value = voxels[0, 0, 0]
    if value >= (0 if is_mr else _BELOW_CT):
        return None
    rows, columns = (max(1, size // _BLOCKS) for size in voxels.shape[1:])
    ends = voxels[[0, -1]]
    for down in (slice(None, rows), slice(-rows, None)):
        for across in (slice(None, columns), slice(-columns, None)):
            if (ends[:, down, across] != value).any():
                return None
    padding = voxels == value
    others = voxels[~padding]
    if not others.size:
        return None
    low, high = float(others.min()), float(others.max())
    return padding if low < high and low - float(value) > high - low else None
