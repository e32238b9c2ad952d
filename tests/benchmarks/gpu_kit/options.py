"""What a part of the kit is told: sizes, time, and where its rows go. Python's own library alone.

Every part is a process of its own, so that one that crashes, hangs or fills the card's memory takes
no other with it. It writes its rows after each, so that those are there when it is ended.
"""

import argparse
import json
import os
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Sizes:
    """Of the networks and of the work."""

    image: int = 224  # pixels, side of a slice
    widths: tuple[int, ...] = (32, 64, 128, 256, 512)
    critic: int = 64  # channels of the critic's stem
    stages: tuple[int, ...] = (1, 2, 3, 4)  # of the critic
    batches: tuple[int, ...] = (16, 64)
    most: int = 1024  # slices of the largest batch that is tried
    steps: int = 30  # timed, at most
    seconds: float = 6.0  # that a timing takes, at most
    patients: int = 8  # of the pipeline's phantom
    training_patients: int = 111  # the paper's; 45 of them are tested
    tested: int = 45
    training_steps: int = 0  # 0: as the paper's epochs take
    parity: tuple[int, int] = (4, 64)  # slices and their side


FULL = Sizes()
TINY = Sizes(
    image=32, widths=(4, 4, 8), critic=4, stages=(1,), batches=(2, 4), most=8, steps=3,
    seconds=1.0, patients=2, training_patients=4, tested=1, training_steps=6, parity=(2, 32),
)  # fmt: skip


@dataclass
class Part:
    """A part that runs: its options, the time it has, and its rows."""

    name: str
    result: Path
    work: Path  # compiled programs, the phantom, the training's run; kept between calls
    seconds: float
    tiny: bool = False
    known: dict[str, Any] = field(default_factory=dict)  # rows of earlier parts, by part
    train_precision: str = "float32"
    weights: str = "random"  # of the training's critic
    start: float = field(default_factory=time.monotonic)
    rows: list[dict[str, Any]] = field(default_factory=list)

    @property
    def sizes(self) -> Sizes:
        return TINY if self.tiny else FULL

    @property
    def left(self) -> float:
        """Seconds until the part is ended."""
        return self.start + self.seconds - time.monotonic()

    def add(self, **row: Any) -> dict[str, Any]:
        self.rows.append(row)
        write_json(self.result, self.rows)
        return row

    def attempt(self, function: Any, *words: Any, **row: Any) -> None:
        """Adds the row that a function gives, or the error that it ends with."""
        try:
            self.add(**row, **function(*words))
        except Exception as error:
            self.add(**row, error=shorten(error))


def shorten(error: BaseException) -> str:
    """An error in a few words; running out of memory in one."""
    text = " ".join(str(error).split())
    if "RESOURCE_EXHAUSTED" in text or "out of memory" in text.lower():
        return "out of memory"
    return f"{type(error).__name__}: {text}"[:300]


def write_json(path: Path, content: Any) -> None:
    """Whole or not at all."""
    partial = path.with_name(f"{path.name}.{os.getpid()}.partial")
    partial.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    partial.replace(path)


def parse() -> Part:
    parser = argparse.ArgumentParser(description="One part of the GPU kit.")
    parser.add_argument("name")
    parser.add_argument("--result", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--known", type=json.loads, default={})
    parser.add_argument("--seconds", type=float, required=True)
    parser.add_argument("--tiny", action="store_true")
    parser.add_argument("--train-precision", default="float32")
    parser.add_argument("--weights", default="random")
    return Part(**vars(parser.parse_args()))
