"""Preemption: a process that is told to stop saves a checkpoint and ends with exit code 75.

SLURM, Kubernetes and spot machines announce the end of a process by SIGTERM, or by SIGUSR1 if they
are configured so. A run that ended with code 75 (EX_TEMPFAIL of sysexits.h) goes on when the same
command is started again. Code 0 is a finished run, code 1 an error that a restart does not mend.
"""

import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from types import FrameType
from typing import Any

EXIT_CODE = 75
# Windows has no SIGUSR1.
SIGNALS = tuple(
    number for name in ("SIGTERM", "SIGUSR1") if (number := getattr(signal, name, None)) is not None
)


class Preempted(Exception):
    """The process was told to stop, and has saved its state."""


def exit_when_told() -> None:
    """Lets the signals end this process with `EXIT_CODE` at any point, except inside a `Notice`.

    No clean-up is needed, because files appear whole or not at all.
    """
    for number in SIGNALS:
        signal.signal(number, lambda *_: sys.exit(EXIT_CODE))


class Notice:
    """Records the signals instead of ending, for a loop that chooses the step at which it ends.

    Use it as a context manager in the main thread. Several processes must stop at the same step:
    there JAX listens to SIGTERM itself, and gives all processes a step that each has yet to reach.
    """

    def __init__(self) -> None:
        self._told = False
        self._before: dict[int, Any] = {}  # handlers by signal, as `signal.signal` returns them

    def __enter__(self) -> "Notice":
        several = _are_several()
        for number in SIGNALS:
            if not several:
                self._before[number] = signal.signal(number, self._note)
            elif number != signal.SIGTERM:
                self._before[number] = signal.signal(number, _as_sigterm)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        self._told = True

    def reached(self, step: int) -> bool:
        """Returns whether to stop at this step; every process asks once after each step."""
        if _are_several():
            from jax.experimental import multihost_utils

            return multihost_utils.reached_preemption_sync_point(step)
        return self._told


def _are_several() -> bool:
    import jax  # imported here, since commands that train nothing need only the exit code

    return jax.process_count() > 1


def _as_sigterm(number: int, frame: FrameType | None) -> None:
    os.kill(os.getpid(), signal.SIGTERM)


def run_child(command: Sequence[str]) -> int:
    """Runs a command to its end, passes the signals on to it, and returns its exit code."""
    child = subprocess.Popen(command)
    before = {
        number: signal.signal(number, lambda number, _: child.send_signal(number))
        for number in SIGNALS
    }
    try:
        return child.wait()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
