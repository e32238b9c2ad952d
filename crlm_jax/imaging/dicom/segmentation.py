"""Reads DICOM segmentations (DICOM-SEG) as masks, and writes masks as segmentations.

Codes are SNOMED CT, as DICOM PS3.16 lists them: the category is of CID 7150, the type of CID 7159
(lesions; 14799000 "Neoplasm, Secondary", which SNOMED calls "Neoplasm, metastatic").
"""

import datetime
import io
from pathlib import Path
from typing import TYPE_CHECKING

import lazy_loader
import numpy as np
import pydicom
from pydicom.sr.codedict import codes

from crlm_jax.imaging.dicom.results import (
    LONG_STRING,
    MANUFACTURER,
    SERIES_NUMBERS,
    Algorithm,
    carrying,
    derive_from,
    frame_of_reference,
    instance_uid,
    name_lesion,
    put_dates,
    put_patient_and_study,
    put_required,
    series_uid,
    tracking_uid,
)
from crlm_jax.imaging.dicom.segments import object_class, read_segments
from crlm_jax.imaging.dicom.series import Series
from crlm_jax.imaging.dicom.sources import as_source_images, put_frame_numbers
from crlm_jax.imaging.geometry import Geometry
from crlm_jax.imaging.regions import fill
from crlm_jax.system.files import write_whole

if TYPE_CHECKING:
    import highdicom as hd
else:
    hd = lazy_loader.load("highdicom")  # half a second, and most commands need none of it

# The elements of a source image that a segmentation refers to (PS3.3 A.51).
_PLACE = """
    SOPClassUID SOPInstanceUID StudyInstanceUID SeriesInstanceUID Modality FrameOfReferenceUID
    PositionReferenceIndicator Rows Columns PixelSpacing ImageOrientationPatient
    ImagePositionPatient LossyImageCompression LossyImageCompressionRatio
    LossyImageCompressionMethod
"""


def is_segmentation(path: Path) -> bool:
    """Whether this is a DICOM file with a segmentation (of bits, fractions or labels)."""
    return object_class(path) in hd.seg.SOP_CLASS_UIDS


def read_segmentation(
    path: Path, like: Geometry, series: Series | None, label: int | str | None = None
) -> np.ndarray:
    """Reads segments as one mask on the grid of the image, bool (slices, rows, columns).

    Arguments and errors are those of `segments.read_segments`.
    """
    regions, _ = read_segments(path, like, series, label)
    return fill(regions, like.size[::-1])


def write_segmentation(
    path: Path,
    mask: np.ndarray,
    series: Series,
    *,
    algorithm: Algorithm,
    when: datetime.datetime | None = None,
) -> None:
    """Writes a mask as a BINARY segmentation of a series: liver metastases found by an algorithm.

    Patient and study are copied from the series. An empty mask gives one segment whose frames are
    all empty, since a segmentation without segments or frames is not valid DICOM.

    Args:
      path: of the file, which appears whole or not at all.
      mask: (slices, rows, columns) in the order of the series; bool for one segment, or integers
        for one segment per lesion: 0 is background, 1 … n are lesions. Labels are Tumor_1 …
        Tumor_n.
      series: the images that the mask was drawn on, from `read_series`.
      algorithm: what found them.
      when: the date and time that the file carries; None: now.

    Raises:
      VolumeError: the headers of the series are too poor or invalid for a segmentation.
      ValueError: the shape of the mask is not that of the series, or its numbers are not 0 … n.
    """
    lesions = max(1, count_lesions(mask, series))
    with carrying(path, [series], "a DICOM segmentation", "write the mask as NIfTI (.nii.gz)"):
        content = _encode(mask, series, lesions, algorithm, when)
    write_whole(path, content)


def count_lesions(mask: np.ndarray, series: Series) -> int:
    """Returns how many lesions a mask of a series has; all of a bool mask are one.

    Raises:
      ValueError: the shape of the mask is not that of the series, or its numbers are not 0 … n.
    """
    header = series.headers[0]
    shape = (len(series.headers), header.Rows, header.Columns)
    if mask.shape != shape:
        raise ValueError(f"shape {mask.shape} is not the series' {shape}")
    numbers = np.unique(mask)
    found = numbers[numbers != 0].tolist()
    if mask.dtype.kind not in "bui" or found != list(range(1, len(found) + 1)):
        raise ValueError(f"a mask is bool or has lesion numbers 0 … n, not {mask.dtype} {numbers}")
    return len(found)


def _encode(
    mask: np.ndarray,
    series: Series,
    lesions: int,
    algorithm: Algorithm,
    when: datetime.datetime | None,
) -> bytes:
    """Returns the content of the file; patient and study are copied last, unchanged."""
    header = series.headers[0]
    identification = _identify_algorithm(algorithm)
    thickness = header.get("SliceThickness") or _distance(series)
    written = hd.seg.Segmentation(
        source_images=as_source_images(
            series, [_source(header, thickness) for header in series.headers]
        ),
        pixel_array=mask.astype(np.uint8 if lesions < 256 else np.uint16),
        segmentation_type="BINARY",
        segment_descriptions=[
            _segment(number, identification, tracking_uid(series, algorithm, number))
            for number in range(1, lesions + 1)
        ],
        series_instance_uid=series_uid(series, algorithm, "SEG"),
        series_number=SERIES_NUMBERS["SEG"],
        sop_instance_uid=instance_uid(series, algorithm, "SEG"),
        instance_number=1,
        manufacturer=MANUFACTURER,
        manufacturer_model_name=identification.name,
        software_versions=identification.version,
        device_serial_number=algorithm.fingerprint[:LONG_STRING],
        series_description=f"{algorithm.name} segmentation"[:LONG_STRING],
        content_label="TUMOR",
        # For a mask without a marked voxel highdicom would warn and write every frame anyway.
        omit_empty_frames=bool(mask.any()),
    )
    put_frame_numbers(written, series.headers)
    dimensions = derive_from(series, algorithm, "dimensions")  # highdicom makes up a new one
    for item in (*written.DimensionOrganizationSequence, *written.DimensionIndexSequence):
        item.DimensionOrganizationUID = dimensions
    put_patient_and_study(written, header)
    put_dates(written, when, ("Content", "InstanceCreation"))
    stream = io.BytesIO()
    written.save_as(stream)
    return stream.getvalue()


def _identify_algorithm(algorithm: Algorithm) -> "hd.AlgorithmIdentificationSequence":
    parameters = {"run": algorithm.fingerprint}
    if algorithm.settings:
        parameters["settings"] = algorithm.settings
    return hd.AlgorithmIdentificationSequence(
        name=algorithm.name[:LONG_STRING],
        family=codes.DCM.ArtificialIntelligence,
        version=algorithm.version[:LONG_STRING],
        parameters=parameters,
    )


def _segment(
    number: int, algorithm: "hd.AlgorithmIdentificationSequence", tracking: str
) -> "hd.seg.SegmentDescription":
    label = name_lesion(number)
    return hd.seg.SegmentDescription(
        segment_number=number,
        segment_label=label,
        segmented_property_category=codes.SCT.MorphologicallyAbnormalStructure,
        segmented_property_type=codes.SCT.NeoplasmSecondary,
        anatomic_regions=[codes.SCT.Liver],
        algorithm_type="AUTOMATIC",
        algorithm_identification=algorithm,
        tracking_id=label,
        tracking_uid=tracking,
    )


def _distance(series: Series) -> float:
    """Returns the distance of the first two slices in mm; 1 for a single slice."""
    positions = [np.asarray(header.ImagePositionPatient, float) for header in series.headers[:2]]
    return round(float(np.linalg.norm(positions[-1] - positions[0])), 6) or 1.0


def _source(header: pydicom.Dataset, thickness: float) -> pydicom.Dataset:
    """Returns a source image's header without the patient, since highdicom logs invalid names."""
    source = pydicom.Dataset()
    for keyword in _PLACE.split():
        if keyword in header:
            source[keyword] = header[keyword]
    source.FrameOfReferenceUID = frame_of_reference(header)
    source.SliceThickness = thickness  # some exports leave it out
    put_required(source)
    return source
