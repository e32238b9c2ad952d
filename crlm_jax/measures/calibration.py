"""Whether a probability means what it says: reliability by bins, expected calibration error.

Voxels are counted at the image's own resolution, in 15 equal bins of the probability of tumour (Guo
et al., ICML 2017); padding does not count. Nearly all voxels of an abdomen are background that no
network doubts, and they alone make the error over all voxels small. The first bin is therefore cut
in two at `FAINT`, so that the error beyond is known too. These voxels are chosen by their
probability alone: whoever chooses by the reference as well moves the shares that are compared.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np

from crlm_jax.runs.rows import CalibrationRow

BINS = 15  # equal ones, from 0 to 1
FAINT = 0.01  # up to this probability nobody doubts that a voxel is background
EDGES = np.array([0.0, FAINT, *(np.arange(1, BINS + 1) / BINS)])  # a bin holds its upper edge
_ROWS = len(EDGES) - 1


@dataclass
class Reliability:
    """Counts of voxels by bin of their probability, each (16,): the first bin is cut in two."""

    voxels: np.ndarray = field(default_factory=lambda: np.zeros(_ROWS, np.int64))
    probability: np.ndarray = field(default_factory=lambda: np.zeros(_ROWS))  # its sum
    tumour: np.ndarray = field(default_factory=lambda: np.zeros(_ROWS, np.int64))  # the reference's

    def add(
        self, probability: np.ndarray, reference: np.ndarray, padding: np.ndarray | None = None
    ) -> None:
        """Counts the voxels of an image.

        Args:
          probability: (Z, H, W) float32, of tumour.
          reference: (Z, H, W) bool.
          padding: (Z, H, W) bool, what was not measured; None: all was.
        """
        if padding is not None:
            probability, reference = probability[~padding], reference[~padding]
        beyond = probability > FAINT
        some = probability[beyond].astype(np.float64)
        place = np.searchsorted(EDGES[1:-1], some)
        tumour = np.bincount(place, reference[beyond], minlength=_ROWS).astype(np.int64)
        self.voxels += np.bincount(place, minlength=_ROWS)
        self.probability += np.bincount(place, some, minlength=_ROWS)
        self.tumour += tumour
        # The many others are not sorted into bins one by one.
        self.voxels[0] += beyond.size - len(some)
        self.probability[0] += probability.sum(where=~beyond, dtype=np.float64)
        self.tumour[0] += np.count_nonzero(reference) - int(tumour.sum())

    def rows(self, patient: str, condition: str) -> list[CalibrationRow]:
        """Returns a row a bin; none where no voxel was counted."""
        if not self.voxels.any():
            return []
        return [
            CalibrationRow(
                patient=patient,
                condition=condition,
                low=float(EDGES[i]),
                high=float(EDGES[i + 1]),
                voxels=int(self.voxels[i]),
                probability_sum=float(self.probability[i]),
                tumour_voxels=int(self.tumour[i]),
            )
            for i in range(_ROWS)
        ]

    @classmethod
    def pooled(cls, rows: Iterable[CalibrationRow]) -> "Reliability":
        """Pools the rows of cases."""
        pooled = cls()
        for row in rows:
            place = int(np.abs(EDGES[:-1] - row.low).argmin())
            pooled.voxels[place] += row.voxels
            pooled.probability[place] += row.probability_sum
            pooled.tumour[place] += row.tumour_voxels
        return pooled

    def curve(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Returns the mean probability, the share of tumour and the voxels of the equal bins.

        Empty bins are left out.
        """
        voxels, probability, tumour = map(_equal, (self.voxels, self.probability, self.tumour))
        there = voxels > 0
        count = voxels[there]
        return probability[there] / count, tumour[there] / count, count

    def error(self) -> float | None:
        """Computes the expected calibration error over all voxels; None: there are none.

        ECE = Σ_b (n_b / n) · |mean probability − share of tumour| = Σ_b |Σ p − tumour| / n, over
        the equal bins b, where n_b of the n voxels lie.
        """
        return _error(_equal(self.voxels), _equal(self.probability), _equal(self.tumour))

    def error_beyond(self) -> float | None:
        """Computes it over the voxels of a probability above `FAINT`; None: there are none."""
        return _error(self.voxels[1:], self.probability[1:], self.tumour[1:])

    def unseen(self) -> float | None:
        """Returns the share of the tumour's voxels up to `FAINT`; None: there is no tumour."""
        everything = int(self.tumour.sum())
        return int(self.tumour[0]) / everything if everything else None


def _equal(values: np.ndarray) -> np.ndarray:
    """Joins the two parts of the first bin."""
    return np.concatenate([[values[0] + values[1]], values[2:]])


def _error(voxels: np.ndarray, probability: np.ndarray, tumour: np.ndarray) -> float | None:
    count = voxels.sum()
    return float(np.abs(probability - tumour).sum() / count) if count else None


def errors_by_case(rows: Sequence[CalibrationRow]) -> list[float]:
    """Returns each case's own error beyond `FAINT`, where the case has such voxels."""
    cases: dict[tuple[str, str], list[CalibrationRow]] = {}
    for row in rows:
        cases.setdefault((row.patient, row.condition), []).append(row)
    found = (Reliability.pooled(each).error_beyond() for each in cases.values())
    return [error for error in found if error is not None]
