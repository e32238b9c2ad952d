"""Writes a study's `tables.html`, `tables.md`, `tables.csv`, `cases.csv` and pictures."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from matplotlib.figure import Figure

from crlm_jax.config import notices
from crlm_jax.config.schema import ConfigError
from crlm_jax.measures.view import CaseView
from crlm_jax.report.html import embed, templates
from crlm_jax.stats.crossed import LEAST_RUNS
from crlm_jax.study import figures, lesion_tables, tables
from crlm_jax.study.runs import StudyRun
from crlm_jax.study.seeds import Systems, case_rows, collect
from crlm_jax.system.files import own_names, write_whole
from crlm_jax.system.text import to_csv, to_markdown

Table = tuple[str, Sequence[str], Sequence[Sequence[str]]]  # title, header and rows


def write_tables(runs: Sequence[StudyRun], workdir: Path, *, paper: bool = False) -> Path:
    """Writes the tables and pictures of a study, from whatever of it has finished.

    Args:
      runs: of the study, finished or not.
      workdir: of the study.
      paper: whether the data are the paper's own, so that its numbers may stand beside ours.

    Returns:
      The path of `tables.html`.

    Raises:
      ConfigError: `paper`, but a run is on the phantom.
    """
    if paper:
        check_paper_data(runs)
    found, left_out = collect(runs)
    all_tables: list[Table] = [
        ("Results by the paper's protocol", tables.HEADER, tables.result_rows(found, paper=paper)),
        (
            "Compared with the first system of the experiment",
            tables.PAIRED,
            tables.paired_rows(found),
        ),
        ("What each stage adds", tables.EFFECTS, tables.effect_rows(found)),
        ("Lesions", lesion_tables.LESIONS, lesion_tables.lesion_rows(found)),
        (
            "Lesions found with few false ones, at the best threshold",
            lesion_tables.CURVES,
            lesion_tables.curve_rows(found),
        ),
    ]
    filled = [table for table in all_tables if table[2]]
    seeds = [seed for systems in found.values() for each in systems.values() for seed in each]
    finished = [run for seed in seeds for run in seed.runs]
    missing = [(run.name, run.state) for run in runs if run.state != "finished"]
    warnings = list(dict.fromkeys(w for run in finished for w in notices.warnings(run.config)))
    mark = " ".join(dict.fromkeys(m for run in finished for m in notices.marks(run.config)))
    (workdir / "figures").mkdir(parents=True, exist_ok=True)
    pictures = []
    for name, figure in _pictures(found, mark):
        (file,) = own_names([name])
        pictures.append((name, embed(figure, workdir / "figures" / f"{file}.png")))
    html = templates("crlm_jax.study").get_template("study.html").render(
        title=workdir.resolve().name, warnings=warnings, tables=filled, missing=missing,
        pictures=pictures, runs=len(runs), least=LEAST_RUNS, left_out=left_out,
    )  # fmt: skip
    write_whole(workdir / "tables.md", _markdown(filled, warnings, missing, left_out))
    sheet = (row for title, header, rows in filled for row in ([title], header, *rows, []))
    write_whole(workdir / "tables.csv", to_csv(sheet))
    write_whole(workdir / "cases.csv", to_csv(case_rows(found)))
    write_whole(workdir / "tables.html", html)
    return workdir / "tables.html"


def check_paper_data(runs: Sequence[StudyRun]) -> None:
    """Raises ConfigError if a run is on the phantom, which is not the paper's data."""
    if wrong := [run.name for run in runs if notices.is_phantom(run.config)]:
        raise ConfigError(f"--paper-data: {wrong[0]} is on the phantom, not on the paper's data")


def median_case(systems: Systems, condition: str) -> list[tuple[str, CaseView]]:
    """Returns the same case under every system (its first seed), for the picture of contours.

    It is the median case, by the paper's DSC, of the first system that has finished a seed, so that
    nobody chooses it.
    """
    systems = {system: seeds for system, seeds in systems.items() if seeds}
    if not systems:
        return []
    first = next(iter(systems.values()))[0]
    ranked = sorted(
        (dsc, row.patient)
        for row in first.rows
        if row.condition == condition and (dsc := row.measures["dsc_paper"]) is not None
    )
    if not ranked:
        return []
    patient = ranked[(len(ranked) - 1) // 2][1]
    shown = []
    for system, runs in systems.items():
        for row, files in (case for run in runs[0].runs for case in run.cases()):
            if (row.patient, row.condition) == (patient, condition):
                shown.append((system, CaseView.load(files[0])))
    return shown


def _pictures(found: Mapping[str, Systems], mark: str) -> Iterator[tuple[str, Figure]]:
    """Yields the subsets of stages of each experiment and condition, then the contours of all."""
    shown = {}
    for experiment, systems in found.items():
        for condition in tables.conditions_of(systems):
            name = f"{experiment}_{condition}"
            subsets = tables.stage_subsets(systems)
            if subsets:
                means = {
                    stages: tables.mean_of(
                        tables.values_by_run(systems[system], condition, "dsc_paper")
                    )
                    for stages, system in subsets.items()
                    if systems[system]
                }
                yield f"stages_{name}", figures.upset(means, f"{mark} {condition}".strip())
            if compared := tables.run_differences(systems, condition):
                title = f"{mark} {experiment}, {condition}, against {next(iter(systems))}".strip()
                yield f"differences_{name}", figures.differences(compared, title)
            if cases := median_case(systems, condition):
                shown[experiment, condition] = cases
    if shown:
        yield "contours", figures.contours(shown, mark)


def _markdown(
    filled: Sequence[Table],
    warnings: Sequence[str],
    missing: Sequence[tuple[str, str]],
    left_out: Sequence[str],
) -> str:
    lines = [f"**{warning}**\n" for warning in warnings]
    for title, header, rows in filled:
        lines += [f"## {title}\n", to_markdown(header, rows), ""]
    if missing:
        lines += ["## Missing\n", *(f"- {name}: {state}" for name, state in missing), ""]
    if left_out:
        lines += ["## Left out\n", *(f"- {line}" for line in left_out), ""]
    return "\n".join(lines)
