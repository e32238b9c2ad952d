"""SegAN: a segmentor and a critic that are trained against each other on a multi-scale L1 distance.

Follows `NetS` and `NetC` of github YuanXue1993/SegAN (aa892a63), whose names are kept so that its
state dicts fit. Modules that the original registers but never calls are not built, and `unbuilt`
names them: the batch norms inside the segmentor's residual blocks and the critic's blocks
`convblock{k}_1`, which hold 84 % of its parameters. With the default width the segmentor has
156,235,264 parameters (30,080 more in the original's state dict) and the critic 9,393,088
(50,789,632 more).

Up-sampling does not align corners, as PyTorch's default has been since 0.4. The original was
written for an earlier PyTorch, which aligned them. Weights start as the authors draw them:
convolutions from N(0, 2/fan_out), the weights of batch norms from N(1, 0.02²), all biases 0.

References:
  Xue et al., SegAN (https://arxiv.org/abs/1706.01805), Neuroinformatics 16:383-392, 2018.
"""

import functools
from collections.abc import Callable, Sequence
from typing import ClassVar, Unpack

import jax
import jax.numpy as jnp
from flax import nnx

from crlm_jax.models.layers import (
    BatchNorm,
    Common,
    Conv,
    host_rng,
    kaiming_normal,
    leaky_relu,
    zero_bias,
)
from crlm_jax.models.options import SegmenterOptions
from crlm_jax.models.resampling import resize

# (size of the kernel, channels in units of the width); every stride is 2 but in 1×1 convolutions
ENCODER = ((7, 1), (5, 2), (5, 4), (5, 8), (5, 8), (4, 16), (3, 32), (1, 8))  # convblock1 to 8
DECODER = ((7, 8), (7, 4), (9, 2), (9, 1), (11, 1))  # deconvblock4 to 8, cross-shaped, stride 1
CRITIC = ((7, 1), (5, 2), (4, 4), (4, 8), (4, 8), (3, 8))  # convblock1 to 6
FACTORS = (1, 1, 2, 2, 2, 2, 4)  # of the critic's features: the image, then convblock1 to 6

_leaky_relu = functools.partial(leaky_relu, slope=0.2)


Layers = Sequence[Callable[[jax.Array], jax.Array]]
Activation = Callable[[jax.Array], jax.Array]


def _block(layers: Layers, x: jax.Array, activation: Activation) -> jax.Array:
    """Applies a convolution, perhaps a batch norm, and an activation."""
    for layer in layers:
        x = layer(x)
    return activation(x)


def _conv(
    in_channels: int,
    out_channels: int,
    size: int | tuple[int, int],
    *,
    stride: int = 1,
    bias: bool = False,
    **common: Unpack[Common],
) -> Conv:
    """A `Conv` as the authors start it: N(0, 2/fan_out), zero bias."""
    conv = Conv(
        in_channels, out_channels, size, stride=stride, bias=bias, init=kaiming_normal, **common
    )
    return zero_bias(conv) if bias else conv


def _start_norms(model: nnx.Module, rngs: nnx.Rngs) -> None:
    """Draws the weights of all batch norms from N(1, 0.02²), as the authors do."""
    for _, module in nnx.iter_modules(model):
        if isinstance(module, BatchNorm):
            noise = host_rng(rngs.params()).standard_normal(module.weight[...].shape)
            module.weight[...] = jnp.asarray(1 + 0.02 * noise, jnp.float32)


class TransposedConv(Conv):
    """1×1 `nn.ConvTranspose2d`: a 1×1 convolution whose tensor is (in, out, 1, 1) in PyTorch."""

    TORCH_AXES: ClassVar = {"weight": (2, 3, 0, 1)}


class GlobalConv(nnx.Module):
    """k×1 then 1×k beside 1×k then k×1, summed: (B, H, W, I) -> (B, H, W, O).

    References:
      Peng et al., Large Kernel Matters (https://arxiv.org/abs/1703.02719), 2017.
    """

    def __init__(self, in_channels: int, out_channels: int, size: int, **common: Unpack[Common]):
        conv = functools.partial(_conv, bias=True, **common)
        column, row = (size, 1), (1, size)
        self.conv_l1 = conv(in_channels, out_channels, column)
        self.conv_l2 = conv(out_channels, out_channels, row)
        self.conv_r1 = conv(in_channels, out_channels, row)
        self.conv_r2 = conv(out_channels, out_channels, column)

    def __call__(self, x: jax.Array) -> jax.Array:
        """Returns the sum of both paths."""
        return self.conv_l2(self.conv_l1(x)) + self.conv_r2(self.conv_r1(x))


class Residual(nnx.Module):
    """1×1, 3×3 and 1×1 convolution, each activated, added to x: (B, H, W, C) -> (B, H, W, C)."""

    def __init__(self, channels: int, activation: Activation, **common: Unpack[Common]):
        self.activation = activation
        self.conv1 = _conv(channels, 2 * channels, 1, **common)
        self.conv2 = _conv(2 * channels, 2 * channels, 3, **common)
        self.conv3 = _conv(2 * channels, channels, 1, **common)

    def __call__(self, x: jax.Array) -> jax.Array:
        """Returns the sum of x and the branch, which is not activated again."""
        y = x
        for conv in (self.conv1, self.conv2, self.conv3):
            y = self.activation(conv(y))
        return x + y


def _down(
    before: int, channels: int, size: int, *, norm: bool = True, **common: Unpack[Common]
) -> nnx.List[Conv | BatchNorm]:
    """Convolution of stride 2 (1 if 1×1) without bias, and its batch norm."""
    conv = _conv(before, channels, size, stride=2 if size > 1 else 1, **common)
    return nnx.List([conv, BatchNorm(channels)] if norm else [conv])


class SegANSegmentor(nnx.Module):
    """Image (B, H, W, in_channels) -> one map of logits (B, H, W, out_channels), float32.

    The encoder halves the sides seven times, down to H/128. After a bottleneck, the decoder seven
    times joins the encoder's map of the same size, up-samples to the next size and convolves. H and
    W are at least 33, so that pixels are left for the 4×4 kernel of convblock6; multiples of 128
    lose no border pixels. If H and W are at most 128, a training batch of one image has a single
    value per channel in the innermost batch norms, whose output is then constant; PyTorch refuses
    that case.

    Args:
      in_channels: of the image.
      out_channels: of the logits.
      width: channels of the first block; the innermost has 32 times as many.
      dtype: of the computation; parameters and logits are float32.
      rngs: source of `params` keys.
    """

    unbuilt = ("convblock?_1.norm?.*", "deconvblock?_1.norm?.*")

    # These and others of their kind are set by name.
    convblock6: nnx.List[Conv | BatchNorm]
    convblock7: nnx.List[Conv | BatchNorm]
    convblock8: nnx.List[Conv | BatchNorm]

    def __init__(
        self,
        *,
        in_channels: int = 3,
        out_channels: int = 1,
        width: int = 64,
        dtype: jnp.dtype = jnp.float32,
        rngs: nnx.Rngs,
    ):
        common: Common = {"dtype": dtype, "rngs": rngs}
        before = in_channels
        for i, (size, multiple) in enumerate(ENCODER, start=1):
            channels = width * multiple
            setattr(self, f"convblock{i}", _down(before, channels, size, norm=i > 1, **common))
            if i <= 5:
                setattr(self, f"convblock{i}_1", Residual(channels, _leaky_relu, **common))
            elif i == 6:
                self.convblock6_1 = _down(channels, channels, 1, **common)
            before = channels
        bottleneck = TransposedConv(
            before, 32 * width, 1, bias=False, init=kaiming_normal, **common
        )
        self.deconvblock1 = nnx.List([bottleneck, BatchNorm(32 * width)])
        inner = _conv(64 * width, 16 * width, 3, **common)
        self.deconvblock2 = nnx.List([inner, BatchNorm(16 * width)])
        self.deconvblock2_1 = _down(16 * width, 16 * width, 1, **common)
        first = _conv(32 * width, 8 * width, 3, **common)
        self.deconvblock3 = nnx.List([first, BatchNorm(8 * width)])
        self.deconvblock3_1 = Residual(8 * width, jax.nn.relu, **common)
        before = 8 * width
        for i, (size, multiple) in enumerate(DECODER, start=4):
            joined, channels = before + width * ENCODER[8 - i][1], width * multiple
            cross = GlobalConv(joined, channels, size, **common)
            setattr(self, f"deconvblock{i}", nnx.List([cross, BatchNorm(channels)]))
            setattr(self, f"deconvblock{i}_1", Residual(channels, jax.nn.relu, **common))
            before = channels
        self.deconvblock9 = nnx.List([_conv(width, out_channels, 5, rngs=rngs)])
        _start_norms(self, rngs)

    @classmethod
    def from_options(cls, options: SegmenterOptions) -> "SegANSegmentor":
        (width,) = options.widths
        return cls(width=width, dtype=options.dtype, rngs=options.rngs)

    def __call__(self, image: jax.Array) -> tuple[jax.Array, ...]:
        """Returns the logits, as a tuple of one."""
        maps = [image]  # maps[i] is what convblock{i} gives
        for i in range(1, 6):
            x = _block(getattr(self, f"convblock{i}"), maps[-1], _leaky_relu)
            maps.append(getattr(self, f"convblock{i}_1")(x))
        x = _block(self.convblock6, maps[-1], _leaky_relu)
        maps.append(x + _block(self.convblock6_1, x, _leaky_relu))
        maps.append(_block(self.convblock7, maps[-1], _leaky_relu))
        x = _block(self.convblock8, maps[-1], _leaky_relu)

        x = _block(self.deconvblock1, x, jax.nn.relu)
        for i in range(2, 9):
            skip, target = maps[9 - i], maps[8 - i]
            x = jnp.concatenate((skip, x), -1)
            x = resize(x, *target.shape[1:3])
            x = _block(getattr(self, f"deconvblock{i}"), x, jax.nn.relu)
            refine = getattr(self, f"deconvblock{i}_1")
            x = refine(x) if i > 2 else x + _block(refine, x, jax.nn.relu)
        (head,) = self.deconvblock9
        return (head(x),)


class SegANCritic(nnx.Module):
    """Masked image (B, H, W, in_channels) -> its seven stage features, each times its factor.

    The multi-scale distance of two images is the mean |difference| over the elements of all stages
    together: `losses.feature_distance(…, stages=range(1, 8), fusion="concatenated")`.
    Stage 1 is the image itself. Of 128 × 128 pixels: (B, 128, 128, 3), (B, 64, 64, 64),
    (B, 32, 32, 128), (B, 16, 16, 256), (B, 8, 8, 512), (B, 4, 4, 512), (B, 2, 2, 512). They have
    the compute dtype. It is trained, so it starts in training mode.

    Args:
      last_stage: the last stage that is built, 1 to 7.
      in_channels: of the image.
      width: channels of the first block.
      dtype: of the computation; parameters are float32.
      exact: products as exact as float32 on every platform.
      rngs: source of `params` keys.
    """

    unbuilt = ("convblock?_1.*",)

    def __init__(
        self,
        *,
        last_stage: int = 7,
        in_channels: int = 3,
        width: int = 64,
        dtype: jnp.dtype = jnp.float32,
        exact: bool = False,
        rngs: nnx.Rngs,
    ):
        self.dtype, self.blocks = dtype, last_stage - 1
        common: Common = {"dtype": dtype, "exact": exact, "rngs": rngs}
        before = in_channels
        for i, (size, multiple) in enumerate(CRITIC[: self.blocks], start=1):
            block = _down(before, width * multiple, size, norm=i > 1, **common)
            setattr(self, f"convblock{i}", block)
            before = width * multiple
        _start_norms(self, rngs)

    def __call__(self, image: jax.Array) -> list[jax.Array]:
        """Returns the image and the output of every block, times `FACTORS`."""
        features = [image.astype(self.dtype)]
        for i in range(1, self.blocks + 1):
            features.append(_block(getattr(self, f"convblock{i}"), features[-1], _leaky_relu))
        return [factor * x for factor, x in zip(FACTORS, features, strict=False)]
