"""Many scans through a segmenter: one is read and another written while the network computes."""

import dataclasses
import functools
import hashlib
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent import futures
from typing import TypeVar

import numpy as np
from tqdm import tqdm

from crlm_jax import imaging
from crlm_jax.data.cohort.reference import read_liver
from crlm_jax.errors import UserError
from crlm_jax.imaging import volumes
from crlm_jax.imaging.conditions import is_ct
from crlm_jax.imaging.decision import outside_of
from crlm_jax.imaging.dicom import report, rtstruct, segmentation
from crlm_jax.imaging.dicom.results import Algorithm
from crlm_jax.imaging.dicom.sources import check_sources
from crlm_jax.imaging.geometry import VolumeError
from crlm_jax.imaging.grey import image_doubts
from crlm_jax.imaging.resize import at_own_size
from crlm_jax.predict.beside import looks_like_a_mask
from crlm_jax.predict.ensemble import average, spread
from crlm_jax.predict.liver import LiverOf
from crlm_jax.predict.outputs import Job, LesionRow, picture_names
from crlm_jax.predict.scans import Scan, other_modality
from crlm_jax.predict.segmenter import Prediction, ScanSegmenter
from crlm_jax.system.files import write_whole

Warn = Callable[[str], None]
_Result = TypeVar("_Result")

# Errors of a single scan; the other scans go on. The libraries that read and write images raise
# ValueError and RuntimeError for damaged files.
_SCAN_ERRORS = (UserError, ValueError, OSError, MemoryError, RuntimeError)


@dataclasses.dataclass(frozen=True)
class _Ready:
    """A scan that was read; in memory is only what the later stages need of it."""

    volume: volumes.Volume  # without its voxels
    condition: str
    slices: np.ndarray  # (Z, S, S, C) uint8
    grey: np.ndarray | None  # (Z, H, W) uint8; None: no overlay is wanted
    doubts: list[str]  # reasons why the scan may not be what the run was trained on
    beside: list[str]  # what else decides the mask: another window, other images, the liver
    outside: np.ndarray | None  # (Z, H, W) bool, where no lesion can be; None: nowhere
    liver: np.ndarray | None = None  # (Z, S, S, C) uint8, for the run that segments the liver


class _Results:
    """The lesions of the scans that are done, and the scans that failed."""

    def __init__(self) -> None:
        self.found: list[LesionRow] = []
        self.failed: list[tuple[Scan, str]] = []
        self.done = 0  # scans

    def fail(self, job: Job, error: BaseException) -> None:
        self.failed.append((job.scan, " ".join(str(error).split()) or type(error).__name__))

    def of(self, job: Job, future: "futures.Future[_Result]") -> _Result | None:
        """Waits for a thread's result; None if the scan failed, which is noted."""
        try:
            return future.result()
        except _SCAN_ERRORS as error:
            self.fail(job, error)
            return None

    def collect(self, job: Job, future: "futures.Future[list[LesionRow]]") -> None:
        """Waits until the files of a scan are written."""
        rows = self.of(job, future)
        if rows is not None:
            self.found += rows
            self.done += 1


def predict_scans(
    segmenter: ScanSegmenter,
    jobs: Sequence[Job],
    *,
    warn: Warn,
    liver: LiverOf | None = None,
    resample_masks: bool = False,
    broken_off: Callable[[list[LesionRow], int], object] = lambda found, done: None,
) -> tuple[list[LesionRow], list[tuple[Scan, str]]]:
    """Predicts scans in order; the next one is read and the last one written meanwhile.

    Args:
      segmenter: from `load`.
      jobs: the scans and their files; at most three scans are in memory at a time.
      warn: called with every doubt about a scan.
      liver: segments the liver of each scan first, to which its prediction is restricted; None: the
        masks that the scans have restrict it.
      resample_masks: take liver masks on other grids, as the run's `data.resample_masks` does.
      broken_off: called with the lesions, and the number, of the scans that are done, if an error
        that is of no scan ends the prediction, or the user does.

    Returns:
      The lesions of all scans, and the scans that failed, each with the reason.
    """
    resample = resample_masks or segmenter.config.data.resample_masks
    read = functools.partial(_read, segmenter, liver=liver, resample=resample)
    results = _Results()
    try:
        _predict_all(segmenter, jobs, results, read, warn=warn, liver=liver)
    except BaseException:
        broken_off(results.found, results.done)
        raise
    return results.found, results.failed


def _predict_all(
    segmenter: ScanSegmenter,
    jobs: Sequence[Job],
    results: _Results,
    read: Callable[[Job], _Ready],
    *,
    warn: Warn,
    liver: LiverOf | None,
) -> None:
    written = None  # the last scan that was predicted, and the future of its writing
    with (
        futures.ThreadPoolExecutor(1) as reading,
        futures.ThreadPoolExecutor(1) as writing,
        tqdm(total=0, desc="predict", unit="slice", disable=None) as bar,
    ):
        try:
            for i, (job, current) in enumerate(_ahead(reading, read, jobs)):
                ready = results.of(job, current)
                if ready is None:
                    continue
                try:
                    ready = _restrict(segmenter, ready, liver)
                    for doubt in ready.doubts:
                        warn(f"{job.scan.path}: {doubt}")
                    bar.total = (bar.total or 0) + len(ready.slices) * segmenter.networks
                    bar.set_postfix_str(f"{i + 1}/{len(jobs)} scans")
                    computed = _compute(segmenter, job, ready, bar.update)
                except (MemoryError, RuntimeError) as error:
                    if not _lacks_memory(error):
                        raise
                    results.fail(job, VolumeError(f"{_NO_MEMORY} ({error})"))
                    continue
                if written:
                    results.collect(*written)
                written = job, writing.submit(_write, segmenter, job, ready, *computed)
        finally:
            if written:
                results.collect(*written)


_NO_MEMORY = "the memory is not enough for this scan; end other programs, or crop it to the liver"


def _lacks_memory(error: Exception) -> bool:
    """Whether an error of a network is of the scan's size; other errors are of all scans."""
    return isinstance(error, MemoryError) or "RESOURCE_EXHAUSTED" in str(error)  # XLA's word


def _ahead(
    thread: futures.Executor, read: Callable[[Job], _Ready], jobs: Sequence[Job]
) -> "Iterator[tuple[Job, futures.Future[_Ready]]]":
    """Gives the scans in order, each read while the caller is busy with the one before."""
    ahead = thread.submit(read, jobs[0])
    for i, job in enumerate(jobs):
        current = ahead
        if i + 1 < len(jobs):
            futures.wait([current])  # the second scan is in memory before a third is read
            ahead = thread.submit(read, jobs[i + 1])
        yield job, current


def _restrict(segmenter: ScanSegmenter, ready: _Ready, liver: LiverOf | None) -> _Ready:
    """Segments the liver of a scan, if a run is to do so."""
    if liver is None or ready.liver is None:
        return ready
    outside = liver.find(ready.liver, ready.volume)
    if outside is None:
        doubt = f"{liver.run} finds no liver, so that the prediction is not restricted"
        return dataclasses.replace(ready, doubts=[*ready.doubts, doubt], liver=None)
    beside = [*ready.beside, *liver.decides(segmenter)]
    return dataclasses.replace(ready, beside=beside, outside=outside, liver=None)


def _compute(
    segmenter: ScanSegmenter, job: Job, ready: _Ready, progress: Callable[[int], object]
) -> tuple[np.ndarray, list[np.ndarray]]:
    """Returns the probability (Z, S, S), and that of every member where its spread is wanted."""
    if not job.uncertainty:
        return segmenter.probability(ready.slices, progress), []
    each = segmenter.each(ready.slices, progress)
    return average(each), each


def _read(segmenter: ScanSegmenter, job: Job, *, liver: LiverOf | None, resample: bool) -> _Ready:
    """Reads and windows a scan.

    Raises:
      VolumeError: the scan or its liver's mask cannot be used, or it has no mask of the wanted
        format.
    """
    scan = job.scan
    volume = scan.read()
    in_dicom = job.format == ".dcm"
    if in_dicom and volume.series is None:
        raise VolumeError(
            f"{scan.path}: {'an RTSTRUCT' if job.contours else 'a DICOM-SEG'} can be written of a "
            f"DICOM series only; choose another ending than {job.mask.name}'s, such as .nii.gz"
        )
    if job.report and volume.series is None:
        raise VolumeError(
            f"{scan.path}: a structured report can be written of a DICOM series only; leave out "
            "--sr, and take the list of lesions"
        )
    if volume.series is not None and (in_dicom or job.report):
        check_sources(volume.series)
    if job.format == ".png" and len(volume.voxels) > 1:
        raise VolumeError(f"{scan.path}: a PNG holds one slice; choose the ending .nii.gz")
    condition = segmenter.windowed_as(scan.condition)
    own = segmenter.config.data.conditions
    doubts = [*image_doubts(volume, condition), *other_modality(condition, own)]
    if looks_like_a_mask(volume.voxels):
        doubts.append("has two different values only, as a mask has; if it is one, leave it out")
    others = [other.read() for other in scan.others]
    seen = segmenter.look([volume, *others], condition)
    doubts += seen.doubts
    beside = [f"with image {_print(other.voxels)}" for other in others]
    if is_ct(condition) != is_ct(own[0]):  # the condition decides the window
        beside.append(f"windowed as {'CT' if is_ct(condition) else 'MRI'}")
    inside = None
    if scan.liver:
        said: list[str] = []
        inside = read_liver(scan.liver, volume, resample=resample, doubts=said)
        doubts += [f"liver mask: {text}" for text in said]
        beside.append(f"in liver {_print(inside)}")
    of_liver = None
    if liver is not None:
        doubts += liver.doubt(condition)
        of_liver = liver.slices(volume, condition)
    without = dataclasses.replace(volume, voxels=np.empty((0, 0, 0), np.float32))
    return _Ready(
        without, condition, seen.slices, seen.grey if job.overlay else None, doubts, beside,
        outside_of(volume.padding, inside), of_liver,
    )  # fmt: skip


def _print(voxels: np.ndarray) -> str:
    return hashlib.sha256(voxels.tobytes()).hexdigest()[:16]


def _write(
    segmenter: ScanSegmenter,
    job: Job,
    ready: _Ready,
    probability: np.ndarray,
    each: Sequence[np.ndarray],
) -> list[LesionRow]:
    """Writes the files of a scan, the mask last; returns its lesions.

    `probability` is (Z, S, S), and `each` that of every member, where its spread is wanted.
    """
    geometry, outside = ready.volume.geometry, ready.outside
    prediction = segmenter.finish(probability, geometry, outside)
    if job.probability:
        own = at_own_size(probability, geometry.axial_size[1:], outside)
        volumes.write_image(volumes.to_original_grid(own, geometry), job.probability)
    if job.uncertainty:
        own = spread(each, geometry.axial_size[1:], outside)
        volumes.write_image(volumes.to_original_grid(own, geometry), job.uncertainty)
    _draw_overlays(segmenter, job, ready, prediction)
    algorithm = segmenter.made_by(one_segment=job.one_segment, beside=ready.beside)
    _write_report(algorithm, segmenter.marks, job, ready.volume, prediction)
    _write_mask(algorithm, job, ready.volume, prediction)
    return [
        LesionRow(
            job.scan.name, job.scan.patient, ready.condition, number, lesion.volume,
            lesion.diameter, lesion.slice, *lesion.centre,
        )
        for number, lesion in enumerate(prediction.lesions, start=1)
    ]  # fmt: skip


def _write_mask(
    algorithm: Algorithm, job: Job, volume: volumes.Volume, prediction: Prediction
) -> None:
    """Writes the mask; its ending decides the format."""
    if job.format == ".dcm" and volume.series is not None:
        voxels = prediction.mask if job.one_segment else prediction.labels
        write = rtstruct.write_rtstruct if job.contours else segmentation.write_segmentation
        write(
            job.mask, volume.geometry.from_axial(voxels), volume.series, algorithm=algorithm,
            when=job.when,
        )  # fmt: skip
        return
    high = np.uint8(255 if job.format == ".png" else 1)  # 1 would look black in a picture
    volumes.write_image(volumes.to_original_grid(prediction.mask * high, volume.geometry), job.mask)


def _write_report(
    algorithm: Algorithm,
    marks: Sequence[str],
    job: Job,
    volume: volumes.Volume,
    prediction: Prediction,
) -> None:
    """Writes the structured report, which refers to the segments of a DICOM-SEG that is written."""
    if job.report is None or volume.series is None:
        return
    report.write_report(
        job.report, prediction.labels, prediction.lesions, volume.geometry, volume.series,
        algorithm=algorithm, comments=marks, when=job.when,
        segmented=job.format == ".dcm" and not (job.contours or job.one_segment),
    )  # fmt: skip


def _draw_overlays(
    segmenter: ScanSegmenter, job: Job, ready: _Ready, prediction: Prediction
) -> None:
    """Draws every slice with a lesion, or the middle one to show that there is none."""
    if job.overlay is None or ready.grey is None:
        return
    shown = np.flatnonzero(prediction.mask.any(axis=(1, 2))).tolist() or [len(ready.grey) // 2]
    drawn = set[str]()
    for z in shown:
        title = f"{job.scan.name} · {ready.condition} · slice {z + 1} of {len(ready.grey)}"
        picture = imaging.overlay.draw_slice(
            ready.grey[z], prediction.mask[z], ready.volume.spacing[1:],
            " · ".join([*segmenter.marks, title]),
        )  # fmt: skip
        path = job.overlay / f"{job.scan.name}_z{z:03d}.png"
        write_whole(path, imaging.overlay.to_png(picture))
        drawn.add(path.name)
    for old in set(filter(picture_names(job.scan).fullmatch, os.listdir(job.overlay))) - drawn:
        (job.overlay / old).unlink(missing_ok=True)  # of an earlier prediction of the scan
