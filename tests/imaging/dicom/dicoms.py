"""Synthetic DICOM series and segmentations for tests, written with pydicom and highdicom."""

import warnings
from collections.abc import Callable, Sequence
from pathlib import Path

import highdicom as hd
import numpy as np
import pydicom
import pytest
import SimpleITK as sitk
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.sr.codedict import codes
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, MRImageStorage, generate_uid

from crlm_jax.imaging.geometry import VolumeError

SHAPE = (6, 12, 16)  # slices, rows, columns
SPACING = (2.5, 0.7, 0.8)  # mm: slices, rows, columns
ORIGIN = (-20.0, 30.0, -100.0)  # mm, LPS
PATIENT = {"PatientName": "Musterfrau^Änne", "PatientID": "P-17", "PatientBirthDate": "19610203"}
STUDY = "1.2.826.0.1.3680043.8.498.1"
FRAME = "1.2.826.0.1.3680043.8.498.2"


def voxels(seed: int = 0, shape: Sequence[int] = SHAPE) -> np.ndarray:
    """Stored values, int16 (slices, rows, columns)."""
    return np.random.default_rng(seed).integers(-500, 1500, shape).astype(np.int16)


def uid(number: int) -> str:
    """A Series Instance UID, the same in every run."""
    return f"1.2.826.0.1.3680043.8.498.100.{number}"


def image(
    array: np.ndarray,
    position: Sequence[float],
    axes: np.ndarray,
    *,
    series: str,
    number: int,
    modality: str = "CT",
    spacing: Sequence[float] = SPACING,
) -> Dataset:
    """One slice; `axes` holds the directions of x (along a row), y and the normal as rows."""
    header = Dataset()
    header.file_meta = FileMetaDataset()
    header.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    header.SpecificCharacterSet = "ISO_IR 192"
    header.SOPClassUID = CTImageStorage if modality == "CT" else MRImageStorage
    header.SOPInstanceUID = generate_uid()
    header.file_meta.MediaStorageSOPClassUID = header.SOPClassUID
    header.file_meta.MediaStorageSOPInstanceUID = header.SOPInstanceUID
    header.update(PATIENT)
    header.PatientSex = "F"
    header.StudyInstanceUID, header.SeriesInstanceUID = STUDY, series
    header.StudyID, header.StudyDate, header.StudyTime = "S1", "20240506", "070809"
    header.AccessionNumber = "A-99"
    header.FrameOfReferenceUID = FRAME
    header.Modality, header.SeriesNumber, header.InstanceNumber = modality, 3, number
    header.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"]
    header.ImagePositionPatient = [f"{value:.6f}" for value in position]
    header.ImageOrientationPatient = [f"{value:.9f}" for value in np.ravel(axes[:2])]
    header.PixelSpacing = [spacing[1], spacing[2]]
    header.SliceThickness = 9  # of no account
    header.SamplesPerPixel, header.PhotometricInterpretation = 1, "MONOCHROME2"
    header.Rows, header.Columns = array.shape
    header.BitsAllocated = header.BitsStored = 8 * array.itemsize
    header.HighBit = header.BitsStored - 1
    header.PixelRepresentation = int(array.dtype.kind == "i")
    header.PixelData = array.tobytes()
    if modality == "CT":
        header.RescaleSlope, header.RescaleIntercept = 1, -1024
    return header


def save(header: Dataset, path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    header.save_as(path, enforce_file_format=True)
    return path


def write_series(
    folder: Path,
    array: np.ndarray | None = None,
    *,
    series: str | None = None,
    axes: np.ndarray | None = None,
    origin: Sequence[float] = ORIGIN,
    spacing: Sequence[float] = SPACING,
    modality: str = "CT",
    names: Sequence[str] | None = None,
    change: Callable[[int, Dataset], None] | None = None,
) -> list[Path]:
    """Writes a series, one file a slice, in the order of the array; returns the files.

    Args:
      folder: made if need be.
      array: stored values (slices, rows, columns); None: `voxels()`.
      series: Series Instance UID; None: `uid(1)`.
      axes: rows are the directions of x, y and the normal (LPS); None: axial.
      origin: of the first voxel, in mm.
      spacing: slices, rows, columns, in mm.
      modality: "CT" or "MR".
      names: of the files; None: 000.dcm, 001.dcm, ….
      change: called with the slice's index and dataset before it is saved.
    """
    array = voxels() if array is None else array
    axes = np.eye(3) if axes is None else np.asarray(axes, float)
    files = []
    for index, pixels in enumerate(array):
        position = np.asarray(origin) + index * spacing[0] * axes[2]
        header = image(
            pixels,
            position,
            axes,
            series=series or uid(1),
            number=index + 1,
            modality=modality,
            spacing=spacing,
        )
        if change:
            change(index, header)
        files.append(save(header, folder / (names[index] if names else f"{index:03d}.dcm")))
    return files


def rotation(degrees: float) -> np.ndarray:
    """Axes of an oblique scan, turned about an axis that is none of the patient's."""
    axis = np.array([1.0, 2.0, 3.0]) / np.sqrt(14)
    cross = np.cross(np.eye(3), axis)
    angle = np.radians(degrees)
    return np.eye(3) + np.sin(angle) * cross + (1 - np.cos(angle)) * cross @ cross


def write_segments(
    path: Path,
    sources: Sequence[Path],
    segments: dict[str, np.ndarray],
    *,
    kind: str = "BINARY",
    positions: Sequence[Sequence[float]] | None = None,
    axes: np.ndarray | None = None,
    spacing: Sequence[float] = SPACING,
    change: Callable[[Dataset], None] | None = None,
    omit_empty_frames: bool = True,
) -> Path:
    """Writes a DICOM-SEG of any producer's kind.

    Args:
      path: of the file.
      sources: files of the series that it refers to.
      segments: label to mask (frames, rows, columns), bool, or fractions as float.
      kind: "BINARY", "FRACTIONAL" or "LABELMAP" (then without overlap).
      positions: of the frames in mm; None: those of `sources`, and so their axes and spacing.
      axes: rows are the directions of a frame's rows, columns and normal; None: axial.
      spacing: slices, rows, columns, in mm.
      change: called with the dataset before it is saved.
      omit_empty_frames: leave out frames that mark nothing.
    """
    headers = [pydicom.dcmread(source, stop_before_pixels=True) for source in sources]
    placed = {}
    if positions is not None:
        axes = np.eye(3) if axes is None else axes
        placed = {
            "plane_positions": [hd.PlanePositionSequence("PATIENT", place) for place in positions],
            "plane_orientation": hd.PlaneOrientationSequence("PATIENT", axes[:2].ravel()),
            "pixel_measures": hd.PixelMeasuresSequence(spacing[1:], spacing[0]),
        }
    masks = np.stack(list(segments.values()), axis=-1)
    descriptions = [
        hd.seg.SegmentDescription(
            segment_number=number,
            segment_label=label,
            segmented_property_category=codes.SCT.MorphologicallyAbnormalStructure,
            segmented_property_type=codes.SCT.Neoplasm,
            algorithm_type="MANUAL",
        )
        for number, label in enumerate(segments, start=1)
    ]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        written = hd.seg.Segmentation(
            source_images=headers,
            pixel_array=masks.astype(np.float32 if kind == "FRACTIONAL" else np.uint8),
            segmentation_type=kind,
            segment_descriptions=descriptions,
            series_instance_uid=generate_uid(),
            series_number=2,
            sop_instance_uid=generate_uid(),
            instance_number=1,
            manufacturer="test",
            manufacturer_model_name="test",
            software_versions="1",
            device_serial_number="1",
            omit_empty_frames=omit_empty_frames,
            **placed,
        )
    if change:
        change(written)
    written.save_as(path)
    return path


def refuse(call, *parts: str) -> None:
    """Asserts that a call fails in one line with all of these parts and nothing of the patient."""
    with pytest.raises(VolumeError) as caught:
        call()
    message = str(caught.value)
    for part in parts:
        assert part in message
    assert "\n" not in message
    for private in ("Musterfrau", "Änne", "19610203"):
        assert private not in message


def by_simpleitk(folder: Path) -> sitk.Image:
    reader = sitk.ImageSeriesReader()
    reader.SetFileNames(reader.GetGDCMSeriesFileNames(str(folder)))
    return reader.Execute()
