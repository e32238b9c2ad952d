"""The network by XLA: on every device, and what a translation is made of and compared with."""

import hashlib
from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np

from crlm_jax.config.schema import Config
from crlm_jax.config.storage import to_json
from crlm_jax.errors import UserError
from crlm_jax.method.segment import TrainedSegmenter, Variables, load_best, probability
from crlm_jax.models.inputs import network_input
from crlm_jax.runs.folder import RunFolder, read_run
from crlm_jax.system import parallel


def find_device(name: str = "") -> jax.Device:
    """Returns a device by kind and number, such as `cpu`, `gpu` or `gpu:1`; empty: JAX's first.

    Raises:
      UserError: JAX finds no such device.
    """
    kind, _, number = name.partition(":")
    found = parallel.find_devices()
    if not name:
        return found[0]
    try:
        if number and not number.isdecimal():
            raise ValueError(number)
        return jax.devices(kind)[int(number or 0)]
    except (RuntimeError, IndexError, ValueError) as error:
        there = ", ".join(f"{device.platform}:{device.id}" for device in found)
        raise UserError(
            f"--device {name}: JAX finds no such device here, only {there}; name one of these, or "
            "install JAX for the other (crlm_jax[cuda], crlm_jax[tpu])"
        ) from error


def load_run(run: Path, device: jax.Device | None = None) -> TrainedSegmenter:
    """Loads the best checkpoint of a run onto a device; None: JAX's first.

    Raises:
      ConfigError: the folder holds no run.
      FileNotFoundError: the run has no checkpoint.
    """
    mesh = parallel.make_mesh([device] if device else 1)
    return load_best(read_run(run), RunFolder(run).checkpoints, mesh)


def in_own_precision(trained: TrainedSegmenter) -> TrainedSegmenter:
    """Returns a segmenter that computes in float32 on a CPU, and as it was trained elsewhere.

    XLA's bfloat16 makes a CPU slower.
    """
    return trained.in_float32() if parallel.platform(trained.mesh) == "cpu" else trained


def in_float32(trained: TrainedSegmenter) -> Callable[[jax.Array], jax.Array]:
    """Returns the map of slices (B, S, S, C) uint8 to probability (B, S, S), weights inside."""
    graph = trained.in_float32().graph
    constants = jax.tree.map(np.asarray, trained.variables)

    def network(slices: jax.Array) -> jax.Array:
        return probability(graph, constants, network_input(slices), mirror=trained.mirror)

    return network


def compute(trained: TrainedSegmenter, slices: np.ndarray) -> np.ndarray:
    """Maps slices (B, S, S, C) uint8 to probability (B, S, S) float32, in float32."""
    return np.asarray(trained.in_float32().probability(slices))


def fingerprint(config: Config, variables: Variables) -> str:
    """Returns the SHA-256 of configuration and weights."""
    digest = hashlib.sha256(to_json(config).encode())
    for path, value in jax.tree_util.tree_leaves_with_path(variables):
        digest.update(jax.tree_util.keystr(path).encode())
        digest.update(np.asarray(value).tobytes())
    return digest.hexdigest()
