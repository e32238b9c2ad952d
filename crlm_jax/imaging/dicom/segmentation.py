"""Reads DICOM segmentations (DICOM-SEG) as masks, and writes masks as segmentations.

Frames are placed voxel by voxel, by their own position and orientation: a segmentation may be
cropped, hold only the slices with tumour, or run in the opposite direction. highdicom's
`get_volume` is not used, because it requires an even stack of frames, and the frames of scattered
lesions are not one.

Codes are SNOMED CT, as DICOM PS3.16 lists them: the category is of CID 7150, the type of CID 7159
(lesions; 14799000 "Neoplasm, Secondary", which SNOMED calls "Neoplasm, metastatic").
"""

import fnmatch
import io
from collections.abc import Iterator
from pathlib import Path

import highdicom as hd
import numpy as np
import pydicom
from pydicom.sr.codedict import codes
from pydicom.uid import RTStructureSetStorage, generate_uid

from crlm_jax.imaging.dicom.files import identify, is_dicom, read_file
from crlm_jax.imaging.dicom.series import OFF_GRID, Series
from crlm_jax.imaging.dicom.sources import as_source_images, put_frame_numbers
from crlm_jax.imaging.geometry import Geometry, VolumeError, format_point
from crlm_jax.imaging.headers import check_deflated
from crlm_jax.system.files import write_whole

FRACTION = 0.5  # least occupancy or probability at which a voxel of a FRACTIONAL segment counts
TUMOUR_LABELS = "Tumor*"  # the segments that are tumour, unless the user chooses others

# The elements of a source image that a segmentation refers to (PS3.3 A.51).
_PLACE = """
    SOPClassUID SOPInstanceUID StudyInstanceUID SeriesInstanceUID Modality FrameOfReferenceUID
    PositionReferenceIndicator Rows Columns PixelSpacing ImageOrientationPatient
    ImagePositionPatient LossyImageCompression LossyImageCompressionRatio
    LossyImageCompressionMethod
"""
# The elements that a segmentation copies from its source image.
_PATIENT_AND_STUDY = """
    SpecificCharacterSet PatientName PatientID IssuerOfPatientID PatientBirthDate PatientSex
    PatientAge PatientSize PatientWeight PatientIdentityRemoved DeidentificationMethod StudyID
    StudyDate StudyTime StudyDescription AccessionNumber ReferringPhysicianName
"""
# The elements that highdicom requires, even if empty.
_REQUIRED = """
    PatientName PatientID PatientBirthDate PatientSex StudyID StudyDate StudyTime AccessionNumber
"""
_FRAME_GROUPS = """
    PlanePositionSequence PlaneOrientationSequence PixelMeasuresSequence
    SegmentIdentificationSequence
"""
_LONG_STRING = 64  # characters of DICOM's type LO
_SERIES_NUMBER = 1000  # above the numbers that scanners give, so that a list shows it last


def is_segmentation(path: Path) -> bool:
    """Whether this is a DICOM file with a segmentation (of bits, fractions or labels)."""
    if not path.is_file() or not is_dicom(path):
        return False
    try:
        header = read_file(path, stop_before_pixels=True, tags=["SOPClassUID"])
    except VolumeError:  # damaged; the function that reads the mask reports it
        return False
    kind = header.get("SOPClassUID") or header.file_meta.get("MediaStorageSOPClassUID")
    return kind in hd.seg.SOP_CLASS_UIDS


def read_segmentation(
    path: Path, like: Geometry, series: Series | None, labels: str = TUMOUR_LABELS
) -> np.ndarray:
    """Reads segments as one mask on the grid of the image.

    Args:
      path: of the segmentation (BINARY, FRACTIONAL or LABELMAP).
      like: the grid of the image.
      series: the series of the image; None: the segmentation's references are not checked.
      labels: which segments count: patterns as for file names (``*``, ``?``), separated by commas;
        upper and lower case are equal.

    Returns:
      bool (slices, rows, columns): voxels in any of the segments; in a FRACTIONAL segment, those
      with at least `FRACTION`.

    Raises:
      VolumeError: the file is no segmentation of this series, has no such segment, or has frames
        that are not on the grid.
    """
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
            f"{', '.join(map(repr, names.values()))}: choose those that are tumour"
        )
    mask = np.zeros(like.size[::-1], bool)
    try:
        for frame, marked in _frames(segmentation, chosen):
            _place(path, frame, marked, like, mask)
    except VolumeError:
        raise
    except Exception as error:  # pixels or headers that break the standard
        raise VolumeError(_UNREADABLE.format(path)) from error
    return mask


def write_segmentation(
    path: Path, mask: np.ndarray, series: Series, *, algorithm: str, version: str, fingerprint: str
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
      algorithm: name of the algorithm.
      version: version of the algorithm.
      fingerprint: of the run that trained the algorithm.

    Raises:
      VolumeError: the headers of the series are too poor or invalid for a segmentation.
      ValueError: the shape of the mask is not that of the series, or its numbers are not 0 … n.
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
        # Invalid values are copied as they are; pydicom would quote them in warnings.
        with pydicom.config.disable_value_validation():
            identification = _identify_algorithm(algorithm, version, fingerprint)
            content = _encode(mask, series, lesions, identification, fingerprint)
    except Exception as error:  # any error of highdicom or pydicom, some quoting patient data
        raise VolumeError(
            f"{path}: series {series.uid} cannot carry a DICOM segmentation "
            f"({type(error).__name__}); write the mask as NIfTI (.nii.gz)"
        ) from error
    write_whole(path, content)


def _encode(
    mask: np.ndarray,
    series: Series,
    lesions: int,
    algorithm: hd.AlgorithmIdentificationSequence,
    fingerprint: str,
) -> bytes:
    """Returns the content of the file; patient and study are copied last, unchanged."""
    header = series.headers[0]
    thickness = header.get("SliceThickness") or _distance(series)
    written = hd.seg.Segmentation(
        source_images=as_source_images(
            series, [_source(header, thickness) for header in series.headers]
        ),
        pixel_array=mask.astype(np.uint8 if lesions < 256 else np.uint16),
        segmentation_type="BINARY",
        segment_descriptions=[_segment(number, algorithm) for number in range(1, lesions + 1)],
        series_instance_uid=hd.UID(),
        series_number=_SERIES_NUMBER,
        sop_instance_uid=hd.UID(),
        instance_number=1,
        manufacturer="crlm_jax",
        manufacturer_model_name=algorithm.name,
        software_versions=algorithm.version,
        device_serial_number=fingerprint[:_LONG_STRING],
        series_description=f"{algorithm.name} segmentation"[:_LONG_STRING],
        content_label="TUMOR",
        # For a mask without a marked voxel highdicom would warn and write every frame anyway.
        omit_empty_frames=bool(mask.any()),
    )
    put_frame_numbers(written, series.headers)
    for keyword in _PATIENT_AND_STUDY.split():
        if keyword in header:
            written[keyword] = header[keyword]
    if not written.get("SpecificCharacterSet"):  # invalid if present without a value
        written.pop("SpecificCharacterSet", None)
    stream = io.BytesIO()
    written.save_as(stream)
    return stream.getvalue()


def _identify_algorithm(
    name: str, version: str, fingerprint: str
) -> hd.AlgorithmIdentificationSequence:
    return hd.AlgorithmIdentificationSequence(
        name=name[:_LONG_STRING],
        family=codes.DCM.ArtificialIntelligence,
        version=version[:_LONG_STRING],
        parameters={"run": fingerprint},
    )


def _segment(
    number: int, algorithm: hd.AlgorithmIdentificationSequence
) -> hd.seg.SegmentDescription:
    return hd.seg.SegmentDescription(
        segment_number=number,
        segment_label=f"Tumor_{number}",
        segmented_property_category=codes.SCT.MorphologicallyAbnormalStructure,
        segmented_property_type=codes.SCT.NeoplasmSecondary,
        anatomic_regions=[codes.SCT.Liver],
        algorithm_type="AUTOMATIC",
        algorithm_identification=algorithm,
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
    if not source.get("FrameOfReferenceUID"):  # required; some exports leave it out
        source.FrameOfReferenceUID = generate_uid(entropy_srcs=[header.SeriesInstanceUID])
    source.SliceThickness = thickness  # some exports leave it out
    for keyword in _REQUIRED.split():
        setattr(source, keyword, None)
    return source


_UNREADABLE = (
    "{}: not a readable DICOM segmentation, or cut off or damaged; copy or export it again"
)


def _open(path: Path) -> hd.seg.Segmentation:
    if not path.is_file():
        raise VolumeError(f"{path}: file not found; correct the path")
    check_deflated([path])
    try:
        file = identify(path)
        # Where no series is named, the kind may be cut off too.
        if "Segmentation" in file.kind or not file.series or file.kind[:1].isdigit():
            return hd.seg.segread(path)
    except Exception as error:  # damage causes any kind of error
        raise VolumeError(_UNREADABLE.format(path)) from error
    if file.kind == RTStructureSetStorage.name:
        raise VolumeError(
            f"{path}: contours of radiotherapy (RTSTRUCT), which are not read; convert them to a "
            "DICOM-SEG or NIfTI mask on the grid of the image, for example in 3D Slicer"
        )
    raise VolumeError(f"{path}: {file.kind}, not a segmentation; give the DICOM-SEG of the image")


def _labels(segmentation: hd.seg.Segmentation) -> dict[int, str]:
    """Returns labels by segment number, without the background 0 that a LABELMAP may have."""
    return {
        int(segment.SegmentNumber): str(segment.get("SegmentLabel") or "")
        for segment in segmentation.SegmentSequence
        if int(segment.SegmentNumber) != 0
    }


def _check_reference(path: Path, segmentation: hd.seg.Segmentation, series: Series) -> None:
    """Raises VolumeError if a segmentation refers to other images than those of the series."""
    remedy = "give the segmentation of this series, or the series that it was drawn on"
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
    """Yields each frame of the chosen segments: its header, and its voxels (H, W) bool."""
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
    """Sets the voxels of `mask` (Z, H, W), on the grid `like`, that a frame marks."""
    to_grid = np.linalg.inv(np.reshape(like.direction, (3, 3)) * like.spacing)  # mm to x, y, z
    position = np.asarray(frame.ImagePositionPatient, float)
    across, down = np.reshape(np.asarray(frame.ImageOrientationPatient, float), (2, 3))
    height, width = np.asarray(frame.PixelSpacing, float)
    start = to_grid @ (position - like.origin)
    # One pixel along a row, and one along a column, must each be one voxel along one axis.
    steps = np.stack([to_grid @ across * width, to_grid @ down * height])
    whole = np.rint(steps)
    drift = np.abs(steps - whole) * (np.array(marked.shape[::-1])[:, None] - 1)
    if (
        np.abs(start - np.rint(start)).max() > OFF_GRID
        or drift.max() > OFF_GRID
        or not np.array_equal(np.abs(whole) @ np.abs(whole).T, np.eye(2))
    ):
        raise VolumeError(
            f"{path}: the frame at {format_point(position)} mm does not lie on the grid of the "
            "image; export the segmentation on the image's own grid, without resampling"
        )
    rows, columns = np.nonzero(marked)
    voxels = np.rint(start) + columns[:, None] * whole[0] + rows[:, None] * whole[1]
    voxels = voxels.astype(int)
    if (voxels < 0).any() or (voxels >= like.size).any():
        raise VolumeError(
            f"{path}: the frame at {format_point(position)} mm marks voxels outside the image; "
            "give the segmentation of this image, or export the whole series"
        )
    x, y, z = voxels.T
    mask[z, y, x] = True
