"""Lesions found over false positives, as the threshold of the mask moves: free-response ROC.

At each threshold the mask is what `predict --threshold` would write, and its lesions are paired
with the reference's by the one rule for found lesions (`detection`). So the point at the run's
threshold is the run's own table of lesions, and every other point is what that threshold would
give. A lesion's outline grows as the threshold falls, and parts merge, so that the curve may turn
back. Candidates of one outline and a score each, as a detector gives, would have a curve that only
rises, but would not say what another threshold does.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np
from scipy import ndimage

from crlm_jax.imaging.lesions import label_lesions
from crlm_jax.measures.detection import match
from crlm_jax.runs.rows import FrocRow

# Closer at the ends, near which a network that was trained with a Dice loss has its probabilities.
THRESHOLDS = (
    0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.98, 0.99,
)  # fmt: skip


@dataclass
class Sweep:
    """The lesions of a case by threshold."""

    reference: int = 0
    predicted: dict[float, int] = field(default_factory=dict)
    found: dict[float, int] = field(default_factory=dict)

    def add(
        self, probability: np.ndarray, reference: np.ndarray, lesions: int, threshold: float
    ) -> None:
        """Counts the lesions of an image at every threshold.

        Args:
          probability: (Z, H, W) float32, of tumour.
          reference: (Z, H, W) int, the reference's lesions by number, from `read_lesions`.
          lesions: of the reference; one that others cover has no voxel.
          threshold: of the run, which is one of the points.
        """
        sizes = np.bincount(reference[reference > 0], minlength=lesions + 1)
        self.reference += lesions
        voxels, counted = -1, (0, 0)
        for each in sorted({*THRESHOLDS, threshold}):
            mask = probability > each
            if (count := int(np.count_nonzero(mask))) != voxels:  # else it is the same mask
                voxels, counted = count, (0, 0)
                if boxes := ndimage.find_objects(mask.view(np.uint8)):
                    # A mask lies within those of lower thresholds.
                    probability, reference, mask = (
                        array[boxes[0]] for array in (probability, reference, mask)
                    )
                    counted = _count(mask, reference, sizes)
            self.predicted[each] = self.predicted.get(each, 0) + counted[0]
            self.found[each] = self.found.get(each, 0) + counted[1]

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


def _count(mask: np.ndarray, reference: np.ndarray, sizes: np.ndarray) -> tuple[int, int]:
    """Returns how many lesions a mask has, and how many of the reference's they find."""
    labels, predicted = label_lesions(mask)
    return predicted, len(match(labels[mask], reference[mask], sizes))


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
