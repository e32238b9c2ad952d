"""The search for the motion that lays one image on another: a turn and a shift.

No step draws a random number, and every sum is taken in one thread: the same two images give the
same bits.
"""

import contextlib
import dataclasses
from collections.abc import Callable, Iterator

import numpy as np
import SimpleITK as sitk
from scipy import ndimage
from scipy.spatial import KDTree
from scipy.spatial.transform import Rotation

from crlm_jax.recist.prepared import STEP, PreparedImage

STARTS = 3  # shifts that are refined
REACH, SHIFT = 60.0, 15.0  # mm, how far from body on body shifts are tried, and their step
NEAR = 32.0  # mm from a lesion: its neighbourhood, which is aligned anew
BINS = 24  # grey levels of the similarity
OVERLAP = 0.5  # of the smaller body, the least that both images must show


@dataclasses.dataclass(frozen=True)
class Rigid:
    """A turn and a shift of points (N, 3) in mm: `points @ turn.T + shift`."""

    turn: np.ndarray  # (3, 3)
    shift: np.ndarray  # (3,)

    def __call__(self, points: np.ndarray) -> np.ndarray:
        return points @ self.turn.T + self.shift

    @property
    def inverse(self) -> "Rigid":
        """The motion back."""
        return Rigid(self.turn.T, -self.shift @ self.turn)

    @property
    def degrees(self) -> float:
        """The angle of the turn."""
        return float(np.degrees(Rotation.from_matrix(self.turn).magnitude()))


class Similarity:
    """How well a moved image fits: normalised mutual information − 1 (Studholme et al., 1999).

    0 stands for images that tell nothing of one another.
    """

    def __init__(
        self,
        fixed: PreparedImage,
        moving: PreparedImage,
        where: np.ndarray,
        every: int,
        sigma: float,
    ) -> None:
        """Compares at every so many voxels of `where`, after a blur of `sigma` voxels."""
        chosen = np.zeros_like(where)
        chosen[::every, ::every, ::every] = where[::every, ::every, ::every]
        grey, self._grey = (
            ndimage.gaussian_filter(sitk.GetArrayViewFromImage(image.grey), sigma)
            for image in (fixed, moving)
        )
        self._points = fixed.to_patient(np.argwhere(chosen))
        self._levels = _level(grey[chosen])
        self._moving = moving
        self._least = min(len(self._points), moving.body.sum() / every**3)

    def __call__(self, motion: Callable[[np.ndarray], np.ndarray]) -> tuple[float, float]:
        """Returns the similarity and the overlap, a share of the smaller body."""
        places = self._moving.to_places(motion(self._points))
        shape = np.array(self._grey.shape)
        inside = ((places >= -0.5) & (places <= shape - 0.5)).all(axis=1)
        if inside.sum() < BINS**2 / 4:
            return 0.0, 0.0
        nearest = np.rint(places[inside]).astype(int).clip(0, shape - 1)
        overlap = self._moving.body[tuple(nearest.T)].sum() / self._least
        values = ndimage.map_coordinates(self._grey, places[inside].T, order=1, mode="nearest")
        pairs = self._levels[inside] * BINS + _level(values)
        joint = np.bincount(pairs, minlength=BINS**2).reshape(BINS, BINS) / len(pairs)
        both = _entropy(joint)
        alone = _entropy(joint.sum(axis=0)) + _entropy(joint.sum(axis=1))
        return float(alone / both - 1) if both > 0 else 0.0, float(min(overlap, 1.0))


def _level(grey: np.ndarray) -> np.ndarray:
    return np.minimum((grey * BINS).astype(int), BINS - 1)


def _entropy(shares: np.ndarray) -> float:
    shares = shares[shares > 0]
    return float(-(shares * np.log(shares)).sum())


def align_bodies(fixed: PreparedImage, moving: PreparedImage) -> Rigid | None:
    """Returns the motion from the fixed image's coordinates to the moving one's; None: none."""
    similarity = Similarity(fixed, moving, fixed.body, 2, 1.0)
    found = []
    for shift in _starts(fixed, moving, similarity):
        motion = _refine(fixed, moving, fixed.body, Rigid(np.eye(3), shift), (2, 6.0, 4.0))
        if motion is not None:
            value, overlap = similarity(motion)
            found.append((value * (overlap >= OVERLAP), motion))
    if not found:
        return None
    best = max(found, key=lambda each: each[0])[1]  # the first of equals
    return _refine(fixed, moving, fixed.body, best, (1, 2.0, 1.0))


def _starts(
    fixed: PreparedImage, moving: PreparedImage, similarity: Similarity
) -> list[np.ndarray]:
    """Returns the shifts (3,) in mm that fit best, a step or more apart.

    They are tried around the headers' own positions, the centres of both bodies, and these with the
    middle of both images along the body's axis. Along this axis one image may show much more.
    """
    bodies, grids = moving.centre - fixed.centre, moving.middle - fixed.middle
    depths = [image.body.shape[0] * STEP for image in (fixed, moving)]
    reach = REACH + SHIFT * np.ceil(abs(depths[0] - depths[1]) / 2 / SHIFT)
    beside = [np.array(each) * SHIFT for each in ((0, 0), (1, 0), (-1, 0), (0, 1), (0, -1))]
    tried = [
        base + np.array([*aside, along])
        for base in (np.zeros(3), bodies, np.append(bodies[:2], grids[2]))
        for along in np.arange(-reach, reach + 1, SHIFT)
        for aside in beside
    ]
    scores = [similarity(Rigid(np.eye(3), shift)) for shift in tried]
    ranked = sorted(range(len(tried)), key=lambda i: (scores[i][1] < OVERLAP, -scores[i][0]))
    starts: list[np.ndarray] = []
    for i in ranked:
        if all(np.linalg.norm(tried[i] - start) > SHIFT for start in starts):
            starts.append(tried[i])
        if len(starts) == STARTS:
            break
    return starts


@contextlib.contextmanager
def _one_thread() -> Iterator[None]:
    """Lets ITK sum up in one order, which decides a sum's last bit.

    The method's own `SetNumberOfThreads` does not reach all of its parts.
    """
    threads = sitk.ProcessObject.GetGlobalDefaultNumberOfThreads()
    sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(1)
    try:
        yield
    finally:
        sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(threads)


def _refine(
    fixed: PreparedImage, moving: PreparedImage, where: np.ndarray, start: Rigid,
    level: tuple[int, float, float],
) -> Rigid | None:  # fmt: skip
    """Follows the mutual information to its maximum; None: the images do not overlap.

    Args:
      fixed: the image that stays.
      moving: the image whose places are sought.
      where: of the fixed image: bool (z, y, x), what counts.
      start: from the fixed image's coordinates to the moving one's.
      level: how many times coarser than `STEP`, blur in mm, and first step in mm.
    """
    shrink, blur, step = level
    centre = fixed.to_patient(np.argwhere(where)).mean(axis=0)
    transform = sitk.Euler3DTransform()
    transform.SetCenter(centre.tolist())
    transform.SetMatrix(start.turn.ravel().tolist())
    transform.SetTranslation((start(centre[None])[0] - centre).tolist())
    mask = sitk.GetImageFromArray(where.astype(np.uint8))
    mask.CopyInformation(fixed.grey)
    method = sitk.ImageRegistrationMethod()
    method.SetMetricAsMattesMutualInformation(32)
    method.SetMetricSamplingStrategy(method.NONE)  # every voxel
    method.SetMetricFixedMask(mask)
    method.SetInterpolator(sitk.sitkLinear)
    method.SetOptimizerAsRegularStepGradientDescent(step, step / 50, 100, 0.5, 1e-6)
    method.SetOptimizerScalesFromPhysicalShift()
    method.SetShrinkFactorsPerLevel([shrink])
    method.SetSmoothingSigmasPerLevel([blur])
    method.SetInitialTransform(transform, True)
    try:
        with _one_thread():
            method.Execute(fixed.grey, moving.grey)
    except RuntimeError:  # too few voxels overlap
        return None
    turn = np.reshape(transform.GetMatrix(), (3, 3))
    return Rigid(turn, np.array(transform.TransformPoint((0.0, 0.0, 0.0))))


def align_near(
    fixed: PreparedImage, moving: PreparedImage, motion: Rigid, where: np.ndarray
) -> Rigid | None:
    """Refines a motion by a part of the fixed image alone, bool (z, y, x); None: it does not fit.

    The grey levels are those of this part: within the body's range a liver has next to one level.
    """
    places = np.argwhere(moving.body)
    back = np.rint(fixed.to_places(motion.inverse(moving.to_patient(places)))).astype(int)
    shown = ((back >= 0) & (back < where.shape)).all(axis=1)
    shown[shown] = where[tuple(back[shown].T)]
    if not shown.any():
        return None
    there = np.zeros_like(moving.body)
    there[tuple(places[shown].T)] = True
    fixed, moving = fixed.stretch(where), moving.stretch(there)
    finer = _refine(fixed, moving, where, motion, (1, 3.0, 1.0))
    return None if finer is None else _refine(fixed, moving, where, finer, (1, 1.0, 0.5))


def neighbourhood(image: PreparedImage, points: np.ndarray) -> np.ndarray:
    """Returns which voxels of the body are `NEAR` points (N, 3); the whole body without points."""
    if not len(points):
        return image.body
    places = np.argwhere(image.body)
    distances, _ = KDTree(points).query(image.to_patient(places), distance_upper_bound=NEAR)
    near = np.zeros_like(image.body)
    near[tuple(places[np.isfinite(distances)].T)] = True
    return near
