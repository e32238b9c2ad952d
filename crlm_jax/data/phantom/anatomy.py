"""The healthy body of a phantom patient: an upper abdomen in mm, drawn as a map of tissue labels.

`draw_body` draws one from a random generator: body wall, ribs, spine, lungs, liver with its
vessels, spleen, kidneys, stomach and bowel. The map is finer than a scan, which averages it over
its voxels.

Positions are patient coordinates in mm as in DICOM (LPS): +x to the patient's left, +y to the back,
+z to the head; z = 0 is about the liver's hilum. Arrays are (z, y, x). Organs have sizes typical of
an adult, set by eye: a cartoon that stands for no patient.
"""

from collections.abc import Iterator, Sequence
from enum import IntEnum
from itertools import pairwise

import numpy as np
from scipy import ndimage, sparse

STEP = np.array([2.5, 1.25, 1.25])  # mm, grid of the label map along z, y, x
LOW, HIGH = np.array([-114.0, -128.0, -182.0]), np.array([108.0, 128.0, 182.0])  # mm, its extent
VERTEBRAE = range(-116, 124, 32)  # mm, their heights
WARP = 5.0  # mm, one standard deviation of the warp that keeps organs from being ellipsoids

Point = Sequence[float] | np.ndarray  # x, y, z in mm, or radii along them
Slab = tuple[slice, ...]  # a part of the grid, (z, y, x)

Tissue = IntEnum(
    "Tissue",
    "AIR FAT MUSCLE BONE MARROW CORD CSF LUNG HEART LIVER SPLEEN CORTEX MEDULLA URINE PANCREAS "
    "WALL CONTENT GAS BILE ARTERY VEIN PORTAL CYST HAEMANGIOMA METASTASIS METASTASIS_POST NECROSIS",
    start=0,
)


def grid_axes() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns the coordinates in mm of the label map along z, y, x."""
    z, y, x = (
        np.arange(a, b, s, dtype=np.float32) for a, b, s in zip(LOW, HIGH, STEP, strict=True)
    )
    return z, y, x


def apply_along(matrices: Sequence[sparse.csr_matrix], volume: np.ndarray) -> np.ndarray:
    """Applies a matrix along each axis of (z, y, x).

    The matrices are sparse, so that the order of a sum, and its last bit, does not depend on a BLAS
    and its threads.
    """
    for matrix in matrices:
        flat = matrix @ volume.reshape(volume.shape[0], -1)
        volume = np.moveaxis(flat.reshape(matrix.shape[0], *volume.shape[1:]), 0, -1)
        volume = np.ascontiguousarray(volume)
    return volume


def smooth_field(
    rng: np.random.Generator, axes: Sequence[np.ndarray], scale: float, depth: float | None = None
) -> np.ndarray:
    """Draws a smooth field of unit variance, correlated over `scale` mm (`depth` mm along z)."""
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
    """A label map to paint on, in the standard body's mm: later paint covers earlier."""

    def __init__(self, rng: np.random.Generator) -> None:
        self.rng = rng
        self.size = rng.uniform(0.94, 1.06, 3)  # relative to the standard body, (z, y, x)
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

    def slabs(self, low: Point, high: Point) -> Iterator[Slab]:
        """Yields the part of the grid from `low` to `high` (x, y, z), a few planes at a time.

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

    def paint(self, tissue: int, where: Slab, inside: np.ndarray, over: int | None = None) -> None:
        """Gives the points inside a slab a label; `over`: only those that have that label."""
        part = self.labels[where]
        if over is not None:
            inside = inside & (part == over)
        np.copyto(part, np.uint8(tissue), where=inside)

    def level(self, where: Slab, centre: Point, radii: Point, turn: float = 0.0) -> np.ndarray:
        """Returns values below 1 inside an ellipsoid; `turn` in degrees about the body's axis."""
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

    def ellipsoid(
        self,
        tissue: int,
        centre: Point,
        radii: Point,
        turn: float = 0.0,
        over: int | None = None,
        shells: Sequence[tuple[int, float]] = (),
    ) -> None:
        """Paints an ellipsoid and, inside it, `shells` of (tissue, fraction of the radius)."""
        reach = max(radii[:2]) if turn else 0.0
        half = np.maximum(radii, (reach, reach, 0))
        for where in self.slabs(np.subtract(centre, half), np.add(centre, half)):
            level = self.level(where, centre, radii, turn)
            self.paint(tissue, where, level < 1.0, over)
            for inner, fraction in shells:
                self.paint(inner, where, level < fraction**2, over)

    def tube(
        self, tissue: int, points: Sequence[tuple[float, ...]], over: int | None = None
    ) -> None:
        """Paints a tube through points (x, y, z, radius)."""
        for a, b in pairwise(np.asarray(points, np.float32)):
            reach = max(a[3], b[3])
            run = b[:3] - a[:3]
            low, high = np.minimum(a, b)[:3] - reach, np.maximum(a, b)[:3] + reach
            for where in self.slabs(low, high):
                px, py, pz = self.x[where] - a[0], self.y[where] - a[1], self.z[where[0]] - a[2]
                t = np.clip((px * run[0] + py * run[1] + pz * run[2]) / (run @ run + 1e-6), 0, 1)
                gap = (px - t * run[0]) ** 2 + (py - t * run[1]) ** 2 + (pz - t * run[2]) ** 2
                self.paint(tissue, where, gap < (a[3] + t * (b[3] - a[3])) ** 2, over)

    def near(self, *centre: float, spread: float = 3.0) -> np.ndarray:
        """Returns an organ's usual place, moved by a few mm for this patient."""
        return np.array(centre) + self.rng.normal(0, spread, 3)


def _trunk(canvas: _Canvas) -> None:
    """Skin to cavity: fat, muscle wall, ribs, fat inside."""
    rng = canvas.rng
    fat_side, fat_front, fat_back = rng.uniform(10, 26), rng.uniform(10, 24), rng.uniform(8, 16)
    a, front, back = 142.0, 94.0, 92.0
    first_rib = rng.uniform(0, 28)

    def oval(where: Slab, a: float, front: float, back: float) -> np.ndarray:
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
    for _ in range(14):
        loop = canvas.near(rng.uniform(-10, 92), rng.uniform(-55, 15), rng.uniform(-112, -42))
        radii = rng.uniform(9, 13, 3) * (rng.uniform(1, 2), 1, 1)
        turn = rng.uniform(-80, 80)
        canvas.ellipsoid(Tissue.WALL, loop, radii, turn, shells=((Tissue.CONTENT, 0.72),))
    canvas.tube(
        Tissue.PANCREAS,
        [
            (-30, -6, -48, 14),
            (-12, -16, -36, 11),
            (22, -14, -24, 9),
            (62, 16, -8, 9),
            (80, 26, 2, 6),
        ],
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
        for level in VERTEBRAE:
            canvas.ellipsoid(Tissue.BONE, (side * 14, 62, level), (5, 9, 10))  # pedicle
            canvas.ellipsoid(Tissue.BONE, (side * 30, 70, level), (17, 5, 8))  # transverse process
    canvas.ellipsoid(Tissue.FAT, (0, 40, 0), (30, 26, 400), over=Tissue.LIVER)
    canvas.ellipsoid(Tissue.BONE, (0, 44, 0), (23, 19, 400), shells=((Tissue.MARROW, 0.88),))
    for level in VERTEBRAE:
        canvas.ellipsoid(Tissue.MUSCLE, (0, 44, level + 16), (24, 20, 4))  # disc: as dark on T2
        canvas.ellipsoid(Tissue.BONE, (0, 71, level - 4), (14, 14, 15))  # lamina
        canvas.ellipsoid(Tissue.BONE, (0, 88, level - 10), (4, 13, 13))  # spinous process
    canvas.tube(Tissue.CSF, [(0, 69, -130, 9.5), (0, 69, 130, 9.5)])
    canvas.tube(Tissue.CORD, [(0, 69, -60, 4.5), (0, 69, 130, 5)])
    bladder = canvas.near(-46, -44, -42, spread=4.0)
    canvas.ellipsoid(Tissue.WALL, bladder, (16, 19, 27), 20, shells=((Tissue.BILE, 0.88),))


def _branch(
    canvas: _Canvas,
    tissue: int,
    start: Point,
    direction: Point,
    length: float,
    radius: float,
    generations: int,
) -> None:
    """Paints a vessel in the liver that bends, thins and forks."""
    rng = canvas.rng
    place, way = np.array(start, float), np.array(direction, float)
    points: list[tuple[float, ...]] = [(*place, radius)]
    for step in range(3):
        way = way / np.linalg.norm(way) + rng.normal(0, 0.18, 3)
        place = place + way / np.linalg.norm(way) * length / 3
        points.append((*place, radius * (1 - 0.12 * (step + 1))))
    canvas.tube(tissue, points, over=Tissue.LIVER)
    if generations:
        fork = rng.normal(0, 0.75, 3)
        for sign in (-1, 1):
            thin = radius * rng.uniform(0.6, 0.75)
            _branch(canvas, tissue, place, way + sign * fork, length * 0.72, thin, generations - 1)


def _vessels(canvas: _Canvas) -> None:
    """Aorta, inferior vena cava, splenic and portal vein, and the trees inside the liver."""
    canvas.tube(
        Tissue.VEIN, [(-22, 22, -130, 11), (-24, 18, 0, 12), (-20, 6, 62, 13), (-12, 0, 90, 12)]
    )
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
        _branch(canvas, Tissue.PORTAL, hilum, way, length, radius, 3)
    for way in ((-1.0, 0.25, -0.55), (-0.45, -1.0, -0.55), (0.45, -1.0, -0.45)):
        _branch(canvas, Tissue.VEIN, (-20, 4, 60), way, 58, 6.0, 2)


def draw_body(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Draws a body: labels uint8 (z, y, x), and where the liver with its vessels is, bool."""
    canvas = _Canvas(rng)
    _trunk(canvas)
    _chest(canvas)
    _left_side_and_bowel(canvas)
    _liver(canvas)
    _behind(canvas)
    _vessels(canvas)
    labels = canvas.labels
    liver = labels == Tissue.LIVER
    vessel = (labels == Tissue.VEIN) | (labels == Tissue.PORTAL)
    closed = ndimage.binary_closing(liver[:, ::2, ::2], iterations=3)
    closed = closed.repeat(2, 1).repeat(2, 2)[:, : liver.shape[1], : liver.shape[2]]
    return labels, liver | (vessel & closed)
