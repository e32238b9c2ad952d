"""The sums and the response as a structured report (DICOM SR) with all scans as evidence.

A lesion that is paired keeps the tracking identifier that it has at baseline. Which rule led to the
response is coded: that of target lesions, that of others, or a new lesion.
"""

import dataclasses
import datetime
import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path

from pydicom.sr.coding import Code

from crlm_jax import __version__
from crlm_jax.imaging.dicom import report_codes as c
from crlm_jax.imaging.dicom.files import is_dicom
from crlm_jax.imaging.dicom.report import write_response_report
from crlm_jax.imaging.dicom.report_groups import Measure, ReportedLesion, ReportedScan
from crlm_jax.imaging.dicom.results import Algorithm, derive_uid
from crlm_jax.imaging.dicom.series import Series
from crlm_jax.imaging.geometry import VolumeError
from crlm_jax.imaging.lesions import DISCLAIMER, Lesion
from crlm_jax.imaging.regions import Region
from crlm_jax.imaging.volumes import Volume
from crlm_jax.recist.rules import NOT_EVALUABLE, Response, TimePoint, has_progressed

NAME = "crlm_jax RECIST 1.1"


@dataclasses.dataclass(frozen=True)
class MeasuredScan:
    """The measured lesions of one time point, and the image that they were drawn on."""

    point: TimePoint
    regions: tuple[Region, ...]  # of the lesions, on axial slices
    image: Volume
    masks: tuple[Path, ...]


def write_dicom_report(
    path: Path,
    baseline: MeasuredScan,
    follow_ups: Sequence[tuple[MeasuredScan, Response]],
    when: datetime.datetime | None = None,
) -> None:
    """Writes the report, which belongs to the study of the last follow-up.

    Args:
      path: of the file, which appears whole or not at all.
      baseline: before chemotherapy.
      follow_ups: in the order of time, each with its response.
      when: the date and time that the file carries; None: now.

    Raises:
      VolumeError: an image is not DICOM, the images are of two patients by their IDs, or their
        headers are too poor.
    """
    scans = [baseline, *(scan for scan, _ in follow_ups)]
    prints = [_print(scan) for scan in scans]
    settings = [f"lesions SHA-256 {hashlib.sha256(''.join(prints).encode()).hexdigest()}"]
    settings += [f"paired {response.paired}" for _, response in follow_ups]
    algorithm = Algorithm(NAME, __version__, "", "; ".join(settings))
    reported = [_baseline(baseline, follow_ups[0][1], prints[0])]
    for number, (scan, response) in enumerate(follow_ups, start=1):
        reported.append(_follow_up(scan, response, prints, number))
    masks = [mask for scan in scans for mask in scan.masks if is_dicom(mask)]
    write_response_report(path, reported, algorithm=algorithm, masks=masks, when=when)


def _print(scan: MeasuredScan) -> str:
    """Returns what tells a scan and its lesions from others."""
    digest = hashlib.sha256(_series(scan).uid.encode())
    for region in scan.regions:
        digest.update(repr(region.box).encode() + region.inside.tobytes())
    return digest.hexdigest()


def _series(scan: MeasuredScan) -> Series:
    if scan.image.series is None:
        raise VolumeError(
            f"{scan.image.path}: not DICOM, and a structured report refers to DICOM images; leave "
            "out --sr, or give the series that the mask was drawn on"
        )
    return scan.image.series


def _baseline(scan: MeasuredScan, response: Response, own: str) -> ReportedScan:
    lesions = [
        ReportedLesion(
            lesion, region, f"Lesion_{index + 1}", derive_uid("lesion", own, str(index)),
            evaluations=((c.CATEGORY, c.TARGET if index in response.targets else c.NON_TARGET),),
        )
        for index, (lesion, region) in _numbered(scan)
    ]  # fmt: skip
    point = scan.point
    size = point.slice_spacing if point.slice_thickness is None else point.slice_thickness
    measurable = (
        f"Measurable from {point.measurable_from:.1f} mm, by the {point.measurable_by} of "
        f"{size:g} mm."
    )
    return ReportedScan(
        _series(scan), scan.image.geometry, tuple(lesions), derive_uid("scan", own),
        time_point=("Baseline", c.BASELINE, 1),
        measures=(Measure(c.SUM, response.baseline_sum, c.MM),),
        method=c.RECIST,
        comments=(measurable, DISCLAIMER),
    )  # fmt: skip


def _follow_up(
    scan: MeasuredScan, response: Response, prints: Sequence[str], number: int
) -> ReportedScan:
    partners = {after: before for before, after in response.pairs}
    lesions = []
    for index, (lesion, region) in _numbered(scan):
        before = partners.get(index)
        if before is None:
            name = f"Followup_{number}_lesion_{index + 1}"
            uid = derive_uid("lesion", prints[number], str(index))
        else:
            name, uid = f"Lesion_{before + 1}", derive_uid("lesion", prints[0], str(before))
        role = c.NEW if index in response.new else c.OTHER
        role = c.IN_SUM if index in response.counted else role
        lesions.append(ReportedLesion(lesion, region, name, uid, evaluations=((c.ROLE, role),)))
    return ReportedScan(
        _series(scan), scan.image.geometry, tuple(lesions),
        derive_uid("scan", *prints[: number + 1]),
        time_point=(f"Follow-up {number}", c.FOLLOW_UP, number + 1),
        measures=_measures(response),
        evaluations=((c.RESPONSE, response_code(response)),),
        method=c.RECIST,
        comments=(f"Lesions are paired: {response.paired}.", *response.notes, DISCLAIMER),
    )  # fmt: skip


def _numbered(scan: MeasuredScan) -> Iterator[tuple[int, tuple[Lesion, Region]]]:
    yield from enumerate(zip(scan.point.lesions, scan.regions, strict=True))


def _measures(response: Response) -> tuple[Measure, ...]:
    """Returns sums and changes; a change of nothing has no percentage."""
    r = response
    found = [
        Measure(c.SUM, r.follow_up_sum, c.MM),
        Measure(c.SMALLEST_SUM, r.smallest_sum, c.MM),
        Measure(c.CHANGE, r.change_mm, c.MM),
        Measure(c.CHANGE_FROM_SMALLEST, r.change_from_smallest_mm, c.MM),
    ]
    for name, percent in (
        (c.CHANGE, r.change_percent),
        (c.CHANGE_FROM_SMALLEST, r.change_from_smallest_percent),
        (c.VOLUME_CHANGE, r.volume_change_percent),
    ):
        if percent is not None:
            found.append(Measure(name, percent, c.PERCENT))
    return tuple(found)


def response_code(response: Response) -> Code:
    """Returns the code of a response: that of the rule that led to it."""
    category = response.category
    if category == NOT_EVALUABLE:
        return c.NOT_EVALUABLE
    if not response.targets:
        return c.OF_NON_TARGETS.get(category, c.NEW_LESION_PD)
    if category == "PD" and not has_progressed(response.smallest_sum, response.follow_up_sum):
        return c.NEW_LESION_PD
    return c.OF_TARGETS[category]
