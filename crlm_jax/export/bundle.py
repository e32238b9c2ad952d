"""A folder with a trained segmenter that is usable without this package.

Two files hold the same function, the network at its own size with the weights inside:

    grey levels 0 … 255 (B, S, S) float32 -> probability of tumour (B, S, S) float32

B, the number of slices, is free; S is the run's `data.image_size`. A run that sees several
slices or sequences together takes (B, S, S, 3). `segmenter.stablehlo` is
`jax.export`'s, for CPU, CUDA and TPU, and computes as the run did; `segmenter.onnx` is float32.

Beside them lie `preprocessing.json`, which says how a scan becomes grey levels and how the
probability becomes a mask, and `example.py`, which does both in NumPy as `crlm_jax.predict` does.
"""

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
from crlm_jax.export.function import make_network, slice_shape, to_stablehlo
from crlm_jax.export.to_onnx import check_onnx, require_onnx, to_onnx
from crlm_jax.imaging import grey
from crlm_jax.imaging.conditions import is_ct
from crlm_jax.imaging.context import FURTHEST
from crlm_jax.method.segment import load_best
from crlm_jax.runs.folder import RunFolder, read_run
from crlm_jax.system import parallel
from crlm_jax.system.files import check_folder, locate, whole_folder

STABLEHLO, ONNX = "segmenter.stablehlo", "segmenter.onnx"
PREPROCESSING, EXAMPLE = "preprocessing.json", "example.py"
# What `imaging.padding` finds, in words.
_PADDING = (
    "Voxels that fill up the array and were not measured. In a scan whose voxels have not 8 bits, "
    "a value is padding if all of this holds: it is the greatest of the volume, or the least and "
    "below -4096; it fills two neighbouring corners of the first and of the last slice (a 64th of "
    "the rows and columns each, at least one pixel); and it lies beyond all other voxels by more "
    "than their range. In DICOM it is what the headers mark; where those of a series other than CT "
    "mark none, the same rule holds, and in MR for a least value below 0 already."
)


def describe(config: Config, run: str, step: int, files: dict[str, bytes]) -> dict[str, Any]:
    """Returns what `preprocessing.json` holds: all that a user of the exported files must know."""
    precision = {STABLEHLO: config.train.precision, ONNX: "float32"}
    return {
        "run": run,
        "method": config.method,
        "scale": config.scale,
        "step": step,
        "versions": {"crlm_jax": __version__, "jax": jax.__version__},
        "warnings": warnings(config),
        "conditions": list(config.data.conditions),
        **_describe_steps(config),
        "threshold": config.evaluation.threshold,
        "min_lesion_mm3": config.evaluation.min_lesion_mm3,
        "liver": config.evaluation.liver,
        "image_size": config.data.image_size,
        "precision": {name: precision[name] for name in files if name in precision},
        "files": {name: hashlib.sha256(content).hexdigest() for name, content in files.items()},
    }


def _describe_steps(config: Config) -> dict[str, Any]:
    """Describes the way from a scan to its mask, in the order of the steps."""
    low, high = config.data.ct_window
    fixed = {"kind": "fixed", "unit": "HU", "low": low, "high": high}
    windows = {
        condition: fixed if is_ct(condition) else _describe_mr_window(config)
        for condition in dict.fromkeys([*config.data.conditions, *config.data.channels])
    }
    return {
        "orientation": "LPS",
        "orientation_note": "Axial slices from feet to head, rows from front to back, columns from "
        "the patient's right to left; to the nearest axis where the scan is oblique.",
        "padding": _PADDING,
        "windows": windows,
        "windows_note": "The values low and high that are shown as black and white. A scan of "
        "8-bit voxels: 0 and 255. Where they are equal: the least and the greatest voxel. Padding "
        "counts nowhere.",
        "grey_levels": "round(clip((voxel - low) * 255 / (high - low), 0, 255)) in float32, halves "
        "to the even number; 0 in padding",
        "antialias": config.data.antialias,
        "resampling": "Each slice, linear between the two nearest pixels along each axis; pixel i "
        "of n has its centre at (i + 0.5) / n of the slice, and values beyond the outermost "
        "centres are those of the border. With antialias an axis that shrinks is averaged with a "
        "triangle as wide as two new pixels instead, without pixels beyond the border.",
        "resampling_note": "Grey levels to image_size x image_size, then rounded again; the "
        "probability back to the slice's own size, neither averaged nor rounded.",
        **_describe_input(config),
        "output": "probability: float32 (B, S, S), of tumour",
        "mask": "probability > threshold, after resampling to the slice's own size, and never in "
        "padding; then lesions "
        "(voxels that share at least a corner) of a volume below min_lesion_mm3 are removed",
        "liver_note": "column: the run marks nothing outside the liver where it is given a mask of "
        "it, before small lesions are removed. Whoever has a mask does the same.",
    }


def _describe_input(config: Config) -> dict[str, Any]:
    """Describes what the network sees of a slice."""
    channels, context, three = list(config.data.channels), None, ""
    if config.data.context:
        three = "the slice below, the slice itself, the slice above"
        context = {
            "furthest_mm": FURTHEST,
            "note": "The slice itself stands in for a neighbour beyond an end of the scan, for one "
            "of a single grey level before resampling, and for all where slices lie further apart "
            "than furthest_mm, centre to centre.",
        }
    if channels:
        three = f"{', '.join([*channels, channels[0]][:3])} of one patient"
    shape = "(B, S, S, 3)" if three else "(B, S, S)"
    axis = f"; the last axis: {three}" * bool(three)
    return {
        "input": f"grey: float32 {shape}, whole grey levels 0 to 255 of B slices, "
        f"S = image_size{axis}",
        "context": context,
        "channels": channels,
        "channels_note": "Each image becomes grey levels by its own window. The second and third "
        "are then resampled onto the first's grid by their headers: linear, 0 outside, rounded; "
        "where a step of that grid is longer than a voxel, after a Gaussian of variance "
        "(step^2 - voxel^2) / (8 ln 2) mm^2 along that axis. Breathing is not corrected."
        if channels
        else None,
    }


def _describe_mr_window(config: Config) -> dict[str, Any]:
    """Describes the rule of `imaging.grey.find_window` for MRI."""
    if config.data.mr_window == "percentiles":
        low, high = grey.MR_PERCENTILES
        return {"kind": "percentiles", "of": "all voxels of the volume", "low": low, "high": high}
    return {
        "kind": "body",
        "low": grey.MR_LOW,
        "low_of": "percentile of all voxels of the volume",
        "high": grey.MR_HIGH,
        "high_of": "percentile of the voxels above the mean of all",
        "headroom": grey.MR_HEADROOM,
        "headroom_of": "white is so many times as far above the lesser of low and 0 as high is",
    }


def _check_out(out: Path) -> None:
    """Raises UserError unless `out` is new, empty, or an earlier export; changes nothing."""
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
      ConfigError, FileNotFoundError, CheckpointError: the folder holds no run or no whole
        checkpoint.
      UserError: `out` holds something else.
      ExportError: ONNX is asked for, but one of its packages is missing, the network cannot be
        translated, or ONNX Runtime's result differs.
    """
    out = out.resolve()
    _check_out(out)
    if formats != "stablehlo":
        require_onnx()
    run = locate(run)
    config = read_run(run)
    trained = load_best(config, RunFolder(run).checkpoints, parallel.make_mesh(1))
    shape, files = slice_shape(config), {}
    if formats != "onnx":
        files[STABLEHLO] = to_stablehlo(make_network(trained), shape)
    if formats != "stablehlo":
        network = make_network(trained.in_float32())
        notes = {
            "run": config.name,
            "step": str(trained.step),
            "conditions": ", ".join(config.data.conditions),
            "warnings": " ".join(warnings(config)),
        }
        files[ONNX] = to_onnx(network, shape, notes)
        check_onnx(files[ONNX], network, shape)
    example = importlib.resources.files("crlm_jax.export") / "templates" / "example.py"
    files[EXAMPLE] = example.read_bytes()
    description = describe(config, run.resolve().name, trained.step, files)
    files[PREPROCESSING] = (json.dumps(description, indent=2, ensure_ascii=False) + "\n").encode()
    with whole_folder(out, _check_out) as folder:
        for name, content in files.items():
            (folder / name).write_bytes(content)
    return description
