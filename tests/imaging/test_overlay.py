"""The square around a lesion."""

import numpy as np
import pytest

from crlm_jax.imaging.overlay import square_around

PIXEL = (0.5, 2.0)  # mm: the slice below is 50 mm high and 80 mm wide


def box(rows: slice, columns: slice) -> np.ndarray:
    mask = np.zeros((100, 40), bool)
    mask[rows, columns] = True
    return mask


@pytest.mark.parametrize(
    ("rows", "columns", "rule", "expected"),
    [
        # 10 × 12 mm about (30, 26) mm
        (slice(50, 70), slice(10, 16), {"scale": 3, "least": 0.25}, (8, 12, 36)),
        (slice(50, 70), slice(10, 16), {"margin": 0.3, "least": 0.4}, (8, 12, 36)),
        (slice(50, 70), slice(10, 16), {"least": 0.25}, (16, 20, 20)),
        # moved into the slice
        (slice(0, 20), slice(36, 40), {"scale": 3, "least": 0.25}, (50, 0, 30)),
        # at most the shorter side
        (slice(40, 60), slice(0, 40), {"scale": 1.3, "least": 0.5}, (15, 0, 50)),
        # an empty mask
        (slice(0, 0), slice(0, 0), {"least": 0.25}, (15, 0, 50)),
    ],
)
def test_the_square_around_a_mask(rows, columns, rule, expected):
    assert square_around(box(rows, columns), PIXEL, **rule) == pytest.approx(expected)
