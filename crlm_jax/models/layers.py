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

Precision = jax.lax.Precision | None
Initializer = Callable[[jax.Array, tuple[int, ...]], np.ndarray]


class Common(TypedDict):
    """What every layer with weights takes."""

    dtype: NotRequired[jnp.dtype]  # of the computation; float32 if it is not given
    precision: NotRequired[Precision]  # of products; None: the platform's own
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


def _convolve(
    x: jax.Array, weight: jax.Array, stride: int, precision: Precision = None
) -> jax.Array:
    """As `convolve`, by XLA's general convolution."""
    padding = [((side - 1) // 2,) * 2 for side in weight.shape[:2]]
    return jax.lax.conv_general_dilated(
        x,
        weight,
        window_strides=(stride, stride),
        padding=padding,
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        precision=precision,
    )


def _weight_gradient(x: jax.Array, g: jax.Array, precision: Precision) -> jax.Array:
    """Gradient of a 3×3 convolution's weight as one convolution by g, as XLA derives it."""
    return jax.lax.conv_general_dilated(
        x,
        g,
        (1, 1),
        [(1, 1)] * 2,
        dimension_numbers=("CHWN", "IHWO", "HWNC"),
        precision=precision,
    )


def _weight_gradient_by_rows(x: jax.Array, g: jax.Array, precision: Precision) -> jax.Array:
    """The same gradient as three convolutions along rows, which sum over all rows of the batch.

    On CPU it is up to five times as fast from 16 channels on, because it sums over B·H, whereas a
    convolution with the whole map as kernel sums over B alone.
    """
    (batch, height, width, _), channels = x.shape, g.shape[-1]
    rows = x.reshape(batch * height, width, -1)
    padded = jnp.pad(g, ((0, 0), (1, 1), (0, 0), (0, 0)))
    parts = [
        jax.lax.conv_general_dilated(
            padded[:, 2 - k : 2 - k + height].reshape(batch * height, width, channels),
            rows,
            window_strides=(1,),
            padding=[(1, 1)],
            dimension_numbers=("CWN", "IWO", "WNC"),
            precision=precision,
        )
        for k in range(3)
    ]
    return jnp.flip(jnp.stack(parts), 1).transpose(0, 1, 3, 2)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def _convolve_3x3(x: jax.Array, weight: jax.Array, precision: Precision) -> jax.Array:
    """`_convolve` with stride 1, whose gradient is fast on CPU too."""
    return _convolve(x, weight, 1, precision)


def _convolve_3x3_forward(
    x: jax.Array, weight: jax.Array, precision: Precision
) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    return _convolve(x, weight, 1, precision), (x, weight)


def _convolve_3x3_backward(
    precision: Precision, saved: tuple[jax.Array, jax.Array], g: jax.Array
) -> tuple[jax.Array, jax.Array]:
    x, weight = saved
    (x_gradient,) = jax.vjp(lambda x: _convolve(x, weight, 1, precision), x)[1](g)
    if x.shape[-1] < 16:
        return x_gradient, _weight_gradient(x, g, precision)
    weight_gradient = jax.lax.platform_dependent(
        x,
        g,
        cpu=functools.partial(_weight_gradient_by_rows, precision=precision),
        default=functools.partial(_weight_gradient, precision=precision),
    )
    return x_gradient, weight_gradient


_convolve_3x3.defvjp(_convolve_3x3_forward, _convolve_3x3_backward)


def convolve(
    x: jax.Array, weight: jax.Array, stride: int = 1, precision: Precision = None
) -> jax.Array:
    """(B, H, W, I) with a kernel (h, w, I, O), padded by ⌊(side − 1)/2⌋: -> (B, H', W', O).

    An odd kernel side gives H' = ⌈H/stride⌉; an even one with stride 2, H' = ⌊H/2⌋. Both arguments
    have the same dtype. `precision` is that of the products, forwards and backwards.
    """
    if weight.shape[:2] == (1, 1):
        # A matrix product: on CPU its weight gradient is 4 to 7 times as fast as a convolution's.
        # Slicing first avoids a dilated convolution in the input gradient of a stride.
        return jnp.einsum(
            "bhwi,io->bhwo", x[:, ::stride, ::stride], weight[0, 0], precision=precision
        )
    if weight.shape[:2] == (3, 3) and stride == 1:
        return _convolve_3x3(x, weight, precision)
    return _convolve(x, weight, stride, precision)


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
      precision: of the products; None: the platform's own, which a TPU and a GPU round.
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
        precision: Precision = None,
        rngs: nnx.Rngs,
    ):
        self.stride, self.dtype, self.precision = stride, dtype, precision
        sides = (size, size) if isinstance(size, int) else size
        shape = (*sides, in_channels, out_channels)
        self.weight = nnx.Param(jnp.asarray(init(rngs.params(), shape)))
        values = None
        if bias:
            bound = math.prod(shape[:3]) ** -0.5
            values = host_rng(rngs.params()).uniform(-bound, bound, out_channels)
        self.bias = None if values is None else nnx.Param(jnp.asarray(values, jnp.float32))

    def __call__(self, x: jax.Array) -> jax.Array:
        """Convolves; the result has the compute dtype."""
        weight = self.weight[...].astype(self.dtype)
        y = convolve(x.astype(self.dtype), weight, self.stride, self.precision)
        return y if self.bias is None else y + self.bias[...].astype(self.dtype)


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

    def __call__(self, x: jax.Array) -> jax.Array:
        """Normalises, and in training mode updates the running statistics."""
        values = x.astype(jnp.promote_types(x.dtype, jnp.float32))
        if self.use_running_average:
            mean, var = self.running_mean[...], self.running_var[...]
        else:
            mean = values.mean((0, 1, 2))
            var = jnp.square(values - mean).mean((0, 1, 2))
            self._update(mean, var, count=x.size // x.shape[-1])
        scale = self.weight[...] * jax.lax.rsqrt(var + self.EPSILON)
        return ((values - mean) * scale + self.bias[...]).astype(x.dtype)

    def _update(self, mean: jax.Array, var: jax.Array, count: int) -> None:
        unbiased = var * (count / max(count - 1, 1))
        for running, new in ((self.running_mean, mean), (self.running_var, unbiased)):
            new = jax.lax.stop_gradient(new).astype(jnp.float32)
            running[...] = (1 - self.MOMENTUM) * running[...] + self.MOMENTUM * new


def leaky_relu(x: jax.Array, slope: float) -> jax.Array:
    """x where positive, else slope · x; at 0 its gradient is the slope, as in PyTorch."""
    return jnp.where(x > 0, x, slope * x)


def _first_max(a: jax.Array, b: jax.Array) -> jax.Array:
    """The larger of two; the first if they are equal, NaN if one of them is."""
    return jnp.where((b > a) | jnp.isnan(b), b, a)


def _pool(x: jax.Array, axis: int, size: int, count: int) -> jax.Array:
    """Largest of `size` neighbours at every second place along an axis."""
    parts = [
        jax.lax.slice_in_dim(x, offset, offset + 2 * count - 1, 2, axis) for offset in range(size)
    ]
    return functools.reduce(_first_max, parts)


def max_pool(x: jax.Array, size: int) -> jax.Array:
    """Max-pooling with stride 2: (B, H, W, C) -> (B, H', W', C).

    Size 2 has no padding, H' = ⌊H/2⌋; size 3 has a padding of 1, H' = ⌈H/2⌉, as in a ResNet stem.

    Written as maxima of strided slices: `reduce_window`'s gradient (select-and-scatter) is ten
    times as slow on CPU. Columns go before rows so that, as in PyTorch, the whole gradient of
    equal values belongs to the first in reading order.
    """
    if size == 3:
        x = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)), constant_values=-jnp.inf)
    height, width = ((n - size) // 2 + 1 for n in x.shape[1:3])
    return _pool(_pool(x, 2, size, width), 1, size, height)


def _upsample(x: jax.Array, axis: int) -> jax.Array:
    """Doubles an axis of n values: place j of 2n lies at j·(n−1)/(2n−1) of the old ones.

    Hence place 2k lies k/(2n−1) before k, and place 2k + 1 lies (n−1−k)/(2n−1) after k.
    """
    n = x.shape[axis]
    shape = [n if i == axis else 1 for i in range(x.ndim)]
    before = (jnp.arange(n) / (2 * n - 1)).astype(x.dtype).reshape(shape)
    after = jnp.flip(before, axis)
    first, last = (jax.lax.slice_in_dim(x, i, i + 1, axis=axis) for i in (0, n - 1))
    previous = jnp.concatenate((first, jax.lax.slice_in_dim(x, 0, n - 1, axis=axis)), axis)
    following = jnp.concatenate((jax.lax.slice_in_dim(x, 1, n, axis=axis), last), axis)
    even = x + before * (previous - x)
    odd = x + after * (following - x)
    return jnp.stack((even, odd), axis + 1).reshape(
        [2 * n if i == axis else s for i, s in enumerate(x.shape)]
    )


def upsample(x: jax.Array) -> jax.Array:
    """Bilinear up-sampling by 2 with aligned corners: (B, H, W, C) -> (B, 2H, 2W, C).

    As `torch.nn.Upsample(scale_factor=2, mode="bilinear", align_corners=True)`. Each new value is
    one of two neighbours' blends, so no gather is needed (whose gradient is a slow scatter) and
    no matrix product (which a TPU would round to bfloat16).
    """
    return _upsample(_upsample(x, 1), 2)


def _interpolation(old: int, new: int) -> np.ndarray:
    """Matrix (new, old) of linear interpolation; pixels are squares, those at the ends reach on."""
    place = np.clip((np.arange(new) + 0.5) * old / new - 0.5, 0, old - 1)
    return np.maximum(0, 1 - np.abs(place[:, None] - np.arange(old))).astype(np.float32)


def resize(x: jax.Array, height: int, width: int) -> jax.Array:
    """Bilinear up-sampling without aligned corners: (B, H, W, C) -> (B, height, width, C).

    As `torch.nn.functional.interpolate(mode="bilinear")`. By matrices, since `jax.image.resize`
    cannot be exported to ONNX for any number of slices.
    """
    rows, columns = (_interpolation(*n) for n in ((x.shape[1], height), (x.shape[2], width)))
    equation = "ih,jw,bhwc->bijc"
    exact = jax.lax.Precision.HIGHEST
    return jnp.einsum(equation, rows.astype(x.dtype), columns.astype(x.dtype), x, precision=exact)
