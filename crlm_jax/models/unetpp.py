"""UNet++: the segmenter of CRLM-GAN, a UNet whose skips are filled with nested, dense nodes.

Follows the `NestedUNet` of github 4uiiurz1/pytorch-nested-unet, which the released CRLM-GAN code
uses. Node x_{i,j} lies on level i and takes all nodes before it on the level and the one below:

    x_{i,0} = block(pool(x_{i-1,0}))
    x_{i,j} = block([x_{i,0}, …, x_{i,j-1}, up(x_{i+1,j-1})])

With the default widths it has 9,163,329 parameters, 9,163,428 with deep supervision.

References:
  Zhou et al., UNet++ (https://arxiv.org/abs/1807.10165), 2018.
  Xia et al., CRLM-GAN, Cancer Imaging 26:10, 2025.
"""

from collections.abc import Sequence
from typing import ClassVar

import jax
import jax.numpy as jnp
from flax import nnx

from crlm_jax.models.layers import Conv
from crlm_jax.models.options import SegmenterOptions
from crlm_jax.models.resampling import max_pool, upsample
from crlm_jax.models.unet import Block, level_layouts


class UNetPlusPlus(nnx.Module):
    """Image (B, H, W, in_channels) -> maps of logits (B, H, W, out_channels), float32.

    The image may be packed (`crlm_jax.models.packing`).

    Without deep supervision there is one head, on the last node of the finest level; with it there
    is one on every decoder node of that level (`final1` on x_{0,1} …), and the one that sees the
    deepest nodes comes first.

    Args:
      in_channels: of the image.
      out_channels: of the logits.
      widths: channels of each level, finest first; H and W are multiples of 2^(levels − 1).
      deep_supervision: a head on each of x_{0,1}, x_{0,2} …
      dtype: of the computation; parameters and logits are float32.
      rngs: source of `params` keys.
    """

    TAKES_PACKED: ClassVar = True

    conv0_0: Block  # as all conv{i}_{j}, which are set by name
    final: Conv  # without deep supervision

    def __init__(
        self,
        *,
        in_channels: int = 3,
        out_channels: int = 1,
        widths: Sequence[int] = (32, 64, 128, 256, 512),
        deep_supervision: bool = False,
        dtype: jnp.dtype = jnp.float32,
        rngs: nnx.Rngs,
    ):
        self.in_channels, self.depth = in_channels, len(widths) - 1
        self.deep_supervision = deep_supervision
        for i, (before, width) in enumerate(zip((in_channels, *widths), widths, strict=False)):
            setattr(self, f"conv{i}_0", Block(before, width, dtype=dtype, rngs=rngs))
        for j in range(1, self.depth + 1):
            for i in range(self.depth + 1 - j):
                block = Block(j * widths[i] + widths[i + 1], widths[i], dtype=dtype, rngs=rngs)
                setattr(self, f"conv{i}_{j}", block)
        exact = jnp.promote_types(dtype, jnp.float32)
        heads = [f"final{j}" for j in range(1, self.depth + 1)] if deep_supervision else ["final"]
        for name in heads:
            setattr(self, name, Conv(widths[0], out_channels, 1, dtype=exact, rngs=rngs))

    @classmethod
    def from_options(cls, options: SegmenterOptions) -> "UNetPlusPlus":
        return cls(
            widths=options.widths,
            deep_supervision=options.deep_supervision,
            dtype=options.dtype,
            rngs=options.rngs,
        )

    def __call__(self, image: jax.Array) -> tuple[jax.Array, ...]:
        """Returns the heads' logits, that of the deepest nodes first.

        A packed image gives packed logits; then the maps of the finest level are packed too.
        """
        layouts = level_layouts(image, self.in_channels, self.depth)
        levels = [[self.conv0_0(image, layout=layouts[0])]]  # levels[i][j] is x_{i,j}
        for i in range(1, self.depth + 1):
            pooled = max_pool(levels[-1][0], 2, layout=layouts[i - 1])
            levels.append([getattr(self, f"conv{i}_0")(pooled)])
        for j in range(1, self.depth + 1):
            for i in range(self.depth + 1 - j):
                below = upsample(levels[i + 1][j - 1], layout=layouts[i])
                node = getattr(self, f"conv{i}_{j}")(*levels[i], below, layout=layouts[i])
                levels[i].append(node)
        if not self.deep_supervision:
            return (self.final(levels[0][-1], layout=layouts[0]),)
        return tuple(
            getattr(self, f"final{j}")(levels[0][j], layout=layouts[0])
            for j in reversed(range(1, self.depth + 1))
        )
