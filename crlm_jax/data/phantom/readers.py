"""A second reader of the phantom's version 2, who draws the border 1 or 2 pixels elsewhere.

The agreement of the two says how far a method could get at best; no training sees the second mask.
"""

from collections.abc import Sequence

import numpy as np
from scipy import ndimage

from crlm_jax.data.phantom.anatomy import smooth_field

MOST = 2.0  # pixels, how far the two borders may lie from each other


def second_reading(
    rng: np.random.Generator, mask: np.ndarray, axes: Sequence[np.ndarray]
) -> np.ndarray:
    """Returns the mask (bool) of another reader.

    This reader draws all borders a little too wide or too tight, and wanders off along them, up to
    2 pixels either way within a slice; the size is set by eye. A lesion is never lost in a slice.

    Args:
      rng: is drawn from.
      mask: the first reader's, bool (z, y, x).
      axes: of the scan in mm, (z, y, x).
    """
    held = [np.flatnonzero(mask.any(axis)) for axis in ((1, 2), (0, 2), (0, 1))]
    margin = (0, 4, 4)
    where = tuple(slice(max(k[0] - m, 0), k[-1] + 1 + m) for k, m in zip(held, margin, strict=True))
    first = mask[where]
    pixel = (1e6, 1.0, 1.0)  # within a slice
    depth = ndimage.distance_transform_edt(first, sampling=pixel)
    away = ndimage.distance_transform_edt(~first, sampling=pixel)
    border = np.where(first, depth - 0.5, 0.5 - away)  # above 0 inside
    bias = rng.normal(0.0, 0.4)
    box = [axis[w] for axis, w in zip(axes, where, strict=True)]
    wander = 0.8 * smooth_field(rng, box, 12.0, depth=6.0)
    second = border + np.clip(bias + wander, -MOST, MOST) > 0
    # Where nothing of a lesion is left in a slice, its innermost pixels remain.
    for k in range(len(first)):
        parts, count = ndimage.label(first[k])
        for part in range(1, count + 1):
            inside = parts == part
            if not second[k][inside].any():
                second[k] |= inside & (depth[k] == depth[k][inside].max())
    out = np.zeros(mask.shape, bool)
    out[where] = second
    return out
