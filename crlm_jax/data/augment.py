"""Augmentation of training slices: quarter turns and flips on the host, grey levels on the device.

The augmentation of Xia et al., Cancer Imaging 26:10 (2025), doi 10.1186/s40644-025-00964-z: random
90° rotations, horizontal and vertical flips (p = 0.5 each), random additions to hue and saturation,
brightness and contrast. The paper gives no limits; those of the configuration are the defaults of
albumentations' `HueSaturationValue` and `RandomBrightnessContrast`, whose definitions are followed.

A grey pixel of value v is (H, S, V) = (0, 0, v). Turning the hue by h and adding s to the
saturation gives, by the definition of HSV, a pixel whose channels are v times three numbers that
depend on h and s alone; a saturation below zero is clipped to zero and leaves the pixel grey.
Contrast then multiplies, and brightness adds. So the whole change of a slice is three gains and
three offsets, and the slice stays one uint8 channel until it is on the device, which computes
``clip(image * gain + offset, 0, 255)`` (`models.inputs`).

Since version 2.0 albumentations keeps pixels of zero saturation grey, so that its changes of hue
and saturation do nothing to a medical image. Here they do what the paper asks for, as they did in
the earlier versions.
"""

import numpy as np

from crlm_jax.config.schema import Augment


def draw_turns(rng: np.random.Generator, count: int) -> np.ndarray:
    """Draws (count,) turns, 0 to 15.

    A turn is the number of quarter turns, plus 4 to swap left and right, plus 8 to swap top and
    bottom.
    """
    return rng.integers(16, size=count)


def apply_turn(pixels: np.ndarray, turn: int) -> np.ndarray:
    """Applies a turn of `draw_turns` to the first two axes; returns a view, which costs nothing."""
    quarters, horizontal, vertical = turn & 3, bool(turn & 4), bool(turn & 8)
    if quarters & 1:
        pixels = pixels.swapaxes(0, 1)
    # numpy.rot90 is a transpose (of odd turns) and these flips.
    down = -1 if vertical != (quarters in (1, 2)) else 1
    across = -1 if horizontal != (quarters in (2, 3)) else 1
    return pixels[::down, ::across]


def photometric(rng: np.random.Generator, limits: Augment, count: int) -> np.ndarray:
    """Draws changes of grey levels: float32 (count, 6), gain then offset of R, G and B.

    Args:
      rng: source of four numbers a slice, each uniform within ± its limit.
      limits: `hue`, `saturation`, `brightness` and `contrast` are read.
      count: slices to draw for.
    """
    bounds = np.array((limits.hue, limits.saturation, limits.brightness, limits.contrast))
    draws = rng.uniform(-bounds, bounds, (count, 4))
    turn, added, light, stretch = (draws[..., i, None] for i in range(4))
    share = np.clip(added, 0, 255) / 255
    # HSV to RGB in closed form: how far the new hue lies from each channel's own, 0 to 1.
    distance = ((5, 3, 1) + turn % 180 / 30) % 6
    gain = (1 + stretch) * (1 - share * np.clip(np.minimum(distance, 4 - distance), 0, 1))
    offset = np.broadcast_to(light * 255, gain.shape)
    return np.concatenate((gain, offset), axis=-1).astype(np.float32)
