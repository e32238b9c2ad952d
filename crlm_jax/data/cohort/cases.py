"""`cohort.csv` into validated cases, and the split by patient.

The file has one row an image: ``patient,condition,image,mask`` and optionally ``mask_label`` (what
counts in the mask: an integer, or for a DICOM-SEG a name or pattern such as ``Tumor*``; empty: any
non-zero), ``b_value`` (s/mm², which image of a DICOM diffusion series) and ``split`` (``train`` or
``test``; absent: drawn here). Paths are relative to the file; an image may be a folder, a DICOM
series. A *case* is a patient under a condition (for example ``pre_dwi``) and may have several
images.

The split follows Xia et al., Cancer Imaging 26:10 (2025), doi 10.1186/s40644-025-00964-z: by
patient, 6:4. The number of test patients is rounded up, which gives the paper's 66 / 45 of 111.
It is drawn over every patient of the file whatever the conditions asked for, so that a patient who
is tested under one condition is never trained on under another.

Paths may lead anywhere, also by `..` or from the root: images often lie on another disk. The name
of a patient goes into tables and pages as it is, and may therefore not begin as a spreadsheet's
formula does, nor hold invisible characters.

Every wrong row is reported at once, with its number as a spreadsheet shows it (the header is 1).
As a command (`cohort_tool.py`) it checks a cohort, images and all, or builds the file from folders.
"""

import dataclasses
import difflib
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np

from crlm_jax.data.cohort.rows import CohortError, Image, ImagePair, Row, read_rows

Split = Literal["train", "validation", "test"]
SPLITS: tuple[Split, ...] = get_args(Split)


@dataclasses.dataclass(frozen=True)
class Case:
    """A patient under a condition, with all the images of it in the order of the file."""

    patient: str
    condition: str
    images: tuple[ImagePair, ...]
    split: Split


def read_cohort(
    path: str | Path,
    *,
    conditions: Sequence[str],
    test_fraction: float = 0.4,
    validation_fraction: float = 0.2,
    seed: int = 0,
) -> tuple[Case, ...]:
    """Reads a cohort file into cases, ordered by split, patient and condition.

    Args:
      path: the cohort file (UTF-8, comma-separated, first row the header).
      conditions: conditions to train, validate and test on.
      test_fraction: share of all patients that are tested, where the file has no `split`.
      validation_fraction: share of the training patients that are set aside to validate on.
      seed: of the drawn splits; they depend on it and on the set of patients, not on row order.

    Raises:
      CohortError: listing everything that is wrong with the file or with what is asked of it.
    """
    path = Path(path)
    rows = _all_or_error(*read_rows(path))
    _check_wanted(path, rows, conditions)
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


def read_images(path: str | Path) -> tuple[Image, ...]:
    """Reads the images to predict from a cohort file, in its order.

    Needs the columns patient, condition and image, and heeds b_value; whatever the others hold, or
    whether they are there, does not matter.

    Raises:
      CohortError: listing everything that is wrong with those columns.
    """
    return tuple(_all_or_error(*read_rows(path, masks=False)))


def _all_or_error(rows: list[Any], problems: Sequence[str]) -> list[Any]:
    if problems:
        raise CohortError("\n".join(problems))
    return rows


def _check_wanted(path: Path, rows: Sequence[Row], asked: Sequence[str]) -> None:
    there = sorted({row.condition for row in rows})
    if not asked:
        raise CohortError(f"{path}: no condition asked for; choose from {', '.join(there)}")
    absent = [condition for condition in asked if condition not in there]
    if absent:
        close = difflib.get_close_matches(absent[0], there, n=1)
        hint = f" (did you mean '{close[0]}'?)" if close else ""
        raise CohortError(
            f"{path}, column 'condition': no row with {', '.join(absent)}{hint}; the conditions "
            f"there are: {', '.join(there)}"
        )


def _split_patients(
    rows: Sequence[Row], test_fraction: float, validation_fraction: float, seed: int
) -> dict[str, str]:
    """Returns the split of every patient of the file."""
    given = {row.patient: row.split for row in rows}
    patients = sorted(given)  # sorted: the draw must not depend on the order of the rows
    rng = np.random.default_rng(seed)
    if any(given.values()):
        train = [patient for patient in patients if given[patient] == "train"]
    else:
        order = [patients[i] for i in rng.permutation(len(patients))]
        tests = math.ceil(test_fraction * len(order) - 1e-9)
        train = sorted(order[tests:])
    split_of = dict.fromkeys(patients, "test") | dict.fromkeys(train, "train")

    held_out = 0
    if validation_fraction > 0 and len(train) >= 2:
        held_out = min(max(1, round(validation_fraction * len(train))), len(train) - 1)
    for i in rng.permutation(len(train))[:held_out]:
        split_of[train[i]] = "validation"
    return split_of
