"""Overlap, volume and lesions of a predicted and a reference mask of one case.

Each class pools the images of a case, one `add` an image. The distances are in `surfaces.py`.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from scipy.optimize import linear_sum_assignment

from crlm_jax.lesions import Lesion

OVERLAP = ("dsc", "iou", "recall", "precision", "f1")
VOLUME = ("volume_reference", "volume_predicted", "volume_error", "volume_error_relative")
SIZES = ("lt10", "10to20", "gt20")  # diameter in mm: < 10, 10 to 20 with both, > 20
LESION = (
    "lesions_reference",
    "lesions_predicted",
    "lesions_found",
    "false_positives",
    "lesion_sensitivity",
    "lesion_precision",
    "lesion_f1",
    *(f"{count}_{size}" for size in SIZES for count in ("lesions", "found")),
)

# The lowest threshold of nnDetection's metrics (Baumgartner et al., MICCAI 2021). A lesion of 10 mm
# whose outline is drawn 2 mm too far in or out has an IoU of 0.22 or 0.36: at 0.5, small lesions
# would count as missed that a reader is shown. With any overlap at all, one voxel would find a
# lesion, and so would a mask of the whole liver.
MATCH_IOU = 0.1


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

    def pool(self, other: "Counts") -> None:
        """Adds the counts of other images."""
        self.both += other.both
        self.prediction_only += other.prediction_only
        self.reference_only += other.reference_only

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
          reference (0.1: 10 % too much), None where the reference is empty. A picture's slice
          counts as 1 mm thick (`Geometry.axial_spacing`).
        """
        error = self.predicted - self.reference
        return {
            "volume_reference": float(self.reference),
            "volume_predicted": float(self.predicted),
            "volume_error": float(error),
            "volume_error_relative": float(error / self.reference) if self.reference else None,
        }


@dataclass
class LesionScores:
    """Which lesions of one case were found, counted over its images.

    In each image, predicted and reference lesions are paired one to one so that the sum of their
    IoU is greatest, among pairs with IoU ≥ `MATCH_IOU`: the optimal (Hungarian) assignment of
    Metrics Reloaded (Maier-Hein et al., Nat Methods 21:195, 2024), whose result depends on no
    order. A paired reference lesion is found, an unpaired prediction is a false positive. So of
    two predictions on one lesion one is false, and of two lesions under one prediction one is
    missed: who counts lesions would be misled by both. Lesions that touch are one, as
    `lesions.label` says.
    """

    predicted: int = 0
    reference: dict[str, int] = field(default_factory=lambda: dict.fromkeys(SIZES, 0))
    found: dict[str, int] = field(default_factory=lambda: dict.fromkeys(SIZES, 0))

    def add(
        self,
        prediction_labels: np.ndarray,
        reference_labels: np.ndarray,
        prediction_lesions: list[Lesion],
        reference_lesions: list[Lesion],
    ) -> list[tuple[int, int]]:
        """Counts the lesions of one image.

        Args:
          prediction_labels: (Z, H, W) int, the predicted lesions' numbers, from `lesions.label`.
          reference_labels: (Z, H, W) int, those of the reference.
          prediction_lesions: the predicted lesions by number, from `lesions.measure`.
          reference_lesions: those of the reference.

        Returns:
          The pairs (number of the predicted lesion, number of the reference lesion), from 1, in
          the order of the predictions.
        """
        pairs = match(prediction_labels, reference_labels)
        self.predicted += len(prediction_lesions)
        for lesion in reference_lesions:
            self.reference[_size(lesion)] += 1
        for _, number in pairs:
            self.found[_size(reference_lesions[number - 1])] += 1
        return pairs

    def values(self) -> dict[str, float | int]:
        """Computes the values named in `LESION`.

            lesion_sensitivity = found / reference    lesion_precision = found / predicted
            lesion_f1 = 2 · found / (reference + predicted)

        Without any lesion in either mask the three are 1, with lesions in one mask alone they are
        0: the rule of `overlap`. `lesions_…` and `found_…` count the reference lesions, and those
        found, by the diameter of the reference lesion: < 10 mm (`lt10`), 10 to 20 mm with both
        bounds (`10to20`), > 20 mm (`gt20`). To report a cohort, sum the counts over its cases.
        """
        reference, found = sum(self.reference.values()), sum(self.found.values())
        agree = float(self.predicted == reference == 0)
        counts = (self.reference, self.found)
        values = (
            reference,
            self.predicted,
            found,
            self.predicted - found,
            found / reference if reference else agree,
            found / self.predicted if self.predicted else agree,
            2 * found / (reference + self.predicted) if reference + self.predicted else agree,
            *(count[size] for size in SIZES for count in counts),
        )
        return dict(zip(LESION, values, strict=True))


def match(prediction_labels: np.ndarray, reference_labels: np.ndarray) -> list[tuple[int, int]]:
    """Pairs predicted with reference lesions one to one; see `LesionScores`.

    Args:
      prediction_labels: (Z, H, W) int, 0 for background and 1 … P.
      reference_labels: (Z, H, W) int, 0 for background and 1 … R.

    Returns:
      The pairs (number of the predicted lesion, number of the reference lesion), from 1.
    """
    predicted = np.bincount(prediction_labels.ravel())
    reference = np.bincount(reference_labels.ravel())
    inside = (prediction_labels > 0) & (reference_labels > 0)
    code = prediction_labels[inside].astype(np.int64) * len(reference) + reference_labels[inside]
    code, shared = np.unique(code, return_counts=True)
    ours, theirs = np.divmod(code, len(reference))
    iou = shared / (predicted[ours] + reference[theirs] - shared)

    # A table of only the lesions that can be paired, at most 10 with one: noise has thousands.
    close = iou >= MATCH_IOU
    rows, row = np.unique(ours[close], return_inverse=True)
    columns, column = np.unique(theirs[close], return_inverse=True)
    table = np.zeros((len(rows), len(columns)))
    table[row, column] = iou[close]
    chosen = zip(*linear_sum_assignment(table, maximize=True), strict=True)
    return [(int(rows[i]), int(columns[j])) for i, j in chosen if table[i, j] > 0]


def _size(lesion: Lesion) -> str:
    # Rounded to a nanometre: sums of a spacing such as 0.7 mm miss a bound by their last digit.
    diameter = round(lesion.diameter, 6)
    return SIZES[(diameter >= 10) + (diameter > 20)]
