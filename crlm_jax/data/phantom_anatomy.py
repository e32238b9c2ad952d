"""The anatomy of a phantom patient: an upper abdomen in millimetres, drawn as a map of tissue labels.

`build_anatomy` draws one patient from one random generator: body wall, ribs, spine, lungs, liver with
its vessels, spleen, kidneys, stomach, bowel, 1 to 5 metastases, and benign cysts and haemangiomas. The
map lies on a grid finer than any scan, so that a scan can average it over its voxels (partial volume).

Positions are patient coordinates in mm as in DICOM (LPS): +x to the patient's left, +y to the back, +z
to the head; z = 0 is about the liver's hilum. Arrays are (z, y, x). Organ sizes are typical of an adult
and are ours; they are a cartoon and stand for no patient.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import IntEnum

import numpy as np
from scipy import ndimage, sparse
from scipy.spatial.distance import pdist

STEP = np.array([2.5, 1.25, 1.25])  # mm, grid of the label map along z, y, x
LOW, HIGH = np.array([-114.0, -128.0, -182.0]), np.array([108.0, 128.0, 182.0])  # mm, its extent
DIAMETER_RANGE = (8.0, 60.0)  # mm, largest diameter of a metastasis
LARGEST_AT_LEAST = 18.0  # mm: one lesion a patient stays visible when it shrinks by half
MAX_LESIONS = 5
LESION_LABEL = 64  # label of part p of lesion i: LESION_LABEL + 3 i + p
RIM, CORE, EDGE = 0, 1, 2  # parts of a lesion
WARP = 5.0  # mm, one standard deviation of the warp that keeps organs from being ellipsoids

Tissue = IntEnum(
    "Tissue",
    "AIR FAT MUSCLE BONE MARROW CORD CSF LUNG HEART LIVER SPLEEN CORTEX MEDULLA URINE PANCREAS WALL "
    "CONTENT GAS BILE ARTERY VEIN PORTAL CYST HAEMANGIOMA METASTASIS METASTASIS_POST NECROSIS",
    start=0,
)


@dataclass(frozen=True)
class Blob:
    """A lesion: a lobulated, star-shaped body around `centre`; radius 1 before scaling."""

    kind: Tissue
    centre: np.ndarray  # mm, (x, y, z)
    pre: float  # mm, largest diameter before chemotherapy
    post: float  # mm, largest diameter after it; 0: gone
    bumps: np.ndarray  # (K, 4): direction and height of each bump
    core: float  # necrotic core's radius as a fraction of the lesion's; 0: none
    jitter: np.ndarray  # standard normal draws: T2, ADC, HU of this lesion

    def radius(self, unit: np.ndarray) -> np.ndarray:
        """Distance from the centre to the surface along unit vectors (..., 3), up to scale."""
        bump = np.exp(4.0 * (unit @ self.bumps[:, :3].T - 1.0)) @ self.bumps[:, 3]
        return np.maximum(1.0 + bump, 0.4)


@dataclass(frozen=True)
class Anatomy:
    """A patient: tissue labels (z, y, x) without metastases, the liver, and the lesions."""

    labels: np.ndarray  # uint8
    liver: np.ndarray  # bool, with vessels and benign lesions in it
    metastases: list[Blob]
    benign: list[Blob]

    def at(self, post: bool) -> tuple[np.ndarray, np.ndarray]:
        """Labels with the metastases of a time point, and where those are (bool)."""
        labels = self.labels.copy()
        for index, lesion in enumerate(self.metastases):
            paint_blob(labels, self.liver, lesion, post, LESION_LABEL + 3 * index)
        return labels, labels >= LESION_LABEL


def grid_axes() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Coordinates in mm of the label map along z, y, x."""
    z, y, x = (np.arange(a, b, s, dtype=np.float32) for a, b, s in zip(LOW, HIGH, STEP, strict=True))
    return z, y, x


def apply_along(matrices: Sequence[sparse.csr_matrix], volume: np.ndarray) -> np.ndarray:
    """Apply one matrix along each axis of (z, y, x); sparse, so sums have one order on any machine."""
    for matrix in matrices:
        flat = matrix @ volume.reshape(volume.shape[0], -1)
        volume = np.moveaxis(flat.reshape(matrix.shape[0], *volume.shape[1:]), 0, -1)
        volume = np.ascontiguousarray(volume)
    return volume


def smooth_field(
    rng: np.random.Generator, axes: Sequence[np.ndarray], scale: float, depth: float | None = None
) -> np.ndarray:
    """A smooth random field of unit variance, correlated over `scale` mm (`depth` mm along z)."""
    matrices, shape = [], []
    for axis, width in zip(axes, (depth or scale, scale, scale), strict=True):
        knots = np.arange(axis.min() - 2 * width, axis.max() + 2 * width, width)
        offset = (axis[:, None] - knots[None, :]) / width
        weight = np.where(np.abs(offset) < 2.5, np.exp(-(offset**2) / 0.8), 0.0)
        weight /= np.linalg.norm(weight, axis=1, keepdims=True)
        matrices.append(sparse.csr_matrix(weight.astype(np.float32)))
        shape.append(len(knots))
    return apply_along(matrices, rng.standard_normal(shape, dtype=np.float32))


class _Canvas:
    """A label map to paint on, in the coordinates of the standard body: later paint covers earlier."""

    def __init__(self, rng: np.random.Generator) -> None:
        self.rng = rng
        self.size = rng.uniform(0.94, 1.06, 3)  # of this patient against the standard body, (z, y, x)
        self.axes = [axis / size for axis, size in zip(grid_axes(), self.size, strict=True)]
        z, y, x = (axis.astype(np.float32) for axis in self.axes)
        self.z = z[:, None, None]
        self.y = y[None, :, None] + WARP * 0.6 * smooth_field(rng, (z, y, x), 70.0)
        self.x = x[None, None, :] + WARP * smooth_field(rng, (z, y, x), 70.0)
        self.labels = np.zeros(self.x.shape, np.uint8)
        self.cavity = np.zeros(self.x.shape, bool)
        grow = rng.uniform(0.93, 1.05, (2, 3))
        self.right_lobe = self.near(-69, 2, -8), np.array([69, 84, 90]) * grow[0]
        self.left_lobe = self.near(4, -46, 26), np.array([86, 38, 46]) * grow[1]

    def slabs(self, low: Sequence[float], high: Sequence[float]) -> Iterator[tuple[slice, ...]]:
        """The part of the grid from `low` to `high` (x, y, z), a few planes at a time.

        Thin slabs stay in the processor's cache, which makes painting about three times faster.
        """
        z, y, x = (
            slice(*np.searchsorted(axis, (a - margin, b + margin)))
            for axis, a, b, margin in zip(
                self.axes, reversed(low), reversed(high), (1.0, 2 * WARP, 3 * WARP), strict=True
            )
        )
        for start in range(z.start, z.stop, 6):
            yield slice(start, min(start + 6, z.stop)), y, x

    def paint(self, tissue: int, where: tuple, inside: np.ndarray, over: int | None = None) -> None:
        """Give the points inside a slab a label; `over`: only where that label stands."""
        part = self.labels[where]
        if over is not None:
            inside = inside & (part == over)
        np.copyto(part, np.uint8(tissue), where=inside)

    def level(self, where: tuple, centre, radii, turn: float = 0.0) -> np.ndarray:
        """Below 1 inside an ellipsoid; `turn` in degrees about the body's axis."""
        u, v = self.x[where] - np.float32(centre[0]), self.y[where] - np.float32(centre[1])
        if turn:
            c, s = np.float32(np.cos(np.deg2rad(turn))), np.float32(np.sin(np.deg2rad(turn)))
            u, v = c * u + s * v, c * v - s * u
        u *= np.float32(1 / radii[0])
        u *= u
        v *= np.float32(1 / radii[1])
        v *= v
        u += v
        u += ((self.z[where[0]] - np.float32(centre[2])) / np.float32(radii[2])) ** 2
        return u

    def ellipsoid(self, tissue, centre, radii, turn=0.0, over=None, shells=()) -> None:
        """Paint an ellipsoid and, inside it, `shells` of (tissue, fraction of the radius)."""
        reach = max(radii[:2]) if turn else 0.0
        half = np.maximum(radii, (reach, reach, 0))
        for where in self.slabs(np.subtract(centre, half), np.add(centre, half)):
            level = self.level(where, centre, radii, turn)
            self.paint(tissue, where, level < 1.0, over)
            for inner, fraction in shells:
                self.paint(inner, where, level < fraction**2, over)

    def tube(self, tissue, points, over=None) -> None:
        """Paint a tube through points (x, y, z, radius)."""
        points = np.asarray(points, np.float32)
        for a, b in zip(points[:-1], points[1:], strict=True):
            reach = max(a[3], b[3])
            run = b[:3] - a[:3]
            low, high = np.minimum(a, b)[:3] - reach, np.maximum(a, b)[:3] + reach
            for where in self.slabs(low, high):
                px, py, pz = self.x[where] - a[0], self.y[where] - a[1], self.z[where[0]] - a[2]
                t = np.clip((px * run[0] + py * run[1] + pz * run[2]) / (run @ run + 1e-6), 0, 1)
                gap = (px - t * run[0]) ** 2 + (py - t * run[1]) ** 2 + (pz - t * run[2]) ** 2
                self.paint(tissue, where, gap < (a[3] + t * (b[3] - a[3])) ** 2, over)

    def near(self, *centre: float, spread: float = 3.0) -> np.ndarray:
        """An organ's usual place, moved by a few mm for this patient."""
        return np.array(centre) + self.rng.normal(0, spread, 3)


def _trunk(canvas: _Canvas) -> None:
    """Skin to cavity: fat, muscle wall, ribs, fat inside."""
    rng = canvas.rng
    fat_side, fat_front, fat_back = rng.uniform(10, 26), rng.uniform(10, 24), rng.uniform(8, 16)
    a, front, back = 142.0, 94.0, 92.0
    first_rib = rng.uniform(0, 28)

    def oval(where: tuple, a: float, front: float, back: float) -> np.ndarray:
        u = (canvas.x[where] * np.float32(1 / a)) ** 2
        v = (canvas.y[where] - np.float32((back - front) / 2)) * np.float32(2 / (back + front))
        v *= v
        return u + v - np.float32(0.35) * u * v  # squarer than an ellipse, as a trunk is

    for where in canvas.slabs((-400, -400, -400), (400, 400, 400)):
        skin = oval(where, a + fat_side, front + fat_front, back + fat_back)
        wall = oval(where, a, front, back)
        cavity = oval(where, a - 13, front - 12, back - 15) < 1.0
        band = (wall < 0.93) & (oval(where, a - 11, front - 10, back - 13) > 1.0)
        z = np.broadcast_to(canvas.z[where[0]], band.shape)[band]
        ahead = -canvas.y[where][band] / front  # 1 in front, -1 behind: ribs run down to the front
        along = np.abs(np.mod(z + 50 * ahead + first_rib, 28.0) - 14.0)
        rib = (along < 7.5) & (z > -70 + 75 * np.maximum(ahead, 0) ** 2)
        wall_labels = np.full(len(z), Tissue.MUSCLE, np.uint8)
        wall_labels[rib] = np.where(along[rib] < 4.5, Tissue.MARROW, Tissue.BONE)
        canvas.paint(Tissue.FAT, where, skin < 1.0)
        canvas.paint(Tissue.MUSCLE, where, wall < 1.0)
        canvas.labels[where][band] = wall_labels
        canvas.paint(Tissue.FAT, where, cavity)
        canvas.cavity[where] = cavity


def _chest(canvas: _Canvas) -> None:
    """Lungs above the two domes of the diaphragm, the mediastinum and the heart."""
    centre, radii = canvas.right_lobe
    for where in canvas.slabs((-200, -150, 5), (200, 150, 140)):
        right = canvas.level(where, centre, radii + 7)
        left = canvas.level(where, (72, 0, -34), (84, 100, 108))
        left_lobe = canvas.level(where, canvas.left_lobe[0], canvas.left_lobe[1] + 6, 8)
        outside = (right > 1) & (left > 1) & (left_lobe > 1) & canvas.cavity[where]
        canvas.paint(Tissue.LUNG, where, outside)
    canvas.ellipsoid(Tissue.FAT, (0, 30, 90), (32, 42, 62), over=Tissue.LUNG)
    heart = canvas.near(24, -36, 108)
    canvas.ellipsoid(Tissue.FAT, heart, (68, 50, 47), 20, over=Tissue.LUNG)
    canvas.ellipsoid(Tissue.HEART, heart, (62, 43, 43), 20, shells=((Tissue.VEIN, 0.7),))


def _left_side_and_bowel(canvas: _Canvas) -> None:
    """Stomach, colon, small bowel, pancreas and spleen."""
    rng = canvas.rng
    stomach = canvas.near(62, -24, 24, spread=4.0)
    radii = np.array([44, 38, 50]) * rng.uniform(0.75, 1.0)
    canvas.ellipsoid(Tissue.WALL, stomach, radii, -30)
    canvas.ellipsoid(Tissue.CONTENT, stomach, radii - 5, -30)
    level = stomach[1] - rng.uniform(2, 20)  # gas rises to the front: the patient lies supine
    for where in canvas.slabs(stomach - 50, stomach + 50):
        inside = canvas.level(where, stomach, radii - 5, -30) < 1
        canvas.paint(Tissue.GAS, where, inside & (canvas.y[where] < level))
    colon = [(-92, -40, -112), (-80, -48, -84), (-40, -64, -92), (10, -66, -98), (60, -60, -84)]
    colon += [(98, -40, -46), (104, -4, -60), (102, 8, -112)]
    for inner, radius in ((Tissue.WALL, 18.0), (Tissue.CONTENT, 15.0), (Tissue.GAS, 9.0)):
        lift = -3.0 if inner == Tissue.GAS else 0.0
        canvas.tube(inner, [(x, y + lift, z, radius) for x, y, z in colon])
    for _ in range(7):
        loop = canvas.near(rng.uniform(-20, 80), rng.uniform(-45, 5), rng.uniform(-110, -62))
        radii = rng.uniform(9, 13, 3) * (rng.uniform(1, 2), 1, 1)
        turn = rng.uniform(-80, 80)
        canvas.ellipsoid(Tissue.WALL, loop, radii, turn, shells=((Tissue.CONTENT, 0.72),))
    canvas.tube(
        Tissue.PANCREAS,
        [(-30, -6, -48, 14), (-12, -16, -36, 11), (22, -14, -24, 9), (62, 16, -8, 9), (80, 26, 2, 6)],
    )
    spleen = canvas.near(100, 40, 18)
    size = np.array([31, 56, 54]) * rng.uniform(0.85, 1.1)
    for where in canvas.slabs(spleen - 66, spleen + 66):
        inside = canvas.level(where, spleen, size, 28) < 1
        hollow = canvas.level(where, spleen - (40, 22, 4), (40, 40, 60)) > 1
        canvas.paint(Tissue.SPLEEN, where, inside & hollow & canvas.cavity[where])


def _liver(canvas: _Canvas) -> None:
    """Right, left and caudate lobe inside the cavity, with the fissure of the round ligament."""
    for where in canvas.slabs((-150, -100, -106), (100, 100, 96)):
        inside = canvas.level(where, *canvas.right_lobe) < 1
        inside |= canvas.level(where, *canvas.left_lobe, 8) < 1
        inside |= canvas.level(where, (-10, 2, 22), (24, 22, 28)) < 1
        canvas.paint(Tissue.LIVER, where, inside & canvas.cavity[where])
    canvas.ellipsoid(Tissue.FAT, canvas.near(2, -52, -8), (5, 32, 28), -12, over=Tissue.LIVER)
    canvas.ellipsoid(Tissue.FAT, (-26, -6, -28), (20, 14, 22), 20, over=Tissue.LIVER)  # the hilum


def _behind(canvas: _Canvas) -> None:
    """Spine, muscles beside it, kidneys, and the gallbladder under the liver."""
    rng = canvas.rng
    for side in (-1, 1):
        canvas.ellipsoid(Tissue.MUSCLE, (side * 33, 84, 0), (26, 17, 400))
        canvas.ellipsoid(Tissue.MUSCLE, (side * 36, 54, -110), (17, 19, 78))  # psoas
        canvas.ellipsoid(Tissue.MUSCLE, (side * 12, 24, 0), (10, 11, 400), side * 40)  # crus
        kidney = canvas.near(side * 64, 48, -46 - 8 * (side < 0))
        size = rng.uniform(0.92, 1.08)
        radii = np.array([29, 31, 56]) * size
        canvas.ellipsoid(Tissue.FAT, kidney, radii + 6, side * 35)
        canvas.ellipsoid(Tissue.CORTEX, kidney, radii, side * 35, shells=((Tissue.MEDULLA, 0.74),))
        inward = kidney - (side * 9, 6, 0)
        canvas.ellipsoid(Tissue.FAT, inward, radii * (0.52, 0.40, 0.55), side * 35)
        canvas.ellipsoid(Tissue.URINE, inward, radii * (0.24, 0.18, 0.35), side * 35)
        process = (-1 + side * 30, 70, 0)
        canvas.tube(Tissue.BONE, [(side * 14, 66, z, 5) for z in (-120, 120)])  # pedicles
        canvas.ellipsoid(Tissue.BONE, process, (16, 5, 400))
    canvas.ellipsoid(Tissue.FAT, (0, 40, 0), (30, 26, 400), over=Tissue.LIVER)
    canvas.ellipsoid(Tissue.BONE, (0, 44, 0), (23, 19, 400), shells=((Tissue.MARROW, 0.88),))
    canvas.tube(Tissue.BONE, [(0, 70, -130, 13), (0, 70, 130, 13)])
    canvas.tube(Tissue.BONE, [(0, 84, -130, 6), (0, 90, 130, 6)])
    canvas.tube(Tissue.CSF, [(0, 69, -130, 9.5), (0, 69, 130, 9.5)])
    canvas.tube(Tissue.CORD, [(0, 69, -60, 4.5), (0, 69, 130, 5)])
    bladder = canvas.near(-46, -44, -42, spread=4.0)
    canvas.ellipsoid(Tissue.WALL, bladder, (16, 19, 27), 20, shells=((Tissue.BILE, 0.88),))


def _twigs(canvas, tissue, start, way, length, radius, generations: int) -> None:
    """A vessel in the liver that bends, thins and forks."""
    rng = canvas.rng
    points, place, way = [(*start, radius)], np.array(start, float), np.array(way, float)
    for step in range(3):
        way = way / np.linalg.norm(way) + rng.normal(0, 0.18, 3)
        place = place + way / np.linalg.norm(way) * length / 3
        points.append((*place, radius * (1 - 0.12 * (step + 1))))
    canvas.tube(tissue, points, over=Tissue.LIVER)
    if generations:
        fork = rng.normal(0, 0.75, 3)
        for sign in (-1, 1):
            thin = radius * rng.uniform(0.6, 0.75)
            _twigs(canvas, tissue, place, way + sign * fork, length * 0.72, thin, generations - 1)


def _vessels(canvas: _Canvas) -> None:
    """Aorta, inferior vena cava, splenic and portal vein, and the trees inside the liver."""
    canvas.tube(Tissue.VEIN, [(-22, 22, -130, 11), (-24, 18, 0, 12), (-20, 6, 62, 13), (-12, 0, 90, 12)])
    canvas.tube(Tissue.ARTERY, [(10, 16, -130, 9), (11, 15, 0, 11), (18, 22, 130, 12)])
    canvas.tube(Tissue.ARTERY, [(11, 8, -14, 4), (11, -8, -24, 4), (8, -12, -130, 4)])
    hilum = (-30, -6, -14)
    canvas.tube(Tissue.PORTAL, [(2, -4, -130, 5), (2, -4, -40, 6), (-12, -4, -26, 7), (*hilum, 7)])
    canvas.tube(Tissue.PORTAL, [(2, -4, -36, 5), (34, 4, -18, 4.5), (76, 28, 0, 4)])
    for way, length, radius in (
        ((-1.0, -0.5, 0.35), 42, 6.5),
        ((-1.0, 0.6, -0.1), 42, 6.5),
        ((0.5, -1.0, 0.9), 44, 5.5),
    ):
        _twigs(canvas, Tissue.PORTAL, hilum, way, length, radius, 3)
    for way in ((-1.0, 0.25, -0.55), (-0.45, -1.0, -0.55), (0.45, -1.0, -0.45)):
        _twigs(canvas, Tissue.VEIN, (-20, 4, 60), way, 58, 6.0, 2)


def paint_blob(labels: np.ndarray, liver: np.ndarray, blob: Blob, post: bool, label: int) -> None:
    """Draw a lesion into the label map, inside the liver only (in place).

    Before chemotherapy a metastasis has a rim and perhaps a necrotic core. After it an `EDGE` lies
    between the rim and the liver: the border is blurred.
    """
    diameter = blob.post if post else blob.pre
    if not diameter:
        return
    axes = grid_axes()
    where = tuple(
        slice(*np.searchsorted(axis, (c - diameter, c + diameter)))
        for axis, c in zip(axes, blob.centre[::-1], strict=True)
    )
    z, y, x = np.meshgrid(*(a[w] for a, w in zip(axes, where, strict=True)), indexing="ij")
    offset = np.stack([x, y, z], -1).astype(np.float32) - blob.centre.astype(np.float32)
    length = np.sqrt((offset**2).sum(-1)) + 1e-3
    level = length / (blob.radius(offset / length[..., None]) * _unit_radius(blob) * diameter)
    inside = (level < 1.0) & liver[where]
    part = labels[where]
    if blob.kind != Tissue.METASTASIS:
        part[inside] = label
        return
    part[inside] = label + RIM
    if post:
        part[inside & (level > 0.80)] = label + EDGE
    part[inside & (level < blob.core * (0.8 if post else 1.0))] = label + CORE


def _unit_radius(blob: Blob) -> float:
    """The factor that makes a lesion's largest diameter 1."""
    golden = np.pi * (3 - np.sqrt(5)) * np.arange(240)
    height = np.linspace(-1, 1, 240)
    ring = np.sqrt(1 - height**2)
    unit = np.stack([ring * np.cos(golden), ring * np.sin(golden), height], -1)
    return 1.0 / float(pdist(unit * blob.radius(unit)[:, None]).max())


def _response(rng: np.random.Generator, diameter: float, largest: bool) -> float:
    """Largest diameter in mm after chemotherapy: most shrink, some stay, few grow, small ones may go."""
    kind = rng.uniform()
    low, high = (0.5, 0.85) if kind < 0.74 else (0.92, 1.02) if kind < 0.92 else (1.06, 1.25)
    after = diameter * rng.uniform(low, high)
    if not largest and diameter < 18 and rng.uniform() < 0.2:
        return 0.0
    return float(np.clip(after, *DIAMETER_RANGE))


def _draw_blob(rng: np.random.Generator, kind: Tissue, diameter: float, largest: bool) -> Blob:
    tumour = kind == Tissue.METASTASIS
    count, height = (9, 0.34) if tumour else (4, 0.12)
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


def _place(rng: np.random.Generator, liver: np.ndarray, blobs: list[Blob]) -> list[Blob]:
    """Give each lesion a place inside the liver, apart from the others; the first ones first."""
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
        deep = depths > min(radius, 0.9 * depths.max())
        for other in placed:
            gap = np.linalg.norm(places - other.centre, axis=1)
            deep &= gap > radius + max(other.pre, other.post) / 2 + 5.0
        if not deep.any():  # a full liver: fewer lesions rather than overlapping ones
            continue
        centre = places[deep][rng.integers(deep.sum())]
        placed.append(Blob(**{**blob.__dict__, "centre": centre}))
    return placed


def build_anatomy(rng: np.random.Generator) -> Anatomy:
    """Draw one patient."""
    canvas = _Canvas(rng)
    _trunk(canvas)
    _chest(canvas)
    _left_side_and_bowel(canvas)
    _liver(canvas)
    _behind(canvas)
    _vessels(canvas)
    labels = canvas.labels
    liver = labels == Tissue.LIVER
    vessel = np.isin(labels, (Tissue.VEIN, Tissue.PORTAL))
    liver |= vessel & ndimage.binary_closing(liver[:, ::2, ::2], iterations=3).repeat(2, 1).repeat(
        2, 2
    )[:, : liver.shape[1], : liver.shape[2]]

    count = int(rng.integers(1, MAX_LESIONS + 1))
    sizes = np.sort(np.clip(22 * np.exp(0.5 * rng.standard_normal(count)), *DIAMETER_RANGE))[::-1]
    sizes[0] = max(sizes[0], LARGEST_AT_LEAST)
    blobs = [_draw_blob(rng, Tissue.METASTASIS, s, i == 0) for i, s in enumerate(sizes)]
    cysts, haemangiomas = int(rng.integers(0, 4)), int(rng.integers(0, 3))
    benign = [Tissue.CYST] * max(cysts, 1 - haemangiomas) + [Tissue.HAEMANGIOMA] * haemangiomas
    blobs += [_draw_blob(rng, kind, rng.uniform(8, 28), False) for kind in benign]
    placed = _place(rng, liver, blobs)
    metastases = [blob for blob in placed if blob.kind == Tissue.METASTASIS]
    others = [blob for blob in placed if blob.kind != Tissue.METASTASIS]
    for blob in others:
        paint_blob(labels, liver, blob, False, int(blob.kind))
    return Anatomy(labels, liver, metastases, others)
