"""Being told to stop: a checkpoint is saved, and the process ends with code 75.

SLURM, Kubernetes and spot machines announce an end by SIGTERM, or by SIGUSR1 where they are asked
to. A run that ended with 75 (EX_TEMPFAIL of sysexits.h) is to be started again by the same command
and goes on where it was; 0 is a finished run, 1 an error that a new start does not mend.
"""

import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from types import FrameType

EXIT_CODE = 75
SIGNALS = (signal.SIGTERM, signal.SIGUSR1)


class Preempted(Exception):
    """The process was told to stop, and has saved what it had."""


def exit_when_told() -> None:
    """Makes the signals end this process with `EXIT_CODE`, wherever it is but in a `Notice`.

    Files appear whole or not at all, so that nothing has to be tidied up.
    """
    for number in SIGNALS:
        signal.signal(number, lambda *_: sys.exit(EXIT_CODE))


class Notice:
    """Notes the signals instead of ending, for a loop that ends at a step of its own choice.

    Use as a context manager in the main thread. Several processes must stop at the same step: there
    JAX listens to SIGTERM itself, and tells all of them a step that each has yet to reach.
    """

    def __init__(self):
        self._told = False
        self._before: dict[int, object] = {}

    def __enter__(self) -> "Notice":
        """Listens."""
        several = _are_several()
        for number in SIGNALS:
            if not several:
                self._before[number] = signal.signal(number, self._note)
            elif number != signal.SIGTERM:
                self._before[number] = signal.signal(number, _as_sigterm)
        return self

    def __exit__(self, *_) -> None:
        """Puts back who listened before."""
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        self._told = True

    def reached(self, step: int) -> bool:
        """Whether this is the step to stop at; asked once after each step, in all processes."""
        if _are_several():
            from jax.experimental import multihost_utils

            return multihost_utils.reached_preemption_sync_point(step)
        return self._told


def _are_several() -> bool:
    import jax  # here, since commands that train nothing need the exit code alone

    return jax.process_count() > 1


def _as_sigterm(number: int, frame: FrameType | None) -> None:
    os.kill(os.getpid(), signal.SIGTERM)


def run_child(command: Sequence[str]) -> int:
    """Runs a command to its end and returns its code; the signals are passed on to it."""
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
