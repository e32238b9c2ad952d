"""Lesions of a predicted and a reference mask: which were found, which are false."""

from dataclasses import dataclass, field

import numpy as np
from scipy.optimize import linear_sum_assignment

from crlm_jax.imaging.lesions import Lesion
from crlm_jax.measures.table import LESION, SIZES

# The lowest threshold of nnDetection's metrics (Baumgartner et al., MICCAI 2021). A lesion of 10 mm
# whose outline is drawn 2 mm too far in or out has an IoU of 0.22 or 0.36. At a threshold of 0.5,
# small lesions that a reader is shown would therefore count as missed. Without a threshold, one
# voxel would find a lesion, and so would a mask of the whole liver.
MATCH_IOU = 0.1


@dataclass
class LesionScores:
    """Which lesions of one case were found, counted over its images.

    In each image, predicted and reference lesions are paired one to one so that the sum of their
    IoU is greatest, among pairs with IoU ≥ `MATCH_IOU`: the optimal (Hungarian) assignment of
    Metrics Reloaded (Maier-Hein et al., Nat Methods 21:195, 2024), whose result does not
    depend on the order of the lesions. A paired reference lesion is found, an unpaired prediction
    is a false positive. If two predictions lie on one lesion, one of them is false; if one
    prediction covers two lesions, one of them is missed: either would give a reader a wrong count
    of lesions. Predicted lesions that touch are one (`label_lesions`); those of the reference are
    one or two as their reader drew them (`imaging.masks`).
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
          prediction_labels: (Z, H, W) int, the predicted lesions' numbers, from `label_lesions`.
          reference_labels: (Z, H, W) int, those of the reference, from `read_lesions`.
          prediction_lesions: the predicted lesions by number, from `measure_lesions`.
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

    def values(self) -> dict[str, float | int | None]:
        """Computes the values named in `LESION`.

            lesion_sensitivity = found / reference    lesion_precision = found / predicted
            lesion_f1 = 2 · found / (reference + predicted)

        As in `overlap`, precision and F1 are 1 without any lesion in either mask, and 0 with
        lesions in one mask alone; a reference without lesions has no sensitivity (None).

        `lesions_…` and `found_…` count the reference lesions, and those found, by the diameter of
        the reference lesion: < 10 mm (`lt10`), 10 to 20 mm with both bounds (`10to20`), > 20 mm
        (`gt20`). To report a cohort, sum the counts over its cases.
        """
        reference, found = sum(self.reference.values()), sum(self.found.values())
        agree = float(self.predicted == reference == 0)
        counts = (self.reference, self.found)
        values = (
            reference,
            self.predicted,
            found,
            self.predicted - found,
            found / reference if reference else None,
            found / self.predicted if self.predicted else agree,
            2 * found / (reference + self.predicted) if reference + self.predicted else agree,
            *(count[size] for size in SIZES for count in counts),
        )
        return dict(zip(LESION, values, strict=True))


def match(
    prediction_labels: np.ndarray,
    reference_labels: np.ndarray,
    reference_sizes: np.ndarray | None = None,
) -> list[tuple[int, int]]:
    """Pairs predicted with reference lesions one to one; see `LesionScores`.

    Args:
      prediction_labels: (Z, H, W) int, 0 for background and 1 … P.
      reference_labels: (Z, H, W) int, 0 for background and 1 … R.
      reference_sizes: (R + 1,) int, the voxels of each reference lesion by its number, where the
        labels are only those of some voxels, the predicted ones among them; None: of all.

    Returns:
      The pairs (number of the predicted lesion, number of the reference lesion), from 1.
    """
    predicted = np.bincount(prediction_labels.ravel())
    reference = reference_sizes
    if reference is None:
        reference = np.bincount(reference_labels.ravel())
    inside = (prediction_labels > 0) & (reference_labels > 0)
    code = prediction_labels[inside].astype(np.int64) * len(reference) + reference_labels[inside]
    code, shared = np.unique(code, return_counts=True)
    ours, theirs = np.divmod(code, len(reference))
    iou = shared / (predicted[ours] + reference[theirs] - shared)

    # The table holds only lesions that can be paired, since noise has thousands of lesions. At most
    # 10 can be paired with one lesion.
    close = iou >= MATCH_IOU
    rows, row = np.unique(ours[close], return_inverse=True)
    columns, column = np.unique(theirs[close], return_inverse=True)
    table = np.zeros((len(rows), len(columns)))
    table[row, column] = iou[close]
    chosen = zip(*linear_sum_assignment(table, maximize=True), strict=True)
    return [(int(rows[i]), int(columns[j])) for i, j in chosen if table[i, j] > 0]


def _size(lesion: Lesion) -> str:
    # Rounded to a nanometre, because sums of a spacing such as 0.7 mm miss a bound by their last
    # digit.
    diameter = round(lesion.diameter, 6)
    return [*SIZES][(diameter >= 10) + (diameter > 20)]
