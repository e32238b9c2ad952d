"""Overlap of a predicted and a reference mask of one case."""

from dataclasses import dataclass

import numpy as np

OVERLAP = ("dsc", "iou", "recall", "precision", "f1")


@dataclass
class Counts:
    """Voxels that are tumour in both masks, in the prediction only, in the reference only."""

    both: int = 0
    prediction_only: int = 0
    reference_only: int = 0

    def add(self, prediction: np.ndarray, reference: np.ndarray) -> None:
        """Pools in two boolean masks of one shape."""
        both = int(np.count_nonzero(prediction & reference))
        self.both += both
        self.prediction_only += int(np.count_nonzero(prediction)) - both
        self.reference_only += int(np.count_nonzero(reference)) - both

    @property
    def empty_prediction(self) -> bool:
        """No voxel was predicted."""
        return self.both + self.prediction_only == 0

    @property
    def empty_reference(self) -> bool:
        """No voxel is tumour."""
        return self.both + self.reference_only == 0


def overlap(counts: Counts) -> dict[str, float]:
    """Computes DSC, IoU, recall, precision and F1 of one case.

    With TP, FP, FN = `both`, `prediction_only`, `reference_only`:

        DSC = 2 TP / (2 TP + FP + FN)   IoU = TP / (TP + FP + FN)
        recall = TP / (TP + FN)         precision = TP / (TP + FP)
        F1 = 2 · precision · recall / (precision + recall)

    Of one case F1 equals DSC; the paper reports both. Two empty masks agree: every metric is 1.
    If one mask alone is empty, every metric is 0, also recall without a reference and precision
    without a prediction, whose quotients are 0/0.

    Example:
      >>> overlap(Counts(both=1, prediction_only=1, reference_only=0))["recall"]
      1.0

    Returns:
      The metrics by name, each in [0, 1].
    """
    if counts.empty_prediction and counts.empty_reference:
        return dict.fromkeys(OVERLAP, 1.0)
    if counts.both == 0:
        return dict.fromkeys(OVERLAP, 0.0)
    predicted = counts.both + counts.prediction_only
    reference = counts.both + counts.reference_only
    dsc = 2 * counts.both / (predicted + reference)
    return {
        "dsc": dsc,
        "iou": counts.both / (predicted + reference - counts.both),
        "recall": counts.both / reference,
        "precision": counts.both / predicted,
        "f1": dsc,
    }
