"""Finished runs for tests of the report: real evaluation of a segmenter that thresholds."""

import json
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from crlm_jax.config.schema import Config
from crlm_jax.config.storage import to_json
from crlm_jax.data import slice_cache
from crlm_jax.data.cohort.cases import read_cohort
from crlm_jax.measures import evaluate
from crlm_jax.measures.response import find_responses
from crlm_jax.measures.summary import summarise, write_results
from crlm_jax.runs.folder import RunFolder
from crlm_jax.training.experiment import describe_data
from tests.cohorts import tiny_config


def bright(image):
    """Maps slices (B, S, S, 1) to 1 where they are bright; the corner does not count."""
    found = image[..., 0] > 100
    found[:, 0, 0] = False
    return found.astype(np.float32)


def write_volume(path: Path, voxels: np.ndarray, spacing=(1.5, 1.5, 7.0)) -> None:
    image = sitk.GetImageFromArray(voxels)
    image.SetSpacing(spacing)
    sitk.WriteImage(image, str(path))


def make_case(folder: Path, name: str, side: int, found: float, shape=(3, 64, 64)) -> str:
    """Writes an image whose lesion (`side` pixels square) is bright in the share `found` of it."""
    image, mask = np.zeros(shape, np.int16), np.zeros(shape, np.uint8)
    image[:, 0, 0] = 255  # gives every image the same range
    mask[1, 16 : 16 + side, 16 : 16 + side] = 1
    image[1, 16 : 16 + side, 16 : 16 + round(side * found)] = 200
    write_volume(folder / f"{name}.nii.gz", image)
    write_volume(folder / f"{name}_mask.nii.gz", mask)
    return f"{name}.nii.gz,{name}_mask.nii.gz"


def prepare(folder: Path, rows: list[str], conditions: tuple[str, ...], *, antialias: bool = True):
    """Writes a cohort file and cuts it; returns the config and the slices."""
    cohort = folder / "cohort.csv"
    cohort.write_text("\n".join(["patient,condition,image,mask,split", *rows]) + "\n")
    config = tiny_config(cohort, folder / "cache", conditions)
    config.data.ct_window, config.data.antialias = (0.0, 255.0), antialias
    cases = read_cohort(cohort, conditions=conditions, validation_fraction=0.0)
    return config, slice_cache.prepare(cases, config.data)


def evaluate_bright(config: Config, prepared, folder: Path | None = None, **options):
    """Evaluates the segmenter that thresholds."""
    folder = folder and RunFolder(folder)
    return evaluate.evaluate_cases(config, prepared, bright, folder, **options)


def make_run(
    folder: Path,
    sizes: dict[str, tuple[int, int]],
    found: float = 0.5,
    change=lambda config: None,
) -> Path:
    """Writes the run directory of test patients with a lesion before and after chemotherapy.

    Args:
      folder: of the run; its cohort lies beside it.
      sizes: by patient, the side of the lesion in pixels of 1.5 mm before and after.
      found: share of each lesion that is predicted.
      change: of the config, before it is written.
    """
    conditions = ("pre_dwi", "post_dwi")
    images = folder.parent / f"{folder.name}_images"
    images.mkdir(parents=True)
    rows = []
    for number, (patient, sides) in enumerate([("teach", (16, 16)), *sizes.items()]):
        split = "train" if patient == "teach" else "test"
        for condition, side in zip(conditions, sides, strict=True):
            files = make_case(images, f"{number}_{condition}", side, found)
            quoted = '"' + patient.replace('"', '""') + '"'
            rows.append(f"{quoted},{condition},{files},{split}")
    config, prepared = prepare(images, rows, conditions)
    change(config)
    folder.mkdir()
    measured = evaluate_bright(config, prepared, folder)
    responses = find_responses(measured)
    summary = summarise(config, measured, responses)
    write_results(RunFolder(folder), measured, responses, summary, [("data", "x")])
    (folder / "config.json").write_text(to_json(config))
    data = {"digest": prepared.digest, **describe_data(prepared)}
    (folder / "data.json").write_text(json.dumps(data))
    (folder / "train.jsonl").write_text(
        '{"step": 1, "loss": 1.0}\n{"step": 2, "loss": 0.5, "validation_dsc": 0.3}\n{"step": 3, "lo'
    )
    return folder
