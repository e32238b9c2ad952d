"""What a segmenter is built from, as plain values."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
from flax import nnx


@dataclasses.dataclass(frozen=True)
class SegmenterOptions:
    """What a configuration says of a segmenter; each `from_options` takes the values that it needs.

    Args:
      widths: channels of each depth, finest first, with the meaning that the segmenter gives them.
      deep_supervision: several heads, where the segmenter has them.
      image_size: side of a slice in pixels.
      own: the values of the configuration's group of the segmenter's name; empty without one.
      dtype: of the computation; parameters are float32.
      rngs: source of `params` keys, and of `dropout`.
    """

    widths: tuple[int, ...]
    deep_supervision: bool
    image_size: int
    own: Mapping[str, Any]
    dtype: jnp.dtype
    rngs: nnx.Rngs
