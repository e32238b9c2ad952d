"""Padding: voxels that fill up the array of an image and were never measured."""

import numpy as np

_BLOCKS = 64  # a corner's block is this share of the rows and columns, and at least one pixel
_BELOW_CT = -4096.0  # below every HU of 12 bits, of whatever intercept


def corner_padding(voxels: np.ndarray, *, is_mr: bool) -> np.ndarray | None:
    """Finds padding that no header marks, in an image that is not CT.

    A value is padding only if all of this holds: it is the image's least or greatest value; it
    fills the blocks in two neighbouring corners or more of the first and of the last slice (a 64th
    of the rows and columns, at least one pixel), as the edge of a shifted or turned image does; and
    it lies beyond all other voxels by more than their range. A least value must be negative, as no
    magnitude of MR is, so that air that a program set to 0 is no padding. Where the modality is
    unknown, it must also be below -4096, so that the air and the padding of CT stay.

    Args:
      voxels: (Z, H, W), finite.
      is_mr: whether the image is known to be MR.

    Returns:
      bool (Z, H, W), True at padding; None if there is none.
    """
    least, greatest = float(voxels.min()), float(voxels.max())
    candidates = [greatest, *([least] if least < (0 if is_mr else _BELOW_CT) else [])]
    for value in candidates:
        if not _fills_an_edge(voxels, value):
            continue
        padding = voxels == value
        others = voxels[~padding]
        if not others.size:
            return None
        low, high = float(others.min()), float(others.max())
        if low < high and max(low - value, value - high) > high - low:
            return padding
    return None


def _fills_an_edge(voxels: np.ndarray, value: float) -> bool:
    """Whether a value fills two neighbouring corners of the first and of the last slice."""
    rows, columns = (max(1, size // _BLOCKS) for size in voxels.shape[1:])
    ends = voxels[[0, -1]]
    filled = [
        [
            bool((ends[:, down, across] == value).all())
            for across in (slice(None, columns), slice(-columns, None))
        ]
        for down in (slice(None, rows), slice(-rows, None))
    ]
    return any(all(edge) for edge in (*filled, *zip(*filled, strict=True)))
