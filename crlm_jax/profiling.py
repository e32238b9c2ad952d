"""A trace of some training steps, for xprof: `xprof --logdir runs/NAME/profile`."""

import contextlib
from pathlib import Path

import jax

from crlm_jax import parallel

_SKIPPED = 2  # the first step of a process compiles, the second may still wait for it


class Profiler:
    """Traces `steps` steps of a training, from the third that the main process does.

    Use as a context manager; leaving it writes what there is of the trace.

    Args:
      folder: `plugins/profile/TIME/HOST.xplane.pb` is written under it.
      steps: how many; 0: nothing is traced.
      start: the step that training goes on from.
    """

    def __init__(self, folder: Path, steps: int, start: int):
        self._folder = folder
        self._first = start + _SKIPPED + 1
        self._last = self._first + steps - 1 if steps and parallel.is_main() else 0
        self._tracing = False

    def __enter__(self) -> "Profiler":
        """Returns itself."""
        return self

    def __exit__(self, *_) -> None:
        """Ends a trace that the training was too short for."""
        self._stop()

    def step(self, step: int) -> contextlib.AbstractContextManager:
        """Returns the context to do a step in; its number is shown in the trace."""
        if step > self._last:
            self._stop()
            return contextlib.nullcontext()
        if step == self._first:
            jax.profiler.start_trace(self._folder)
            self._tracing = True
        return jax.profiler.StepTraceAnnotation("train", step_num=step)

    def _stop(self) -> None:
        if self._tracing:
            self._tracing = False
            (-jax.device_put(0.0)).block_until_ready()  # after all that the device has to do yet
            jax.profiler.stop_trace()
