"""Layers as PyTorch has them and Flax does not, so that the segmenters and critics match.

The methods compared here were published in PyTorch, whose defaults differ from Flax's in ways that
change results: batch norm keeps an unbiased running variance with momentum 0.1, convolutions start
uniform in ±1/√fan_in (weight and bias), and up-sampling may align corners. Attributes have
PyTorch's names (`weight`, `bias`, `running_mean`, `running_var`), so that a path through the
modules is the name in a state dict and `crlm_jax.models.torch_weights` needs no table.

All maps are (B, H, W, C). Parameters and statistics are float32; `dtype` is that of the
computation. Some operations differ from the textbook's form because XLA's gradient of that form is
slow; their docstrings say so. None uses a named axis: under `jax.jit` over a mesh the batch is the
global one.
"""

import functools
import math
from collections.abc import Callable
from typing import NotRequired, TypedDict

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from crlm_jax.models import forms, packing
from crlm_jax.models.convolution import convolve
from crlm_jax.models.packing import Layout

Initializer = Callable[[jax.Array, tuple[int, ...]], np.ndarray]


class Common(TypedDict):
    """What every layer with weights takes."""

    dtype: NotRequired[jnp.dtype]  # of the computation; float32 if it is not given
    exact: NotRequired[bool]  # products as exact as float32, which a TPU and a GPU round otherwise
    rngs: nnx.Rngs  # source of `params` keys


def host_rng(key: jax.Array) -> np.random.Generator:
    """NumPy's generator from a JAX key.

    Weights are drawn on the host: XLA takes about a second of CPU to compile a draw of each shape.
    """
    return np.random.default_rng(np.asarray(jax.random.key_data(key)))


def torch_uniform(key: jax.Array, shape: tuple[int, ...]) -> np.ndarray:
    """U(±1/√fan_in), float32: PyTorch's default of nn.Conv2d, kaiming_uniform_ with a = √5."""
    bound = math.prod(shape[:-1]) ** -0.5
    return host_rng(key).uniform(-bound, bound, shape).astype(np.float32)


def kaiming_normal(key: jax.Array, shape: tuple[int, ...]) -> np.ndarray:
    """N(0, 2/fan_out), float32, as torchvision starts a ResNet; shape (size, size, I, O)."""
    deviation = math.sqrt(2 / (math.prod(shape[:2]) * shape[-1]))
    return (deviation * host_rng(key).standard_normal(shape)).astype(np.float32)


def _spread(values: jax.Array, layout: Layout) -> jax.Array:
    """One value a channel, (C,) -> one for every channel of the layout, (C,) or (4C,)."""
    return values if layout is Layout.PIXELS else jnp.tile(values, layout.pixels)


class Conv(nnx.Module):
    """Convolution: (B, H, W, I) -> (B, H', W', O), sides as those of `convolve`.

    Args:
      in_channels: I.
      out_channels: O.
      size: side of the kernel, or its height and width.
      stride: in both directions.
      bias: adds one number per channel, initially U(±1/√fan_in).
      init: of the weight (height, width, I, O).
      dtype: of the computation.
      exact: products as exact as float32, which a TPU and a GPU round otherwise.
      rngs: source of `params` keys.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        size: int | tuple[int, int],
        *,
        stride: int = 1,
        bias: bool = True,
        init: Initializer = torch_uniform,
        dtype: jnp.dtype = jnp.float32,
        exact: bool = False,
        rngs: nnx.Rngs,
    ):
        self.stride, self.dtype, self.exact = stride, dtype, exact
        sides = (size, size) if isinstance(size, int) else size
        shape = (*sides, in_channels, out_channels)
        self.weight = nnx.Param(jnp.asarray(init(rngs.params(), shape)))
        values = None
        if bias:
            bound = math.prod(shape[:3]) ** -0.5
            values = host_rng(rngs.params()).uniform(-bound, bound, out_channels)
        self.bias = None if values is None else nnx.Param(jnp.asarray(values, jnp.float32))

    def kernel(self) -> jax.Array:
        """The weight (height, width, I, O) that convolves, in the compute dtype."""
        return self.weight[...].astype(self.dtype)

    def __call__(
        self,
        *inputs: jax.Array,
        layout: Layout = Layout.PIXELS,
        cancelled_bias: bool = False,
    ) -> jax.Array:
        """Convolves one or several maps, side by side in the channels.

        Args:
          inputs: (B, H, W, C) each, whose channels sum to I; or all packed.
          layout: of the maps.
          cancelled_bias: what follows subtracts the bias again, so that its gradient is 0.

        Returns:
          A map of the compute dtype, in the layout `layout.after(size, stride)`.
        """
        form = forms.current()
        weight = self.kernel()
        precision = jax.lax.Precision.HIGHEST if self.exact else None
        maps, parts = [x.astype(self.dtype) for x in inputs], [weight]
        if form.inputs == "summed" or layout is not Layout.PIXELS:
            channels = [x.shape[-1] // layout.pixels for x in maps]
            parts = jnp.split(weight, np.cumsum(channels)[:-1], axis=2)
        elif len(maps) > 1:
            maps = [jnp.concatenate(maps, -1)]
        y = functools.reduce(
            jnp.add,
            [
                convolve(x, part, self.stride, precision, layout)
                for x, part in zip(maps, parts, strict=True)
            ],
        )
        if self.bias is None:
            return y
        bias = self.bias[...].astype(self.dtype)
        if cancelled_bias and not form.cancelled_gradient:
            bias = jax.lax.stop_gradient(bias)
        return y + _spread(bias, layout.after(self.weight.shape[0], self.stride))


def zero_bias(conv: Conv) -> Conv:
    """Sets a convolution's bias to 0, as some authors start theirs; returns the convolution."""
    assert conv.bias is not None
    conv.bias[...] = jnp.zeros_like(conv.bias[...])
    return conv


def _pixels(x: jax.Array, layout: Layout) -> int:
    """Pixels of a batch in one channel, without those outside of a shifted map."""
    batch, height, width = x.shape[:3]
    margin = 1 if layout is Layout.SHIFTED else 0
    return batch * (height - margin) * (width - margin) * layout.pixels


class BatchNorm(nnx.Module):
    """Batch normalisation with PyTorch's running statistics: (B, H, W, C) -> (B, H, W, C).

    In training mode (`use_running_average` False) x is normalised by the mean and the biased
    variance of the batch, and the running statistics move by a tenth towards the mean and the
    *unbiased* variance. In evaluation mode the running statistics normalise and stay.
    Statistics and normalisation are float32 (at least); the result has the dtype of x.

    Args:
      channels: C.
      weight: initial value, of every channel.

    References:
      Ioffe and Szegedy, Batch Normalization (https://arxiv.org/abs/1502.03167), 2015;
      `torch.nn.BatchNorm2d`.
    """

    EPSILON = 1e-5
    MOMENTUM = 0.1

    def __init__(self, channels: int, *, weight: float = 1.0):
        self.use_running_average = False
        self.weight = nnx.Param(jnp.asarray(np.full(channels, weight, np.float32)))
        self.bias = nnx.Param(jnp.asarray(np.zeros(channels, np.float32)))
        self.running_mean = nnx.BatchStat(jnp.asarray(np.zeros(channels, np.float32)))
        self.running_var = nnx.BatchStat(jnp.asarray(np.ones(channels, np.float32)))

    def __call__(self, x: jax.Array, *, layout: Layout = Layout.PIXELS) -> jax.Array:
        """Normalises, and in training mode updates the running statistics.

        Args:
          x: (B, H, W, C), or packed.
          layout: of x. Pixels around a shifted map count nothing, and are 0 in the result.
        """
        values = x.astype(jnp.promote_types(x.dtype, jnp.float32))
        if self.use_running_average:
            mean, var = self.running_mean[...], self.running_var[...]
        else:
            count = _pixels(x, layout)
            mean, var = self._measure(values, layout, count)
            self._update(mean, var, count)
        scale = self.weight[...] * jax.lax.rsqrt(var + self.EPSILON)
        mean, scale, bias = (_spread(v, layout) for v in (mean, scale, self.bias[...]))
        y = (values - mean) * scale + bias
        if layout is Layout.SHIFTED:
            y = jnp.where(packing.inside(x), y, 0)
        return y.astype(x.dtype)

    def _measure(
        self, values: jax.Array, layout: Layout, count: int
    ) -> tuple[jax.Array, jax.Array]:
        """Returns mean and biased variance of every channel."""

        def average(x: jax.Array) -> jax.Array:
            if layout is Layout.PIXELS:
                return x.mean((0, 1, 2))
            if layout is Layout.SHIFTED:
                x = jnp.where(packing.inside(x), x, 0)
            return x.sum((0, 1, 2)).reshape(layout.pixels, -1).sum(0) / count

        if forms.current().statistics == "one_pass":
            # The running mean is near the batch's, so that little cancels.
            about = jax.lax.stop_gradient(self.running_mean[...])
            centred = values - _spread(about, layout)
            shift, square = average(centred), average(jnp.square(centred))
            return about + shift, square - jnp.square(shift)
        mean = average(values)
        return mean, average(jnp.square(values - _spread(mean, layout)))

    def _update(self, mean: jax.Array, var: jax.Array, count: int) -> None:
        unbiased = var * (count / max(count - 1, 1))
        for running, new in ((self.running_mean, mean), (self.running_var, unbiased)):
            new = jax.lax.stop_gradient(new).astype(jnp.float32)
            running[...] = (1 - self.MOMENTUM) * running[...] + self.MOMENTUM * new


def leaky_relu(x: jax.Array, slope: float) -> jax.Array:
    """x where positive, else slope · x; at 0 its gradient is the slope, as in PyTorch."""
    return jnp.where(x > 0, x, slope * x)
