"""DICOM segmentations (DICOM-SEG) to masks and back; the only file that imports highdicom.

Frames are placed by their own position and orientation, voxel by voxel: a segmentation may be
cropped, hold only the slices with tumour, or run the other way. highdicom's `get_volume` wants the
frames to make up an even stack, which those of scattered lesions do not.

Codes are SNOMED CT, as DICOM PS3.16 lists them: category of CID 7150, type of CID 7159 (lesions;
14799000 "Neoplasm, Secondary", which SNOMED calls "Neoplasm, metastatic").
"""

import fnmatch
import io
from collections.abc import Iterator, Sequence
from pathlib import Path

import highdicom as hd
import numpy as np
import pydicom
from pydicom.sr.codedict import codes
from pydicom.uid import generate_uid

from crlm_jax.imaging.dicom.files import is_dicom, read_file
from crlm_jax.imaging.dicom.series import OFF_GRID, Series
from crlm_jax.imaging.geometry import Geometry, VolumeError, plain
from crlm_jax.imaging.headers import check_deflated
from crlm_jax.system.files import write_whole

FRACTION = 0.5  # a voxel of a FRACTIONAL segment counts from here: occupancy or probability

_SEGMENTATIONS = (  # SOP classes: Segmentation Storage, Label Map Segmentation Storage
    "1.2.840.10008.5.1.4.1.1.66.4",
    "1.2.840.10008.5.1.4.1.1.66.7",
)
# What a segmentation must know of a source image (PS3.3 A.51), and what it takes over from it.
_PLACE = """
    SOPClassUID SOPInstanceUID StudyInstanceUID SeriesInstanceUID Modality FrameOfReferenceUID
    PositionReferenceIndicator Rows Columns PixelSpacing ImageOrientationPatient
    ImagePositionPatient LossyImageCompression LossyImageCompressionRatio
    LossyImageCompressionMethod
"""
_PATIENT_AND_STUDY = """
    SpecificCharacterSet PatientName PatientID IssuerOfPatientID PatientBirthDate PatientSex
    PatientAge PatientSize PatientWeight PatientIdentityRemoved DeidentificationMethod StudyID
    StudyDate StudyTime StudyDescription AccessionNumber ReferringPhysicianName
"""
_MUST_BE_THERE = """
    PatientName PatientID PatientBirthDate PatientSex StudyID StudyDate StudyTime AccessionNumber
"""
_FRAME_GROUPS = """
    PlanePositionSequence PlaneOrientationSequence PixelMeasuresSequence
    SegmentIdentificationSequence
"""
_LONG = 64  # characters of DICOM's LO
_SERIES_NUMBER = 1000  # beyond the numbers that scanners give, so that it is last in a list


def is_segmentation(path: Path) -> bool:
    """Is this a DICOM file that holds a segmentation (of bits, fractions or labels)?"""
    path = Path(path)
    if not path.is_file() or not is_dicom(path):
        return False
    try:
        header = read_file(path, stop_before_pixels=True, specific_tags=["SOPClassUID"])
    except VolumeError:  # a damaged file; whoever reads it will say so
        return False
    kind = header.get("SOPClassUID") or header.file_meta.get("MediaStorageSOPClassUID")
    return kind in _SEGMENTATIONS


def segment_labels(path: Path) -> list[str]:
    """The labels of a segmentation's segments, in the order of the file.

    Raises:
      VolumeError: it cannot be read.
    """
    return list(_labels(_open(Path(path))).values())


def read_segmentation(
    path: Path, like: Geometry, series: Series | None, labels: str = "Tumor*"
) -> np.ndarray:
    """Reads segments as one mask on the grid of the image.

    Args:
      path: of the segmentation (BINARY, FRACTIONAL or LABELMAP).
      like: the grid of the image, in mm.
      series: the image's series; None: its references are not compared.
      labels: which segments count: patterns as of file names (``*``, ``?``), separated by commas,
        in upper or lower case.

    Returns:
      bool (slices, rows, columns): voxels that lie in any of the segments; of a FRACTIONAL one, to
      at least `FRACTION`.

    Raises:
      VolumeError: it is no segmentation of this series, has no such segment, or frames of it do not
        lie on the grid.
    """
    path = Path(path)
    segmentation = _open(path)
    if series is not None:
        _check_reference(path, segmentation, series)
    names = _labels(segmentation)
    patterns = [pattern.strip().lower() for pattern in labels.split(",") if pattern.strip()]
    chosen = [
        number
        for number, name in names.items()
        if any(fnmatch.fnmatchcase(name.strip().lower(), pattern) for pattern in patterns)
    ]
    if not chosen:
        raise VolumeError(
            f"{path}: no segment is labelled {labels!r}; its labels are "
            f"{', '.join(map(repr, names.values()))}: name the ones that are tumour"
        )
    mask = np.zeros(like.size[::-1], bool)
    try:
        for frame, marked in _frames(segmentation, chosen):
            _place(path, frame, marked, like, mask)
    except VolumeError:
        raise
    except Exception as error:  # pixels or headers that are not as the standard has them
        raise VolumeError(_UNREADABLE.format(path)) from error
    return mask


def write_segmentation(
    path: Path, mask: np.ndarray, series: Series, *, algorithm: str, version: str, fingerprint: str
) -> None:
    """Writes a mask as a BINARY segmentation of a series: liver metastases, found by an algorithm.

    Patient and study are those of the series. An empty mask gives one segment whose frames are all
    empty, since a segmentation without segments or frames is not valid DICOM.

    Args:
      path: of the file; it is there whole or not at all.
      mask: (slices, rows, columns) in the series' own order; bool for one segment, or integers: 0
        and the lesion numbers 1 … n, for one segment a lesion. Labels are Tumor_1 … Tumor_n.
      series: the images that the mask was drawn on, as `read_series` gives it.
      algorithm: its name.
      version: its version.
      fingerprint: of the run that it comes from.

    Raises:
      VolumeError: the headers of the series do not allow one.
      ValueError: the mask has another shape than the series, or numbers that are not 0 … n.
    """
    header = series.headers[0]
    shape = (len(series.headers), header.Rows, header.Columns)
    numbers = np.unique(mask)
    lesions = max(1, int(numbers.max()))
    if mask.shape != shape:
        raise ValueError(f"shape {mask.shape} is not the series' {shape}")
    found = numbers[numbers != 0].tolist()
    if mask.dtype.kind not in "bui" or (found and found != list(range(1, lesions + 1))):
        raise ValueError(f"a mask is bool or has lesion numbers 0 … n, not {mask.dtype} {numbers}")
    try:
        # Odd values are carried over as they are; pydicom would quote them in warnings.
        with pydicom.config.disable_value_validation():
            content = _encode(mask, series, _describe(lesions, algorithm, version, fingerprint))
    except Exception as error:  # highdicom and pydicom say it in many ways, some with the value
        raise VolumeError(
            f"{path}: series {series.uid} cannot carry a DICOM segmentation "
            f"({type(error).__name__}); write the mask as NIfTI (.nii.gz)"
        ) from error
    write_whole(Path(path), content)


def _encode(
    mask: np.ndarray, series: Series, segments: Sequence[hd.seg.SegmentDescription]
) -> bytes:
    """Returns the file; patient and study are put in last, as they are."""
    header, algorithm = series.headers[0], segments[0].algorithm_identification
    thickness = header.get("SliceThickness") or _distance(series)
    written = hd.seg.Segmentation(
        source_images=[_source(header, thickness) for header in series.headers],
        pixel_array=mask.astype(np.uint8 if len(segments) < 256 else np.uint16),
        segmentation_type="BINARY",
        segment_descriptions=segments,
        series_instance_uid=hd.UID(),
        series_number=_SERIES_NUMBER,
        sop_instance_uid=hd.UID(),
        instance_number=1,
        manufacturer="crlm_jax",
        manufacturer_model_name=algorithm.name,
        software_versions=algorithm.version,
        device_serial_number=algorithm.parameters["run"][:_LONG],
        series_description=f"{algorithm.name} segmentation"[:_LONG],
        content_label="TUMOR",
        # Without any marked voxel highdicom would warn, and write every frame all the same.
        omit_empty_frames=bool(mask.any()),
    )
    for keyword in _PATIENT_AND_STUDY.split():
        if keyword in header:
            written[keyword] = header[keyword]
    if not written.get("SpecificCharacterSet"):  # there it must have a value
        written.pop("SpecificCharacterSet", None)
    stream = io.BytesIO()
    written.save_as(stream)
    return stream.getvalue()


def _describe(
    lesions: int, algorithm: str, version: str, fingerprint: str
) -> list[hd.seg.SegmentDescription]:
    identification = hd.AlgorithmIdentificationSequence(
        name=algorithm[:_LONG],
        family=codes.DCM.ArtificialIntelligence,
        version=version[:_LONG],
        parameters={"run": fingerprint},
    )
    return [
        hd.seg.SegmentDescription(
            segment_number=number,
            segment_label=f"Tumor_{number}",
            segmented_property_category=codes.SCT.MorphologicallyAbnormalStructure,
            segmented_property_type=codes.SCT.NeoplasmSecondary,
            anatomic_regions=[codes.SCT.Liver],
            algorithm_type="AUTOMATIC",
            algorithm_identification=identification,
        )
        for number in range(1, lesions + 1)
    ]


def _distance(series: Series) -> float:
    """From the first slice to the next, in mm; 1 where there is one only."""
    positions = [np.asarray(header.ImagePositionPatient, float) for header in series.headers[:2]]
    return round(float(np.linalg.norm(positions[-1] - positions[0])), 6) or 1.0


def _source(header: pydicom.Dataset, thickness: float) -> pydicom.Dataset:
    """What a source image must say, without the patient: highdicom logs names it finds odd."""
    source = pydicom.Dataset()
    for keyword in _PLACE.split():
        if keyword in header:
            source[keyword] = header[keyword]
    if not source.get("FrameOfReferenceUID"):  # left out by some exports; a segmentation needs one
        source.FrameOfReferenceUID = generate_uid(entropy_srcs=[header.SeriesInstanceUID])
    source.SliceThickness = thickness  # some exports leave it out
    for keyword in _MUST_BE_THERE.split():
        setattr(source, keyword, None)
    return source


_UNREADABLE = (
    "{}: not a DICOM segmentation that can be read, or cut off or damaged; copy or export it again"
)


def _open(path: Path) -> hd.seg.Segmentation:
    if not path.is_file():
        raise VolumeError(f"{path}: file not found; correct the path")
    check_deflated([path])
    try:
        return hd.seg.segread(path)
    except Exception as error:  # damage shows as any error at all
        raise VolumeError(_UNREADABLE.format(path)) from error


def _labels(segmentation: hd.seg.Segmentation) -> dict[int, str]:
    """Segment numbers and labels, without the background that a LABELMAP may describe as 0."""
    return {
        int(segment.SegmentNumber): str(segment.get("SegmentLabel") or "")
        for segment in segmentation.SegmentSequence
        if int(segment.SegmentNumber) != 0
    }


def _check_reference(path: Path, segmentation: hd.seg.Segmentation, series: Series) -> None:
    """Refuses a segmentation that says that it belongs to other images."""
    remedy = "name the segmentation of this series, or the series that it was drawn on"
    references = segmentation.get("ReferencedSeriesSequence") or ()
    uids = [str(item.get("SeriesInstanceUID")) for item in references]
    if uids and series.uid not in uids:
        raise VolumeError(
            f"{path}: a segmentation of series {', '.join(uids)}, not of {series.uid}; {remedy}"
        )
    theirs, ours = (
        header.get("FrameOfReferenceUID") for header in (segmentation, series.headers[0])
    )
    if theirs and ours and theirs != ours:
        raise VolumeError(
            f"{path}: its frame of reference {theirs} is not that of series {series.uid} ({ours}); "
            f"{remedy}"
        )


def _frames(
    segmentation: hd.seg.Segmentation, chosen: list[int]
) -> Iterator[tuple[pydicom.Dataset, np.ndarray]]:
    """Yields the header of each frame of the chosen segments, and its voxels as bool."""
    shared = segmentation.SharedFunctionalGroupsSequence[0]
    kind = segmentation.SegmentationType
    groups = segmentation.get("PerFrameFunctionalGroupsSequence") or [pydicom.Dataset()]
    for number, group in enumerate(groups, start=1):
        frame = pydicom.Dataset()
        for source in (shared, group):
            for name in _FRAME_GROUPS.split():
                if source.get(name):
                    frame.update(source[name].value[0])
        if kind == "LABELMAP":
            yield frame, np.isin(segmentation.get_stored_frame(number), chosen)
        elif int(frame.ReferencedSegmentNumber) in chosen:
            full = int(segmentation.MaximumFractionalValue) if kind == "FRACTIONAL" else 1
            yield frame, segmentation.get_stored_frame(number) >= FRACTION * full


def _place(
    path: Path, frame: pydicom.Dataset, marked: np.ndarray, like: Geometry, mask: np.ndarray
) -> None:
    """Sets the voxels of `mask` (slices, rows, columns; on the grid `like`) that a frame marks."""
    to_grid = np.linalg.inv(np.reshape(like.direction, (3, 3)) * like.spacing)  # mm to x, y, z
    position = np.asarray(frame.ImagePositionPatient, float)
    across, down = np.reshape(np.asarray(frame.ImageOrientationPatient, float), (2, 3))
    height, width = np.asarray(frame.PixelSpacing, float)
    start = to_grid @ (position - like.origin)
    # One pixel along a row and one along a column must each be one voxel along an axis.
    steps = np.stack([to_grid @ across * width, to_grid @ down * height])
    whole = np.rint(steps)
    drift = np.abs(steps - whole) * (np.array(marked.shape[::-1])[:, None] - 1)
    if (
        np.abs(start - np.rint(start)).max() > OFF_GRID
        or drift.max() > OFF_GRID
        or not np.array_equal(np.abs(whole) @ np.abs(whole).T, np.eye(2))
    ):
        raise VolumeError(
            f"{path}: the frame at {plain(position)} mm does not lie on the grid of the image; "
            "export the segmentation on the image's own grid, without resampling"
        )
    rows, columns = np.nonzero(marked)
    voxels = np.rint(start) + columns[:, None] * whole[0] + rows[:, None] * whole[1]
    voxels = voxels.astype(int)
    if (voxels < 0).any() or (voxels >= like.size).any():
        raise VolumeError(
            f"{path}: the frame at {plain(position)} mm marks voxels outside the image; name "
            "the segmentation of this image, or export the whole series"
        )
    x, y, z = voxels.T
    mask[z, y, x] = True
