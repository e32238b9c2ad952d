"""A trace of some training steps, for xprof: `xprof --logdir runs/NAME/profile`."""

import contextlib
import tempfile
from pathlib import Path

import jax

from crlm_jax.system import parallel
from crlm_jax.system.files import write_whole

_SKIPPED = 2  # steps: the first compiles, the second may still wait for the compiler


class Profiler:
    """Traces `steps` steps of a training, from the third step that this process does.

    Use it as a context manager; leaving it writes the trace, also of a training that was shorter.

    Args:
      folder: `plugins/profile/TIME/HOST.xplane.pb` is written under it.
      steps: how many; 0: nothing is traced.
      start: the step that training goes on from.
    """

    def __init__(self, folder: Path, steps: int, start: int):
        self._folder = folder
        self._first = start + _SKIPPED + 1
        self._last = self._first + steps - 1 if steps and parallel.is_main() else 0
        self._tracing: tempfile.TemporaryDirectory | None = None

    def __enter__(self) -> "Profiler":
        return self

    def __exit__(self, *_: object) -> None:
        self._stop()

    def step(self, step: int) -> contextlib.AbstractContextManager:
        """Returns the context to do a step in; its number is shown in the trace."""
        if step > self._last:
            self._stop()
            return contextlib.nullcontext()
        if step == self._first:
            # Traced to a local folder, because the profiler cannot write to a bucket.
            self._tracing = tempfile.TemporaryDirectory()
            jax.profiler.start_trace(self._tracing.name)
        return jax.profiler.StepTraceAnnotation("train", step_num=step)

    def _stop(self) -> None:
        if not self._tracing:
            return
        with self._tracing as traced:
            self._tracing = None
            (-jax.device_put(0.0)).block_until_ready()  # waits for the device's pending work
            jax.profiler.stop_trace()
            for file in filter(Path.is_file, Path(traced).rglob("*")):
                target = self._folder / file.relative_to(traced)
                target.parent.mkdir(parents=True, exist_ok=True)
                write_whole(target, file.read_bytes())
