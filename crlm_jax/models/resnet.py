"""ResNet-50 without classifier: the critic of CRLM-GAN, which compares stage features.

Version 1.5 (the stride of a bottleneck is on its 3×3 convolution) with torchvision's names, so
that torchvision's ImageNet weights fit. It has 23,508,032 parameters with all four stages, is built
only up to the last stage that the loss constrains, and starts in evaluation mode: frozen.

References:
  He et al., Deep Residual Learning (https://arxiv.org/abs/1512.03385), 2015.
  Xia et al., CRLM-GAN, Cancer Imaging 26:10, 2025.
"""

import functools
from typing import ClassVar, Unpack

import jax
import jax.numpy as jnp
from flax import nnx

from crlm_jax.models import packing
from crlm_jax.models.layers import BatchNorm, Common, Conv, kaiming_normal
from crlm_jax.models.resampling import max_pool

BLOCKS = (3, 4, 6, 3)  # bottlenecks of stages 1 to 4
EXPANSION = 4  # output channels of a bottleneck over those of its 3×3 convolution

# First weight of the last batch norm of a bottleneck; loaded weights replace it. Under frozen
# statistics (mean 0, variance 1) a random branch is not normalised to unit variance. With weight 1,
# as torchvision has it, the features' root mean square grows from 0.6 in stage 1 to 17 in stage 4,
# so that one stage would dominate the distance. With 0.5 it stays between 0.3 and 0.6 (measured on
# 64 × 64 standard normal images).
BRANCH_WEIGHT = 0.5


class Bottleneck(nnx.Module):
    """1×1, 3×3 and 1×1 convolution beside a shortcut: (B, H, W, I) -> (B, H/stride, W/stride, 4C).

    Args:
      in_channels: I.
      channels: C, of the 3×3 convolution.
      stride: of the 3×3 convolution and of the shortcut.
      common: as for every layer.
    """

    def __init__(self, in_channels: int, channels: int, *, stride: int, **common: Unpack[Common]):
        conv = functools.partial(Conv, bias=False, init=kaiming_normal, **common)
        out_channels = EXPANSION * channels
        self.conv1 = conv(in_channels, channels, 1)
        self.bn1 = BatchNorm(channels)
        self.conv2 = conv(channels, channels, 3, stride=stride)
        self.bn2 = BatchNorm(channels)
        self.conv3 = conv(channels, out_channels, 1)
        self.bn3 = BatchNorm(out_channels, weight=BRANCH_WEIGHT)
        self.downsample: nnx.List[Conv | BatchNorm] | None
        if stride == 1 and in_channels == out_channels:
            self.downsample = None
        else:
            projection = conv(in_channels, out_channels, 1, stride=stride)
            self.downsample = nnx.List([projection, BatchNorm(out_channels)])

    def __call__(self, x: jax.Array) -> jax.Array:
        """Returns the sum of branch and shortcut after a ReLU."""
        y = jax.nn.relu(self.bn1(self.conv1(x)))
        y = jax.nn.relu(self.bn2(self.conv2(y)))
        y = self.bn3(self.conv3(y))
        if self.downsample is not None:
            projection, norm = self.downsample
            x = norm(projection(x))
        return jax.nn.relu(x + y)


class ResNet50(nnx.Module):
    """Image (B, H, W, in_channels) -> features of stages 1 to `last_stage`.

    Stage s has `4 · width · 2^(s−1)` channels at 1/2^(s+1) of the sides; of 224 × 224 pixels:
    (B, 56, 56, 256), (B, 28, 28, 512), (B, 14, 14, 1024), (B, 7, 7, 2048). They have the compute
    dtype. Near convergence the gradient of their distance is a small difference of large numbers,
    so that a critic computes in float32 with exact products. The image may be packed
    (`crlm_jax.models.packing`).

    Args:
      last_stage: 1 to 4; later stages are not built.
      in_channels: of the image.
      width: channels of the stem; 64 in every published ResNet-50.
      dtype: of the computation; parameters are float32.
      exact: products as exact as float32 on every platform.
      rngs: source of `params` keys; the same key gives the same stage whatever `last_stage`.
    """

    TAKES_PACKED: ClassVar = True

    def __init__(
        self,
        *,
        last_stage: int = 4,
        in_channels: int = 3,
        width: int = 64,
        dtype: jnp.dtype = jnp.float32,
        exact: bool = False,
        rngs: nnx.Rngs,
    ):
        self.in_channels, self.last_stage = in_channels, last_stage
        common: Common = {"dtype": dtype, "exact": exact, "rngs": rngs}
        self.conv1 = Conv(
            in_channels, width, 7, stride=2, bias=False, init=kaiming_normal, **common
        )
        self.bn1 = BatchNorm(width)
        before = width
        for stage in range(1, last_stage + 1):
            channels, blocks = width * 2 ** (stage - 1), []
            for block in range(BLOCKS[stage - 1]):
                stride = 2 if stage > 1 and block == 0 else 1
                blocks.append(Bottleneck(before, channels, stride=stride, **common))
                before = EXPANSION * channels
            setattr(self, f"layer{stage}", nnx.List(blocks))
        self.eval()

    @property
    def unbuilt(self) -> tuple[str, ...]:
        """Patterns of the tensors that a complete file holds beyond `last_stage`."""
        return tuple(f"layer{s}.*" for s in range(self.last_stage + 1, len(BLOCKS) + 1))

    def __call__(self, image: jax.Array) -> list[jax.Array]:
        """Returns the output of every stage, stage s at index s − 1."""
        x = self.conv1(image, layout=packing.layout_of(image, self.in_channels))
        x = max_pool(jax.nn.relu(self.bn1(x)), 3)
        features = []
        for stage in range(1, self.last_stage + 1):
            for block in getattr(self, f"layer{stage}"):
                x = block(x)
            features.append(x)
        return features
