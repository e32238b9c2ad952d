"""The threshold of the mask that suits the validation patients best."""

import dataclasses
from collections.abc import Sequence

import numpy as np

from crlm_jax.config.schema import Config
from crlm_jax.data.slices import Slices
from crlm_jax.measures.evaluate import validation_images
from crlm_jax.measures.overlap import Counts, overlap
from crlm_jax.measures.predicted import Segment, mask_rule
from crlm_jax.runs.threshold import ChosenThreshold
from crlm_jax.system import parallel

# As fine as a few validation patients can tell apart.
GRID = tuple(round(0.05 * n, 2) for n in range(1, 20))


def choose_threshold(
    config: Config, slices: Slices, segment: Segment, step: int
) -> ChosenThreshold:
    """Chooses the threshold of the highest mean clinical DSC of the validation cases.

    Tried are those of `GRID` and the one that is configured, so that the choice is no worse on
    these cases. Of equal ones the nearest to the configured one is taken. No test case is read.

    Args:
      config: the experiment.
      slices: of the cohort, with a validation case.
      segment: `TrainedSegmenter.probability`, on this process's devices.
      step: of its checkpoint.
    """
    rule, own = mask_rule(config), config.evaluation.threshold
    tried = sorted({*GRID, own})
    counts: dict[int, list[Counts]] = {}
    for case, probability, reference, geometry in validation_images(config, slices, segment):
        pooled = counts.setdefault(case, [Counts() for _ in tried])
        if rule.min_lesion_mm3:  # what is removed depends on the threshold
            for whole, threshold in zip(pooled, tried, strict=True):
                at = dataclasses.replace(rule, threshold=threshold)
                whole.add(at.decide(probability, geometry), reference)
            continue
        for whole, each in zip(pooled, count_each(probability, reference, tried), strict=True):
            whole.pool(each)
    found = [(case, [overlap(each)["dsc"] for each in pooled]) for case, pooled in counts.items()]
    # Sorted by case, so that the means do not depend on which process measured which case.
    scores = [dsc for _, dsc in sorted(pair for share in parallel.gather(found) for pair in share)]
    means = np.mean(scores, axis=0).tolist()
    threshold = max(
        zip(tried, means, strict=True), key=lambda pair: (pair[1], -abs(pair[0] - own), -pair[0])
    )[0]
    dsc = {f"{each:g}": mean for each, mean in zip(tried, means, strict=True)}
    return ChosenThreshold(threshold, step, len(scores), dsc)


def count_each(
    probability: np.ndarray, reference: np.ndarray, thresholds: Sequence[float]
) -> list[Counts]:
    """Counts the overlap of the masks `probability > threshold` with the reference.

    Args:
      probability: (Z, H, W) float32.
      reference: (Z, H, W) bool.
      thresholds: rising.
    """
    # As float32, since that is how an array of float32 is compared with a number.
    edges = np.array(thresholds, np.float32)
    beyond = probability > edges[0]
    place = np.searchsorted(edges, probability[beyond])  # how many thresholds lie below, from 1

    def above(weights: np.ndarray | None = None) -> list[int]:
        counts = np.bincount(place, weights, len(edges) + 1)[1:]
        return [int(n) for n in counts[::-1].cumsum()[::-1]]

    total = int(np.count_nonzero(reference))
    return [
        Counts(both, predicted - both, total - both)
        for predicted, both in zip(above(), above(reference[beyond]), strict=True)
    ]
