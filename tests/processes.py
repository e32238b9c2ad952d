"""The command in processes of its own: started, watched, stopped, and what their runs hold."""

import atexit
import multiprocessing
import os
import signal
import socket
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import jax
import numpy as np

from crlm_jax import main
from crlm_jax.config.schema import Config, flatten
from crlm_jax.method.checkpoint import Checkpoints
from crlm_jax.method.step import TrainState, create_state
from crlm_jax.runs.log import read_log
from crlm_jax.system import parallel
from crlm_jax.training.loop import checkpoint_parts, segmenter_part, with_parts

PATIENCE = 300  # seconds, for anything to happen


def flags(config: Config) -> list[str]:
    """The command line that makes this config out of any experiment."""
    lines = []
    for name, value in flatten(config).items():
        text = ",".join(map(str, value)) if isinstance(value, tuple) else value
        lines.append(f"--config.{name}={text}")
    return lines


def words(config: Config, workdir: Path) -> list[str]:
    """The arguments of the command for a run of this config."""
    return ["--config", "configs/pre_dwi.py", "--workdir", str(workdir), *flags(config)]


def own_caches(folder: Path, count: int) -> list[list[str]]:
    """Arguments of processes that each prepare the slices on a disk of their own."""
    return [
        ["--noconfig.data.cache_shared", f"--config.data.cache={folder / f'cache_{i}'}"]
        for i in range(count)
    ]


class Run:
    """The processes of one run on this machine.

    Args:
      config: the experiment.
      workdir: of the run; what the processes print goes to files beside it.
      count: of processes.
      devices: of each.
      arguments: further ones, by process.
      outputs: folder of those files instead.
    """

    def __init__(
        self,
        config: Config,
        workdir: Path,
        count: int = 1,
        devices: int = 1,
        arguments: Sequence[Sequence[str]] = (),
        outputs: Path | None = None,
    ):
        folder = outputs or workdir.parent
        self._outputs = [folder / f"{workdir.name}_{i}.txt" for i in range(count)]
        self._workdir = workdir
        several = [
            "--distributed",
            f"--coordinator=localhost:{free_port()}",
            f"--processes={count}",
        ]
        self.processes = []
        for i, output in enumerate(self._outputs):
            process = [*several, f"--process={i}"] if count > 1 else []
            further = arguments[i] if arguments else ()
            argv = [*words(config, workdir), *process, *further]
            self.processes.append(fork(argv, output, devices))

    def outputs(self) -> list[str]:
        return [output.read_text(encoding="utf-8") for output in self._outputs]

    def wait_for_step(self, step: int) -> bool:
        """Waits for the log of this step; returns whether the run still goes on."""
        end = time.monotonic() + PATIENCE
        while last_step(self._workdir) < step:
            if any(process.exitcode is not None for process in self.processes):
                return False
            assert time.monotonic() < end, self.outputs()
            time.sleep(0.02)
        return True

    def stop(self, number: int = signal.SIGTERM) -> None:
        for process in self.processes:
            os.kill(process.pid, number)

    def end(self) -> list[int]:
        """Waits for the end of all processes; returns their exit codes."""
        end = time.monotonic() + PATIENCE
        try:
            for process in self.processes:
                process.join(max(1, end - time.monotonic()))
            return [process.exitcode for process in self.processes]
        finally:
            for process in self.processes:
                process.kill()


# What the command loads only where it needs it.
LATER = (
    "crlm_jax.report.figures",
    "crlm_jax.report.page",
    "matplotlib.backends.backend_agg",
    "crlm_jax.method.checkpoint",
)


def fork(
    argv: Sequence[str], output: Path, devices: int = 1, errors: Path | None = None
) -> multiprocessing.context.ForkServerProcess:
    """Starts the command in a process that has imported it already, which saves seconds.

    Args:
      argv: its arguments.
      output: file of what it prints.
      devices: of the process.
      errors: file of what it prints to stderr; None: `output`, too.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.processes", *LATER])
    arguments = (list(argv), output, errors or output, devices, dict(os.environ))
    process = context.Process(target=_main, args=arguments)
    process.start()
    return process


def _main(
    argv: list[str], output: Path, errors: Path, devices: int, environment: dict[str, str]
) -> None:
    os.environ |= environment  # the server started before some of it was set
    jax.config.update("jax_num_cpu_devices", devices)
    for path, descriptor in ((output, 1), (errors, 2)):
        with path.open("a", encoding="utf-8") as file:
            os.dup2(file.fileno(), descriptor)
    sys.argv = ["main", *argv]
    try:
        main.start(sys.argv)
    finally:
        atexit._run_exitfuncs()  # which multiprocessing leaves out; JAX's processes part there


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        return probe.getsockname()[1]


def final_state(config: Config, workdir: Path) -> tuple[int, TrainState]:
    """The newest checkpoint of a run, and its step."""
    _, state = create_state(config, parallel.make_mesh(1))
    with Checkpoints(workdir / "checkpoints") as checkpoints:
        step, parts = checkpoints.resume(checkpoint_parts(state))
        return step, with_parts(state, parts)


def assert_same_weights(config: Config, one: Path, other: Path, tolerance: float) -> None:
    """Compares the segmenters in the newest checkpoints of two runs; 0: the whole states, by bits.

    The optimiser's momentum is a sum of gradients, in which float32 rounding decides some ReLUs.
    """
    (step, a), (last, b) = final_state(config, one), final_state(config, other)
    assert step == last
    if tolerance:
        a, b = segmenter_part(a), segmenter_part(b)
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        np.testing.assert_allclose(np.asarray(x), np.asarray(y), rtol=tolerance, atol=tolerance)


def last_step(workdir: Path) -> int:
    """The newest step in the log of a run; 0: none."""
    return max((line["step"] for line in read_log(workdir / "train.jsonl")), default=0)


def logged(workdir: Path) -> list[dict]:
    """The lines of `train.jsonl`, without those numbers that time and machine decide."""
    measured = ("slices_per_second", "host_peak_mib", "device_peak_mib")
    return [
        {k: v for k, v in line.items() if k not in measured}
        for line in read_log(workdir / "train.jsonl")
    ]
