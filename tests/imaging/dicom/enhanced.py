"""Made-up enhanced (multi-frame) images, MOSAICs and grids for tests, and dcm2niix's reading."""

import math
import struct
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from pydicom.dataset import Dataset
from pydicom.uid import EnhancedCTImageStorage, EnhancedMRImageStorage

from crlm_jax.imaging import volumes
from tests.imaging.dicom import dicoms

Volume = tuple[np.ndarray, Callable[[Dataset, int], None] | None]


def diffusion(b: float | None, direction: str = "ISOTROPIC") -> Callable[[Dataset, int], None]:
    """Tells the frames of a volume their b-value."""

    def tell(groups: Dataset, index: int) -> None:
        item = Dataset()
        item.DiffusionDirectionality = direction
        if b is not None:
            item.DiffusionBValue = float(b)
        groups.MRDiffusionSequence = [item]

    return tell


def of_type(*values: str) -> Callable[[Dataset, int], None]:
    """Tells the frames of a volume their type."""

    def tell(groups: Dataset, index: int) -> None:
        item = Dataset()
        item.FrameType = list(values)
        groups.MRImageFrameTypeSequence = [item]

    return tell


def echo(time: float) -> Callable[[Dataset, int], None]:
    def tell(groups: Dataset, index: int) -> None:
        item = Dataset()
        item.EffectiveEchoTime = time
        groups.MREchoSequence = [item]

    return tell


def make_enhanced(
    volumes: Sequence[Volume],
    *,
    axes: np.ndarray | None = None,
    modality: str = "MR",
    series: str | None = None,
    spacing: Sequence[float] = dicoms.SPACING,
    interleaved: bool = False,
    change: Callable[[Dataset], None] | None = None,
) -> Dataset:
    """An enhanced image of volumes on one grid, each with what its frames' groups are told.

    Args:
      volumes: stored values (slices, rows, columns), and a function of groups and slice.
      axes: rows are the directions of x, y and the normal (LPS); None: axial.
      modality: "CT" or "MR".
      series: Series Instance UID; None: `dicoms.uid(1)`.
      spacing: slices, rows, columns, in mm.
      interleaved: all volumes of a slice before the next slice, as Philips sorts them.
      change: called with the dataset at its end.
    """
    axes = np.eye(3) if axes is None else axes
    order = [(v, z) for v in range(len(volumes)) for z in range(len(volumes[0][0]))]
    if interleaved:
        order.sort(key=lambda place: place[::-1])
    first = volumes[0][0][0]
    header = dicoms.image(
        first, dicoms.ORIGIN, axes, series=series or dicoms.uid(1), number=1, modality=modality
    )
    kind = EnhancedCTImageStorage if modality == "CT" else EnhancedMRImageStorage
    header.SOPClassUID = header.file_meta.MediaStorageSOPClassUID = kind
    header.ImageType = ["ORIGINAL", "PRIMARY", "VOLUME", "NONE"]
    for keyword in ("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing"):
        delattr(header, keyword)
    for keyword in ("SliceThickness", "RescaleSlope", "RescaleIntercept"):
        header.pop(keyword, None)
    shared, measures, plane, values = Dataset(), Dataset(), Dataset(), Dataset()
    measures.PixelSpacing, measures.SliceThickness = list(spacing[1:]), spacing[0]
    plane.ImageOrientationPatient = [f"{value:.9f}" for value in np.ravel(axes[:2])]
    values.RescaleSlope, values.RescaleIntercept = 1, -1024 if modality == "CT" else 0
    values.RescaleType = "HU" if modality == "CT" else "US"
    shared.PixelMeasuresSequence, shared.PlaneOrientationSequence = [measures], [plane]
    shared.PixelValueTransformationSequence = [values]
    header.SharedFunctionalGroupsSequence = [shared]
    frames = []
    for v, z in order:
        groups, position, content = Dataset(), Dataset(), Dataset()
        place = np.asarray(dicoms.ORIGIN) + z * spacing[0] * axes[2]
        position.ImagePositionPatient = [f"{value:.6f}" for value in place]
        content.StackID, content.InStackPositionNumber = "1", z + 1
        content.TemporalPositionIndex = v + 1
        content.DimensionIndexValues = [1, z + 1, v + 1]
        groups.PlanePositionSequence, groups.FrameContentSequence = [position], [content]
        if tell := volumes[v][1]:
            tell(groups, z)
        frames.append(groups)
    header.PerFrameFunctionalGroupsSequence = frames
    header.NumberOfFrames = len(frames)
    header.PixelData = b"".join(volumes[v][0][z].tobytes() for v, z in order)
    if change:
        change(header)
    return header


def write_enhanced(path: Path, volumes: Sequence[Volume], **options) -> Path:
    return dicoms.save(make_enhanced(volumes, **options), path)


def csa(**elements: Sequence[object]) -> bytes:
    """A CSA header of version 2 with these elements; as Siemens does, with empty items after."""
    parts = [b"SV10\4\3\2\1", struct.pack("<2I", len(elements), 77)]
    for name, values in elements.items():
        texts = [str(value).encode() + b"\0" for value in values]
        texts += [b""] * (6 - len(texts))
        parts.append(
            struct.pack("<64s i 4s 3i", name.encode(), len(values), b"FD\0\0", 4, len(texts), 77)
        )
        for text in texts:
            parts.append(struct.pack("<4i", len(text), len(text), 77, len(text)))
            parts.append(text + bytes(-len(text) % 4))
    return b"".join(parts)


def make_mosaic(
    array: np.ndarray,
    *,
    axes: np.ndarray | None = None,
    reverse: bool = False,
    b: float | None = None,
    series: str | None = None,
    number: int = 1,
    change: Callable[[Dataset], None] | None = None,
) -> Dataset:
    """A Siemens MOSAIC of stored values (slices, rows, columns).

    `axes` are the directions of x, y and the normal as rows; with `reverse` the tiles follow each
    other against the normal, from the same first position, and CSA says so.
    """
    axes = np.eye(3) if axes is None else axes
    slices, rows, columns = array.shape
    side = math.ceil(math.sqrt(slices))
    picture = np.zeros((side * rows, side * columns), array.dtype)
    for index, tile in enumerate(array):
        row, column = index // side * rows, index % side * columns
        picture[row : row + rows, column : column + columns] = tile
    across, down, normal = axes
    # The position of a slice as large as the picture, about the centre of the first slice.
    corner = (
        np.asarray(dicoms.ORIGIN)
        - across * dicoms.SPACING[2] * (side - 1) * columns / 2
        - down * dicoms.SPACING[1] * (side - 1) * rows / 2
    )
    header = dicoms.image(
        picture, corner, axes, series=series or dicoms.uid(1), number=number, modality="MR"
    )
    header.ImageType = ["ORIGINAL", "PRIMARY", "M", "ND", "MOSAIC"]
    header.Manufacturer = "SIEMENS"
    header.SpacingBetweenSlices = dicoms.SPACING[0]
    block = header.private_block(0x0019, "SIEMENS MR HEADER", create=True)
    block.add_new(0x0A, "US", slices)
    if b is not None:
        block.add_new(0x0C, "IS", str(b))
    normal = -normal if reverse else normal
    about = csa(
        NumberOfImagesInMosaic=[slices], SliceNormalVector=[f"{value:.8f}" for value in normal]
    )
    header.private_block(0x0029, "SIEMENS CSA HEADER", create=True).add_new(0x10, "OB", about)
    if change:
        change(header)
    return header


def make_grid(array: np.ndarray) -> Dataset:
    """United Imaging's grid of stored values (slices, rows, columns)."""
    slices, rows, columns = array.shape
    across = math.ceil(math.sqrt(slices))
    picture = np.zeros((math.ceil(slices / across) * rows, across * columns), array.dtype)
    items = []
    for index, tile in enumerate(array):
        row, column = index // across * rows, index % across * columns
        picture[row : row + rows, column : column + columns] = tile
        item = Dataset()
        item.ImagePositionPatient = [*dicoms.ORIGIN[:2], dicoms.ORIGIN[2] + 2.5 * index]
        items.append(item)
    header = dicoms.image(
        picture, dicoms.ORIGIN, np.eye(3), series=dicoms.uid(1), number=1, modality="MR"
    )
    header.ImageType = ["ORIGINAL", "PRIMARY", "EPI", "VFRAME"]
    block = header.private_block(0x0065, "Image Private Header", create=True)
    block.add_new(0x50, "DS", str(slices))
    block.add_new(0x51, "SQ", items)
    block.add_new(0x09, "FD", 800.0)
    return header


def by_dcm2niix(folder: Path, out: Path) -> dict[str, sitk.Image]:
    """Converts the DICOM files of a folder; returns the images by the names of their files."""
    dcm2niix = pytest.importorskip("dcm2niix", reason="dcm2niix is not installed")
    out.mkdir(parents=True)
    # -p n: Philips' values as they are displayed, not as the scanner measured them
    call = [dcm2niix.bin, "-z", "n", "-b", "n", "-p", "n", "-f", "%s_%d", "-o", out, folder]
    subprocess.run(list(map(str, call)), check=True, capture_output=True)
    return {file.name: sitk.ReadImage(str(file)) for file in sorted(out.glob("*.nii"))}


def assert_same(ours: volumes.Volume, theirs: sitk.Image, tolerance: float = 0.0) -> None:
    """Asserts that an image has dcm2niix's voxels at its places; `tolerance` is of the values."""
    other = volumes.from_image(theirs)
    assert ours.geometry.axial_size == other.geometry.axial_size
    np.testing.assert_allclose(ours.spacing, other.spacing, rtol=1e-4)
    last = np.array(ours.voxels.shape) - 1
    corners = np.array(list(np.ndindex(2, 2, 2))) * last
    places = ours.geometry.to_patient(corners), other.geometry.to_patient(corners)
    np.testing.assert_allclose(*places, atol=2e-3)  # mm; NIfTI has single precision
    np.testing.assert_allclose(ours.voxels, other.voxels, atol=tolerance)
