"""A JAX function and its translation compute the same."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from crlm_jax.config.schema import Config
from crlm_jax.method.networks import create_segmenter, evaluation_graph
from crlm_jax.method.segment import probability
from crlm_jax.models.inputs import network_input
from crlm_jax.predict.engine.choice import EngineError

openvino = pytest.importorskip("openvino", reason="the extra `engine` is not installed")
from crlm_jax.predict.engine.parts import compile_exactly, split  # noqa: E402
from crlm_jax.predict.engine.translate import to_openvino  # noqa: E402

SIZES = {
    "unet": (4, 8, 16, 16, 16),
    "unetpp": (4, 8, 16),
    "nnunet": (4, 8, 16),
    "transunet": (16, 8, 8, 4, 4),
    "segan": (4,),
}


def network(name: str, *, mirror: bool):
    """A segmenter with random weights whose probability is spread out, and its slices' shape."""
    config = Config()
    config.segmenter.name, config.segmenter.widths = name, SIZES[name]
    parts = config.transunet
    parts.resnet_width, parts.resnet_units, parts.hidden = 8, (1, 1, 1), 16
    parts.layers, parts.heads, parts.mlp = 1, 2, 16
    side = config.data.image_size = 128 if name == "segan" else 32
    module = create_segmenter(config)
    graph = evaluation_graph(module)
    rng = np.random.default_rng(0)
    spread = lambda x: x + rng.uniform(0, 0.1, x.shape).astype(np.float32)  # noqa: E731
    variables = {
        "params": jax.tree.map(spread, nnx.state(module, nnx.Param)),
        "batch_stats": jax.tree.map(spread, nnx.state(module, nnx.BatchStat)),
    }
    function = lambda slices: probability(  # noqa: E731
        graph, variables, network_input(slices), mirror=mirror
    )
    return function, (1, side, side, 1)


@pytest.mark.parametrize(("name", "mirror"), [*((name, False) for name in SIZES), ("unetpp", True)])
def test_every_segmenter_is_translated(name, mirror):
    function, shape = network(name, mirror=mirror)
    slices = np.random.default_rng(1).integers(0, 256, shape).astype(np.uint8)
    found = compile_exactly(to_openvino(function, shape, "uint8"))(slices)
    assert found.shape == shape[:3]
    np.testing.assert_allclose(found, jax.jit(function)(slices), atol=1e-5)


FUNCTIONS = {
    "a channel-first reshape": lambda x: x.transpose(0, 3, 1, 2).reshape(2, -1),
    "merged axes that lie apart": lambda x: jnp.swapaxes(x, 1, 2).reshape(2, 4, -1) + x.sum(),
    "rows and columns that take turns": lambda x: jnp.stack((x, -x), 2).reshape(2, 12, 4, 3),
    "channels that take turns": lambda x: jnp.stack((x, x * x), 4).reshape(2, 6, 4, 6),
    "more than two that take turns": lambda x: jnp.stack((x, -x, x), 3).reshape(2, 6, 12, 3),
    "products of both sides": lambda x: jnp.einsum("bhwc,bhvc->bwv", x, jnp.tanh(x)),
    "a constant first": lambda x: jnp.einsum("oc,bhwc->bohw", jnp.arange(6.0).reshape(2, 3), x),
    "a broadcast": lambda x: jnp.concatenate(
        (x, jnp.broadcast_to(x.mean((1, 2))[:, None, None], x.shape)), 3),
    "padding and windows": lambda x: jax.lax.reduce_window(
        jnp.pad(x, ((0, 0), (1, 0), (0, 2), (0, 0)), constant_values=-7.0), -jnp.inf, jax.lax.max,
        (1, 2, 3, 1), (1, 2, 1, 1), "VALID"),
    "turned and cut": lambda x: jnp.flip(x, (1, 3))[:, ::2, 1:],
    "choices": lambda x: jnp.where(x > 0.5, jax.nn.gelu(x, approximate=False), jax.nn.relu(-x)),
}  # fmt: skip


@pytest.mark.parametrize("name", FUNCTIONS)
def test_operations(name):
    def function(x):
        kernel = np.random.default_rng(2).normal(size=(3, 3, 3, 3)).astype(np.float32)
        x = jax.lax.conv_general_dilated(  # whose result has channels first in memory
            x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
        )
        return FUNCTIONS[name](x)

    x = np.random.default_rng(3).normal(size=(2, 6, 4, 3)).astype(np.float32)
    found = compile_exactly(to_openvino(function, x.shape, "float32"))(x)
    np.testing.assert_allclose(found, function(x), atol=1e-4)


def test_what_is_not_translated_is_named():
    with pytest.raises(EngineError, match="sort is not translated"):
        to_openvino(lambda x: jnp.sort(x, 1), (1, 4), "float32")
    with pytest.raises(EngineError, match="a computed kernel"):
        to_openvino(lambda x: jax.lax.conv(x, x, (1, 1), "SAME"), (2, 2, 4, 4), "float32")


@pytest.mark.parametrize("share", [0.0, 0.2, 1.0])
def test_a_model_in_two_parts_computes_what_the_whole_one_does(share):
    function, shape = network("unetpp", mirror=True)
    slices = np.random.default_rng(1).integers(0, 256, shape).astype(np.uint8)
    first, rest = split(to_openvino(function, shape, "uint8"), share)
    products = [
        sum(op.get_type_name() == "Convolution" for op in part.get_ops()) for part in (first, rest)
    ]
    assert sum(products) == 13
    assert (products[0] == 0) == (share == 0)
    assert (products[1] == 0) == (share == 1)
    core = openvino.Core()
    run = [
        core.compile_model(part, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
        for part in (first, rest)
    ]
    between = run[0](slices)
    names = [result.get_friendly_name() for result in first.get_results()]
    inputs = [between[names.index(p.get_friendly_name())] for p in rest.get_parameters()]
    np.testing.assert_allclose(run[1](inputs)[0], jax.jit(function)(slices), atol=1e-5)
