import json
from fnmatch import fnmatchcase

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from crlm_jax.method import losses
from crlm_jax.models import layers, segan, torch_weights
from crlm_jax.models.segan import SegANCritic, SegANSegmentor
from tests.fixtures import recipe
from tests.models.parity import assert_close, count, nchw, nhwc, run

STAGES = range(1, 8)


class Zeros:
    """A generator that draws nothing, where the recipe's weights come next."""

    def uniform(self, low, high, shape):
        return np.zeros(shape, np.float32)

    def standard_normal(self, shape):
        return np.zeros(shape, np.float32)


@pytest.fixture(scope="module")
def expected(fixtures):
    return dict(np.load(fixtures / "segan.npz"))


def read_keys(fixtures, name):
    return json.loads((fixtures / f"keys_{name}.json").read_text())


def used(keys, model):
    """Names and shapes of the original's state dict that the model has a place for."""
    ignored = (*torch_weights.IGNORED, *model.unbuilt)
    return {
        k["key"]: tuple(k["shape"])
        for k in keys["state_dict"]
        if not any(fnmatchcase(k["key"], pattern) for pattern in ignored)
    }


@pytest.fixture(scope="module")
def models(fixtures):
    """Segmentor and critic with the recipe's weights; 600 MB, so they are built once."""
    with pytest.MonkeyPatch.context() as patch:
        for module in (layers, segan):
            patch.setattr(module, "host_rng", lambda key: Zeros())
        built = {
            "segan_s": SegANSegmentor(rngs=nnx.Rngs(0)),
            "segan_c": SegANCritic(rngs=nnx.Rngs(0)),
        }
    for name, model in built.items():
        shapes = used(read_keys(fixtures, name), model)
        tensors = {key: recipe.tensor(name, key, shape) for key, shape in shapes.items()}
        torch_weights.load_torch(model, tensors, source="recipe")
    return tuple(built.values())


@pytest.fixture(scope="module")
def data():
    """x (2, 128, 128, 3) and y (2, 128, 128, 1)."""
    return [nhwc(a) for a in recipe.inputs(0, 128)]


def distance(features, reference):
    return losses.feature_distance(features, reference, STAGES, fusion="concatenated")


def summary(grads):
    """Norm of each gradient by name, and the whole first one in PyTorch's layout."""
    named = {".".join(map(str, path)): v[...] for path, v in nnx.to_flat_state(grads)}
    norms = {name: jnp.sqrt(jnp.square(g).sum()) for name, g in named.items()}
    return {"norms": norms, "first": named["convblock1.0.weight"].transpose(3, 2, 0, 1)}


def check_norms(norms, expected, keys, tolerance):
    """Compares each parameter's gradient norm; NaN marks those the original does not use."""
    for name, norm in zip(keys["named_parameters_order"], expected, strict=True):
        if np.isnan(norm):
            assert name not in norms
        else:
            error = abs(norms[name] - norm)
            # of sums that cancel (biases before a batch norm) only rounding is left
            assert error <= tolerance * norm + 1e-6 * np.nanmax(expected), name
    total = np.linalg.norm([float(n) for n in norms.values()])
    assert_close(total, np.sqrt(np.nansum(np.square(expected))), tolerance)


@pytest.mark.parametrize("mode", ["eval", "train"])
def test_logits_are_those_of_pytorch(mode, models, data, expected):
    getattr(models[0], mode)()
    graph, state = nnx.split(models[0])
    (logits,) = jax.jit(lambda state, x: nnx.merge(graph, state)(x))(state, data[0])
    noise = float(expected[f"f64_maxdiff_{mode}"])  # train: 1×1 maps are normalised over two values
    assert_close(nchw(logits), expected[f"logits_{mode}"], noise=noise)


@pytest.mark.slow
def test_losses_and_gradients_of_the_segmentor_are_those_of_pytorch(
    models, data, expected, fixtures
):
    """As SegAN trains it, but in evaluation mode: 1×1 maps of two images are ill-conditioned."""
    x, y = data
    for model in models:
        model.eval()
    (graph_s, params, stats), (graph_c, critic) = (
        nnx.split(models[0], nnx.Param, nnx.BatchStat),
        nnx.split(models[1]),
    )

    @jax.jit
    def step(params, stats, critic):
        def loss(params):
            (logits,) = nnx.merge(graph_s, params, stats)(x)
            p, c = jax.nn.sigmoid(logits), nnx.merge(graph_c, critic)
            terms = {"loss_G": distance(c(x * p), c(x * y))}
            terms["loss_dice"] = losses.squared_dice(logits, y)
            return sum(terms.values()), terms

        grads, terms = jax.grad(loss, has_aux=True)(params)
        return terms, summary(grads)

    terms, grads = step(params, stats, critic)
    for name, value in terms.items():
        assert_close(value, expected[f"eval_f64_{name}"], 1e-5)
    assert_close(grads["first"], expected["eval_f64_grad_first_S"], 1e-3)
    keys = read_keys(fixtures, "segan_s")
    # PyTorch's own rounding is 1e-5; a ReLU near zero of a 2×2 map may fall to the other side
    check_norms(grads["norms"], expected["eval_f64_grad_norms_S"], keys, 5e-4)


@pytest.mark.parametrize("mode", ["eval", "train"])
@pytest.mark.parametrize("masked_by", ["xy", "xp"])
def test_critic_features_are_those_of_pytorch(mode, masked_by, models, data, expected):
    x, y = data
    critic = models[1]
    getattr(critic, mode)()
    mask = y if masked_by == "xy" else jax.nn.sigmoid(nhwc(expected["logits_eval"]))
    stages = [nchw(f).reshape(2, -1) for f in run(critic, x * mask)]
    name = f"c_{mode}_{masked_by}"
    assert [f.shape[1] for f in stages] == expected["c_seg_lengths"].tolist()
    assert tuple(expected["c_seg_mult"]) == segan.FACTORS
    for i, f in enumerate(stages):
        assert_close(f[:, :64], expected[f"{name}_seg_first64"][:, i])
        size = expected[f"{name}_seg_abssum"][:, i]
        assert_close(np.abs(f).sum(1, dtype=np.float64), size, 1e-6)
        assert np.abs(f.sum(1, dtype=np.float64) - expected[f"{name}_seg_sum"][:, i]).max() <= (
            1e-6 * size.max()
        )
    assert_close(stages[-1][:, -64:], expected[f"{name}_last64"])


def test_loss_and_gradients_of_the_critic_are_those_of_pytorch(models, data, expected, fixtures):
    x, y = data
    models[1].train()
    graph, params, stats = nnx.split(models[1], nnx.Param, nnx.BatchStat)
    p = jax.nn.sigmoid(nhwc(expected["logits_train"]))

    @jax.jit
    def step(params, stats):
        def loss(params):
            critic = nnx.merge(graph, params, stats, copy=True)
            return -distance(critic(x * p), critic(x * y))

        value, grads = jax.value_and_grad(loss)(params)
        return value, summary(grads)

    value, grads = step(params, stats)
    assert_close(value, expected["loss_D"], 1e-5)
    assert_close(grads["first"], expected["grad_first_C"], 2e-3)
    check_norms(grads["norms"], expected["grad_norms_C"], read_keys(fixtures, "segan_c"), 1e-3)


def tiny(**kwargs):
    return SegANSegmentor(width=2, rngs=nnx.Rngs(0), **kwargs)


@pytest.mark.parametrize("index", [0, 1])
def test_state_dict_is_that_of_pytorch_without_what_it_does_not_use(index, models, fixtures):
    # `models` have loaded its tensors, hence have its names and shapes
    keys = read_keys(fixtures, ("segan_s", "segan_c")[index])
    small = (tiny(), SegANCritic(width=2, rngs=nnx.Rngs(0)))[index]
    assert list(torch_weights.to_torch(small)) == list(used(keys, small))
    assert count(models[index]) == (156_235_264, 9_393_088)[index]
    unused = [k for k in keys["state_dict"] if k["param"] and k["key"] not in used(keys, small)]
    assert count(models[index]) + sum(np.prod(k["shape"]) for k in unused) == keys["n_params"]
    kinds = {type(v) for _, v in nnx.to_flat_state(nnx.state(small))}
    assert kinds == {nnx.Param, nnx.BatchStat}


def test_loads_a_state_dict_with_what_it_does_not_use():
    for model, spare in (
        (tiny(), "convblock1_1.norm1.weight"),
        (SegANCritic(width=2, rngs=nnx.Rngs(0)), "convblock1_1.0.conv_l1.weight"),
    ):
        tensors = {**torch_weights.to_torch(model), spare: np.ones(4, np.float32)}
        torch_weights.load_torch(model, tensors, source="here")


def test_weights_start_as_the_authors_draw_them():
    tensors = torch_weights.to_torch(tiny())
    for name, fan_out in (
        ("convblock6.0.weight", 4 * 4 * 32),
        ("deconvblock4.0.conv_l1.weight", 7 * 16),
        ("deconvblock1.0.weight", 64),
    ):
        assert tensors[name].std() == pytest.approx((2 / fan_out) ** 0.5, rel=0.1)
    assert not tensors["deconvblock4.0.conv_l1.bias"].any()
    norm = tensors["convblock7.1.weight"]
    assert norm.mean() == pytest.approx(1, abs=0.01)
    assert norm.std() == pytest.approx(0.02, rel=0.5)
    assert not tensors["convblock7.1.bias"].any()


def test_takes_other_sides_and_dtypes():
    image = jax.ShapeDtypeStruct((2, 40, 56, 3), jnp.float32)
    segmentor = tiny(dtype=jnp.bfloat16)
    (logits,) = shapes(segmentor, image)
    assert (logits.shape, logits.dtype) == ((2, 40, 56, 1), jnp.float32)
    (logits,) = shapes(segmentor, jax.ShapeDtypeStruct((1, 33, 33, 3), jnp.float32))
    assert logits.shape == (1, 33, 33, 1)  # the smallest sides that a configuration allows
    features = shapes(SegANCritic(width=2, dtype=jnp.bfloat16, rngs=nnx.Rngs(0)), image)
    assert features[-1].shape == (2, 1, 1, 16)
    assert {f.dtype for f in features} == {jnp.dtype(jnp.bfloat16)}


def shapes(module, image):
    """What a module gives, without computing it."""
    graph, state = nnx.split(module)
    return jax.eval_shape(lambda state, x: nnx.merge(graph, state)(x), state, image)
