"""The rows of a plan: one for each topology and batch, as `plan.json` holds them."""

import dataclasses
from collections.abc import Sequence
from typing import Any


@dataclasses.dataclass(frozen=True)
class Memory:
    """Bytes that a step takes on one chip, by the compiler."""

    arguments: int
    outputs: int
    aliased: int  # outputs in the place of arguments
    temporaries: int
    code: int
    total: int


@dataclasses.dataclass(frozen=True)
class Traffic:
    """All collectives of one kind in a step."""

    count: int
    bytes: int  # of their results on a chip
    sent_bytes: float  # by a chip


@dataclasses.dataclass(frozen=True)
class MeasuredStep:
    """A step that ran on this machine's CPU."""

    argument_bytes: int  # of the arrays put in
    step_seconds: float  # median of the runs after a first
    matmul_flops: float  # 1/s, of this CPU in products of float32 matrices


@dataclasses.dataclass(frozen=True)
class StepReport:
    """The compiler's report of a step; memory, FLOPs, bytes and cycles are of one chip."""

    topology: str
    chip: str  # its name; "cpu"
    chips: int
    batch: int  # slices in a step, on all chips together
    memory_bytes: Memory
    flops: float
    useful_flops: float  # of the plain step (`compiling.useful_flops`)
    bytes_accessed: float
    cycles: int  # 0: this compiler estimates none
    compute_seconds: float  # without communication; 0 on the CPU
    narrow: dict[str, int]  # large arrays that leave lanes of a TPU empty, by shape
    collectives: dict[str, Traffic]  # by kind
    compile_seconds: float
    measured: MeasuredStep | None = None


@dataclasses.dataclass(frozen=True)
class Refusal:
    """A step that does not fit the memory of a chip, in the compiler's words."""

    reason: str


@dataclasses.dataclass(frozen=True)
class Times:
    """What follows from a step's report and the chip's figures (`cost.estimate_times`)."""

    hbm_share: float  # of the chip's memory
    transfer_seconds: float
    latency_seconds: float
    step_seconds: float
    roofline_seconds: float
    peak_share: float  # of the bfloat16 peak
    useful_share: float  # the same of the plain step's FLOPs
    collective_share: float  # of the step's time
    images_per_second: float
    steps: int  # of the whole training
    hours: float
    chip_hours: float


@dataclasses.dataclass(frozen=True)
class PlanRow:
    """A topology with a batch."""

    scaling: tuple[str, ...]  # "weak", "strong" or both
    topology: str
    batch: int  # slices in a step, on all chips together
    chips: int
    report: StepReport | Refusal
    times: Times | None = None  # None: refused, or on the CPU
    largest_batch_per_chip: int | None = None  # None: not asked for
    efficiency: float | None = None  # None: no times

    @property
    def compiled(self) -> StepReport | None:
        """The report; None if the compiler refused the step."""
        return None if isinstance(self.report, Refusal) else self.report

    def to_json(self) -> dict[str, Any]:
        """Returns the row as `plan.json` holds it, without what is not known."""
        row: dict[str, Any] = {"scaling": list(self.scaling), "topology": self.topology}
        row |= {"batch": self.batch, "chips": self.chips}
        if isinstance(self.report, Refusal):
            row["refused"] = self.report.reason
        else:
            row |= dataclasses.asdict(self.report)
            if self.report.measured is None:
                del row["measured"]
        row |= dataclasses.asdict(self.times) if self.times else {}
        for name in ("largest_batch_per_chip", "efficiency"):
            if (value := getattr(self, name)) is not None:
                row[name] = value
        return row


def with_efficiency(rows: Sequence[PlanRow]) -> list[PlanRow]:
    """Fills in `efficiency`: images/s a chip, over the first row of the same chip and scaling."""
    first: dict[tuple[str, str], float] = {}
    filled = []
    for row in rows:
        if row.compiled and row.times:
            chip, rate = row.compiled.chip, row.times.images_per_second / row.chips
            for scaling in row.scaling:
                first.setdefault((chip, scaling), rate)
            row = dataclasses.replace(row, efficiency=rate / first[chip, row.scaling[-1]])
        filled.append(row)
    return filled
