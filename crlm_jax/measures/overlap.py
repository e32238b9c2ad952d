"""Overlap and volume of a predicted and a reference mask of one case.

Each class pools the images of a case: call `add` once for each image.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from crlm_jax.measures.table import OVERLAP


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

    def add_tumour_slice(self, prediction: np.ndarray, reference: np.ndarray) -> None:
        """Pools in a slice that was drawn with tumour, at another size than it was drawn.

        A lesion may vanish at that size. An empty reference then counts as a voxel that was missed,
        so that it never agrees with an empty prediction.
        """
        self.add(prediction, reference)
        self.reference_only += not reference.any()

    def pool(self, other: "Counts") -> None:
        """Adds the counts of other images."""
        self.both += other.both
        self.prediction_only += other.prediction_only
        self.reference_only += other.reference_only

    @property
    def empty_prediction(self) -> bool:
        """Whether no voxel was predicted."""
        return self.both + self.prediction_only == 0

    @property
    def empty_reference(self) -> bool:
        """Whether no voxel is tumour in the reference."""
        return self.both + self.reference_only == 0


def overlap(counts: Counts) -> dict[str, float]:
    """Computes DSC, IoU, recall, precision and F1 of one case.

    With TP, FP, FN = `both`, `prediction_only`, `reference_only`:

        DSC = 2 TP / (2 TP + FP + FN)   IoU = TP / (TP + FP + FN)
        recall = TP / (TP + FN)         precision = TP / (TP + FP)
        F1 = 2 · precision · recall / (precision + recall)

    F1 of one case equals DSC; the paper reports both. Two empty masks agree: DSC, IoU, F1 and
    precision are 1. If one mask alone is empty they are 0, precision without a prediction too. An
    empty reference has no recall: nothing is there to be found.

    Example:
      >>> overlap(Counts(both=1, prediction_only=1, reference_only=0))["recall"]
      1.0

    Returns:
      The metrics by name, each in [0, 1]; without `recall` if the reference is empty.
    """
    if counts.empty_reference:
        agree = float(counts.empty_prediction)
        return {name: agree for name in OVERLAP if name != "recall"}
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


@dataclass
class Volumes:
    """Tumour volume of one case in mm³, summed over its images.

    Example:
      >>> volumes = Volumes()
      >>> volumes.add(np.ones((1, 1, 3), bool), np.ones((1, 1, 3), bool), (7.0, 1.0, 1.0))
      >>> volumes.values()["volume_reference"]
      21.0
    """

    predicted: float = 0.0  # mm³
    reference: float = 0.0  # mm³

    def add(self, prediction: np.ndarray, reference: np.ndarray, spacing: Sequence[float]) -> None:
        """Adds the masks (Z, H, W) bool of one image, spacing (z, y, x) in mm."""
        voxel = math.prod(spacing)
        self.predicted += np.count_nonzero(prediction) * voxel
        self.reference += np.count_nonzero(reference) * voxel

    def values(self) -> dict[str, float | None]:
        """Computes the values named in `VOLUME`.

        Returns:
          `volume_reference` and `volume_predicted` in mm³; `volume_error`, predicted − reference,
          in mm³, above 0 where too much was predicted; `volume_error_relative`, the error over the
          reference (0.1: 10 % too much), None where the reference is empty. A 2D picture
          counts as 1 mm thick (`Geometry.axial_spacing`).
        """
        error = self.predicted - self.reference
        return {
            "volume_reference": float(self.reference),
            "volume_predicted": float(self.predicted),
            "volume_error": float(error),
            "volume_error_relative": float(error / self.reference) if self.reference else None,
        }
