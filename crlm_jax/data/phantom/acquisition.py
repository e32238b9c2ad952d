"""A scan of the phantom's version 2: `scanner`'s physics, and what goes wrong in a real one."""

from collections.abc import Sequence
from dataclasses import replace

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
    finish_ct,
    finish_mri,
    place_grid,
    sample_part,
    sampler,
)
from crlm_jax.data.phantom.variation import Case, signals

# By sequence, in the units of `Scanner`; T2WI and CT have less noise than in version 1.
NOISE = {"dwi": 0.0050, "t2wi": 0.023, "ct": 6.5}


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
    lines = list(
        zip(artefacts.body_grid(breath), axes, (scanner.thickness, *spacing[1:]), strict=True)
    )
    moved = np.zeros((scanner.slices, 2), np.float32)
    if scanner.mri:
        moved = artefacts.slice_motion(rng, scanner.slices, case.traits.restless)
        lines[0] = (lines[0][0], axes[0] - moved[:, 0], lines[0][2])
    across = (moved[:, 1] / spacing[1]).astype(np.float32)[:, None, None]
    share = sample_part(lines, tumour)
    make = {"dwi": _dwi, "t2wi": _t2wi, "ct": _ct}[sequence]
    image, displaced = make(rng, scanner, case, post, labels, table, lines, axes, across)
    if scanner.mri:
        share = artefacts.shift_along_y(share, displaced)
    mask = share >= min(0.5, share.max())  # never empty, even of a sliver between two slices
    second = second_reading(rng, mask, axes)
    return PhantomScan(
        image,
        mask.astype(np.uint8),
        tuple(spacing[::-1]),
        tuple(origin[::-1]),
        second.astype(np.uint8),
    )


def _samplers(scanner: Scanner, lines: Sequence[Line]) -> list[sparse.csr_matrix]:
    blurs = (0.0, *scanner.blur)
    return [sampler(*line, blur) for line, blur in zip(lines, blurs, strict=True)]


def _dwi(
    rng: np.random.Generator,
    scanner: Scanner,
    case: Case,
    post: bool,
    labels: np.ndarray,
    table: np.ndarray,
    lines: Sequence[Line],
    axes: Sequence[np.ndarray],
    across: np.ndarray,
) -> tuple[np.ndarray, np.ndarray]:
    """Returns DWI int16, and by how many pixels its voxels are displaced along y."""
    matrices = _samplers(scanner, lines)
    fat_alone = np.zeros_like(table)
    fat_alone[Tissue.FAT] = table[Tissue.FAT]
    fat = apply_along(matrices, fat_alone[labels])
    fat = artefacts.vary_fat(rng, fat, axes)
    water = apply_along(matrices, (table - fat_alone)[labels])
    water = artefacts.lose_to_heart(rng, water, axes)
    field = artefacts.distortion(labels, scanner, [line[0] for line in lines], axes)
    pixels = field + across
    clean = artefacts.distort(water, pixels)
    clean += artefacts.distort(fat, pixels + np.float32(artefacts.fat_pixels(scanner)))
    clean = artefacts.add_epi_ghost(rng, clean)
    return finish_mri(rng, scanner, clean, axes, texture=0.06, bias=0.12), pixels


def _t2wi(
    rng: np.random.Generator,
    scanner: Scanner,
    case: Case,
    post: bool,
    labels: np.ndarray,
    table: np.ndarray,
    lines: Sequence[Line],
    axes: Sequence[np.ndarray],
    across: np.ndarray,
) -> tuple[np.ndarray, np.ndarray]:
    """Returns T2WI int16, and by how many pixels its slices are displaced along y."""
    clean = apply_along(_samplers(scanner, lines), table[labels])
    clean = artefacts.shift_along_y(clean, across)
    clean = artefacts.add_breathing_ghosts(rng, clean, axes, case.traits.restless)
    aorta = sample_part(lines, labels == Tissue.ARTERY)
    clean = artefacts.add_flow_ghosts(rng, clean, aorta, float(rng.uniform(0.01, 0.06)))
    # A liver after chemotherapy is less even, as where its sinusoids are congested; set by eye.
    texture = 0.09 if post else 0.07
    return finish_mri(rng, scanner, clean, axes, texture=texture, bias=0.14), across


def _ct(
    rng: np.random.Generator,
    scanner: Scanner,
    case: Case,
    post: bool,
    labels: np.ndarray,
    table: np.ndarray,
    lines: Sequence[Line],
    axes: Sequence[np.ndarray],
    across: np.ndarray,
) -> tuple[np.ndarray, np.ndarray]:
    """Returns CT int16 in HU; nothing is displaced: it is taken in one breath."""
    clean = apply_along(_samplers(scanner, lines), table[labels])
    return finish_ct(rng, scanner, clean, axes), across
