"""The tables and pictures of a study, from whatever of it has finished.

Seeds are not patients: a patient's value under a system is its mean over the seeds, and intervals
and tests are over patients. They do not hold the spread from seed to seed, which stands beside.
"""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
from matplotlib.figure import Figure

from crlm_jax.config import notices
from crlm_jax.config.schema import Config, ConfigError
from crlm_jax.measures import overlap
from crlm_jax.measures.view import CaseView
from crlm_jax.report import figures, viewer
from crlm_jax.report.tables import by_patient, compared_rows, format_mean
from crlm_jax.runs.finished import FinishedRun, read_finished
from crlm_jax.stats import comparison
from crlm_jax.study import figures as study_figures
from crlm_jax.study import paper_results
from crlm_jax.system.files import own_names, write_whole
from crlm_jax.system.text import to_csv, to_markdown

HEADER = ("experiment", "system", "condition", "seeds", "n", "DSC", "IoU", "recall", "precision",
          "F1", "DSC of the seeds")  # fmt: skip
PAIRED = ("experiment", "system", "condition", "n", "difference in DSC", "p (Wilcoxon)", "p (Holm)")
EFFECTS = ("experiment", "condition", "stage", "n", "difference in DSC", "p (Wilcoxon)", "p (Holm)")
_STAGES = re.compile(r"stages_(\d+)|unetpp")

Systems = dict[str, list[FinishedRun]]  # by name, the finished runs of all seeds


class _StudyRun(Protocol):
    name: str
    config: Config
    folder: Path

    @property
    def state(self) -> str: ...


def collect(runs: Sequence[_StudyRun]) -> dict[str, Systems]:
    """Reads the finished runs: by experiment and system, in the order of the study."""
    found: dict[str, Systems] = {}
    for run in runs:
        experiment, system, _ = run.name.split("/")
        seeds = found.setdefault(experiment, {}).setdefault(system, [])
        if run.state == "finished":
            seeds.append(read_finished(run.folder))
    return {
        experiment: {system: seeds for system, seeds in systems.items() if seeds}
        for experiment, systems in found.items()
    }


def _conditions(systems: Systems) -> list[str]:
    return list(
        dict.fromkeys(c for runs in systems.values() for c in runs[0].summary["conditions"])
    )


def result_rows(found: Mapping[str, Systems], *, paper: bool = False) -> list[list[str]]:
    """The paper's table under `HEADER`: its protocol, mean over patients with the 95 % interval.

    `paper` puts the paper's own rows below ours, of the same experiment and condition.
    """
    rows = []
    for experiment, systems in found.items():
        for condition in _conditions(systems):
            for system, runs in systems.items():
                if condition in runs[0].summary["conditions"]:
                    rows.append([experiment, system, condition, *_result_cells(runs, condition)])
            if paper and (theirs := paper_results.row(experiment, condition)):
                rows.append(theirs)
    return rows


def _result_cells(runs: Sequence[FinishedRun], condition: str) -> list[str]:
    """Number of seeds and of patients, the metrics, and the DSC of each seed."""
    means = [
        comparison.bootstrap_mean([*by_patient(runs, condition, f"{metric}_paper").values()])
        for metric in overlap.OVERLAP
    ]
    each = [run.summary["conditions"][condition]["dsc_paper"]["mean"] for run in runs]
    spread = ", ".join("–" if x is None else f"{x:.2f}" for x in each)
    return [str(len(runs)), str(means[0]["n"]), *map(format_mean, means), spread]


def paired_rows(found: Mapping[str, Systems]) -> list[list[str]]:
    """Every system less the first of its experiment, patient by patient, under `PAIRED`."""
    compared = []
    for experiment, systems in found.items():
        for condition in _conditions(systems):
            values = {s: by_patient(runs, condition, "dsc_paper") for s, runs in systems.items()}
            reference = next(iter(values.values()), {})
            for system, ours in list(values.items())[1:]:
                difference = comparison.paired_difference(ours, reference)
                compared.append(([experiment, system, condition], difference))
    return compared_rows(compared)


def effect_rows(found: Mapping[str, Systems]) -> list[list[str]]:
    """What each stage adds, under `EFFECTS`: the mean over all pairs of subsets that differ by it.

    Only pairs of which both have finished count; where there is none, the stage has no row.
    """
    compared = []
    for experiment, systems in found.items():
        subsets = stage_subsets(systems)
        for condition in _conditions(systems):
            values = {
                stages: by_patient(systems[system], condition, "dsc_paper")
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
    """The systems that are named by their stages; empty where these are not of a stage study."""
    found = {}
    for system in systems:
        if match := _STAGES.fullmatch(system):
            found[frozenset(map(int, match[1] or ""))] = system
    return found if len(found) > 1 else {}


def _mean_of(values: Sequence[Mapping[str, float]]) -> dict[str, float]:
    patients = set.intersection(*(set(each) for each in values))
    return {p: float(np.mean([each[p] for each in values])) for p in sorted(patients)}


def median_case(systems: Systems, condition: str) -> list[tuple[str, CaseView]]:
    """The same case under every system (its first seed), for the picture of contours.

    It is the median case of the first system by the paper's DSC, so that nobody chooses it.
    """
    first = next(iter(systems.values()))[0]
    ranked = sorted(
        (float(row["dsc_paper"]), row["patient"])
        for row in first.rows
        if row["condition"] == condition and row["dsc_paper"]
    )
    if not ranked:
        return []
    patient = ranked[(len(ranked) - 1) // 2][1]
    shown = []
    for system, runs in systems.items():
        for row, files in runs[0].cases():
            if (row["patient"], row["condition"]) == (patient, condition):
                shown.append((system, CaseView.load(files[0])))
    return shown


def write(runs: Sequence[_StudyRun], workdir: Path, *, paper: bool = False) -> Path:
    """Writes `tables.html`, `tables.md`, `tables.csv` and `figures/` of a study.

    Args:
      runs: of the study, finished or not.
      workdir: of the study.
      paper: the data are the paper's own, so its numbers may stand beside ours.

    Returns:
      The path of `tables.html`.

    Raises:
      ConfigError: `paper`, but a run is on the phantom.
    """
    if paper:
        check_paper_data(runs)
    found = collect(runs)
    tables = [
        ("Results by the paper's protocol", HEADER, result_rows(found, paper=paper)),
        ("Compared with the first system of the experiment", PAIRED, paired_rows(found)),
        ("What each stage adds", EFFECTS, effect_rows(found)),
    ]
    tables = [table for table in tables if table[2]]
    finished = [run for seeds in found.values() for each in seeds.values() for run in each]
    missing = [(run.name, run.state) for run in runs if run.state != "finished"]
    warnings = list(dict.fromkeys(w for run in finished for w in notices.warnings(run.config)))
    mark = " ".join(dict.fromkeys(m for run in finished for m in notices.marks(run.config)))
    (workdir / "figures").mkdir(parents=True, exist_ok=True)
    pictures = []
    for name, figure in _pictures(found, mark):
        (file,) = own_names([name])
        pictures.append((name, figures.embed(figure, workdir / "figures" / f"{file}.png")))
    html = viewer.templates("crlm_jax.study").get_template("study.html").render(
        title=workdir.resolve().name, warnings=warnings, tables=tables, missing=missing,
        pictures=pictures, runs=len(runs), small=comparison.SMALL,
    )  # fmt: skip
    write_whole(workdir / "tables.md", _markdown(tables, warnings, missing))
    sheet = (row for title, header, rows in tables for row in ([title], header, *rows, []))
    write_whole(workdir / "tables.csv", to_csv(sheet))
    write_whole(workdir / "tables.html", html)
    return workdir / "tables.html"


def check_paper_data(runs: Sequence[_StudyRun]) -> None:
    """Raises ConfigError where a run is on the phantom, which is not the paper's data."""
    if wrong := [run.name for run in runs if run.config.data.cohort == "phantom"]:
        raise ConfigError(f"--paper-data: {wrong[0]} is on the phantom, not on the paper's data")


def _pictures(found: Mapping[str, Systems], mark: str) -> Iterator[tuple[str, Figure]]:
    """Yields the subsets of stages, an experiment and condition each, and the contours of all."""
    shown = {}
    for experiment, systems in found.items():
        for condition in _conditions(systems):
            name = f"{experiment}_{condition}"
            subsets = stage_subsets(systems)
            if subsets:
                means = {
                    stages: comparison.bootstrap_mean(
                        [*by_patient(systems[system], condition, "dsc_paper").values()]
                    )
                    for stages, system in subsets.items()
                }
                yield f"stages_{name}", study_figures.upset(means, f"{mark} {condition}".strip())
            if cases := median_case(systems, condition):
                shown[experiment, condition] = cases
    if shown:
        yield "contours", study_figures.contours(shown, mark)


def _markdown(tables: Sequence[tuple], warnings: Sequence[str], missing: Sequence[tuple]) -> str:
    lines = [f"**{warning}**\n" for warning in warnings]
    for title, header, rows in tables:
        lines += [f"## {title}\n", to_markdown(header, rows), ""]
    if missing:
        lines += ["## Missing\n", *(f"- {name}: {state}" for name, state in missing), ""]
    return "\n".join(lines)
