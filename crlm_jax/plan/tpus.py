"""The figures of Cloud TPU's chips, and how the chips of a slice are connected.

Peaks, memory and interconnect are Google's (https://cloud.google.com/tpu/docs/v4, …/v5e, …/v5p,
…/v6e, read in November 2026). Google publishes the clock of v4 only; `_CLOCKS` derives the others.
"""

import math
from dataclasses import dataclass, field
from typing import ClassVar

from crlm_jax.errors import UserError
from crlm_jax.plan.chip import GIB, Chip
from crlm_jax.plan.hlo import Program

# Latency of one hop between neighbours, s; a rule of thumb from "How to Scale Your Model"
# (https://jax-ml.github.io/scaling-book), not a figure of the compiler.
HOP_SECONDS = 1e-6

# Hz. v4: Jouppi et al., TPU v4 (https://arxiv.org/abs/2304.01433), table 4. v5e and v5p: the peak
# over the multiplications and additions of a cycle (MXUs of 128 × 128; four in v5e, eight in v5p).
# v6e: the same quotient (two MXUs of 256 × 256) is 3.5 GHz, but only half of it agrees with the
# compiler: its estimate of a copy within HBM then reaches 81 % of the bandwidth, as on v5e.
_CLOCKS = {"v4": 1.05e9, "v5e": 1.5e9, "v5p": 1.75e9, "v6e": 1.75e9}


@dataclass(frozen=True)
class Tpu(Chip):
    """One kind of TPU; all figures are of a whole chip, with all its cores."""

    ici_ports: int
    axes: int  # of the slices: 2 or 3
    wraps: int  # an axis closes to a ring where its length is a multiple of this
    options: dict[str, str] = field(default_factory=dict)  # of the compiler's topology

    platform: ClassVar[str] = "tpu"

    def compute_seconds(self, program: Program) -> float:
        """Returns the time of the cycles that the TPU compiler estimates."""
        return program.cycles() / self.clock

    def closes(self, length: int) -> bool:
        """Whether an axis of so many chips is a ring; otherwise it is a line."""
        return length % self.wraps == 0

    def send_bandwidth(self, shape: tuple[int, ...]) -> float:
        """Bytes/s that a chip of a slice sends: a ring takes two of its ports, a line one."""
        ports = sum(2 if self.closes(n) else 1 for n in shape if n > 1)
        return ports * self.link_bandwidth / self.ici_ports / 2

    def latency(self, shape: tuple[int, ...]) -> float:
        """Seconds from a chip to the farthest one of a slice."""
        return self.hops(shape) * HOP_SECONDS

    def hops(self, shape: tuple[int, ...]) -> int:
        """Hops from a chip to the farthest one of a slice."""
        return sum(n // 2 if self.closes(n) else n - 1 for n in shape)


TPUS = {
    chip.name: chip
    for chip in (
        # Without megacore the compiler would plan each of the two cores separately.
        Tpu(
            "v4", 32 * GIB, 275e12, 1200e9, 600e9, _CLOCKS["v4"], 6, axes=3, wraps=4,
            options={"chip_config_name": "megacore"},
        ),
        Tpu("v5e", 16 * GIB, 197e12, 819e9, 400e9, _CLOCKS["v5e"], 4, axes=2, wraps=16),
        Tpu("v5p", 95 * GIB, 459e12, 2765e9, 1200e9, _CLOCKS["v5p"], 6, axes=3, wraps=4),
        Tpu("v6e", 32 * GIB, 918e12, 1638e9, 800e9, _CLOCKS["v6e"], 4, axes=2, wraps=16),
    )
}  # fmt: skip
EXAMPLES = {"v4": "v4:2x2x1", "v5e": "v5e:2x2", "v5p": "v5p:2x2x1", "v6e": "v6e:4x4"}


def parse_shape(topology: str, chip: Tpu) -> tuple[int, ...]:
    """Reads the lengths of a slice's axes from a name such as v5e:2x2.

    Raises:
      UserError: they are not as many as the chip's slices have, or no numbers from 1 on.
    """
    words = topology.partition(":")[2].split("x")
    shape = tuple(int(word) for word in words if word.isdecimal())
    if len(shape) != len(words) or len(shape) != chip.axes or not math.prod(shape):
        raise UserError(
            f"topology {topology!r}: {chip.name} has {chip.axes} axes, as in {EXAMPLES[chip.name]}"
        )
    return shape
