"""A network in bfloat16 that is asked again in float32 where a lesion hangs on the threshold.

Neither JAX nor OpenVINO is loaded.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy import ndimage

MARGIN = 0.04  # of a probability; the largest error that was measured is 0.036

Network = Callable[[np.ndarray], np.ndarray]  # (1, S, S, C) uint8 -> (1, S, S) float32


@dataclass(frozen=True)
class Rounded:
    """A network in bfloat16; a slice in doubt is computed again in float32."""

    fast: Network  # in bfloat16
    exactly: Network  # in float32
    threshold: float  # probability above which a pixel is tumour

    def __call__(self, slices: np.ndarray) -> np.ndarray:
        found = self.fast(slices)
        return self.exactly(slices) if in_doubt(found[0], self.threshold) else found


def in_doubt(probability: np.ndarray, threshold: float) -> bool:
    """Whether a lesion of a slice (S, S) might come, go or merge if the threshold were a bit other.

    A lesion without a square of 2 × 2 pixels is in doubt too: between pixels, where the mask of a
    scan is cut, its probability is lower.
    """
    eight = np.ones((3, 3))
    low, count = ndimage.label(probability > threshold - MARGIN, eight)
    high, least = ndimage.label(probability > threshold + MARGIN, eight)
    sure = np.unique(low[ndimage.binary_erosion(high > 0, np.ones((2, 2)))])
    return count != least or len(sure) != count  # each of the lower ones holds one of the higher
