import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from crlm_jax.models import torch_weights
from crlm_jax.models.resnet import ResNet50
from tests.fixtures import recipe
from tests.models.parity import assert_close, count, fill, nchw, nhwc, run


def test_stages_are_those_of_pytorch(fixtures):
    expected = np.load(fixtures / "resnet50.npz")
    x, _ = recipe.inputs(0, 64)
    features = [nchw(f) for f in run(fill(ResNet50(rngs=nnx.Rngs(0)), "resnet50"), nhwc(x))]
    assert_close(features[0][:, ::8, ::2, ::2], expected["layer1_sub"])
    assert_close(features[1][:, ::8, ::2, ::2], expected["layer2_sub"])
    assert_close(features[2], expected["layer3"])
    assert_close(features[3], expected["layer4"])
    for f, total, maximum in zip(
        features, expected["stage_abssum"], expected["stage_absmax"], strict=True
    ):
        np.testing.assert_allclose(np.abs(f).sum(dtype=np.float64), total, rtol=1e-4)
        np.testing.assert_allclose(np.abs(f).max(), maximum, rtol=1e-4)


def test_state_dict_has_torchvision_names_shapes_and_order(fixtures):
    model = ResNet50(rngs=nnx.Rngs(0))
    keys = json.loads((fixtures / "keys_resnet50.json").read_text())["state_dict"]
    wanted = [(k["key"], tuple(k["shape"])) for k in keys if "num_batches" not in k["key"]]
    assert [(k, v.shape) for k, v in torch_weights.to_torch(model).items()] == wanted
    assert count(model) == 23_508_032


def test_real_imagenet_weights_on_a_real_slice(shared):
    image = pytest.importorskip("PIL.Image")
    expected = np.load(shared / "weights" / "resnet50_imagenet_expected.npz")
    file = shared / "weights" / "resnet50_imagenet_stem_stage1_stage2.safetensors"
    model = ResNet50(last_stage=2, rngs=nnx.Rngs(0))
    torch_weights.load_torch(model, torch_weights.load_safetensors(file), source=str(file))
    png = shared / "data" / "ct_slices" / "images" / "11485_16.png"
    grey = np.asarray(image.open(png).convert("L"), np.float32)[::4, ::4] / 255
    x = np.repeat(grey[None, :, :, None], 3, -1)
    x = (x - np.float32([0.485, 0.456, 0.406])) / np.float32([0.229, 0.224, 0.225])
    features = [nchw(f) for f in run(model, jnp.asarray(x))]
    for stage, f in enumerate(features, start=1):
        assert_close(f[:, ::8, ::2, ::2], expected[f"stage{stage}"])
        assert_close(f.mean((0, 2, 3)), expected[f"stage{stage}_mean"])


def test_is_built_only_up_to_the_last_stage_and_alike():
    x = jax.random.normal(jax.random.key(0), (1, 32, 32, 3))
    two = ResNet50(last_stage=2, width=8, rngs=nnx.Rngs(0))
    four = ResNet50(last_stage=4, width=8, rngs=nnx.Rngs(0))
    assert not hasattr(two, "layer3")
    assert [f.shape for f in run(two, x)] == [(1, 8, 8, 32), (1, 4, 4, 64)]
    for a, b in zip(run(two, x), run(four, x)[:2], strict=True):
        np.testing.assert_array_equal(a, b)


def test_random_weights_keep_activations_near_one():
    x = jax.random.normal(jax.random.key(1), (2, 64, 64, 3))
    for f in run(ResNet50(rngs=nnx.Rngs(0)), x):
        assert 0.1 < float(jnp.sqrt(jnp.square(f).mean())) < 1


def forward(model, x):
    """Features and the tensors afterwards."""
    graph, state = nnx.split(model)

    @jax.jit
    def call(state, x):
        model = nnx.merge(graph, state)
        return model(x), nnx.state(model)

    features, state = call(state, x)
    return features, torch_weights.to_torch(nnx.merge(graph, state))


def test_starts_frozen_and_can_train():
    x = 3 + jax.random.normal(jax.random.key(0), (4, 32, 32, 3))
    model = ResNet50(width=8, rngs=nnx.Rngs(0))
    before = torch_weights.to_torch(model)
    _, after = forward(model, x)
    np.testing.assert_array_equal(after["bn1.running_mean"], before["bn1.running_mean"])
    model.train()
    features, after = forward(model, x)
    assert all(np.isfinite(f).all() for f in features)
    moved = [k for k in after if "running" in k and not np.array_equal(after[k], before[k])]
    assert len(moved) == sum("running" in k for k in after)


def test_works_as_a_tree_and_in_bfloat16():
    x = jax.random.normal(jax.random.key(0), (1, 32, 32, 3))
    full = ResNet50(width=8, rngs=nnx.Rngs(0))
    kinds = {type(v) for _, v in nnx.to_flat_state(nnx.state(full))}
    assert kinds == {nnx.Param, nnx.BatchStat}
    graph, state = nnx.split(full, graph=False)
    half = ResNet50(width=8, dtype=jnp.bfloat16, rngs=nnx.Rngs(0))
    for a, b, c in zip(run(nnx.merge(graph, state), x), run(full, x), run(half, x), strict=True):
        np.testing.assert_array_equal(a, b)
        assert c.dtype == jnp.bfloat16
        assert_close(c, b, tolerance=0.05)
