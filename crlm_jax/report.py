"""`report.html` of a run, or of several side by side: one file that works offline.

    python -m crlm_jax.report runs/cross_pre
    python -m crlm_jax.report runs/crlm_gan runs/unetpp --out comparison.html

All that it shows is in the folders of the runs; the first of several is what the others are
compared with.
"""

import argparse
import base64
import csv
import dataclasses
import io
import json
import math
import sys
from collections.abc import Iterator, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from crlm_jax import figures, metrics, overlay, recist, stats
from crlm_jax.commands import printable
from crlm_jax.config import Config, ConfigError, flatten, read_run
from crlm_jax.files import locate, own_names, write_whole
from crlm_jax.log import read_log
from crlm_jax.viewer import CaseView, render, templates

HEADER = ("condition", "protocol", "n", "DSC", "IoU", "recall", "precision", "F1")
CLINICAL = {  # metric: what stands above its column
    "hd95": "HD95 mm",
    "assd": "ASSD mm",
    "nsd_2mm": "surface Dice 2 mm",
    "nsd_voxel": "surface Dice 1 voxel",
    "lesion_sensitivity": "lesion sensitivity",
    "lesion_precision": "lesion precision",
    "false_positives": "false lesions a case",
    "volume_error_relative": "volume error",
}
VIEWED = 1e8  # voxels in the viewer, some 60 MB of HTML
_SIZES = {"lt10": "< 10 mm", "10to20": "10–20 mm", "gt20": "> 20 mm"}
_COMPARED = {"dsc_paper": "DSC (paper)", "dsc": "DSC (clinical)", "nsd_2mm": "surface Dice 2 mm"}


@dataclasses.dataclass(frozen=True)
class Run:
    """A finished run, read from its folder."""

    folder: Path
    config: Config
    summary: dict[str, Any]  # results.json
    rows: list[dict[str, str]]  # cases.csv
    data: dict[str, Any]  # data.json
    log: list[dict[str, Any]]  # train.jsonl

    @property
    def name(self) -> str:
        """Of its folder."""
        return self.folder.resolve().name

    def cases(self) -> list[tuple[dict[str, str], list[Path]]]:
        """Every row with the viewer's files of the case; empty where there are no files."""
        files = sorted((self.folder / "views").glob("*.npz"))
        views = [list(group) for _, group in groupby(files, key=lambda file: file.name[:4])]
        return list(zip(self.rows, views, strict=True)) if views else []


def read(folder: Path) -> Run:
    """Reads a finished run.

    Raises:
      ConfigError: the folder holds no run, or one that is not finished.
    """
    config = read_run(folder)
    texts = {}
    for name in ("results.json", "cases.csv", "data.json"):
        if not (folder / name).exists():
            raise ConfigError(
                f"{folder / name}: missing, so this run is not finished; start it again with the "
                "same command, and it goes on"
            )
        texts[name] = (folder / name).read_text(encoding="utf-8")
    summary, data = json.loads(texts["results.json"]), json.loads(texts["data.json"])
    rows = list(csv.DictReader(io.StringIO(texts["cases.csv"])))
    if "card" not in summary:
        raise ConfigError(
            f"{folder / 'results.json'}: of an earlier version of crlm_jax; delete report.html in "
            "the run and start it again with the same command, and its cases are measured anew"
        )
    return Run(folder, config, summary, rows, data, read_log(folder / "train.jsonl"))


def warnings(config: Config) -> list[str]:
    """What a reader must know before any number: phantom data, random critic weights."""
    notes = []
    if config.data.cohort == "phantom":
        notes.append("PHANTOM: digital images, not patients; no number here holds for patients.")
    resnet = config.loss.stages and config.critic.name == "resnet50"
    if resnet and config.critic.weights == "random":
        notes.append("RANDOM CRITIC: the ResNet-50 has random weights, not ImageNet's.")
    if config.segmenter.name == "transunet" and config.transunet.weights == "random":
        notes.append(
            "RANDOM TRANSFORMER: TransUNet starts from random weights, not ImageNet-21k's."
        )
    return notes


def marks(config: Config) -> list[str]:
    """What must stand on every picture of a run."""
    return ["phantom"] if config.data.cohort == "phantom" else []


def format_mean(value: dict[str, Any]) -> str:
    """Writes a mean with its interval, as `0.81 (0.76–0.85)`; `–` where there is none.

    An interval of few patients, which means little, is marked `*`.
    """
    if value["mean"] is None:
        return "–"
    mean, low, high = (
        "" if value[name] is None else f"{value[name]:.2f}".replace("-", "−")
        for name in ("mean", "ci_low", "ci_high")
    )
    if not low:
        return mean
    between = " to " if "−" in low else "–"
    return f"{mean} ({low}{between}{high})" + ("*" if value.get("small") else "")


def result_rows(summary: dict[str, Any]) -> list[list[str]]:
    """Returns the table of results: condition, protocol, n, then the metrics with their CIs."""
    rows = []
    for condition, values in summary["conditions"].items():
        for protocol, suffix in (("paper", "_paper"), ("clinical", "")):
            cells = [format_mean(values[name + suffix]) for name in metrics.OVERLAP]
            rows.append([condition, protocol, str(values["dsc" + suffix]["n"]), *cells])
    return rows


def clinical_rows(summary: dict[str, Any]) -> list[list[str]]:
    """Returns the table of surfaces, lesions and volumes: condition, n, then `CLINICAL`."""
    return [
        [condition, str(values["hd95"]["n"]), *(format_mean(values[name]) for name in CLINICAL)]
        for condition, values in summary["conditions"].items()
    ]


def size_rows(summary: dict[str, Any]) -> list[list[str]]:
    """Returns how many reference lesions were found: condition, all, then by diameter."""

    def share(found: int, there: int) -> str:
        return f"{found} of {there}" + (f" ({found / there:.0%})" if there else "")

    rows = []
    for condition, values in summary["conditions"].items():
        sums = values["sums"]
        cells = [share(sums["lesions_found"], sums["lesions_reference"])]
        cells += [share(sums[f"found_{size}"], sums[f"lesions_{size}"]) for size in _SIZES]
        rows.append([condition, *cells, str(sums["false_positives"])])
    return rows


def comparison_rows(runs: Sequence[Run]) -> list[list[str]]:
    """Compares every run with the first, patient by patient.

    Returns:
      run, condition, metric, n, mean difference with its interval, p of the Wilcoxon signed-rank
      test, and p by Holm's correction over all rows.
    """
    first, *others = runs
    found = []
    for run in others:
        for condition in run.summary["conditions"]:
            for metric, label in _COMPARED.items():
                ours, reference = (by_patient([r], condition, metric) for r in (run, first))
                difference = stats.paired_difference(
                    ours, reference, run.config.evaluation.resamples
                )
                found.append(([run.name, condition, label], difference))
    return compared_rows(found)


def compared_rows(found: Sequence[tuple[list[str], dict[str, Any]]]) -> list[list[str]]:
    """Writes `stats.paired_difference`s as rows, each after its names; those without a patient go.

    Returns:
      The names, n, mean difference with its interval, p, and p by Holm's correction over all rows.
    """
    found = [(names, difference) for names, difference in found if difference["n"]]
    adjusted = stats.holm([difference["p"] for _, difference in found])
    return [
        [*names, str(d["n"]), format_mean(d), f"{d['p']:.3f}", f"{p:.3f}"]
        for (names, d), p in zip(found, adjusted, strict=True)
    ]


def by_patient(runs: Sequence[Run], condition: str, metric: str) -> dict[str, float]:
    """A metric of every patient under a condition, the mean over the runs that have it."""
    values: dict[str, list[float]] = {}
    for run in runs:
        for row in run.rows:
            if row["condition"] == condition and row[metric]:
                values.setdefault(row["patient"], []).append(float(row[metric]))
    return {patient: float(np.mean(each)) for patient, each in values.items()}


def write_report(folders: Sequence[Path], out: Path, voxels: float = VIEWED) -> Path:
    """Writes the report of one run or of several, and the figures of a single one.

    Args:
      folders: of the runs.
      voxels: how many the viewer shows at most, over all cases; the worst cases come first.
      out: path of the HTML file; beside `report.html` of a single run its `figures/` are written.

    Raises:
      ConfigError: a folder holds no finished run.
    """
    runs = [read(locate(folder)) for folder in folders]
    out = locate(out)
    alone = runs[0] if len(runs) == 1 else None
    keep = out.parent / "figures" if alone and out.parent == alone.folder else None
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
        size_header=("condition", "found", *_SIZES.values(), "false"),
        comparison=comparison_rows(runs) if not alone else [],
        small=stats.SMALL,
        match_iou=metrics.MATCH_IOU,
        distribution=_distribution(runs, keep),
        viewer=render(views),
        left_out=left_out,
        disclaimer=recist.DISCLAIMER,
    )
    write_whole(out, html)
    return out


def _views(runs: Sequence[Run], voxels: float) -> tuple[Iterator[CaseView], int]:
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


def _describe(run: Run, keep: Path | None) -> dict[str, Any]:
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


def _distribution(runs: Sequence[Run], keep: Path | None) -> str:
    groups = {
        condition if len(runs) == 1 else f"{run.name} {condition}": [
            row for row in run.rows if row["condition"] == condition
        ]
        for run in runs
        for condition in run.summary["conditions"]
    }
    mark = " ".join(dict.fromkeys(mark for run in runs for mark in marks(run.config)))
    return embed(figures.distributions(groups, mark), keep and keep / "distribution.png")


def _overlays(run: Run, keep: Path | None) -> list[dict[str, Any]]:
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


def embed(figure: Figure, path: Path | None) -> str:
    """Returns a figure as a data URL, and keeps it as a PNG where there is a path."""
    png = overlay.to_png(figure)
    if path:
        write_whole(path, png)
    return "data:image/png;base64," + base64.b64encode(png).decode()


def main(argv: list[str] | None = None) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(
        prog="python -m crlm_jax.report", description="Write the report of one run or of several."
    )
    parser.add_argument("run", type=Path, nargs="+", help="folder of a finished run")
    parser.add_argument("--out", type=Path, help="HTML file (default: report.html of the run)")
    parser.add_argument(
        "--all-cases", action="store_true", help="in the viewer too, however large the file becomes"
    )
    args = parser.parse_args(argv)
    if args.out is None and len(args.run) > 1:
        parser.error("several runs: name the file with --out, such as --out comparison.html")
    try:
        out = args.out or args.run[0] / "report.html"
        print(write_report(args.run, out, math.inf if args.all_cases else VIEWED))
    except (ConfigError, OSError, ValueError) as error:
        sys.exit(f"error: {printable(str(error))}")


if __name__ == "__main__":
    main()
