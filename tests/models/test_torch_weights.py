import hashlib
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from flax import nnx
from safetensors.numpy import save as safetensors_bytes
from safetensors.numpy import save_file

from crlm_jax.models import torch_weights
from crlm_jax.models.resnet import ResNet50
from crlm_jax.models.unet import UNet
from crlm_jax.models.unetpp import UNetPlusPlus


def resnet(last_stage=2, seed=0):
    return ResNet50(last_stage=last_stage, width=8, rngs=nnx.Rngs(seed))


def random_tensors(module, seed=1):
    rng = np.random.default_rng(seed)
    return {
        k: rng.standard_normal(v.shape).astype(np.float32)
        for k, v in torch_weights.to_torch(module).items()
    }


@pytest.mark.parametrize(
    "make",
    [
        resnet,
        lambda: UNet(widths=(4, 8), rngs=nnx.Rngs(0)),
        lambda: UNetPlusPlus(widths=(4, 8, 8), deep_supervision=True, rngs=nnx.Rngs(0)),
    ],
)
def test_round_trip_is_exact(make, tmp_path):
    module = make()
    tensors = random_tensors(module)
    save_file(tensors, tmp_path / "w.safetensors")
    read = torch_weights.load_safetensors(tmp_path / "w.safetensors")
    assert torch_weights.load_torch(module, read, source="w") is module
    back = torch_weights.to_torch(module)
    assert list(back) == list(tensors)
    for name, value in back.items():
        np.testing.assert_array_equal(value, tensors[name])
        assert value.dtype == np.float32


def test_layout_is_turned_from_oihw():
    module = resnet()
    tensors = random_tensors(module)
    torch_weights.load_torch(module, tensors, source="w")
    np.testing.assert_array_equal(
        module.conv1.weight[...], tensors["conv1.weight"].transpose(2, 3, 1, 0)
    )


def test_classifier_counters_and_unbuilt_stages_may_be_there():
    tensors = random_tensors(resnet(4))
    tensors |= {"fc.weight": np.zeros((10, 64), np.float32), "fc.bias": np.zeros(10, np.float32)}
    tensors["bn1.num_batches_tracked"] = np.array(3)
    torch_weights.load_torch(resnet(4), tensors, source="w")
    torch_weights.load_torch(resnet(1), tensors, source="w")


@pytest.mark.parametrize("dtype", [np.float64, np.float16, ml_dtypes.bfloat16])
def test_other_float_types_become_float32(dtype, tmp_path):
    module = resnet(1)
    tensors = {k: v.astype(dtype) for k, v in random_tensors(module).items()}
    save_file(tensors, tmp_path / "w.safetensors")
    torch_weights.load_torch(
        module, torch_weights.load_safetensors(tmp_path / "w.safetensors"), source="w"
    )
    assert module.conv1.weight[...].dtype == np.float32


def error_of(module, tensors):
    before = torch_weights.to_torch(module)
    with pytest.raises(torch_weights.WeightsError) as caught:
        torch_weights.load_torch(module, tensors, source="some/file.safetensors")
    for name, value in torch_weights.to_torch(module).items():  # nothing is loaded by halves
        np.testing.assert_array_equal(value, before[name])
    message = str(caught.value)
    assert message.startswith("some/file.safetensors: ")
    return message


def test_a_file_with_fewer_stages_names_the_first_tensor_and_the_ways_out():
    message = error_of(resnet(4), random_tensors(resnet(2)))
    assert "lacks layer3.0.conv1.weight (and 144 other tensors) of ResNet50" in message
    assert "--config.loss.stages=1,2," in message
    assert "--config.critic.weights=PATH.safetensors" in message


def test_a_missing_tensor():
    tensors = random_tensors(resnet())
    del tensors["layer1.0.bn2.running_var"]
    message = error_of(resnet(), tensors)
    assert "lacks layer1.0.bn2.running_var of ResNet50; give complete weights" in message


def test_an_unknown_tensor():
    tensors = random_tensors(resnet())
    tensors |= {"layer9.0.conv1.weight": tensors["conv1.weight"], "head.bias": tensors["bn1.bias"]}
    message = error_of(resnet(), tensors)
    assert "ResNet50 has no place for layer9.0.conv1.weight (and 1 other tensor);" in message


def test_a_tensor_of_another_shape():
    tensors = random_tensors(resnet())
    tensors["layer1.0.conv2.weight"] = np.zeros((8, 9, 3, 3), np.float32)
    message = error_of(resnet(), tensors)
    assert "layer1.0.conv2.weight has shape (8, 9, 3, 3), but (8, 8, 3, 3) is needed" in message


def test_a_tensor_of_integers():
    tensors = random_tensors(resnet())
    tensors["bn1.weight"] = np.ones(8, np.int8)
    assert "bn1.weight is int8, not a float" in error_of(resnet(), tensors)


def test_a_path_that_is_no_file(tmp_path):
    for path in (tmp_path / "absent.safetensors", tmp_path):
        with pytest.raises(torch_weights.WeightsError, match=f"{path}: no such file"):
            torch_weights.load_safetensors(path)


def test_a_file_cut_short_or_of_another_format(tmp_path):
    file = tmp_path / "w.safetensors"
    save_file(random_tensors(resnet(1)), file)
    whole = file.read_bytes()
    for content in (b"", b"\x80\x02}q\x00.", whole[:20], whole[:-100]):
        file.write_bytes(content)
        with pytest.raises(
            torch_weights.WeightsError, match=f"{file}: not a whole safetensors file"
        ):
            torch_weights.load_safetensors(file)


def test_critic_tensors_from_a_path(tmp_path):
    file = tmp_path / "w.safetensors"
    save_file(random_tensors(resnet(1)), file)
    tensors, source = torch_weights.critic_tensors(str(file))
    assert source == str(file)
    torch_weights.load_torch(resnet(1), tensors, source=source)
    with pytest.raises(
        torch_weights.WeightsError, match=r"absent: no such file.*=imagenet.*=random"
    ):
        torch_weights.critic_tensors(str(tmp_path / "absent"))


def test_imagenet_comes_from_the_hub(monkeypatch, tmp_path):
    file = tmp_path / "model.safetensors"
    save_file(random_tensors(resnet(1)), file)
    asked = []

    def download(repository, name):
        asked.append((repository, name))
        return str(file)

    monkeypatch.setattr("huggingface_hub.hf_hub_download", download)
    tensors, source = torch_weights.critic_tensors("imagenet")
    assert asked == [("timm/resnet50.tv_in1k", "model.safetensors")]
    assert source == str(file)
    assert "conv1.weight" in tensors


def cached(hub: Path, name: str | None = None) -> tuple[Path, Path]:
    """Weights as the hub's cache holds them: the link in a snapshot, and the blob."""
    content = safetensors_bytes(random_tensors(resnet(1)))
    blob = hub / "blobs" / (name or hashlib.sha256(content).hexdigest())
    link = hub / "snapshots" / "0123abc" / "model.safetensors"
    for path in (blob, link):
        path.parent.mkdir(parents=True)
    blob.write_bytes(content)
    link.symlink_to(Path("../../blobs") / blob.name)
    return link, blob


@pytest.mark.parametrize("damage", ["changed", "cut off"])
def test_imagenet_weights_are_compared_with_their_hash(monkeypatch, tmp_path, damage):
    link, blob = cached(tmp_path / "hub")
    monkeypatch.setattr("huggingface_hub.hf_hub_download", lambda *_: str(link))
    assert "conv1.weight" in torch_weights.critic_tensors("imagenet")[0]

    content = blob.read_bytes()
    # A weight changed is a file as whole as before.
    blob.write_bytes(content[:-4] + b"\0\0\0\0" if damage == "changed" else content[:-4])
    found = hashlib.sha256(blob.read_bytes()).hexdigest()
    with pytest.raises(
        torch_weights.WeightsError, match=r"cut off or changed.*delete this file"
    ) as caught:
        torch_weights.critic_tensors("imagenet")
    message = str(caught.value)
    assert message.startswith(str(blob.resolve()))
    assert found[:12] in message
    assert blob.name[:12] in message


def test_imagenet_weights_in_a_shared_store_of_other_hashes(monkeypatch, tmp_path):
    link, blob = cached(tmp_path / "models--timm--resnet50")
    store = tmp_path / "blobs" / "ab" / ("ab" * 32)
    store.parent.mkdir(parents=True)
    blob.rename(store)
    blob.symlink_to(store)
    monkeypatch.setattr("huggingface_hub.hf_hub_download", lambda *_: str(link))
    assert "conv1.weight" in torch_weights.critic_tensors("imagenet")[0]

    store.write_bytes(store.read_bytes() + b"\0")
    with pytest.raises(torch_weights.WeightsError, match="cut off or changed") as caught:
        torch_weights.critic_tensors("imagenet")
    assert str(caught.value).startswith(str(store))  # without it the link leads nowhere


@pytest.mark.parametrize("name", ["ab" * 20, "AB" * 32, "etag"])
def test_imagenet_weights_without_a_known_hash_are_taken(monkeypatch, tmp_path, name):
    link, _ = cached(tmp_path / "hub", name)
    monkeypatch.setattr("huggingface_hub.hf_hub_download", lambda *_: str(link))
    assert "conv1.weight" in torch_weights.critic_tensors("imagenet")[0]


@pytest.mark.parametrize("failure", [OSError("no route to host"), RuntimeError("401\n\nUnauth")])
def test_imagenet_without_network_names_three_ways_out(monkeypatch, failure):
    def download(*_):
        raise failure

    monkeypatch.setattr("huggingface_hub.hf_hub_download", download)
    with pytest.raises(torch_weights.WeightsError) as caught:
        torch_weights.critic_tensors("imagenet")
    message = str(caught.value)
    assert "\n" not in message
    for part in (
        "timm/resnet50.tv_in1k",
        str(failure).split()[0],
        "network",
        "--config.critic.weights=PATH.safetensors",
        "--config.critic.weights=random",
    ):
        assert part in message
