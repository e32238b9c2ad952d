"""Pooling and up-sampling as PyTorch has them, in the forms that are fast on a platform.

All maps are (B, H, W, C), or packed (`crlm_jax.models.packing`).
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from crlm_jax.models import forms, packing
from crlm_jax.models.packing import Layout


def _first_max(a: jax.Array, b: jax.Array) -> jax.Array:
    """The larger of two; the first if they are equal, NaN if one of them is."""
    return jnp.where((b > a) | jnp.isnan(b), b, a)


def _pool(x: jax.Array, axis: int, size: int, count: int) -> jax.Array:
    """Largest of `size` neighbours at every second place along an axis."""
    parts = [
        jax.lax.slice_in_dim(x, offset, offset + 2 * count - 1, 2, axis) for offset in range(size)
    ]
    return functools.reduce(_first_max, parts)


def max_pool(x: jax.Array, size: int, *, layout: Layout = Layout.PIXELS) -> jax.Array:
    """Max-pooling with stride 2: (B, H, W, C) -> (B, H', W', C).

    Size 2 has no padding, H' = ⌊H/2⌋; size 3 has a padding of 1, H' = ⌈H/2⌉, as in a ResNet stem.
    A map in the layout `SQUARES` is pooled with size 2 to (B, H/2, W/2, C), which is not packed.

    The form `slices` has maxima of strided slices: the gradient of `windows` (select-and-scatter)
    is ten times as slow on CPU. Columns go before rows so that, as in PyTorch, the whole gradient
    of equal values belongs to the first in reading order.
    """
    if layout is Layout.SQUARES:
        upper_left, upper_right, lower_left, lower_right = packing.groups(x)
        return _first_max(_first_max(upper_left, upper_right), _first_max(lower_left, lower_right))
    margin = (size - 1) // 2
    if forms.current().pooling == "windows":
        return nnx.max_pool(x, (size, size), (2, 2), [(margin, margin)] * 2)
    if margin:
        sides = (margin, margin)
        x = jnp.pad(x, ((0, 0), sides, sides, (0, 0)), constant_values=-jnp.inf)
    height, width = ((n - size) // 2 + 1 for n in x.shape[1:3])
    return _pool(_pool(x, 2, size, width), 1, size, height)


def _blends(x: jax.Array, axis: int) -> tuple[jax.Array, jax.Array]:
    """The even and the odd places of an axis of n values that is doubled.

    Place j of 2n lies at j·(n−1)/(2n−1) of the old ones. Hence place 2k lies k/(2n−1) before k, and
    place 2k + 1 lies (n−1−k)/(2n−1) after k.
    """
    n = x.shape[axis]
    shape = [n if i == axis else 1 for i in range(x.ndim)]
    before = (jnp.arange(n) / (2 * n - 1)).astype(x.dtype).reshape(shape)
    after = jnp.flip(before, axis)
    first, last = (jax.lax.slice_in_dim(x, i, i + 1, axis=axis) for i in (0, n - 1))
    previous = jnp.concatenate((first, jax.lax.slice_in_dim(x, 0, n - 1, axis=axis)), axis)
    following = jnp.concatenate((jax.lax.slice_in_dim(x, 1, n, axis=axis), last), axis)
    return x + before * (previous - x), x + after * (following - x)


def _aligned(n: int) -> np.ndarray:
    """Matrix (2n, n) of the doubling of an axis, float64."""
    place = np.arange(2 * n) * (n - 1) / max(2 * n - 1, 1)
    return np.maximum(0, 1 - np.abs(place[:, None] - np.arange(n)))


def _times(matrix: np.ndarray, x: jax.Array, axis: int) -> jax.Array:
    """Product with a matrix (new, old) along the rows (axis 1) or the columns (axis 2)."""
    equation = "ih,bhwc->biwc" if axis == 1 else "jw,bhwc->bhjc"
    weights = jnp.asarray(matrix, x.dtype)
    return jnp.einsum(equation, weights, x, precision=jax.lax.Precision.HIGHEST)


def _packed_blends(x: jax.Array, axis: int) -> jax.Array:
    """As `_blends` along an axis, with both results side by side in the channels.

    Rows go first: (B, n, W, C) -> (B, n, W, 2C); then columns, where each half is doubled:
    (B, H, n, 2C) -> (B, H, n, 4C). A blend is a convolution with three places of x and of t · x,
    where t = k/(2n−1) at place k, so t = t' ± 1/(2n−1) at its neighbours. As a convolution it
    leaves the map as a TPU holds it; slices along an axis would be laid out anew.
    """
    n, channels, groups = x.shape[axis], x.shape[-1], axis
    step = 1 / max(2 * n - 1, 1)
    last = (n - 1) * step
    # (even, odd) × (previous, own, following)
    of_x = np.array([[step, 1, 0], [0, 1 - last, last + step]])
    of_tx = np.array([[1, -1, 0], [0, 1, -1]])

    def kernel(taps: np.ndarray) -> np.ndarray:
        own, half = np.eye(channels // groups), np.eye(groups)
        return np.stack([np.kron(half, np.kron(tap[None], own)) for tap in taps.T])

    weight = np.expand_dims(np.concatenate([kernel(of_x), kernel(of_tx)], 1), 2 - axis)
    t = (jnp.arange(n) * step).reshape((n, 1, 1) if axis == 1 else (n, 1)).astype(x.dtype)
    return jax.lax.conv_general_dilated(
        jnp.concatenate([x, t * x], -1),
        jnp.asarray(weight, x.dtype),
        window_strides=(1, 1),
        padding=[(1, 1), (0, 0)] if axis == 1 else [(0, 0), (1, 1)],
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        precision=jax.lax.Precision.HIGHEST,
    )


def _doubled(x: jax.Array, axis: int) -> jax.Array:
    if forms.current().upsampling == "products":
        return _times(_aligned(x.shape[axis]), x, axis)
    return jnp.stack(_blends(x, axis), axis + 1).reshape(
        [2 * n if i == axis else n for i, n in enumerate(x.shape)]
    )


def upsample(x: jax.Array, *, layout: Layout = Layout.PIXELS) -> jax.Array:
    """Bilinear up-sampling by 2 with aligned corners: (B, H, W, C) -> (B, 2H, 2W, C).

    As `torch.nn.Upsample(scale_factor=2, mode="bilinear", align_corners=True)`. Each new value is
    one of two neighbours' blends, so no gather is needed, whose gradient is a slow scatter.

    Args:
      x: the map, which is not packed.
      layout: of the result; `SQUARES` gives a packed map, (B, H, W, 4C).
    """
    if layout is Layout.PIXELS:
        return _doubled(_doubled(x, 1), 2)
    return _packed_blends(_packed_blends(x, 1), 2)


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
