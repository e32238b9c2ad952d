"""Cases: the rows of a cohort file by patient and condition, split into train, validation and test.

A *case* is a patient under a condition (for example ``pre_dwi``) and may have several images.

The split follows Xia et al., Cancer Imaging 26:10 (2025), doi 10.1186/s40644-025-00964-z: by
patient, 6:4. The number of test patients is rounded up, which gives the paper's 66 / 45 of 111 with
MRI; `test_patients` gives its 119 / 78 of 197 with CT too. With `fold`, the patients are dealt into
folds, each of whom is tested in exactly one. The split is drawn over all patients of the file,
whatever conditions are asked for. So a patient who is tested under one condition is never trained
on under another. Validation patients are taken out of the training patients; where the file names
some, none are drawn.
"""

import dataclasses
import difflib
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Literal, TypeVar, get_args

import numpy as np

from crlm_jax.config.schema import Data
from crlm_jax.data.cohort.alike import RISK_OF_TEST, alike_warnings, shared_mask_warnings
from crlm_jax.data.cohort.rows import (
    CohortError,
    ImagePair,
    ImageRow,
    Row,
    read_image_rows,
    read_rows,
)
from crlm_jax.data.cohort.tested import TestWish

Split = Literal["train", "validation", "test"]
SPLITS: tuple[Split, ...] = get_args(Split)
_AnyRow = TypeVar("_AnyRow", bound=ImageRow)


@dataclasses.dataclass(frozen=True)
class Case:
    """A patient under a condition, with all images of both in the order of the file.

    `drawn` tells whether the split of the patient is drawn, because the file does not say it.
    """

    patient: str
    condition: str
    images: tuple[ImagePair, ...]
    split: Split
    drawn: bool = False


def read_cohort(
    path: str | Path,
    *,
    conditions: Sequence[str],
    test_fraction: float = Data.test_fraction,
    test_patients: int = Data.test_patients,
    fold: str = Data.fold,
    validation_fraction: float = Data.validation_fraction,
    seed: int = Data.split_seed,
    doubts: list[str] | None = None,
) -> tuple[Case, ...]:
    """Reads a cohort file into cases, ordered by split, patient and condition.

    Args:
      path: the cohort file, as a spreadsheet saves it (`table`).
      conditions: conditions to train, validate and test on.
      test_fraction: share of all patients that are tested, where the file has no `split`.
      test_patients: how many are tested instead of that share; 0: the share.
      fold: which fold of how many is tested instead, such as `2/5`; empty: the share.
      validation_fraction: share of the training patients that are set aside to validate on, where
        the file names none.
      seed: seed of the drawn splits, which depend on it and on the set of patients, not on the
        order of the rows.
      doubts: receives what the user should know of the file, such as patients who may be the same,
        a line each.

    Raises:
      CohortError: listing all that is wrong with the file, or naming the condition or split that
        has no case.
    """
    path = Path(path)
    doubts = [] if doubts is None else doubts
    rows = _read_rows(path, doubts)
    _check_conditions(path, rows, conditions)
    given = {row.patient: row.split for row in rows}
    rng = np.random.default_rng(seed)
    wish = TestWish(test_fraction, test_patients, fold)
    tested = wish.choose(path, given, rng, doubts)
    split_of = _split_patients(given, tested, validation_fraction, rng)

    cases = _in_cases([row for row in rows if row.condition in conditions], split_of)
    for split in ("train", "test"):
        if not any(case.split == split for case in cases):
            raise CohortError(
                f"{path}, column 'split': no {split} case is left for "
                f"{', '.join(conditions)} ({len(split_of)} patients in all); add patients, "
                f"name some as '{split}' in the column 'split', or change who is tested "
                f"({wish.describe()}) or the conditions"
            )
    return cases


def read_test_cases(
    path: str | Path, *, conditions: Sequence[str] = (), doubts: list[str] | None = None
) -> tuple[Case, ...]:
    """Reads a cohort of which every patient is tested, ordered by patient and condition.

    The column `split` is checked and does not count.

    Args:
      path: the cohort file.
      conditions: those to read; none: all there are.
      doubts: as in `read_cohort`.

    Raises:
      CohortError: listing all that is wrong with the file, or naming the condition without a row.
    """
    path = Path(path)
    rows = _read_rows(path, [] if doubts is None else doubts, RISK_OF_TEST)
    conditions = conditions or sorted({row.condition for row in rows})
    _check_conditions(path, rows, conditions)
    chosen = [row for row in rows if row.condition in conditions]
    return _in_cases(chosen, {row.patient: "test" for row in chosen})


def read_images(path: str | Path, doubts: list[str] | None = None) -> tuple[ImageRow, ...]:
    """Reads the images to predict from a cohort file, in its order.

    Needs the columns patient, condition and image, and reads b_value; the other columns may be
    absent or wrong. `doubts` receives what was assumed of the file, a line each.

    Raises:
      CohortError: listing all that is wrong with those columns.
    """
    return tuple(_all_or_error(*read_image_rows(path, doubts)))


def _read_rows(path: Path, doubts: list[str], *risk: str) -> list[Row]:
    """Reads the rows; `risk` is what may go wrong with a patient under two names."""
    rows = _all_or_error(*read_rows(path, doubts))
    doubts += alike_warnings(path, rows, *risk) + shared_mask_warnings(path, rows, *risk)
    return rows


def _in_cases(rows: Sequence[Row], split_of: Mapping[str, Split]) -> tuple[Case, ...]:
    """Puts rows together to cases, ordered by split, patient and condition."""
    given = {row.patient: row.split for row in rows}
    pairs: dict[tuple[int, str, str], list[ImagePair]] = {}
    for row in rows:
        key = (SPLITS.index(split_of[row.patient]), row.patient, row.condition)
        pairs.setdefault(key, []).append(row.pair)
    return tuple(
        Case(patient, condition, tuple(images), SPLITS[split], given[patient] != SPLITS[split])
        for (split, patient, condition), images in sorted(pairs.items(), key=lambda kv: kv[0])
    )


def _all_or_error(rows: list[_AnyRow], problems: Sequence[str]) -> list[_AnyRow]:
    if problems:
        raise CohortError("\n".join(problems))
    return rows


def _check_conditions(path: Path, rows: Sequence[Row], asked: Sequence[str]) -> None:
    known = sorted({row.condition for row in rows})
    absent = [condition for condition in asked if condition not in known]
    if absent:
        close = difflib.get_close_matches(absent[0], known, n=1)
        hint = f" (did you mean '{close[0]}'?)" if close else ""
        raise CohortError(
            f"{path}, column 'condition': no row with {', '.join(absent)}{hint}; the conditions "
            f"there are: {', '.join(known)}"
        )


def _split_patients(
    given: Mapping[str, str],
    tested: Collection[str],
    validation_fraction: float,
    rng: np.random.Generator,
) -> dict[str, Split]:
    """Returns the split of every patient of the file.

    Args:
      given: by patient, the split that the file gives, or "".
      tested: the test patients.
      validation_fraction: share of the others who validate, where the file names none.
      rng: draws them.
    """
    patients = sorted(given)
    validation = {patient for patient in patients if given[patient] == "validation"}
    split_of: dict[str, Split] = {
        patient: "test" if patient in tested else "train" for patient in patients
    }
    train = [patient for patient in patients if split_of[patient] == "train"]
    if not validation and validation_fraction > 0 and len(train) >= 2:
        held_out = min(max(1, round(validation_fraction * len(train))), len(train) - 1)
        validation = {train[i] for i in rng.permutation(len(train))[:held_out]}
    split_of.update(dict.fromkeys(validation, "validation"))
    return split_of


def with_validation_trained(cases: Sequence[Case]) -> tuple[Case, ...]:
    """Returns the cases with the validation patients among the training patients, in order."""
    moved = (
        dataclasses.replace(case, split="train") if case.split == "validation" else case
        for case in cases
    )
    return tuple(sorted(moved, key=lambda c: (SPLITS.index(c.split), c.patient, c.condition)))
