"""Who is evaluated: the cases of a cohort, and whether a run has learned from their patients.

A patient is known by the name, and an image by its content. Two hospitals that both number their
patients from 1 have the same names for different people: `prefix` tells them apart. One patient
under two names is found where the images are those that the run has learned from, and is warned of
where the names differ in their spelling alone.
"""

import dataclasses
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from crlm_jax.config.schema import Config, Data, Phantom
from crlm_jax.data.cohort.alike import alike_names
from crlm_jax.data.cohort.cases import Case, read_images, read_test_cases
from crlm_jax.data.cohort.rows import CohortError
from crlm_jax.data.phantom.cohort import cached_phantom
from crlm_jax.data.slices import Slices
from crlm_jax.errors import UserError
from crlm_jax.runs.taught import Taught
from crlm_jax.stats.patient_table import phantom_mark
from crlm_jax.system.files import own_names
from crlm_jax.system.text import listed

PHANTOM = "phantom"
_NAMED = 40  # patients that a message names


@dataclass(frozen=True)
class Wish:
    """Who is asked for.

    Args:
      conditions: to evaluate; none: those that a run was trained on, of masks all there are.
      split: `test`: a run's own test patients alone.
      allow_training: evaluate patients whom a run has learned from too, with a warning.
      prefix: put before every patient's name, where another hospital has the same names.
    """

    conditions: tuple[str, ...] = ()
    split: Literal["all", "test"] = "all"
    allow_training: bool = False
    prefix: str = ""


@dataclass(frozen=True)
class TestCohort:
    """A cohort of which every patient may be tested, under the names of the evaluation."""

    __test__ = False  # pytest takes it for tests otherwise

    name: str  # the path as it was given, or "phantom"
    cases: tuple[Case, ...]  # of all conditions
    images: dict[int, str]  # by row, the name that `predict` gives to its mask
    phantom: str  # such as " (PHANTOM, version 2)"; empty: patients
    doubts: tuple[str, ...]
    prefix: str = ""
    made: Phantom | None = None  # how the embedded phantom was made; None: the cohort is a file

    @property
    def conditions(self) -> list[str]:
        return sorted({case.condition for case in self.cases})

    def only(self, patients: Collection[str]) -> "TestCohort":
        """Returns the cohort of these patients alone."""
        return dataclasses.replace(
            self, cases=tuple(case for case in self.cases if case.patient in patients)
        )

    def own_name(self, case: Case) -> str:
        """Returns the name of a case's patient in the cohort file."""
        return case.patient.removeprefix(self.prefix)


def read_test_cohort(
    name: str, prefix: str = "", cache: str = Data.cache, phantom: Phantom | None = None
) -> TestCohort:
    """Reads a cohort file, or makes the embedded phantom.

    Args:
      name: path of the file, or "phantom".
      prefix: put before every patient's name.
      cache: folder where the phantom is kept.
      phantom: which phantom; None: that of the defaults.

    Raises:
      CohortError: listing all that is wrong with the file.
    """
    path, made = Path(name).expanduser(), None
    if name == PHANTOM:
        made = phantom or Phantom()
        path = cached_phantom(cache, made.patients, made.seed, made.version)
    doubts: list[str] = []
    cases = read_test_cases(path, doubts=doubts)
    rows = read_images(path)
    names = own_names(f"{row.patient}_{row.condition}" for row in rows)
    return TestCohort(
        name=name,
        cases=tuple(dataclasses.replace(case, patient=f"{prefix}{case.patient}") for case in cases),
        images={row.row: own for row, own in zip(rows, names, strict=True)},
        phantom=phantom_mark(case.patient for case in cases),
        doubts=tuple(doubts),
        prefix=prefix,
        made=made,
    )


def choose_cases(
    cohort: TestCohort, conditions: Sequence[str], wish: Wish, taught: Taught | None
) -> tuple[tuple[Case, ...], list[str]]:
    """Returns the cases to evaluate, and what a reader must know of them.

    Args:
      cohort: the whole of it.
      conditions: of the cases.
      wish: who is asked for.
      taught: whom the run has learned from; None: nobody knows, as of masks.

    Raises:
      UserError: the run has learned from patients of the cohort, or tests none of them.
    """
    cases = tuple(case for case in cohort.cases if case.condition in conditions)
    if taught is None:
        return cases, []
    if wish.split == "test":
        return _own_test(cohort, cases, taught)
    patients = sorted({case.patient for case in cases})
    known = [patient for patient in patients if patient in taught.training]
    notes = list(taught.doubts)
    if known and not wish.allow_training:
        raise UserError(
            f"{cohort.name}: {_patients(known)} in the training or validation split of "
            f"{taught.run}, which would do too well on them: {_named(known)}; give --split test "
            "to evaluate that run's test patients alone, --prefix if they are other people "
            "with the same names, or --allow-training-patients to evaluate them all the same"
        )
    if known:
        notes.append(
            f"TRAINING PATIENTS: {taught.run.name} has learned from {len(known)} of the "
            f"{len(patients)} patients ({_named(known)}); its results on them are too good."
        )
    for group in alike_names([*patients, *taught.training]):
        ours = [name for name in group if name in patients and name not in known]
        theirs = [name for name in group if name in taught.training and name not in ours]
        if ours and theirs:
            notes.append(
                f"{_named(ours)} may be {_named(theirs)}, from whom {taught.run.name} has "
                "learned: the names differ in their spelling alone."
            )
    return cases, notes


def check_images(cohort: TestCohort, slices: Slices, wish: Wish, taught: Taught) -> list[str]:
    """Returns a note if a run has learned from images of the cohort under other names.

    Args:
      cohort: the whole of it.
      slices: of the cases to evaluate, cut as the run cut its own.
      wish: who is asked for.
      taught: whom and what the run has learned from.

    Raises:
      UserError: as for patients of the same name.
    """
    found = [
        f"{case.patient}, {case.condition} (row {case.images[image].row})"
        for (number, image), own in sorted(slices.prints.items())
        if own in taught.prints and (case := slices.cases[number]).patient not in taught.training
    ]
    if not found:
        return []
    if wish.split == "all" and not wish.allow_training:
        raise UserError(
            f"{cohort.name}: {taught.run} was trained or validated on the same images under other "
            f"names, and would do too well on them: {_named(found)}; leave these patients out, or "
            "give --allow-training-patients to evaluate them all the same"
        )
    return [
        f"TRAINING IMAGES: {taught.run.name} has learned from {len(found)} of the images under "
        f"other names ({_named(found)}); its results on them are too good."
    ]


def _own_test(
    cohort: TestCohort, cases: tuple[Case, ...], taught: Taught
) -> tuple[tuple[Case, ...], list[str]]:
    if not taught.test:
        raise UserError(
            f"--split test: no patient is tested by all runs of {taught.run}, as of folds, whose "
            "out-of-fold results are in its own report; leave the option out, and name a cohort "
            "that is new to all of them"
        )
    own = tuple(case for case in cases if case.patient in taught.test)
    if not own:
        raise UserError(
            f"{cohort.name}: --split test: none of the {len(taught.test)} test patients of "
            f"{taught.run} is in it; leave the option out to evaluate every patient, or name the "
            "cohort of that run"
        )
    notes = []
    there = {case.patient for case in own}
    if absent := sorted(taught.test - there):
        notes.append(
            f"{len(there)} of the {len(taught.test)} test patients of {taught.run.name} are in "
            f"{cohort.name}; missing: {_named(absent)}."
        )
    return own, notes


def choose_conditions(
    cohort: TestCohort, asked: Sequence[str], config: Config, run: Path
) -> tuple[tuple[str, ...], list[str]]:
    """Returns the conditions to evaluate a run under, and notes about the others.

    Raises:
      CohortError: the cohort has no such condition.
    """
    there, trained = cohort.conditions, config.data.conditions
    check_conditions(cohort, asked)
    if asked:
        return tuple(asked), []
    chosen = tuple(name for name in trained if name in there)
    if not chosen:
        raise CohortError(
            f"{cohort.name}, column 'condition': has {', '.join(there)}, but {run} was trained on "
            f"{', '.join(trained)}; give --condition {there[0]} to evaluate the run on that all "
            "the same, or another cohort"
        )
    absent = [name for name in trained if name not in there]
    note = f"{cohort.name} has no image of {', '.join(absent)}, which {run.name} was trained on."
    return chosen, [note] * bool(absent)


def check_conditions(cohort: TestCohort, asked: Sequence[str]) -> None:
    """Raises CohortError if a condition that is asked for has no image."""
    if absent := [name for name in asked if name not in cohort.conditions]:
        raise CohortError(
            f"{cohort.name}, column 'condition': no row with {', '.join(absent)}; the conditions "
            f"there are: {', '.join(cohort.conditions)}"
        )


def _patients(names: Sequence[str]) -> str:
    return "1 patient is" if len(names) == 1 else f"{len(names)} patients are"


def _named(names: Sequence[str]) -> str:
    return listed(names, _NAMED)
