"""Figures and `report.html` of a run: one file that works offline."""

import base64
import re
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle

from crlm_jax import metrics, overlay
from crlm_jax.config import Config, flatten
from crlm_jax.evaluate import CaseResult, KeySlice
from crlm_jax.files import write_whole
from crlm_jax.log import read_log

HEADER = ("condition", "protocol", "n", "DSC", "IoU", "recall", "precision", "F1")
_TERMS = {
    "loss": "total loss",
    "bce": "BCE",
    "dice": "Dice loss",
    "feature": "feature distance",
    "validation_dsc": "validation DSC",
}


def warnings(config: Config) -> list[str]:
    """What a reader must know before any number: phantom data, random critic weights."""
    notes = []
    if config.data.cohort == "phantom":
        notes.append("PHANTOM: digital images, not patients; no number here holds for patients.")
    if config.loss.stages and config.critic.weights == "random":
        notes.append("RANDOM CRITIC: the ResNet-50 has random weights, not ImageNet's.")
    return notes


def marks(config: Config) -> list[str]:
    """What must stand on every picture of a run."""
    return ["phantom"] if config.data.cohort == "phantom" else []


def format_mean(value: dict[str, Any]) -> str:
    """Writes a mean with its interval, as `0.81 (0.76–0.85)`; `–` where there is none."""
    if value["mean"] is None:
        return "–"
    if value["ci_low"] is None:
        return f"{value['mean']:.2f}"
    return f"{value['mean']:.2f} ({value['ci_low']:.2f}–{value['ci_high']:.2f})"


def result_rows(summary: dict[str, Any]) -> list[list[str]]:
    """Returns the table of results: condition, protocol, n, then the metrics with their CIs."""
    rows = []
    for condition, values in summary["conditions"].items():
        for protocol, suffix in (("paper", "_paper"), ("clinical", "")):
            cells = [format_mean(values[name + suffix]) for name in metrics.OVERLAP]
            rows.append([condition, protocol, str(values["dsc" + suffix]["n"]), *cells])
    return rows


def write_report(
    config: Config,
    workdir: Path,
    card: list[tuple[str, str]],
    results: list[CaseResult],
    summary: dict[str, Any],
) -> Path:
    """Writes `figures/` and `report.html` of a run.

    Args:
      config: the experiment.
      workdir: the run; holds `train.jsonl`.
      card: lines of the run card, (name, text).
      results: of every test case.
      summary: from `evaluate.summarise`.

    Returns:
      The path of `report.html`.
    """
    figures = workdir / "figures"
    figures.mkdir(exist_ok=True)
    curves = _save(
        _training_curves(config, read_log(workdir / "train.jsonl")), figures / "training.png"
    )
    overlays = []
    for role, result in _shown_cases(config, results):
        name = re.sub(r"[^\w.-]", "_", f"{result.case.condition}_{result.case.patient}")
        image = _save(_key_slice(config, result), figures / f"{name}.png")
        overlays.append(
            {"role": role, "row": result.row(), "z": result.key_slice.z, "image": image}
        )
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("crlm_jax", "templates"), autoescape=True
    )
    html = environment.get_template("report.html").render(
        config=config,
        warnings=warnings(config),
        card=card,
        header=HEADER,
        rows=result_rows(summary),
        conditions=summary["conditions"],
        curves=curves,
        overlays=overlays,
        fields=flatten(config),
    )
    path = workdir / "report.html"
    write_whole(path, html)
    return path


def _shown_cases(config: Config, results: list[CaseResult]) -> list[tuple[str, CaseResult]]:
    """Per condition the worst, the median and the best case, by the paper protocol's DSC."""
    shown = []
    for condition in config.data.conditions:
        ranked = sorted(
            (r for r in results if r.case.condition == condition and r.tumour_slices),
            key=lambda r: r.row()["dsc_paper"],
        )
        if not ranked:
            continue
        picks = {"worst": 0, "median": (len(ranked) - 1) // 2, "best": len(ranked) - 1}
        seen: dict[int, str] = {}
        for role, i in picks.items():
            seen[i] = f"{seen[i]}, {role}" if i in seen else role
        shown += [(role, ranked[i]) for i, role in seen.items()]
    return shown


def _save(figure: Figure, path: Path) -> str:
    """Writes a PNG and returns it as a data URL."""
    return "data:image/png;base64," + base64.b64encode(overlay.save(figure, path)).decode()


def _training_curves(config: Config, log: list[dict[str, Any]]) -> Figure:
    figure = Figure(figsize=(9.5, 3.8), layout="constrained")
    left, right = figure.subplots(1, 2)
    for name, label in _TERMS.items():
        points = np.array([(line["step"], line[name]) for line in log if name in line])
        if len(points):
            axes = right if name == "validation_dsc" else left
            style = ".-" if name == "validation_dsc" else "-"
            axes.plot(*points.T, style, label=label)
    left.set(xlabel="step", title="loss and its terms", yscale="log")
    left.legend(frameon=False, loc="upper left", bbox_to_anchor=(0, -0.16), ncols=4, fontsize=9)
    if not any("validation_dsc" in line for line in log):
        right.text(0.5, 0.5, "no validation patient has a tumour slice", ha="center", va="center")
        right.set_xticks([])
    right.set(xlabel="step", title="mean DSC of the validation patients", ylim=(0, 1))
    if config.data.cohort == "phantom":
        figure.suptitle("phantom", color="#b45309")
    for axes in (left, right):
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(alpha=0.25)
    return figure


def _key_slice(config: Config, result: CaseResult) -> Figure:
    """The slice with most tumour: whole and plain, then magnified with both contours."""
    key = result.key_slice
    height, width = key.image.shape[0] * key.pixel[0], key.image.shape[1] * key.pixel[1]
    figure = Figure(figsize=(8, 4 * height / width + 0.75), layout="constrained", facecolor="#111")
    plain, magnified = figure.subplots(1, 2)
    extent = (0, width, height, 0)  # mm
    for axes in (plain, magnified):
        axes.imshow(key.image, cmap="gray", vmin=0, vmax=255, extent=extent)
        axes.set_axis_off()
    left, top, side = _frame(key)
    plain.add_patch(Rectangle((left, top), side, side, fill=False, edgecolor="#a1a1aa", lw=0.8))
    magnified.set(xlim=(left, left + side), ylim=(top + side, top))
    overlay.contour(magnified, key.reference, extent, overlay.REFERENCE, "-")
    overlay.contour(magnified, key.prediction, extent, overlay.PREDICTION, "--")
    lines = [
        Line2D([], [], color=overlay.REFERENCE, label="reference"),
        Line2D([], [], color=overlay.PREDICTION, linestyle="--", label="prediction"),
    ]
    magnified.legend(handles=lines, loc="lower right", fontsize=8, facecolor="#111", labelcolor="w")
    row = result.row()
    title = (
        *marks(config), row["patient"], row["condition"], f"slice {key.z}",
        f"DSC {row['dsc_paper']:.2f} (paper), {row['dsc']:.2f} (clinical)",
    )  # fmt: skip
    figure.suptitle(" · ".join(title), color="w", fontsize=10)
    return figure


def _frame(key: KeySlice, margin: float = 0.15, least: float = 0.4) -> tuple[float, float, float]:
    """A square around both masks, in mm: left, top, side; margin and least side as shares."""
    size = np.array(key.image.shape) * key.pixel
    places = np.argwhere(key.reference | key.prediction) * key.pixel
    low, high = places.min(axis=0), places.max(axis=0)
    side = min(max((high - low).max() + 2 * margin * size.max(), least * size.max()), size.min())
    top, left = np.clip((low + high) / 2 - side / 2, 0, size - side)
    return float(left), float(top), float(side)
