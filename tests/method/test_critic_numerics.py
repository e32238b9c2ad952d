"""The gradient of the feature distance is that of float32 on every platform and at any precision.

The products of a TPU (bfloat16 by default) and of a GPU (TF32) are emulated on the CPU: operands
are rounded before a product, forwards and backwards, unless it asks for the highest precision.
"""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from PIL import Image
from scipy import ndimage

from crlm_jax.config.schema import Config
from crlm_jax.method import losses, networks
from crlm_jax.method.step import critic_features
from crlm_jax.models import forms, layers, packing
from crlm_jax.models.inputs import network_input
from tests.models import parity

SIDE = 96
STATES = ("start", "blurred", "shifted", "missed")
MANTISSA = {"bfloat16": 7, "tf32": 10}  # bits


def rounded(x: jax.Array, bits: int) -> jax.Array:
    """Rounds float32 to so many bits of mantissa, halves to even."""
    whole = jax.lax.bitcast_convert_type(x, jnp.uint32)
    drop = 23 - bits
    odd = (whole >> drop) & 1
    kept = (whole + (1 << (drop - 1)) - 1 + odd) >> drop << drop
    return jax.lax.bitcast_convert_type(kept, jnp.float32)


def pieces(x: jax.Array, bits: int, passes: int) -> list[tuple[jax.Array, int]]:
    """Splits x into parts of so many bits with their order; their sum is nearly x for two."""
    high = rounded(x, bits)
    return [(high, 0)] if passes == 1 else [(high, 0), (rounded(x - high, bits), 1)]


def emulate(monkeypatch, bits: int, passes: int = 1) -> None:
    """Makes products round their operands, unless they ask for the highest precision.

    That is what a platform does that is not told otherwise. With three passes an operand is a sum
    of two rounded ones, and the product of the two small parts is left out, as a TPU does for the
    precision HIGH.
    """

    def rounding(product):
        def wrapper(a, b, *rest, precision=None, **options):
            if precision == jax.lax.Precision.HIGHEST:
                return product(a, b, *rest, precision=precision, **options)

            def summed(function, x, y):
                return sum(
                    function(u, v)
                    for u, i in pieces(x, bits, passes)
                    for v, j in pieces(y, bits, passes)
                    if i + j < 2
                )

            def plain(a, b):
                return product(a, b, *rest, **options)

            @jax.custom_vjp
            def call(a, b):
                return summed(plain, a, b)

            def backward(saved, g):
                a, b = saved
                return (
                    summed(lambda g, b: jax.vjp(lambda a: plain(a, b), a)[1](g)[0], g, b),
                    summed(lambda g, a: jax.vjp(lambda b: plain(a, b), b)[1](g)[0], g, a),
                )

            call.defvjp(lambda a, b: (call(a, b), (a, b)), backward)
            return call(a, b)

        return wrapper

    plain = jnp.einsum
    monkeypatch.setattr(
        jnp,
        "einsum",
        lambda how, a, b, **options: rounding(lambda a, b, **o: plain(how, a, b, **o))(
            a, b, **options
        ),
    )
    monkeypatch.setattr(jax.lax, "conv_general_dilated", rounding(jax.lax.conv_general_dilated))


@pytest.fixture(scope="module")
def slices(shared) -> tuple[jax.Array, np.ndarray]:
    """Four real CT slices as the networks see them, and their tumour."""
    folder = shared / "data" / "ct_slices"
    names = [p.name for p in sorted((folder / "images").glob("*.png"))]
    pairs = []
    for name in names:
        image, mask = (
            np.array(Image.open(folder / kind / name).convert("L").resize((SIDE, SIDE), how))
            for kind, how in (("images", Image.Resampling.BOX), ("masks", Image.Resampling.NEAREST))
        )
        if (mask > 127).sum() > 30:
            pairs.append((image, mask > 127))
    images, masks = (np.stack(x)[:2, ..., None] for x in zip(*pairs, strict=True))
    return network_input(jnp.asarray(images)), masks.astype(np.float32)


def maps(masks: np.ndarray) -> dict[str, np.ndarray]:
    """Probability maps from far to near, float32 (B, S, S, 1)."""
    rng = np.random.default_rng(0)
    blurred = ndimage.gaussian_filter(masks, (0, 1, 1, 0))
    return {
        "start": rng.uniform(0.4, 0.6, masks.shape).astype(np.float32),
        "blurred": blurred,
        "shifted": np.roll(blurred, 4, axis=2),
        "missed": 0.01 + 0.02 * blurred,
    }


def critic_of(weights: Path, precision: str = "float32", **changes) -> nnx.Module:
    config = Config()
    config.loss.stages, config.critic.weights = (1, 2), str(weights)
    config.train.precision = precision
    critic = networks.create_critic(config)
    for _, module in nnx.iter_modules(critic):
        if isinstance(module, layers.Conv):
            for name, value in changes.items():
                setattr(module, name, value)
    return critic


def gradient(critic: nnx.Module, image: jax.Array, mask: np.ndarray, seen: np.ndarray):
    """Of the feature distance, with respect to the probability map."""
    loss = Config().loss
    loss.mask_with = "logits"  # the map itself
    graph, state = nnx.split(critic)

    def distance(seen: jax.Array, state: nnx.State, image: jax.Array, mask: jax.Array) -> jax.Array:
        maps = image, seen, mask
        if forms.current().packed:
            maps = tuple(map(packing.pack, maps))
        features = critic_features(nnx.merge(graph, state), *maps, loss)
        return losses.feature_distance(*features, (1, 2))

    # Weights are arguments: of constants the compiler would compute all that it can.
    call = parity.compiled(jax.grad(distance), str(seen.dtype))
    return np.asarray(call(jnp.asarray(seen), state, image, jnp.asarray(mask)), np.float64)


def agreement(a: np.ndarray, b: np.ndarray) -> tuple[float, float]:
    """Cosine of two gradients, and the ratio of their norms."""
    norms = np.linalg.norm(a), np.linalg.norm(b)
    return float(a.ravel() @ b.ravel() / (norms[0] * norms[1])), norms[0] / norms[1]


@pytest.fixture(scope="module")
def weights(shared) -> Path:
    return shared / "weights" / "resnet50_imagenet_stem_stage1_stage2.safetensors"


@pytest.fixture(scope="module")
def true(slices, weights) -> dict[str, np.ndarray]:
    """The gradients in float32, as a CPU computes them."""
    critic = critic_of(weights)
    return {name: gradient(critic, *slices, seen) for name, seen in maps(slices[1]).items()}


@pytest.mark.slow
@pytest.mark.parametrize("products", ["tf32", "bfloat16"])
def test_the_gradient_is_that_of_float32(slices, weights, true, monkeypatch, products):
    emulate(monkeypatch, MANTISSA[products])
    critic = critic_of(weights, "bfloat16")
    for name, seen in maps(slices[1]).items():
        with forms.using(forms.FORMS["gpu"]):
            found = gradient(critic, *slices, seen)
        cosine, ratio = agreement(found, true[name])
        assert cosine >= 0.99, name
        assert abs(ratio - 1) <= 0.02, name


@pytest.mark.slow
@pytest.mark.parametrize("how", ["bfloat16", "tf32", "three passes", "computed in bfloat16"])
def test_the_emulation_shows_what_rounding_would_do(slices, weights, true, monkeypatch, how):
    """Without the highest precision, the gradient near convergence is partly noise."""
    if how in MANTISSA or how == "three passes":
        emulate(monkeypatch, MANTISSA.get(how, 7), passes=3 if how == "three passes" else 1)
        critic = critic_of(weights, precision="float32")
        for _, module in nnx.iter_modules(critic):
            if isinstance(module, layers.Conv):
                module.exact = False
    else:
        critic = critic_of(weights, dtype=jnp.bfloat16)
    seen = maps(slices[1])["blurred"]
    cosine, _ = agreement(gradient(critic, *slices, seen), true["blurred"])
    assert cosine < 0.98


@pytest.fixture(scope="module")
def exact(slices, weights) -> dict[str, np.ndarray]:
    """The gradients in float64."""
    with jax.enable_x64(True):
        critic = critic_of(weights, dtype=jnp.dtype("float64"))
        image, mask = jnp.asarray(slices[0], "float64"), slices[1].astype("float64")
        return {
            name: gradient(critic, image, mask, seen.astype("float64"))
            for name, seen in maps(slices[1]).items()
        }


@pytest.mark.slow
def test_how_exact_float32_itself_is(true, exact):
    """Near convergence, rounding in float32 turns signs of tiny differences too."""
    wanted = {"start": 0.999, "blurred": 0.85, "shifted": 0.9, "missed": 0.999}
    for name, least in wanted.items():
        cosine, _ = agreement(true[name], exact[name])
        assert cosine >= least, name
        if name in ("blurred", "shifted"):
            assert cosine < 0.97, name  # the page on the method says so


@pytest.mark.slow
def test_the_packed_gradient_is_nearly_as_exact(slices, weights, true, exact, monkeypatch):
    """It sums in another order, so that its rounding is another one."""
    emulate(monkeypatch, MANTISSA["bfloat16"])
    critic = critic_of(weights, "bfloat16")
    for name, seen in maps(slices[1]).items():
        with forms.using(forms.FORMS["tpu"]):
            found = gradient(critic, *slices, seen)
        cosine, ratio = agreement(found, true[name])
        assert cosine >= (0.99 if name in ("start", "missed") else 0.96), name
        assert abs(ratio - 1) <= 0.02, name
        assert agreement(found, exact[name])[0] >= agreement(true[name], exact[name])[0] - 0.03


@pytest.mark.parametrize("platform", forms.FORMS)
def test_every_product_of_the_critic_asks_for_the_highest_precision(platform):
    """Forwards and backwards, also of the critic that is trained."""
    precision = "Precision.HIGHEST"
    image, mask = jnp.ones((1, 32, 32, 3)), jnp.ones((1, 32, 32, 1))
    for name in ("resnet50", "segan"):
        config = Config()
        config.critic.name, config.critic.weights = name, "random"
        config.loss.stages, config.critic.width = (1, 2), 16
        config.train.precision = "bfloat16"
        graph, state = nnx.split(networks.create_critic(config))

        def distance(seen, state, graph=graph, loss=config.loss):
            features = critic_features(nnx.merge(graph, state), image, seen, mask, loss)
            return losses.feature_distance(*features, (1, 2))

        params = nnx.filter_state(state, nnx.Param)
        with forms.using(forms.FORMS[platform]):
            text = str(jax.make_jaxpr(jax.grad(distance, (0, 1), allow_int=True))(mask / 2, state))
        assert params
        products = text.count("conv_general_dilated[") + text.count("dot_general[")
        exact = text.count(f"precision={precision}") + text.count(
            f"precision=({precision}, {precision})"
        )
        assert products >= 5
        assert exact >= products
        assert "bf16" not in text
