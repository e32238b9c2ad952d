"""What the parity tests share: weights by recipe, layouts, and the one rule of closeness."""

from collections.abc import Callable, Sequence
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

from crlm_jax.method import losses
from crlm_jax.models import torch_weights
from tests.fixtures import recipe

FIXTURES = Path(recipe.__file__).parent


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


def pulled(function: Callable, *arguments) -> tuple[jax.Array, tuple]:
    """Value and gradients of a function, for a cotangent that is drawn; compiled at once."""
    shape = jax.eval_shape(function, *arguments)
    drawn = np.random.default_rng(2).standard_normal(shape.shape)

    @jax.jit
    def call(drawn, *arguments):
        value, pull = jax.vjp(function, *arguments)
        return value, pull(drawn)

    return call(jnp.asarray(drawn, shape.dtype), *arguments)


def count(module: nnx.Module) -> int:
    """Number of parameters."""
    return sum(x.size for x in jax.tree.leaves(nnx.state(module, nnx.Param)))


def compiled(function: Callable, dtype: str) -> Callable:
    """Compiles a function that computes in a dtype, for a few calls.

    In float32 the convolutions are calls to a library; in float64 they are LLVM's own code, which
    would run at a quarter of its speed at the level of the tests.
    """
    return optimised(function) if dtype == "float64" else jax.jit(function)


# What XLA does where the tests do not tell it to compile quickly.
USUAL = {"xla_backend_optimization_level": 3, "xla_cpu_use_fusion_emitters": True}


def optimised(function: Callable) -> Callable:
    """Compiles a function at LLVM's usual level, not at that of the tests."""
    return jax.jit(function, compiler_options=USUAL)


# Greatest error of a gradient in float32, on the images of seed 0. A ReLU whose input lies within
# rounding of zero, or a max-pool between two such values, may fall to the other side than PyTorch's
# did, and the gradient with it; on other images rounding moves the first layer's by up to 1 %
# (`tests/benchmarks/parity.py`). What holds on all is `FLOAT64`.
GRADIENT_TOLERANCE = 2e-3
FLOAT64 = 1e-6  # of all that is computed in float64, against PyTorch's float64


def measure_segmenter(
    create: Callable[..., nnx.Module], name: str, dtype: str, seeds: Sequence[int] = (0,)
) -> list[dict]:
    """Builds a segmenter with the recipe's weights in a compute dtype and runs it on each seed."""
    with jax.enable_x64(dtype == "float64"):
        segmenter = fill(create(dtype=jnp.dtype(dtype), rngs=nnx.Rngs(0)), name)
        return _measure(segmenter, dtype, seeds)


def _measure(segmenter: nnx.Module, dtype: str, seeds: Sequence[int]) -> list[dict]:
    """What the segmenter fixtures hold, in PyTorch's layout, by the functional calls of training.

    `logits_*` are (heads, B, C, H, W) in the model's order; `params` and `stats` (after one
    training forward) are by name; `grads` are of the mean over heads of 0.5 · BCE + Dice.
    """
    segmenter.eval()
    graph_eval = nnx.graphdef(segmenter)
    segmenter.train()
    graph, params, stats = nnx.split(segmenter, nnx.Param, nnx.BatchStat)

    def evaluate(params, stats, x):
        return nnx.merge(graph_eval, params, stats)(x)

    def train(params, stats, x, y):
        def loss(params):
            model = nnx.merge(graph, params, stats, copy=True)
            heads = model(x)
            terms = [0.5 * losses.bce(z, y) + losses.dice(z, y) for z in heads]
            return sum(terms) / len(terms), (heads, nnx.state(model, nnx.BatchStat))

        return jax.value_and_grad(loss, has_aux=True)(params)

    # At level 0 more ReLUs fall to the other side than the tolerance has room for.
    step, evaluate = optimised(train), compiled(evaluate, dtype)
    found = []
    for seed in seeds:
        x, y = (nhwc(a) for a in recipe.inputs(seed, 64))
        (loss, (heads, new_stats)), grads = step(params, stats, x, y)
        found.append({
            "logits_eval": np.stack([nchw(z) for z in evaluate(params, stats, x)]),
            "logits_train": np.stack([nchw(z) for z in heads]),
            "loss": np.asarray(loss),
            "stats": parameters(new_stats),
            "grads": parameters(grads),
            "grad_norm": np.asarray(optax.global_norm(grads)),
        })  # fmt: skip
    return found


def check_float64(create: Callable[..., nnx.Module], weights: str, name: str) -> None:
    """Compares a segmenter in float64 with PyTorch in float64: `float64.npz`, on two seeds.

    The recipe's weights of `weights`; `name` is the network's in the file. Seed 0, in the file too,
    is that of the tests in float32; `tests/benchmarks/parity.py` compares all three.
    """
    expected = np.load(FIXTURES / "float64.npz")
    seeds = (1, 2)
    found = measure_segmenter(create, weights, "float64", seeds)
    for seed, measured in zip(seeds, found, strict=True):
        wanted = {
            key: expected[f"{name}_{seed}_{key}"]
            for key in ("loss", "grad_first", "grad_norms", "grad_norm", "logits")
        }
        assert_close(measured["loss"], wanted["loss"], FLOAT64)
        logits = measured["logits_train"][..., ::8, ::8]
        assert_close(logits[::-1], wanted["logits"], FLOAT64)  # PyTorch's coarsest head is first
        first = measured["grads"]["conv0_0.conv1.weight"]
        assert_close(np.transpose(first, (3, 2, 0, 1)), wanted["grad_first"], FLOAT64)
        assert_close(measured["grad_norm"], wanted["grad_norm"], FLOAT64)
        check_norms(
            measured["grads"], expected[f"{name}_parameters"], wanted["grad_norms"], FLOAT64
        )


def check_norms(grads: dict, names, norms, tolerance: float, zero: float = 1e-6) -> None:
    """Compares the norm of every parameter's gradient.

    One below `zero` of the whole gradient's norm is zero but for rounding, as that of a bias that a
    normalisation subtracts again; ours must be as small.
    """
    total = np.sqrt(np.nansum(np.square(norms)))
    for name, norm in zip(names, norms, strict=True):
        own = np.linalg.norm(np.asarray(grads[str(name)], np.float64))
        if np.isnan(norm) or norm < zero * total:
            assert own < 2 * zero * total, name
        else:
            assert abs(own / norm - 1) <= tolerance, (name, own / norm - 1)


def check_segmenter(measured: dict, expected: dict, keys: dict) -> None:
    """Compares what `measure_segmenter` gave in float32 with a fixture, all but the logits."""
    tolerance = GRADIENT_TOLERANCE
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
