"""Resampling of axial slices in NumPy."""

import numpy as np


def resize(voxels: np.ndarray, size: int | tuple[int, int], *, nearest: bool = False) -> np.ndarray:
    """Resamples every slice of (Z, H, W) to `size` (a square, or rows and columns).

    Both grids cover the same extent, so pixel centres lie at (i + 0.5) / n of the extent. Values
    beyond the outermost centres repeat the border. Linear interpolation between the two nearest
    pixels of each axis, without smoothing, returns uint8 for uint8 and float32 for other floats.
    `nearest`, for masks, keeps the type.
    """
    rows, columns = (size, size) if isinstance(size, int) else size
    height, width = voxels.shape[1:]
    if (rows, columns) == (height, width):
        return voxels.copy()
    if nearest:
        row = np.minimum((np.arange(rows) + 0.5) * height / rows, height - 1).astype(int)
        column = np.minimum((np.arange(columns) + 0.5) * width / columns, width - 1).astype(int)
        return voxels[:, row[:, None], column[None, :]]
    if voxels.dtype != np.uint8 and voxels.dtype.kind != "f":
        raise ValueError(f"linear resize of {voxels.dtype}: takes uint8 or float; use nearest=True")
    out = np.empty((len(voxels), rows, columns), np.uint8 if voxels.dtype == np.uint8 else "f4")
    top, bottom, down = linear_taps(height, rows)
    left, right, across = linear_taps(width, columns)
    down = down[:, None]
    for source, target in zip(voxels, out, strict=True):  # one slice at a time stays in cache
        source = source.astype(np.float32)
        lines = source[top] + (source[bottom] - source[top]) * down
        pixels = lines[:, left] + (lines[:, right] - lines[:, left]) * across
        target[...] = np.rint(pixels) if out.dtype == np.uint8 else pixels
    return out


def linear_taps(old: int, new: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns what linear resampling of one axis from `old` to `new` pixels reads.

    Returns:
      For every new pixel (new,): the index of the old pixel before its centre, the index of the old
      pixel after it, and the weight of the second, float32 in [0, 1].
    """
    centre = np.clip((np.arange(new) + 0.5) * old / new - 0.5, 0, old - 1)
    first = np.minimum(centre.astype(int), max(old - 2, 0))
    return first, np.minimum(first + 1, old - 1), (centre - first).astype(np.float32)
