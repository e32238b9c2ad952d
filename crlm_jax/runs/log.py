"""The training log, `train.jsonl`: losses, speed, memory and validation DSC, line by line."""

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np

from crlm_jax.config.notices import is_phantom
from crlm_jax.config.schema import Config
from crlm_jax.config.selection import metric_name
from crlm_jax.errors import UserError
from crlm_jax.system import parallel
from crlm_jax.system.files import append, write_whole

if sys.platform != "win32":
    import resource


Listener = Callable[[dict[str, Any]], None]  # takes a line of the log

SHARES = ("loss_shares", "gradient_shares")  # of a line


class NonFiniteLoss(UserError):
    """The loss became NaN or infinite."""


class TrainLog:
    """Collects the terms of the steps on the device and writes their means to `train.jsonl`.

    Numbers are fetched from the device only at `flush`, so that no step waits for them.

    Args:
      path: of the log. Lines after step `start` are dropped, since those steps are done again.
      start: the step of the run's own checkpoint that training goes on from; −1: it has none.
      config: the experiment.
      name_record: names a training record for the error of a non-finite loss, as `p1/ct z=3`.
      listener: takes each line too, in the main process.
    """

    def __init__(
        self,
        path: Path,
        start: int,
        config: Config,
        name_record: Callable[[int], str],
        listener: Listener | None = None,
    ) -> None:
        self._path, self._name_record, self._listener = path, name_record, listener
        self._batch_size = config.train.batch_size
        self._metric = metric_name(config)
        self._data = "phantom" if is_phantom(config) else "cohort"
        self._window: list[tuple[int, dict[str, jax.Array], np.ndarray]] = []
        self._since = time.perf_counter()
        if parallel.is_main():
            kept = [line for line in read_log(path) if line["step"] <= start]
            write_whole(path, "".join(json.dumps(line) + "\n" for line in kept))

    def add(self, step: int, terms: dict[str, jax.Array], records: np.ndarray) -> None:
        """Takes the terms of a step and the records (B,) of its batch; waits for no device."""
        self._window.append((step, terms, records))

    def flush(self) -> str:
        """Writes the means since the last flush; returns them for the progress bar.

        Raises:
          NonFiniteLoss: a term of one of the steps is NaN or infinite.
        """
        window = [(step, _ordered(terms), rows) for step, terms, rows in self._window]
        self._window = []
        for step, terms, rows in window:
            if not all(np.isfinite(value) for value in terms.values()):
                raise NonFiniteLoss(self._describe(step, terms, rows))
        means = {k: float(np.mean([t[k] for _, t, _ in window])) for k in window[0][1]}
        elapsed, self._since = time.perf_counter() - self._since, time.perf_counter()
        speed = round(len(window) * self._batch_size / elapsed, 2)
        self._write({"step": window[-1][0], **means, "slices_per_second": speed, **_peak_memory()})
        text = " ".join(f"{k} {value:.3f}" for k, value in means.items() if k != "grad_norm")
        return f"{text} {speed:.1f} slices/s"

    def validation(self, step: int, dsc: float | None) -> None:
        """Writes the mean DSC of the validation patients, by the name of its protocol.

        None: there are none, or none of them has a tumour slice; nothing is written.
        """
        if dsc is not None:
            self._write({"step": step, self._metric: dsc, "data": self._data})
        self._since = time.perf_counter()

    def shares(self, step: int, loss: dict[str, float], gradient: dict[str, float]) -> None:
        """Writes the shares of the loss's terms, by name, in its value and in its gradient."""
        rounded = ({name: round(x, 4) for name, x in each.items()} for each in (loss, gradient))
        self._write({"step": step, **dict(zip(SHARES, rounded, strict=True))})
        self._since = time.perf_counter()

    def _write(self, line: dict[str, Any]) -> None:
        if parallel.is_main():
            append(self._path, json.dumps(line) + "\n")
            if self._listener is not None:
                self._listener(line)

    def _describe(self, step: int, terms: dict[str, float], rows: np.ndarray) -> str:
        names = sorted({self._name_record(row) for row in rows.tolist()})
        values = ", ".join(f"{name} {value:g}" for name, value in terms.items())
        return (
            f"the loss is not finite at step {step} ({values}); cases of the batch: "
            f"{', '.join(names)}; the checkpoints before it are kept. Look at these "
            "images, or lower --config.optimizer.learning_rate"
        )


def _peak_memory() -> dict[str, int]:
    """Returns the peak memory in MiB of this process and of the fullest of its devices."""
    memory: dict[str, int] = {}
    if sys.platform != "win32":
        unit = 1 if sys.platform == "darwin" else 1024  # macOS counts in bytes, Linux in KiB
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        memory["host_peak_mib"] = peak * unit >> 20
    stats = [device.memory_stats() for device in jax.local_devices()]
    peaks = [found["peak_bytes_in_use"] for found in stats if found]  # None on the CPU
    if peaks:
        memory["device_peak_mib"] = max(peaks) >> 20
    return memory


def _ordered(terms: dict[str, jax.Array]) -> dict[str, float]:
    """Fetches the terms, the total first; a jitted function returns them in alphabetical order."""
    values = {name: float(value) for name, value in jax.device_get(terms).items()}
    return {"loss": values.pop("loss"), **values}


def read_log(path: Path) -> list[dict[str, Any]]:
    """Reads a training log without a last line that a kill cut short; an absent file is empty."""
    if not path.exists():
        return []
    lines = []
    for text in path.read_text(encoding="utf-8").splitlines():
        try:
            lines.append(json.loads(text))
        except json.JSONDecodeError:
            break
    return lines
