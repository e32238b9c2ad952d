"""nnU-Net's default augmentation of a 2D slice, for the comparator that is trained as nnU-Net is.

Follows `nnUNetTrainer.get_training_transforms` of nnU-Net v2 (PyPI nnunetv2 2.8.1) and the
transforms of PyPI batchgeneratorsv2 0.3.6 that it names, in their order: rotation and scaling,
Gaussian noise, Gaussian blur, brightness, contrast, low resolution, gamma of the inverted image,
gamma, mirroring. A probability here is that of a slice with its one channel, the product of the two
that are set there (of the sample and of the channel).

nnU-Net augments z-scored images, so a slice is changed in units in which it has mean 0 and standard
deviation 1. Two of its choices look odd and are kept, as they are what it does:
- where a turned or shrunken slice leaves a place empty it fills in 0 *after* the z-score, which is
  the mean grey of the slice and not black;
- what it calls the variance of the noise, 0 to 0.1, is used as the standard deviation.

Differences: nnU-Net takes mean and deviation of the scan (CT: of all labelled voxels), here they
are those of the slice; its patch is cut from a larger surround, here the whole slice is all there
is; and the result is rounded and clipped to the grey levels 0 to 255, since slices stay uint8 until
they are on the device.
"""

import dataclasses
import math

import numpy as np
from scipy import ndimage

P_ROTATION, P_SCALING, SCALING = 0.2, 0.2, (0.7, 1.4)
P_NOISE, NOISE = 0.1, (0.0, 0.1)
P_BLUR, BLUR = 0.2 * 0.5, (0.5, 1.0)
P_BRIGHTNESS, BRIGHTNESS = 0.15, (0.75, 1.25)
P_CONTRAST, CONTRAST = 0.15, (0.75, 1.25)
P_RESOLUTION, RESOLUTION = 0.25 * 0.5, (0.5, 1.0)
P_GAMMA_INVERTED, P_GAMMA, GAMMA = 0.1, 0.3, (0.7, 1.5)
P_MIRROR = 0.5


@dataclasses.dataclass(frozen=True)
class Changes:
    """What is done to one slice; the defaults change nothing."""

    angle: float = 0.0  # radians
    scale: float = 1.0  # above 1 what is seen becomes smaller
    noise: float = 0.0  # its deviation, in those of the slice
    blur: tuple[float, float] = (0.0, 0.0)  # deviation along rows and columns, pixels
    brightness: float = 1.0
    contrast: float = 1.0
    resolution: float = 1.0  # sides of the coarse image, of those of the slice
    gamma_inverted: float = 1.0
    gamma: float = 1.0
    mirror: tuple[bool, bool] = (False, False)  # top and bottom, left and right


def draw(rng: np.random.Generator) -> Changes:
    """Draws what to do to a slice, each change with nnU-Net's probability and limits."""
    changes = {}
    # ± 180°: the limits where no side of the patch is more than 1.5 times the other.
    if rng.random() < P_ROTATION:
        changes["angle"] = rng.uniform(-math.pi, math.pi)
    if rng.random() < P_SCALING:
        changes["scale"] = rng.uniform(*SCALING)
    if rng.random() < P_NOISE:
        changes["noise"] = rng.uniform(*NOISE)
    if rng.random() < P_BLUR:
        changes["blur"] = (rng.uniform(*BLUR), rng.uniform(*BLUR))
    if rng.random() < P_BRIGHTNESS:
        changes["brightness"] = _factor(rng, *BRIGHTNESS)
    if rng.random() < P_CONTRAST:
        changes["contrast"] = _factor(rng, *CONTRAST)
    if rng.random() < P_RESOLUTION:
        changes["resolution"] = rng.uniform(*RESOLUTION)
    if rng.random() < P_GAMMA_INVERTED:
        changes["gamma_inverted"] = _factor(rng, *GAMMA)
    if rng.random() < P_GAMMA:
        changes["gamma"] = _factor(rng, *GAMMA)
    vertical, horizontal = rng.random(2) < P_MIRROR
    return Changes(**changes, mirror=(bool(vertical), bool(horizontal)))


def augmented(
    image: np.ndarray, mask: np.ndarray, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Returns the slice and its mask, augmented; a function of the arguments alone.

    Args:
      image: uint8 (S, S, 1), grey levels.
      mask: uint8 (S, S, 1), 0 or 1.
      rng: where all random numbers come from.

    Returns:
      Both as they came in shape and dtype, the image rounded and clipped to 0 to 255. They may be
      views of the arguments.
    """
    return changed(image, mask, draw(rng), rng)


def changed(
    image: np.ndarray, mask: np.ndarray, changes: Changes, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Applies what `draw` drew, as `augmented`; `rng` gives the noise of the pixels."""
    x = image[..., 0].astype(np.float32)
    mean, deviation = x.mean(), x.std()
    # A slice of one grey level stays as it is: what is done to it is multiplied by 0 below.
    x = (x - mean) / max(deviation, np.float32(1e-8))
    if changes.angle or changes.scale != 1:
        x, target = moved(x, mask[..., 0], changes.angle, changes.scale)
        mask = target[..., None]
    if changes.noise:
        x = x + np.float32(changes.noise) * rng.standard_normal(x.shape, np.float32)
    if any(changes.blur):
        x = blurred(x, changes.blur)
    x = x * np.float32(changes.brightness)
    if changes.contrast != 1:
        x = contrasted(x, changes.contrast)
    if changes.resolution != 1:
        x = coarsened(x, changes.resolution)
    if changes.gamma_inverted != 1:
        x = -gamma_corrected(-x, changes.gamma_inverted)
    if changes.gamma != 1:
        x = gamma_corrected(x, changes.gamma)
    image = np.rint(np.clip(x * deviation + mean, 0, 255)).astype(np.uint8)[..., None]
    flips = tuple(slice(None, None, -1 if flip else 1) for flip in changes.mirror)
    return image[flips], mask[flips]


def moved(
    x: np.ndarray, mask: np.ndarray, angle: float, scale: float
) -> tuple[np.ndarray, np.ndarray]:
    """Turns float32 (S, S) and its mask by `angle`, radians, and shrinks them by `scale`.

    About the centre of the slice, by linear interpolation with 0 all around the slice, as
    `grid_sample` of PyTorch (zeros, corners not aligned). A pixel of the mask, uint8 (S, S), gets
    the label with the larger share of it.
    """
    height, width = x.shape
    cos, sin = scale * math.cos(angle), scale * math.sin(angle)
    down = np.arange(height)[:, None] - (height - 1) / 2
    across = np.arange(width) - (width - 1) / 2
    # Places in a slice with a border of zeros, which is at 0 and side + 1.
    row = np.clip(cos * down - sin * across + (height + 1) / 2, 0, height + 1)
    column = np.clip(sin * down + cos * across + (width + 1) / 2, 0, width + 1)
    top, left = row.astype(np.int32), column.astype(np.int32)
    below, right = (row - top).astype(np.float32), (column - left).astype(np.float32)
    # As one complex number a pixel, both need one look-up: a third of scipy.ndimage's time.
    pixels = np.zeros((height + 3, width + 3), np.complex64)
    pixels.real[1:-2, 1:-2], pixels.imag[1:-2, 1:-2] = x, mask
    lines = []
    for place in (top * (width + 3) + left, (top + 1) * (width + 3) + left):
        first = pixels.take(place)
        lines.append(first + (pixels.take(place + 1) - first) * right)
    out = lines[0] + (lines[1] - lines[0]) * below
    return out.real, (out.imag > 0.5).astype(np.uint8)


def blurred(x: np.ndarray, deviations: tuple[float, float]) -> np.ndarray:
    """Blurs float32 (S, S) by a Gaussian of so many pixels along rows and columns."""
    for axis, deviation in enumerate(deviations):
        # The kernel is as wide as the odd number next to 6 σ + 0.5.
        radius = int(3 * deviation + 0.25)
        x = ndimage.gaussian_filter1d(x, deviation, axis, mode="mirror", radius=radius)
    return x


def contrasted(x: np.ndarray, factor: float) -> np.ndarray:
    """Stretches grey levels about their mean and clips them to the range they had."""
    mean = x.mean()
    return np.clip((x - mean) * np.float32(factor) + mean, x.min(), x.max())


def coarsened(x: np.ndarray, scale: float) -> np.ndarray:
    """Makes float32 (S, S) coarser: nearest pixels of a `scale` of the sides, then linear again."""
    for axis, length in enumerate(x.shape):
        low, high, weight = _coarse_places(length, scale)
        weight = weight[:, None] if axis == 0 else weight
        below = x.take(low, axis)
        x = below + (x.take(high, axis) - below) * weight
    return x


def gamma_corrected(x: np.ndarray, gamma: float) -> np.ndarray:
    """Raises grey levels, as shares of their range, to `gamma`; mean and deviation stay."""
    mean, deviation = x.mean(), x.std()
    low = x.min()
    span = x.max() - low
    shares = (x - low) / max(span, np.float32(1e-7))
    out = shares ** np.float32(gamma) * span + low
    return (out - out.mean()) * (deviation / max(out.std(), np.float32(1e-7))) + mean


def _factor(rng: np.random.Generator, low: float, high: float) -> float:
    """Draws below 1 as often as above (`BGContrast`)."""
    return rng.uniform(low, 1) if rng.random() < 0.5 else rng.uniform(1, high)


def _coarse_places(length: int, scale: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns for each pixel the two that it comes from and the weight of the second.

    PyTorch's `interpolate`, "nearest-exact" down and "linear" up: pixels are areas, so the places
    are those of their centres.
    """
    coarse = round(length * scale)
    # In float32, which decides where a centre falls between two pixels.
    ratio = np.float32(length) / np.float32(coarse)
    kept = ((np.arange(coarse, dtype=np.float32) + np.float32(0.5)) * ratio).astype(int)
    place = np.maximum((np.arange(length) + 0.5) * coarse / length - 0.5, 0)
    low = place.astype(int)
    weight = (place - low).astype(np.float32)
    return kept[low], kept[np.minimum(low + 1, coarse - 1)], weight
