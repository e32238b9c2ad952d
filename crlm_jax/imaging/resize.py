"""Resampling of axial slices and of their masks in NumPy.

Both grids of a resampling cover the same extent, so pixel centres lie at (i + 0.5) / n of it.
Values beyond the outermost centres repeat the border.
"""

import numpy as np
from scipy import ndimage

_STRETCHED = 1.05  # how many times as long as the other a slice's side may be without a doubt
_CORNERS = np.ones((3, 3), int)  # pixels that share a corner are connected


def resize(
    voxels: np.ndarray, size: int | tuple[int, int], *, antialias: bool = True
) -> np.ndarray:
    """Resamples every slice of (Z, H, W) to `size` (a square, or rows and columns), linearly.

    An axis that grows is interpolated between the two nearest pixels. An axis that shrinks is
    averaged with a triangle as wide as two new pixels, so that nothing is skipped between them;
    without `antialias` it too is interpolated between two pixels.

    Args:
      voxels: uint8, or a float.
      size: S, or rows and columns.
      antialias: whether shrinking averages.

    Returns:
      uint8 for uint8, else float32.
    """
    rows, columns = (size, size) if isinstance(size, int) else size
    if (rows, columns) == voxels.shape[1:]:
        return voxels.copy()
    if voxels.dtype != np.uint8 and voxels.dtype.kind != "f":
        raise ValueError(f"resize of {voxels.dtype}: takes uint8 or float; masks: resize_mask")
    out = np.empty((len(voxels), rows, columns), np.uint8 if voxels.dtype == np.uint8 else "f4")
    for source, target in zip(voxels, out, strict=True):  # one slice at a time stays in cache
        lines = _resize_rows(source.astype(np.float32), rows, antialias)
        pixels = _resize_rows(lines.T, columns, antialias).T
        target[...] = np.rint(pixels) if out.dtype == np.uint8 else pixels
    return out


def at_own_size(
    probability: np.ndarray, size: tuple[int, int], padding: np.ndarray | None = None
) -> np.ndarray:
    """Brings a probability (Z, S, S) to an image's own size (H, W), float32; 0 in its `padding`.

    It is asked for at the voxels' centres, so it is not averaged where it shrinks.
    """
    own = resize(probability, size, antialias=False)
    if padding is not None:
        own[padding] = 0
    return own


def _resize_rows(plane: np.ndarray, new: int, antialias: bool) -> np.ndarray:
    """Resamples the rows of a plane (H, W) float32."""
    if antialias and new < len(plane):
        index, weights = averaging_taps(len(plane), new)
        return sum(plane[i] * w[:, None] for i, w in zip(index.T, weights.T, strict=True))
    before, after, weight = linear_taps(len(plane), new)
    return plane[before] + (plane[after] - plane[before]) * weight[:, None]


def linear_taps(old: int, new: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns what linear resampling of one axis from `old` to `new` pixels reads.

    Returns:
      For every new pixel (new,): the index of the old pixel before its centre, the index of the old
      pixel after it, and the weight of the second, float32 in [0, 1].
    """
    centre = np.clip((np.arange(new) + 0.5) * old / new - 0.5, 0, old - 1)
    first = np.minimum(centre.astype(int), max(old - 2, 0))
    return first, np.minimum(first + 1, old - 1), (centre - first).astype(np.float32)


def averaging_taps(old: int, new: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns what shrinking one axis from `old` to `new` pixels averages.

    Returns:
      For every new pixel, (new, taps): the indices of old pixels, and their weights, float32, whose
      sum is 1.
    """
    scale = old / new
    centre = (np.arange(new)[:, None] + 0.5) * scale - 0.5
    index = np.ceil(centre - scale).astype(int) + np.arange(int(2 * scale) + 1)
    weights = np.maximum(0.0, 1 - np.abs(index - centre) / scale)
    weights[(index < 0) | (index >= old)] = 0
    weights /= weights.sum(axis=1, keepdims=True)
    return np.clip(index, 0, old - 1), weights.astype(np.float32)


def resize_mask(
    mask: np.ndarray, size: int | tuple[int, int], *, antialias: bool = True
) -> tuple[np.ndarray, np.ndarray]:
    """Resamples every slice of a mask (Z, H, W) bool, so that no lesion vanishes.

    A new pixel is tumour where at least half of it is. A lesion of a slice (8-connected) that is
    too small for that gets one pixel, the one that it fills most. Without `antialias` a new pixel
    is that of the nearest old one, and such lesions vanish.

    Args:
      mask: of an image.
      size: S, or rows and columns.
      antialias: as in `resize`.

    Returns:
      The mask (Z, rows, columns) bool, and for every slice (Z,) how many lesions are too small.
    """
    shape = (size, size) if isinstance(size, int) else size
    small = resize(mask.astype(np.float32), shape) >= 0.5 if antialias else _nearest(mask, shape)
    too_small = np.zeros(len(mask), int)
    for z in np.flatnonzero(mask.any(axis=(1, 2))):
        labels, count = ndimage.label(mask[z], _CORNERS)
        if not antialias:
            too_small[z] = count - np.count_nonzero(np.unique(_nearest(labels[None], shape)))
            continue
        for lesion in range(1, count + 1):
            share = resize((labels == lesion)[None].astype(np.float32), shape)[0]
            fullest = int(share.argmax())
            too_small[z] += not small[z].flat[fullest]
            small[z].flat[fullest] = True
    return small, too_small


def _nearest(mask: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """Resamples every slice of (Z, H, W) by the nearest pixel."""
    rows, columns = shape
    height, width = mask.shape[1:]
    row = np.minimum((np.arange(rows) + 0.5) * height / rows, height - 1).astype(int)
    column = np.minimum((np.arange(columns) + 0.5) * width / columns, width - 1).astype(int)
    return mask[:, row[:, None], column[None, :]]


def stretch_doubt(shape: tuple[int, ...], spacing: tuple[float, ...]) -> str | None:
    """Says that a square, as the network sees it, stretches an image's slices; None: hardly.

    Args:
      shape: (Z, H, W) of the image.
      spacing: (z, y, x) in mm.
    """
    height, width = (n * size for n, size in zip(shape[1:], spacing[1:], strict=True))
    factor = max(height, width) / min(height, width)
    if factor < _STRETCHED:
        return None
    return (
        f"its slices are {width:.0f} mm wide and {height:.0f} mm high, but the network sees them "
        f"square, stretched by {factor:.2f}; pad them to a square, unless all scans that it was "
        "trained on are like that"
    )
