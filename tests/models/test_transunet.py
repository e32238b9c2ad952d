import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from crlm_jax.method import losses
from crlm_jax.models import torch_weights
from crlm_jax.models.transunet import TransUNet
from crlm_jax.models.transunet_weights import file_name, load_imagenet21k
from tests.fixtures import recipe
from tests.models.parity import assert_close, compiled, count, fill, nchw, nhwc, parameters, run

TINY = {
    "resnet_width": 4,
    "resnet_units": (1, 1, 1),
    "hidden": 8,
    "layers": 1,
    "heads": 2,
    "mlp": 12,
    "decoder_widths": (8, 8, 4, 4, 4),
}


def loss(logits, mask):
    """TransUNet's objective, from the logits of both classes."""
    tumour = jnp.diff(logits)
    return 0.5 * losses.bce(tumour, mask) + 0.5 * losses.two_class_dice(tumour, mask)


def tiny(image_size=32, **arguments):
    return TransUNet(image_size, **{**TINY, **arguments}, rngs=nnx.Rngs(params=0, dropout=1))


@pytest.fixture(scope="module")
def expected(fixtures):
    return dict(np.load(fixtures / "transunet.npz"))


@pytest.fixture(scope="module")
def keys(fixtures):
    return json.loads((fixtures / "keys_transunet.json").read_text())


@pytest.fixture(scope="module")
def whole():
    """The network of the fixture with the recipe's weights; 105 million of them."""
    return fill(TransUNet(64, rngs=nnx.Rngs(0)), "transunet")


@pytest.mark.slow
def test_state_dict_has_pytorch_names_shapes_and_order(whole, keys):
    wanted = [(k["key"], tuple(k["shape"])) for k in keys["state_dict"]]
    wanted = [(key, shape) for key, shape in wanted if "num_batches" not in key]
    assert [(k, v.shape) for k, v in torch_weights.to_torch(whole).items()] == wanted
    assert count(whole) == keys["n_params"] == 105_137_826
    # As the original at 224 pixels, whose position embedding has 14² rows for 4² here.
    assert count(whole) + (14**2 - 4**2) * 768 == 105_276_066


@pytest.mark.slow
def test_evaluation_is_that_of_pytorch(whole, expected):
    x, y = (nhwc(a) for a in recipe.inputs(0, 64))
    whole.eval()
    graph, state = nnx.split(whole)

    @jax.jit
    def evaluate(state):
        module = nnx.merge(graph, state)
        tokens, skips = module.transformer(x)
        logits = module.class_logits(x)
        return logits, tokens, [skip.mean((1, 2)) for skip in skips]

    logits, tokens, skips = evaluate(state)
    assert_close(nchw(logits), expected["logits_eval"])
    assert_close(tokens, expected["encoded_eval"])
    for i, skip in enumerate(skips):
        assert_close(skip, expected[f"skip{i}_mean_eval"])
    np.testing.assert_allclose(loss(logits, y), expected["loss_eval"][0], rtol=1e-5)


@pytest.fixture(scope="module")
def trained():
    """Logits, statistics, loss and gradients of a training step, computed in float64.

    The fixture's gradient of the first convolution is float32, where a ReLU whose input lies within
    rounding of zero falls to either side: ours in float64 differs from it by 1.3 %, though all
    norms are those of PyTorch in float64 within 6e-6.
    """
    with jax.enable_x64(True):
        module = fill(TransUNet(64, dtype=jnp.float64, rngs=nnx.Rngs(0)), "transunet")
        graph, params, stats = nnx.split(module, nnx.Param, nnx.BatchStat)
        x, y = (nhwc(a) for a in recipe.inputs(0, 64))

        def train(params, stats):
            def objective(params):
                module = nnx.merge(graph, params, stats, copy=True)
                logits = module.class_logits(x)
                return loss(logits, y), (logits, nnx.state(module, nnx.BatchStat))

            return jax.value_and_grad(objective, has_aux=True)(params)

        (value, (logits, stats)), grads = compiled(train, "float64")(params, stats)
        return logits, parameters(stats), value, parameters(grads)


@pytest.mark.slow
def test_training_forward_is_that_of_pytorch(trained, expected):
    logits, stats, value, _ = trained
    assert_close(nchw(logits), expected["logits_train"])
    np.testing.assert_allclose(value, expected["loss_train"][0], rtol=1e-5)
    for statistic in ("running_mean", "running_var"):
        own = stats[f"decoder.conv_more.1.{statistic}"]
        assert_close(own, expected[f"bn_conv_more_{statistic}"])


@pytest.mark.slow
def test_gradients_are_those_of_pytorch(trained, expected, keys):
    grads = trained[-1]
    first = grads["transformer.embeddings.hybrid_model.root.conv.weight"]
    assert_close(first.transpose(3, 2, 0, 1), expected["grad_root_conv"], 0.02)  # see `trained`
    head = grads["segmentation_head.0.weight"]
    assert_close(head.transpose(3, 2, 0, 1), expected["grad_head"])
    names, norms = keys["named_parameters_order"], expected["f64_grad_norms"]
    for name, norm in zip(names, norms, strict=True):
        own = np.linalg.norm(grads[name])
        if name.endswith("attn.key.bias"):
            assert own < 1e-9  # softmax takes it away again: zero but for rounding
        else:
            assert_close(own, norm)


def test_loss_is_half_cross_entropy_and_half_dice_by_hand():
    logits = jnp.log(jnp.asarray([0.75, 0.25, 0.5, 0.5]).reshape(1, 1, 2, 2))  # pixel, class
    mask = jnp.asarray([0.0, 1.0]).reshape(1, 1, 2, 1)
    cross_entropy = -(np.log(0.75) + np.log(0.5)) / 2
    background = 1 - 2 * 0.75 / (0.75**2 + 0.5**2 + 1)
    lesion = 1 - 2 * 0.5 / (0.25**2 + 0.5**2 + 1)
    wanted = 0.5 * cross_entropy + 0.25 * (background + lesion)
    np.testing.assert_allclose(loss(logits, mask), wanted, rtol=1e-5)


@pytest.fixture(scope="module")
def evaluated():
    """An image, and what `tiny` makes of it in evaluation mode: tokens and logits."""
    x = jax.random.normal(jax.random.key(0), (2, 32, 32, 3))
    return x, *evaluate(tiny(), x)


def evaluate(model, x):
    model.eval()
    graph, state = nnx.split(model)

    @jax.jit
    def both(state):
        model = nnx.merge(graph, state)
        return model.transformer(x)[0], model(x)[0]

    return both(state)


def test_maps_an_image_of_its_own_size_to_logits_of_tumour():
    model = tiny()
    model.eval()
    (logits,) = jax.eval_shape(model, jnp.ones((2, 32, 32, 3)))
    assert logits.shape == (2, 32, 32, 1)


def test_holds_only_parameters_and_batch_statistics_and_works_as_a_tree(evaluated):
    x, _, logits = evaluated
    model = tiny()
    model.eval()
    kinds = {type(v) for _, v in nnx.to_flat_state(nnx.state(model))}
    assert kinds == {nnx.Param, nnx.BatchStat}
    graph, params, stats = nnx.split(model, nnx.Param, nnx.BatchStat, graph=False)
    again = nnx.merge(graph, params, stats)
    np.testing.assert_allclose(run(again, x)[0], logits, rtol=1e-5, atol=1e-5)


def test_dropout_acts_in_training_only(evaluated):
    x, tokens, _ = evaluated
    model = tiny(dropout=0.5)
    assert np.abs(run(model.transformer, x)[0] - tokens).max() > 0.1
    model.eval()
    np.testing.assert_allclose(run(model.transformer, x)[0], tokens, rtol=1e-5, atol=1e-5)


def test_bfloat16_is_near_float32(evaluated):
    x, _, logits = evaluated
    _, half = evaluate(tiny(dtype=jnp.bfloat16), x)
    assert half.dtype == jnp.float32
    assert_close(half, logits, tolerance=0.1)


def checkpoint(module, grid=3):
    """Arrays as in R50+ViT-B_16.npz, standard normal, for a module's widths."""
    rng = np.random.default_rng(0)
    hidden, heads = TINY["hidden"], TINY["heads"]
    arrays = {"head/kernel": np.zeros((hidden, 5), np.float32), "cls": np.zeros((1, 1, hidden))}
    for path, variable in nnx.to_flat_state(nnx.state(module.transformer, nnx.Param)):
        name, shape = file_name(path), variable[...].shape
        if "pos_embedding" in name:
            shape = (1, grid**2 + 1, hidden)
        elif "Attention" in name and name.endswith("out/kernel"):
            shape = (heads, hidden // heads, hidden)
        elif "Attention" in name and not name.endswith("out/bias"):
            shape = (*shape[:-1], heads, hidden // heads)
        elif "gn" in name:
            shape = (1, 1, 1, *shape)
        arrays[name] = rng.standard_normal(shape).astype(np.float32)
    return arrays


def test_names_are_those_of_the_published_checkpoint():
    names = checkpoint(tiny())
    block = "Transformer/encoderblock_0/"
    assert {
        "conv_root/kernel",
        "gn_root/scale",
        "block2/unit1/conv_proj/kernel",
        "block2/unit1/gn_proj/bias",
        "block3/unit1/conv3/kernel",
        "embedding/kernel",
        "embedding/bias",
        "Transformer/posembed_input/pos_embedding",
        "Transformer/encoder_norm/scale",
        block + "LayerNorm_0/scale",
        block + "LayerNorm_2/bias",
        block + "MlpBlock_3/Dense_0/kernel",
        block + "MlpBlock_3/Dense_1/bias",
        block + "MultiHeadDotProductAttention_1/query/kernel",
        block + "MultiHeadDotProductAttention_1/out/bias",
    } <= set(names)


def test_imagenet21k_sets_all_but_decoder_and_head(tmp_path):
    model, before = tiny(), torch_weights.to_torch(tiny())
    arrays = checkpoint(model)
    np.savez(tmp_path / "r50.npz", **arrays)
    after = torch_weights.to_torch(load_imagenet21k(model, tmp_path / "r50.npz"))
    for name, value in after.items():
        assert np.array_equal(value, before[name]) == (not name.startswith("transformer.")), name
    query = arrays["Transformer/encoderblock_0/MultiHeadDotProductAttention_1/query/kernel"]
    np.testing.assert_array_equal(
        after["transformer.encoder.layer.0.attn.query.weight"], query.reshape(8, 8).T
    )
    np.testing.assert_array_equal(
        after["transformer.embeddings.hybrid_model.root.conv.weight"],
        arrays["conv_root/kernel"].transpose(3, 2, 0, 1),
    )
    # 3 × 3 positions become 2 × 2: with ends on ends those are the corners.
    positions = arrays["Transformer/posembed_input/pos_embedding"]
    np.testing.assert_allclose(
        after["transformer.embeddings.position_embeddings"][0],
        positions[0, 1:][[0, 2, 6, 8]],
        rtol=1e-6,
    )


def test_imagenet21k_that_does_not_fit_stops_and_says_so(tmp_path):
    model, path = tiny(), tmp_path / "r50.npz"
    with pytest.raises(torch_weights.WeightsError, match=r"r50\.npz: no such file; give R50"):
        load_imagenet21k(model, path)
    path.write_bytes(b"not a zip")
    with pytest.raises(torch_weights.WeightsError, match=r"not a whole \.npz file"):
        load_imagenet21k(model, path)
    arrays, before = checkpoint(model), torch_weights.to_torch(model)
    for name, change, message in (
        ("block1/unit1/gn3/scale", None, "lacks block1/unit1/gn3/scale; give R50"),
        ("embedding/kernel", np.zeros((8, 64, 1, 1)), r"embedding/kernel has shape \(8, 64"),
        ("Transformer/posembed_input/pos_embedding", np.zeros((1, 7, 8)), r"has shape \(1, 7, 8\)"),
        ("gn_root/bias", np.array([None]), "not a whole .npz file"),  # would need unpickling
    ):
        changed = {k: v for k, v in arrays.items() if k != name or change is not None}
        np.savez(path, **{**changed, **({} if change is None else {name: change})})
        with pytest.raises(torch_weights.WeightsError, match=message):
            load_imagenet21k(model, path)
    for name, value in torch_weights.to_torch(model).items():
        np.testing.assert_array_equal(value, before[name])
