"""One scan's maps: attributions of its lesions, stages of the critic, and their numbers."""

import dataclasses
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from scipy import ndimage
from tqdm import tqdm

from crlm_jax.config.schema import ConfigError
from crlm_jax.imaging import volumes
from crlm_jax.imaging.channels import MOTION
from crlm_jax.imaging.dicom.listing import HOW_TO_CHOOSE
from crlm_jax.imaging.geometry import VolumeError
from crlm_jax.imaging.grey import image_doubts
from crlm_jax.imaging.mask_files import split_masks
from crlm_jax.imaging.masks import read_mask
from crlm_jax.imaging.resize import resize, resize_mask
from crlm_jax.method import networks
from crlm_jax.method.attribution import (
    TOLERANCE,
    LesionScore,
    attribute_region,
    completeness_error,
    logits,
    occlusion,
    stage_differences,
)
from crlm_jax.method.segment import TrainedSegmenter, load_best
from crlm_jax.predict.liver import outside_by_run
from crlm_jax.predict.scans import (
    Scan,
    list_scans,
    other_modality,
    unknown_conditions,
    with_condition,
)
from crlm_jax.predict.segmenter import Prediction, ScanSegmenter, for_scans
from crlm_jax.predict.together import find_named
from crlm_jax.runs.folder import RunFolder, read_run
from crlm_jax.system import parallel
from crlm_jax.system.console import print_stderr
from crlm_jax.system.files import locate

NEAR = 10.0  # mm, in the slice

Maps = dict[int, np.ndarray]  # by slice


@dataclasses.dataclass(frozen=True)
class ExplainedScan:
    """A scan with its prediction: what the maps are made from."""

    segmenter: ScanSegmenter
    network: TrainedSegmenter  # in float32
    scan: str  # its name
    condition: str
    volume: volumes.Volume
    grey: np.ndarray  # (Z, H, W) uint8
    slices: np.ndarray  # (Z, S, S, C) uint8
    prediction: Prediction
    reference: np.ndarray | None  # (Z, H, W) bool

    @property
    def side(self) -> int:
        """S: the side of the slices that the network sees, in pixels."""
        return self.slices.shape[1]

    @property
    def patch(self) -> tuple[int, int]:
        """Side and stride of the hidden patch in pixels: a 14th of the slice, and half of it."""
        side = max(4, self.side // 14)
        return side, side // 2

    def write_map(self, path: Path, maps: Maps) -> None:
        """Writes maps (S, S) on the scan's own grid, with 0 in the other slices."""
        size = self.volume.geometry.axial_size
        whole = np.zeros(size, np.float32)
        for z, values in maps.items():
            whole[z] = resize(values[None], size[1:])[0]
        volumes.write_image(volumes.to_original_grid(whole, self.volume.geometry), path)


@dataclasses.dataclass(frozen=True)
class SliceScores:
    """How a lesion's score in one slice was shared out; in logits."""

    slice: int
    score: float
    baseline_score: float
    sum: float  # of the attributions
    completeness_error: float | None  # None: infinite
    steps: int


@dataclasses.dataclass(frozen=True)
class LesionScores:
    """The same for all slices of a lesion together."""

    score: float
    baseline_score: float
    sum: float
    completeness_error: float | None  # None: infinite
    worst_slice_error: float | None  # None: infinite
    complete: bool  # the error of every slice is within the tolerance
    steps: int  # of the slice with the most
    share_inside: float  # of the absolute attributions
    share_within_10_mm: float
    share_by_image: list[float] | None  # of the absolute attributions; None: a slice is one image
    by_slice: list[SliceScores]


@dataclasses.dataclass(frozen=True)
class ExplainedLesion:
    """The maps and numbers of one lesion."""

    number: int  # from 1, as `predict` numbers them
    slice: int  # the axial slice in which it is longest, from 0 at the feet
    volume_mm3: float
    scores: LesionScores | None  # of integrated gradients; None: only occlusion was asked for
    maps: dict[str, Maps]  # (S, S) float32, logits, by method

    def to_json(self) -> dict[str, Any]:
        """Returns the lesion's entry in `explain.json`."""
        entry = {"lesion": self.number, "slice": self.slice, "volume_mm3": self.volume_mm3}
        return entry | (dataclasses.asdict(self.scores) if self.scores else {})


def read_scan(
    run: Path,
    images: Sequence[Path],
    *,
    condition: str | None = None,
    series: str | None = None,
    b_value: float | None = None,
    mask: Path | None = None,
    mask_label: int | str | None = None,
    resample_masks: bool = False,
) -> ExplainedScan:
    """Loads a run and a scan, and predicts the scan.

    Args:
      run: folder of the run, or its address (`gs://`).
      images: a scan, as for `predict.find_scans`; or one of each of the run's channels.
      condition: of the scan; None: that of the run.
      series: UID or pattern of the series to take out of a DICOM folder.
      b_value: s/mm², the images to take out of a DICOM diffusion series.
      mask: the reference, one file or several joined by `|`; None: there is none.
      mask_label: what is tumour in it, as for `masks.read_mask`.
      resample_masks: take a mask on another grid than the scan's.

    Raises:
      VolumeError: the image is not one scan, or cannot be used.
      ConfigError: the folder holds no run, or the condition must be given.
    """
    warn = lambda text: print_stderr(f"warning: {text}")  # noqa: E731
    run = locate(run)
    (scan,) = with_condition([_find_one(images, series, b_value, warn)], condition)
    trained = load_best(read_run(run), RunFolder(run).checkpoints, parallel.make_mesh(1))
    segmenter, network = for_scans(trained, run.resolve().name), trained.in_float32()
    condition = segmenter.windowed_as(scan.condition)
    asked = dataclasses.replace(scan, condition=condition)
    for text in unknown_conditions([asked], segmenter.config.data.conditions):
        warn(text)
    volume = scan.read()
    outside, of_liver = outside_by_run(scan, segmenter, volume, resample=resample_masks)
    trained_on = segmenter.config.data.conditions
    for text in [*image_doubts(volume, condition), *other_modality(condition, trained_on),
                 *of_liver]:  # fmt: skip
        warn(f"{scan.path}: {text}")
    of_mask: list[str] = []
    reference = None
    if mask:
        paths = split_masks(str(mask))
        reference = read_mask(paths, mask_label, volume, of_mask, resample=resample_masks)
    for text in of_mask:
        warn(f"{mask}: {text}")
    segmenter.check_images(1 + len(scan.others))
    others = [other.read() for other in scan.others]
    seen = segmenter.look([volume, *others], condition)
    for text in [*([MOTION] if others else []), *seen.doubts]:
        warn(f"{scan.path}: {text}")
    probability = segmenter.probability(seen.slices)
    prediction = segmenter.finish(probability, volume.geometry, outside)
    return ExplainedScan(
        segmenter, network, scan.name, condition, volume, seen.grey, seen.slices, prediction,
        reference,
    )  # fmt: skip


def _find_one(
    images: Sequence[Path],
    series: str | None,
    b_value: float | None,
    warn: Callable[[str], object],
) -> Scan:
    """Returns the scan that is meant.

    Raises:
      VolumeError: there are several.
    """
    scans = find_named(images, series=series, b_value=b_value, warn=warn)
    if len(scans) != 1:
        choose = f", or {HOW_TO_CHOOSE}" if scans[0].series else ""
        listed = "\n".join(list_scans(scans))
        raise VolumeError(f"{images[0]}: {len(scans)} scans; name one of them{choose}:\n{listed}")
    return scans[0]


def _region(mask: np.ndarray, size: int) -> np.ndarray:
    """Resamples a lesion (H, W) to the network's grid, where it keeps at least one pixel."""
    masks, _ = resize_mask(mask[None], size)
    return masks[0]


def explain_lesion(
    explained: ExplainedScan, number: int, method: str, steps: int
) -> ExplainedLesion:
    """Makes the maps of a lesion.

    Integrated gradients cover all its slices, occlusion the one in which it is longest.

    Args:
      explained: the scan.
      number: of the lesion, from 1.
      method: "integrated_gradients", "occlusion" or "both".
      steps: of integrated gradients at first.
    """
    lesion = explained.prediction.lesions[number - 1]
    inside = explained.prediction.labels == number
    maps: dict[str, Maps] = {}
    scores = None
    if method != "occlusion":
        maps["integrated_gradients"], scores = _integrate(explained, inside, steps, number)
    if method != "integrated_gradients":
        z = lesion.slice
        score = LesionScore.of(explained.network, _region(inside[z], explained.side))
        maps["occlusion"] = {z: occlusion(score, explained.slices[z], *explained.patch)}
    return ExplainedLesion(number, lesion.slice, lesion.volume, scores, maps)


def _integrate(
    explained: ExplainedScan, inside: np.ndarray, steps: int, number: int
) -> tuple[Maps, LesionScores]:
    """Returns the integrated gradients of a lesion (Z, H, W) bool in all its slices."""
    side = explained.side
    pixel = np.multiply(inside.shape[1:], explained.volume.spacing[1:]) / side  # mm
    maps: Maps = {}
    rows, weights = [], np.zeros(3)  # |attribution|: in the lesion, near it, all
    images = np.zeros(explained.slices.shape[-1])  # |attribution| of each
    chosen = np.flatnonzero(inside.any(axis=(1, 2))).tolist()
    for z in tqdm(chosen, f"lesion {number}", unit="slice", disable=None):
        region, image = _region(inside[z], side), explained.slices[z]
        found = attribute_region(explained.network, image, region, steps)
        maps[z] = found.map
        error = _finite(found.error)
        rows.append(
            SliceScores(z, found.score, found.baseline_score, found.total, error, found.steps)
        )
        near = ndimage.distance_transform_edt(~region, sampling=pixel) <= NEAR
        weight = np.abs(found.map)
        weights += weight[region].sum(), weight[near].sum(), weight.sum()
        if found.by_image is not None:
            images += np.abs(found.by_image).sum(axis=(0, 1))
    inside_share, near_share = (weights[:2] / (weights[2] or 1)).tolist()
    by_image = (images / (images.sum() or 1)).tolist() if len(images) > 1 else None
    return maps, _sum_up(rows, inside_share, near_share, by_image)


def _sum_up(
    rows: list[SliceScores], inside: float, near: float, by_image: list[float] | None
) -> LesionScores:
    """Returns the numbers of a lesion from those of its slices and its shares of attribution."""
    score = sum(row.score for row in rows)
    baseline = sum(row.baseline_score for row in rows)
    total = sum(row.sum for row in rows)
    worst = max(
        math.inf if row.completeness_error is None else row.completeness_error for row in rows
    )
    return LesionScores(
        score=score,
        baseline_score=baseline,
        sum=total,
        completeness_error=_finite(completeness_error(total, score - baseline)),
        worst_slice_error=_finite(worst),
        complete=worst <= TOLERANCE,
        steps=max(row.steps for row in rows),
        share_inside=inside,
        share_within_10_mm=near,
        share_by_image=by_image,
        by_slice=rows,
    )


def _finite(error: float) -> float | None:
    """None for infinity, which JSON does not have."""
    return error if math.isfinite(error) else None


def explain_stages(explained: ExplainedScan, reference: np.ndarray) -> dict[int, Maps]:
    """Returns `stage_differences` by stage, of every slice with a lesion, predicted or not.

    Args:
      explained: the scan.
      reference: (Z, H, W) bool.

    Raises:
      WeightsError: the critic's weights are not available.
      ConfigError: the training changed the critic.
    """
    config = explained.segmenter.config
    if config.critic.update == "adversarial":
        raise ConfigError(
            "the training of this run changed its critic; only a frozen critic can be loaded again"
        )
    critic = networks.create_critic(config)
    assert critic is not None  # the loss has stages
    masks, _ = resize_mask(reference, explained.side, antialias=config.data.antialias)
    maps: dict[int, Maps] = {stage: {} for stage in config.loss.stages}
    lesions = explained.prediction.mask | reference
    for z in np.flatnonzero(lesions.any(axis=(1, 2))).tolist():
        image = explained.slices[z]
        predicted = logits(explained.network, image)
        if config.loss.mask_with == "probability":
            predicted = jax.nn.sigmoid(predicted)
        found = stage_differences(
            critic,
            image,
            np.asarray(predicted),
            masks[z],
            config.loss.stages,
            config.loss.mask_applied,
        )
        for stage, values in found.items():
            maps[stage][z] = values
    return maps
