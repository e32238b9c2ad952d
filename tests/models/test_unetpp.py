import json
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from crlm_jax.models import torch_weights
from crlm_jax.models.unetpp import UNetPlusPlus
from tests.models.parity import (
    GRADIENT_TOLERANCE,
    assert_close,
    check_float64,
    check_segmenter,
    count,
    measure_segmenter,
    run,
)

TINY = (4, 8, 8, 16, 16)


@pytest.fixture(
    scope="module",
    params=[pytest.param(name, marks=pytest.mark.slow) for name in ("unetpp", "unetpp_ds")],
)
def case(request, fixtures):
    """(deep supervision, fixture, keys, what the model gives)."""
    deep = request.param == "unetpp_ds"
    create = partial(UNetPlusPlus, deep_supervision=deep)
    expected = dict(np.load(fixtures / f"{request.param}.npz"))
    keys = json.loads((fixtures / f"keys_{request.param}.json").read_text())
    return deep, expected, keys, measure_segmenter(create, "unetpp", "float32")[0]


def test_logits_are_those_of_pytorch_finest_head_first(case):
    deep, expected, _, measured = case
    for name in ("logits_eval", "logits_train"):
        heads = expected[name][::-1] if deep else expected[name][None]
        for actual, wanted in zip(measured[name], heads, strict=True):
            assert_close(actual, wanted)


def test_statistics_loss_and_gradients_are_those_of_pytorch(case):
    deep, expected, keys, measured = case
    check_segmenter(measured, expected, keys)
    for head in ("1", "2", "3", "4") if deep else ("",):
        grad = np.transpose(measured["grads"][f"final{head}.weight"], (3, 2, 0, 1))
        assert_close(grad, expected[f"grad_final{head}"], GRADIENT_TOLERANCE)


@pytest.mark.slow
@pytest.mark.parametrize("deep", [False, True])
def test_in_float64_the_gradients_are_pytorchs_on_every_seed(deep):
    create = partial(UNetPlusPlus, deep_supervision=deep)
    check_float64(create, "unetpp", "unetpp_ds" if deep else "unetpp")


@pytest.mark.parametrize(
    ("name", "deep", "parameters"),
    [("unetpp", False, 9_163_329), ("unetpp_ds", True, 9_163_428)],
)
def test_state_dict_has_pytorch_names_shapes_and_order(name, deep, parameters, fixtures):
    model = UNetPlusPlus(deep_supervision=deep, rngs=nnx.Rngs(0))
    keys = json.loads((fixtures / f"keys_{name}.json").read_text())["state_dict"]
    wanted = [(k["key"], tuple(k["shape"])) for k in keys if "num_batches" not in k["key"]]
    assert [(k, v.shape) for k, v in torch_weights.to_torch(model).items()] == wanted
    assert count(model) == parameters


def test_holds_only_parameters_and_batch_statistics_and_works_as_a_tree():
    model = UNetPlusPlus(widths=TINY, deep_supervision=True, rngs=nnx.Rngs(0))
    kinds = {type(v) for _, v in nnx.to_flat_state(nnx.state(model))}
    assert kinds == {nnx.Param, nnx.BatchStat}
    graph, params, stats = nnx.split(model, nnx.Param, nnx.BatchStat, graph=False)
    x = jax.random.normal(jax.random.key(0), (1, 16, 16, 3))
    again = nnx.merge(graph, params, stats)
    for a, b in zip(run(again, x), run(model, x), strict=True):
        np.testing.assert_array_equal(a, b)


def test_bfloat16_is_near_float32():
    x = jax.random.normal(jax.random.key(0), (2, 32, 32, 3))
    full = UNetPlusPlus(widths=TINY, rngs=nnx.Rngs(0))
    half = UNetPlusPlus(widths=TINY, dtype=jnp.bfloat16, rngs=nnx.Rngs(0))
    full.eval()
    half.eval()
    logits = run(half, x)[0]
    assert logits.dtype == jnp.float32
    assert_close(logits, run(full, x)[0], tolerance=0.05)
