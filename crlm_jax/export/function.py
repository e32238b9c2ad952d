"""The exported function: raw slices and a window in, probability out."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import export as jax_export

from crlm_jax.export.to_onnx import Function
from crlm_jax.method import segment
from crlm_jax.models.inputs import network_input

PLATFORMS = ("cpu", "cuda", "tpu")


def make_network(
    graph: nnx.GraphDef, variables: dict[str, nnx.State], *, mirror: bool
) -> Callable[[jax.Array], jax.Array]:
    """Builds the map (B, S, S) grey levels 0 … 255, float32 -> (B, S, S) probability, float32."""
    constants = jax.tree.map(np.asarray, variables)  # numbers of the program, on no device

    def network(grey: jax.Array) -> jax.Array:
        return segment.probability(graph, constants, network_input(grey[..., None]), mirror=mirror)

    return network


def make_function(network: Callable[[jax.Array], jax.Array], size: int) -> Function:
    """Builds the exported function (image, window) -> probability.

    Args:
      network: from `make_network`.
      size: S, pixels, side of the square slice that the network sees.

    Returns:
      The map of `image` (B, H, W) float32, finite, in the scan's own unit (CT: HU), and `window`
      (2,) float32, the values shown as black and white, the first below the second, to the
      probability of tumour (B, H, W) float32.
    """

    def probability(image: jax.Array, window: jax.Array) -> jax.Array:
        low, high = window[0], window[1]
        grey = jnp.rint(jnp.clip((image - low) * (255 / (high - low)), 0, 255))
        small = network(jnp.rint(_resize(grey, size, size)))
        return _resize(small, *image.shape[1:])

    return probability


def _taps(old: int, new: int) -> tuple[jax.Array, jax.Array, jax.Array]:
    """As `volumes._taps`, for sizes that may be symbolic and are below 2^14.

    In whole units of 1 / (2 · new) of an old pixel, and the weight by long division to 32 binary
    places: float32 would misplace far pixels, and XLA does not divide exactly. A weight of a half
    that is not quite a half would round grey levels the other way.
    """
    index = jnp.arange(new, dtype=jnp.int32)
    old, new = jnp.asarray(old, jnp.int32), jnp.asarray(new, jnp.int32)
    unit = 2 * new
    place = jnp.clip((2 * index + 1) * old - new, 0, (old - 1) * unit)
    first = jnp.minimum(place // unit, jnp.maximum(old - 2, 0))
    high, rest = jnp.divmod((place - first * unit) * 2**16, unit)
    low = rest * 2**16 // unit
    weight = high.astype(jnp.float32) * 2.0**-16 + low.astype(jnp.float32) * 2.0**-32
    return first, jnp.minimum(first + 1, old - 1), weight


def _resize(x: jax.Array, rows: int, columns: int) -> jax.Array:
    """As `volumes.resize` for float32 in [0, 255]: (B, H, W) -> (B, rows, columns)."""

    def blend(a: jax.Array, b: jax.Array, weight: jax.Array) -> jax.Array:
        # The maximum changes nothing, but keeps the compiler from joining product and sum into one
        # operation, which rounds once, and so takes halfway grey levels another way than NumPy.
        return a + jnp.maximum((b - a) * weight, -256.0)

    top, bottom, down = _taps(x.shape[1], rows)
    left, right, across = _taps(x.shape[2], columns)
    lines = blend(x[:, top], x[:, bottom], down[:, None])
    return blend(lines[:, :, left], lines[:, :, right], across)


def to_stablehlo(function: Function) -> bytes:
    """Serialises (image, window) -> probability for every B, H and W and all of `PLATFORMS`.

    `jax.export.deserialize` reads it; `jax.jit(loaded.call)(image, window)` runs it.
    """
    shape = jax_export.symbolic_shape("B, H, W")
    exported = jax_export.export(jax.jit(function), platforms=PLATFORMS)(
        jax.ShapeDtypeStruct(shape, jnp.float32), jax.ShapeDtypeStruct((2,), jnp.float32)
    )
    return bytes(exported.serialize())
