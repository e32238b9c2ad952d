"""The network by OpenVINO: translated once, then read from the cache folder.

A translation is of one configuration, one set of checkpoints, and one version of crlm_jax, JAX and
OpenVINO: its folder is named after all of them. It appears whole or not at all, and is made anew
where a file is not as it was written. JAX is loaded only to translate.
"""

import dataclasses
import hashlib
import importlib.metadata
import json
from pathlib import Path
from typing import Any

import numpy as np
import openvino

from crlm_jax import __version__
from crlm_jax.errors import UserError
from crlm_jax.predict import engine
from crlm_jax.predict.engine.choice import Engine, EngineError
from crlm_jax.predict.engine.doubt import Network
from crlm_jax.predict.engine.parts import compile_exactly, compile_in_bfloat16
from crlm_jax.runs.folder import RunFolder
from crlm_jax.system.files import clear_partial, whole_folder

TOLERANCE = 1e-4  # of a probability in float32, between OpenVINO and XLA
_FORM = 1  # to be raised when translations change
_MODEL, _WEIGHTS, _ABOUT = "segmenter.xml", "segmenter.bin", "about.json"
_A_DAY = 86400  # seconds


@dataclasses.dataclass(frozen=True)
class Translated:
    """A run's network in OpenVINO; it takes one slice at a time."""

    network: Network
    step: int  # of the checkpoint
    fingerprint: str  # SHA-256 of configuration and weights
    note: str = ""  # what the user should know


def load_translated(
    run: Path, size: int, threshold: float, chosen: Engine, cache: str
) -> Translated:
    """Loads a run's network, from the cache if it was translated before.

    Args:
      run: folder of the run, as `system.files.locate` returns it.
      size: S, the side of a slice in pixels.
      threshold: probability above which a pixel is tumour.
      chosen: the engine, for its precision.
      cache: folder of what is kept between processes, as `data.cache`.

    Raises:
      EngineError: the network is not translated, or its result differs from XLA's.
      FileNotFoundError, CheckpointError: the folder holds no whole checkpoint.
    """
    folder, note = Path(cache).expanduser() / "openvino" / _key(run), ""
    about = _read_about(folder)
    if about is not None:
        model = openvino.Core().read_model(folder / _MODEL)
    else:
        if folder.exists():
            note = f"the translation for OpenVINO in {folder} was damaged, and is made anew"
        model, about = _translate(run, size)
        try:
            clear_partial(folder.parent, _A_DAY)
            _write(model, about, folder)
        except (OSError, UserError, RuntimeError) as error:  # OpenVINO raises the last
            first = error.__cause__ or error
            reason = first.strerror if isinstance(first, OSError) else " ".join(str(first).split())
            note = (
                "the network is translated for OpenVINO each time, as it cannot be kept in "
                f"{folder.parent} ({reason}); let that folder be written to"
            )
    if chosen.precision == "bfloat16":
        network: Network = compile_in_bfloat16(model, threshold)
    else:
        network = compile_exactly(model)
    return Translated(network, about["step"], about["fingerprint"], note)


def _key(run: Path) -> str:
    """Returns the SHA-256 of what a translation depends on."""
    versions = [__version__, *(importlib.metadata.version(name) for name in ("jax", "openvino"))]
    digest = hashlib.sha256(json.dumps([_FORM, *versions]).encode())
    folder = RunFolder(run)
    files = [file for file in folder.checkpoints.rglob("*") if file.is_file()]
    for file in [folder.config, *sorted(files)]:
        name, content = str(file).removeprefix(str(run)), file.read_bytes()
        digest.update(f"{name}\n{len(content)}\n".encode())
        digest.update(content)
    return digest.hexdigest()


def _translate(run: Path, size: int) -> tuple[openvino.Model, dict[str, Any]]:
    """Translates the best checkpoint of a run; returns it with what is known of it."""
    xla = engine.xla
    trained = xla.load_run(run, xla.find_device("cpu"))
    shape = (1, size, size, trained.config.data.planes)
    model = engine.to_openvino(xla.in_float32(trained), shape, "uint8")
    _check(compile_exactly(model), lambda slices: xla.compute(trained, slices), shape)
    fingerprint = xla.fingerprint(trained.config, trained.variables)
    return model, {"run": trained.config.name, "step": trained.step, "fingerprint": fingerprint}


def _check(found: Network, expected: Network, shape: tuple[int, int, int, int]) -> None:
    """Runs both networks on a random slice of `shape`, (1, S, S, C).

    Raises:
      EngineError: a probability differs by more than `TOLERANCE`.
    """
    rng, (_, size, _, planes) = np.random.default_rng(0), shape
    grey = []
    for _ in range(planes):
        blocks = np.kron(rng.integers(0, 216, (8, 8)), np.ones((-(-size // 8),) * 2, int))
        grey.append(blocks[:size, :size] + rng.integers(0, 40, (size, size)))
    slices = np.stack(grey, axis=-1).astype(np.uint8)[None]
    difference = float(np.abs(found(slices) - expected(slices)).max())
    if not difference <= TOLERANCE:  # true of NaN too
        raise EngineError(
            f"OpenVINO's probability differs from XLA's by {difference:.2g} (allowed: "
            f"{TOLERANCE:g}); please report this with the versions of openvino and jax"
        )


def _write(model: openvino.Model, about: dict[str, Any], folder: Path) -> None:
    with whole_folder(folder, lambda out: _read_about(out) is not None) as out:
        openvino.save_model(model, out / _MODEL, compress_to_fp16=False)
        files = {name: _digest(out / name) for name in (_MODEL, _WEIGHTS)}
        (out / _ABOUT).write_text(json.dumps(about | {"files": files}), encoding="utf-8")


def _read_about(folder: Path) -> dict[str, Any] | None:
    """Returns what is known of a translation; None if it is absent or damaged."""
    try:
        about: dict[str, Any] = json.loads((folder / _ABOUT).read_text(encoding="utf-8"))
        whole = all(_digest(folder / name) == about["files"][name] for name in (_MODEL, _WEIGHTS))
        return about if whole and {"step", "fingerprint"} <= about.keys() else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _digest(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()
