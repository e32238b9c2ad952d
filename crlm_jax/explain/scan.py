"""The maps of one scan's lesions, their numbers and their picture, for `explain.py`."""

import argparse
import dataclasses
import math
from pathlib import Path
from typing import Any

import jax
import numpy as np
from scipy import ndimage
from tqdm import tqdm

from crlm_jax.config.notices import warnings
from crlm_jax.config.schema import ConfigError, Data
from crlm_jax.imaging import volumes
from crlm_jax.imaging.geometry import VolumeError
from crlm_jax.imaging.grey import modality_doubt
from crlm_jax.imaging.resize import resize
from crlm_jax.method import networks
from crlm_jax.method.attribution import (
    MOST_DOUBLINGS,
    TOLERANCE,
    Attribution,
    LesionScore,
    blurred,
    integrated_gradients,
    logits,
    occlusion,
    stage_differences,
)
from crlm_jax.method.segment import TrainedSegmenter, load_best
from crlm_jax.predict.scans import find_scans
from crlm_jax.predict.segmenter import Prediction, Segmenter, load
from crlm_jax.runs.folder import RunFolder
from crlm_jax.system import parallel
from crlm_jax.system.console import print_stderr
from crlm_jax.system.files import locate

NEAR = 10.0  # mm, in the slice

Maps = dict[int, np.ndarray]  # by slice


@dataclasses.dataclass(frozen=True)
class ExplainedScan:
    """What the maps of one scan are made of."""

    segmenter: Segmenter
    network: TrainedSegmenter  # in float32
    scan: str  # its name
    condition: str
    volume: volumes.Volume
    grey: np.ndarray  # (Z, H, W) uint8
    slices: np.ndarray  # (Z, S, S) uint8
    prediction: Prediction
    reference: np.ndarray | None  # (Z, H, W) bool

    @property
    def patch(self) -> tuple[int, int]:
        """Side and stride of the hidden patch in pixels: a 14th of the slice, and half of it."""
        side = max(4, self.slices.shape[1] // 14)
        return side, side // 2

    def write_map(self, path: Path, maps: Maps) -> None:
        """Writes maps on the scan's own grid, 0 in the other slices."""
        size = self.volume.geometry.axial_size
        whole = np.zeros(size, np.float32)
        for z, values in maps.items():
            whole[z] = resize(values[None], size[1:])[0]
        volumes.write_image(volumes.to_original_grid(whole, self.volume.geometry), path)


def read_task(args: argparse.Namespace) -> ExplainedScan:
    """Loads the run and the scan, and predicts."""
    scans = find_scans(args.image, series=args.series, b_value=args.b_value)
    if len(scans) != 1:
        raise VolumeError(f"{args.image}: {len(scans)} scans; name one of them, or its --series")
    segmenter, scan = load(args.run), scans[0]
    # Not the run's own cache: a run may come from elsewhere, and cached programs are executed.
    parallel.use_compile_cache(Data.cache)
    checkpoints = RunFolder(locate(args.run)).checkpoints
    network = load_best(segmenter.config, checkpoints, parallel.make_mesh(1)).in_float32()
    condition = segmenter.windowed_as(args.condition or scan.condition)
    volume = volumes.read_image(scan.path, series=scan.series, b_value=scan.b_value)
    if doubt := modality_doubt(volume, condition):
        print_stderr(f"warning: {scan.path}: looks like another modality than {condition}: {doubt}")
    reference = volumes.read_mask(args.mask, args.mask_label, volume) if args.mask else None
    grey = segmenter.grey(volume, condition)
    slices = segmenter.slices(grey)
    prediction = segmenter.finish(segmenter.probability(slices), volume.geometry)
    return ExplainedScan(
        segmenter, network, scan.name, condition, volume, grey, slices[..., 0], prediction,
        reference,
    )  # fmt: skip


def _region(mask: np.ndarray, size: int) -> np.ndarray:
    """A lesion (H, W) on the network's grid, where it keeps a pixel however small it is."""
    small = resize(mask[None], size, nearest=True)[0]
    if not small.any():
        row, column = np.nonzero(mask)
        small[row * size // mask.shape[0], column * size // mask.shape[1]] = True
    return small


def explain_lesion(
    task: ExplainedScan, number: int, method: str, steps: int
) -> tuple[dict[str, Any], dict[str, Maps]]:
    """Returns the numbers of a lesion for `explain.json`, and its maps by method.

    Integrated gradients cover all its slices, occlusion the one in which it is longest.
    """
    lesion = task.prediction.lesions[number - 1]
    inside, side = task.prediction.labels == number, task.slices.shape[1]
    pixel = np.multiply(inside.shape[1:], task.volume.spacing[1:]) / side  # mm
    maps: dict[str, Maps] = {}
    rows, shares = [], np.zeros(3)  # shares of |attribution|: inside, near, all
    chosen = np.flatnonzero(inside.any(axis=(1, 2))).tolist()
    for z in tqdm(chosen, f"lesion {number}", unit="slice", disable=None):
        region = _region(inside[z], side)
        score = LesionScore.of(task.network, region)
        if method != "occlusion":
            found = integrated_gradients(score, task.slices[z], blurred(task.slices[z]), steps)
            maps.setdefault("integrated_gradients", {})[z] = found.map
            rows.append({"slice": z, **_row(found), "steps": found.steps})
            near = ndimage.distance_transform_edt(~region, sampling=pixel) <= NEAR
            weight = np.abs(found.map)
            shares += weight[region].sum(), weight[near].sum(), weight.sum()
        if method != "integrated_gradients" and z == lesion.slice:
            maps["occlusion"] = {z: occlusion(score, task.slices[z], *task.patch)}
    numbers = {"lesion": number, "slice": lesion.slice, "volume_mm3": lesion.volume}
    if rows:
        sums = (sum(row[name] for row in rows) for name in ("score", "baseline_score", "sum"))
        numbers |= _row(Attribution(np.empty(0), *sums, max(row["steps"] for row in rows)))
        errors = [math.inf if (e := row["completeness_error"]) is None else e for row in rows]
        numbers["worst_slice_error"] = max(errors) if math.isfinite(max(errors)) else None
        numbers["complete"] = max(errors) <= TOLERANCE
        numbers["steps"] = max(row["steps"] for row in rows)
        numbers["share_inside"], numbers["share_within_10_mm"] = shares[:2] / (shares[2] or 1)
        numbers["by_slice"] = rows
    return numbers, maps


def _row(found: Attribution) -> dict[str, float | None]:
    return {
        "score": found.score,
        "baseline_score": found.baseline_score,
        "sum": found.total,
        "completeness_error": found.error if math.isfinite(found.error) else None,
    }


def explain_stages(task: ExplainedScan) -> dict[int, Maps]:
    """Returns `stage_differences` by stage, of every slice with a lesion, predicted or not.

    Raises:
      WeightsError, ConfigError: the critic cannot be had as the training had it.
    """
    config, side = task.segmenter.config, task.slices.shape[1]
    if config.critic.update == "adversarial":
        raise ConfigError("this run trained its critic, and only a frozen one can be read again")
    critic = networks.create_critic(config)
    masks = resize(task.reference, side, nearest=True)
    maps: dict[int, Maps] = {stage: {} for stage in config.loss.stages}
    for z in np.flatnonzero((task.prediction.mask | task.reference).any(axis=(1, 2))).tolist():
        predicted = logits(task.network, task.slices[z])
        if config.loss.mask_with == "probability":
            predicted = jax.nn.sigmoid(predicted)
        found = stage_differences(critic, task.slices[z], predicted, masks[z], config.loss.stages)
        for stage, values in found.items():
            maps[stage][z] = values
    return maps


def describe(task: ExplainedScan, steps: int) -> dict[str, Any]:
    """Returns what `explain.json` says of the run, the scan and the methods."""
    segmenter, (patch, stride) = task.segmenter, task.patch
    return {
        "scan": task.scan,
        "condition": task.condition,
        "run": segmenter.name,
        "method": segmenter.config.method,
        "step": segmenter.step,
        "threshold": segmenter.threshold,
        "warnings": warnings(segmenter.config),
        "image_size": segmenter.config.data.image_size,
        "score": "sum of the logits over the lesion's pixels at image_size",
        "integrated_gradients": f"logits a pixel at image_size, interpolated to the scan's grid; "
        f"all slices of the lesion; baseline: the slice under a Gaussian of image_size / 8 pixels; "
        f"trapezoidal rule of {steps} to {steps * 2**MOST_DOUBLINGS} steps, until the error of "
        f"the sum is at most {TOLERANCE}",
        "occlusion": "logits lost, mean over the patches of a pixel; the slice in which the lesion "
        f"is longest; patches of {patch} pixels every {stride}, filled with the slice's mean",
        "stages": None,
        "stages_note": None,
        "lesions": [],
    }
