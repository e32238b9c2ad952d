import doctest
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from crlm_jax.method import losses
from crlm_jax.models.resnet import ResNet50
from tests.fixtures import recipe
from tests.models.parity import assert_close, fill, nchw, nhwc


@pytest.fixture(scope="module")
def expected(fixtures):
    return dict(np.load(fixtures / "losses.npz"))


def test_bce_dice_and_their_gradients_are_those_of_pytorch(expected):
    z, y = nhwc(expected["logits"]), nhwc(expected["target"])
    functions = {
        "bce": losses.bce,
        "dice": losses.dice,
        "bcedice": lambda z, y: 0.5 * losses.bce(z, y) + losses.dice(z, y),
    }
    for name, function in functions.items():
        value, grad = jax.value_and_grad(function)(z, y)
        assert_close(value, expected[name])
        assert_close(nchw(grad), expected[f"grad_{name}"])


@pytest.fixture(scope="module")
def critic():
    """With the fixture's weights, frozen."""
    return fill(ResNet50(rngs=nnx.Rngs(0)), "resnet50")


@pytest.fixture(scope="module")
def distance(critic):
    """Compiled once: (logits, masked by logits?, concatenated?) -> value, gradient."""
    graph, state = nnx.split(critic)
    x, y = (nhwc(a) for a in recipe.inputs(0, 64))

    @jax.jit
    @jax.value_and_grad
    def call(z, raw, concatenated, state):
        model = nnx.merge(graph, state)
        features = model(x * jnp.where(raw, z, jax.nn.sigmoid(z)))
        reference = model(x * y)
        one, other = (
            losses.feature_distance(features, reference, fusion=fusion)
            for fusion in ("concatenated", "per_stage")
        )
        return jnp.where(concatenated, one, other)

    return functools.partial(call, state=state)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("concatenated", "value_name", "grad_name"),
    [(False, "feat_sum", "grad_feat_sum"), (True, "feat_concat_l1", "grad_feat_concat")],
)
def test_feature_distance_and_its_gradient_through_the_critic(
    expected, distance, concatenated, value_name, grad_name
):
    value, grad = distance(nhwc(expected["logits_feat"]), False, concatenated)
    assert_close(value, expected[value_name])
    assert_close(nchw(grad), expected[grad_name])


def test_feature_distance_of_an_image_masked_by_logits(expected, distance):
    value, _ = distance(nhwc(expected["logits_feat"]), True, True)
    assert_close(value, expected["feat_concat_l1_rawlogits_resnet_eval"])


def test_feature_distance_as_the_released_code_runs(expected, critic):
    """Masked by logits, and the critic in training mode."""
    x, y = (nhwc(a) for a in recipe.inputs(0, 64))
    critic.train()
    graph, state = nnx.split(critic)
    critic.eval()

    @jax.jit
    def features(state, image):
        return nnx.merge(graph, state)(image)

    f, r = features(state, x * nhwc(expected["logits_feat"])), features(state, x * y)
    value = losses.feature_distance(f, r, fusion="concatenated")
    assert_close(value, expected["feat_concat_l1_rawlogits_resnet_train"])
    stages = [losses.feature_distance(f, r, stages=(s,)) for s in (1, 2, 3, 4)]
    assert_close(stages, expected["feat_stage_l1_rawlogits_resnet_train"])


def test_stages_are_chosen():
    rng = np.random.default_rng(0)
    f, r = ([rng.standard_normal((2, 8 >> s, 8 >> s, 4 << s)) for s in range(3)] for _ in "fr")
    f, r = ([jnp.asarray(a, jnp.float32) for a in side] for side in (f, r))
    means = [np.abs(a - b).mean() for a, b in zip(f, r, strict=True)]
    np.testing.assert_allclose(losses.feature_distance(f, r, (1, 3)), means[0] + means[2], 1e-5)
    both = np.concatenate([np.abs(f[i] - r[i]).ravel() for i in (0, 2)])
    np.testing.assert_allclose(
        losses.feature_distance(f, r, (1, 3), "concatenated"), both.mean(), 1e-5
    )
    for fusion in ("per_stage", "concatenated"):
        assert losses.feature_distance(f, r, (), fusion) == 0.0


def test_everything_is_float32_whatever_comes_in():
    z = jnp.full((1, 64, 64, 1), 3.0, jnp.bfloat16)
    y = jnp.ones((1, 64, 64, 1), jnp.uint8)
    features = [jnp.full((1, 64, 64, 1), 1.0, jnp.bfloat16)]
    values = (
        losses.bce(z, y),
        losses.dice(z, y),
        losses.feature_distance(features, [0 * features[0]], stages=(1,)),
    )
    assert {v.dtype for v in values} == {jnp.dtype("float32")}
    assert {v.shape for v in values} == {()}
    np.testing.assert_allclose(values[0], np.log1p(np.exp(-3)), rtol=1e-5)
    assert values[2] == 1.0


def test_extreme_logits_and_empty_masks_stay_finite():
    z, empty = jnp.array([-1e4, 1e4]).reshape(1, 1, 2, 1), jnp.zeros((1, 1, 2, 1))
    for function in (losses.bce, losses.dice):
        value, grad = jax.value_and_grad(function)(z, empty)
        assert np.isfinite(value)
        assert np.isfinite(grad).all()
    assert losses.bce(z, jnp.array([0.0, 1.0]).reshape(1, 1, 2, 1)) == 0
    np.testing.assert_allclose(losses.dice(z[:, :, :1], empty[:, :, :1]), 0, atol=1e-6)


def test_examples_in_docstrings():
    result = doctest.testmod(losses)
    assert result.attempted >= 3
    assert result.failed == 0
