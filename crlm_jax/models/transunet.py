"""TransUNet, R50-ViT-B/16: a ResNet whose last map is a transformer's tokens, and a UNet decoder.

Follows github Beckschen/TransUNet (`networks/vit_seg_modeling*.py`) with its names, so that its
state dicts fit. Its ResNet is in `resnet_v2`; `transunet_weights` loads the ImageNet-21k weights
from which the paper starts. For 224 × 224 pixels and 2 classes it has 105,276,066 parameters; only
the position embedding depends on the size (64 × 64: 105,137,826 in all). Beside its own arguments
every part takes `dtype` and `rngs` (`layers.Common`).

References:
  Chen et al., TransUNet (https://arxiv.org/abs/2102.04306), 2021.
  Dosovitskiy et al., ViT (https://arxiv.org/abs/2010.11929), 2020.
"""

import math
from collections.abc import Sequence
from typing import ClassVar, Unpack

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from crlm_jax.models.layers import (
    BatchNorm,
    Common,
    Conv,
    host_rng,
    torch_uniform,
)
from crlm_jax.models.options import SegmenterOptions
from crlm_jax.models.resampling import upsample
from crlm_jax.models.resnet_v2 import Norm, ResNetV2

STRIDE = 16  # pixels a side of a token


class Linear(nnx.Module):
    """Matrix product and bias of the last axis: (…, I) -> (…, O) in the compute dtype.

    Starts as `nn.Linear`, or, if `xavier`, as the original's MLP: Xavier uniform, bias N(0, 1e-12).
    """

    TORCH_AXES: ClassVar = {"weight": (1, 0)}

    def __init__(
        self, inner: int, outer: int, *, xavier: bool = False, dtype: jnp.dtype, rngs: nnx.Rngs
    ):
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

    def __init__(self, hidden: int, heads: int, *, dtype: jnp.dtype, rngs: nnx.Rngs):
        self.heads = heads
        self.query = Linear(hidden, hidden, dtype=dtype, rngs=rngs)
        self.key = Linear(hidden, hidden, dtype=dtype, rngs=rngs)
        self.value = Linear(hidden, hidden, dtype=dtype, rngs=rngs)
        self.out = Linear(hidden, hidden, dtype=dtype, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        """Softmax over all N tokens, in float32 at least."""
        split = (*x.shape[:2], self.heads, -1)
        query, key, value = (f(x).reshape(split) for f in (self.query, self.key, self.value))
        return self.out(jax.nn.dot_product_attention(query, key, value).reshape(x.shape))


class Mlp(nnx.Module):
    """The two linear layers of a transformer layer."""

    def __init__(self, hidden: int, inner: int, *, dtype: jnp.dtype, rngs: nnx.Rngs):
        self.fc1 = Linear(hidden, inner, xavier=True, dtype=dtype, rngs=rngs)
        self.fc2 = Linear(inner, hidden, xavier=True, dtype=dtype, rngs=rngs)


class Layer(nnx.Module):
    """Attention and MLP, each after a norm and beside a shortcut: (B, N, hidden), the same."""

    def __init__(
        self,
        hidden: int,
        heads: int,
        mlp: int,
        dropout: float,
        *,
        dtype: jnp.dtype,
        rngs: nnx.Rngs,
    ):
        self.attention_norm = Norm(hidden)
        self.ffn_norm = Norm(hidden)
        self.ffn = Mlp(hidden, mlp, dtype=dtype, rngs=rngs)
        self.attn = Attention(hidden, heads, dtype=dtype, rngs=rngs)
        self.dropout = _dropout(dropout, rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        """Attends, then transforms each token."""
        x = x + self.attn(self.attention_norm(x))
        y = jax.nn.gelu(self.ffn.fc1(self.ffn_norm(x)), approximate=False)
        return x + self.dropout(self.ffn.fc2(self.dropout(y)))


def _dropout(rate: float, rngs: nnx.Rngs) -> nnx.Dropout:
    """Builds a dropout; at rate 0 without generator, so that the module holds no random state."""
    return nnx.Dropout(rate, rngs=rngs if rate else None)


class Embeddings(nnx.Module):
    """Image -> tokens (B, N, hidden), one for each pixel of the ResNet's last map, and its skips.

    `positions` is N.
    """

    def __init__(
        self, resnet: ResNetV2, channels: int, hidden: int, positions: int, **common: Unpack[Common]
    ):
        zeros = np.zeros((1, positions, hidden), np.float32)
        self.position_embeddings = nnx.Param(jnp.asarray(zeros))
        self.hybrid_model = resnet
        self.patch_embeddings = Conv(channels, hidden, 1, **common)

    def __call__(self, image: jax.Array) -> tuple[jax.Array, list[jax.Array]]:
        x, skips = self.hybrid_model(image)
        x = self.patch_embeddings(x)
        x = x.reshape(x.shape[0], -1, x.shape[-1])
        return x + self.position_embeddings[...].astype(x.dtype), skips


class Encoder(nnx.Module):
    """The transformer's layers and the norm after them: (B, N, hidden), the same."""

    def __init__(self, layers: Sequence[Layer], hidden: int):
        self.layer = nnx.List(layers)
        self.encoder_norm = Norm(hidden)

    def __call__(self, x: jax.Array) -> jax.Array:
        for layer in self.layer:
            x = layer(x)
        return self.encoder_norm(x)


class Transformer(nnx.Module):
    """Image -> encoded tokens (B, N, hidden) and the skips of the ResNet."""

    def __init__(self, embeddings: Embeddings, encoder: Encoder, dropout: nnx.Dropout):
        self.embeddings, self.encoder, self.dropout = embeddings, encoder, dropout

    def __call__(self, image: jax.Array) -> tuple[jax.Array, list[jax.Array]]:
        x, skips = self.embeddings(image)
        return self.encoder(self.dropout(x)), skips


ConvNorm = nnx.List[Conv | BatchNorm]


def _conv_bn(inner: int, outer: int, **common: Unpack[Common]) -> ConvNorm:
    return nnx.List([Conv(inner, outer, 3, bias=False, **common), BatchNorm(outer)])


def _conv_bn_relu(pair: ConvNorm, x: jax.Array) -> jax.Array:
    conv, norm = pair
    return jax.nn.relu(norm(conv(x)))


class DecoderBlock(nnx.Module):
    """Two 3×3 convolutions, each with batch norm and ReLU: (B, H, W, I) -> (B, H, W, O)."""

    def __init__(self, in_channels: int, channels: int, **common: Unpack[Common]):
        self.conv1 = _conv_bn(in_channels, channels, **common)
        self.conv2 = _conv_bn(channels, channels, **common)

    def __call__(self, x: jax.Array) -> jax.Array:
        return _conv_bn_relu(self.conv2, _conv_bn_relu(self.conv1, x))


class Decoder(nnx.Module):
    """Tokens (B, grid², hidden) and skips -> map (B, 16·grid, 16·grid, widths[-1])."""

    def __init__(
        self, hidden: int, skips: Sequence[int], widths: Sequence[int], **common: Unpack[Common]
    ):
        self.conv_more = _conv_bn(hidden, widths[0], **common)
        self.blocks = nnx.List([
            DecoderBlock(before + skip, width, **common)
            for before, width, skip in zip(widths[:-1], widths[1:], skips, strict=True)
        ])  # fmt: skip

    def __call__(self, tokens: jax.Array, skips: Sequence[jax.Array]) -> jax.Array:
        """Doubles the sides in each block, and takes a skip in all but the last."""
        grid = math.isqrt(tokens.shape[1])
        x = _conv_bn_relu(self.conv_more, tokens.reshape(tokens.shape[0], grid, grid, -1))
        for i, block in enumerate(self.blocks):
            x = block(jnp.concatenate((upsample(x), *skips[i : i + 1]), -1))
        return x


class TransUNet(nnx.Module):
    """Image (B, image_size, image_size, in_channels) -> logits of tumour (B, …, 1), float32.

    As the original, it has two classes, background first. The difference of their logits, z₁ − z₀,
    is the logit of tumour: a sigmoid of it is the softmax of both.

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
        common: Common = {"dtype": dtype, "rngs": rngs}
        resnet = ResNetV2(in_channels, resnet_width, resnet_units, **common)
        positions = (image_size // STRIDE) ** 2
        embeddings = Embeddings(resnet, 16 * resnet_width, hidden, positions, **common)
        encoder = Encoder(
            [Layer(hidden, heads, mlp, dropout, dtype=dtype, rngs=rngs) for _ in range(layers)],
            hidden,
        )
        self.transformer = Transformer(embeddings, encoder, _dropout(dropout, rngs))
        skips = (8 * resnet_width, 4 * resnet_width, resnet_width, 0)
        self.decoder = Decoder(hidden, skips, decoder_widths, **common)
        self.segmentation_head = nnx.List([Conv(decoder_widths[-1], 2, 3, rngs=rngs)])

    @classmethod
    def from_options(cls, options: SegmenterOptions) -> "TransUNet":
        own = {name: value for name, value in options.own.items() if name != "weights"}
        return cls(
            options.image_size,
            decoder_widths=options.widths,
            dtype=options.dtype,
            rngs=options.rngs,
            **own,
        )

    def class_logits(self, image: jax.Array) -> jax.Array:
        """Returns the logits of both classes (B, …, 2)."""
        tokens, skips = self.transformer(image)
        return self.segmentation_head[0](self.decoder(tokens, skips))

    def __call__(self, image: jax.Array) -> tuple[jax.Array, ...]:
        """Returns a tuple of one, as segmenters with several heads return several."""
        return (jnp.diff(self.class_logits(image)),)
