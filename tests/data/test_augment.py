"""Turns, flips and grey levels, against definitions written out here."""

import colorsys

import numpy as np
import pytest

from crlm_jax.config.schema import Augment
from crlm_jax.data import augment

LIMITS = {"hue": 20.0, "saturation": 30.0, "brightness": 0.2, "contrast": 0.2}


def apply_photometric(image: np.ndarray, six: np.ndarray) -> np.ndarray:
    """Applies `photometric` to grey levels 0 to 255: (..., 1) to float32 (..., 3) in [0, 255].

    The reference for the training step, which does this on the device.
    """
    return np.clip(image.astype(np.float32) * six[:3] + six[3:], 0, 255, dtype=np.float32)


def slice_and_mask(side: int = 9):
    image = np.arange(side * side, dtype=np.uint8).reshape(side, side, 1)
    return image, (image % 3 == 0).astype(np.uint8)


def test_image_and_mask_go_alike():
    image, mask = slice_and_mask()
    for seed in range(40):
        (turn,) = augment.draw_turns(np.random.default_rng(seed), 1)
        np.testing.assert_array_equal(
            augment.apply_turn(mask, turn), augment.apply_turn(image, turn) % 3 == 0
        )


def test_turns_are_quarter_turns_then_flips():
    image, _ = slice_and_mask()
    for turn in range(16):
        expected = np.rot90(image, turn % 4)
        expected = np.fliplr(expected) if turn & 4 else expected
        expected = np.flipud(expected) if turn & 8 else expected
        np.testing.assert_array_equal(augment.apply_turn(image, turn), expected)


def test_turns_and_flips_are_drawn_evenly():
    turns = augment.draw_turns(np.random.default_rng(0), 16000)
    np.testing.assert_allclose(np.bincount(turns, minlength=16) / 16000, 1 / 16, atol=0.01)


def test_same_numbers_alone_and_together():
    one = [augment.photometric(np.random.default_rng(5), Augment(), 1) for _ in range(2)]
    np.testing.assert_array_equal(*one)
    many = augment.photometric(np.random.default_rng(5), Augment(), 7)
    assert many.shape == (7, 6)
    assert many.dtype == one[0].dtype == np.float32
    np.testing.assert_array_equal(many[:1], one[0])


def by_definition(value: int, half_degrees: float, added: float, light: float, stretch: float):
    """Hue, saturation, contrast and brightness of a grey pixel, one after the other."""
    hue, saturation, level = colorsys.rgb_to_hsv(*[value / 255] * 3)
    hue = (hue + half_degrees / 180) % 1
    saturation = min(max(saturation + added / 255, 0), 1)
    channels = colorsys.hsv_to_rgb(hue, saturation, level)
    return [min(max(255 * c * (1 + stretch) + 255 * light, 0), 255) for c in channels]


@pytest.mark.parametrize("limits", [LIMITS, LIMITS | {"hue": 90.0, "saturation": 300.0}])
def test_grey_levels_are_those_of_the_definition(limits):
    grey = np.array([0, 1, 60, 128, 200, 254, 255], np.uint8)[:, None]
    for seed in range(200):
        (six,) = augment.photometric(np.random.default_rng(seed), Augment(**limits), 1)
        bounds = np.array(list(limits.values()))
        draws = np.random.default_rng(seed).uniform(-bounds, bounds)
        expected = [by_definition(int(value), *draws) for value in grey[:, 0]]
        found = apply_photometric(grey, six)
        np.testing.assert_allclose(found, expected, atol=1e-2)  # far below one grey level


def test_no_limits_change_nothing():
    limits = Augment(hue=0, saturation=0, brightness=0, contrast=0)
    (six,) = augment.photometric(np.random.default_rng(0), limits, 1)
    np.testing.assert_array_equal(six, [1, 1, 1, 0, 0, 0])


def test_lower_saturation_leaves_grey():
    limits = Augment(hue=20, saturation=30, brightness=0, contrast=0)
    gains = augment.photometric(np.random.default_rng(0), limits, 500)[:, :3]
    grey = (gains == 1).all(axis=1)
    assert 0.4 < grey.mean() < 0.6
    assert gains.min() >= 1 - 30 / 255 - 1e-6


def test_applied_to_a_slice_is_clipped_and_has_three_channels():
    image, _ = slice_and_mask(16)
    out = apply_photometric(image, np.array([2, 1, 1, 0, -100, 300], np.float32))
    assert out.shape == (16, 16, 3)
    assert out.dtype == np.float32
    np.testing.assert_array_equal(out[..., 0], np.minimum(image[..., 0] * 2.0, 255))
    np.testing.assert_array_equal(out[..., 1], np.maximum(image[..., 0] - 100.0, 0))
    np.testing.assert_array_equal(out[..., 2], 255)
