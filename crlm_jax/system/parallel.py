"""Devices and processes: device mesh, `jax.distributed`, host-local batch -> global array.

The batch is split over every device of every process and the state is copied to each device;
`jax.jit` does the rest. One CPU, eight GPUs and a TPU pod run the same program.

All processes train together, in one computation. In evaluation each process takes cases of its own
and uses its own devices, and the measurements are gathered.
"""

import faulthandler
import json
import os
import re
import sys
import time
import traceback
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from crlm_jax.errors import UserError

AXIS = "data"
LOST_AFTER = 60  # seconds
_lost_after = LOST_AFTER  # of this process, as `start` was told
_FILE_SYSTEM = 90  # seconds
_REPORT = 3600  # seconds; the others wait for the main process, which writes the report


def use_threads(count: int) -> None:
    """Sets how many threads JAX computes with on the CPU; called before any other use of JAX.

    XLA sums in another order with another number of threads, whatever the number of cores. Two
    processes with the same number compute the same.

    Args:
      count: 0: one for each core that the process may use.
    """
    if count:
        os.environ["NPROC"] = str(count)  # which XLA's CPU client reads when it starts


def threads() -> int:
    """Returns how many threads JAX computes with on the CPU."""
    if (told := os.environ.get("NPROC", "")).isdecimal():
        return int(told)
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def start(
    coordinator: str = "", processes: int = 0, process: int = -1, lost_after: int = LOST_AFTER
) -> None:
    """Joins the processes of one run; called before any other use of JAX.

    If a process dies or is cut off, JAX ends the others (SIGABRT) after `lost_after` seconds, with
    a message that names the number of the lost process.

    Args:
      coordinator: `host:port` of process 0; empty: JAX finds it (SLURM, Kubernetes, Cloud TPU).
      processes: how many processes there are; 0: JAX finds the number.
      process: the number of this process; -1: JAX finds it.
      lost_after: seconds of silence after which a process counts as lost.

    Raises:
      UserError: a value that is not given cannot be found.
    """
    global _lost_after
    _lost_after = lost_after
    # The list of all threads would bury the message with which JAX ends a process.
    faulthandler.disable()
    if coordinator:
        print(f"waiting for all processes to join at {coordinator}", file=sys.stderr, flush=True)
    try:
        jax.distributed.initialize(
            coordinator_address=coordinator or None,
            num_processes=processes or None,
            process_id=process if process >= 0 else None,
            heartbeat_timeout_seconds=lost_after,
            shutdown_timeout_seconds=_REPORT,
        )
    except ValueError as error:
        raise UserError(
            f"--distributed: {error} Outside SLURM, Kubernetes and Cloud TPU, give "
            "--coordinator=HOST:PORT, --processes=N and --process=I, from 0"
        ) from error


def is_cut_off(error: Exception) -> bool:
    """Whether a computation with the other processes failed because one could not be reached."""
    signs = "Gloo|NCCL|UNAVAILABLE|ABORTED|heartbeat|connection"
    return jax.process_count() > 1 and bool(re.search(signs, str(error), re.IGNORECASE))


def leave(message: str | None, error: Exception) -> NoReturn:
    """Ends one of several processes with exit code 1 because of an error.

    The process exits immediately: a normal exit would wait for peers that are blocked in a
    collective operation. The peers learn of the exit from JAX. But if `error` says that a peer
    could not be reached, this process waits for JAX to name the lost one, and to end it.

    Args:
      message: what a user can mend, printed as one line; None: the traceback is printed.
      error: the one that ended the command.
    """
    lost = is_cut_off(error)
    if lost or message:
        print(f"process {jax.process_index()}: error: {message or error}", file=sys.stderr)
    else:
        traceback.print_exception(error)
    sys.stdout.flush()
    if lost:
        print(f"JAX names the lost process within {_lost_after} s:", file=sys.stderr, flush=True)
        time.sleep(_lost_after + 10)
    sys.stderr.flush()
    os._exit(1)


def use_compile_cache(cache: str) -> None:
    """Keeps compiled programs in the cache folder (`data.cache`), for the next process.

    A folder that the environment gives to JAX (`JAX_COMPILATION_CACHE_DIR`) is used instead.
    """
    if not os.environ.get("JAX_COMPILATION_CACHE_DIR"):
        path = Path(cache).expanduser() / "xla"
        jax.config.update("jax_compilation_cache_dir", str(path))
    # All of them: a run also compiles dozens of small ones, which take seconds together.
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)


def find_devices() -> list[jax.Device]:
    """Returns the devices that JAX computes on.

    Raises:
      UserError: JAX_PLATFORMS asks for a platform that this machine, or this installation, lacks.
    """
    try:
        return jax.devices()
    except (RuntimeError, AssertionError) as error:  # JAX raises either, by platform
        asked = getattr(jax.config, "jax_platforms", None) or "its default"
        reason = " ".join(str(error).split()).partition(" (set JAX_PLATFORMS")[0]
    jax.config.update("jax_platforms", None)
    there = ", ".join(sorted({device.platform for device in jax.devices()}))
    extra = {"cuda": "cuda", "gpu": "cuda", "tpu": "tpu"}.get(asked.split(",")[0])
    install = f"install crlm_jax[{extra}] on a machine that has it, or " if extra else ""
    raise UserError(
        f"JAX_PLATFORMS={asked}: no such device is usable here{f' ({reason})' if reason else ''}; "
        f"there is {there}: {install}unset JAX_PLATFORMS"
    )


def make_mesh(devices: int | Sequence[jax.Device] | None = None) -> Mesh:
    """Returns a mesh of one axis, `data`, over all devices, the first `devices`, or these.

    Raises:
      UserError: as `find_devices`.
    """
    if devices is None or isinstance(devices, int):
        devices = find_devices()[:devices]
    chosen = list(devices)
    return jax.make_mesh((len(chosen),), (AXIS,), (AxisType.Auto,), devices=chosen)


def platform(mesh: Mesh) -> str:
    """Returns the platform of a mesh's devices: "cpu", "gpu" or "tpu"."""
    return mesh.devices.flat[0].platform


def replicated(mesh: Mesh) -> NamedSharding:
    """Every device holds the whole array."""
    return NamedSharding(mesh, PartitionSpec())


def split_by_batch(mesh: Mesh) -> NamedSharding:
    """Every device holds its share of the first axis."""
    return NamedSharding(mesh, PartitionSpec(AXIS))


def check_batch_size(batch_size: int, mesh: Mesh, field: str) -> None:
    """Raises UserError where the devices cannot share `batch_size` slices evenly."""
    if batch_size % mesh.size:
        raise UserError(
            f"{field} = {batch_size} cannot be shared evenly by {mesh.size} devices; "
            f"give a multiple of {mesh.size}, such as --config.{field}="
            f"{-(-batch_size // mesh.size) * mesh.size}"
        )


def to_global(batch: Mapping[str, np.ndarray], mesh: Mesh) -> dict[str, jax.Array]:
    """Joins the processes' shares of a batch into arrays over the mesh.

    Args:
      batch: this process's share, first axis = slices; process 0 holds the first rows.
      mesh: from `make_mesh`.

    Returns:
      The same names, arrays of the whole batch.
    """
    sharding = split_by_batch(mesh)
    return {k: jax.make_array_from_process_local_data(sharding, v) for k, v in batch.items()}


def to_local(tree: Any, mesh: Mesh) -> Any:
    """Returns a replicated tree as it lies on the devices of this process; nothing is copied.

    Args:
      tree: of arrays that every device holds as a whole.
      mesh: of this process's devices.
    """

    def local(array: jax.Array) -> jax.Array:
        copies = [shard.data for shard in array.addressable_shards]
        return jax.make_array_from_single_device_arrays(array.shape, replicated(mesh), copies)

    return jax.tree.map(local, tree)


def share(items: Sequence[Any]) -> Sequence[Any]:
    """Returns the items that this process works on; all of them if it is the only process."""
    return items[jax.process_index() :: jax.process_count()]


def gather(value: Any) -> list[Any]:
    """Returns the `value` of every process, process 0 first; all processes call this function.

    Values travel as JSON: a tuple becomes a list.
    """
    text = json.dumps(value)
    if jax.process_count() == 1:
        return [json.loads(text)]
    mine = np.frombuffer(text.encode(), np.uint8)
    sizes = multihost_utils.process_allgather(np.int32(mine.size))
    padded = np.pad(mine, (0, int(sizes.max()) - mine.size))
    rows = np.asarray(multihost_utils.process_allgather(padded))
    return [json.loads(row[:size].tobytes()) for row, size in zip(rows, sizes, strict=True)]


def all_see(folder: Path, names: Collection[str]) -> list[bool]:
    """Returns for every process whether it sees these files of a folder; all processes call it.

    The processes wait for each other first, and then up to `_FILE_SYSTEM` seconds for the files: a
    network file system may take a minute to show one machine what another has written.
    """
    gather(None)
    end = time.monotonic() + _FILE_SYSTEM
    while not (seen := _sees(folder, names)) and time.monotonic() < end:
        time.sleep(0.5)
    return gather(seen)


def _sees(folder: Path, names: Collection[str]) -> bool:
    return folder.is_dir() and set(names) <= {path.name for path in folder.iterdir()}


def is_main() -> bool:
    """Whether this process writes logs, figures and reports."""
    return jax.process_index() == 0


def chosen_numbers(chosen: Iterable[bool]) -> str:
    """Returns the numbers of the processes whose flag is true, such as `0, 2`; empty: none."""
    return ", ".join(str(number) for number, here in enumerate(chosen) if here)
