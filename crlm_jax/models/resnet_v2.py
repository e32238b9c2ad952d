"""ResNet-V2 of Big Transfer: standardised convolutions and group norms, as TransUNet begins.

Follows `vit_seg_modeling_resnet_skip.py` of github Beckschen/TransUNet with its names.

References:
  Kolesnikov et al., Big Transfer (https://arxiv.org/abs/1912.11370), 2019.
"""

from collections.abc import Sequence
from typing import Unpack

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from crlm_jax.models.layers import Common, Conv
from crlm_jax.models.resampling import max_pool

GROUPS = 32  # of a group norm


def _normalise(x: jax.Array, axes: tuple[int, ...], epsilon: float) -> jax.Array:
    """Zero mean and unit (biased) variance over some axes, in float32 at least."""
    x = x.astype(jnp.promote_types(x.dtype, jnp.float32))
    x = x - x.mean(axes, keepdims=True)
    return x * jax.lax.rsqrt(jnp.square(x).mean(axes, keepdims=True) + epsilon)


class StdConv(Conv):
    """Convolution without bias by a weight that is standardised for each output channel."""

    def kernel(self) -> jax.Array:
        """The standardised weight."""
        weight = self.weight[...].astype(jnp.promote_types(self.dtype, jnp.float32))
        return _normalise(weight, (0, 1, 2), 1e-5).astype(self.dtype)


class Norm(nnx.Module):
    """Zero mean and unit variance, then a weight and a bias for each of C channels.

    A layer norm, (B, N, C) of each token, unless `groups` is given: then a group norm, (B, H, W, C)
    of each image over its pixels and C / groups neighbouring channels, one where C is less.
    """

    def __init__(self, channels: int, *, groups: int | None = None, epsilon: float = 1e-6):
        self.groups = None if groups is None else min(groups, channels)
        self.epsilon = epsilon
        self.weight = nnx.Param(jnp.asarray(np.ones(channels, np.float32)))
        self.bias = nnx.Param(jnp.asarray(np.zeros(channels, np.float32)))

    def __call__(self, x: jax.Array) -> jax.Array:
        """Computes in float32 at least; the result has the dtype of x."""
        if self.groups is None:
            y = _normalise(x, (-1,), self.epsilon)
        else:
            grouped = x.reshape(x.shape[0], -1, self.groups, x.shape[-1] // self.groups)
            y = _normalise(grouped, (1, 3), self.epsilon).reshape(x.shape)
        return (y * self.weight[...] + self.bias[...]).astype(x.dtype)


class Unit(nnx.Module):
    """Bottleneck beside a shortcut: (B, H, W, I) -> (B, H/stride, W/stride, 4C).

    The 3×3 convolution has C channels and, like the shortcut, the stride.
    """

    def __init__(self, in_channels: int, channels: int, *, stride: int, **common: Unpack[Common]):
        out = 4 * channels
        self.gn1 = Norm(channels, groups=GROUPS)
        self.conv1 = StdConv(in_channels, channels, 1, bias=False, **common)
        self.gn2 = Norm(channels, groups=GROUPS)
        self.conv2 = StdConv(channels, channels, 3, stride=stride, bias=False, **common)
        self.gn3 = Norm(out, groups=GROUPS)
        self.conv3 = StdConv(channels, out, 1, bias=False, **common)
        self.projects = stride != 1 or in_channels != out
        if self.projects:
            self.downsample = StdConv(in_channels, out, 1, stride=stride, bias=False, **common)
            self.gn_proj = Norm(out, groups=out, epsilon=1e-5)  # unlike the others

    def __call__(self, x: jax.Array) -> jax.Array:
        """Returns the sum of branch and shortcut after a ReLU."""
        y = jax.nn.relu(self.gn1(self.conv1(x)))
        y = jax.nn.relu(self.gn2(self.conv2(y)))
        y = self.gn3(self.conv3(y))
        shortcut = self.gn_proj(self.downsample(x)) if self.projects else x
        return jax.nn.relu(shortcut + y)


class Root(nnx.Module):
    """Image (B, H, W, I) -> (B, H/2, W/2, width), the first layer of the ResNet."""

    def __init__(self, in_channels: int, width: int, **common: Unpack[Common]):
        self.conv = StdConv(in_channels, width, 7, stride=2, bias=False, **common)
        self.gn = Norm(width, groups=GROUPS)

    def __call__(self, image: jax.Array) -> jax.Array:
        return jax.nn.relu(self.gn(self.conv(image)))


class ResNetV2(nnx.Module):
    """Image (B, H, W, I) -> map (B, H/16, W/16, 16w) and the skips, coarsest first.

    The skips have 8w, 4w and w channels at 1/8, 1/4 and 1/2 of the sides. The first unit of stages
    2 and 3 halves the sides.
    """

    def __init__(
        self, in_channels: int, width: int, units: Sequence[int], **common: Unpack[Common]
    ):
        self.root = Root(in_channels, width, **common)
        self.units = tuple(units)
        self.body: nnx.Dict[nnx.Dict[Unit]] = nnx.Dict()
        before = width
        for stage, count in enumerate(units, start=1):
            block: nnx.Dict[Unit] = nnx.Dict()
            channels = width * 2 ** (stage - 1)
            for unit in range(1, count + 1):
                stride = 2 if stage > 1 and unit == 1 else 1
                block[f"unit{unit}"] = Unit(before, channels, stride=stride, **common)
                before = 4 * channels
            self.body[f"block{stage}"] = block

    def __call__(self, image: jax.Array) -> tuple[jax.Array, list[jax.Array]]:
        """Sides must be multiples of 16."""
        x = self.root(image)
        skips = [x]
        # The original pools 3×3 with stride 2 and no padding: of 2n rows n − 1 are left. Here the
        # windows of a padded pool are moved by one row and column; those over padding are dropped.
        x = max_pool(jnp.pad(x, ((0, 0), (1, 0), (1, 0), (0, 0))), 3)[:, 1:-1, 1:-1]
        for stage, count in enumerate(self.units, start=1):
            for unit in range(1, count + 1):
                x = self.body[f"block{stage}"][f"unit{unit}"](x)
            side = [n // 2 ** (stage + 1) for n in image.shape[1:3]]
            # Zeros below and on the right replace the row and column that the pool lost, in the
            # skip only: the next stage takes the smaller map, whose half is rounded up again.
            missing = [(0, wanted - n) for wanted, n in zip(side, x.shape[1:3], strict=True)]
            skips.append(jnp.pad(x, ((0, 0), *missing, (0, 0))))
        return x, skips[-2::-1]  # without the last map, which is x itself
