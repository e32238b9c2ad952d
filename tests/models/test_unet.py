import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from crlm_jax.models import torch_weights
from crlm_jax.models.unet import UNet
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


@pytest.fixture(scope="module")
def expected(fixtures):
    return dict(np.load(fixtures / "unet.npz"))


@pytest.fixture(scope="module")
def measured():
    return measure_segmenter(UNet, "unet", "float32")[0]


@pytest.mark.slow
def test_logits_are_those_of_pytorch(measured, expected):
    assert_close(measured["logits_eval"], expected["logits_eval"][None])
    assert_close(measured["logits_train"], expected["logits_train"][None])


@pytest.mark.slow
def test_statistics_loss_and_gradients_are_those_of_pytorch(measured, expected, fixtures):
    keys = json.loads((fixtures / "keys_unet.json").read_text())
    check_segmenter(measured, expected, keys)
    grad = np.transpose(measured["grads"]["final.weight"], (3, 2, 0, 1))
    assert_close(grad, expected["grad_final"], GRADIENT_TOLERANCE)


@pytest.mark.slow
def test_in_float64_the_gradients_are_pytorchs_on_every_seed():
    check_float64(UNet, "unet", "unet")


def test_state_dict_has_pytorch_names_shapes_and_order(fixtures):
    model = UNet(rngs=nnx.Rngs(0))
    keys = json.loads((fixtures / "keys_unet.json").read_text())["state_dict"]
    wanted = [(k["key"], tuple(k["shape"])) for k in keys if "num_batches" not in k["key"]]
    assert [(k, v.shape) for k, v in torch_weights.to_torch(model).items()] == wanted
    assert count(model) == 7_852_545


def test_holds_only_parameters_and_batch_statistics_and_works_as_a_tree():
    model = UNet(widths=TINY, rngs=nnx.Rngs(0))
    kinds = {type(v) for _, v in nnx.to_flat_state(nnx.state(model))}
    assert kinds == {nnx.Param, nnx.BatchStat}
    graph, params, stats = nnx.split(model, nnx.Param, nnx.BatchStat, graph=False)
    again = nnx.merge(graph, params, stats)
    x = jax.random.normal(jax.random.key(0), (1, 16, 32, 3))
    np.testing.assert_array_equal(run(again, x)[0], run(model, x)[0])


def test_bfloat16_is_near_float32():
    x = jax.random.normal(jax.random.key(0), (2, 32, 32, 3))
    full = UNet(widths=TINY, rngs=nnx.Rngs(0))
    half = UNet(widths=TINY, dtype=jnp.bfloat16, rngs=nnx.Rngs(0))
    assert {v.dtype for v in jax.tree.leaves(nnx.state(half))} == {jnp.dtype("float32")}
    full.eval()
    half.eval()
    logits = run(half, x)[0]
    assert logits.dtype == jnp.float32
    assert_close(logits, run(full, x)[0], tolerance=0.05)


def test_other_channels_and_depths():
    model = UNet(in_channels=1, out_channels=2, widths=(4, 8), rngs=nnx.Rngs(0))
    (logits,) = run(model, jnp.zeros((1, 6, 8, 1)))
    assert logits.shape == (1, 6, 8, 2)
