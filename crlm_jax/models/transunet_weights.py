"""ImageNet-21k weights of R50+ViT-B/16 for TransUNet, as the authors of ViT published them.

The file `R50+ViT-B_16.npz` (github google-research/vision_transformer,
https://storage.googleapis.com/vit_models/imagenet21k/R50+ViT-B_16.npz) is a Flax checkpoint: names
are paths such as `Transformer/encoderblock_0/LayerNorm_0/scale`, kernels are (height, width, in,
out) or (in, out) as here. The file holds the ResNet, the embeddings and the transformer; decoder
and head of TransUNet keep their own first weights, as in github Beckschen/TransUNet (`load_from`).
"""

import math
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import scipy.ndimage
from flax import nnx

from crlm_jax.models.torch_weights import WeightsError
from crlm_jax.models.transunet import TransUNet

_REMEDY = (
    "give R50+ViT-B_16.npz of https://storage.googleapis.com/vit_models/imagenet21k/"
    "R50+ViT-B_16.npz, or start from random weights"
)
_MOST_BYTES = 2**32  # the published file has 0.5 GB
_MODULES = {  # module of a transformer layer -> its name in the file
    "attention_norm": "LayerNorm_0",
    "ffn_norm": "LayerNorm_2",
    "ffn/fc1": "MlpBlock_3/Dense_0",
    "ffn/fc2": "MlpBlock_3/Dense_1",
    "attn": "MultiHeadDotProductAttention_1",
}


def load_imagenet21k(module: TransUNet, path: str | Path) -> TransUNet:
    """Sets the ResNet, the embeddings and the transformer from a file, in place.

    The position embedding loses its class token and is resized bilinearly to the module's grid.

    Args:
      module: with the widths and depths of the file; any image size.
      path: of `R50+ViT-B_16.npz`.

    Returns:
      The module.

    Raises:
      WeightsError: the file is absent, or an array is missing or of another shape. Then nothing is
        set.
    """
    arrays = _read(Path(path))
    heads = module.transformer.encoder.layer[0].attn.heads
    variables = nnx.to_flat_state(nnx.state(module.transformer, nnx.Param))
    values = []
    for keys, variable in variables:
        name, shape = file_name(keys), variable[...].shape
        if name not in arrays:
            raise WeightsError(f"{path}: lacks {name}; {_REMEDY}")
        if keys[-1] == "position_embeddings":
            value = _resize_positions(arrays[name], shape, f"{path}: {name}")
        else:
            value = _fit(arrays[name], shape, heads, f"{path}: {name}")
        values.append((keys, variable.replace(jnp.asarray(value, jnp.float32))))
    nnx.update(module.transformer, nnx.from_flat_state(values))
    return module


def file_name(keys: Sequence[object]) -> str:
    """Returns the name in the file of a parameter of `TransUNet.transformer`, by its path.

    Example: ("encoder", "layer", 0, "attn", "query", "weight") is
    "Transformer/encoderblock_0/MultiHeadDotProductAttention_1/query/kernel".
    """
    *parents, leaf = map(str, keys)
    if leaf == "position_embeddings":
        return "Transformer/posembed_input/pos_embedding"
    if leaf == "weight":
        leaf = "scale" if "norm" in parents[-1] or parents[-1].startswith("gn") else "kernel"
    match parents:
        case ["embeddings", "patch_embeddings"]:
            owner = "embedding"
        case ["embeddings", "hybrid_model", "root", part]:
            owner = f"{part}_root"
        case ["embeddings", "hybrid_model", "body", block, unit, part]:
            owner = f"{block}/{unit}/{'conv_proj' if part == 'downsample' else part}"
        case ["encoder", "encoder_norm"]:
            owner = "Transformer/encoder_norm"
        case ["encoder", "layer", index, "attn", part]:
            owner = f"Transformer/encoderblock_{index}/{_MODULES['attn']}/{part}"
        case ["encoder", "layer", index, *rest]:
            owner = f"Transformer/encoderblock_{index}/{_MODULES['/'.join(rest)]}"
    return f"{owner}/{leaf}"


def _read(path: Path) -> Mapping[str, np.ndarray]:
    """Reads every array of a file, without unpickling."""
    if not path.is_file():
        raise WeightsError(f"{path}: no such file; {_REMEDY}")
    try:
        with zipfile.ZipFile(path) as file:
            size = sum(member.file_size for member in file.infolist())
        if size > _MOST_BYTES:  # a small file may decompress to any size
            raise ValueError(f"it decompresses to {size:,} bytes")
        with np.load(path, allow_pickle=False) as file:
            return {name: file[name] for name in file.files}
    except Exception as error:  # NumPy and zipfile raise many kinds
        reason = " ".join(str(error).split())
        raise WeightsError(f"{path}: not a whole .npz file ({reason}); {_REMEDY}") from error


def _fit(array: np.ndarray, shape: tuple[int, ...], heads: int, source: str) -> np.ndarray:
    """Brings an array to the shape that TransUNet has here.

    Norms lose axes of length 1. Attention loses the axis of its heads: its kernels are (hidden,
    heads, hidden/heads) and (heads, hidden/heads, hidden) in the file, and its biases (heads,
    hidden/heads), so only neighbouring axes are joined.
    """
    each = shape[-1] // heads
    allowed = {shape, (1,) * 3 + shape}
    if len(shape) == 1:
        allowed |= {(heads, each)}
    elif len(shape) == 2 and shape[0] == shape[1]:
        allowed |= {(shape[0], heads, each), (heads, each, shape[1])}
    if array.shape not in allowed:
        raise WeightsError(
            f"{source} has shape {array.shape}, which does not fit {shape}; give the weights of "
            f"a network of the same width, or build TransUNet with the width of the file: {_REMEDY}"
        )
    return array.reshape(shape)


def _resize_positions(array: np.ndarray, shape: tuple[int, ...], source: str) -> np.ndarray:
    """(1, [1 +] n², hidden) -> (1, grid², hidden): drops the class token, resizes bilinearly."""
    if array.shape == shape:
        return array
    old = math.isqrt(array.shape[1] - 1) if array.ndim == 3 and array.shape[1] else 0
    new = math.isqrt(shape[1])
    if not old or array.shape != (1, old**2 + 1, shape[2]):
        raise WeightsError(
            f"{source} has shape {array.shape}, not (1, 1 + n², {shape[2]}) for any n; {_REMEDY}"
        )
    grid = array[0, 1:].reshape(old, old, -1)
    if old != new:
        grid = scipy.ndimage.zoom(grid, (new / old, new / old, 1), order=1)
    return grid.reshape(shape)
