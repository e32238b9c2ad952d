"""UNet with batch norm: the baseline, and the block that UNet++ shares with it.

Follows the `UNet` of github 4uiiurz1/pytorch-nested-unet, which the released CRLM-GAN code uses:
two 3×3 convolutions a node, max-pooling down, bilinear up-sampling (aligned corners) up.
With the default widths it has 7,852,545 parameters.

References:
  Ronneberger et al., U-Net (https://arxiv.org/abs/1505.04597), 2015.
"""

from collections.abc import Sequence
from typing import ClassVar

import jax
import jax.numpy as jnp
from flax import nnx

from crlm_jax.models import packing
from crlm_jax.models.layers import BatchNorm, Conv
from crlm_jax.models.options import SegmenterOptions
from crlm_jax.models.packing import Layout
from crlm_jax.models.resampling import max_pool, upsample


class Block(nnx.Module):
    """Twice convolution 3×3, batch norm, ReLU: (B, H, W, in_channels) -> (B, H, W, channels)."""

    def __init__(self, in_channels: int, channels: int, *, dtype: jnp.dtype, rngs: nnx.Rngs):
        self.conv1 = Conv(in_channels, channels, 3, dtype=dtype, rngs=rngs)
        self.bn1 = BatchNorm(channels)
        self.conv2 = Conv(channels, channels, 3, dtype=dtype, rngs=rngs)
        self.bn2 = BatchNorm(channels)

    def __call__(self, *inputs: jax.Array, layout: Layout = Layout.PIXELS) -> jax.Array:
        """Takes one or several maps of one size and layout, side by side in the channels."""
        x = inputs
        for conv, norm in ((self.conv1, self.bn1), (self.conv2, self.bn2)):
            y = conv(*x, layout=layout, cancelled_bias=not norm.use_running_average)
            layout = layout.after(3, 1)
            x = (jax.nn.relu(norm(y, layout=layout)),)
        return x[0]


def level_layouts(image: jax.Array, channels: int, depth: int) -> list[Layout]:
    """Layouts of a network's maps by level, finest first: that of its image, then pixels."""
    return [packing.layout_of(image, channels)] + [Layout.PIXELS] * depth


class UNet(nnx.Module):
    """Image (B, H, W, in_channels) -> one map of logits (B, H, W, out_channels), float32.

    The image may be packed (`crlm_jax.models.packing`).

    Nodes are named `conv{i}_{j}` as in the UNet++ figure: level i, j steps along the level. The
    encoder is `conv{i}_0`; the decoder's node at level i is `conv{i}_{depth - i}`.

    Args:
      in_channels: of the image.
      out_channels: of the logits.
      widths: channels of each level, finest first; H and W are multiples of 2^(levels − 1).
      dtype: of the computation; parameters and logits are float32.
      rngs: source of `params` keys.
    """

    TAKES_PACKED: ClassVar = True

    conv0_0: Block  # as all conv{i}_{j}, which are set by name

    def __init__(
        self,
        *,
        in_channels: int = 3,
        out_channels: int = 1,
        widths: Sequence[int] = (32, 64, 128, 256, 512),
        dtype: jnp.dtype = jnp.float32,
        rngs: nnx.Rngs,
    ):
        self.in_channels, self.depth = in_channels, (depth := len(widths) - 1)
        for i, (before, width) in enumerate(zip((in_channels, *widths), widths, strict=False)):
            setattr(self, f"conv{i}_0", Block(before, width, dtype=dtype, rngs=rngs))
        for i in reversed(range(depth)):
            block = Block(widths[i] + widths[i + 1], widths[i], dtype=dtype, rngs=rngs)
            setattr(self, f"conv{i}_{depth - i}", block)
        exact = jnp.promote_types(dtype, jnp.float32)
        self.final = Conv(widths[0], out_channels, 1, dtype=exact, rngs=rngs)

    @classmethod
    def from_options(cls, options: SegmenterOptions) -> "UNet":
        return cls(widths=options.widths, dtype=options.dtype, rngs=options.rngs)

    def __call__(self, image: jax.Array) -> tuple[jax.Array, ...]:
        """Returns a tuple of one, as segmenters with several heads return several.

        A packed image gives packed logits; then the maps of the finest level are packed too.
        """
        layouts = level_layouts(image, self.in_channels, self.depth)
        encoded = [self.conv0_0(image, layout=layouts[0])]
        for i in range(1, self.depth + 1):
            pooled = max_pool(encoded[-1], 2, layout=layouts[i - 1])
            encoded.append(getattr(self, f"conv{i}_0")(pooled))
        x = encoded[-1]
        for i in reversed(range(self.depth)):
            below = upsample(x, layout=layouts[i])
            x = getattr(self, f"conv{i}_{self.depth - i}")(encoded[i], below, layout=layouts[i])
        return (self.final(x, layout=layouts[0]),)
