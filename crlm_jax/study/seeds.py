"""What each seed of a system has tested: one run, or its folds together.

Folds of one seed share most of their training patients, so that their results are not independent,
and no fold is a unit. Together they test every patient once, out of fold: that is the one result of
the seed.
"""

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from crlm_jax.runs.finished import FinishedRun, read_finished, values_by_patient
from crlm_jax.runs.rows import CaseRow
from crlm_jax.study.runs import StudyRun

_OF_RUN = ("experiment", "system", "seed", "run")


@dataclass(frozen=True)
class SeedResult:
    """A seed of a system, of which every run has finished."""

    name: str  # such as seed0: what the runs of two systems are paired by
    runs: tuple[FinishedRun, ...]  # one, or all folds in order

    @property
    def conditions(self) -> list[str]:
        """The conditions that were tested on, in order."""
        return list(dict.fromkeys(c for run in self.runs for c in run.summary.conditions))

    @property
    def rows(self) -> list[CaseRow]:
        """The test cases of all folds."""
        return [row for run in self.runs for row in run.rows]

    def values(self, condition: str, measure: str) -> dict[str, float]:
        """Returns a measure of each patient under a condition; with folds, out of fold."""
        return values_by_patient(self.runs, condition, measure)


# By name, the seeds that have finished; the first system is what the others are compared with, also
# if it has none yet.
Systems = dict[str, list[SeedResult]]


def collect(runs: Sequence[StudyRun]) -> tuple[dict[str, Systems], list[str]]:
    """Reads the finished runs.

    Args:
      runs: of the study, finished or not.

    Returns:
      By experiment and system, in the order of the study, the seeds; and a line for each seed that
      is left out though some of its folds have finished.
    """
    grouped: dict[tuple[str, str, str], list[StudyRun]] = {}
    for run in runs:
        experiment, system, _ = run.name.split("/")
        grouped.setdefault((experiment, system, run.seed), []).append(run)
    found: dict[str, Systems] = {}
    left_out = []
    for (experiment, system, seed), members in grouped.items():
        seeds = found.setdefault(experiment, {}).setdefault(system, [])
        finished = [run for run in members if run.state == "finished"]
        if not finished:
            continue
        result = SeedResult(seed, tuple(read_finished(run.folder.path) for run in finished))
        if reason := _incomplete(members, finished) or _twice(result):
            left_out.append(f"{experiment}/{system}/{seed} is left out: {reason}")
        else:
            seeds.append(result)
    return found, left_out


def _incomplete(members: Sequence[StudyRun], finished: Sequence[StudyRun]) -> str:
    """Returns which folds of a seed are missing; empty: none."""
    folds = [run.fold for run in members if run.fold]
    if not folds:
        return ""
    if len({number for _, number in folds}) > 1 or len(folds) < len(members):
        return "its runs are not folds of one number"
    wanted, number = range(1, folds[0][1] + 1), folds[0][1]
    there = {run.fold[0] for run in finished if run.fold}
    missing = ", ".join(str(fold) for fold in wanted if fold not in there)
    return f"fold {missing} of {number} has not finished" if missing else ""


def _twice(result: SeedResult) -> str:
    """Returns whom two folds have tested; empty: nobody."""
    tested: dict[str, str] = {}
    for run in result.runs:
        for patient in {row.patient for row in run.rows}:
            if (other := tested.setdefault(patient, run.name)) != run.name:
                return f"both {other} and {run.name} tested the patient {patient}"
    return ""


def case_rows(found: Mapping[str, Systems]) -> list[list[str]]:
    """Returns the test cases of all runs in one table, the header first, for other programs.

    The columns are the experiment, the system, the seed, the run (with its fold) and those of the
    runs' `cases.csv`; a measure that a run does not have is empty.
    """
    rows = []
    for experiment, systems in found.items():
        for system, seeds in systems.items():
            for seed in seeds:
                for run in seed.runs:
                    text = run.folder.cases.read_text(encoding="utf-8")
                    whose = dict(
                        zip(_OF_RUN, (experiment, system, seed.name, run.name), strict=True)
                    )
                    rows += [whose | case for case in csv.DictReader(io.StringIO(text))]
    header = list(dict.fromkeys(name for row in rows for name in row)) or list(_OF_RUN)
    return [header, *([row.get(name, "") for name in header] for row in rows)]
