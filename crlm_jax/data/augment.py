"""What a training slice goes through: quarter turns and flips here, grey levels on the device.

The augmentation of Xia et al., Cancer Imaging 26:10 (2025), doi 10.1186/s40644-025-00964-z: random
90° rotations, horizontal and vertical flips (p = 0.5 each), random additions to hue and saturation,
brightness and contrast. The paper gives no limits; those in the configuration are the defaults of
albumentations' `HueSaturationValue` and `RandomBrightnessContrast`, whose definitions are followed.

A grey pixel of value v is (H, S, V) = (0, 0, v). Turning the hue by h and adding s to the
saturation gives, by the definition of HSV, a pixel whose channels are v times three numbers that
depend on h and s alone; a saturation below zero is clipped to zero and leaves the pixel grey.
Contrast then multiplies, and brightness adds. So the whole change of a slice is three gains and
three offsets, and the slice may stay one uint8 channel until it is on the device:
``clip(image * gain + offset, 0, 255)``.

albumentations from 2.0 on holds pixels of zero saturation grey, so that its hue and saturation do
nothing to a medical image; here they do what the paper asks for, as in its earlier versions.
"""

import numpy as np


def draw_turn(rng: np.random.Generator, size: int | None = None) -> int | np.ndarray:
    """Draws 0 to 15: the quarter turns (of 4), plus 4 to swap left and right, 8 top and bottom."""
    return rng.integers(16, size=size)


def turned(pixels: np.ndarray, turn: int) -> np.ndarray:
    """Applies what `draw_turn` drew to the first two axes; returns a view, which costs nothing."""
    quarters, horizontal, vertical = turn & 3, bool(turn & 4), bool(turn & 8)
    if quarters & 1:
        pixels = pixels.swapaxes(0, 1)
    # numpy.rot90 is a transpose (of odd turns) and these flips.
    down = -1 if vertical != (quarters in (1, 2)) else 1
    across = -1 if horizontal != (quarters in (2, 3)) else 1
    return pixels[::down, ::across]


def photometric(
    rng: np.random.Generator,
    *,
    hue: float = 20.0,
    saturation: float = 30.0,
    brightness: float = 0.2,
    contrast: float = 0.2,
    size: int | None = None,
) -> np.ndarray:
    """Draws the change of a slice's grey levels: float32 (6,), gain then offset of R, G and B.

    Args:
      rng: where the four numbers come from, each uniform within ± its limit.
      hue: half-degrees, of 180.
      saturation: grey levels, of 255.
      brightness: of 255 grey levels.
      contrast: of 1.
      size: draw for as many slices, float32 (size, 6).
    """
    limits = np.array((hue, saturation, brightness, contrast))
    draws = rng.uniform(-limits, limits, (*(() if size is None else (size,)), 4))
    turn, added, light, stretch = (draws[..., i, None] for i in range(4))
    share = np.clip(added, 0, 255) / 255
    # HSV to RGB in closed form: how far the new hue lies from each channel's own, 0 to 1.
    distance = ((5, 3, 1) + turn % 180 / 30) % 6
    gain = (1 + stretch) * (1 - share * np.clip(np.minimum(distance, 4 - distance), 0, 1))
    offset = np.broadcast_to(light * 255, gain.shape)
    return np.concatenate((gain, offset), axis=-1).astype(np.float32)


def apply_photometric(image: np.ndarray, six: np.ndarray) -> np.ndarray:
    """Applies `photometric` to grey levels 0 to 255: (..., 1) to float32 (..., 3) in [0, 255].

    The reference for what the training step does on the device.
    """
    return np.clip(image.astype(np.float32) * six[:3] + six[3:], 0, 255, dtype=np.float32)
