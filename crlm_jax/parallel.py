"""Devices and processes: device mesh, `jax.distributed`, host-local batch -> global array.

The batch is split over every device of every process and the state is copied to each of them;
`jax.jit` does the rest. One CPU, eight GPUs and a TPU pod run the same program.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

AXIS = "data"


def start(coordinator: str = "", processes: int = 0, process: int = -1) -> None:
    """Joins the processes of one run; before any other use of JAX.

    Args:
      coordinator: `host:port` of process 0; empty: found by JAX (SLURM, Kubernetes, Cloud TPU).
      processes: how many there are; 0: found by JAX.
      process: which of them this one is; -1: found by JAX.
    """
    jax.distributed.initialize(
        coordinator_address=coordinator or None,
        num_processes=processes or None,
        process_id=process if process >= 0 else None,
    )


def use_compile_cache(cache: str) -> None:
    """Keeps compiled programs in the cache folder (`data.cache`), for the next process."""
    path = Path(cache).expanduser() / "xla"
    jax.config.update("jax_compilation_cache_dir", str(path))


def make_mesh(devices: int | Sequence[jax.Device] | None = None) -> Mesh:
    """Returns a mesh of one axis, `data`, over all devices, the first `devices`, or these."""
    some = devices is None or isinstance(devices, int)
    chosen = jax.devices()[:devices] if some else list(devices)
    return jax.make_mesh((len(chosen),), (AXIS,), (AxisType.Auto,), devices=chosen)


def replicated(mesh: Mesh) -> NamedSharding:
    """Every device holds the whole array."""
    return NamedSharding(mesh, PartitionSpec())


def split_by_batch(mesh: Mesh) -> NamedSharding:
    """Every device holds its share of the first axis."""
    return NamedSharding(mesh, PartitionSpec(AXIS))


def check_batch_size(batch_size: int, mesh: Mesh, field: str) -> None:
    """Raises ValueError where the devices cannot share `batch_size` slices evenly."""
    if batch_size % mesh.size:
        raise ValueError(
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


def to_host(array: jax.Array) -> np.ndarray:
    """Returns the whole array in every process's memory, whoever computed its parts."""
    return np.asarray(multihost_utils.process_allgather(array, tiled=True))


def is_main() -> bool:
    """Whether this process writes logs, figures and reports."""
    return jax.process_index() == 0
