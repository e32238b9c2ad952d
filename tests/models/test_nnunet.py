import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from crlm_jax.method import losses
from crlm_jax.models import nnunet, torch_weights
from crlm_jax.models.nnunet import NNUNet
from tests.fixtures import recipe
from tests.models.parity import (
    FLOAT64,
    assert_close,
    check_norms,
    count,
    fill,
    nchw,
    nhwc,
    parameters,
    run,
)

TINY = (4, 8, 8)

# Of a gradient, by compute dtype. In float32 a few leaky ReLUs whose input lies within rounding of
# zero fall to the other side: images changed by a millionth move the first layer's by 1.8 %.
TOLERANCE = {"float32": 3e-2, "float64": 1e-4}


@pytest.fixture(scope="module")
def expected(fixtures):
    return dict(np.load(fixtures / "nnunet.npz"))


@pytest.fixture(scope="module")
def keys(fixtures):
    return json.loads((fixtures / "keys_nnunet.json").read_text())


@pytest.fixture(scope="module")
def model():
    """At full size, with the recipe's weights."""
    return fill(NNUNet(rngs=nnx.Rngs(0)), "nnunet")


@pytest.fixture(
    scope="module",
    params=[pytest.param(name, marks=pytest.mark.slow) for name in ("float32", "float64")],
)
def dtype(request):
    return request.param


def tumour(heads):
    """Logits of tumour from those of both classes."""
    return [jnp.diff(head) for head in heads]


def objective(heads, mask):
    """What nnU-Net minimises, up by 1, as the recipe of the method puts it together."""
    weights = losses.head_weights(len(heads), "halved")
    masks = [losses.mask_of(z, mask) for z in heads]
    return sum(
        weight * (losses.bce(z, m) + losses.batch_dice(z, m))
        for weight, z, m in zip(weights, heads, masks, strict=True)
    )


@pytest.fixture(scope="module")
def measured(model, dtype):
    """(loss, heads, gradients by name) on the recipe's images."""
    with jax.enable_x64(dtype == "float64"):
        if dtype == "float64":
            model = NNUNet(dtype=jnp.float64, rngs=nnx.Rngs(0))
            fill(model, "nnunet")
        x, y = (nhwc(a) for a in recipe.inputs(0, 64))
        graph, params = nnx.split(model)

        def train(params, x):
            def loss(params):
                heads = nnx.merge(graph, params).class_logits(x)
                return objective(tumour(heads), y), heads

            return jax.value_and_grad(loss, has_aux=True)(params)

        (loss, heads), grads = jax.jit(train)(params, x)
        return loss, heads, parameters(grads)


def test_logits_are_those_of_pytorch_finest_head_first(measured, expected):
    _, heads, _ = measured
    assert len(heads) == 5
    for i, head in enumerate(heads):
        assert_close(nchw(head), expected[f"head{i}"])


def test_loss_and_gradients_are_those_of_pytorch(measured, expected, keys, dtype):
    (loss, _, grads), tolerance = measured, TOLERANCE[dtype]
    assert_close(loss - 1, expected["loss"])
    first = np.transpose(grads["encoder.stages.0.0.convs.0.conv.weight"], (3, 2, 0, 1))
    assert_close(first, expected["grad_first"], tolerance)
    for i in (1, 2, 3, 4):
        name = f"decoder.seg_layers.{i}.weight"
        assert_close(np.transpose(grads[name], (3, 2, 0, 1)), expected[f"grad_{name}"])
    own = np.sqrt(sum(np.vdot(g, g) for g in grads.values()))
    assert_close(own, expected["grad_norm"], tolerance)
    for name, norm in zip(keys["named_parameters_order"], expected["grad_norms"], strict=True):
        own = np.linalg.norm(grads[name])
        if name.startswith("decoder.seg_layers.0."):  # the coarsest head, of weight 0
            assert np.isnan(norm)
            assert own == 0
        elif name.endswith(".conv.bias"):
            # Instance norm subtracts the bias again: its gradient is zero but for rounding.
            assert own < 1e-5 * float(expected["grad_norm"])
        else:
            assert_close(own, norm, tolerance)


@pytest.mark.slow
def test_in_float64_the_norms_of_the_gradients_are_pytorchs(measured, expected, keys, dtype):
    if dtype == "float64":  # `grad_first` and the heads' are stored in float32 alone
        grads = measured[2]
        check_norms(grads, keys["named_parameters_order"], expected["f64_grad_norms"], FLOAT64)
        own = np.sqrt(sum(np.square(np.float64(g)).sum() for g in grads.values()))
        assert_close(own, expected["f64_grad_norm"], FLOAT64)


def test_loss_of_every_head_is_that_of_pytorch(expected):
    @jax.jit
    def terms(heads, y):
        masks = [losses.mask_of(z, y) for z in heads]
        pairs = list(zip(tumour(heads), masks, strict=True))
        return masks, [(losses.bce(z, m), losses.batch_dice(z, m) - 1) for z, m in pairs]

    heads = [nhwc(expected[f"head{i}"]) for i in range(5)]
    masks, values = terms(heads, nhwc(recipe.inputs(0, 64)[1]))
    for i, mask in enumerate(masks):
        np.testing.assert_array_equal(nchw(mask), expected[f"target{i}"])
    for own, wanted in zip(values, expected["loss_ce_dc_per_head"], strict=True):
        assert_close(own[0], wanted[0])
        assert_close(own[1], wanted[1])


def test_loss_of_one_head_has_all_the_weight_and_is_zero_at_best():
    mask = nhwc(recipe.inputs(0, 32)[1])
    assert losses.head_weights(1, "halved") == [1.0]
    np.testing.assert_allclose(jax.jit(objective)((80.0 * mask - 40,), mask), 0, atol=1e-6)


def test_state_dict_has_pytorch_names_shapes_and_order(model, keys):
    wanted = [(k["key"], tuple(k["shape"])) for k in keys["state_dict"] if "alias_of" not in k]
    assert [(k, v.shape) for k, v in torch_weights.to_torch(model).items()] == wanted
    assert count(model) == keys["n_params"] == 20_619_082


def test_round_trip_ignores_aliases_and_turns_transposed_convolutions():
    model = NNUNet(widths=TINY, rngs=nnx.Rngs(0))
    rng = np.random.default_rng(0)
    tensors = {
        k: rng.standard_normal(v.shape).astype(np.float32)
        for k, v in torch_weights.to_torch(model).items()
    }
    name = "encoder.stages.0.0.convs.0.{}.weight"
    conv = tensors[name.format("conv")]
    aliases = {name.format("all_modules.0"): conv, "decoder." + name.format("conv"): conv}
    torch_weights.load_torch(model, tensors | aliases, source="w", ignore=nnunet.ALIASES)
    back = torch_weights.to_torch(model)
    assert list(back) == list(tensors)
    for key, value in back.items():
        np.testing.assert_array_equal(value, tensors[key])
    np.testing.assert_array_equal(  # (I, O, height, width) there, (height, width, I, O) here
        model.decoder.transpconvs[0].weight[...],
        tensors["decoder.transpconvs.0.weight"].transpose(2, 3, 0, 1),
    )


def test_starts_he_normal_with_zero_biases():
    rngs = nnx.Rngs(0)
    up = nnunet.ConvTranspose(64, 32, dtype=jnp.float32, rngs=rngs)
    block = nnunet.ConvNorm(32, 64, stride=1, dtype=jnp.float32, rngs=rngs)
    for layer, fan_in in ((up, 4 * 32), (block.conv, 9 * 32)):
        assert float(layer.weight[...].std()) == pytest.approx((2 / fan_in) ** 0.5, rel=0.05)
        assert not layer.bias[...].any()


def test_heads_with_and_without_deep_supervision_and_in_bfloat16():
    x = jax.random.normal(jax.random.key(0), (2, 32, 48, 3))
    full, single, half = (
        NNUNet(widths=TINY, rngs=nnx.Rngs(0), **options)
        for options in ({}, {"deep_supervision": False}, {"dtype": jnp.bfloat16})
    )
    heads = run(full, x)
    assert [h.shape for h in heads] == [(2, 32, 48, 1), (2, 16, 24, 1)]
    assert [h.shape for h in jax.eval_shape(single, x)] == [(2, 32, 48, 1)]
    assert count(single) == count(full)
    head = run(half, x)[0]
    assert head.dtype == jnp.float32
    assert_close(head, heads[0], tolerance=0.05)
    assert {type(v) for _, v in nnx.to_flat_state(nnx.state(full))} == {nnx.Param}
