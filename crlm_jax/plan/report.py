"""Tables, picture and files of a plan; `crlm_jax.plan` makes the numbers."""

import datetime
import importlib.metadata
import io
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from rich.box import SIMPLE_HEAD
from rich.table import Table

from crlm_jax.config.schema import Config
from crlm_jax.config.storage import to_json
from crlm_jax.plan.chips import CHIPS
from crlm_jax.system.console import print_table
from crlm_jax.system.files import check_folder, whole_folder
from crlm_jax.system.text import to_markdown

MARKDOWN, JSON, PNG = "plan.md", "plan.json", "plan.png"
PAPER_SLICES = "the tumour slices of the paper's training patients, less those validated on"
LABEL = "compiler estimate"
_COLOURS = {"v4": "#cc79a7", "v5e": "#0072b2", "v5p": "#009e73", "v6e": "#d55e00"}
_SCALINGS = ("weak", "strong")
Row = Mapping[str, Any]
Columns = Mapping[str, Callable[[Row], str]]


def _number(value: float) -> str:
    """Three digits and a prefix of the unit: 1234567 is 1.23 M."""
    for size, prefix in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= size:
            return f"{value / size:.3g} {prefix}"
    return f"{value:.3g} "


def _mebibytes(name: str) -> Callable[[Row], str]:
    def cell(row: Row) -> str:
        return f"{row['memory_bytes'][name] / 2**20:,.0f}" if "memory_bytes" in row else "–"

    return cell


def _milliseconds(name: str) -> Callable[[Row], str]:
    return lambda row: f"{1e3 * row[name]:.3g}" if name in row else "–"


def _percent(name: str) -> Callable[[Row], str]:
    return lambda row: f"{row[name]:.1%}" if name in row else "–"


def _plain(name: str, pattern: str = "{:,}") -> Callable[[Row], str]:
    return lambda row: pattern.format(row[name]) if name in row else "–"


def _units(name: str, unit: str) -> Callable[[Row], str]:
    return lambda row: f"{_number(row[name])}{unit}".strip() if name in row else "–"


def _collectives(row: Row) -> str:
    if "refused" in row:
        return "does not fit"
    parts = [
        f"{kind['count']} {name}, {_number(kind['bytes'])}B"
        for name, kind in row["collectives"].items()
    ]
    return "; ".join(parts) or "none"


_WHERE: Columns = {
    "topology": lambda row: row["topology"],
    "scaling": lambda row: ", ".join(row["scaling"]),
    "batch": _plain("batch"),
}
PER_CHIP: Columns = _WHERE | {
    "memory MiB": _mebibytes("total"),
    "of HBM": _percent("hbm_share"),
    "arguments": _mebibytes("arguments"),
    "outputs": _mebibytes("outputs"),
    "aliased": _mebibytes("aliased"),
    "temporaries": _mebibytes("temporaries"),
    "code": _mebibytes("code"),
    "FLOPs": _units("flops", ""),
    "bytes accessed": _units("bytes_accessed", "B"),
    "collectives a step": _collectives,
    "largest batch a chip": _plain("largest_batch_per_chip"),
}
TIMES: Columns = _WHERE | {
    "compute ms": _milliseconds("compute_seconds"),
    "transfer ms": _milliseconds("transfer_seconds"),
    "latency ms": _milliseconds("latency_seconds"),
    "step ms": _milliseconds("step_seconds"),
    "roofline ms": _milliseconds("roofline_seconds"),
    "of peak": _percent("peak_share"),
    "collectives": _percent("collective_share"),
    "images/s": _plain("images_per_second", "{:,.0f}"),
    "efficiency": _percent("efficiency"),
    "steps": _plain("steps"),
    "hours": _plain("hours", "{:.3g}"),
    "chip-hours": _plain("chip_hours", "{:.3g}"),
}
_NOTES = (
    "Every figure is a compiler estimate, or follows from one; none was measured on a TPU.",
    "Compute: the sum of the compiler's estimated cycles over the operations of the step, loops as "
    "often as they run, over the chip's clock. Copies beside the computation are not counted.",
    "Transfer: the bytes that a chip sends (ring algorithm) over the bandwidth of the ports that "
    "the slice uses. Latency: 1 µs a hop, there and back, for each collective, a rule of thumb "
    "and not the compiler's. Neither is taken to overlap with computation.",
    "Roofline: the time that FLOPs take at the peak, or bytes at the memory's bandwidth. Bytes "
    "count wherever they lie: a step of which much stays on the chip may take less.",
    "Of peak: of the bfloat16 peak. Where the configuration computes in float32, the TPU still "
    "multiplies in bfloat16 by default.",
    "Efficiency: images/s a chip, over that of the first row of the same chip and scaling.",
    "Weak scaling keeps the batch of a chip, strong scaling that of the step. Hours are of the "
    "training steps alone; a larger batch takes fewer steps for the same epochs, and may need "
    "other settings to learn as much.",
)


def add_efficiency(rows: Sequence[dict[str, Any]]) -> None:
    """Adds `efficiency`: images/s a chip, over the first row of the same chip and scaling."""
    first = {}
    for row in rows:
        if "images_per_second" in row:
            rate = row["images_per_second"] / row["chips"]
            for scaling in row["scaling"]:
                first.setdefault((row["chip"], scaling), rate)
            row["efficiency"] = rate / first[row["chip"], row["scaling"][-1]]


def describe(
    config: Config, file: str, rows: list[dict[str, Any]], slices: int, origin: str
) -> dict[str, Any]:
    """Returns the whole plan, as `plan.json` holds it."""
    add_efficiency(rows)
    versions = {}
    for package in ("crlm_jax", "jax", "jaxlib", "libtpu"):
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return {
        "label": LABEL,
        "date": datetime.date.today().isoformat(),
        "versions": versions,
        "config_file": file,
        "config": json.loads(to_json(config)),
        "slices": slices,
        "slices_from": origin,
        "chips": {
            name: {"hbm_bytes": c.hbm_bytes, "peak_flops": c.peak_flops, "clock": c.clock,
                   "hbm_bandwidth": c.hbm_bandwidth, "ici_bandwidth": c.ici_bandwidth}
            for name, c in CHIPS.items()
            if any(row.get("chip") == name for row in rows)
        },
        "rows": rows,
    }  # fmt: skip


def _training(plan: Row) -> str:
    config = plan["config"]
    length = (
        f"{config['train']['steps']:,} steps"
        if config["train"]["steps"]
        else f"{config['train']['epochs']} epochs of {plan['slices']:,} slices"
    )
    return (
        f"{config['method']}, {config['scale']} scale, {config['data']['image_size']} pixels, "
        f"{config['train']['precision']}, batch {config['train']['batch_size']}; training: "
        f"{length} ({plan['slices_from']})"
    )


def _used(columns: Columns, rows: Sequence[Row]) -> Columns:
    """Leaves out the columns that say nothing in any row."""
    return {n: cell for n, cell in columns.items() if any(cell(row) != "–" for row in rows)}


def show(plan: Row) -> None:
    """Prints the tables."""
    print(_training(plan))
    for title, columns in (("per chip", PER_CHIP), ("time", TIMES))[: 2 if plan["chips"] else 1]:
        table = Table(title=f"{title} ({LABEL})", title_justify="left", box=SIMPLE_HEAD)
        used = _used(columns, plan["rows"])
        for name in used:
            table.add_column(name)
        for row in plan["rows"]:
            table.add_row(*(cell(row) for cell in used.values()))
        print_table(table, 160)
    for line in _remarks(plan["rows"]):
        print(line)


def _remarks(rows: Sequence[Row]) -> list[str]:
    """What is said of single rows below the tables: what did not fit, what was measured."""
    lines = []
    for row in rows:
        if "refused" in row:
            lines.append(f"{row['topology']}, batch {row['batch']:,}: {row['refused']}")
        if found := row.get("measured"):
            ideal = row["flops"] / found["matmul_flops"]
            lines.append(
                f"{row['topology']}, measured: step {1e3 * found['step_seconds']:.1f} ms; the "
                f"compiler's FLOPs at this machine's rate of float32 matrix products "
                f"({_number(found['matmul_flops'])}FLOP/s) would take {1e3 * ideal:.1f} ms; "
                f"arguments {found['argument_bytes']:,} bytes, by the compiler "
                f"{row['memory_bytes']['arguments']:,}"
            )
    return lines


def _markdown_table(columns: Columns, rows: Sequence[Row]) -> str:
    used = _used(columns, rows)
    return to_markdown(used, [[cell(row) for cell in used.values()] for row in rows])


def markdown(plan: Row) -> str:
    """Returns the text of `plan.md`."""
    rows = plan["rows"]
    versions = ", ".join(f"{name} {version}" for name, version in plan["versions"].items())
    figures = [
        f"| {n} | {c['peak_flops'] / 1e12:g} | {c['hbm_bytes'] / 2**30:g} | "
        f"{c['hbm_bandwidth'] / 1e9:g} | {c['ici_bandwidth'] / 1e9:g} | {c['clock'] / 1e9:g} |"
        for n, c in plan["chips"].items()
    ]
    parts = [
        f"# Plan of a training: {LABEL}s",
        f"{plan['date']}; {versions}.",
        f"```\n{plan['command']}\n```",
        f"{_training(plan)}.",
        f"![memory, time and scaling]({PNG})" if plan["chips"] else "",
        f"## Per chip ({LABEL})\nMemory in MiB.\n\n{_markdown_table(PER_CHIP, rows)}",
        f"## Time ({LABEL})\n{_markdown_table(TIMES, rows)}" if plan["chips"] else "",
        "\n\n".join(_remarks(rows)),
        "## How to read it\n" + "\n".join(f"- {note}" for note in _NOTES),
        "## Chips\nGoogle's figures (https://cloud.google.com/tpu/docs); the clock of v5e, v5p and "
        "v6e is worked out in `crlm_jax/chips.py`.\n\n"
        "| chip | peak, bfloat16 TFLOP/s | HBM GiB | HBM GB/s | ICI GB/s, both ways | clock GHz |\n"
        "| --- | --- | --- | --- | --- | --- |\n" + "\n".join(figures)
        if figures
        else "",
    ]
    return "\n\n".join(filter(None, parts)) + "\n"


def draw(plan: Row) -> Figure:
    """Draws the step time and its parts, the memory, and images/s over the chips."""
    rows = [row for row in plan["rows"] if "step_seconds" in row]
    labels = [f"{r['topology']}, batch {r['batch']:,}" for r in rows]
    figure = Figure(figsize=(11, 2.4 + 0.32 * len(rows)), layout="constrained")
    left, middle, right = figure.subplots(1, 3)
    places, start = range(len(rows)), [0.0] * len(rows)
    for part, colour in (("compute", "#0072b2"), ("transfer", "#e69f00"), ("latency", "#d55e00")):
        values = [1e3 * row[f"{part}_seconds"] for row in rows]
        left.barh(places, values, left=start, height=0.6, color=colour, label=part)
        start = [a + b for a, b in zip(start, values, strict=True)]
    left.set(xlabel="ms a step", yticks=places, yticklabels=labels)
    left.legend(frameon=False, fontsize=8, ncols=3, loc="lower left", bbox_to_anchor=(-0.1, 1))
    memory = [100 * row["hbm_share"] for row in rows]
    bars = middle.barh(places, memory, height=0.6, color="#56b4e9")
    middle.bar_label(bars, fmt="%.1f", padding=3, fontsize=8)
    middle.set(xlabel="memory, % of a chip's HBM", yticks=places, yticklabels=[])
    middle.set_xlim(0, 1.2 * max(memory))
    for axes in (left, middle):
        axes.set_ylim(len(rows) - 0.3, -0.7)
    _draw_scaling(right, rows)
    for axes in (left, middle, right):
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(alpha=0.25)
        axes.set_axisbelow(True)
    figure.suptitle(f"{plan['config_file']}: {LABEL}s, not measured", fontsize=10)
    return figure


def _draw_scaling(axes: Any, rows: Sequence[Row]) -> None:
    """Images/s over the chips, a line for each chip and scaling, and what would be ideal."""
    for chip, colour in _COLOURS.items():
        for scaling, style in zip(_SCALINGS, ("o-", "s--"), strict=True):
            points = sorted(
                (row["chips"], row["images_per_second"])
                for row in rows
                if row["chip"] == chip and scaling in row["scaling"]
            )
            if not points or (scaling == "strong" and len(points) < 2):
                continue
            axes.loglog(*zip(*points, strict=True), style, color=colour, label=f"{chip}, {scaling}")
            if scaling == "weak" and len(points) > 1:
                (n, rate), most = points[0], points[-1][0]
                axes.loglog([n, most], [rate, rate * most / n], ":", color=colour, alpha=0.7)
    counts = sorted({row["chips"] for row in rows})
    axes.set_xticks(counts, [str(n) for n in counts])
    axes.minorticks_off()
    axes.set(xlabel="chips", ylabel="images/s (dotted: ideal)")
    axes.legend(frameon=False, fontsize=8)


def check_out(out: Path) -> None:
    """Raises ValueError unless the folder is new, empty or of an earlier plan."""
    check_folder(out, r"plan\.(md|json|png)", JSON)


def write(plan: Row, out: Path) -> None:
    """Writes plan.md, plan.json and plan.png to a folder, which appears whole or not at all."""
    png = io.BytesIO()
    if plan["chips"]:
        draw(plan).savefig(png, format="png", dpi=130)
    with whole_folder(out.resolve(), check_out) as folder:
        (folder / MARKDOWN).write_text(markdown(plan), encoding="utf-8")
        (folder / JSON).write_text(json.dumps(plan, indent=2) + "\n", encoding="utf-8")
        if plan["chips"]:
            (folder / PNG).write_bytes(png.getvalue())
