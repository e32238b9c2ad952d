"""Cases: the rows of a cohort file by patient and condition, split into train, validation and test.

A *case* is a patient under a condition (for example ``pre_dwi``) and may have several images.

The split follows Xia et al., Cancer Imaging 26:10 (2025), doi 10.1186/s40644-025-00964-z: by
patient, 6:4. The number of test patients is rounded up, which gives the paper's 66 / 45 of 111.
The split is drawn over all patients of the file, whatever conditions are asked for. So a patient
who is tested under one condition is never trained on under another. Where the file names validation
patients, none are drawn out of its training patients.
"""

import dataclasses
import difflib
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, TypeVar, get_args

import numpy as np

from crlm_jax.config.schema import Data
from crlm_jax.data.cohort.alike import alike_warnings
from crlm_jax.data.cohort.rows import (
    CohortError,
    ImagePair,
    ImageRow,
    Row,
    read_image_rows,
    read_rows,
)

Split = Literal["train", "validation", "test"]
SPLITS: tuple[Split, ...] = get_args(Split)
_AnyRow = TypeVar("_AnyRow", bound=ImageRow)


@dataclasses.dataclass(frozen=True)
class Case:
    """A patient under a condition, with all images of both in the order of the file."""

    patient: str
    condition: str
    images: tuple[ImagePair, ...]
    split: Split


def read_cohort(
    path: str | Path,
    *,
    conditions: Sequence[str],
    test_fraction: float = Data.test_fraction,
    validation_fraction: float = Data.validation_fraction,
    seed: int = Data.split_seed,
    doubts: list[str] | None = None,
) -> tuple[Case, ...]:
    """Reads a cohort file into cases, ordered by split, patient and condition.

    Args:
      path: the cohort file, as a spreadsheet saves it (`table`).
      conditions: conditions to train, validate and test on.
      test_fraction: share of all patients that are tested, where the file has no `split`.
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
    rows = _all_or_error(*read_rows(path, doubts))
    if doubts is not None:
        doubts += alike_warnings(path, rows)
    _check_conditions(path, rows, conditions)
    split_of = _split_patients(rows, test_fraction, validation_fraction, seed)

    pairs: dict[tuple[int, str, str], list[ImagePair]] = {}
    for row in rows:
        if row.condition in conditions:
            key = (SPLITS.index(split_of[row.patient]), row.patient, row.condition)
            pairs.setdefault(key, []).append(row.pair)
    cases = tuple(
        Case(patient, condition, tuple(images), SPLITS[split])
        for (split, patient, condition), images in sorted(pairs.items(), key=lambda kv: kv[0])
    )
    for split in ("train", "test"):
        if not any(case.split == split for case in cases):
            raise CohortError(
                f"{path}, column 'split': no {split} case is left for "
                f"{', '.join(conditions)} ({len(split_of)} patients in all); add patients, "
                f"name some as '{split}' in the column 'split', or change the test fraction "
                f"({test_fraction:g}) or the conditions"
            )
    return cases


def read_images(path: str | Path, doubts: list[str] | None = None) -> tuple[ImageRow, ...]:
    """Reads the images to predict from a cohort file, in its order.

    Needs the columns patient, condition and image, and reads b_value; the other columns may be
    absent or wrong. `doubts` receives what was assumed of the file, a line each.

    Raises:
      CohortError: listing all that is wrong with those columns.
    """
    return tuple(_all_or_error(*read_image_rows(path, doubts)))


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
    rows: Sequence[Row], test_fraction: float, validation_fraction: float, seed: int
) -> dict[str, Split]:
    """Returns the split of every patient of the file."""
    given = {row.patient: row.split for row in rows}
    patients = sorted(given)  # sorted: the draw must not depend on the order of the rows
    rng = np.random.default_rng(seed)
    validation: list[str] = []
    if any(given.values()):
        train = [patient for patient in patients if given[patient] == "train"]
        validation = [patient for patient in patients if given[patient] == "validation"]
    else:
        order = [patients[i] for i in rng.permutation(len(patients))]
        tests = math.ceil(test_fraction * len(order) - 1e-9)
        train = sorted(order[tests:])
    split_of: dict[str, Split] = dict.fromkeys(patients, "test")
    split_of.update(dict.fromkeys(train, "train"))
    split_of.update(dict.fromkeys(validation, "validation"))

    held_out = 0
    if not validation and validation_fraction > 0 and len(train) >= 2:
        held_out = min(max(1, round(validation_fraction * len(train))), len(train) - 1)
    for i in rng.permutation(len(train))[:held_out]:
        split_of[train[i]] = "validation"
    return split_of
