"""A plan as a whole: its tables on the console, and the files plan.md, plan.json and plan.png."""

import datetime
import io
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.table import Table

from crlm_jax.config.schema import Config
from crlm_jax.plan.chip import Chip
from crlm_jax.plan.figure import draw
from crlm_jax.plan.kept import COMPILERS, versions
from crlm_jax.plan.rows import PlanRow, Refusal, StepReport, Times, with_efficiency
from crlm_jax.plan.targets import CHIPS
from crlm_jax.system.console import print_table
from crlm_jax.system.files import check_folder, whole_folder
from crlm_jax.system.text import to_markdown

MARKDOWN, JSON, PNG = "plan.md", "plan.json", "plan.png"
PAPER_SLICES = "the tumour slices of the paper's training patients, less those validated on"
LABEL = "compiler estimate"
_UNKNOWN = "–"
Columns = dict[str, Callable[[PlanRow], str]]


@dataclass(frozen=True)
class Plan:
    """What `plan.json` holds."""

    date: str  # ISO 8601
    versions: dict[str, str]  # by package
    config_file: str
    config: Config
    slices: int  # in a pass of the training
    slices_from: str  # where their number comes from
    rows: list[PlanRow]
    command: str

    @property
    def chips(self) -> dict[str, Chip]:
        """The chips that a step was compiled for, by name."""
        names = {row.compiled.chip for row in self.rows if row.compiled}
        return {name: chip for name, chip in CHIPS.items() if name in names}

    def to_json(self) -> dict[str, Any]:
        """Returns the whole plan for `plan.json`."""
        return {
            "label": LABEL,
            "date": self.date,
            "versions": self.versions,
            "config_file": self.config_file,
            "config": asdict(self.config),
            "slices": self.slices,
            "slices_from": self.slices_from,
            "chips": {
                name: {"hbm_bytes": c.hbm_bytes, "peak_flops": c.peak_flops, "clock": c.clock,
                       "hbm_bandwidth": c.hbm_bandwidth, "link_bandwidth": c.link_bandwidth}
                for name, c in self.chips.items()
            },
            "rows": [row.to_json() for row in self.rows],
            "command": self.command,
        }  # fmt: skip


def describe(
    config: Config, file: str, rows: Sequence[PlanRow], slices: int, origin: str, command: str
) -> Plan:
    """Makes a plan of its rows, with today's date and the versions of the packages.

    Args:
      config: of the training.
      file: of the configuration.
      rows: from `scaling.make_plan`.
      slices: in a pass of the training.
      origin: where their number comes from.
      command: that made the rows.
    """
    found = versions(("crlm_jax", *COMPILERS))
    date = datetime.date.today().isoformat()
    return Plan(date, found, file, config, slices, origin, with_efficiency(rows), command)


def _with_prefix(value: float) -> str:
    """Three digits and a prefix of the unit: 1234567 is 1.23 M."""
    for size, prefix in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= size:
            return f"{value / size:.3g} {prefix}"
    return f"{value:.3g} "


def _from_report(cell: Callable[[StepReport], str]) -> Callable[[PlanRow], str]:
    return lambda row: cell(row.compiled) if row.compiled else _UNKNOWN


def _from_times(cell: Callable[[Times], str]) -> Callable[[PlanRow], str]:
    return lambda row: cell(row.times) if row.times else _UNKNOWN


def _optional(pattern: str, value: Callable[[PlanRow], float | None]) -> Callable[[PlanRow], str]:
    def cell(row: PlanRow) -> str:
        found = value(row)
        return _UNKNOWN if found is None else pattern.format(found)

    return cell


def _mebibytes(part: str) -> Callable[[PlanRow], str]:
    return _from_report(lambda report: f"{getattr(report.memory_bytes, part) / 2**20:,.0f}")


def _milliseconds(seconds: Callable[[Times], float]) -> Callable[[PlanRow], str]:
    return _from_times(lambda times: f"{1e3 * seconds(times):.3g}")


def _collectives(row: PlanRow) -> str:
    if row.compiled is None:
        return "does not fit"
    parts = [
        f"{traffic.count} {kind}, {_with_prefix(traffic.bytes)}B"
        for kind, traffic in row.compiled.collectives.items()
    ]
    return "; ".join(parts) or "none"


def _cycles(row: PlanRow) -> str:
    return f"{row.compiled.cycles / 1e6:.1f}" if row.compiled and row.compiled.cycles else _UNKNOWN


def _compute(row: PlanRow) -> str:
    return f"{1e3 * row.compiled.compute_seconds:.3g}" if row.compiled and row.times else _UNKNOWN


_WHERE: Columns = {
    "topology": lambda row: row.topology,
    "scaling": lambda row: ", ".join(row.scaling),
    "batch": lambda row: f"{row.batch:,}",
}
PER_CHIP: Columns = _WHERE | {
    "memory MiB": _mebibytes("total"),
    "of HBM": _from_times(lambda times: f"{times.hbm_share:.1%}"),
    "arguments": _mebibytes("arguments"),
    "outputs": _mebibytes("outputs"),
    "aliased": _mebibytes("aliased"),
    "temporaries": _mebibytes("temporaries"),
    "code": _mebibytes("code"),
    "FLOPs": _from_report(lambda report: _with_prefix(report.flops).strip()),
    "bytes accessed": _from_report(lambda report: f"{_with_prefix(report.bytes_accessed)}B"),
    "collectives a step": _collectives,
    "largest batch a chip": _optional("{:,}", lambda row: row.largest_batch_per_chip),
}
TIMES: Columns = _WHERE | {
    "M cycles": _cycles,
    "compute ms": _compute,
    "transfer ms": _milliseconds(lambda times: times.transfer_seconds),
    "latency ms": _milliseconds(lambda times: times.latency_seconds),
    "step ms": _milliseconds(lambda times: times.step_seconds),
    "roofline ms": _milliseconds(lambda times: times.roofline_seconds),
    "of peak": _from_times(lambda times: f"{times.peak_share:.1%}"),
    "useful": _from_times(lambda times: f"{times.useful_share:.1%}"),
    "collectives": _from_times(lambda times: f"{times.collective_share:.1%}"),
    "images/s": _from_times(lambda times: f"{times.images_per_second:,.0f}"),
    "efficiency": _optional("{:.1%}", lambda row: row.efficiency),
    "steps": _from_times(lambda times: f"{times.steps:,}"),
    "hours": _from_times(lambda times: f"{times.hours:.3g}"),
    "chip-hours": _from_times(lambda times: f"{times.chip_hours:.3g}"),
}
_NOTES = (
    "Every figure is a compiler estimate, or follows from one; none was measured on such a chip.",
    "Compute, of a TPU: the sum of the compiler's estimated cycles over the operations of the "
    "step, loops as often as they run, over the chip's clock. Copies beside the computation are "
    "not counted.",
    "Compute, of a GPU: XLA estimates no time for one. This is the least that the kernels allow, "
    "each the time of its FLOPs at the peak of their precision or of its bytes at the memory's "
    "bandwidth. A real step takes longer. The memory is without cuDNN's workspace.",
    "Transfer: the bytes that a chip sends (ring algorithm) over the bandwidth of the ports that "
    "the slice uses, or of NVLink. Latency, a rule of thumb and not the compiler's: for each "
    "collective, there and back, 1 µs a hop of a TPU, 10 µs between the GPUs of a host. Neither "
    "is taken to overlap with computation.",
    "Roofline: the time that FLOPs take at the peak, or bytes at the memory's bandwidth. Bytes "
    "count wherever they lie; a step that keeps much on the chip may take less time.",
    "Of peak: of the bfloat16 peak. Where the configuration computes in float32, the TPU still "
    "multiplies in bfloat16 by default. Useful: of the same peak, with the FLOPs of the plain "
    "step, without what a chip's forms add (zeros of packed kernels, products with padding).",
    "Efficiency: images/s a chip, over that of the first row of the same chip and scaling.",
    "Weak scaling keeps the batch of a chip, strong scaling that of the step. Hours are of the "
    "training steps alone; a larger batch takes fewer steps for the same epochs, and may need "
    "other settings to learn as much.",
)


def _training(plan: Plan) -> str:
    config = plan.config
    length = (
        f"{config.train.steps:,} steps"
        if config.train.steps
        else f"{config.train.epochs} epochs of {plan.slices:,} slices"
    )
    return (
        f"{config.method}, {config.scale} scale, {config.data.image_size} pixels, "
        f"{config.train.precision}, batch {config.train.batch_size}; training: "
        f"{length} ({plan.slices_from})"
    )


def _used(columns: Columns, rows: Sequence[PlanRow]) -> Columns:
    """Leaves out the columns that are unknown in every row."""
    return {n: cell for n, cell in columns.items() if any(cell(row) != _UNKNOWN for row in rows)}


def show(plan: Plan) -> None:
    """Prints the tables."""
    print(_training(plan))
    for title, columns in (("per chip", PER_CHIP), ("time", TIMES))[: 2 if plan.chips else 1]:
        table = Table(title=f"{title} ({LABEL})", title_justify="left", box=SIMPLE_HEAD)
        used = _used(columns, plan.rows)
        for name in used:
            table.add_column(name)
        for row in plan.rows:
            table.add_row(*(cell(row) for cell in used.values()))
        print_table(table, 160)
    for line in _remarks(plan.rows):
        print(line)


def _remarks(rows: Sequence[PlanRow]) -> list[str]:
    """Lines about single rows, below the tables: steps that do not fit, or were measured."""
    lines = []
    for row in rows:
        if isinstance(row.report, Refusal):
            lines.append(f"{row.topology}, batch {row.batch:,}: {row.report.reason}")
            continue
        for shape, count in row.report.narrow.items():
            lines.append(
                f"{row.topology}, batch {row.batch:,}: {count} arrays {shape} of the finest level "
                "have fewer than 128 numbers in their lanes"
            )
        if found := row.report.measured:
            ideal = row.report.flops / found.matmul_flops
            lines.append(
                f"{row.topology}, measured: step {1e3 * found.step_seconds:.1f} ms; the "
                f"compiler's FLOPs at this machine's rate of float32 matrix products "
                f"({_with_prefix(found.matmul_flops)}FLOP/s) would take {1e3 * ideal:.1f} ms; "
                f"arguments {found.argument_bytes:,} bytes, by the compiler "
                f"{row.report.memory_bytes.arguments:,}"
            )
    return lines


def _markdown_table(columns: Columns, rows: Sequence[PlanRow]) -> str:
    used = _used(columns, rows)
    return to_markdown(used, [[cell(row) for cell in used.values()] for row in rows])


def _markdown_chips(chips: dict[str, Chip]) -> str:
    header = (
        "chip", "peak, bfloat16 TFLOP/s", "HBM GiB", "HBM GB/s", "links GB/s, both ways",
        "clock GHz",
    )  # fmt: skip
    figures = [
        (c.peak_flops / 1e12, c.hbm_bytes / 2**30, c.hbm_bandwidth / 1e9, c.link_bandwidth / 1e9,
         c.clock / 1e9)
        for c in chips.values()
    ]  # fmt: skip
    rows = [[n, *(f"{x:.4g}" for x in row)] for n, row in zip(chips, figures, strict=True)]
    return (
        "## Chips\nTheir makers' figures: `crlm_jax/plan/tpus.py` (where the clock of v5e, v5p and "
        "v6e is derived) and `crlm_jax/plan/gpus.py`.\n\n" + to_markdown(header, rows)
    )


def markdown(plan: Plan) -> str:
    """Returns the text of `plan.md`."""
    versions = ", ".join(f"{name} {version}" for name, version in plan.versions.items())
    parts = [
        f"# Plan of a training: {LABEL}s",
        f"{plan.date}; {versions}.",
        f"```\n{plan.command}\n```",
        f"{_training(plan)}.",
        f"![memory, time and scaling]({PNG})" if plan.chips else "",
        f"## Per chip ({LABEL})\nMemory in MiB.\n\n{_markdown_table(PER_CHIP, plan.rows)}",
        f"## Time ({LABEL})\n{_markdown_table(TIMES, plan.rows)}" if plan.chips else "",
        "\n\n".join(_remarks(plan.rows)),
        "## How to read it\n" + "\n".join(f"- {note}" for note in _NOTES),
        _markdown_chips(plan.chips) if plan.chips else "",
    ]
    return "\n\n".join(filter(None, parts)) + "\n"


def check_out(out: Path) -> None:
    """Raises UserError unless the folder is new, empty or of an earlier plan."""
    check_folder(out, r"plan\.(md|json|png)", JSON)


def write(plan: Plan, out: Path) -> None:
    """Writes plan.md, plan.json and plan.png to a folder, which appears whole or not at all."""
    png = io.BytesIO()
    if plan.chips:
        draw(plan.rows, f"{plan.config_file}: {LABEL}s, not measured").savefig(
            png, format="png", dpi=130
        )
    with whole_folder(out.resolve(), check_out) as folder:
        (folder / MARKDOWN).write_text(markdown(plan), encoding="utf-8")
        text = json.dumps(plan.to_json(), indent=2)
        (folder / JSON).write_text(text + "\n", encoding="utf-8")
        if plan.chips:
            (folder / PNG).write_bytes(png.getvalue())
