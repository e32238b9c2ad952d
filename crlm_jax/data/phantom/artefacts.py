"""What a scanner does to the images of the phantom's version 2, beyond blur, bias and noise.

Each function takes and returns volumes (z, y, x); phase encoding runs along y, front to back.
Sources:
  [K] A study of dynamic DWI of the liver in three volunteers, MAGMA (springerlink.com/content/
      k03542jux12472x8): signal lost in systole, 25.5 % in the left lobe and 17.3 % in the right.
EPI's ghost at half the field of view, fat at 3.4 ppm from water and tissue at 9.4 ppm from air are
textbook physics. What has no source beside it is set by eye.
"""

from collections.abc import Sequence

import numpy as np
from scipy import fft, ndimage

from crlm_jax.data.phantom.anatomy import STEP, Tissue, apply_along, smooth_field
from crlm_jax.data.phantom.scanner import Scanner, sampler

HERTZ = 63.87  # of 1 ppm at 1.5 T
AIR_PPM = 9.4  # magnetic susceptibility of air less that of tissue
FAT_PPM = 3.4  # of fat from water
READOUT = 0.5e-3 / 2  # seconds of EPI a line along y: 0.5 ms, halved by parallel imaging
_THIN = (3, 4, 4)  # the field is smooth: every so many points of the label map are enough


def shift_along_y(volume: np.ndarray, pixels: np.ndarray) -> np.ndarray:
    """Moves every voxel by so many pixels along y, which broadcasts against the volume."""
    rows = np.arange(volume.shape[1], dtype=np.float32)[None, :, None]
    source = np.clip(rows - pixels, 0, volume.shape[1] - 1.001).astype(np.float32)
    source = np.broadcast_to(source, volume.shape)
    low = source.astype(np.intp)
    part = source - low
    below = np.take_along_axis(volume, low, 1)
    return below + part * (np.take_along_axis(volume, low + 1, 1) - below)


def slice_motion(rng: np.random.Generator, slices: int, restless: float) -> np.ndarray:
    """Draws how far each slice lies from its place, mm (slices, 2): along z and y.

    Slices are acquired in two interleaved passes, odd and even, each with a breath of its own; a
    drift and a jitter come on top.
    """
    passes = rng.normal(0, 1.0, 2)[np.arange(slices) % 2]
    drift = np.cumsum(rng.normal(0, 0.25, slices))
    along_z = restless * (passes + drift - drift.mean() + rng.normal(0, 0.6, slices))
    along_z = np.clip(along_z, -6.0, 6.0)
    return np.column_stack([along_z, 0.3 * along_z]).astype(np.float32)


def fat_pixels(scanner: Scanner) -> float:
    """Returns by how many pixels EPI displaces fat along y."""
    return FAT_PPM * HERTZ * READOUT * scanner.matrix


def _shimmed_field(labels: np.ndarray) -> np.ndarray:
    """Returns the magnetic field's deviation in ppm over a coarse label map.

    The field of the susceptibility is a convolution with that of a dipole along z. A shim takes its
    linear part away, as fitted over the body.
    """
    susceptibility = np.zeros(256, np.float32)
    susceptibility[[Tissue.AIR, Tissue.GAS]] = AIR_PPM
    susceptibility[Tissue.LUNG] = 0.8 * AIR_PPM
    spread = [(n // 3, n // 3) for n in labels.shape]
    # Beyond the map the body goes on above and below.
    air: np.ndarray = np.pad(
        ndimage.gaussian_filter(susceptibility[labels], 0.6), spread, mode="edge"
    )
    steps = STEP * _THIN
    wave_z = fft.fftfreq(air.shape[0], steps[0])[:, None, None] ** 2
    wave_y = fft.fftfreq(air.shape[1], steps[1])[None, :, None] ** 2
    wave_x = fft.rfftfreq(air.shape[2], steps[2])[None, None, :] ** 2
    total = wave_z + wave_y + wave_x
    total[0, 0, 0] = 1.0  # the mean is the shim's
    field = fft.irfftn(fft.rfftn(air) * (1 / 3 - wave_z / total).astype(np.float32), air.shape)
    field = field[tuple(slice(a, -a) for a, _ in spread)]
    body = labels != Tissue.AIR
    places = np.argwhere(body).astype(float)
    design = np.column_stack([places, np.ones(len(places))])
    # Not by BLAS, whose last bit may depend on its threads.
    normal = np.einsum("ij,ik->jk", design, design)
    fit = np.linalg.solve(normal, np.einsum("ij,i->j", design, field[body].astype(float)))
    plane = sum(
        slope * np.arange(n).reshape([-1 if a == axis else 1 for a in range(3)])
        for axis, (slope, n) in enumerate(zip(fit[:3], field.shape, strict=True))
    )
    return np.clip(field - plane - fit[3], -4.0, 4.0).astype(np.float32)


def distortion(
    labels: np.ndarray, scanner: Scanner, source: Sequence[np.ndarray], axes: Sequence[np.ndarray]
) -> np.ndarray:
    """Returns by how many pixels EPI displaces every voxel of a scan along y.

    Gas, lung and the air around the body disturb the field as magnetic dipoles do; what a linear
    shim corrects over the body is taken away.

    Args:
      labels: the label map.
      scanner: of the scan.
      source: positions of the label map in mm, (z, y, x).
      axes: of the scan in mm, (z, y, x).
    """
    field = _shimmed_field(labels[tuple(slice(None, None, step) for step in _THIN)])
    coarse = [axis[::step] for axis, step in zip(source, _THIN, strict=True)]
    matrices = [
        # Beyond the label map the field is that of its edge.
        sampler(line, np.clip(axis, line[0], line[-1]), float(line[1] - line[0]), 0.0)
        for line, axis in zip(coarse, axes, strict=True)
    ]
    return np.float32(HERTZ * READOUT * scanner.matrix) * apply_along(matrices, field)


def distort(volume: np.ndarray, pixels: np.ndarray) -> np.ndarray:
    """Moves signal along y and piles it up, or thins it, where neighbours move differently."""
    stretch = np.clip(1 - np.gradient(pixels, axis=1), 0.3, 2.5)
    return shift_along_y(volume, pixels) * stretch


def add_epi_ghost(rng: np.random.Generator, volume: np.ndarray) -> np.ndarray:
    """Adds a copy that lies half the field of view away along y, of 2 to 8 % of the signal.

    Odd and even lines of EPI differ in phase; copy and image interfere, so that the copy may add or
    take away. The level is set by eye.
    """
    level = rng.uniform(0.02, 0.08)
    phase = rng.uniform(0, 2 * np.pi) + np.pi * np.linspace(-1, 1, volume.shape[2])
    ghost = np.roll(volume, volume.shape[1] // 2, axis=1) * np.float32(level)
    cosine, sine = np.cos(phase).astype(np.float32), np.sin(phase).astype(np.float32)
    return np.hypot(volume + ghost * cosine, ghost * sine)


def lose_to_heart(
    rng: np.random.Generator, volume: np.ndarray, axes: Sequence[np.ndarray]
) -> np.ndarray:
    """Takes signal away under the heart, more where a slice fell into systole [K]."""
    z, y, x = (axis.astype(np.float32) for axis in axes)
    near = np.exp(-0.5 * ((z[:, None, None] - 58) / 34) ** 2)
    near = near * np.exp(-0.5 * ((y[None, :, None] + 45) / 48) ** 2)
    near = near * np.exp(-0.5 * ((x[None, None, :] - 12) / 46) ** 2)
    share = np.clip(rng.uniform(0.1, 0.8, len(z)), 0, 1).astype(np.float32)
    return volume * (1 - share[:, None, None] * near)


def vary_fat(
    rng: np.random.Generator, volume: np.ndarray, axes: Sequence[np.ndarray]
) -> np.ndarray:
    """Scales the fat that suppression left: unevenly over the field, and by scan. Set by eye."""
    return volume * (rng.uniform(0.4, 1.8) * np.exp(0.5 * smooth_field(rng, axes, 90.0)))


def add_breathing_ghosts(
    rng: np.random.Generator, volume: np.ndarray, axes: Sequence[np.ndarray], restless: float
) -> np.ndarray:
    """Adds faint copies of the front of the body along y, which moves most; their level is by eye.

    A spin-echo train that breathing modulates gives copies at a distance that its period sets.
    """
    front = 1 / (1 + np.exp((axes[1] + 45) / 12))  # the front wall and what lies under it
    source = volume * front[None, :, None].astype(np.float32)
    step = int(rng.integers(10, 26) * volume.shape[1] / 288)
    ghosts = np.zeros_like(volume)
    for order, level in ((1, 0.07), (2, 0.04), (3, 0.02)):
        sign = rng.choice([-1.0, 1.0], len(volume)).astype(np.float32)[:, None, None]
        ghosts += level * restless * sign * np.roll(source, order * step, axis=1)
    return np.abs(volume + ghosts)


def add_flow_ghosts(
    rng: np.random.Generator, volume: np.ndarray, vessel: np.ndarray, level: float
) -> np.ndarray:
    """Adds bright and dark copies of a pulsating vessel along y; `vessel` is its share of a voxel.

    The heart's period sets their distance; their level is set by eye.
    """
    columns = np.flatnonzero(vessel.any((0, 1)))
    if not len(columns):
        return volume
    held = slice(columns[0], columns[-1] + 1)
    step = int(rng.integers(14, 30) * volume.shape[1] / 288)
    part, source = volume[:, :, held].copy(), vessel[:, :, held]
    for order in (-2, -1, 1, 2):
        sign = rng.choice([-1.0, 1.0], len(volume)).astype(np.float32)[:, None, None]
        part += np.float32(level / abs(order)) * sign * np.roll(source, order * step, axis=1)
    out = volume.copy()
    out[:, :, held] = np.abs(part)
    return out
