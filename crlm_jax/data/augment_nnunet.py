"""nnU-Net's default augmentation of a 2D slice, for the comparator that is trained as nnU-Net is.

Follows `nnUNetTrainer.get_training_transforms` of nnU-Net v2 (PyPI nnunetv2 2.8.1) and the
transforms of PyPI batchgeneratorsv2 0.3.6 that it names, in their order: rotation and scaling,
Gaussian noise, Gaussian blur, brightness, contrast, low resolution, gamma of the inverted image,
gamma, mirroring. nnU-Net sets one probability for the sample and one for the channel; a slice has
one channel, so a probability here is the product of both.

nnU-Net augments z-scored images. A slice is therefore changed in units in which it has mean 0 and
standard deviation 1. Two choices of nnU-Net look odd and are kept:
- places that a rotated or shrunken slice leaves empty get 0 *after* the z-score, which is the mean
  grey of the slice and not black;
- the number that nnU-Net calls the variance of the noise, 0 to 0.1, is used as the standard
  deviation.

Differences: nnU-Net takes mean and deviation of the scan (CT: of all labelled voxels), here they
are those of the slice. nnU-Net cuts its patch from a larger image, here the slice has no
surroundings. The result is rounded and clipped to the grey levels 0 to 255, since slices stay uint8
until they are on the device.

A slice that shows three images (`Data.planes`) is changed as one: the images share every change and
the mean, deviation and range that it is made by. nnU-Net draws grey changes for each channel.
"""

import dataclasses
import math
from collections.abc import Callable
from typing import TypeVar

import numpy as np
from scipy import ndimage

from crlm_jax.imaging.resize import linear_taps

P_ROTATION, P_SCALING, SCALING = 0.2, 0.2, (0.7, 1.4)
P_NOISE, NOISE = 0.1, (0.0, 0.1)
P_BLUR, BLUR = 0.2 * 0.5, (0.5, 1.0)
P_BRIGHTNESS, BRIGHTNESS = 0.15, (0.75, 1.25)
P_CONTRAST, CONTRAST = 0.15, (0.75, 1.25)
P_RESOLUTION, RESOLUTION = 0.25 * 0.5, (0.5, 1.0)
P_GAMMA_INVERTED, P_GAMMA, GAMMA = 0.1, 0.3, (0.7, 1.5)
P_MIRROR = 0.5

_T = TypeVar("_T")


@dataclasses.dataclass(frozen=True)
class Changes:
    """The changes of one slice; the defaults change nothing."""

    angle: float = 0.0  # radians
    scale: float = 1.0  # above 1 the content becomes smaller
    noise: float = 0.0  # standard deviation, relative to that of the slice
    blur: tuple[float, float] = (0.0, 0.0)  # standard deviation along rows and columns, pixels
    brightness: float = 1.0
    contrast: float = 1.0
    resolution: float = 1.0  # side of the coarse image, relative to that of the slice
    gamma_inverted: float = 1.0
    gamma: float = 1.0
    mirror: tuple[bool, bool] = (False, False)  # top and bottom, left and right


def draw(rng: np.random.Generator) -> Changes:
    """Draws the changes of a slice, each with nnU-Net's probability and limits."""

    def maybe(probability: float, draw_one: Callable[[], _T], unchanged: _T) -> _T:
        return draw_one() if rng.random() < probability else unchanged

    # The order of the lines is the order of the draws.
    return Changes(
        # ± 180°: the limits of a patch whose sides differ by a factor of at most 1.5.
        angle=maybe(P_ROTATION, lambda: rng.uniform(-math.pi, math.pi), 0.0),
        scale=maybe(P_SCALING, lambda: rng.uniform(*SCALING), 1.0),
        noise=maybe(P_NOISE, lambda: rng.uniform(*NOISE), 0.0),
        blur=maybe(P_BLUR, lambda: (rng.uniform(*BLUR), rng.uniform(*BLUR)), (0.0, 0.0)),
        brightness=maybe(P_BRIGHTNESS, lambda: _factor(rng, *BRIGHTNESS), 1.0),
        contrast=maybe(P_CONTRAST, lambda: _factor(rng, *CONTRAST), 1.0),
        resolution=maybe(P_RESOLUTION, lambda: rng.uniform(*RESOLUTION), 1.0),
        gamma_inverted=maybe(P_GAMMA_INVERTED, lambda: _factor(rng, *GAMMA), 1.0),
        gamma=maybe(P_GAMMA, lambda: _factor(rng, *GAMMA), 1.0),
        mirror=(rng.random() < P_MIRROR, rng.random() < P_MIRROR),
    )


def augment(
    image: np.ndarray, mask: np.ndarray, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Returns the slice and its mask, augmented.

    Args:
      image: uint8 (S, S, C), grey levels.
      mask: uint8 (S, S, 1), 0 or 1.
      rng: source of all random numbers.

    Returns:
      Image and mask in the same shape and dtype; the image is rounded and clipped to 0 to 255. They
      may be views of the arguments.
    """
    return apply_changes(image, mask, draw(rng), rng)


def apply_changes(
    image: np.ndarray, mask: np.ndarray, changes: Changes, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Applies the changes that `draw` drew; `rng` is the source of the noise of the pixels."""
    x = np.ascontiguousarray(np.moveaxis(image, -1, 0), np.float32)  # (C, S, S)
    mean, deviation = x.mean(), x.std()
    # A slice of one grey level stays as it is: its changes are multiplied by its deviation, 0.
    x = (x - mean) / max(deviation, np.float32(1e-8))
    if changes.angle or changes.scale != 1:
        turned = [rotate_and_scale(own, mask[..., 0], changes.angle, changes.scale) for own in x]
        x, mask = np.stack([own for own, _ in turned]), turned[0][1][..., None]
    if changes.noise:
        x = x + np.float32(changes.noise) * rng.standard_normal(x.shape, np.float32)
    if any(changes.blur):
        x = np.stack([blur(own, changes.blur) for own in x])
    x = x * np.float32(changes.brightness)
    if changes.contrast != 1:
        x = change_contrast(x, changes.contrast)
    if changes.resolution != 1:
        x = np.stack([lower_resolution(own, changes.resolution) for own in x])
    if changes.gamma_inverted != 1:
        x = -correct_gamma(-x, changes.gamma_inverted)
    if changes.gamma != 1:
        x = correct_gamma(x, changes.gamma)
    image = np.moveaxis(np.rint(np.clip(x * deviation + mean, 0, 255)).astype(np.uint8), 0, -1)
    flips = tuple(slice(None, None, -1 if flip else 1) for flip in changes.mirror)
    return image[flips], mask[flips]


def rotate_and_scale(
    x: np.ndarray, mask: np.ndarray, angle: float, scale: float
) -> tuple[np.ndarray, np.ndarray]:
    """Turns float32 (S, S) and its mask uint8 (S, S) by `angle`, radians, and shrinks by `scale`.

    The slice turns about its centre and is interpolated linearly with 0 outside, as by PyTorch's
    `grid_sample` (zeros, corners not aligned). A pixel of the mask gets the label that covers more
    of it.
    """
    height, width = x.shape
    cos, sin = scale * math.cos(angle), scale * math.sin(angle)
    down = np.arange(height)[:, None] - (height - 1) / 2
    across = np.arange(width) - (width - 1) / 2
    # Coordinates in a slice with a border of zeros, which is at 0 and side + 1.
    row = np.clip(cos * down - sin * across + (height + 1) / 2, 0, height + 1)
    column = np.clip(sin * down + cos * across + (width + 1) / 2, 0, width + 1)
    top, left = row.astype(np.int32), column.astype(np.int32)
    below, right = (row - top).astype(np.float32), (column - left).astype(np.float32)
    # Image and mask as one complex number need one look-up: a third of scipy.ndimage's time.
    pixels = np.zeros((height + 3, width + 3), np.complex64)
    pixels.real[1:-2, 1:-2], pixels.imag[1:-2, 1:-2] = x, mask
    lines = []
    for place in (top * (width + 3) + left, (top + 1) * (width + 3) + left):
        first = pixels.take(place)
        lines.append(first + (pixels.take(place + 1) - first) * right)
    out = lines[0] + (lines[1] - lines[0]) * below
    return out.real, (out.imag > 0.5).astype(np.uint8)


def blur(x: np.ndarray, deviations: tuple[float, float]) -> np.ndarray:
    """Blurs float32 (S, S) by a Gaussian; its deviations along rows and columns are in pixels."""
    for axis, deviation in enumerate(deviations):
        # The kernel is as wide as the odd number next to 6 σ + 0.5.
        radius = int(3 * deviation + 0.25)
        x = ndimage.gaussian_filter1d(x, deviation, axis, mode="mirror", radius=radius)
    return x


def change_contrast(x: np.ndarray, factor: float) -> np.ndarray:
    """Stretches grey levels about their mean and clips them to the range they had."""
    mean = x.mean()
    return np.clip((x - mean) * np.float32(factor) + mean, x.min(), x.max())


def lower_resolution(x: np.ndarray, scale: float) -> np.ndarray:
    """Samples float32 (S, S) at `scale` times its side (nearest), and back to its size (linear).

    As PyTorch's `interpolate`, "nearest-exact" down and "linear" up: pixels are areas, which are
    sampled at their centres.
    """
    for axis, length in enumerate(x.shape):
        coarse = round(length * scale)
        # In float32, which decides where a centre falls between two pixels.
        ratio = np.float32(length) / np.float32(coarse)
        kept = ((np.arange(coarse, dtype=np.float32) + np.float32(0.5)) * ratio).astype(int)
        low, high, weight = linear_taps(coarse, length)
        weight = weight[:, None] if axis == 0 else weight
        below = x.take(kept[low], axis)
        x = below + (x.take(kept[high], axis) - below) * weight
    return x


def correct_gamma(x: np.ndarray, gamma: float) -> np.ndarray:
    """Raises grey levels, as shares of their range, to `gamma`; keeps mean and deviation."""
    mean, deviation = x.mean(), x.std()
    low = x.min()
    span = x.max() - low
    shares = (x - low) / max(span, np.float32(1e-7))
    out = shares ** np.float32(gamma) * span + low
    return (out - out.mean()) * (deviation / max(out.std(), np.float32(1e-7))) + mean


def _factor(rng: np.random.Generator, low: float, high: float) -> float:
    """Draws from `low` to 1 or from 1 to `high`, equally often (`BGContrast`)."""
    return rng.uniform(low, 1) if rng.random() < 0.5 else rng.uniform(1, high)
