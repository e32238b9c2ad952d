"""Reads a DICOM series as a volume: ordered slices with their geometry and rescaled values.

Slices are placed by Image Position (Patient) alone, since exports often have wrong file names,
Instance Numbers and Slice Thicknesses. A series that does not fit one even, upright grid is an
error with a remedy. Messages name files and UIDs, never the patient data of a header.
"""

import contextlib
import dataclasses
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pydicom
from pydicom.datadict import dictionary_description
from pydicom.pixels.decoders.base import get_decoder
from pydicom.tag import Tag
from pydicom.uid import UID, ExplicitVRLittleEndian, ImplicitVRLittleEndian

from crlm_jax.imaging.dicom.diffusion import choose_images
from crlm_jax.imaging.dicom.files import as_volume_error, choose_series, read_file
from crlm_jax.imaging.dicom.padding import marked_padding
from crlm_jax.imaging.geometry import Geometry, VolumeError, check_size
from crlm_jax.imaging.headers import check_deflated

# How far a slice may lie from its place on the even grid, along the normal: the larger of a share
# of the spacing and a length in mm. Positions are decimal text, often with two digits after the
# point, so that the slices of a true grid stray by 0.01 mm from the line through its ends. A
# missing slice makes them stray by half a spacing or more.
UNEVEN = (0.01, 0.02)
OFF_GRID = 0.2  # of a voxel: how far a slice, or a frame of a mask, may lie off the grid in plane
SAME_DIRECTION = 1e-4  # of a direction cosine; exports keep four digits or more


@dataclasses.dataclass(frozen=True)
class Series:
    """The headers of a series that was read as a volume.

    `headers` are without pixels, one per slice, in the order of the volume. `path` is the file or
    folder as it was given. `b_value` (s/mm²) is the one that the chosen images state, or None.
    `padding` is bool (slices, rows, columns), True where the headers mark padding; None if they
    mark none.
    """

    headers: tuple[pydicom.Dataset, ...]
    path: Path
    b_value: float | None
    padding: np.ndarray | None = None

    @property
    def uid(self) -> str:
        """Series Instance UID."""
        return str(self.headers[0].SeriesInstanceUID)

    @property
    def modality(self) -> str:
        """DICOM's code, such as "CT" or "MR"; empty if the header has none."""
        return str(self.headers[0].get("Modality") or "")


def read_series(
    path: Path, *, series: str | None = None, b_value: float | None = None
) -> tuple[np.ndarray, Geometry, Series]:
    """Reads one series of single-frame images as a volume.

    Args:
      path: the folder of the files, or one file of the series in that folder.
      series: Series Instance UID; required if the folder has several series.
      b_value: of a diffusion series, in s/mm²; None: 1000 if the series has several.

    Returns:
      Voxels (slices, rows, columns) float32, rescaled to the modality's unit (CT: HU), slices in
      the order of increasing position along the normal (rows' direction × columns' direction);
      their Geometry, right-handed, as ITK gives it; and the headers.

    Raises:
      VolumeError: there is not exactly one such series; or it is not an even, upright stack of
        parallel grey slices of one size, one at each position; or its pixels cannot be decoded.
    """
    uid, files = choose_series(path, series)
    name = f"{path}: series {uid}"
    check_deflated(files)  # pydicom keeps what it has inflated as long as the headers
    headers = [read_file(file, stop_before_pixels=True) for file in files]
    for header in headers:
        with as_volume_error(header.filename):
            _check_image(name, header)
    with as_volume_error(name):
        first = _check_alike(name, headers)
        rows, columns, pixel, axes = first.rows, first.columns, first.pixel, _axes(name, first)
        positions = np.stack([_numbers(header, "ImagePositionPatient", 3) for header in headers])
        chosen, b_value = choose_images(name, headers, positions @ axes[2], b_value)
    chosen = sorted(chosen, key=lambda index: positions[index] @ axes[2])
    headers, positions = [headers[index] for index in chosen], positions[chosen]
    spacing = _slice_spacing(name, headers, positions, pixel, axes)
    geometry = Geometry(
        (columns, rows, len(headers)),
        (float(pixel[1]), float(pixel[0]), spacing),
        tuple(positions[0].tolist()),
        tuple(axes.T.ravel().tolist()),  # ITK's columns are the axes
    )
    check_size(path, (columns, rows, len(headers)))
    voxels = np.empty((len(headers), rows, columns), np.float32)
    padding = np.zeros(voxels.shape, bool)
    for target, padded, header in zip(voxels, padding, headers, strict=True):
        target[...], marked = _pixels(header)
        padded[...] = False if marked is None else marked
    marks = padding if padding.any() else None
    return voxels, geometry, Series(tuple(headers), path, b_value, marks)


# Headers


@dataclasses.dataclass(frozen=True)
class _Plane:
    """What all slices of a stack have in common."""

    file: str
    rows: int
    columns: int
    pixel: np.ndarray  # (2,) spacing down and across, mm
    orientation: np.ndarray  # (6,) direction cosines along a row and down a column, LPS
    frame_of_reference: str | None


def _numbers(header: pydicom.Dataset, keyword: str, count: int) -> np.ndarray:
    try:
        numbers = np.atleast_1d(np.asarray(header.get(keyword), float))  # None becomes NaN
    except Exception:  # pydicom converts the value only here, and raises any error
        numbers = np.array([])
    if len(numbers) != count or not np.isfinite(numbers).all():
        raise VolumeError(
            f"{header.filename}: has no valid {dictionary_description(keyword)} {Tag(keyword)}; "
            "copy it again, or export the original images"
        )
    return numbers


def _check_image(name: str, header: pydicom.Dataset) -> None:
    """Raises VolumeError if an image is not one grey slice of a stack."""
    file = Path(header.filename).name
    if int(header.get("NumberOfFrames") or 1) > 1 or "PerFrameFunctionalGroupsSequence" in header:
        raise VolumeError(
            f"{name}: {file} holds several frames (an enhanced or multi-frame image); export it as "
            "single-frame images, or convert it to NIfTI, for example with dcm2niix"
        )
    colours = int(header.get("SamplesPerPixel") or 1)
    if colours > 1 or header.get("PhotometricInterpretation") == "PALETTE COLOR":
        raise VolumeError(
            f"{name}: {file} is in colour, so a picture rather than a scan; choose another series "
            "(--series UID)"
        )
    if "LOCALIZER" in (header.get("ImageType") or ()):
        raise VolumeError(
            f"{name}: {file} is a localizer; choose another series (--series UID), or remove the "
            "localizers from the folder"
        )


def _check_alike(name: str, headers: Sequence[pydicom.Dataset]) -> _Plane:
    """Returns what all slices share; raises VolumeError if one of them differs."""
    planes = [_plane(header) for header in headers]
    first = planes[0]
    for plane in planes[1:]:
        differs = {
            "size": (plane.rows, plane.columns) != (first.rows, first.columns),
            "pixel spacing": (plane.pixel != first.pixel).any(),
            "orientation": not np.allclose(
                plane.orientation, first.orientation, rtol=0, atol=SAME_DIRECTION
            ),
            "frame of reference": plane.frame_of_reference != first.frame_of_reference,
        }
        for what, found in differs.items():
            if found:
                raise VolumeError(
                    f"{name}: {first.file} and {plane.file} differ in {what}; keep only one stack "
                    "in the folder, or choose the series of one stack (--series UID)"
                )
    return first


def _plane(header: pydicom.Dataset) -> _Plane:
    rows, columns = (int(_numbers(header, keyword, 1)[0]) for keyword in ("Rows", "Columns"))
    return _Plane(
        Path(header.filename).name,
        rows,
        columns,
        _numbers(header, "PixelSpacing", 2),
        _numbers(header, "ImageOrientationPatient", 6),
        header.get("FrameOfReferenceUID"),
    )


def _axes(name: str, plane: _Plane) -> np.ndarray:
    """Returns the directions of x, y and the normal in LPS, (3, 3), one per row."""
    across, down = np.reshape(plane.orientation, (2, 3))
    lengths = np.linalg.norm(across), np.linalg.norm(down)
    skew = abs(across @ down)
    upright = max(abs(lengths[0] - 1), abs(lengths[1] - 1), skew) <= 1e-3
    if not upright or plane.pixel.min() <= 0 or plane.rows < 1:
        raise VolumeError(
            f"{name}: {plane.file} has an invalid pixel spacing or invalid direction cosines; "
            "export the original images"
        )
    # Cosines are rounded in the file; those of an ITK geometry are perpendicular unit vectors.
    across = across / lengths[0]
    normal = np.cross(across, down)
    normal /= np.linalg.norm(normal)
    return np.stack([across, np.cross(normal, across), normal])


def _slice_spacing(
    name: str,
    headers: Sequence[pydicom.Dataset],
    positions: np.ndarray,
    pixel: np.ndarray,
    axes: np.ndarray,
) -> float:
    """Returns the distance in mm of ordered slices.

    Raises VolumeError if the stack is uneven, or tilted against its normal.
    """
    if len(headers) == 1:  # no second position to measure the distance to
        for keyword in ("SpacingBetweenSlices", "SliceThickness"):
            with contextlib.suppress(VolumeError):  # both are optional
                if (size := float(_numbers(headers[0], keyword, 1)[0])) > 0:
                    return size
        return 1.0
    offsets = (positions - positions[0]) @ axes.T  # mm along x, y, normal
    heights = offsets[:, 2]
    step = heights[-1] / (len(headers) - 1)
    off = np.abs(heights - step * np.arange(len(headers)))
    if off.max() > max(UNEVEN[0] * step, UNEVEN[1]):
        gaps = np.diff(heights)
        usual = np.median(gaps)
        worst = int(np.abs(gaps - usual).argmax())
        pair = " and ".join(Path(header.filename).name for header in headers[worst : worst + 2])
        raise VolumeError(
            f"{name}: slices are unevenly spaced, {gaps[worst]:.4g} mm between {pair} and "
            f"{usual:.4g} mm as a rule, so a slice may be missing; export the complete series again"
        )
    drift = np.abs(offsets[:, :2])
    if (drift > OFF_GRID * pixel[::-1]).any():
        tilt = np.degrees(np.arctan2(drift.max(), heights[-1]))
        raise VolumeError(
            f"{name}: slices are shifted in their plane by up to {drift.max():.4g} mm, as by a "
            f"gantry tilt of {tilt:.3g}°; convert it to NIfTI with dcm2niix, which puts it upright"
        )
    return float(step)


# Pixels


def _pixels(header: pydicom.Dataset) -> tuple[np.ndarray, np.ndarray | None]:
    """Decodes one image, (rows, columns) in the modality's unit, and which pixels are padding."""
    path = Path(header.filename)
    image = read_file(path)
    with as_volume_error(path):
        syntax = image.file_meta.get("TransferSyntaxUID")
        if syntax is None:  # a file without the meta header
            syntax = ImplicitVRLittleEndian if image.is_implicit_VR else ExplicitVRLittleEndian
            image.file_meta.TransferSyntaxUID = syntax
        coded = syntax.is_compressed
    if coded and not _can_decode(syntax):
        raise VolumeError(
            f"{path}: no decoder for its transfer syntax {syntax} ({syntax.name}); "
            f"{_install_remedy(syntax)}store the series uncompressed (for example with gdcmconv "
            "--raw)"
        )
    try:
        array = image.pixel_array
        if array.shape != (header.Rows, header.Columns):
            raise ValueError(f"decoded to {array.shape}")
        slope, intercept = header.get("RescaleSlope"), header.get("RescaleIntercept")
        rescaled = array * float(1 if slope is None else slope) + float(intercept or 0)
        return rescaled, marked_padding(image, array)
    except Exception as error:  # each decoder raises errors of its own
        other = f", or not decodable ({syntax.name}: store it uncompressed)" if coded else ""
        raise VolumeError(
            f"{path}: its pixels are cut off or damaged{other}; copy or export it again"
        ) from error


def _install_remedy(syntax: UID) -> str:
    """Names the package that decodes a syntax; all of them are permissively licensed."""
    if syntax.name.startswith("High-Throughput JPEG 2000"):
        return "pip install pylibjpeg pylibjpeg-openjpeg, or "
    return "pip install python-gdcm, or " if "JPEG" in syntax.name else ""


def _can_decode(syntax: UID) -> bool:
    try:
        return get_decoder(syntax).is_available
    except NotImplementedError:
        return False
