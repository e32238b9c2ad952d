"""The second reader of the phantom's version 2."""

import numpy as np
from scipy import ndimage

from crlm_jax.data.phantom.readers import second_reading

AXES = [np.arange(12) * 7.0, np.arange(90) * 1.5, np.arange(90) * 1.5]


def ball(radius: float) -> np.ndarray:
    z, y, x = np.meshgrid(*AXES, indexing="ij")
    return (z - 42) ** 2 + (y - 66) ** 2 + (x - 66) ** 2 < radius**2


def test_borders_lie_at_most_two_pixels_apart():
    first = ball(25)
    shifts = []
    for seed in range(10):
        second = second_reading(np.random.default_rng(seed), first, AXES)
        for one, other in ((first, second), (second, first)):
            for k in np.flatnonzero(one.any((1, 2))):
                far = ndimage.distance_transform_edt(~other[k])[one[k]]
                assert far.max() <= 2.01 + np.sqrt(2)  # pixels, between their centres
        shifts.append(2 * (first & second).sum() / (first.sum() + second.sum()))
    assert 0.8 < np.mean(shifts) < 0.97
    assert np.std(shifts) > 0.003


def test_a_lesion_of_one_pixel_is_kept():
    first = np.zeros((12, 90, 90), bool)
    first[4, 40, 40] = first[5, 10:14, 60:64] = True
    for seed in range(20):
        second = second_reading(np.random.default_rng(seed), first, AXES)
        assert second[4].any()
        assert second[5, 8:16, 58:66].any()
