"""What the parity tests share: weights by recipe, layouts, and the one rule of closeness."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

from crlm_jax.method import losses
from crlm_jax.models import torch_weights
from tests.fixtures import recipe


def assert_close(actual, expected, tolerance: float = 1e-4, noise: float = 0.0) -> None:
    """Asserts max |actual − expected| ≤ tolerance · max |expected| + noise of the reference.

    Relative to the largest value of the reference, not to each: elements near zero are sums that
    cancel, whose own relative error means nothing.
    """
    actual, expected = np.asarray(actual, np.float64), np.asarray(expected, np.float64)
    assert actual.shape == expected.shape
    error = np.abs(actual - expected).max()
    assert error <= tolerance * np.abs(expected).max() + noise, (error, np.abs(expected).max())


def nhwc(x) -> jax.Array:
    """(…, C, H, W) -> (…, H, W, C)."""
    return jnp.asarray(np.moveaxis(np.asarray(x), -3, -1))


def nchw(x) -> np.ndarray:
    """(…, H, W, C) -> (…, C, H, W)."""
    return np.moveaxis(np.asarray(x), -1, -3)


def fill(module: nnx.Module, name: str) -> nnx.Module:
    """Sets the recipe's weights of model `name`."""
    shapes = {key: value.shape for key, value in torch_weights.to_torch(module).items()}
    tensors = {key: recipe.tensor(name, key, shape) for key, shape in shapes.items()}
    return torch_weights.load_torch(module, tensors, source="recipe")


def parameters(state: nnx.State) -> dict[str, np.ndarray]:
    """Leaves of a state by PyTorch's name, in Flax's layout."""
    return {".".join(map(str, path)): np.asarray(v[...]) for path, v in nnx.to_flat_state(state)}


def run(module: nnx.Module, x, method: str = "__call__", dtype: str = "float32"):
    """Calls a module compiled, which on a cold cache is far faster than operation by operation."""
    graph, state = nnx.split(module)

    def call(state, x):
        return getattr(nnx.merge(graph, state), method)(x)

    return compiled(call, dtype)(state, x)


def count(module: nnx.Module) -> int:
    """Number of parameters."""
    return sum(x.size for x in jax.tree.leaves(nnx.state(module, nnx.Param)))


def compiled(function: Callable, dtype: str) -> Callable:
    """Compiles a function that computes in a dtype, for a few calls.

    LLVM's level 0 compiles in half the time. In float32 the convolutions are calls to a library, as
    fast as ever; in float64 they are LLVM's own code, which would run at a quarter of its speed.
    """
    level = {"xla_backend_optimization_level": 0}
    return jax.jit(function, compiler_options=None if dtype == "float64" else level)


# Greatest error of a gradient, by compute dtype. In float32 a ReLU whose input lies within rounding
# of zero, or a max-pool between two such values, may fall to the other side than PyTorch's did, and
# the gradient with it; in float64 only PyTorch's own rounding is left.
GRADIENT_TOLERANCE = {"float32": 2e-3, "float64": 1e-4}


def measure_segmenter(create: Callable[..., nnx.Module], name: str, dtype: str) -> dict:
    """Builds a segmenter with the recipe's weights in a compute dtype and runs it."""
    with jax.enable_x64(dtype == "float64"):
        return _measure(fill(create(dtype=jnp.dtype(dtype), rngs=nnx.Rngs(0)), name), dtype)


def _measure(segmenter: nnx.Module, dtype: str) -> dict:
    """What the segmenter fixtures hold, in PyTorch's layout, by the functional calls of training.

    `logits_*` are (heads, B, C, H, W) in the model's order; `params` and `stats` (after one
    training forward) are by name; `grads` are of the mean over heads of 0.5 · BCE + Dice.
    """
    x, y = (nhwc(a) for a in recipe.inputs(0, 64))
    segmenter.eval()
    graph_eval = nnx.graphdef(segmenter)
    segmenter.train()
    graph, params, stats = nnx.split(segmenter, nnx.Param, nnx.BatchStat)

    def evaluate(params, stats):
        return nnx.merge(graph_eval, params, stats)(x)

    def train(params, stats):
        def loss(params):
            model = nnx.merge(graph, params, stats, copy=True)
            heads = model(x)
            terms = [0.5 * losses.bce(z, y) + losses.dice(z, y) for z in heads]
            return sum(terms) / len(terms), (heads, nnx.state(model, nnx.BatchStat))

        return jax.value_and_grad(loss, has_aux=True)(params)

    # Not `compiled`: at level 0 more ReLUs fall to the other side than the tolerance has room for.
    (loss, (heads, new_stats)), grads = jax.jit(train)(params, stats)
    return {
        "logits_eval": np.stack([nchw(z) for z in compiled(evaluate, dtype)(params, stats)]),
        "logits_train": np.stack([nchw(z) for z in heads]),
        "loss": np.asarray(loss),
        "stats": parameters(new_stats),
        "grads": parameters(grads),
        "grad_norm": np.asarray(optax.global_norm(grads)),
    }


def check_segmenter(measured: dict, expected: dict, keys: dict, dtype: str) -> None:
    """Compares what `measure_segmenter` gave with a fixture, all but the logits."""
    tolerance = GRADIENT_TOLERANCE[dtype]
    assert_close(measured["loss"], expected["loss_bcedice"])
    for fixture, name in (("first", "conv0_0.bn1"), ("conv4_0_bn2", "conv4_0.bn2")):
        for statistic in ("running_mean", "running_var"):
            assert_close(
                measured["stats"][f"{name}.{statistic}"], expected[f"bn_{fixture}_{statistic}"]
            )
    first = measured["grads"]["conv0_0.conv1.weight"]
    noise = float(expected["f64_maxdiff_grad_first"])  # of PyTorch in float32
    assert_close(np.transpose(first, (3, 2, 0, 1)), expected["grad_first"], tolerance, noise)
    assert_close(measured["grad_norm"], expected["grad_norm"])
    for name, norm in zip(keys["named_parameters_order"], expected["grad_norms"], strict=True):
        own = np.linalg.norm(measured["grads"][name])
        if name.endswith(("conv1.bias", "conv2.bias")):
            # Batch norm subtracts the bias again: its gradient is zero but for rounding.
            assert own < 1e-5 * float(expected["grad_norm"])
        else:
            assert_close(own, norm, tolerance)
