"""TransUNet, R50-ViT-B/16: a ResNet whose last map is a transformer's tokens, and a UNet decoder.

Follows github Beckschen/TransUNet (`networks/vit_seg_modeling*.py`) with its names, so that its
state dicts fit. For 224 × 224 pixels and 2 classes it has 105,276,066 parameters; only the
position embedding depends on the size (64 × 64: 105,137,826 in all). Beside its own arguments every
part takes `dtype`, of the computation, and `rngs`, the source of `params` keys (`common`).
`crlm_jax.models.transunet_weights` starts it from ImageNet-21k, as the paper does.

References:
  Chen et al., TransUNet (https://arxiv.org/abs/2102.04306), 2021.
  Dosovitskiy et al., ViT (https://arxiv.org/abs/2010.11929), 2020.
  Kolesnikov et al., Big Transfer (https://arxiv.org/abs/1912.11370), 2019: the ResNet.
"""

import math
from collections.abc import Sequence
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from crlm_jax.models.layers import (
    BatchNorm,
    Conv,
    convolve,
    host_rng,
    max_pool,
    torch_uniform,
    upsample,
)

STRIDE = 16  # pixels a side of a token
GROUPS = 32  # of a group norm


def _normalise(x: jax.Array, axes: tuple[int, ...], epsilon: float) -> jax.Array:
    """Zero mean and unit (biased) variance over some axes, in float32 at least."""
    x = x.astype(jnp.promote_types(x.dtype, jnp.float32))
    x = x - x.mean(axes, keepdims=True)
    return x * jax.lax.rsqrt(jnp.square(x).mean(axes, keepdims=True) + epsilon)


class StdConv(Conv):
    """Convolution without bias by a weight that is standardised for each output channel."""

    def __call__(self, x: jax.Array) -> jax.Array:
        """(B, H, W, I) -> (B, ⌈H/stride⌉, ⌈W/stride⌉, O) in the compute dtype."""
        weight = self.weight[...].astype(jnp.promote_types(self.dtype, jnp.float32))
        weight = _normalise(weight, (0, 1, 2), 1e-5).astype(self.dtype)
        return convolve(x.astype(self.dtype), weight, self.stride)


class Norm(nnx.Module):
    """Zero mean and unit variance, then a weight and a bias for each of C channels.

    A layer norm, (B, N, C) of each token, unless `groups` is given: then a group norm, (B, H, W, C)
    of each image over its pixels and C / groups neighbouring channels, one where C is less.
    """

    def __init__(self, channels: int, *, groups: int | None = None, epsilon: float = 1e-6):
        self.groups, self.epsilon = groups and min(groups, channels), epsilon
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

    def __init__(self, in_channels: int, channels: int, *, stride: int, **common):
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


class Group(nnx.Module):
    """A bare holder of modules under the names that PyTorch's state dict needs."""

    def __init__(self, **members: nnx.Module | nnx.Param):
        for name, member in members.items():
            setattr(self, name, member)


class ResNetV2(nnx.Module):
    """Image (B, H, W, I) -> map (B, H/16, W/16, 16w) and the skips, coarsest first.

    The skips have 8w, 4w and w channels at 1/8, 1/4 and 1/2 of the sides. The first unit of stages
    2 and 3 halves the sides.
    """

    def __init__(self, in_channels: int, width: int, units: Sequence[int], **common):
        conv = StdConv(in_channels, width, 7, stride=2, bias=False, **common)
        self.root = Group(conv=conv, gn=Norm(width, groups=GROUPS))
        self.units, self.body, before = tuple(units), Group(), width
        for stage, count in enumerate(units, start=1):
            block, channels = Group(), width * 2 ** (stage - 1)
            for unit in range(1, count + 1):
                stride = 2 if stage > 1 and unit == 1 else 1
                setattr(block, f"unit{unit}", Unit(before, channels, stride=stride, **common))
                before = 4 * channels
            setattr(self.body, f"block{stage}", block)

    def __call__(self, image: jax.Array) -> tuple[jax.Array, list[jax.Array]]:
        """Sides must be multiples of 16."""
        x = jax.nn.relu(self.root.gn(self.root.conv(image)))
        skips = [x]
        # The original pools 3×3 with stride 2 and no padding: of 2n rows n − 1 are left. Here the
        # windows of a padded pool are moved by one row and column; those over padding are dropped.
        x = max_pool(jnp.pad(x, ((0, 0), (1, 0), (1, 0), (0, 0))), 3)[:, 1:-1, 1:-1]
        for stage, count in enumerate(self.units, start=1):
            block = getattr(self.body, f"block{stage}")
            for unit in range(1, count + 1):
                x = getattr(block, f"unit{unit}")(x)
            side = [n // 2 ** (stage + 1) for n in image.shape[1:3]]
            # Zeros below and on the right replace the row and column that the pool lost, in the
            # skip only: the next stage takes the smaller map, whose half is rounded up again.
            missing = [(0, wanted - n) for wanted, n in zip(side, x.shape[1:3], strict=True)]
            skips.append(jnp.pad(x, ((0, 0), *missing, (0, 0))))
        return x, skips[-2::-1]  # without the last map, which is x itself


class Linear(nnx.Module):
    """Matrix product and bias of the last axis: (…, I) -> (…, O) in the compute dtype.

    Starts as `nn.Linear`, or, if `xavier`, as the original's MLP: Xavier uniform, bias N(0, 1e-12).
    """

    TORCH_AXES: ClassVar = {"weight": (1, 0)}

    def __init__(self, inner: int, outer: int, *, xavier=False, dtype: jnp.dtype, rngs: nnx.Rngs):
        self.dtype = dtype
        weight = torch_uniform(rngs.params(), (inner, outer))
        generator = host_rng(rngs.params())
        if xavier:
            weight *= (6 * inner / (inner + outer)) ** 0.5  # of ±1/√I makes ±√(6/(I + O))
            bias = 1e-6 * generator.standard_normal(outer)
        else:
            bias = generator.uniform(-(inner**-0.5), inner**-0.5, outer)
        self.weight = nnx.Param(jnp.asarray(weight, jnp.float32))
        self.bias = nnx.Param(jnp.asarray(bias, jnp.float32))

    def __call__(self, x: jax.Array) -> jax.Array:
        """Multiplies and adds."""
        weight, bias = (v[...].astype(self.dtype) for v in (self.weight, self.bias))
        return x.astype(self.dtype) @ weight + bias


class Attention(nnx.Module):
    """Self-attention of several heads: (B, N, hidden) -> (B, N, hidden)."""

    def __init__(self, hidden: int, heads: int, **common):
        self.heads = heads
        for name in ("query", "key", "value", "out"):
            setattr(self, name, Linear(hidden, hidden, **common))

    def __call__(self, x: jax.Array) -> jax.Array:
        """Softmax over all N tokens, in float32 at least."""
        split = (*x.shape[:2], self.heads, -1)
        query, key, value = (f(x).reshape(split) for f in (self.query, self.key, self.value))
        return self.out(jax.nn.dot_product_attention(query, key, value).reshape(x.shape))


class Layer(nnx.Module):
    """Attention and MLP, each after a norm and beside a shortcut: (B, N, hidden), the same."""

    def __init__(self, hidden: int, heads: int, mlp: int, dropout: float, **common):
        self.attention_norm = Norm(hidden)
        self.ffn_norm = Norm(hidden)
        self.ffn = Group(
            fc1=Linear(hidden, mlp, xavier=True, **common),
            fc2=Linear(mlp, hidden, xavier=True, **common),
        )
        self.attn = Attention(hidden, heads, **common)
        self.dropout = _dropout(dropout, common["rngs"])

    def __call__(self, x: jax.Array) -> jax.Array:
        """Attends, then transforms each token."""
        x = x + self.attn(self.attention_norm(x))
        y = jax.nn.gelu(self.ffn.fc1(self.ffn_norm(x)), approximate=False)
        return x + self.dropout(self.ffn.fc2(self.dropout(y)))


def _dropout(rate: float, rngs: nnx.Rngs) -> nnx.Dropout:
    """At rate 0 without generator, so that the module holds no random state."""
    return nnx.Dropout(rate, rngs=rngs if rate else None)


class Transformer(nnx.Module):
    """Image -> tokens (B, N, hidden), one a pixel of the ResNet's last map, and its skips."""

    def __init__(self, embeddings: Group, encoder: Group, dropout: nnx.Dropout):
        self.embeddings, self.encoder, self.dropout = embeddings, encoder, dropout

    def __call__(self, image: jax.Array) -> tuple[jax.Array, list[jax.Array]]:
        """Encodes."""
        x, skips = self.embeddings.hybrid_model(image)
        x = self.embeddings.patch_embeddings(x)
        x = x.reshape(x.shape[0], -1, x.shape[-1])
        x = self.dropout(x + self.embeddings.position_embeddings[...].astype(x.dtype))
        for layer in self.encoder.layer:
            x = layer(x)
        return self.encoder.encoder_norm(x), skips


def _conv_bn(inner: int, outer: int, **common) -> nnx.List:
    return nnx.List([Conv(inner, outer, 3, bias=False, **common), BatchNorm(outer)])


def _conv_bn_relu(pair: nnx.List, x: jax.Array) -> jax.Array:
    conv, norm = pair
    return jax.nn.relu(norm(conv(x)))


class Decoder(nnx.Module):
    """Tokens (B, grid², hidden) and skips -> map (B, 16·grid, 16·grid, widths[-1])."""

    def __init__(self, hidden: int, skips: Sequence[int], widths: Sequence[int], **common):
        self.conv_more = _conv_bn(hidden, widths[0], **common)
        blocks = []
        for before, width, skip in zip(widths[:-1], widths[1:], skips, strict=True):
            conv1 = _conv_bn(before + skip, width, **common)
            blocks.append(Group(conv1=conv1, conv2=_conv_bn(width, width, **common)))
        self.blocks = nnx.List(blocks)

    def __call__(self, tokens: jax.Array, skips: Sequence[jax.Array]) -> jax.Array:
        """Doubles the sides in each block, and takes a skip in all but the last."""
        grid = math.isqrt(tokens.shape[1])
        x = _conv_bn_relu(self.conv_more, tokens.reshape(tokens.shape[0], grid, grid, -1))
        for i, block in enumerate(self.blocks):
            x = jnp.concatenate((upsample(x), *skips[i : i + 1]), -1)
            x = _conv_bn_relu(block.conv2, _conv_bn_relu(block.conv1, x))
        return x


class TransUNet(nnx.Module):
    """Image (B, image_size, image_size, in_channels) -> logits of tumour (B, …, 1), float32.

    As there it has two classes, background first. The difference of their logits, z₁ − z₀, is the
    logit of tumour: a sigmoid of it is the softmax of both.

    Args:
      image_size: side in pixels, a multiple of 16; it sets the number of position embeddings.
      in_channels: of the image.
      resnet_width: channels of the ResNet's stem; a multiple of 32 or a power of 2, for the groups.
      resnet_units: bottlenecks of its three stages.
      hidden: channels of a token; a multiple of `heads`.
      layers: of the transformer.
      heads: of each attention.
      mlp: channels between the two linear layers.
      decoder_widths: channels after the tokens' convolution and after each of the four blocks.
      dropout: rate on the embeddings and after each linear layer of the MLPs; the original has
        0.1. Above 0 the module also holds `nnx.RngState`, in training mode.
      dtype: of the computation; parameters and logits are float32.
      rngs: source of `params` keys, and of `dropout` if it is above 0.
    """

    def __init__(
        self,
        image_size: int = 224,
        *,
        in_channels: int = 3,
        resnet_width: int = 64,
        resnet_units: Sequence[int] = (3, 4, 9),
        hidden: int = 768,
        layers: int = 12,
        heads: int = 12,
        mlp: int = 3072,
        decoder_widths: Sequence[int] = (512, 256, 128, 64, 16),
        dropout: float = 0.0,
        dtype: jnp.dtype = jnp.float32,
        rngs: nnx.Rngs,
    ):
        if image_size < STRIDE or image_size % STRIDE:
            raise ValueError(f"image_size = {image_size}: must be a multiple of {STRIDE} pixels")
        self.image_size = image_size
        common = {"dtype": dtype, "rngs": rngs}
        positions = np.zeros((1, (image_size // STRIDE) ** 2, hidden), np.float32)
        embeddings = Group(
            position_embeddings=nnx.Param(jnp.asarray(positions)),
            hybrid_model=ResNetV2(in_channels, resnet_width, resnet_units, **common),
            patch_embeddings=Conv(16 * resnet_width, hidden, 1, **common),
        )
        encoder = Group(
            layer=nnx.List([Layer(hidden, heads, mlp, dropout, **common) for _ in range(layers)]),
            encoder_norm=Norm(hidden),
        )
        self.transformer = Transformer(embeddings, encoder, _dropout(dropout, rngs))
        skips = (8 * resnet_width, 4 * resnet_width, resnet_width, 0)
        self.decoder = Decoder(hidden, skips, decoder_widths, **common)
        self.segmentation_head = nnx.List([Conv(decoder_widths[-1], 2, 3, rngs=rngs)])

    def class_logits(self, image: jax.Array) -> jax.Array:
        """Returns the logits of both classes (B, …, 2)."""
        side = self.image_size
        if image.shape[1:3] != (side, side):
            raise ValueError(
                f"image of {image.shape[1]} × {image.shape[2]} pixels: this TransUNet was built "
                f"for image_size = {side}"
            )
        tokens, skips = self.transformer(image)
        return self.segmentation_head[0](self.decoder(tokens, skips))

    def __call__(self, image: jax.Array) -> tuple[jax.Array]:
        """Returns a tuple of one, as segmenters with several heads return several."""
        return (jnp.diff(self.class_logits(image)),)
