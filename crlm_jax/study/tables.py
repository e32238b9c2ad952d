"""The rows of a study's tables, from whatever of it has finished.

The training is a unit as well as the patient: systems are compared run by run, paired by seed, and
intervals and tests have both spreads (`stats.crossed_difference`). The folds of a seed together are
one run (`study.seeds`). With fewer than its `LEAST_RUNS`
runs a difference stands without an interval and without p.
"""

import re
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from crlm_jax.measures.result_tables import OVERLAP_HEADER
from crlm_jax.measures.table import OVERLAP_PAPER
from crlm_jax.stats import comparison
from crlm_jax.stats.cells import format_mean, format_p
from crlm_jax.stats.comparison import Numbers
from crlm_jax.stats.crossed import crossed_difference
from crlm_jax.study import paper_results
from crlm_jax.study.seeds import SeedResult, Systems

HEADER = (
    "experiment", "system", "condition", "seeds", "n", *OVERLAP_HEADER, "DSC of the seeds",
)  # fmt: skip
_DIFFERENCE = ("runs", "n", "difference in DSC", "SD of runs", "p", "p (Holm)")
PAIRED = ("experiment", "system", "compared with", "condition", "protocol", *_DIFFERENCE)
EFFECTS = ("experiment", "condition", "protocol", "stage", *_DIFFERENCE)
PROTOCOLS = {"paper": "dsc_paper", "clinical": "dsc"}  # the measure of each
_STAGES = re.compile(r"stages_(\d+)|unetpp")

Values = dict[str, dict[str, float]]  # of a system: by run (`seed0` …), a value of each patient


def conditions_of(systems: Systems) -> list[str]:
    """Returns the conditions that any system was tested on, in order."""
    seeds = [each for own in systems.values() for each in own]
    return list(dict.fromkeys(condition for each in seeds for condition in each.conditions))


def result_rows(found: Mapping[str, Systems], *, paper: bool = False) -> list[list[str]]:
    """Returns the results by the paper's protocol under `HEADER`: means with 95 % intervals.

    With `paper`, the paper's own numbers follow ours of the same experiment and condition.
    """
    rows = []
    for experiment, systems in found.items():
        for condition in conditions_of(systems):
            for system, runs in systems.items():
                if any(condition in run.conditions for run in runs):
                    rows.append([experiment, system, condition, *_result_cells(runs, condition)])
            if paper and (theirs := paper_results.row(experiment, condition)):
                rows.append(theirs)
    return rows


def _result_cells(runs: Sequence[SeedResult], condition: str) -> list[str]:
    """Returns the numbers of seeds and of patients, the measures, and the DSC of each seed."""
    means = [mean_of(values_by_run(runs, condition, name)) for name in OVERLAP_PAPER]
    each = [[*run.values(condition, "dsc_paper").values()] for run in runs]
    spread = ", ".join(f"{np.mean(values):.2f}" if values else "–" for values in each)
    return [str(len(runs)), str(means[0]["n"]), *map(format_mean, means), spread]


def values_by_run(runs: Sequence[SeedResult], condition: str, measure: str) -> Values:
    """Returns a measure of each patient in each seed, whose folds together are one run."""
    return {run.name: run.values(condition, measure) for run in runs}


def mean_of(values: Values) -> Numbers:
    """Returns the mean over runs and patients as `crossed_difference` from 0."""
    runs = [*values.values()]
    return crossed_difference(runs, [dict.fromkeys(run, 0.0) for run in runs])


def paired_rows(found: Mapping[str, Systems]) -> list[list[str]]:
    """Compares every system with the first of its experiment, run by run, under `PAIRED`.

    The runs of the same seed are a pair; a run without its partner is left out.
    """
    compared = []
    for experiment, systems in found.items():
        for condition in conditions_of(systems):
            for protocol, measure in PROTOCOLS.items():
                values = {s: values_by_run(runs, condition, measure) for s, runs in systems.items()}
                (first, reference), *others = values.items()
                for system, ours in others:
                    cells = [experiment, system, first, condition, protocol]
                    compared.append((cells, _difference(ours, reference)))
    return _compared_rows(compared)


def run_differences(systems: Systems, condition: str) -> dict[str, tuple[list[float], Numbers]]:
    """Compares the clinical DSC of every system with the first's, for the picture.

    Returns:
      By system, the mean difference of each run, and that of all of them.
    """
    values = {s: values_by_run(runs, condition, "dsc") for s, runs in systems.items()}
    reference, *others = values.values()
    found = {}
    for system, ours in zip(list(values)[1:], others, strict=True):
        both = [{run: ours[run]} for run in ours if run in reference]
        each = [mean for one in both if (mean := _difference(one, reference)["mean"]) is not None]
        if each:
            found[system] = (each, _difference(ours, reference))
    return found


def _difference(ours: Values, reference: Values) -> Numbers:
    both = [run for run in ours if run in reference]
    return crossed_difference([ours[run] for run in both], [reference[run] for run in both])


def _compared_rows(compared: Sequence[tuple[list[str], Numbers]]) -> list[list[str]]:
    """Writes differences as rows; one without a common patient says 0 runs or patients.

    The columns after the given cells are `_DIFFERENCE`; Holm's correction is over all rows.
    """
    tested = [p for _, difference in compared if (p := difference["p"]) is not None]
    adjusted = iter(comparison.holm(tested))
    rows = []
    for cells, difference in compared:
        p, spread = difference["p"], difference["run_sd"]
        rows.append(
            [
                *cells,
                str(difference["runs"]),
                str(difference["n"]),
                format_mean(difference, digits=3),
                "–" if spread is None else f"{spread:.3f}",
                *(("–", "–") if p is None else (format_p(p), format_p(next(adjusted)))),
            ]
        )
    return rows


def effect_rows(found: Mapping[str, Systems]) -> list[list[str]]:
    """Returns what each stage adds, under `EFFECTS`: the mean over pairs of subsets.

    The two subsets of a pair differ by that stage alone. Pairs of which a subset has no run yet do
    not count. A run counts for a stage where all subsets of its pairs have finished under its seed;
    a stage without such a pair has no row.
    """
    compared = []
    for experiment, systems in found.items():
        subsets = stage_subsets(system for system, runs in systems.items() if runs)
        for condition in conditions_of(systems):
            for protocol, measure in PROTOCOLS.items():
                values = {
                    stages: values_by_run(systems[system], condition, measure)
                    for stages, system in subsets.items()
                }
                for stage in sorted({stage for stages in subsets for stage in stages}):
                    pairs = [(s, s - {stage}) for s in subsets if stage in s]
                    pairs = [pair for pair in pairs if pair[1] in subsets]
                    if pairs:
                        with_it = _mean_of([values[larger] for larger, _ in pairs])
                        without = _mean_of([values[smaller] for _, smaller in pairs])
                        cells = [experiment, condition, protocol, str(stage)]
                        compared.append((cells, _difference(with_it, without)))
    return _compared_rows(compared)


def stage_subsets(systems: Iterable[str]) -> dict[frozenset[int], str]:
    """Returns the systems that are named by their stages; empty if this is no study of stages."""
    found = {}
    for system in systems:
        if match := _STAGES.fullmatch(system):
            found[frozenset(map(int, match[1] or ""))] = system
    return found if len(found) > 1 else {}


def _mean_of(values: Sequence[Values]) -> Values:
    """Returns the mean over several systems, by run and patient that all of them have."""
    runs = [run for run in values[0] if all(run in each for each in values)]
    means: Values = {}
    for run in runs:
        patients = set.intersection(*(set(each[run]) for each in values))
        means[run] = {p: float(np.mean([v[run][p] for v in values])) for p in sorted(patients)}
    return means
