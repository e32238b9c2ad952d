"""Writes `report.html` of one run, or of several side by side: one file that works offline.

Everything that a report shows is in the folders of its runs. Of several runs, the first is the one
that the others are compared with.
"""

import dataclasses
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from crlm_jax.config.schema import Config, flatten
from crlm_jax.imaging.lesions import DISCLAIMER
from crlm_jax.measures import calibration, detection
from crlm_jax.measures import result_tables as tables
from crlm_jax.measures.table import SHORT
from crlm_jax.measures.view import CaseView
from crlm_jax.report import figures
from crlm_jax.report.html import embed, embed_file, templates
from crlm_jax.report.probability import ProbabilitySection, sections
from crlm_jax.report.viewer import render
from crlm_jax.runs.finished import FinishedRun, name_apart, read_finished
from crlm_jax.runs.results import Card, Summary
from crlm_jax.runs.rows import CaseRow
from crlm_jax.stats import comparison
from crlm_jax.system.files import locate, own_names, write_whole

VIEWED = 1e8  # voxels in the viewer, some 60 MB of HTML


def write_report(folders: Sequence[Path], out: Path, voxels: float = VIEWED) -> Path:
    """Writes the report of one run or of several.

    The figures of a single run are also written as PNG, if the report goes into the run's folder.

    Args:
      folders: of the runs.
      out: path of the HTML file.
      voxels: most that the viewer shows, over all cases; the worst cases come first.

    Raises:
      ConfigError: a folder holds no finished run.
    """
    runs = name_apart([read_finished(locate(folder)) for folder in folders])
    out = locate(out)
    alone = runs[0] if len(runs) == 1 else None
    keep = alone.folder.figures if alone and out.parent == alone.folder.path else None
    if keep:
        keep.mkdir(exist_ok=True)
    views, left_out = _views(runs, voxels)
    template = templates("crlm_jax.report").get_template("report.html")
    html = template.render(
        runs=[_describe(run, keep) for run in runs],
        alone=alone is not None,
        title=alone.title if alone else f"{len(runs)} runs",
        warnings=_warnings(runs),
        sizes=_sizes(runs),
        header=tables.HEADER,
        pooled=SHORT["paper"],
        clinical_header=tables.CLINICAL_HEADER,
        size_header=tables.SIZE_HEADER,
        comparison_header=tables.COMPARISON_HEADER,
        comparison=[] if alone else tables.comparison_rows(runs),
        not_compared=tables.not_compared(runs),
        small=comparison.SMALL,
        match_iou=detection.MATCH_IOU,
        bins=calibration.BINS,
        distribution=_distribution(runs, keep),
        viewer=render(views),
        left_out=left_out,
        disclaimer=DISCLAIMER,
    )
    write_whole(out, html)
    return out


def _warnings(runs: Sequence[FinishedRun]) -> list[str]:
    """Returns what stands at the head; that which does not hold for all runs says of which."""
    notes = dict.fromkeys(note for run in runs for note in run.warnings)
    said = []
    for note in notes:
        of = [run.name for run in runs if note in run.warnings]
        said.append(note if len(of) == len(runs) else f"{', '.join(of)}: {note}")
    return said


def _sizes(runs: Sequence[FinishedRun]) -> str:
    """Returns the size of the slices by the paper's protocol, of each run where they differ."""
    sizes = [f"{run.config.data.image_size} × {run.config.data.image_size}" for run in runs]
    if len(set(sizes)) == 1:
        return f"{sizes[0]} pixels"
    each = (f"{run.name} {size}" for run, size in zip(runs, sizes, strict=True))
    return f"the size of each network ({', '.join(each)} pixels)"


def _views(runs: Sequence[FinishedRun], voxels: float) -> tuple[Iterator[CaseView], int]:
    """Returns the cases for the viewer, worst first, and how many are left out.

    Cases are left out once more than `voxels` would be shown, but never the first. With several
    runs, a case's title begins with the name of its run.
    """
    found = sorted(
        (row.defined("dsc"), i, file)
        for i, run in enumerate(runs)
        for row, files in run.cases()
        for file in files
    )
    chosen = 0
    for _, _, file in found:
        voxels -= CaseView.count_voxels(file)
        if voxels < 0 and chosen:
            break
        chosen += 1

    def load() -> Iterator[CaseView]:
        for _, i, file in found[:chosen]:
            view = CaseView.load(file)
            title = view.title if len(runs) == 1 else f"{runs[i].name} · {view.title}"
            marked = " · ".join([*runs[i].marks, title])
            yield dataclasses.replace(view, title=marked)

    return load(), len(found) - chosen


@dataclass(frozen=True)
class _RunSection:
    """What the template shows of one run. Figures are data URLs."""

    name: str
    about: str
    config: Config
    summary: Summary
    card: Card
    rows: list[list[str]]
    clinical: list[list[str]]
    sizes: list[list[str]]
    flow: dict[str, dict[str, Any]]  # patients and slices by split
    probability: list[ProbabilitySection]  # by condition; empty: only masks are known
    agreement: dict[str, str]  # Bland-Altman plots by condition
    curves: str  # empty: nothing was trained in the folder
    channels: str  # how sequences lie over each other; empty: one is seen at a time
    overlays: list["_Overlay"]
    folds: bool  # whether the patients were tested by the networks of several folds
    fields: dict[str, Any]  # the whole configuration; of masks, what counts for them


@dataclass(frozen=True)
class _Overlay:
    """A case shown by its key slice."""

    role: str  # such as "worst" or "median, best"
    row: CaseRow
    z: int  # the slice, counted from 1
    image: str  # data URL


def _describe(run: FinishedRun, keep: Path | None) -> _RunSection:
    mark = " ".join(run.marks)
    return _RunSection(
        name=run.name,
        about=run.about,
        config=run.config,
        summary=run.summary,
        card=run.card,
        rows=tables.result_rows(run.summary),
        clinical=tables.clinical_rows(run.summary),
        sizes=tables.size_rows(run.summary),
        flow=run.splits,
        probability=sections(run, keep),
        agreement=_agreement(run, keep),
        curves=""
        if run.evaluation
        else embed(figures.training(run.log, mark), keep and keep / "training.png"),
        channels=embed_file(run.folder.channels),
        overlays=_overlays(run, keep),
        folds=run.evaluation is not None and run.evaluation.of == "folds",
        fields=_fields(run),
    )


def _fields(run: FinishedRun) -> dict[str, Any]:
    """Returns the configuration's fields; those of a training mean nothing for masks."""
    fields = flatten(run.config)
    if run.evaluation is None or run.evaluation.of != "masks":
        return fields
    return {name: fields[name] for name in _OF_MASKS}


_OF_MASKS = (
    "data.cohort", "data.conditions", "data.image_size", "data.antialias", "data.ct_window",
    "data.mr_window", "data.resample_masks", "evaluation.resamples", "evaluation.register",
)  # fmt: skip


def _agreement(run: FinishedRun, keep: Path | None) -> dict[str, str]:
    """Draws the Bland-Altman plots of every condition that has cases enough for limits."""
    mark = " ".join(run.marks)
    agreement = {
        condition: values.agreement
        for condition, values in run.summary.conditions.items()
        if values.agreement["volume"]["sd"] is not None
    }
    names = own_names(f"agreement_{condition}" for condition in agreement)
    return {
        condition: embed(
            figures.bland_altman(values, " · ".join(filter(None, (mark, condition)))),
            keep and keep / f"{name}.png",
        )
        for name, (condition, values) in zip(names, agreement.items(), strict=True)
    }


def _distribution(runs: Sequence[FinishedRun], keep: Path | None) -> str:
    groups = {
        condition if len(runs) == 1 else f"{run.name} {condition}": [
            row for row in run.rows if row.condition == condition
        ]
        for run in runs
        for condition in run.summary.conditions
    }
    mark = " ".join(dict.fromkeys(mark for run in runs for mark in run.marks))
    return embed(figures.distributions(groups, mark), keep and keep / "distribution.png")


def _overlays(run: FinishedRun, keep: Path | None) -> list[_Overlay]:
    """Draws the worst, the median and the best case of each condition, by the paper's DSC."""
    cases = run.cases()
    keys = [(row.condition, row.patient) for row, _ in cases]
    names = dict(zip(keys, own_names(map("_".join, keys)), strict=True))
    shown = []
    for condition in run.summary.conditions:
        ranked = sorted(
            (
                (dsc, i)
                for i, (row, _) in enumerate(cases)
                if row.condition == condition and (dsc := row.measures["dsc_paper"]) is not None
            )
        )
        for place, role in _roles(len(ranked)).items():
            row, files = cases[ranked[place][1]]
            path = keep and keep / f"{names[condition, row.patient]}.png"
            shown.append(_overlay(run, row, files, role, path))
    return shown


def _roles(count: int) -> dict[int, str]:
    """Returns which of the ranked cases are shown, and as what; one case may have several roles."""
    if not count:
        return {}
    roles: dict[int, str] = {}
    for role, place in (("worst", 0), ("median", (count - 1) // 2), ("best", count - 1)):
        roles[place] = f"{roles[place]}, {role}" if place in roles else role
    return roles


def _overlay(
    run: FinishedRun, row: CaseRow, files: Sequence[Path], role: str, path: Path | None
) -> _Overlay:
    """Draws the key slice of a case's image with most tumour in its key slice."""
    view = max(map(CaseView.load, files), key=_tumour)
    title = (
        *run.marks, row.patient, row.condition,
        f"slice {view.first_slice + 1} of {len(view.grey)}",
        f"DSC {row.defined('dsc_paper'):.2f} (paper, pooled), {row.defined('dsc'):.2f} (clinical)",
    )  # fmt: skip
    picture = figures.key_slice(view, " · ".join(title))
    return _Overlay(role, row, view.first_slice + 1, embed(picture, path))


def _tumour(view: CaseView) -> int:
    """Counts the pixels of the reference in the key slice."""
    reference = next(layer.voxels for layer in view.layers if layer.kind == "reference")
    return int(reference[view.first_slice].sum())
