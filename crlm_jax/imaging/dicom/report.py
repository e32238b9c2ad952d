"""Writes measurements as a structured report (DICOM SR, TID 1500): of a scan, or of several.

The report is named a measurement, not a diagnosis: it is unverified and preliminary, lesions are
coded as lesions, and a comment says so.
"""

import datetime
import io
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import lazy_loader
import numpy as np
import pydicom
from pydicom.uid import SegmentationStorage

from crlm_jax.imaging.dicom import report_codes as c
from crlm_jax.imaging.dicom.files import read_file
from crlm_jax.imaging.dicom.report_groups import (
    ReportedLesion,
    ReportedScan,
    lesion_groups,
    scan_group,
)
from crlm_jax.imaging.dicom.results import (
    LONG_STRING,
    MANUFACTURER,
    SERIES_NUMBERS,
    Algorithm,
    carrying,
    derive_from,
    derive_uid,
    instance_uid,
    name_lesion,
    put_dates,
    put_patient_and_study,
    put_required,
    series_uid,
    tracking_uid,
)
from crlm_jax.imaging.dicom.series import Series
from crlm_jax.imaging.geometry import Geometry, VolumeError
from crlm_jax.imaging.lesions import DISCLAIMER, Lesion
from crlm_jax.imaging.regions import split
from crlm_jax.system.files import write_whole

if TYPE_CHECKING:
    import highdicom as hd
else:
    hd = lazy_loader.load("highdicom")  # half a second, and most commands need none of it

_UIDS = "SOPClassUID SOPInstanceUID StudyInstanceUID SeriesInstanceUID"


def write_report(
    path: Path,
    labels: np.ndarray,
    lesions: Sequence[Lesion],
    geometry: Geometry,
    series: Series,
    *,
    algorithm: Algorithm,
    segmented: bool,
    comments: Sequence[str] = (),
    when: datetime.datetime | None = None,
) -> None:
    """Writes the lesions that an algorithm found in a scan.

    Of every lesion the report has long and short axis with the image that shows them, volume,
    tracking identifier and algorithm; of the scan the number of lesions and their volume.

    Args:
      path: of the file, which appears whole or not at all.
      labels: (Z, H, W) int on axial slices: 0, or the number of a lesion, 1 … n.
      lesions: the n lesions, from `measure_lesions`.
      geometry: of the scan's own grid.
      series: the images, from `read_series`.
      algorithm: what found the lesions.
      segmented: whether `write_segmentation` writes the same labels, a segment a lesion, of the
        same series and algorithm; the report then refers to its segments.
      comments: what else a reader should know, a sentence each.
      when: the date and time that the file carries; None: now.

    Raises:
      VolumeError: the headers of the series are too poor or invalid for a report.
      ValueError: there are not as many lesions as labels.
    """
    regions = split(labels)
    reported = tuple(
        ReportedLesion(
            lesion, region, name_lesion(number), tracking_uid(series, algorithm, number),
            number if segmented else None,
        )
        for number, (lesion, region) in enumerate(zip(lesions, regions, strict=True), start=1)
    )  # fmt: skip
    scan = ReportedScan(
        series, geometry, reported, derive_from(series, algorithm, "scan"),
        comments=(*comments, DISCLAIMER),
    )  # fmt: skip
    others = [_segmentation(series, algorithm)] if segmented and reported else []
    uids = series_uid(series, algorithm, "SR"), instance_uid(series, algorithm, "SR")
    if not segmented:  # another content: it does not refer to segments
        uids = uids[0], derive_from(series, algorithm, "instance", "SR", "of images")
    _write(path, [scan], algorithm, uids, others, when)


def write_response_report(
    path: Path,
    scans: Sequence[ReportedScan],
    *,
    algorithm: Algorithm,
    masks: Sequence[Path] = (),
    when: datetime.datetime | None = None,
) -> None:
    """Writes the lesions of several scans of a patient, as a report in the last one's study.

    Args:
      path: of the file, which appears whole or not at all.
      scans: in the order of time; the images of all are evidence.
      algorithm: what measured them; the UIDs are derived from it and all images.
      masks: the DICOM files of the masks, which are evidence too.
      when: the date and time that the file carries; None: now.

    Raises:
      VolumeError: the scans are of two patients by their IDs, or the headers of a series are too
        poor or invalid for a report.
    """
    patients = {
        (str(header.get("PatientID") or ""), str(header.get("IssuerOfPatientID") or ""))
        for header in (scan.series.headers[0] for scan in scans)
    }
    if len(patients) > 1:
        raise VolumeError(
            f"{path}: the series {' and '.join(scan.series.uid for scan in scans)} have different "
            "Patient IDs, and a report is of one patient; give scans of one patient, "
            "de-identified alike"
        )
    whole = [derive_from(scan.series, algorithm, "scan") for scan in scans]
    uids = derive_uid("series", "SR", *whole), derive_uid("instance", "SR", *whole)
    others = [read_file(mask, stop_before_pixels=True, tags=_UIDS.split()) for mask in masks]
    _write(path, list(scans), algorithm, uids, others, when)


def _write(
    path: Path,
    scans: list[ReportedScan],
    algorithm: Algorithm,
    uids: tuple[str, str],
    others: Sequence[pydicom.Dataset],
    when: datetime.datetime | None,
) -> None:
    """Writes a report; `uids` are those of its series and itself, `others` evidence but images."""
    remedy = "leave --sr out, and take the list of lesions or --out"
    with carrying(path, [scan.series for scan in scans], "a structured report", remedy):
        content = _encode(scans, algorithm, uids, others, when)
    write_whole(path, content)


def _encode(
    scans: list[ReportedScan],
    algorithm: Algorithm,
    uids: tuple[str, str],
    others: Sequence[pydicom.Dataset],
    when: datetime.datetime | None,
) -> bytes:
    last = scans[-1].series
    header = last.headers[0]
    segmentation = instance_uid(last, algorithm, "SEG")
    groups = []
    for scan in scans:
        name = "Liver" if scan.time_point is None else f"Liver, {scan.time_point[0]}"
        groups.append(scan_group(scan, algorithm, name))
        for own in scan.lesions:
            groups += lesion_groups(scan, own, algorithm, segmentation)
    content = hd.sr.MeasurementReport(
        observation_context=hd.sr.ObservationContext(observer_device_context=_device(algorithm)),
        procedure_reported=c.PROCEDURES.get(last.modality, c.ANY_PROCEDURE),
        imaging_measurements=groups,
    )
    evidence = [
        _evidence(each) for scan in reversed(scans) for each in scan.series.headers
    ] + [_evidence(each) for each in others]  # fmt: skip
    written = hd.sr.ComprehensiveSR(
        evidence=evidence,
        content=content[0],
        series_instance_uid=uids[0],
        series_number=SERIES_NUMBERS["SR"],
        sop_instance_uid=uids[1],
        instance_number=1,
        manufacturer=MANUFACTURER,
        manufacturer_model_name=algorithm.name[:LONG_STRING],
        software_versions=algorithm.version[:LONG_STRING],
        device_serial_number=algorithm.fingerprint[:LONG_STRING] or None,
        series_description=f"{algorithm.name} measurements, no diagnosis"[:LONG_STRING],
        is_complete=True,
        coding_schemes=[_private_codes()] if len(scans) > 1 else None,
    )
    put_patient_and_study(written, header)
    put_dates(written, when, ("Content", "InstanceCreation"))
    stream = io.BytesIO()
    written.save_as(stream)
    return stream.getvalue()


def _device(algorithm: Algorithm) -> "hd.sr.ObserverContext":
    """Returns the observer, who is a device: the same for all results of a run."""
    return hd.sr.ObserverContext(
        observer_type=c.DEVICE,
        observer_identifying_attributes=hd.sr.DeviceObserverIdentifyingAttributes(
            uid=derive_uid("device", algorithm.name, algorithm.version, algorithm.fingerprint),
            name=algorithm.name,
            manufacturer_name=MANUFACTURER,
            model_name=f"{algorithm.name} {algorithm.version}",
            serial_number=algorithm.fingerprint or None,
        ),
    )


def _private_codes() -> "hd.coding_schemes.CodingSchemeIdentificationItem":
    return hd.coding_schemes.CodingSchemeIdentificationItem(
        c.PRIVATE, name=c.PRIVATE_NAME, responsible_organization=MANUFACTURER
    )


def _evidence(header: pydicom.Dataset) -> pydicom.Dataset:
    """Returns what a report refers to an object by, without the patient, whom highdicom logs."""
    found = pydicom.Dataset()
    for keyword in _UIDS.split():
        found[keyword] = header[keyword]
    put_required(found)
    return found


def _segmentation(series: Series, algorithm: Algorithm) -> pydicom.Dataset:
    found = pydicom.Dataset()
    found.SOPClassUID = SegmentationStorage
    found.SOPInstanceUID = instance_uid(series, algorithm, "SEG")
    found.SeriesInstanceUID = series_uid(series, algorithm, "SEG")
    found.StudyInstanceUID = series.headers[0].StudyInstanceUID
    return found
