"""Scans of a phantom patient: the physics that turns tissue labels into DWI, T2WI and CT.

MRI at 1.5 T is the spin-echo equation S = PD (1 − exp(−TR/T1)) exp(−TE/T2) exp(−b ADC) with the
protocol of Xia et al., Cancer Imaging 26:10 (2025), doi 10.1186/s40644-025-00964-z (TR, TE, b,
matrix, FOV, slice and gap). CT is portal-venous, in HU. A voxel averages the finer label map over
its own extent, its slice profile and the scanner's blur, so borders have partial volume in all
three directions. MRI then gets a coil's smooth bias field and Rician noise, CT Gaussian noise. Fat
is suppressed on both MRI sequences: its proton density here is the part that suppression leaves.
Scans before and after chemotherapy show the body of that time; CT shows the body before it.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import sparse
from scipy.special import ndtr

from crlm_jax.data.phantom.anatomy import Tissue, apply_along, grid_axes, smooth_field
from crlm_jax.data.phantom.lesions import CORE, EDGE, LESION_LABEL, RIM, Blob, Patient

# Tissue at 1.5 T: proton density (1 = water; "typical"), T1 ms, T2 ms, ADC 1e-3 mm²/s, and
# portal-venous HU ("typical" throughout). Sources of T1 and T2, then of ADC:
#   [B] de Bazelaire et al., Radiology 2004;230:652   [S] Stanisz et al., Magn Reson Med 2005;54:507
#   [K] Taouli & Koh, Radiology 2010;254:47           [G] Bruegel et al., Eur Radiol 2008;18:477
#   [T] Thoeny et al., Radiology 2005;235:911         [C] Cui et al., Radiology 2008;248:894
#   [L] Le Bihan et al., Radiology 1988;168:497       typical: a usual textbook value
TABLE = {
    # tissue:               PD    T1    T2   ADC     HU   T1, T2; ADC
    Tissue.AIR:            (0.00, 1e3, 10.0, 0.0, -1000),
    Tissue.FAT:            (0.07, 343, 58.0, 0.1, -100),  # [B]; typical. PD: 7 % left unsuppressed
    Tissue.MUSCLE:         (0.80, 856, 27.0, 1.5, 60),    # [B] paravertebral; typical
    Tissue.BONE:           (0.05, 300, 5.00, 0.5, 600),   # typical: cortical bone
    Tissue.MARROW:         (0.35, 549, 49.0, 0.5, 180),   # [B] L4; typical. PD: its water only
    Tissue.CORD:           (0.75, 745, 74.0, 1.0, 45),    # [S]; typical
    Tissue.CSF:            (1.00, 4000, 1500, 3.0, 10),   # typical
    Tissue.LUNG:           (0.15, 1200, 30.0, 1.5, -830), # typical
    Tissue.HEART:          (0.75, 1030, 40.0, 4.0, 120),  # [S]; ADC: signal lost to motion
    Tissue.LIVER:          (0.80, 586, 46.0, 1.24, 112),  # [B]; [G]
    Tissue.SPLEEN:         (0.85, 1057, 79.0, 0.85, 122), # [B]; [K]
    Tissue.CORTEX:         (0.85, 966, 87.0, 2.03, 185),  # [B]; [T]
    Tissue.MEDULLA:        (0.88, 1412, 85.0, 1.87, 160), # [B]; [T]
    Tissue.URINE:          (1.00, 3500, 900, 3.0, 12),    # typical
    Tissue.PANCREAS:       (0.78, 584, 46.0, 1.3, 100),   # [B]; [K]
    Tissue.WALL:           (0.78, 800, 50.0, 1.4, 85),    # typical: stomach, bowel, gallbladder
    Tissue.CONTENT:        (0.85, 1200, 90.0, 2.2, 25),   # typical
    Tissue.GAS:            (0.00, 1e3, 10.0, 0.0, -950),  # typical
    Tissue.BILE:           (0.95, 2000, 400, 2.9, 12),    # typical
    Tissue.ARTERY:         (0.10, 1441, 290, 20., 150),   # [S] blood; [L]. PD: flow void
    Tissue.VEIN:           (0.45, 1441, 200, 20., 155),   # [S] blood; [L]. PD: slow flow
    Tissue.PORTAL:         (0.45, 1441, 200, 20., 172),   # as VEIN
    Tissue.CYST:           (1.00, 3000, 500, 3.02, 8),    # typical; [G]
    Tissue.HAEMANGIOMA:    (0.95, 1300, 150, 1.92, 138),  # typical; [G]
    Tissue.METASTASIS:     (0.86, 900, 82.0, 1.05, 66),   # typical; [K] [G] 1.0 to 1.2
    Tissue.METASTASIS_POST: (0.84, 850, 75.0, 1.25, 72),  # typical: fibrosis; ADC rises [C]
    Tissue.NECROSIS:       (0.92, 1600, 120, 1.90, 40),   # typical: wetter, ADC higher
}  # fmt: skip


# Of an axis, in mm: the label map's positions, the voxels' centres, a voxel's width.
Line = tuple[np.ndarray, np.ndarray, float]


@dataclass(frozen=True)
class Scanner:
    """How a scan samples the body; in-plane pairs are (y, x)."""

    matrix: int  # reconstructed pixels along x and y
    slices: int
    spacing: float  # mm between slice centres
    thickness: float  # mm, slice profile
    blur: tuple[float, float]  # mm, full width at half maximum of the in-plane blur
    noise: float  # standard deviation, in units of the signal equation (MRI) or HU (CT)
    tr: float = 0.0  # ms; 0: CT
    te: float = 0.0  # ms
    b: float = 0.0  # s/mm²
    phase: int = 0  # acquired phase-encoding lines, along y
    gain: float = 1.0  # arbitrary units of the stored image per unit of signal

    @property
    def mri(self) -> bool:
        return self.tr > 0


FOV = 380.0  # mm
# Acquired 128 × 90, interpolated to 128 × 128; the blur along y is EPI's.
DWI = Scanner(128, 28, 7.0, 6.0, (5.2, 3.3), 0.0050, 4000, 80, 1000, 90, gain=2000)
# Acquired 288 × 224, interpolated to 288 × 288.
T2WI = Scanner(288, 28, 7.0, 6.0, (1.9, 1.5), 0.026, 12630, 70, 0, 224, gain=600)
# 256² rather than the usual 512²: four times less to write, and training resamples to 224² anyway.
CT = Scanner(256, 40, 5.0, 5.0, (1.4, 1.4), 13.0)
SCANNERS = {"pre_dwi": DWI, "post_dwi": DWI, "pre_t2wi": T2WI, "post_t2wi": T2WI, "ct": CT}


@dataclass(frozen=True)
class PhantomScan:
    """An image int16 (z, y, x), its tumour mask uint8 0 or 1, and their geometry, mm (x, y, z)."""

    image: np.ndarray
    mask: np.ndarray
    spacing: tuple[float, float, float]
    origin: tuple[float, float, float]
    # The mask of a second reader, and that of the liver with its lesions, uint8; version 2 alone.
    second: np.ndarray | None = None
    liver: np.ndarray | None = None


def signal(scanner: Scanner, rows: np.ndarray) -> np.ndarray:
    """Returns the signal of rows (PD, T1, T2, ADC, HU); for CT in HU above air."""
    density, t1, t2, adc, hu = rows.T
    if not scanner.mri:
        return hu + 1000.0
    decay = np.exp(-scanner.te / t2) * np.exp(-scanner.b * adc * 1e-3)
    return density * (1 - np.exp(-scanner.tr / t1)) * decay


def _lesion_rows(lesion: Blob, post: bool) -> np.ndarray:
    """Returns the rows of `TABLE` for a metastasis' rim and core, varied for this lesion."""
    kind = Tissue.METASTASIS_POST if post else Tissue.METASTASIS
    rows = np.array([TABLE[kind], TABLE[Tissue.NECROSIS]], float)
    spread = 1.3 if post else 1.0  # responders and non-responders differ
    rows[:, 2] *= np.exp(0.06 * spread * lesion.jitter[0])
    rows[:, 3] *= np.exp(0.08 * spread * lesion.jitter[1])
    rows[:, 4] += 7.0 * lesion.jitter[2]
    return rows


def _signals(
    rng: np.random.Generator, scanner: Scanner, patient: Patient, post: bool
) -> np.ndarray:
    """Returns the signal of every label; tissues deviate a little from `TABLE`, as drawn."""
    rows = np.array([TABLE[tissue] for tissue in Tissue], float)
    rows[:, 1:4] *= np.exp(0.04 * rng.standard_normal((len(rows), 3)))
    rows[1:, 4] += 4.0 * rng.standard_normal(len(rows) - 1)
    table = np.zeros(256)
    table[: len(rows)] = signal(scanner, rows)
    for index, lesion in enumerate(patient.metastases):
        rim, core = signal(scanner, _lesion_rows(lesion, post))
        first = LESION_LABEL + 3 * index
        table[first + RIM], table[first + CORE] = rim, core
        table[first + EDGE] = (rim + table[Tissue.LIVER]) / 2
    return table.astype(np.float32)


def sampler(
    source: np.ndarray, centres: np.ndarray, width: float, blur: float
) -> sparse.csr_matrix:
    """Returns a matrix that averages a fine line over voxels `width` mm wide, blurred (mm)."""
    step = float(source[1] - source[0])
    # full width at half maximum -> standard deviation; a source sample is itself `step` mm wide
    sigma = np.hypot(blur / 2.3548, step / np.sqrt(12))
    offset = source[None, :].astype(float) - centres[:, None]
    weight = ndtr((offset + width / 2) / sigma) - ndtr((offset - width / 2) / sigma)
    weight[weight < 1e-3] = 0
    total = weight.sum(1, keepdims=True)
    weight /= np.where(total > 0, total, 1)  # beyond the map: air
    return sparse.csr_matrix(weight.astype(np.float32))


def _phase_weights(scanner: Scanner) -> sparse.csr_matrix:
    """Returns a matrix that interpolates noise along y, from the acquired lines to the matrix.

    The interpolated noise keeps unit variance.
    """
    offset = np.arange(scanner.matrix)[:, None] * scanner.phase / scanner.matrix
    offset = offset - np.arange(scanner.phase)[None, :]
    weight = np.sinc(offset) * (np.abs(offset) < 2.5)
    weight /= np.linalg.norm(weight, axis=1, keepdims=True)
    return sparse.csr_matrix(weight.astype(np.float32))


def finish_mri(
    rng: np.random.Generator,
    scanner: Scanner,
    clean: np.ndarray,
    axes: Sequence[np.ndarray],
    texture: float = 0.04,
    bias: float = 0.10,
) -> np.ndarray:
    """Adds texture, coil bias and noise (to a complex signal, so Rician); returns int16.

    Args:
      rng: is drawn from.
      scanner: the protocol.
      clean: signal (z, y, x).
      axes: of the scan in mm, (z, y, x).
      texture, bias: standard deviations of the logarithm of the signal, over 6 and 150 mm.
    """
    field = np.float32(texture) * smooth_field(rng, axes, 6.0, depth=9.0)
    field += np.float32(bias) * smooth_field(rng, axes, 150.0)
    weights = _phase_weights(scanner)
    gain = scanner.gain * rng.uniform(0.85, 1.15)  # the unit is arbitrary
    image = np.empty(clean.shape, np.int16)
    for k in range(len(clean)):  # one slice at a time stays in the processor's cache
        drawn = rng.standard_normal((2, scanner.phase, scanner.matrix), dtype=np.float32)
        real, imaginary = (scanner.noise * (weights @ lines) for lines in drawn)
        plane = np.hypot(clean[k] * np.exp(field[k]) + real, imaginary)
        image[k] = np.minimum(np.rint(gain * plane), 32767)
    return image


def finish_ct(
    rng: np.random.Generator, scanner: Scanner, clean: np.ndarray, axes: Sequence[np.ndarray]
) -> np.ndarray:
    """Adds texture and noise, correlated between neighbours by the kernel; returns HU as int16."""
    texture = smooth_field(rng, axes, 6.0, depth=9.0)
    image = np.empty(clean.shape, np.int16)
    for k in range(len(clean)):
        drawn = rng.standard_normal((scanner.matrix + 1,) * 2, dtype=np.float32)
        drawn = drawn[1:] + drawn[:-1]
        noise = scanner.noise / 2 * (drawn[:, 1:] + drawn[:, :-1])
        plane = clean[k] - 1000.0 + 0.05 * np.minimum(clean[k], 100.0) * texture[k] + noise
        image[k] = np.clip(np.rint(plane), -1024, 3071)
    return image


def place_grid(
    rng: np.random.Generator, scanner: Scanner
) -> tuple[np.ndarray, np.ndarray, list[np.ndarray]]:
    """Draws where a scan lies; returns spacing, origin and axes in mm, (z, y, x)."""
    pixel = FOV / scanner.matrix
    spacing = np.array([scanner.spacing, pixel, pixel])
    shape = np.array([scanner.slices, scanner.matrix, scanner.matrix])
    centre = np.array([-3.0, 0.0, 0.0]) + rng.uniform(-4, 4, 3)  # mm, how the patient lies
    origin = centre - (shape - 1) / 2 * spacing
    axes = [
        (o + s * np.arange(n)).astype(np.float32)
        for o, s, n in zip(origin, spacing, shape, strict=True)
    ]
    return spacing, origin, axes


def body_lines(
    scanner: Scanner, spacing: np.ndarray, axes: Sequence[np.ndarray], breath: np.ndarray
) -> list[Line]:
    """Returns how the voxels of a scan lie in a body that a breath moved by mm (z, y, x)."""
    source = [axis + shift for axis, shift in zip(grid_axes(), breath, strict=True)]
    return list(zip(source, axes, (scanner.thickness, *spacing[1:]), strict=True))


def blurred_samplers(scanner: Scanner, lines: Sequence[Line]) -> list[sparse.csr_matrix]:
    """Returns the matrices that sample a body as the scanner sees it, along z, y, x."""
    blurs = (0.0, *scanner.blur)
    return [sampler(*line, blur) for line, blur in zip(lines, blurs, strict=True)]


def outline(share: np.ndarray) -> np.ndarray:
    """Returns the mask (bool) of what fills half of a voxel or more.

    It is never empty, even of a sliver between two slices.
    """
    return share >= min(0.5, share.max())


def sample_part(lines: Sequence[Line], part: np.ndarray) -> np.ndarray:
    """Returns the share of every voxel that belongs to a part of the body (bool)."""
    held = (np.flatnonzero(part.any(axis)) for axis in ((1, 2), (0, 2), (0, 1)))
    where = tuple(slice(k[0], k[-1] + 1) for k in held)  # the rest is empty
    samplers = [sampler(*line, 0.0)[:, w] for line, w in zip(lines, where, strict=True)]
    return apply_along(samplers, part[where].astype(np.float32))


def scan(rng: np.random.Generator, patient: Patient, condition: str) -> PhantomScan:
    """Scans a patient under a condition of `SCANNERS`."""
    scanner = SCANNERS[condition]
    post = condition.startswith("post")
    labels, tumour = patient.at(post)
    values = _signals(rng, scanner, patient, post)[labels]

    spacing, origin, axes = place_grid(rng, scanner)
    breath = np.clip(rng.normal(0, (2.0, 1.0, 0.7)), -4, 4)  # mm: the same body, moved a little
    lines = body_lines(scanner, spacing, axes, breath)
    clean = apply_along(blurred_samplers(scanner, lines), values)
    mask = outline(sample_part(lines, tumour))
    finish = finish_mri if scanner.mri else finish_ct
    image = finish(rng, scanner, clean, axes)
    return PhantomScan(image, mask.astype(np.uint8), tuple(spacing[::-1]), tuple(origin[::-1]))
