"""What the planner knows of a chip, TPU or GPU."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

from crlm_jax.plan.hlo import Program

GIB = 2**30


@dataclass(frozen=True)
class Chip(ABC):
    """One kind of chip, by its maker's figures."""

    name: str
    hbm_bytes: int
    peak_flops: float  # bfloat16, 1/s
    hbm_bandwidth: float  # bytes/s
    link_bandwidth: float  # bytes/s to other chips, both directions of all ports together
    clock: float  # Hz

    platform: ClassVar[str]  # JAX's name for the kind of device

    @abstractmethod
    def compute_seconds(self, program: Program) -> float:
        """Returns what a compiled step takes on one chip, without communication."""

    @abstractmethod
    def send_bandwidth(self, shape: tuple[int, ...]) -> float:
        """Bytes/s that a chip sends to the others of a topology."""

    @abstractmethod
    def latency(self, shape: tuple[int, ...]) -> float:
        """Seconds that a message of no length takes to the farthest chip of a topology."""
