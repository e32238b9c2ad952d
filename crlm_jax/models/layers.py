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

from crlm_jax.models import forms
from crlm_jax.models.convolution import convolve, convolve_packed

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


def _spread(values: jax.Array) -> jax.Array:
    """One value a channel, (C,) -> one a packed channel, (4C,)."""
    return jnp.tile(values, 4)


def _same(values: jax.Array) -> jax.Array:
    return values


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

    def __call__(
        self, *inputs: jax.Array, packed: bool = False, cancelled_bias: bool = False
    ) -> jax.Array:
        """Convolves one or several maps, side by side in the channels.

        Args:
          inputs: (B, H, W, C) each, whose channels sum to I; or all packed.
          packed: the maps are packed.
          cancelled_bias: what follows subtracts the bias again, so that its gradient is 0.

        Returns:
          A map of the compute dtype; packed where the maps are, unless there is a stride.
        """
        form = forms.current()
        weight = self.weight[...].astype(self.dtype)
        precision = form.exact if self.exact else None
        apply = convolve_packed if packed else convolve
        maps = [x.astype(self.dtype) for x in inputs]
        if form.inputs == "joined" and not packed:
            maps, parts = [maps[0] if len(maps) == 1 else jnp.concatenate(maps, -1)], [weight]
        else:
            channels = [x.shape[-1] // (4 if packed else 1) for x in maps]
            parts = jnp.split(weight, np.cumsum(channels)[:-1], axis=2)
        products = [
            apply(x, part, self.stride, precision) for x, part in zip(maps, parts, strict=True)
        ]
        y = functools.reduce(jnp.add, products)
        if self.bias is None:
            return y
        bias = self.bias[...].astype(self.dtype)
        if cancelled_bias and not form.cancelled_gradient:
            bias = jax.lax.stop_gradient(bias)
        return y + (_spread(bias) if packed and self.stride == 1 else bias)


def zero_bias(conv: Conv) -> Conv:
    """Sets a convolution's bias to 0, as some authors start theirs; returns the convolution."""
    assert conv.bias is not None
    conv.bias[...] = jnp.zeros_like(conv.bias[...])
    return conv


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

    def __call__(self, x: jax.Array, packed: bool = False) -> jax.Array:
        """Normalises, and in training mode updates the running statistics.

        Args:
          x: (B, H, W, C), or packed.
          packed: x is packed.
        """
        values = x.astype(jnp.promote_types(x.dtype, jnp.float32))
        spread = _spread if packed else _same
        if self.use_running_average:
            mean, var = self.running_mean[...], self.running_var[...]
        else:
            mean, var = self._measure(values, packed)
            self._update(mean, var, count=x.size // mean.size)
        scale = self.weight[...] * jax.lax.rsqrt(var + self.EPSILON)
        return ((values - spread(mean)) * spread(scale) + spread(self.bias[...])).astype(x.dtype)

    def _measure(self, values: jax.Array, packed: bool) -> tuple[jax.Array, jax.Array]:
        """Returns mean and biased variance of every channel."""

        def average(x: jax.Array) -> jax.Array:
            mean = x.mean((0, 1, 2))
            return mean.reshape(4, -1).mean(0) if packed else mean

        spread = _spread if packed else _same
        if forms.current().statistics == "one_pass":
            # The running mean is near the batch's, so that little cancels.
            about = jax.lax.stop_gradient(self.running_mean[...])
            centred = values - spread(about)
            shift, square = average(centred), average(jnp.square(centred))
            return about + shift, square - jnp.square(shift)
        mean = average(values)
        return mean, average(jnp.square(values - spread(mean)))

    def _update(self, mean: jax.Array, var: jax.Array, count: int) -> None:
        unbiased = var * (count / max(count - 1, 1))
        for running, new in ((self.running_mean, mean), (self.running_var, unbiased)):
            new = jax.lax.stop_gradient(new).astype(jnp.float32)
            running[...] = (1 - self.MOMENTUM) * running[...] + self.MOMENTUM * new


def leaky_relu(x: jax.Array, slope: float) -> jax.Array:
    """x where positive, else slope · x; at 0 its gradient is the slope, as in PyTorch."""
    return jnp.where(x > 0, x, slope * x)
