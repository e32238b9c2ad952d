"""Who is tested: the patients that the cohort file names, or those that are drawn."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from crlm_jax.config.folds import parse_fold
from crlm_jax.data.cohort.rows import CohortError


@dataclass(frozen=True)
class TestWish:
    """What an experiment asks for; the file's own split counts for more.

    Args:
      fraction: share of all patients, rounded up.
      patients: how many, instead of that share; 0: the share.
      fold: which fold of how many, such as `2/5`, instead of both; empty: none.
    """

    __test__ = False  # pytest takes it for tests otherwise

    fraction: float
    patients: int
    fold: str

    def describe(self) -> str:
        """Writes what is asked for."""
        if self.fold:
            return f"data.fold {self.fold}"
        if self.patients:
            return f"data.test_patients {self.patients}"
        return f"the test fraction {self.fraction:g}"

    def choose(
        self, path: Path, given: Mapping[str, str], rng: np.random.Generator, doubts: list[str]
    ) -> list[str]:
        """Returns the test patients.

        Args:
          path: of the cohort file.
          given: by patient, the split that the file gives, or "".
          rng: draws them.
          doubts: receives what looks wrong, a line each.

        Raises:
          CohortError: the file names them and a fold is asked for, or it has too few patients.
        """
        if any(given.values()):
            return self._given(path, given, doubts)
        # Sorted, since the draw must not depend on the order of the rows.
        patients = sorted(given)
        order = [patients[i] for i in rng.permutation(len(patients))]
        return self._dealt(path, order) if self.fold else self._drawn(path, order, doubts)

    def _given(self, path: Path, given: Mapping[str, str], doubts: list[str]) -> list[str]:
        if self.fold:
            raise CohortError(
                f"{path}, column 'split': the file says who is tested, and data.fold = "
                f"{self.fold!r} deals the patients anew; empty the column, or leave out data.fold "
                "(or --folds)"
            )
        tested = [patient for patient, split in given.items() if split == "test"]
        if self.patients not in (0, len(tested)):
            doubts.append(
                f"{path}, column 'split': tests {len(tested)} patients, which counts; "
                f"data.test_patients = {self.patients} does not"
            )
        return tested

    def _dealt(self, path: Path, order: Sequence[str]) -> list[str]:
        """Deals the patients like cards, so that the folds' sizes differ by at most one."""
        try:
            number, folds = parse_fold(self.fold) or (1, 1)
        except ValueError as error:
            raise CohortError(f"data.fold = {self.fold!r}: {error}") from error
        if folds > len(order):
            raise CohortError(
                f"{path}: data.fold = {self.fold!r} asks for {folds} folds of {len(order)} "
                "patients; give as many folds as there are patients, or fewer"
            )
        return list(order[number - 1 :: folds])

    def _drawn(self, path: Path, order: Sequence[str], doubts: list[str]) -> list[str]:
        if not self.patients:
            return list(order[: math.ceil(self.fraction * len(order) - 1e-9)])
        left = len(order) - self.patients
        remedy = (
            "give --config.data.test_patients=0 to test the share data.test_fraction "
            f"({self.fraction:g}) of them, or a smaller number"
        )
        if left <= 0:
            raise CohortError(
                f"{path}: data.test_patients = {self.patients} (the paper's scale sets the "
                f"paper's), but the file has {len(order)} patients; {remedy}"
            )
        if left < self.patients:
            doubts.append(
                f"{path}: data.test_patients = {self.patients} leaves {left} of {len(order)} "
                f"patients to train on; {remedy}"
            )
        return list(order[: self.patients])
