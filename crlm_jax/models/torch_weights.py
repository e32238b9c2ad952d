"""PyTorch-named tensors (safetensors) into Flax modules, and back.

Attributes of this package's modules have PyTorch's names, so the name of a tensor is the path to
its variable, and the layout of a tensor follows from its rank: convolution weights are (out, in,
height, width) in PyTorch and (height, width, in, out) here, all others are the same. A layer with
another layout has a class attribute `TORCH_AXES`, which maps a variable to the axes of its layout
here in PyTorch's order, such as {"weight": (1, 0)} of a linear layer. Weights are loaded completely
or not at all: a tensor that is missing, unknown, or of another shape or type stops the load with a
`WeightsError`.
"""

import hashlib
import re
from collections.abc import Iterator, Mapping
from fnmatch import fnmatchcase
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import safetensors
import safetensors.numpy
from flax import nnx

from crlm_jax.errors import UserError

IMAGENET_REPOSITORY = "timm/resnet50.tv_in1k"  # torchvision's ResNet50_Weights.IMAGENET1K_V1
IGNORED = ("fc.*", "*.num_batches_tracked")  # the classifier; PyTorch's step counter

_TORCH_AXES = {4: (3, 2, 0, 1)}  # rank -> axes of the layout here in the order of PyTorch's

_OTHER_WEIGHTS = "a local file with --config.critic.weights=PATH.safetensors"
_RANDOM_WEIGHTS = "random weights with --config.critic.weights=random (no result of the paper)"


class WeightsError(UserError):
    """Weights cannot be obtained, or do not fit the module."""


def load_safetensors(path: str | Path) -> dict[str, np.ndarray]:
    """Reads every tensor of a file.

    Raises:
      WeightsError: there is no such file, or it is cut short or of another format.
    """
    path = Path(path)
    if not path.is_file():
        raise WeightsError(f"{path}: no such file; give the path of an existing .safetensors file")
    try:
        return safetensors.numpy.load_file(path)
    except (safetensors.SafetensorError, OSError, ValueError, KeyError) as error:
        raise WeightsError(
            f"{path}: not a whole safetensors file ({_one_line(error)}); fetch or convert it again"
        ) from error


def critic_tensors(weights: str) -> tuple[dict[str, np.ndarray], str]:
    """Fetches the tensors of a critic.

    Args:
      weights: `"imagenet"`, which stands for torchvision's ResNet-50 (V1) from the Hugging Face hub
        or its cache, or the path of a .safetensors file with torchvision's names.

    Returns:
      The tensors by name, and their file, for messages.

    Raises:
      WeightsError: the weights cannot be obtained; the message says what to do instead.
    """
    if weights != "imagenet":
        try:
            return load_safetensors(weights), str(weights)
        except WeightsError as error:
            raise WeightsError(
                f"{error}; or use --config.critic.weights=imagenet, or {_RANDOM_WEIGHTS}"
            ) from error
    try:
        import huggingface_hub  # slow to import, and needed in this branch only

        path = huggingface_hub.hf_hub_download(IMAGENET_REPOSITORY, "model.safetensors")
    except Exception as error:  # the hub client raises many kinds; the remedies are the same
        reason = _one_line(error) or type(error).__name__
        raise WeightsError(
            f"critic.weights = 'imagenet': cannot get {IMAGENET_REPOSITORY} from the Hugging Face "
            f"hub ({reason}). Three ways out: run once with network, or copy the Hugging Face "
            f"cache here (HF_HOME); or give {_OTHER_WEIGHTS}; or use {_RANDOM_WEIGHTS}"
        ) from error
    _check_hash(Path(path))
    return load_safetensors(path), path


def _check_hash(path: Path) -> None:
    """Compares a large file of the hub's cache with its SHA-256, which is its name in the cache.

    The cache holds `snapshots/COMMIT/NAME` as a link to `blobs/SHA256`. On a system without links,
    and for a small file under another hash, the SHA-256 is unknown and nothing is checked.

    Raises:
      WeightsError: the file is not the one that its name says.
    """
    # Only this link is followed: the blob may itself be a link, into a store with Xet's hashes.
    blob = path.readlink() if path.is_symlink() else path
    expected = blob.name
    if blob.parent.name != "blobs" or not re.fullmatch("[0-9a-f]{64}", expected):
        return
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != expected:
        raise WeightsError(
            f"{path.resolve()}: cut off or changed (its SHA-256 is {found[:12]}…, not "
            f"{expected[:12]}…); delete this file, so that it is fetched again"
        )


def load_torch(
    module: nnx.Module,
    tensors: Mapping[str, np.ndarray],
    *,
    source: str,
    ignore: tuple[str, ...] = IGNORED,
) -> nnx.Module:
    """Sets all parameters and batch statistics of a module, in place.

    Args:
      module: its paths are PyTorch's names. Tensors that match the patterns of its attribute
        `unbuilt`, if it has one, may be present too (later stages of a critic).
      tensors: by PyTorch's name, in PyTorch's layout, of any float type.
      source: their file, for messages.
      ignore: patterns of tensors to leave out.

    Returns:
      The module.

    Raises:
      WeightsError: a tensor is missing, unknown, or of another shape or type; nothing is set then.
    """
    variables = {name: (variable, axes) for name, variable, axes in _variables(module)}
    missing = [name for name in variables if name not in tensors]
    if missing:
        raise WeightsError(
            f"{source}: lacks {_first(missing)} of {type(module).__name__}; "
            f"{_remedy_for_missing(missing[0])}"
        )
    allowed = (*ignore, *getattr(module, "unbuilt", ()))
    unknown = [
        name
        for name in tensors
        if name not in variables and not any(fnmatchcase(name, p) for p in allowed)
    ]
    if unknown:
        raise WeightsError(
            f"{source}: {type(module).__name__} has no place for {_first(unknown)}; give weights "
            "of exactly this network under PyTorch's names"
        )
    values = {
        name: _to_flax(name, tensors[name], variable[...].shape, axes, source)
        for name, (variable, axes) in variables.items()
    }
    for name, (variable, _) in variables.items():
        variable[...] = jnp.asarray(values[name])
    return module


def to_torch(module: nnx.Module) -> dict[str, np.ndarray]:
    """Returns all parameters and batch statistics under PyTorch's names, in PyTorch's layout."""
    return {
        name: np.ascontiguousarray(np.asarray(variable[...]).transpose(axes))
        for name, variable, axes in _variables(module)
    }


def _variables(
    module: nnx.Module, prefix: str = ""
) -> Iterator[tuple[str, nnx.Variable, tuple[int, ...]]]:
    """Yields name, variable and its axes in PyTorch's order, as a state dict is ordered."""
    children = enumerate(module) if isinstance(module, nnx.List) else vars(module).items()
    own = getattr(module, "TORCH_AXES", {})
    for name, child in children:
        if isinstance(child, nnx.Param | nnx.BatchStat):
            rank = child[...].ndim
            yield f"{prefix}{name}", child, own.get(name, _TORCH_AXES.get(rank, tuple(range(rank))))
        elif isinstance(child, nnx.Module):
            yield from _variables(child, f"{prefix}{name}.")


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())


def _first(names: list[str]) -> str:
    others = len(names) - 1
    return names[0] + (f" (and {others} other tensor{'s' * (others > 1)})" if others else "")


def _remedy_for_missing(name: str) -> str:
    """Returns the remedy; a missing `layer{k}` after whole stages means a file of fewer stages."""
    head = name.split(".")[0]
    stage = int(head[5:]) if head.startswith("layer") and head[5:].isdigit() else 0
    if stage > 1:
        stages = ",".join(str(s) for s in range(1, stage))
        return (
            f"constrain only the stages it has with --config.loss.stages={stages}, or give "
            f"complete weights: {_OTHER_WEIGHTS}, or --config.critic.weights=imagenet"
        )
    return "give complete weights of exactly this network under PyTorch's names"


def _to_flax(
    name: str, tensor: np.ndarray, shape: tuple[int, ...], axes: tuple[int, ...], source: str
) -> np.ndarray:
    if not jnp.issubdtype(tensor.dtype, jnp.floating):
        raise WeightsError(
            f"{source}: {name} is {tensor.dtype}, not a float; give the unquantised weights"
        )
    expected = tuple(shape[axis] for axis in axes)
    if tensor.shape != expected:
        raise WeightsError(
            f"{source}: {name} has shape {tensor.shape}, but {expected} is needed; the weights "
            "are those of another network or of other widths"
        )
    return np.transpose(tensor, np.argsort(axes)).astype(np.float32)
