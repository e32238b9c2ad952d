"""nnU-Net: its plain 2D U-Net for one configuration of the data.

Follows the `PlainConvUNet` of PyPI dynamic-network-architectures 0.4.4 as nnU-Net v2 plans it for
slices of 224 × 224 pixels: six stages, two 3×3 convolutions each, strides instead of pooling,
instance norm, leaky ReLU, transposed convolutions up, and a head on every decoder stage. With one
channel in and two classes out it has 20,619,082 parameters. Attributes have the original's names.
Its state dict lists most tensors under several names, of which the first counts (see `ALIASES`).

References:
  Isensee et al., nnU-Net, Nature Methods 18:203, 2021 (https://arxiv.org/abs/1904.08128).
"""

import math
from collections.abc import Sequence
from typing import ClassVar, Unpack

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from crlm_jax.models.layers import Common, Conv, host_rng, leaky_relu, zero_bias
from crlm_jax.models.options import SegmenterOptions

# Further names of the same tensors in a state dict of PyTorch: `load_torch` is to ignore them.
ALIASES = ("*.all_modules.*", "decoder.encoder.*")

SLOPE = 0.01  # of the leaky ReLU below zero


def he_normal(key: jax.Array, shape: tuple[int, ...]) -> np.ndarray:
    """N(0, 2/((1 + 0.01²) · fan_in)), float32: `InitWeights_He(1e-2)`; shape (size, size, I, O)."""
    deviation = math.sqrt(2 / ((1 + SLOPE**2) * math.prod(shape[:-1])))
    return (deviation * host_rng(key).standard_normal(shape)).astype(np.float32)


def _conv(
    in_channels: int, out_channels: int, size: int, *, stride: int = 1, **common: Unpack[Common]
) -> Conv:
    """A `Conv` as `InitWeights_He` leaves it: He normal weight, zero bias."""
    conv = Conv(in_channels, out_channels, size, stride=stride, init=he_normal, **common)
    return zero_bias(conv)


class ConvTranspose(nnx.Module):
    """Transposed 2×2 convolution with stride 2: (B, H, W, I) -> (B, 2H, 2W, O).

    The windows do not overlap, so it is one matrix product: each pixel becomes 2×2.
    `dtype` is that of the computation.
    """

    TORCH_AXES: ClassVar = {"weight": (2, 3, 0, 1)}  # (I, O, height, width) in PyTorch

    def __init__(self, in_channels: int, out_channels: int, *, dtype: jnp.dtype, rngs: nnx.Rngs):
        self.dtype = dtype
        # Drawn as (2, 2, O, I): PyTorch's fan_in of a transposed weight is 4 · O.
        weight = he_normal(rngs.params(), (2, 2, out_channels, in_channels)).swapaxes(2, 3)
        self.weight = nnx.Param(jnp.asarray(weight))
        self.bias = nnx.Param(jnp.asarray(np.zeros(out_channels, np.float32)))

    def __call__(self, x: jax.Array) -> jax.Array:
        """Doubles both sides; the result has the compute dtype."""
        x, weight = x.astype(self.dtype), self.weight[...].astype(self.dtype)
        batch, height, width, _ = x.shape
        y = jnp.einsum("bhwc,ijco->bhiwjo", x, weight).reshape(batch, 2 * height, 2 * width, -1)
        return y + self.bias[...].astype(self.dtype)


class InstanceNorm(nnx.Module):
    """Normalises each channel of each image by its own mean and variance: (B, H, W, C) -> same.

    There are no running statistics: training and evaluation are alike. Computed in float32 (at
    least); the result has the dtype of x. As `torch.nn.InstanceNorm2d(affine=True)`, after Ulyanov
    et al., Instance Normalization (https://arxiv.org/abs/1607.08022), 2016.
    """

    EPSILON = 1e-5

    def __init__(self, channels: int):
        self.weight = nnx.Param(jnp.asarray(np.ones(channels, np.float32)))
        self.bias = nnx.Param(jnp.asarray(np.zeros(channels, np.float32)))

    def __call__(self, x: jax.Array) -> jax.Array:
        """Normalises; a map of one pixel becomes the bias alone."""
        values = x.astype(jnp.promote_types(x.dtype, jnp.float32))
        centred = values - values.mean((1, 2), keepdims=True)
        var = jnp.square(centred).mean((1, 2), keepdims=True)
        scale = self.weight[...] * jax.lax.rsqrt(var + self.EPSILON)
        return (centred * scale + self.bias[...]).astype(x.dtype)


class ConvNorm(nnx.Module):
    """Convolution 3×3, instance norm, leaky ReLU: (B, H, W, I) -> (B, H/stride, W/stride, O)."""

    def __init__(
        self, in_channels: int, channels: int, *, stride: int, dtype: jnp.dtype, rngs: nnx.Rngs
    ):
        self.conv = _conv(in_channels, channels, 3, stride=stride, dtype=dtype, rngs=rngs)
        self.norm = InstanceNorm(channels)

    def __call__(self, x: jax.Array) -> jax.Array:
        """Returns a map of the compute dtype."""
        return leaky_relu(self.norm(self.conv(x)), SLOPE)


class Block(nnx.Module):
    """`ConvNorm` twice, the stride on the first: (B, H, W, I) -> (B, H/stride, W/stride, C)."""

    def __init__(
        self, in_channels: int, channels: int, *, stride: int = 1, dtype: jnp.dtype, rngs: nnx.Rngs
    ):
        first = ConvNorm(in_channels, channels, stride=stride, dtype=dtype, rngs=rngs)
        second = ConvNorm(channels, channels, stride=1, dtype=dtype, rngs=rngs)
        self.convs = nnx.List([first, second])

    def __call__(self, x: jax.Array) -> jax.Array:
        """Returns a map of the compute dtype."""
        return self.convs[1](self.convs[0](x))


class Encoder(nnx.Module):
    """Image (B, H, W, in_channels) -> maps (B, H/2^i, W/2^i, widths[i]), finest first."""

    def __init__(
        self, in_channels: int, widths: Sequence[int], *, dtype: jnp.dtype, rngs: nnx.Rngs
    ):
        self.stages: nnx.List[nnx.List[Block]] = nnx.List()
        for i, (before, width) in enumerate(zip((in_channels, *widths), widths, strict=False)):
            block = Block(before, width, stride=2 if i else 1, dtype=dtype, rngs=rngs)
            self.stages.append(nnx.List([block]))  # `stages.{i}.0`, as in the original

    def __call__(self, x: jax.Array) -> list[jax.Array]:
        """Returns the map of every stage."""
        maps = [x]
        for (block,) in self.stages:
            maps.append(block(maps[-1]))
        return maps[1:]


class Decoder(nnx.Module):
    """The encoder's maps -> logits of every decoder stage, finest first.

    `stages`, `transpconvs` and `seg_layers` are numbered from the coarsest. All heads are built
    whether used or not, as in the original, so that the weights fit with and without deep
    supervision.
    """

    def __init__(self, classes: int, widths: Sequence[int], *, dtype: jnp.dtype, rngs: nnx.Rngs):
        self.stages: nnx.List[Block] = nnx.List()
        self.transpconvs: nnx.List[ConvTranspose] = nnx.List()
        self.seg_layers: nnx.List[Conv] = nnx.List()
        for width, below in zip(widths[-2::-1], widths[:0:-1], strict=True):
            self.stages.append(Block(2 * width, width, dtype=dtype, rngs=rngs))
            self.transpconvs.append(ConvTranspose(below, width, dtype=dtype, rngs=rngs))
            self.seg_layers.append(_conv(width, classes, 1, rngs=rngs))

    def __call__(self, maps: Sequence[jax.Array], deep_supervision: bool) -> tuple[jax.Array, ...]:
        """Returns the logits of all stages, or those of the finest alone."""
        x = maps[-1]
        heads: list[jax.Array] = []
        parts = zip(self.transpconvs, self.stages, self.seg_layers, maps[-2::-1], strict=True)
        for up, stage, head, skip in parts:
            x = stage(jnp.concatenate((up(x), skip), -1))
            heads.insert(0, head(x))
        return tuple(heads if deep_supervision else heads[:1])


class NNUNet(nnx.Module):
    """Image (B, H, W, C) -> logits of tumour (B, H/2^i, W/2^i, 1), float32, finest first.

    As nnU-Net plans it, the network has one input channel and two classes, background first. It
    takes the first channel of the image, since all are the same grey image but for the
    normalisation. The difference of the classes' logits, z₁ − z₀, is the logit of tumour: a sigmoid
    of it is the softmax of both.

    Args:
      widths: channels of each stage, finest first, two at least; H and W are multiples of
        2^(stages − 1).
      deep_supervision: return the heads of all decoder stages (with six stages the full size to
        1/16), as in training; otherwise the finest alone. The parameters are the same.
      dtype: of the computation; parameters and logits are float32.
      rngs: source of `params` keys.
    """

    def __init__(
        self,
        *,
        widths: Sequence[int] = (32, 64, 128, 256, 512, 512),
        deep_supervision: bool = True,
        dtype: jnp.dtype = jnp.float32,
        rngs: nnx.Rngs,
    ):
        self.deep_supervision = deep_supervision
        self.encoder = Encoder(1, widths, dtype=dtype, rngs=rngs)
        self.decoder = Decoder(2, widths, dtype=dtype, rngs=rngs)

    @classmethod
    def from_options(cls, options: SegmenterOptions) -> "NNUNet":
        return cls(
            widths=options.widths,
            deep_supervision=options.deep_supervision,
            dtype=options.dtype,
            rngs=options.rngs,
        )

    def class_logits(self, image: jax.Array) -> tuple[jax.Array, ...]:
        """Returns the logits of both classes (B, H/2^i, W/2^i, 2) of every head."""
        return self.decoder(self.encoder(image[..., :1]), self.deep_supervision)

    def __call__(self, image: jax.Array) -> tuple[jax.Array, ...]:
        """Returns the heads' logits; a tuple of one without deep supervision."""
        return tuple(jnp.diff(logits) for logits in self.class_logits(image))
