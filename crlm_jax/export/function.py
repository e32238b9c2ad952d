"""The exported function: the network at its own size, from grey levels to probability."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax import export as jax_export

from crlm_jax.config.schema import Config
from crlm_jax.method.segment import TrainedSegmenter, probability
from crlm_jax.models.inputs import network_input

PLATFORMS = ("cpu", "cuda", "tpu")

# Grey levels (B, S, S), or (B, S, S, 3) where a slice shows three images -> (B, S, S) probability
Network = Callable[[jax.Array], jax.Array]


def make_network(trained: TrainedSegmenter) -> Network:
    """Builds the function to export, with the weights inside.

    Returns:
      The map of grey levels 0 … 255, float32 (B, *slice_shape), to the probability of tumour
      (B, S, S), float32.
    """
    constants = jax.tree.map(np.asarray, trained.variables)  # numbers of the program, on no device

    def network(grey: jax.Array) -> jax.Array:
        image = network_input(grey if trained.config.data.planes > 1 else grey[..., None])
        return probability(trained.graph, constants, image, mirror=trained.mirror)

    return network


def slice_shape(config: Config) -> tuple[int, ...]:
    """Returns the shape of a slice that the exported function takes: (S, S) or (S, S, 3)."""
    size, planes = config.data.image_size, config.data.planes
    return (size, size) if planes == 1 else (size, size, planes)


def to_stablehlo(network: Network, shape: tuple[int, ...]) -> bytes:
    """Serialises a network for any number of slices and for all of `PLATFORMS`.

    `jax.export.deserialize` reads the result; `jax.jit(loaded.call)(grey)` runs it.

    Args:
      network: from `make_network`.
      shape: from `slice_shape`.
    """
    batch = jax_export.symbolic_shape(", ".join(map(str, ("B", *shape))))
    exported = jax_export.export(jax.jit(network), platforms=PLATFORMS)(
        jax.ShapeDtypeStruct(batch, jnp.float32)
    )
    return bytes(exported.serialize())
