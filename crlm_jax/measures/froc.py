"""Lesions found over false positives, as the threshold of the mask moves: free-response ROC.

At each threshold the mask is what `predict --threshold` would write, and its lesions are paired
with the reference's by the one rule for found lesions (`detection`). So the point at the run's
threshold is the run's own table of lesions, and every other point is what that threshold would
give. A lesion's outline grows as the threshold falls, and parts merge, so that the curve may turn
back. Candidates of one outline and a score each, as a detector gives, would have a curve that only
rises, but would not say what another threshold does.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np
from scipy import ndimage

from crlm_jax.imaging.lesions import drop_small, label_lesions
from crlm_jax.measures.detection import match
from crlm_jax.runs.rows import FrocRow

# Closer at the ends, near which a network that was trained with a Dice loss has its probabilities.
THRESHOLDS = (0.01, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99)
_PART = 5000  # voxels that are labelled in the time that a part takes besides

Part = tuple[np.ndarray, np.ndarray]  # probability, and the reference's lesions by number


@dataclass
class Sweep:
    """The lesions of a case by threshold."""

    reference: int = 0
    predicted: dict[float, int] = field(default_factory=dict)
    found: dict[float, int] = field(default_factory=dict)

    def add(
        self,
        probability: np.ndarray,
        reference: np.ndarray,
        lesions: int,
        threshold: float,
        fewest: int = 0,
    ) -> None:
        """Counts the lesions of an image at every threshold.

        Args:
          probability: (Z, H, W) float32, of tumour.
          reference: (Z, H, W) int, the reference's lesions by number, from `read_lesions`.
          lesions: of the reference; one that others cover has no voxel.
          threshold: of the run, which is one of the points.
          fewest: voxels of a lesion; smaller ones are removed, as `MaskRule` does.
        """
        sizes = np.bincount(reference[reference > 0], minlength=lesions + 1)
        self.reference += lesions
        parts = [(probability, reference)]
        for each in sorted({*THRESHOLDS, threshold}):
            predicted, pairs, parts = _count(parts, each, sizes, fewest)
            self.predicted[each] = self.predicted.get(each, 0) + predicted
            self.found[each] = self.found.get(each, 0) + pairs

    def rows(self, patient: str, condition: str) -> list[FrocRow]:
        """Returns a row a threshold, from the lowest on."""
        return [
            FrocRow(
                patient=patient,
                condition=condition,
                threshold=threshold,
                lesions_reference=self.reference,
                lesions_found=self.found[threshold],
                false_positives=self.predicted[threshold] - self.found[threshold],
            )
            for threshold in sorted(self.predicted)
        ]


def _count(
    parts: list[Part], threshold: float, sizes: np.ndarray, fewest: int
) -> tuple[int, int, list[Part]]:
    """Counts the lesions of a mask, and how many of the reference's they find.

    Args:
      parts: of an image, between which no two voxels of the mask touch.
      threshold: of the mask.
      sizes: (R + 1,) the voxels of the reference's lesions in the whole image.
      fewest: voxels of a lesion of the mask.

    Returns:
      Both numbers, and the parts that a mask of a higher threshold has.
    """
    labels, theirs, predicted = [np.zeros(0, int)], [np.zeros(0, int)], 0
    remaining: list[Part] = []
    for probability, reference in parts:
        mask = probability > threshold
        found, count = label_lesions(mask)
        if fewest > 1 and count:
            mask = drop_small(mask, fewest)
            found, count = label_lesions(mask)
        labels.append(found[mask] + predicted)
        theirs.append(reference[mask])
        predicted += count
        remaining += _split(probability, reference, found, count)
    return predicted, len(match(np.concatenate(labels), np.concatenate(theirs), sizes)), remaining


def _split(
    probability: np.ndarray, reference: np.ndarray, labels: np.ndarray, count: int
) -> list[Part]:
    """Returns the lesions of a mask each in its box, where that is less work than all at once.

    A mask of a higher threshold lies within them, and most of an image is far from any.
    """
    if not count:
        return []
    boxes = ndimage.find_objects(labels) if labels.size > 2 * _PART else []
    if not boxes or sum(labels[box].size + _PART for box in boxes) >= labels.size:
        return [(probability, reference)]
    return [
        (np.where(labels[box] == number, probability[box], 0), reference[box])
        for number, box in enumerate(boxes, start=1)
    ]


def at_shared_thresholds(counted: Sequence[Sequence[FrocRow]]) -> list[FrocRow]:
    """Returns the rows of several runs, or folds, at the thresholds that all of them have.

    A threshold that some chose for themselves would make a point of their cases alone.
    """
    thresholds = [{row.threshold for row in rows} for rows in counted]
    shared = set.intersection(*thresholds) if thresholds else set()
    return [row for rows in counted for row in rows if row.threshold in shared]


@dataclass(frozen=True)
class FrocPoint:
    """All cases at one threshold."""

    threshold: float
    sensitivity: float | None  # found / reference lesions of all cases; None: there are none
    false_positives: float  # a case


def points(rows: Iterable[FrocRow]) -> list[FrocPoint]:
    """Returns the curve of the cases of a condition, from the lowest threshold on."""
    by_threshold: dict[float, list[FrocRow]] = {}
    for row in rows:
        by_threshold.setdefault(row.threshold, []).append(row)
    curve = []
    for threshold, each in sorted(by_threshold.items()):
        reference = sum(row.lesions_reference for row in each)
        found = sum(row.lesions_found for row in each)
        false = sum(row.false_positives for row in each)
        curve.append(
            FrocPoint(threshold, found / reference if reference else None, false / len(each))
        )
    return curve
