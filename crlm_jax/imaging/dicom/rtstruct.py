"""Writes a mask as the contours of radiotherapy (RTSTRUCT), which `contours` reads.

Contours are of the type CLOSED_PLANAR, with holes as keyholes (see `imaging.outlines`). The newer
type CLOSEDPLANAR_XOR would say holes plainly, but plastimatch and other programs leave contours out
whose type they do not know.
"""

import datetime
import io
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.sr.codedict import codes
from pydicom.sr.coding import Code
from pydicom.uid import ImplicitVRLittleEndian, RTStructureSetStorage

from crlm_jax.imaging.dicom.frames import Frame
from crlm_jax.imaging.dicom.results import (
    LONG_STRING,
    MANUFACTURER,
    SERIES_NUMBERS,
    Algorithm,
    carrying,
    frame_of_reference,
    instance_uid,
    name_lesion,
    put_dates,
    put_patient_and_study,
    series_uid,
)
from crlm_jax.imaging.dicom.segmentation import count_lesions
from crlm_jax.imaging.dicom.series import Series
from crlm_jax.imaging.outlines import trace_outlines
from crlm_jax.imaging.regions import Region, split
from crlm_jax.system.files import write_whole

_STUDY_CLASS = "1.2.840.10008.3.1.2.3.1"  # that the standard asks for, though it is retired
_COLOURS = ((255, 80, 80), (255, 190, 60), (90, 200, 255), (160, 230, 90), (220, 130, 255))
_SHORT_STRING = 16  # characters of DICOM's type SH


def write_rtstruct(
    path: Path,
    mask: np.ndarray,
    series: Series,
    *,
    algorithm: Algorithm,
    when: datetime.datetime | None = None,
) -> None:
    """Writes a mask as contours on the slices of a series: liver metastases found by an algorithm.

    Patient and study are copied from the series. Whoever fills the contours by the centres of
    pixels gets the mask back. An empty mask gives one ROI without a contour.

    Args:
      path: of the file, which appears whole or not at all.
      mask: (slices, rows, columns) in the order of the series; bool for one ROI, or integers for
        one ROI per lesion: 0 is background, 1 … n are lesions. Names are Tumor_1 … Tumor_n.
      series: the images that the mask was drawn on, from `read_series`.
      algorithm: what found them.
      when: the date and time that the file carries; None: now.

    Raises:
      VolumeError: the headers of the series are too poor or invalid.
      ValueError: the shape of the mask is not that of the series, or its numbers are not 0 … n.
    """
    count = count_lesions(mask, series)
    with carrying(path, [series], "contours", "write the mask as NIfTI (.nii.gz)"):
        content = _encode(mask, series, count, algorithm, when)
    write_whole(path, content)


def _encode(
    mask: np.ndarray,
    series: Series,
    count: int,
    algorithm: Algorithm,
    when: datetime.datetime | None,
) -> bytes:
    header = series.headers[0]
    written = Dataset()
    put_patient_and_study(written, header)
    put_dates(written, when, ("StructureSet", "InstanceCreation"))
    written.SOPClassUID = RTStructureSetStorage
    written.SOPInstanceUID = instance_uid(series, algorithm, "RTSTRUCT")
    written.StudyInstanceUID = header.StudyInstanceUID
    written.SeriesInstanceUID = series_uid(series, algorithm, "RTSTRUCT")
    written.Modality, written.SeriesNumber = "RTSTRUCT", SERIES_NUMBERS["RTSTRUCT"]
    written.InstanceNumber = 1
    written.SeriesDescription = f"{algorithm.name} contours"[:LONG_STRING]
    written.OperatorsName = None
    written.Manufacturer = MANUFACTURER
    written.ManufacturerModelName = algorithm.name[:LONG_STRING]
    written.SoftwareVersions = algorithm.version[:LONG_STRING]
    written.DeviceSerialNumber = algorithm.fingerprint[:LONG_STRING]
    written.StructureSetLabel = "TUMOR"
    written.StructureSetName = f"{algorithm.name}, unreviewed"[:LONG_STRING]
    written.StructureSetDescription = f"run {algorithm.fingerprint}; {algorithm.settings}"[:1024]
    written.ApprovalStatus = "UNAPPROVED"
    written.FrameOfReferenceUID = frame_of_reference(header)
    written.PositionReferenceIndicator = header.get("PositionReferenceIndicator") or None
    written.ReferencedFrameOfReferenceSequence = [_references(series)]
    regions = list(split(mask.astype(np.int32)))
    numbers = range(1, max(1, count) + 1)
    written.StructureSetROISequence = [_roi(number, series, algorithm) for number in numbers]
    written.ROIContourSequence = [
        _contours(number, regions[number - 1] if regions else None, series) for number in numbers
    ]
    written.RTROIObservationsSequence = [_observation(number) for number in numbers]
    return _to_bytes(written)


def _to_bytes(written: Dataset) -> bytes:
    """Returns the file; with implicit types, since a long contour does not fit an explicit one."""
    meta = FileMetaDataset()
    meta.TransferSyntaxUID = ImplicitVRLittleEndian
    meta.MediaStorageSOPClassUID = written.SOPClassUID
    meta.MediaStorageSOPInstanceUID = written.SOPInstanceUID
    written.file_meta = meta
    stream = io.BytesIO()
    written.save_as(stream, enforce_file_format=True)
    return stream.getvalue()


def _references(series: Series) -> Dataset:
    """Returns the frame of reference, and each image once."""
    header = series.headers[0]
    frame, study, of_series = Dataset(), Dataset(), Dataset()
    images = {str(each.SOPInstanceUID): _image(each) for each in series.headers}
    of_series.SeriesInstanceUID = series.uid
    of_series.ContourImageSequence = list(images.values())
    study.ReferencedSOPClassUID = _STUDY_CLASS
    study.ReferencedSOPInstanceUID = header.StudyInstanceUID
    study.RTReferencedSeriesSequence = [of_series]
    frame.FrameOfReferenceUID = frame_of_reference(header)
    frame.RTReferencedStudySequence = [study]
    return frame


def _image(header: Dataset) -> Dataset:
    item = Dataset()
    item.ReferencedSOPClassUID = header.SOPClassUID
    item.ReferencedSOPInstanceUID = header.SOPInstanceUID
    return item


def _roi(number: int, series: Series, algorithm: Algorithm) -> Dataset:
    roi = Dataset()
    roi.ROINumber = number
    roi.ReferencedFrameOfReferenceUID = frame_of_reference(series.headers[0])
    roi.ROIName = name_lesion(number)
    roi.ROIGenerationAlgorithm = "AUTOMATIC"
    roi.ROIGenerationDescription = f"{algorithm.name} {algorithm.version}"[:LONG_STRING]
    return roi


def _observation(number: int) -> Dataset:
    item = Dataset()
    item.ObservationNumber = item.ReferencedROINumber = number
    item.ROIObservationLabel = name_lesion(number)[:_SHORT_STRING]
    # Not GTV: what is to be treated, a physician decides.
    item.RTROIInterpretedType = item.ROIInterpreter = None
    item.RTROIIdentificationCodeSequence = [_coded(codes.SCT.NeoplasmSecondary)]
    return item


def _coded(code: Code) -> Dataset:
    item = Dataset()
    item.CodeValue, item.CodingSchemeDesignator = code.value, code.scheme_designator
    item.CodeMeaning = code.meaning
    return item


def _contours(number: int, region: Region | None, series: Series) -> Dataset:
    drawn = Dataset()
    drawn.ROIDisplayColor = list(_COLOURS[(number - 1) % len(_COLOURS)])
    drawn.ReferencedROINumber = number
    if region is not None:
        drawn.ContourSequence = list(_trace(region, series))
    return drawn


def _trace(region: Region, series: Series) -> Iterator[Dataset]:
    """Yields the contours of a lesion, slice by slice."""
    first, row, column = region.start
    count = 0
    for index, inside in enumerate(region.inside, start=int(first)):
        header = series.headers[index]
        for outline in trace_outlines(inside):
            count += 1
            contour, image = Dataset(), _image(header)
            if isinstance(header, Frame):
                image.ReferencedFrameNumber = header.number
            contour.ContourImageSequence = [image]
            contour.ContourGeometricType = "CLOSED_PLANAR"
            contour.NumberOfContourPoints = len(outline)
            contour.ContourNumber = count
            contour.ContourData = _to_mm(outline + np.array([column, row]), header)
            yield contour


def _to_mm(outline: np.ndarray, header: Dataset) -> list[str]:
    """Returns corners (N, 2), (column, row) in a slice, as decimal texts of x, y, z in mm, LPS."""
    across, down = np.reshape(np.asarray(header.ImageOrientationPatient, float), (2, 3))
    height, width = np.asarray(header.PixelSpacing, float)
    position = np.asarray(header.ImagePositionPatient, float)
    points = position + outline[:, :1] * width * across + outline[:, 1:] * height * down
    # A tenth of a micrometre; a decimal text has 16 characters at most.
    return [f"{value:.4f}" for value in points.ravel()]
