"""The rows of a study's tables, from whatever of it has finished.

Seeds are not patients: a patient's value under a system is its mean over the seeds, and intervals
and tests are over patients. The spread from seed to seed is not in them; the table of results has a
column for it.
"""

import re
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from crlm_jax.measures.table import OVERLAP_PAPER
from crlm_jax.report.cells import compared_rows, format_mean
from crlm_jax.report.tables import OVERLAP_HEADER
from crlm_jax.runs.finished import FinishedRun, read_finished, values_by_patient
from crlm_jax.stats import comparison
from crlm_jax.study import paper_results
from crlm_jax.study.runs import StudyRun

HEADER = (
    "experiment", "system", "condition", "seeds", "n", *OVERLAP_HEADER, "DSC of the seeds",
)  # fmt: skip
PAIRED = ("experiment", "system", "condition", "n", "difference in DSC", "p (Wilcoxon)", "p (Holm)")
EFFECTS = ("experiment", "condition", "stage", "n", "difference in DSC", "p (Wilcoxon)", "p (Holm)")
_STAGES = re.compile(r"stages_(\d+)|unetpp")

Systems = dict[str, list[FinishedRun]]  # by name, the finished runs of all seeds


def collect(runs: Sequence[StudyRun]) -> dict[str, Systems]:
    """Reads the finished runs: by experiment and system, in the order of the study."""
    found: dict[str, Systems] = {}
    for run in runs:
        experiment, system, _ = run.name.split("/")
        seeds = found.setdefault(experiment, {}).setdefault(system, [])
        if run.state == "finished":
            seeds.append(read_finished(run.folder.path))
    return {
        experiment: {system: seeds for system, seeds in systems.items() if seeds}
        for experiment, systems in found.items()
    }


def conditions_of(systems: Systems) -> list[str]:
    """Returns the conditions that any system was tested on, in order."""
    return list(dict.fromkeys(c for runs in systems.values() for c in runs[0].summary.conditions))


def result_rows(found: Mapping[str, Systems], *, paper: bool = False) -> list[list[str]]:
    """Returns the results by the paper's protocol under `HEADER`: means with 95 % intervals.

    With `paper`, the paper's own numbers follow ours of the same experiment and condition.
    """
    rows = []
    for experiment, systems in found.items():
        for condition in conditions_of(systems):
            for system, runs in systems.items():
                if condition in runs[0].summary.conditions:
                    rows.append([experiment, system, condition, *_result_cells(runs, condition)])
            if paper and (theirs := paper_results.row(experiment, condition)):
                rows.append(theirs)
    return rows


def _result_cells(runs: Sequence[FinishedRun], condition: str) -> list[str]:
    """Returns the numbers of seeds and of patients, the measures, and the DSC of each seed."""
    means = [
        comparison.bootstrap_mean([*values_by_patient(runs, condition, name).values()])
        for name in OVERLAP_PAPER
    ]
    each = [run.summary.conditions[condition].means["dsc_paper"]["mean"] for run in runs]
    spread = ", ".join("–" if x is None else f"{x:.2f}" for x in each)
    return [str(len(runs)), str(means[0]["n"]), *map(format_mean, means), spread]


def paired_rows(found: Mapping[str, Systems]) -> list[list[str]]:
    """Compares every system with the first of its experiment, by patient, under `PAIRED`."""
    compared = []
    for experiment, systems in found.items():
        for condition in conditions_of(systems):
            values = {s: dsc_by_patient(runs, condition) for s, runs in systems.items()}
            reference = next(iter(values.values()), {})
            for system, ours in list(values.items())[1:]:
                difference = comparison.paired_difference(ours, reference)
                compared.append(([experiment, system, condition], difference))
    return compared_rows(compared)


def dsc_by_patient(runs: Sequence[FinishedRun], condition: str) -> dict[str, float]:
    """Returns the DSC by the paper's protocol of each patient, its mean over the seeds."""
    return values_by_patient(runs, condition, "dsc_paper")


def effect_rows(found: Mapping[str, Systems]) -> list[list[str]]:
    """Returns what each stage adds, under `EFFECTS`: the mean over pairs of subsets.

    The two subsets of a pair differ by that stage alone, and both have finished. A stage without
    such a pair has no row.
    """
    compared = []
    for experiment, systems in found.items():
        subsets = stage_subsets(systems)
        for condition in conditions_of(systems):
            values = {
                stages: dsc_by_patient(systems[system], condition)
                for stages, system in subsets.items()
            }
            for stage in sorted({stage for stages in subsets for stage in stages}):
                pairs = [(s, s - {stage}) for s in subsets if stage in s and s - {stage} in subsets]
                if pairs:
                    with_it = _mean_of([values[larger] for larger, _ in pairs])
                    without = _mean_of([values[smaller] for _, smaller in pairs])
                    difference = comparison.paired_difference(with_it, without)
                    compared.append(([experiment, condition, str(stage)], difference))
    return compared_rows(compared)


def stage_subsets(systems: Iterable[str]) -> dict[frozenset[int], str]:
    """Returns the systems that are named by their stages; empty if this is no study of stages."""
    found = {}
    for system in systems:
        if match := _STAGES.fullmatch(system):
            found[frozenset(map(int, match[1] or ""))] = system
    return found if len(found) > 1 else {}


def _mean_of(values: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Returns the mean of each patient that all of them have."""
    patients = set.intersection(*(set(each) for each in values))
    return {p: float(np.mean([each[p] for each in values])) for p in sorted(patients)}
