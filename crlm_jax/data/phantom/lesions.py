"""The lesions of a phantom patient: metastases before and after chemotherapy, cysts, haemangiomas.

A metastasis is lobulated, 8 to 60 mm in its largest diameter, and may have a necrotic core.
Neoadjuvant chemotherapy shrinks most metastases and leaves some unchanged; few grow or vanish, but
never the largest one. It also blurs their borders. These frequencies are set by eye. Benign lesions
are drawn because a model may mistake them for metastases.
"""

from dataclasses import dataclass, replace

import numpy as np
from scipy import ndimage
from scipy.spatial.distance import pdist

from crlm_jax.data.phantom.anatomy import LOW, STEP, Tissue, draw_body, grid_axes

DIAMETERS = (8.0, 60.0)  # mm, largest diameter of a metastasis
LARGEST = 18.0, 13.0  # mm, least diameter of the largest one before and after: it stays visible
MOST_LESIONS = 5
LESION_LABEL = 64  # label of part p of metastasis i: LESION_LABEL + 3 i + p
RIM, CORE, EDGE = 0, 1, 2  # parts of a metastasis


@dataclass(frozen=True)
class Blob:
    """A lesion: a lobulated, star-shaped body around `centre`; radius 1 before scaling."""

    kind: Tissue
    centre: np.ndarray  # mm, (x, y, z)
    pre: float  # mm, largest diameter before chemotherapy
    post: float  # mm, largest diameter after it; 0: gone
    bumps: np.ndarray  # (K, 4): direction and height of each bump
    core: float  # necrotic core's radius as a fraction of the lesion's; 0: none
    jitter: np.ndarray  # (3,), standard normal: deviation of T2, ADC and HU of this lesion

    def diameter(self, post: bool) -> float:
        """Largest diameter in mm at a time point; 0: it is not there."""
        return self.post if post else self.pre

    def radius(self, unit: np.ndarray) -> np.ndarray:
        """Distance from the centre to the surface along unit vectors (..., 3), up to scale."""
        bump = np.exp(4.0 * (unit @ self.bumps[:, :3].T - 1.0)) @ self.bumps[:, 3]
        return np.maximum(1.0 + bump, 0.4)


@dataclass(frozen=True)
class Patient:
    """A body with lesions: labels (z, y, x) without the metastases, the liver, and the lesions."""

    labels: np.ndarray  # uint8
    liver: np.ndarray  # bool, with vessels and lesions in it
    metastases: list[Blob]
    benign: list[Blob]

    def at(self, post: bool) -> tuple[np.ndarray, np.ndarray]:
        """Returns the labels with the metastases of a time point, and a mask of these (bool)."""
        labels = self.labels.copy()
        for index, lesion in enumerate(self.metastases):
            paint(labels, self.liver, lesion, post, LESION_LABEL + 3 * index)
        return labels, labels >= LESION_LABEL


def paint(labels: np.ndarray, liver: np.ndarray, blob: Blob, post: bool, label: int) -> None:
    """Draws a lesion into the label map, in place, inside the liver only.

    Before chemotherapy a metastasis has a rim and perhaps a necrotic core. After chemotherapy an
    `EDGE` lies between the rim and the liver: the border is blurred.
    """
    if not blob.diameter(post):
        return
    where, level = levels(blob, blob.diameter(post))
    inside = (level < 1.0) & liver[where]
    part = labels[where]
    if blob.kind != Tissue.METASTASIS:
        part[inside] = label
        return
    part[inside] = label + RIM
    if post:
        part[inside & (level > 0.80)] = label + EDGE
    part[inside & (level < blob.core * (0.8 if post else 1.0))] = label + CORE


def levels(blob: Blob, diameter: float) -> tuple[tuple[slice, ...], np.ndarray]:
    """Returns a box (z, y, x) of the label map around a lesion, and values there.

    They grow from 0 in the lesion's centre to 1 on its surface, where its largest diameter is
    `diameter` mm; the box reaches a good way beyond.
    """
    axes = grid_axes()
    where = tuple(
        slice(*np.searchsorted(axis, (c - diameter, c + diameter)))
        for axis, c in zip(axes, blob.centre[::-1], strict=True)
    )
    z, y, x = np.meshgrid(*(a[w] for a, w in zip(axes, where, strict=True)), indexing="ij")
    offset = np.stack([x, y, z], -1).astype(np.float32) - blob.centre.astype(np.float32)
    length = np.sqrt((offset**2).sum(-1)) + 1e-3
    unit = blob.radius(offset / length[..., None])
    return where, length / (unit * _unit_radius(blob) * diameter)


def _unit_radius(blob: Blob) -> float:
    """The factor that makes a lesion's largest diameter 1."""
    golden = np.pi * (3 - np.sqrt(5)) * np.arange(240)
    height = np.linspace(-1, 1, 240)
    ring = np.sqrt(1 - height**2)
    unit = np.stack([ring * np.cos(golden), ring * np.sin(golden), height], -1)
    return 1.0 / float(pdist(unit * blob.radius(unit)[:, None]).max())


def _response(rng: np.random.Generator, diameter: float, largest: bool) -> float:
    """Draws the largest diameter after chemotherapy in mm; 0: the metastasis has vanished."""
    kind = rng.uniform()
    low, high = (0.5, 0.85) if kind < 0.74 else (0.92, 1.02) if kind < 0.92 else (1.06, 1.25)
    after = diameter * rng.uniform(low, high)
    if not largest and diameter < 18 and rng.uniform() < 0.2:
        return 0.0
    return float(np.clip(after, LARGEST[1] if largest else DIAMETERS[0], DIAMETERS[1]))


def draw_blob(rng: np.random.Generator, kind: Tissue, diameter: float, largest: bool) -> Blob:
    """Draws the shape of a lesion that has no place yet, and how chemotherapy changes its size."""
    tumour = kind == Tissue.METASTASIS
    count, height = (9, 0.5) if tumour else (4, 0.12)
    way = rng.standard_normal((count, 3))
    way /= np.linalg.norm(way, axis=1, keepdims=True)
    bumps = np.column_stack([way, rng.uniform(-0.6, 1.0, count) * height])
    necrotic = tumour and diameter > 22 and rng.uniform() < 0.5
    return Blob(
        kind=kind,
        centre=np.zeros(3),
        pre=float(diameter),
        post=_response(rng, diameter, largest) if tumour else float(diameter),
        bumps=bumps,
        core=float(rng.uniform(0.45, 0.68)) if necrotic else 0.0,
        jitter=rng.standard_normal(3),
    )


def place(
    rng: np.random.Generator, liver: np.ndarray, blobs: list[Blob], margin: float = 0.0
) -> list[Blob]:
    """Gives each lesion in turn a place inside the liver that does not touch the others.

    Its surface lies at least `margin` mm below the liver's, where the liver is thick enough.
    """
    skip = (2, 3, 3)
    depth = ndimage.distance_transform_edt(
        liver[:: skip[0], :: skip[1], :: skip[2]], sampling=STEP * skip
    )
    points = np.argwhere(depth > 3.0)
    depths = depth[tuple(points.T)]
    places = (LOW + points * STEP * skip)[:, ::-1]
    placed: list[Blob] = []
    for blob in blobs:
        radius = max(blob.pre, blob.post) / 2
        deep = depths > min(radius + margin, 0.9 * depths.max())
        for other in placed:
            gap = np.linalg.norm(places - other.centre, axis=1)
            deep &= gap > radius + max(other.pre, other.post) / 2 + 5.0
        if not deep.any():  # a full liver: fewer lesions rather than overlapping ones
            continue
        centre = places[deep][rng.integers(deep.sum())]
        placed.append(replace(blob, centre=centre))
    return placed


def draw_metastases(rng: np.random.Generator) -> list[Blob]:
    """Draws 1 to 5 metastases, the largest first, which have no place yet."""
    count = int(rng.integers(1, MOST_LESIONS + 1))
    sizes = np.sort(np.clip(22 * np.exp(0.5 * rng.standard_normal(count)), *DIAMETERS))[::-1]
    sizes[0] = max(sizes[0], LARGEST[0])
    return [draw_blob(rng, Tissue.METASTASIS, size, i == 0) for i, size in enumerate(sizes)]


def draw_benign(rng: np.random.Generator) -> list[Blob]:
    """Draws 1 to 5 cysts and haemangiomas, which have no place yet."""
    cysts, haemangiomas = int(rng.integers(0, 4)), int(rng.integers(0, 3))
    kinds = [Tissue.CYST] * max(cysts, 1 - haemangiomas) + [Tissue.HAEMANGIOMA] * haemangiomas
    return [draw_blob(rng, kind, rng.uniform(8, 28), False) for kind in kinds]


def draw_patient(rng: np.random.Generator) -> Patient:
    """Draws a body with 1 to 5 metastases and 1 to 5 benign lesions in its liver."""
    labels, liver = draw_body(rng)
    placed = place(rng, liver, draw_metastases(rng) + draw_benign(rng))
    benign = [blob for blob in placed if blob.kind != Tissue.METASTASIS]
    for blob in benign:
        paint(labels, liver, blob, False, int(blob.kind))
    return Patient(labels, liver, [b for b in placed if b.kind == Tissue.METASTASIS], benign)
