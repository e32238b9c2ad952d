"""Scans through a segmenter: read, predicted and written side by side."""

import dataclasses
from collections.abc import Callable
from concurrent import futures
from typing import Any

import numpy as np
from tqdm import tqdm

from crlm_jax import __version__
from crlm_jax.config.notices import marks
from crlm_jax.errors import UserError
from crlm_jax.imaging import overlay, volumes
from crlm_jax.imaging.conditions import is_ct
from crlm_jax.imaging.dicom import segmentation
from crlm_jax.imaging.geometry import VolumeError
from crlm_jax.imaging.grey import modality_doubt
from crlm_jax.imaging.resize import resize
from crlm_jax.predict.outputs import LESION_COLUMNS, Job
from crlm_jax.predict.scans import Scan
from crlm_jax.predict.segmenter import Segmenter
from crlm_jax.system.files import write_whole


@dataclasses.dataclass(frozen=True)
class _Ready:
    """A scan that was read: only what the later stages need of it is kept in memory."""

    volume: volumes.Volume  # without its voxels
    condition: str
    slices: np.ndarray  # (Z, S, S, 1) uint8
    grey: np.ndarray | None  # (Z, H, W) uint8, for the overlay


# What can be wrong with one scan and not with the next.
_SCAN_ERRORS = (UserError, ValueError, OSError, MemoryError, RuntimeError)


def predict_scans(
    segmenter: Segmenter, jobs: list[Job], *, warn: Callable[[str], None]
) -> tuple[list[dict], list[tuple[Scan, str]]]:
    """Predicts scans one after another; the next is read and the last written meanwhile.

    Args:
      segmenter: from `load`.
      jobs: of which three are in memory at a time.
      warn: told what is doubtful of a scan.

    Returns:
      The lesions of all scans, a dict of `LESION_COLUMNS` each, and the scans that failed with the
      reason.
    """
    found: list[dict] = []
    failed: list[tuple[Scan, str]] = []

    def settle(job: Job, future: futures.Future) -> Any:
        """Waits for a thread's result; None where the scan failed, which is noted."""
        try:
            return future.result()
        except _SCAN_ERRORS as error:
            failed.append((job.scan, str(error) or type(error).__name__))
            return None

    with (
        futures.ThreadPoolExecutor(1) as reading,
        futures.ThreadPoolExecutor(1) as writing,
        tqdm(total=0, desc="predict", unit="slice", disable=None) as bar,
    ):
        written = None  # the last scan that was predicted, and its writing
        ahead = reading.submit(_read, segmenter, jobs[0])
        for i, job in enumerate(jobs):
            current = ahead
            if i + 1 < len(jobs):
                futures.wait([current])  # no third scan in memory before the second is read
                ahead = reading.submit(_read, segmenter, jobs[i + 1])
            read = settle(job, current)
            if read is None:
                continue
            ready, doubts = read
            for doubt in doubts:
                warn(f"{job.scan.path}: {doubt}")
            bar.total += len(ready.slices)
            bar.set_postfix_str(f"{i + 1}/{len(jobs)} scans")
            probability = segmenter.probability(ready.slices, bar.update)
            if written:
                found.extend(settle(*written) or ())
            written = job, writing.submit(_write, segmenter, job, ready, probability)
        if written:
            found.extend(settle(*written) or ())
    return found, failed


def _read(segmenter: Segmenter, job: Job) -> tuple[_Ready, list[str]]:
    """Reads and windows a scan; returns it with what is doubtful of it."""
    scan = job.scan
    volume = volumes.read_image(scan.path, series=scan.series, b_value=scan.b_value)
    if job.mask.suffix == ".dcm" and volume.series is None:
        raise VolumeError(
            f"{scan.path}: a DICOM-SEG can be written of a DICOM series only; choose another "
            f"ending than {job.mask.name}'s, such as .nii.gz"
        )
    if job.mask.suffix == ".png" and len(volume.voxels) > 1:
        raise VolumeError(f"{scan.path}: a PNG holds one slice; choose the ending .nii.gz")
    condition = segmenter.windowed_as(scan.condition)
    own = segmenter.config.data.conditions
    doubts = []
    if is_ct(condition) not in {is_ct(name) for name in own}:
        doubts.append(f"is {condition}, but the run was trained on {', '.join(own)}")
    if reason := modality_doubt(volume, condition):
        doubts.append(f"looks like another modality than {condition}: {reason}")
    grey = segmenter.grey(volume, condition)
    without = dataclasses.replace(volume, voxels=np.empty((0, 0, 0), np.float32))
    return _Ready(without, condition, segmenter.slices(grey), grey if job.overlay else None), doubts


def _write(segmenter: Segmenter, job: Job, ready: _Ready, probability: np.ndarray) -> list[dict]:
    """Writes what is wanted of a scan, the mask last; returns its lesions."""
    volume, scan = ready.volume, job.scan
    prediction = segmenter.finish(probability, volume.geometry)
    if job.probability:
        own_size = resize(probability, volume.geometry.axial_size[1:])
        volumes.write_image(volumes.to_original_grid(own_size, volume.geometry), job.probability)
    if job.overlay:
        for z in _shown(prediction.mask):
            title = f"{scan.name} · {ready.condition} · slice {z + 1} of {len(ready.grey)}"
            picture = overlay.draw_slice(
                ready.grey[z], prediction.mask[z], volume.spacing[1:],
                " · ".join([*marks(segmenter.config), title]),
            )  # fmt: skip
            write_whole(job.overlay / f"{scan.name}_z{z:03d}.png", overlay.to_png(picture))
    if job.mask.suffix == ".dcm":
        voxels = prediction.mask if job.one_segment else prediction.labels
        segmentation.write_segmentation(
            job.mask, volume.geometry.from_axial(voxels), volume.series,
            algorithm=f"crlm_jax {segmenter.config.method}", version=__version__,
            fingerprint=segmenter.fingerprint,
        )  # fmt: skip
    else:
        high = np.uint8(255 if job.mask.suffix == ".png" else 1)  # 1 would look black
        volumes.write_image(
            volumes.to_original_grid(prediction.mask * high, volume.geometry), job.mask
        )
    return [
        dict(zip(LESION_COLUMNS, (
            scan.name, scan.patient, ready.condition, number, f"{lesion.volume:.1f}",
            f"{lesion.diameter:.1f}", lesion.slice, *(f"{x:.1f}" for x in lesion.centre),
        ), strict=True))
        for number, lesion in enumerate(prediction.lesions, start=1)
    ]  # fmt: skip


def _shown(mask: np.ndarray) -> list[int]:
    """The slices with a lesion; without any, the middle one, to show that nothing was found."""
    return np.flatnonzero(mask.any(axis=(1, 2))).tolist() or [len(mask) // 2]
