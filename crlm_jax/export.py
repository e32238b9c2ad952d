"""A trained segmenter, with its preprocessing, as StableHLO and ONNX: usable without this package.

    python -m crlm_jax.export --run runs/ct --out exported

Both files hold the same function, with the weights inside:

    image (B, H, W) float32, raw axial slices    window (2,) float32, shown as black and white
      -> grey levels 0 … 255 -> S × S -> segmenter -> sigmoid -> probability (B, H, W) float32

B, H and W are free. Grey levels and both resizes are those of `crlm_jax.data.volumes`, so that the
map is that of `crlm_jax.predict`. Beside them lie `preprocessing.json`, which says how the window
is found, and `example.py`, which segments a scan with either file.

StableHLO is `jax.export`'s, for CPU, CUDA and TPU, and computes as the run did; ONNX
(`export_onnx.py`) is float32.
"""

import argparse
import dataclasses
import hashlib
import importlib.resources
import json
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import export as jax_export

from crlm_jax import __version__, networks, parallel, report, train
from crlm_jax.checkpoint import CheckpointError
from crlm_jax.commands import local_path, tell
from crlm_jax.config import Config, ConfigError, read_run
from crlm_jax.data import volumes
from crlm_jax.export_onnx import ExportError, Function, check_onnx, require_onnx, to_onnx
from crlm_jax.files import check_folder, locate, whole_folder
from crlm_jax.models.inputs import network_input

STABLEHLO, ONNX = "segmenter.stablehlo", "segmenter.onnx"
PREPROCESSING, EXAMPLE = "preprocessing.json", "example.py"
PLATFORMS = ("cpu", "cuda", "tpu")


def make_network(
    graph: nnx.GraphDef, variables: dict[str, nnx.State], *, mirror: bool
) -> Callable[[jax.Array], jax.Array]:
    """Builds the map (B, S, S) grey levels 0 … 255, float32 -> (B, S, S) probability, float32."""
    constants = jax.tree.map(np.asarray, variables)  # numbers of the program, on no device

    def network(grey: jax.Array) -> jax.Array:
        return networks.probability(graph, constants, network_input(grey[..., None]), mirror=mirror)

    return network


def make_function(network: Callable[[jax.Array], jax.Array], size: int) -> Function:
    """Builds the exported function (image, window) -> probability.

    Args:
      network: from `make_network`.
      size: S, pixels, side of the square slice that the network sees.

    Returns:
      The map of `image` (B, H, W) float32, finite, in the scan's own unit (CT: HU), and `window`
      (2,) float32, the values shown as black and white, the first below the second, to the
      probability of tumour (B, H, W) float32.
    """

    def probability(image: jax.Array, window: jax.Array) -> jax.Array:
        low, high = window[0], window[1]
        grey = jnp.rint(jnp.clip((image - low) * (255 / (high - low)), 0, 255))
        small = network(jnp.rint(_resize(grey, size, size)))
        return _resize(small, *image.shape[1:])

    return probability


def _taps(old: int, new: int) -> tuple[jax.Array, jax.Array, jax.Array]:
    """As `volumes._taps`, for sizes that may be symbolic and are below 2^14.

    In whole units of 1 / (2 · new) of an old pixel, and the weight by long division to 32 binary
    places: float32 would misplace far pixels, and XLA does not divide exactly. A weight of a half
    that is not quite a half would round grey levels the other way.
    """
    index = jnp.arange(new, dtype=jnp.int32)
    old, new = jnp.asarray(old, jnp.int32), jnp.asarray(new, jnp.int32)
    unit = 2 * new
    place = jnp.clip((2 * index + 1) * old - new, 0, (old - 1) * unit)
    first = jnp.minimum(place // unit, jnp.maximum(old - 2, 0))
    high, rest = jnp.divmod((place - first * unit) * 2**16, unit)
    low = rest * 2**16 // unit
    weight = high.astype(jnp.float32) * 2.0**-16 + low.astype(jnp.float32) * 2.0**-32
    return first, jnp.minimum(first + 1, old - 1), weight


def _resize(x: jax.Array, rows: int, columns: int) -> jax.Array:
    """As `volumes.resize` for float32 in [0, 255]: (B, H, W) -> (B, rows, columns)."""

    def blend(a: jax.Array, b: jax.Array, weight: jax.Array) -> jax.Array:
        # The maximum changes nothing, but keeps the compiler from joining product and sum into one
        # operation, which rounds once, and so takes halfway grey levels another way than NumPy.
        return a + jnp.maximum((b - a) * weight, -256.0)

    top, bottom, down = _taps(x.shape[1], rows)
    left, right, across = _taps(x.shape[2], columns)
    lines = blend(x[:, top], x[:, bottom], down[:, None])
    return blend(lines[:, :, left], lines[:, :, right], across)


def to_stablehlo(function: Function) -> bytes:
    """Serialises (image, window) -> probability for every B, H and W and all of `PLATFORMS`.

    `jax.export.deserialize` reads it; `jax.jit(loaded.call)(image, window)` runs it.
    """
    shape = jax_export.symbolic_shape("B, H, W")
    exported = jax_export.export(jax.jit(function), platforms=PLATFORMS)(
        jax.ShapeDtypeStruct(shape, jnp.float32), jax.ShapeDtypeStruct((2,), jnp.float32)
    )
    return bytes(exported.serialize())


def describe(config: Config, run: str, step: int, files: dict[str, bytes]) -> dict[str, Any]:
    """Returns what `preprocessing.json` holds: all that a user of the exported files must know."""
    low, high = config.data.ct_window
    windows = {
        condition: {"kind": "fixed", "unit": "HU", "low": low, "high": high}
        if volumes.is_ct(condition)
        else {"kind": "percentiles", "of": "all voxels of the volume", "low": 0.5, "high": 99.5}
        for condition in config.data.conditions
    }
    precision = {STABLEHLO: config.train.precision, ONNX: "float32"}
    return {
        "run": run,
        "method": config.method,
        "scale": config.scale,
        "step": step,
        "versions": {"crlm_jax": __version__, "jax": jax.__version__},
        "warnings": report.warnings(config),
        "conditions": list(config.data.conditions),
        "windows": windows,
        "windows_note": "A scan of 8-bit voxels: 0 and 255. Percentiles that are equal: the least "
        "and the greatest voxel.",
        "orientation": "LPS",
        "orientation_note": "Axial slices from feet to head, rows from front to back, columns from "
        "the patient's right to left; to the nearest axis where the scan is oblique.",
        "image": "float32 (B, H, W): raw values of B slices (CT: HU), finite",
        "window": "float32 (2,): the values shown as black and white",
        "probability": "float32 (B, H, W)",
        "threshold": config.evaluation.threshold,
        "image_size": config.data.image_size,
        "precision": {name: precision[name] for name in files if name in precision},
        "files": {name: hashlib.sha256(content).hexdigest() for name, content in files.items()},
    }


def _check_out(out: Path) -> None:
    """Raises ExportError unless `out` is new, empty, or an earlier export; changes nothing."""
    names = map(re.escape, (STABLEHLO, ONNX, PREPROCESSING, EXAMPLE))
    check_folder(out, "|".join(names), PREPROCESSING, ExportError)


def export_run(run: str | Path, out: Path, formats: str = "both") -> dict[str, Any]:
    """Writes the best segmenter of a run to a folder, which appears whole or not at all.

    Args:
      run: folder of the run, or its address (`gs://`); nothing in it is changed.
      out: new, empty, or an earlier export, which is replaced.
      formats: "stablehlo", "onnx" or "both".

    Returns:
      What `preprocessing.json` holds.

    Raises:
      ConfigError, FileNotFoundError, CheckpointError: no run, or no whole checkpoint, is there.
      ExportError: `out` holds something else; ONNX was asked for and a package of it is missing,
        the network cannot be translated, or its result differs.
    """
    out = out.resolve()
    _check_out(out)
    if formats != "stablehlo":
        require_onnx()
    run = locate(run)
    config = read_run(run)
    graph, variables, step = train.load_best(config, run, parallel.make_mesh(1))
    size, mirror, files = config.data.image_size, config.evaluation.mirror, {}
    if formats != "onnx":
        network = make_network(graph, variables, mirror=mirror)
        files[STABLEHLO] = to_stablehlo(make_function(network, size))
    if formats != "stablehlo":
        exact = dataclasses.replace(config.train, precision="float32")
        segmenter = networks.create_segmenter(dataclasses.replace(config, train=exact))
        network = make_network(networks.evaluation_graph(segmenter), variables, mirror=mirror)
        notes = {
            "run": config.name,
            "step": str(step),
            "conditions": ", ".join(config.data.conditions),
            "warnings": " ".join(report.warnings(config)),
        }
        files[ONNX] = to_onnx(network, size, notes)
        check_onnx(files[ONNX], make_function(network, size), size)
    example = importlib.resources.files("crlm_jax") / "templates" / "export_example.py"
    files[EXAMPLE] = example.read_bytes()
    description = describe(config, run.resolve().name, step, files)
    files[PREPROCESSING] = (json.dumps(description, indent=2, ensure_ascii=False) + "\n").encode()
    with whole_folder(out, _check_out) as folder:
        for name, content in files.items():
            (folder / name).write_bytes(content)
    return description


def main(argv: list[str] | None = None) -> None:
    """Command line; exits with 1 and one line where nothing could be written."""
    parser = argparse.ArgumentParser(
        prog="python -m crlm_jax.export",
        description="Write a trained segmenter, with its preprocessing, as StableHLO and ONNX.",
    )
    parser.add_argument("--run", type=Path, required=True, help="folder of the run")
    parser.add_argument(
        "--out", type=local_path, required=True, help="folder: new or an earlier export"
    )
    parser.add_argument(
        "--format",
        choices=("stablehlo", "onnx", "both"),
        default="both",
        help="onnx needs pip install 'crlm_jax[export]' (default: both)",
    )
    args = parser.parse_args(argv)
    try:
        description = export_run(args.run, args.out, args.format)
    except (ExportError, ConfigError, CheckpointError, OSError, ValueError) as error:
        sys.exit("error: " + " ".join(str(error).split()))
    for warning in description["warnings"]:
        tell(f"warning: {warning}")
    for name in (*description["files"], PREPROCESSING):
        print(args.out / name)


if __name__ == "__main__":
    main()
