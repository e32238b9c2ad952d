"""Measurement groups of a structured report (TID 1500): what is said of a lesion, and of a scan.

A lesion has its volume in a group of its segment (TID 1411), where a DICOM-SEG was written. Its
axes are in a group of the images (TID 1501), since a group of a segment may not hold the line of a
measurement (TID 1419). Both groups have the same tracking identifier.
"""

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import lazy_loader
import numpy as np
import pydicom
from pydicom.sr.coding import Code

from crlm_jax.imaging.dicom import report_codes as c
from crlm_jax.imaging.dicom.frames import Frame
from crlm_jax.imaging.dicom.results import Algorithm, plain
from crlm_jax.imaging.dicom.series import Series
from crlm_jax.imaging.geometry import Geometry
from crlm_jax.imaging.lesions import Lesion
from crlm_jax.imaging.regions import Region

if TYPE_CHECKING:
    import highdicom as hd
else:
    hd = lazy_loader.load("highdicom")  # half a second, and most commands need none of it


@dataclasses.dataclass(frozen=True)
class Measure:
    """A number that is said of a scan."""

    name: Code
    value: float
    unit: Code
    derivation: Code | None = None


@dataclasses.dataclass(frozen=True)
class ReportedLesion:
    """A lesion, and what it is called in all reports."""

    lesion: Lesion
    region: Region  # of the axial slices
    name: str  # tracking identifier
    uid: str  # tracking unique identifier
    segment: int | None = None  # in the DICOM-SEG of the report
    evaluations: tuple[tuple[Code, Code], ...] = ()  # names and values


@dataclasses.dataclass(frozen=True)
class ReportedScan:
    """A scan, its lesions, and what is said of it as a whole."""

    series: Series
    geometry: Geometry
    lesions: tuple[ReportedLesion, ...]
    uid: str  # tracking unique identifier of what is said of the scan
    time_point: tuple[str, Code, int] | None = None  # name, kind, and number in the order of time
    measures: tuple[Measure, ...] = ()
    evaluations: tuple[tuple[Code, Code], ...] = ()
    method: Code | None = None
    comments: tuple[str, ...] = ()

    def images_of(self, region: Region) -> list[pydicom.Dataset]:
        """Returns the headers of the slices in which a region lies."""
        places = self.geometry.to_own(np.argwhere(region.inside) + region.start)
        return [self.series.headers[int(index)] for index in np.unique(places[:, 0])]


def lesion_groups(
    scan: ReportedScan, own: ReportedLesion, algorithm: Algorithm, segmentation: str
) -> list[Any]:
    """Returns the groups of a lesion; `segmentation` is the SOP Instance UID of the DICOM-SEG."""
    sr = hd.sr
    about: dict[str, Any] = {
        "tracking_identifier": sr.TrackingIdentifier(own.uid, own.name),
        "finding_type": c.LESION,
        "finding_sites": [sr.FindingSite(c.LIVER)],
        "algorithm_id": _algorithm(algorithm),
        "time_point_context": _time_point(scan),
    }
    images = scan.images_of(own.region)
    volume = _measurement(Measure(c.VOLUME, own.lesion.volume, c.MM3), method=c.BY_VOXELS)
    measurements = _axes(scan, own.lesion)
    groups: list[Any] = []
    if own.segment is None:
        measurements.append(volume)
    else:
        segment = sr.ReferencedSegment(
            sop_class_uid=pydicom.uid.SegmentationStorage,
            sop_instance_uid=segmentation,
            segment_number=own.segment,
            source_images=[_image(sr.SourceImageForSegmentation, header) for header in images],
        )
        groups.append(
            sr.VolumetricROIMeasurementsAndQualitativeEvaluations(
                referenced_segment=segment, measurements=[volume], **about
            )
        )
    groups.append(
        sr.MeasurementsAndQualitativeEvaluations(
            measurements=measurements,
            qualitative_evaluations=_evaluations(own.evaluations),
            source_images=[_image(sr.SourceImageForMeasurementGroup, header) for header in images],
            **about,
        )
    )
    return groups


def scan_group(scan: ReportedScan, algorithm: Algorithm, name: str) -> Any:
    """Returns the group of what is said of a scan as a whole, whose images are all of it."""
    sr = hd.sr
    total = sum(own.lesion.volume for own in scan.lesions)
    measures = (
        Measure(c.LESIONS, len(scan.lesions), c.COUNT),
        Measure(c.VOLUME, total, c.MM3, c.TOTAL),
        *scan.measures,
    )
    group = sr.MeasurementsAndQualitativeEvaluations(
        tracking_identifier=sr.TrackingIdentifier(scan.uid, name),
        finding_sites=[sr.FindingSite(c.LIVER)],
        algorithm_id=_algorithm(algorithm),
        time_point_context=_time_point(scan),
        method=scan.method,
        measurements=[_measurement(each) for each in measures],
        qualitative_evaluations=_evaluations(scan.evaluations),
    )
    group[0].ContentSequence.extend(
        sr.TextContentItem(
            c.COMMENT, plain(text), relationship_type=sr.RelationshipTypeValues.CONTAINS
        )
        for text in scan.comments
    )
    return group


def _axes(scan: ReportedScan, lesion: Lesion) -> list[Any]:
    """Returns both axes, in the image that shows them; the long one with its line.

    No image shows the axes of an axial slice through a coronal or sagittal series.
    """
    sr = hd.sr
    ends = np.array([(lesion.slice, *end) for end in lesion.ends])
    (slice_, *first), (other, *second) = scan.geometry.to_own(ends).tolist()
    long, short = (
        Measure(c.LONG_AXIS, lesion.diameter, c.MM),
        Measure(c.SHORT_AXIS, lesion.short_axis, c.MM),
    )
    if abs(slice_ - other) > 0.01:
        return [_measurement(long), _measurement(short)]
    header = scan.series.headers[round(slice_)]
    # Columns and rows from the corner of the first pixel, whose centre is at a half.
    points = np.array([first, second])[:, ::-1] + 0.5
    line = sr.CoordinatesForMeasurement(
        sr.GraphicTypeValues.POLYLINE, points, _image(sr.SourceImageForRegion, header)
    )
    image = _image(sr.SourceImageForMeasurement, header)
    return [
        _measurement(long, referenced_coordinates=[line]),
        _measurement(short, referenced_images=[image]),
    ]


def _measurement(measure: Measure, **options: Any) -> Any:
    return hd.sr.Measurement(
        measure.name, round(measure.value, 3), measure.unit, derivation=measure.derivation,
        **options,
    )  # fmt: skip


def _evaluations(pairs: Sequence[tuple[Code, Code]]) -> list[Any]:
    return [hd.sr.QualitativeEvaluation(name, value) for name, value in pairs]


def _algorithm(algorithm: Algorithm) -> Any:
    run = algorithm.fingerprint and f"run {algorithm.fingerprint}"
    parameters = [run, algorithm.settings]
    return hd.sr.AlgorithmIdentification(
        plain(algorithm.name), plain(algorithm.version), [plain(p) for p in parameters if p]
    )


def _time_point(scan: ReportedScan) -> Any:
    if scan.time_point is None:
        return None
    name, kind, order = scan.time_point
    return hd.sr.TimePointContext(name, time_point_type=kind, time_point_order=order)


def _image(kind: Any, header: pydicom.Dataset) -> Any:
    """Returns a reference to a slice, and to its frame where the file has several."""
    frames = [header.number] if isinstance(header, Frame) else None
    return kind(header.SOPClassUID, header.SOPInstanceUID, frames)
