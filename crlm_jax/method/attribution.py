"""Attribution: which pixels of a slice raise the segmenter's logits, and what the critic compares.

A lesion's score is the sum of the segmenter's logits over its pixels. Two maps distribute the score
over the image: integrated gradients, whose values add up to the score minus that of a baseline, and
occlusion, the loss of score where a patch is hidden. `stage_differences` shows where each stage of
the critic distinguishes prediction and reference. All maps are of single slices, as the network
sees them; where a slice shows several images, the maps of scores sum over them.

References:
  Sundararajan et al., Axiomatic Attribution (https://arxiv.org/abs/1703.01365), 2017.
  Zeiler and Fergus, Visualizing Convolutional Networks (https://arxiv.org/abs/1311.2901), 2014.
"""

import dataclasses
import functools
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from scipy import ndimage

from crlm_jax.method.segment import TrainedSegmenter, Variables, slices_at_once
from crlm_jax.models.inputs import MaskApplied, critic_input, network_input

TOLERANCE = 0.01  # of the relative error of the sum of integrated gradients
MOST_DOUBLINGS = 3  # of the steps, until the error is within the tolerance

# (S, S) float32 grey levels, or (S, S, C) where a slice has C images -> ()
Score = Callable[[jax.Array], jax.Array]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class LesionScore:
    r"""The score of a lesion in one slice, :math:`F(x) = \sum_{i \in R} z_i(x)`, in logits.

    Called with x, (S, S) or (S, S, C) float32 grey levels 0 … 255. The score is a pytree, so that
    all lesions and slices go through the same compiled program.

    Args:
      graph: of the segmenter, in evaluation mode; z are the logits of its first head.
      variables: `params` and `batch_stats`.
      region: (S, S), R as 0 and 1.
    """

    graph: nnx.GraphDef = dataclasses.field(metadata={"static": True})
    variables: Variables
    region: jax.Array | np.ndarray

    @classmethod
    def of(cls, segmenter: TrainedSegmenter, region: np.ndarray) -> "LesionScore":
        """Returns the score of a region (S, S) bool."""
        return cls(segmenter.graph, segmenter.variables, region.astype(np.float32))

    def __call__(self, image: jax.Array) -> jax.Array:
        """Returns () float32."""
        return jnp.sum(_logits(self.graph, self.variables, image) * self.region)


def logits(segmenter: TrainedSegmenter, image: jax.Array | np.ndarray) -> jax.Array:
    """Maps grey levels (S, S) or (S, S, C) to the logits (S, S) of the first head."""
    return _logits(segmenter.graph, segmenter.variables, image)


@functools.partial(jax.jit, static_argnums=0)
def _logits(graph: nnx.GraphDef, variables: Variables, image: jax.Array) -> jax.Array:
    model = nnx.merge(graph, variables["params"], variables["batch_stats"])
    return model(network_input(_with_channels(image)[None]))[0][0, ..., 0]


def _with_channels(image: jax.Array) -> jax.Array:
    """(S, S) -> (S, S, 1); (S, S, C) stays."""
    return image[..., None] if image.ndim == 2 else image


@dataclasses.dataclass(frozen=True)
class Attribution:
    """A score distributed over the pixels of a slice; scores and sums are in logits."""

    map: np.ndarray  # (S, S) float32, logits per pixel; of several images the sum
    score: float  # of the image
    baseline_score: float
    total: float  # sum of the map
    steps: int
    by_image: np.ndarray | None = None  # (S, S, C), the map of each image; None: there is one

    @property
    def error(self) -> float:
        """|total − (score − baseline_score)| / |score − baseline_score|."""
        return completeness_error(self.total, self.score - self.baseline_score)

    @property
    def complete(self) -> bool:
        """Whether the error of the sum is within `TOLERANCE`."""
        return self.error <= TOLERANCE


def completeness_error(total: float, difference: float) -> float:
    """|total − difference| / |difference|: 0 where both are 0, infinite where only the second is.

    Examples:
      >>> completeness_error(99.0, 100.0)
      0.01
    """
    if difference == 0:
        return 0.0 if total == 0 else math.inf
    return abs(total - difference) / abs(difference)


def error_text(error: float | None) -> str:
    """Writes an error of completeness for people; None is infinite.

    Examples:
      >>> error_text(0.0123), error_text(None)
      ('1.2 %', 'infinite')
    """
    return "infinite" if error is None or math.isinf(error) else f"{100 * error:.2g} %"


def blurred(image: np.ndarray) -> np.ndarray:
    """The baseline of integrated gradients: the slice under a Gaussian of an eighth of its side.

    A pixel that equals its baseline has attribution 0. With a black slice as baseline, these would
    be all dark pixels, and metastases on portal-venous CT are darker than the liver. The blurred
    slice keeps the brightness of the region but not the lesion, bright or dark.

    Takes grey levels (S, S) or (S, S, C), and returns float32 of that shape.

    References:
      Sturmfels et al., Visualizing the Impact of Feature Attribution Baselines, Distill, 2020.
    """
    grey, wide = image.astype(np.float32), image.shape[0] / 8
    return ndimage.gaussian_filter(grey, wide, mode="nearest", axes=(0, 1))


def _in_batches(program: Callable, *columns: np.ndarray) -> Iterator[tuple[Any, int]]:
    """Yields a program's result of each batch of rows, and how many rows are not padding."""
    size = slices_at_once(jax.default_backend())
    for start in range(0, len(columns[0]), size):
        parts = [column[start : start + size] for column in columns]
        full = [np.concatenate([p, np.repeat(p[-1:], size - len(p), axis=0)]) for p in parts]
        yield program(*full), len(parts[0])


@jax.jit
def _gradients(
    score: Score, image: jax.Array, baseline: jax.Array, nodes: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Scores (K,) and gradients (K, *image.shape) at baseline + node · (image − baseline)."""
    points = baseline + nodes.reshape(-1, *[1] * image.ndim) * (image - baseline)
    with jax.default_matmul_precision("highest"):
        return jax.vmap(jax.value_and_grad(lambda x: score(x)))(points)


def integrated_gradients(
    score: Score,
    image: np.ndarray,
    baseline: np.ndarray,
    steps: int = 64,
    *,
    tolerance: float = TOLERANCE,
) -> Attribution:
    r"""Distributes score(image) − score(baseline) over the pixels.

    .. math::
      a_i = (x_i - x'_i) \int_0^1 \frac{\partial F(x' + α (x - x'))}{\partial x_i} dα,
      \qquad \sum_i a_i = F(x) - F(x')

    By the trapezoidal rule, whose steps are doubled (up to three times) until the error of the sum
    is within `tolerance`. Unlike the midpoint rule and Gauss-Legendre, the doubled rule uses every
    gradient computed before.

    Args:
      score: F, a pytree: a `LesionScore`, or `jax.tree_util.Partial` of a function.
      image: x, (S, S) or (S, S, C) grey levels.
      baseline: x', alike, such as from `blurred`.
      steps: intervals to begin with.
      tolerance: of the relative error of the sum; see `Attribution.error` for what was reached.

    Returns:
      The map a with its sum and both scores.

    References:
      Sundararajan et al., Axiomatic Attribution (https://arxiv.org/abs/1703.01365), 2017.
    """
    if steps < 1:
        raise ValueError(f"steps = {steps}: must be 1 or more")
    x, start = (np.asarray(a, np.float32) for a in (image, baseline))
    program = functools.partial(_gradients, score, x, start)

    def along(nodes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        values: list[float] = []
        total = np.zeros(x.shape)
        for (value, gradient), count in _in_batches(program, nodes.astype(np.float32)):
            values.extend(np.asarray(value, float)[:count])
            total += np.asarray(gradient, float)[:count].sum(axis=0)
        return np.array(values), total

    values, ends = along(np.array([0.0, 1.0]))
    before, after = values.tolist()
    _, inner = along(np.arange(1, steps) / steps)
    count = steps
    while True:
        a = (x - start) * (ends / 2 + inner) / count
        several = a.astype(np.float32) if a.ndim == 3 and a.shape[-1] > 1 else None
        flat = (a.sum(-1) if a.ndim == 3 else a).astype(np.float32)
        result = Attribution(flat, after, before, float(a.sum()), count, several)
        if result.error <= tolerance or count >= steps * 2**MOST_DOUBLINGS:
            return result
        inner += along((np.arange(count) + 0.5) / count)[1]
        count *= 2


def attribute_region(
    segmenter: TrainedSegmenter, image: np.ndarray, region: np.ndarray, steps: int
) -> Attribution:
    """Distributes the score of a region: what `explain` and the report of a run both show.

    By `integrated_gradients` of the region's `LesionScore` against the `blurred` slice.

    Args:
      segmenter: as trained.
      image: (S, S) or (S, S, C) grey levels.
      region: (S, S) bool, of a lesion or of all that is predicted.
      steps: intervals to begin with.
    """
    return integrated_gradients(LesionScore.of(segmenter, region), image, blurred(image), steps)


@jax.jit
def _hidden(
    score: Score, image: jax.Array, size: int, fill: jax.Array, top: jax.Array, left: jax.Array
) -> jax.Array:
    """Scores (K,) with the square at each (top, left) filled."""
    row, column = (jnp.arange(n) for n in image.shape[:2])

    def one(top: jax.Array, left: jax.Array) -> jax.Array:
        inside = ((row >= top) & (row < top + size))[:, None] & (column >= left)
        inside &= column < left + size
        return score(jnp.where(inside.reshape(*inside.shape, *[1] * (image.ndim - 2)), fill, image))

    with jax.default_matmul_precision("highest"):
        return jax.vmap(one)(top, left)


def occlusion(
    score: Score, image: np.ndarray, patch: int, stride: int, fill: float | None = None
) -> np.ndarray:
    r"""Measures the score that is lost where a square patch is hidden, in all images of a slice.

    .. math::
      o_i = \frac{1}{|P_i|} \sum_{p \in P_i} F(x) - F(x \text{ with } p \text{ filled})

    where P_i are the patches over pixel i; the last ones of a row or column end at the border.

    Args:
      score: F, a pytree, as for `integrated_gradients`.
      image: x, (S, S) or (S, S, C) grey levels.
      patch: side of the patch in pixels.
      stride: pixels from one to the next, at most `patch`.
      fill: grey level; None: the mean of the slice, of each of its images.

    Returns:
      (S, S) float32, logits; above 0 where the hidden pixels raise the score.

    References:
      Zeiler and Fergus, Visualizing Convolutional Networks (https://arxiv.org/abs/1311.2901), 2014.
    """
    most = min(sides := image.shape[:2])
    if not 1 <= stride <= patch <= most:
        raise ValueError(f"patch = {patch}, stride = {stride}: 1 ≤ stride ≤ patch ≤ {most} pixels")
    x = np.asarray(image, np.float32)
    grey = np.float32(x.mean(axis=(0, 1)) if fill is None else fill)
    edges = [np.unique(np.append(np.arange(0, n - patch, stride), n - patch)) for n in sides]
    corners = np.stack(np.meshgrid(*edges, indexing="ij"), -1).reshape(-1, 2)
    program = functools.partial(_hidden, score, x)
    whole = float(program(0, grey, *np.zeros((2, slices_at_once(jax.default_backend())), int))[0])
    scores = np.concatenate([
        np.asarray(values, float)[:count]
        for values, count in _in_batches(functools.partial(program, patch, grey), *corners.T)
    ])  # fmt: skip
    total, times = np.zeros(sides), np.zeros(sides)
    for (top, left), value in zip(corners, scores, strict=True):
        place = np.s_[top : top + patch, left : left + patch]
        total[place] += whole - value
        times[place] += 1
    return (total / times).astype(np.float32)


@functools.partial(jax.jit, static_argnums=(0, 1, 2))
def _stage_maps(
    graph: nnx.GraphDef,
    stages: tuple[int, ...],
    applied: MaskApplied,
    state: nnx.State,
    *slices: jax.Array,
) -> dict[int, jax.Array]:
    image, predicted, mask = (_with_channels(a.astype(jnp.float32))[None] for a in slices)
    critic, seen = nnx.merge(graph, state), network_input(image)
    found, true = (critic(critic_input(seen, shown, applied)) for shown in (predicted, mask))
    distance = lambda f, r: jnp.abs(f.astype(jnp.float32) - r.astype(jnp.float32))  # noqa: E731
    return {s: distance(found[s - 1], true[s - 1]).mean(axis=-1)[0] for s in stages}


def stage_differences(
    critic: nnx.Module,
    image: np.ndarray,
    predicted: np.ndarray,
    mask: np.ndarray,
    stages: Sequence[int],
    applied: MaskApplied = "before_normalisation",
) -> dict[int, np.ndarray]:
    r"""Maps where the critic's stages distinguish prediction and reference, in one slice.

    .. math::
      d_s = \frac{1}{C_s} \sum_c |critic(x \cdot p)_{sc} - critic(x \cdot y)_{sc}|

    The mean of d_s is the stage's term of the loss (`losses.feature_distance`, `per_stage`).

    Args:
      critic: as from `networks.create_critic`.
      image: (S, S) or (S, S, C) grey levels, x before stacking and z-score.
      predicted: (S, S), p: probability, or logits where `loss.mask_with` says so.
      mask: (S, S), y in {0, 1}.
      stages: those wanted.
      applied: as `loss.mask_applied`: how p and y mask x.

    Returns:
      By stage s the map (H_s, W_s) float32, in the stage's own resolution. `upsample_stage_map`
      lays it over the slice.
    """
    graph, state = nnx.split(critic)
    maps = _stage_maps(graph, tuple(stages), applied, state, image, predicted, mask)
    return {stage: np.asarray(values) for stage, values in maps.items()}


def upsample_stage_map(values: np.ndarray, size: int) -> np.ndarray:
    """Lays a stage's map (H_s, W_s) over the slice (size, size): every pixel takes the nearest.

    A ResNet pads evenly and strides from the first pixel on, so that feature i of a stage lies on
    pixel i · size / H_s, not in the middle of a part.
    """
    row, column = (
        np.minimum(np.rint(np.arange(size) * n / size).astype(int), n - 1) for n in values.shape
    )
    return values[row[:, None], column]
