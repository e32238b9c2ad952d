"""A scan of the phantom's version 2: `scanner`'s physics, and what goes wrong in a real one."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from scipy import sparse

from crlm_jax.data.phantom import artefacts
from crlm_jax.data.phantom.anatomy import Tissue, apply_along
from crlm_jax.data.phantom.readers import second_reading
from crlm_jax.data.phantom.scanner import (
    SCANNERS,
    Line,
    PhantomScan,
    Scanner,
    blurred_samplers,
    body_lines,
    finish_ct,
    finish_mri,
    outline,
    place_grid,
    sample_part,
)
from crlm_jax.data.phantom.variation import Case, signals

# By sequence, in the units of `Scanner`; T2WI and CT have less noise than in version 1.
NOISE = {"dwi": 0.0050, "t2wi": 0.023, "ct": 6.5}


@dataclass(frozen=True)
class _Take:
    """What a scan is made of."""

    scanner: Scanner
    post: bool  # after chemotherapy
    restless: float  # how unevenly the patient breathes
    labels: np.ndarray  # (z, y, x), of the body at that time
    table: np.ndarray  # (256,), the signal of each label
    lines: Sequence[Line]  # how the voxels lie in the body
    axes: Sequence[np.ndarray]  # of the scan in mm, (z, y, x)
    across: np.ndarray  # (z, 1, 1), pixels by which each slice is moved along y

    @cached_property
    def _samplers(self) -> list[sparse.csr_matrix]:
        return blurred_samplers(self.scanner, self.lines)

    def sample(self, table: np.ndarray) -> np.ndarray:
        """Returns what the scanner sees of a body whose labels have these signals."""
        return apply_along(self._samplers, table[self.labels])


def scan_case(rng: np.random.Generator, case: Case, condition: str) -> PhantomScan:
    """Scans a patient of version 2 under a condition of `SCANNERS`."""
    post, sequence = condition.startswith("post"), condition.split("_")[-1]
    noise = NOISE[sequence] * float(np.exp(rng.normal(0, 0.2)))
    scanner = replace(SCANNERS[condition], noise=noise)
    labels, tumour = case.after if post else case.before
    table = signals(rng, scanner, case, post)
    spacing, origin, axes = place_grid(rng, scanner)
    # mm: every scan holds a breath of its own, so that DWI and T2WI lie apart; set by eye.
    breath = np.clip(rng.normal(0, (3.5, 1.2, 0.8)), -8, 8)
    lines = body_lines(scanner, spacing, axes, breath)
    moved, restless = np.zeros((scanner.slices, 2), np.float32), case.traits.restless
    if scanner.mri:
        moved = artefacts.slice_motion(rng, scanner.slices, restless)
        lines[0] = (lines[0][0], axes[0] - moved[:, 0], lines[0][2])
    across = (moved[:, 1] / spacing[1]).astype(np.float32)[:, None, None]
    share, liver = sample_part(lines, tumour), sample_part(lines, case.liver)
    make = {"dwi": _dwi, "t2wi": _t2wi, "ct": _ct}[sequence]
    take = _Take(scanner, post, restless, labels, table, lines, axes, across)
    image, displaced = make(rng, take)
    if scanner.mri:
        share, liver = (artefacts.shift_along_y(part, displaced) for part in (share, liver))
    mask = outline(share)
    second = second_reading(rng, mask, axes)
    return PhantomScan(
        image,
        mask.astype(np.uint8),
        tuple(spacing[::-1]),
        tuple(origin[::-1]),
        second.astype(np.uint8),
        (outline(liver) | mask).astype(np.uint8),
    )


def _dwi(rng: np.random.Generator, take: _Take) -> tuple[np.ndarray, np.ndarray]:
    """Returns DWI int16, and by how many pixels its voxels are displaced along y."""
    scanner, axes = take.scanner, take.axes
    fat_alone = np.zeros_like(take.table)
    fat_alone[Tissue.FAT] = take.table[Tissue.FAT]
    fat = artefacts.vary_fat(rng, take.sample(fat_alone), axes)
    water = artefacts.lose_to_heart(rng, take.sample(take.table - fat_alone), axes)
    field = artefacts.distortion(take.labels, scanner, [line[0] for line in take.lines], axes)
    pixels = field + take.across
    clean = artefacts.distort(water, pixels)
    clean += artefacts.distort(fat, pixels + np.float32(artefacts.fat_pixels(scanner)))
    clean = artefacts.add_epi_ghost(rng, clean)
    return finish_mri(rng, scanner, clean, axes, texture=0.06, bias=0.12), pixels


def _t2wi(rng: np.random.Generator, take: _Take) -> tuple[np.ndarray, np.ndarray]:
    """Returns T2WI int16, and by how many pixels its slices are displaced along y."""
    clean = artefacts.shift_along_y(take.sample(take.table), take.across)
    clean = artefacts.add_breathing_ghosts(rng, clean, take.axes, take.restless)
    aorta = sample_part(take.lines, take.labels == Tissue.ARTERY)
    clean = artefacts.add_flow_ghosts(rng, clean, aorta, float(rng.uniform(0.01, 0.06)))
    # A liver after chemotherapy is less even, as where its sinusoids are congested; set by eye.
    texture = 0.09 if take.post else 0.07
    image = finish_mri(rng, take.scanner, clean, take.axes, texture=texture, bias=0.14)
    return image, take.across


def _ct(rng: np.random.Generator, take: _Take) -> tuple[np.ndarray, np.ndarray]:
    """Returns CT int16 in HU; nothing is displaced: it is taken in one breath."""
    return finish_ct(rng, take.scanner, take.sample(take.table), take.axes), take.across
