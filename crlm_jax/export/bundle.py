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

import dataclasses
import hashlib
import importlib.resources
import json
import re
from pathlib import Path
from typing import Any

import jax

from crlm_jax import __version__
from crlm_jax.config.notices import warnings
from crlm_jax.config.schema import Config
from crlm_jax.export.function import make_function, make_network, to_stablehlo
from crlm_jax.export.to_onnx import check_onnx, require_onnx, to_onnx
from crlm_jax.imaging.conditions import is_ct
from crlm_jax.method import networks
from crlm_jax.method.segment import load_best
from crlm_jax.runs.folder import read_run
from crlm_jax.system import parallel
from crlm_jax.system.files import check_folder, locate, whole_folder

STABLEHLO, ONNX = "segmenter.stablehlo", "segmenter.onnx"
PREPROCESSING, EXAMPLE = "preprocessing.json", "example.py"


def describe(config: Config, run: str, step: int, files: dict[str, bytes]) -> dict[str, Any]:
    """Returns what `preprocessing.json` holds: all that a user of the exported files must know."""
    low, high = config.data.ct_window
    windows = {
        condition: {"kind": "fixed", "unit": "HU", "low": low, "high": high}
        if is_ct(condition)
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
        "warnings": warnings(config),
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
    check_folder(out, "|".join(names), PREPROCESSING)


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
    graph, variables, step = load_best(config, run, parallel.make_mesh(1))
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
            "warnings": " ".join(warnings(config)),
        }
        files[ONNX] = to_onnx(network, size, notes)
        check_onnx(files[ONNX], make_function(network, size), size)
    example = importlib.resources.files("crlm_jax.export") / "templates" / "example.py"
    files[EXAMPLE] = example.read_bytes()
    description = describe(config, run.resolve().name, step, files)
    files[PREPROCESSING] = (json.dumps(description, indent=2, ensure_ascii=False) + "\n").encode()
    with whole_folder(out, _check_out) as folder:
        for name, content in files.items():
            (folder / name).write_bytes(content)
    return description
