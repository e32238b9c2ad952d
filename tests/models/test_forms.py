"""Every form of an operation computes what the plain form does."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from crlm_jax.config.schema import Config
from crlm_jax.method import losses
from crlm_jax.method.networks import create_networks
from crlm_jax.method.step import create_state, make_train_step
from crlm_jax.models import forms, packing
from crlm_jax.models.layers import BatchNorm, Conv
from crlm_jax.models.packing import Layout
from crlm_jax.models.resampling import max_pool, upsample
from crlm_jax.models.resnet import ResNet50
from crlm_jax.models.unet import UNet
from crlm_jax.models.unetpp import UNetPlusPlus
from crlm_jax.system import parallel
from tests.models.parity import assert_close, parameters, pulled, run

WIDTHS = (4, 8, 8)
# Each option of a TPU's forms alone.
ALONE = {
    field.name: dataclasses.replace(
        forms.PLAIN, **{field.name: getattr(forms.FORMS["tpu"], field.name)}
    )
    for field in dataclasses.fields(forms.Forms)
}
NETWORKS = {
    "unet": UNet,
    "unetpp": UNetPlusPlus,
    "unetpp_ds": functools.partial(UNetPlusPlus, deep_supervision=True),
}


def normal(seed: int, shape: tuple[int, ...], dtype: str = "float32") -> jax.Array:
    return jnp.asarray(np.random.default_rng(seed).standard_normal(shape), dtype)


def test_packing_there_and_back():
    x = normal(0, (2, 4, 6, 3))
    packed = packing.pack(x)
    assert packed.shape == (2, 2, 3, 12)
    np.testing.assert_array_equal(packed[1, 1, 2], x[1, 2:4, 4:6].ravel())
    np.testing.assert_array_equal(packing.unpack(packed), x)


@pytest.mark.parametrize(("size", "stride"), [(1, 1), (3, 1), (7, 2)])
def test_a_packed_convolution_and_its_gradients(size, stride):
    with jax.enable_x64(True):
        x, y = normal(0, (2, 8, 12, 3), "float64"), normal(1, (2, 8, 12, 2), "float64")
        conv = Conv(5, 4, size, stride=stride, dtype=jnp.float64, rngs=nnx.Rngs(0))
        graph, state = nnx.split(conv)

        def plain(state, x, y):
            return nnx.merge(graph, state)(x, y)

        def packed(state, x, y):
            maps = packing.pack(x), packing.pack(y)
            z = nnx.merge(graph, state)(*maps, layout=Layout.SQUARES)
            after = Layout.SQUARES.after(size, stride)
            if after is Layout.SHIFTED:
                return packing.unpack(z)[:, 1:-1, 1:-1]
            return packing.unpack(z) if after is Layout.SQUARES else z

        wanted, gradients_wanted = pulled(plain, state, x, y)
        found, gradients = pulled(packed, state, x, y)
        assert_close(found, wanted, 1e-12)
        for a, b in zip(jax.tree.leaves(gradients), jax.tree.leaves(gradients_wanted), strict=True):
            assert_close(a, b, 1e-6 if a.dtype == jnp.float32 else 1e-12)


def gradient(function, x: jax.Array, g: jax.Array) -> jax.Array:
    return jax.jit(lambda x, g: jax.vjp(function, x)[1](g)[0])(x, g)


@pytest.mark.parametrize("size", [2, 3])
@pytest.mark.parametrize("form", ["plain", "windows", "packed"])
def test_pooling_gives_the_gradient_to_the_first_of_equal_values(size, form):
    if form == "packed" and size == 3:
        pytest.skip("a packed map is pooled by 2")
    x = jnp.round(normal(0, (2, 8, 8, 3)))  # many equal values
    wanted, start = np.zeros(x.shape), (size - 1) // 2
    for b, i, j, c in np.ndindex(2, 4, 4, 3):
        rows, columns = (range(max(0, 2 * k - start), min(8, 2 * k - start + size)) for k in (i, j))
        places = [(row, column) for row in rows for column in columns]  # in reading order
        wanted[(b, *max(places, key=lambda at, b=b, c=c: float(x[b, *at, c])), c)] += 1

    def pool(x):
        if form == "packed":
            return max_pool(packing.pack(x), size, layout=Layout.SQUARES)
        return max_pool(x, size)

    with forms.using(ALONE["pooling"] if form == "windows" else forms.PLAIN):
        np.testing.assert_array_equal(gradient(pool, x, jnp.ones((2, 4, 4, 3))), wanted)


@pytest.mark.parametrize("form", ["blends", "products"])
@pytest.mark.parametrize("shape", [(1, 1, 1, 2), (2, 5, 8, 3)])
def test_upsampling(form, shape):
    x = normal(0, shape)
    wanted = upsample(x)
    with forms.using(ALONE["upsampling"] if form == "products" else forms.PLAIN):
        assert_close(upsample(x), wanted, 1e-6)
        assert_close(packing.unpack(upsample(x, layout=Layout.SQUARES)), wanted, 1e-6)
        g = normal(1, wanted.shape)
        assert_close(gradient(upsample, x, g), gradient(lambda x: _plain_upsample(x), x, g), 1e-5)


def _plain_upsample(x):
    with forms.using(forms.PLAIN):
        return upsample(x)


@pytest.mark.parametrize("mean", [0.0, 3.0])
def test_statistics_in_one_pass(mean):
    """Of a batch whose mean is some spreads away from the running mean, which is 0 at the start."""
    x = mean + normal(0, (2, 16, 16, 4))
    plain, one = BatchNorm(4), BatchNorm(4)
    wanted = plain(x)
    with forms.using(ALONE["statistics"]):
        found = one(x)
    assert_close(found, wanted, 1e-5)
    assert_close(one.running_var[...], plain.running_var[...], 1e-5)


def measure(name: str, form: forms.Forms, dtype: str) -> dict:
    """Runs a segmenter in training and in evaluation; logits are not packed."""
    model = NETWORKS[name](widths=WIDTHS, dtype=jnp.dtype(dtype), rngs=nnx.Rngs(0))
    model.eval()
    evaluation = nnx.graphdef(model)
    model.train()
    graph, *states = nnx.split(model, nnx.Param, nnx.BatchStat)
    params, stats = jax.tree.map(lambda value: value.astype(dtype), states)
    x, y = normal(1, (2, 16, 16, 3), dtype), normal(2, (2, 16, 16, 1)) > 0.5
    image, mask = (packing.pack(v) if form.packed else v for v in (x, y))

    def run(graph, params, stats, image):
        with forms.using(form):
            model = nnx.merge(graph, params, stats, copy=True)
            return model(image), nnx.state(model, nnx.BatchStat)

    def loss(params, stats, image, mask):
        heads, new = run(graph, params, stats, image)
        return sum(losses.bce(z, mask) + losses.dice(z, mask) for z in heads), (heads, new)

    @jax.jit
    def everything(params, stats, image, mask):
        gradients = jax.value_and_grad(loss, has_aux=True)
        (total, (heads, new)), grads = gradients(params, stats, image, mask)
        return total, (*heads, *run(evaluation, params, stats, image)[0]), new, grads

    total, heads, new, grads = everything(params, stats, image, mask)
    logits = [packing.unpack(z) if form.packed else z for z in heads]
    return {"loss": total, "logits": logits, "stats": parameters(new), "grads": parameters(grads)}


@pytest.fixture(scope="module")
def plain_results():
    return {}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("platform", "name", "dtype"),
    [
        *(("tpu", name, "float64") for name in NETWORKS),
        ("tpu", "unetpp_ds", "float32"),
        ("gpu", "unet", "float64"),
    ],
)
def test_a_network_computes_the_same_on_every_platform(platform, name, dtype, plain_results):
    """In float64 gradients too; in float32 rounding decides which side of a ReLU a value is on."""
    with jax.enable_x64(dtype == "float64"):
        if (name, dtype) not in plain_results:
            plain_results[name, dtype] = measure(name, forms.PLAIN, dtype)
        wanted = plain_results[name, dtype]
        found = measure(name, forms.FORMS[platform], dtype)
    exact = dtype == "float64"
    tolerance = 1e-10 if exact else 1e-5
    assert_close(found["loss"], wanted["loss"], tolerance)
    for a, b in zip(found["logits"], wanted["logits"], strict=True):
        assert a.dtype == dtype
        assert_close(a, b, tolerance)
    for path, value in wanted["stats"].items():  # what they move by is rounded to float32
        assert_close(found["stats"][path], value, 1e-6 if exact else 1e-5)
    norm = np.sqrt(sum(np.square(g).sum() for g in wanted["grads"].values()))
    for path, value in wanted["grads"].items():
        error = np.abs(found["grads"][path] - value).max()
        assert error <= (1e-10 if exact else 2e-3) * norm, path


@pytest.mark.parametrize("form", ["gpu", "tpu"])
def test_the_critic_computes_the_same_in_every_form(form):
    with jax.enable_x64(True):
        critic = ResNet50(last_stage=2, width=8, dtype=jnp.float64, exact=True, rngs=nnx.Rngs(0))
        x, form = normal(0, (2, 32, 32, 3), "float64"), forms.FORMS[form]
        wanted = run(critic, x)
        with forms.using(form):
            found = run(critic, packing.pack(x) if form.packed else x)
    for a, b in zip(found, wanted, strict=True):
        assert_close(a, b, 1e-10)


def tiny() -> Config:
    config = Config()
    config.segmenter.widths, config.data.image_size = WIDTHS, 16
    config.critic.width, config.critic.weights, config.loss.stages = 8, "random", (1, 2)
    config.train.batch_size = 2
    return config


def batch_of(size: int, planes: int = 1) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    shape = (2, size, size, 1)
    return {
        "image": rng.integers(0, 256, (*shape[:3], planes), dtype=np.uint8),
        "mask": rng.integers(0, 2, shape, dtype=np.uint8),
        "photometric": rng.uniform(0.8, 1.2, (2, 6)).astype(np.float32),
    }


@pytest.mark.slow
@pytest.mark.usefixtures("one_device")
@pytest.mark.parametrize(
    ("platform", "applied", "planes"),
    [
        ("tpu", "before_normalisation", 1),
        ("tpu", "after_normalisation", 3),
        ("gpu", "before_normalisation", 1),
    ],
)
def test_a_step_is_the_same_on_every_platform(monkeypatch, platform, applied, planes):
    """The whole step: augmentation, masks of the critic, losses, update."""
    config, mesh = tiny(), parallel.make_mesh()
    config.loss.mask_applied = applied

    def take_step():
        networks, state = create_state(config, mesh)
        step = make_train_step(config, networks, mesh, steps=10)
        return step(state, parallel.to_global(batch_of(16, planes), mesh))

    state, terms = take_step()
    monkeypatch.setitem(forms.FORMS, "cpu", forms.FORMS[platform])
    state_there, terms_there = take_step()
    for name in terms:
        assert_close(terms_there[name], terms[name], 2e-3 if name == "grad_norm" else 1e-5)
    for a, b in zip(jax.tree.leaves(state_there), jax.tree.leaves(state), strict=True):
        assert_close(a, b, 1e-4, noise=1e-6)


def test_networks_without_a_packed_form_are_not_packed():
    for name, packable in (("unet", True), ("unetpp", True), ("nnunet", False)):
        config = tiny()
        config.segmenter.name = name
        if name == "nnunet":
            config.segmenter.widths = (4, 8, 8)
        assert create_networks(config)[0].packable == packable
