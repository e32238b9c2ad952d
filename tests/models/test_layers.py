import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from crlm_jax.models.layers import BatchNorm, Conv
from crlm_jax.models.resampling import max_pool, upsample
from tests.models.parity import assert_close, pulled


def reference_conv(x, weight, stride):
    return jax.lax.conv_general_dilated(
        x,
        weight,
        (stride, stride),
        [(weight.shape[0] // 2,) * 2] * 2,
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )


@pytest.mark.parametrize("size", [1, 3, 7])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("side", [8, 9])
@pytest.mark.parametrize("channels", [3, 20])
def test_conv_and_its_gradients(size, stride, side, channels):
    x = jax.random.normal(jax.random.key(0), (2, side, side, channels))
    conv = Conv(channels, 5, size, stride=stride, rngs=nnx.Rngs(0))
    graph, state = nnx.split(conv)

    def own(x, state):
        return nnx.merge(graph, state)(x)

    def reference(x, weight, bias):
        return reference_conv(x, weight, stride) + bias

    y, (grad_x, grad_state) = pulled(own, x, state)
    wanted, gradients = pulled(reference, x, conv.weight[...], conv.bias[...])
    assert_close(y, wanted, 1e-5)
    ours = (grad_x, grad_state["weight"][...], grad_state["bias"][...])
    for a, b in zip(ours, gradients, strict=True):
        assert_close(a, b, 1e-5)


def test_conv_starts_as_in_pytorch():
    conv = Conv(16, 64, 3, rngs=nnx.Rngs(0))
    bound = (16 * 9) ** -0.5
    for values in (conv.weight[...], conv.bias[...]):
        assert np.abs(values).max() <= bound
        assert np.abs(values).max() > 0.9 * bound
        np.testing.assert_allclose(np.std(values), bound / 3**0.5, rtol=0.2)
    assert Conv(3, 4, 1, bias=False, rngs=nnx.Rngs(0)).bias is None


def test_batch_norm_keeps_the_unbiased_variance():
    norm = BatchNorm(2)
    x = jnp.array([1.0, 5.0, 2.0, 2.0]).reshape(1, 1, 2, 2)  # channel 0: 1, 2; channel 1: 5, 2
    y = norm(x)
    np.testing.assert_allclose(norm.running_mean[...], [0.15, 0.35], rtol=1e-6)
    np.testing.assert_allclose(norm.running_var[...], [0.9 + 0.05, 0.9 + 0.45], rtol=1e-6)
    np.testing.assert_allclose(np.asarray(y).reshape(2, 2), [[-1, 1], [1, -1]], rtol=1e-4)
    norm.eval()
    before = norm.running_var[...]
    y = norm(x)
    np.testing.assert_array_equal(norm.running_var[...], before)
    np.testing.assert_allclose(
        np.asarray(y)[0, 0, 0, 0], (1 - 0.15) / np.sqrt(0.95 + 1e-5), rtol=1e-6
    )


def test_batch_norm_of_an_offset_far_above_the_spread():
    x = 1000 + jax.random.normal(jax.random.key(0), (2, 16, 16, 4))
    y = BatchNorm(4)(x)
    np.testing.assert_allclose(np.std(y, (0, 1, 2)), 1, rtol=1e-3)


def test_batch_norm_computes_in_float32_and_returns_the_dtype_it_got():
    x = (100 + jax.random.normal(jax.random.key(0), (2, 16, 16, 4))).astype(jnp.bfloat16)
    norm = BatchNorm(4)
    assert norm(x).dtype == jnp.bfloat16
    mean = np.asarray(x, np.float32).mean((0, 1, 2))
    np.testing.assert_allclose(norm.running_mean[...], 0.1 * mean, rtol=1e-5)


@pytest.mark.parametrize(("size", "padding"), [(2, 0), (3, 1)])
@pytest.mark.parametrize("shape", [(2, 8, 6, 3), (1, 7, 9, 2)])
def test_max_pool_and_its_gradient(size, padding, shape):
    x = jax.random.normal(jax.random.key(0), shape)

    def reference(x):
        pads = [(0, 0), (padding, padding), (padding, padding), (0, 0)]
        return jax.lax.reduce_window(
            x, -jnp.inf, jax.lax.max, (1, size, size, 1), (1, 2, 2, 1), pads
        )

    y, (gradient,) = pulled(lambda x: max_pool(x, size), x)
    wanted, (gradient_wanted,) = pulled(reference, x)
    np.testing.assert_array_equal(y, wanted)
    np.testing.assert_allclose(gradient, gradient_wanted, rtol=1e-6)


@pytest.mark.parametrize("size", [2, 3])
def test_max_pool_gives_the_gradient_of_equal_values_to_the_first(size):
    # Windows of size 3 begin outside: the first place of the first window is (0, 0) for both.
    grad = jax.grad(lambda x: max_pool(x, size)[0, 0, 0, 0])(jnp.ones((1, 4, 4, 1)))
    np.testing.assert_array_equal(grad[0, :, :, 0], np.eye(4) * [1, 0, 0, 0])
    x = jnp.zeros((1, 4, 4, 1)).at[0, 0, 1].set(1).at[0, 1, 0].set(1)
    grad = jax.grad(lambda x: max_pool(x, size)[0, 0, 0, 0])(x)
    assert grad[0, 0, 1, 0] == 1
    assert np.abs(grad).sum() == 1


@pytest.mark.parametrize("place", [(0, 0), (0, 1), (1, 0), (1, 1)])
def test_max_pool_passes_nan_on(place):
    x = jnp.ones((1, 2, 2, 1)).at[0, place[0], place[1], 0].set(jnp.nan)
    assert np.isnan(max_pool(x, 2)).all()


@pytest.mark.parametrize(("height", "width"), [(1, 2), (4, 7), (14, 14)])
def test_upsample_is_linear_interpolation_with_aligned_corners(height, width):
    x = np.random.default_rng(0).standard_normal((2, height, width, 3))

    def interpolate(x, axis):
        n = x.shape[axis]
        places = np.linspace(0, n - 1, 2 * n)
        return np.apply_along_axis(lambda v: np.interp(places, np.arange(n), v), axis, x)

    y = upsample(jnp.asarray(x, jnp.float32))
    np.testing.assert_allclose(y, interpolate(interpolate(x, 1), 2), atol=1e-5)
    assert upsample(jnp.asarray(x, jnp.bfloat16)).dtype == jnp.bfloat16
