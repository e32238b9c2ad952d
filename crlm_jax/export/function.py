"""The exported function: the network at its own size, from grey levels to probability."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax import export as jax_export

from crlm_jax.method.segment import TrainedSegmenter, probability
from crlm_jax.models.inputs import network_input

PLATFORMS = ("cpu", "cuda", "tpu")

Network = Callable[[jax.Array], jax.Array]  # (B, S, S) grey levels -> (B, S, S) probability


def make_network(trained: TrainedSegmenter) -> Network:
    """Builds the function to export, with the weights inside.

    Returns:
      The map of grey levels 0 … 255 (B, S, S), float32, to the probability of tumour (B, S, S),
      float32.
    """
    constants = jax.tree.map(np.asarray, trained.variables)  # numbers of the program, on no device

    def network(grey: jax.Array) -> jax.Array:
        image = network_input(grey[..., None])
        return probability(trained.graph, constants, image, mirror=trained.mirror)

    return network


def to_stablehlo(network: Network, size: int) -> bytes:
    """Serialises a network for any number of slices and for all of `PLATFORMS`.

    `jax.export.deserialize` reads the result; `jax.jit(loaded.call)(grey)` runs it.

    Args:
      network: from `make_network`.
      size: S, the side of a slice in pixels.
    """
    shape = jax_export.symbolic_shape(f"B, {size}, {size}")
    exported = jax_export.export(jax.jit(network), platforms=PLATFORMS)(
        jax.ShapeDtypeStruct(shape, jnp.float32)
    )
    return bytes(exported.serialize())
