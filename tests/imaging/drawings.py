"""Masks as readers' programs write them: Slicer's `.seg.nrrd` and RTSTRUCT."""

import gzip
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import SimpleITK as sitk
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, RTStructureSetStorage

from crlm_jax.imaging.volumes import Volume, read_image
from tests.imaging.dicom import dicoms


def write_slicer(
    path: Path,
    layers: Sequence[np.ndarray],
    segments: Sequence[dict[str, object]],
    *,
    spacing: Sequence[float] = (1.5, 1.5, 5.0),
    origin: Sequence[float] = (-30.0, -30.0, 0.0),
) -> Path:
    """Writes layers (Z, H, W) uint8 and the fields of their segments, such as {"Name": "Tumor"}."""
    depth, height, width = layers[0].shape
    several = len(layers) > 1
    x, y, z = spacing
    lines = [
        "NRRD0004",
        "type: unsigned char",
        f"dimension: {4 if several else 3}",
        "space: left-posterior-superior",
        f"sizes: {f'{len(layers)} ' * several}{width} {height} {depth}",
        f"space directions: {'none ' * several}({x},0,0) (0,{y},0) (0,0,{z})",
        f"kinds: {'list ' * several}domain domain domain",
        "encoding: gzip",
        f"space origin: ({','.join(map(str, origin))})",
    ]
    for number, fields in enumerate(segments):
        lines += [f"Segment{number}_{field}:={value}" for field, value in fields.items()]
    voxels = np.stack(layers, axis=-1) if several else layers[0]
    head = ("\n".join(lines) + "\n\n").encode()
    path.write_bytes(head + gzip.compress(voxels.astype(np.uint8).tobytes(), mtime=0))
    return path


def square(low: Sequence[float], high: Sequence[float], z: float) -> list[float]:
    """The points of a contour, in mm."""
    (a, b), (c, d) = low, high
    return [a, b, z, c, b, z, c, d, z, a, d, z]


def write_contours(
    path: Path,
    rois: dict[str, Sequence[Sequence[float]]],
    *,
    kind: str = "CLOSED_PLANAR",
    frame: str | None = dicoms.FRAME,
    series: str | None = dicoms.uid(1),
) -> Path:
    """Writes an RTSTRUCT with the contours (x, y, z, x, …) in mm of each ROI."""
    header = Dataset()
    header.file_meta = FileMetaDataset()
    header.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    header.SOPClassUID = header.file_meta.MediaStorageSOPClassUID = RTStructureSetStorage
    header.SOPInstanceUID = header.file_meta.MediaStorageSOPInstanceUID = dicoms.uid(30)
    header.update(dicoms.PATIENT)
    header.SpecificCharacterSet = "ISO_IR 192"
    header.StudyInstanceUID, header.SeriesInstanceUID = dicoms.STUDY, dicoms.uid(31)
    header.Modality = "RTSTRUCT"
    if frame:
        of_frame = Dataset()
        of_frame.FrameOfReferenceUID = frame
        if series:
            of_series, of_study = Dataset(), Dataset()
            of_series.SeriesInstanceUID = series
            of_study.RTReferencedSeriesSequence = [of_series]
            of_frame.RTReferencedStudySequence = [of_study]
        header.ReferencedFrameOfReferenceSequence = [of_frame]
    header.StructureSetROISequence, header.ROIContourSequence = [], []
    for number, (name, contours) in enumerate(rois.items(), start=1):
        roi, drawn = Dataset(), Dataset()
        roi.ROINumber, roi.ROIName = number, name
        if frame:
            roi.ReferencedFrameOfReferenceUID = frame
        header.StructureSetROISequence.append(roi)
        drawn.ReferencedROINumber, drawn.ContourSequence = number, []
        for points in contours:
            contour = Dataset()
            contour.ContourGeometricType = kind
            contour.NumberOfContourPoints = len(points) // 3
            contour.ContourData = [f"{value:.6f}" for value in points]
            drawn.ContourSequence.append(contour)
        header.ROIContourSequence.append(drawn)
    return dicoms.save(header, path)


def write_drawings(folder: Path) -> Volume:
    """Writes a CT series and masks of every kind with two lesions that touch; returns the CT."""
    shape, spacing, origin = (6, 24, 32), (5.0, 1.5, 1.5), (-30.0, -30.0, 0.0)
    array = np.zeros(shape, np.int16) + np.arange(32, dtype=np.int16)
    files = dicoms.write_series(folder / "ct", array, spacing=spacing, origin=origin)
    one, two, wide, far = np.zeros((4, *shape), bool)
    one[1:4, 4:10, 3:12] = two[1:4, 4:10, 12:20] = wide[1:4, 4:10, 3:14] = True
    far[5, 20:22, 28:30] = True
    for name, labels in (
        ("labels", one + 2 * two), ("one", one), ("two", two), ("scattered", one + far + 2 * two),
    ):  # fmt: skip
        image = sitk.GetImageFromArray(labels.astype(np.uint8))
        image.SetSpacing(spacing[::-1])
        image.SetOrigin(origin)
        sitk.WriteImage(image, str(folder / f"{name}.nii.gz"))
    for name, first in (("touching", one), ("overlapping", wide)):
        segments = {"Tumor 1": first, "Tumor 2": two}
        dicoms.write_segments(folder / f"{name}.dcm", files, segments, spacing=spacing)
    about = [{"Name": f"Tumor {n}", "LabelValue": 1, "Layer": n} for n in (0, 1)]
    write_slicer(folder / "layers.seg.nrrd", [one, two], about)
    for name, z in (("contours", 10.0), ("between", 12.0)):
        write_contours(folder / f"{name}.dcm", {"Tumor": [square((-20, -20), (-10, -5), z)]})
    return read_image(folder / "ct")
