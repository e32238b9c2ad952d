"""From whom a run has learned."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from crlm_jax.config.schema import ConfigError
from crlm_jax.runs.finished import names_are_withheld, read_splits
from crlm_jax.runs.folder import RunFolder, read_begun
from crlm_jax.runs.members import find_members
from crlm_jax.system.files import locate
from crlm_jax.system.text import listed

_NAMED = 40  # patients that a message names


@dataclass(frozen=True)
class Taught:
    """Whom a run has learned from, and whom it tests."""

    run: Path
    training: frozenset[str]  # and validation, also of the runs that it goes on from
    test: frozenset[str]
    prints: frozenset[str]  # of the images that it learned from; runs of 0.1.0 keep none
    doubts: tuple[str, ...]  # why there may be more


def read_taught(run: Path) -> Taught:
    """Returns the patients of a run, or of an ensemble: whom any has learned from, and all test."""
    every = [_taught(member) for member in find_members([run])]
    return Taught(
        run,
        frozenset().union(*(each.training for each in every)),
        frozenset.intersection(*(each.test for each in every)),
        frozenset().union(*(each.prints for each in every)),
        tuple(dict.fromkeys(doubt for each in every for doubt in each.doubts)),
    )


def _taught(run: Path) -> Taught:
    """Returns the patients of one run.

    A run that began with the weights of another one (`train.init`) has learned from that one's
    patients too.

    Raises:
      ConfigError: the folder holds no run, or one that does not say its patients.
    """
    training: set[str] = set()
    prints: set[str] = set()
    doubts: list[str] = []
    splits = read_splits(RunFolder(run))
    if names_are_withheld(RunFolder(run)):
        doubts.append(
            f"{run.name} was shared without its patients' names: only the same image shows "
            "whether it has learned from a patient"
        )
    config, seen, at = read_begun(run), {str(run)}, splits
    while True:
        for split in ("train", "validation"):
            training |= set(at.get(split, {}).get("patients", ()))
            prints |= set(at.get(split, {}).get("prints", ()))
        source = config.train.init
        if not source or source in seen:
            break
        seen.add(source)
        try:
            config, at = read_begun(locate(source)), read_splits(RunFolder(locate(source)))
        except (ConfigError, OSError):
            doubts.append(
                f"{run.name} goes on from {source} (train.init), whose folder is not there, so "
                "whether that run was trained on patients of this cohort is not known"
            )
            break
    test = frozenset(splits.get("test", {}).get("patients", ()))
    return Taught(run, frozenset(training), test, frozenset(prints), tuple(doubts))


def doubts_of_test(source: Path, test: Mapping[str, Any]) -> list[str]:
    """Returns why the test of a run that goes on from another one may be too good.

    Args:
      source: folder of the run that it goes on from.
      test: patients and prints of the images to test, as in `data.json`.

    Raises:
      ConfigError: the other run has learned from images that are to be tested.
    """
    taught = read_taught(source)
    if known := taught.prints & set(test["prints"]):
        raise ConfigError(
            f"train.init = {str(source)!r}: that run has learned from {len(known)} of the "
            f"{len(test['prints'])} images to test, and its successor would do too well on them; "
            "give their patients the split train in the cohort file, or begin with another run"
        )
    names = sorted(taught.training & set(test["patients"]))
    if not names:
        return list(taught.doubts)
    return [
        *taught.doubts,
        f"{source} has learned from patients with the names of {len(names)} that are tested here "
        f"({listed(names, _NAMED)}); if they are the same people, the results on them are too good",
    ]
