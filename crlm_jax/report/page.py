"""`report.html` of a run, or of several side by side: one file that works offline.

    python -m crlm_jax.report runs/cross_pre
    python -m crlm_jax.report runs/crlm_gan runs/unetpp --out comparison.html

All that it shows is in the folders of the runs; the first of several is what the others are
compared with.
"""

import dataclasses
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from crlm_jax.config.notices import marks, warnings
from crlm_jax.config.schema import flatten
from crlm_jax.measures import detection
from crlm_jax.measures.view import CaseView
from crlm_jax.recist import rules
from crlm_jax.report import figures
from crlm_jax.report.figures import embed
from crlm_jax.report.tables import (
    CLINICAL,
    HEADER,
    SIZES,
    clinical_rows,
    comparison_rows,
    result_rows,
    size_rows,
)
from crlm_jax.report.viewer import render, templates
from crlm_jax.runs.finished import FinishedRun, read_finished
from crlm_jax.stats import comparison
from crlm_jax.system.files import locate, own_names, write_whole

VIEWED = 1e8  # voxels in the viewer, some 60 MB of HTML


def write_report(folders: Sequence[Path], out: Path, voxels: float = VIEWED) -> Path:
    """Writes the report of one run or of several, and the figures of a single one.

    Args:
      folders: of the runs.
      voxels: how many the viewer shows at most, over all cases; the worst cases come first.
      out: path of the HTML file; beside `report.html` of a single run its `figures/` are written.

    Raises:
      ConfigError: a folder holds no finished run.
    """
    runs = [read_finished(locate(folder)) for folder in folders]
    out = locate(out)
    alone = runs[0] if len(runs) == 1 else None
    keep = alone.folder.figures if alone and out.parent == alone.folder.path else None
    if keep:
        keep.mkdir(exist_ok=True)
    views, left_out = _views(runs, voxels)
    template = templates().get_template("report.html")
    html = template.render(
        runs=[_describe(run, keep) for run in runs],
        alone=alone is not None,
        title=alone.config.name if alone else f"{len(runs)} runs",
        warnings=list(dict.fromkeys(note for run in runs for note in warnings(run.config))),
        header=HEADER,
        clinical_header=("condition", "n", *CLINICAL.values()),
        size_header=("condition", "found", *SIZES.values(), "false"),
        comparison=comparison_rows(runs) if not alone else [],
        small=comparison.SMALL,
        match_iou=detection.MATCH_IOU,
        distribution=_distribution(runs, keep),
        viewer=render(views),
        left_out=left_out,
        disclaimer=rules.DISCLAIMER,
    )
    write_whole(out, html)
    return out


def _views(runs: Sequence[FinishedRun], voxels: float) -> tuple[Iterator[CaseView], int]:
    """The cases of all runs, of several with the run's name, and how many are left out.

    The worst come first, as long as no more than `voxels` are shown, and one in any case.
    """
    found = sorted(
        (float(row["dsc"]), i, file)
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
            marked = " · ".join([*marks(runs[i].config), title])
            yield dataclasses.replace(view, title=marked)

    return load(), len(found) - chosen


def _describe(run: FinishedRun, keep: Path | None) -> dict[str, Any]:
    """What the template shows of one run."""
    mark = " ".join(marks(run.config))
    agreement = {
        condition: values["agreement"]
        for condition, values in run.summary["conditions"].items()
        if values["agreement"]["volume"]["sd"] is not None
    }
    names = own_names(f"agreement_{condition}" for condition in agreement)
    return {
        "name": run.name,
        "config": run.config,
        "summary": run.summary,
        "rows": result_rows(run.summary),
        "clinical": clinical_rows(run.summary),
        "sizes": size_rows(run.summary),
        "flow": {name: split for name, split in run.data.items() if name != "digest"},
        "agreement": {
            condition: embed(
                figures.bland_altman(values, " · ".join(filter(None, (mark, condition)))),
                keep and keep / f"{name}.png",
            )
            for name, (condition, values) in zip(names, agreement.items(), strict=True)
        },
        "curves": embed(figures.training(run.log, mark), keep and keep / "training.png"),
        "overlays": _overlays(run, keep),
        "fields": flatten(run.config),
    }


def _distribution(runs: Sequence[FinishedRun], keep: Path | None) -> str:
    groups = {
        condition if len(runs) == 1 else f"{run.name} {condition}": [
            row for row in run.rows if row["condition"] == condition
        ]
        for run in runs
        for condition in run.summary["conditions"]
    }
    mark = " ".join(dict.fromkeys(mark for run in runs for mark in marks(run.config)))
    return embed(figures.distributions(groups, mark), keep and keep / "distribution.png")


def _overlays(run: FinishedRun, keep: Path | None) -> list[dict[str, Any]]:
    """Per condition the worst, the median and the best case, by the paper protocol's DSC."""
    shown = []
    cases = run.cases()
    whose = [(row["condition"], row["patient"]) for row, _ in cases]
    names = dict(zip(whose, own_names(map("_".join, whose)), strict=True))
    for condition in run.summary["conditions"]:
        ranked = sorted(
            ((r, files) for r, files in cases if r["condition"] == condition and r["dsc_paper"]),
            key=lambda case: float(case[0]["dsc_paper"]),
        )
        picks = {"worst": 0, "median": (len(ranked) - 1) // 2, "best": len(ranked) - 1}
        roles: dict[int, str] = {}
        for role, i in picks.items():
            roles[i] = f"{roles[i]}, {role}" if i in roles else role
        for i, role in roles.items() if ranked else ():
            row, files = ranked[i]
            view = max(map(CaseView.load, files), key=_tumour)
            title = (
                *marks(run.config), row["patient"], condition,
                f"slice {view.first_slice + 1} of {len(view.grey)}",
                f"DSC {float(row['dsc_paper']):.2f} (paper), {float(row['dsc']):.2f} (clinical)",
            )  # fmt: skip
            picture = figures.key_slice(view, " · ".join(title))
            name = names[condition, row["patient"]]
            image = embed(picture, keep and keep / f"{name}.png")
            shown.append({"role": role, "row": row, "z": view.first_slice + 1, "image": image})
    return shown


def _tumour(view: CaseView) -> int:
    """Pixels of the reference in the key slice."""
    reference = next(layer.voxels for layer in view.layers if layer.kind == "reference")
    return int(reference[view.first_slice].sum())
