"""A DICOM series from disk to a volume: slices in order, with their geometry and true values.

Slices are placed by Image Position (Patient) alone; file names, Instance Number and Slice Thickness
are what exports get wrong. What cannot be placed on one even, upright grid is refused, with the
remedy. Messages name files and UIDs, never what a header says of the patient.
"""

import contextlib
import dataclasses
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pydicom
from pydicom.datadict import dictionary_description
from pydicom.pixels import get_decoder
from pydicom.tag import Tag
from pydicom.uid import UID, ExplicitVRLittleEndian, ImplicitVRLittleEndian

from crlm_jax.imaging.dicom.diffusion import choose_images
from crlm_jax.imaging.dicom.files import (
    as_volume_error,
    choose_series,
    find_series,
    is_dicom,
    read_file,
)
from crlm_jax.imaging.geometry import Geometry, VolumeError, check_size
from crlm_jax.imaging.headers import check_deflated

__all__ = ["Series", "find_series", "is_dicom", "read_series"]

# How far a slice may lie from its place on the even grid, along the normal: the larger of a share
# of the spacing and a length in mm. Positions are decimal text, often of two digits after the
# point, so that a true grid strays by 0.01 mm from the line through its ends; a missing slice
# strays by half a spacing or more.
UNEVEN = (0.01, 0.02)
OFF_GRID = 0.2  # of a voxel: how far a slice, or a frame of a mask, may lie off the grid in plane
SAME_DIRECTION = 1e-4  # of a direction cosine; exports keep four digits or more


@dataclasses.dataclass(frozen=True)
class Series:
    """What a series says of itself: `headers` without pixels, one a slice, in the volume's order.

    `path` is the file or folder as it was given. `b_value` (s/mm²) is that of the images taken, if
    they state one; else None.
    """

    headers: tuple[pydicom.Dataset, ...]
    path: Path
    b_value: float | None

    @property
    def uid(self) -> str:
        """Series Instance UID."""
        return str(self.headers[0].SeriesInstanceUID)

    @property
    def modality(self) -> str:
        """DICOM's code, as "CT" or "MR"; empty where the header has none."""
        return str(self.headers[0].get("Modality") or "")


def read_series(
    path: Path, *, series: str | None = None, b_value: float | None = None
) -> tuple[np.ndarray, Geometry, Series]:
    """Reads one series of single-frame images as a volume.

    Args:
      path: a folder that holds the files, or one file: then the series of that file, from its
        folder.
      series: Series Instance UID; needed where the folder holds several.
      b_value: of a diffusion series, in s/mm²; None: 1000 where it has several.

    Returns:
      Voxels (slices, rows, columns) float32, rescaled to the modality's unit (CT: HU), slices in
      the order of increasing position along the normal (rows' direction × columns' direction);
      their Geometry, right-handed, as ITK gives it; and what the series says of itself.

    Raises:
      VolumeError: there is not exactly one series to take, or it is no even stack of upright,
        parallel, equally large grey slices, one at each position, that can be decoded.
    """
    path = Path(path)
    uid, files = choose_series(path, series)
    name = f"{path}: series {uid}"
    check_deflated(files)  # pydicom keeps what it has inflated as long as the headers
    headers = [read_file(file, stop_before_pixels=True) for file in files]
    for header in headers:
        with as_volume_error(header.filename):
            _check_image(name, header)
    with as_volume_error(name):
        rows, columns, pixel, axes = _check_alike(name, headers)
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
    for target, header in zip(voxels, headers, strict=True):
        target[...] = _pixels(header)
    return voxels, geometry, Series(tuple(headers), path, b_value)


# What the headers say


def _numbers(header: pydicom.Dataset, keyword: str, count: int) -> np.ndarray:
    try:
        numbers = np.atleast_1d(np.asarray(header.get(keyword), float))  # of None: NaN
    except Exception:  # pydicom converts values only here, and raises what it likes
        numbers = np.array([])
    if len(numbers) != count or not np.isfinite(numbers).all():
        raise VolumeError(
            f"{header.filename}: has no valid {dictionary_description(keyword)} {Tag(keyword)}; "
            "copy it again, or export the original images"
        )
    return numbers


def _check_image(name: str, header: pydicom.Dataset) -> None:
    """Refuses what is not one grey slice of a stack."""
    file = Path(header.filename).name
    if int(header.get("NumberOfFrames") or 1) > 1 or "PerFrameFunctionalGroupsSequence" in header:
        raise VolumeError(
            f"{name}: {file} holds several frames (an enhanced or multi-frame image); export it as "
            "single-frame images, or convert it to NIfTI, for example with dcm2niix"
        )
    colours = int(header.get("SamplesPerPixel") or 1)
    if colours > 1 or header.get("PhotometricInterpretation") == "PALETTE COLOR":
        raise VolumeError(
            f"{name}: {file} is in colour, so a picture rather than a scan; name another series "
            "(--series UID)"
        )
    if "LOCALIZER" in (header.get("ImageType") or ()):
        raise VolumeError(
            f"{name}: {file} is a localizer; name another series (--series UID), or take the "
            "localizers out of the folder"
        )


def _check_alike(
    name: str, headers: Sequence[pydicom.Dataset]
) -> tuple[int, int, np.ndarray, np.ndarray]:
    """Returns rows, columns, pixel spacing (down, across; mm) and axes (x, y, normal) in LPS."""
    shared: dict[str, object] = {}
    for header in headers:
        rows, columns = (int(_numbers(header, word, 1)[0]) for word in ("Rows", "Columns"))
        own = {
            "size": (rows, columns),
            "pixel spacing": tuple(_numbers(header, "PixelSpacing", 2)),
            "orientation": _numbers(header, "ImageOrientationPatient", 6),
            "frame of reference": header.get("FrameOfReferenceUID"),
        }
        for what, value in (shared or own).items():
            close = SAME_DIRECTION if what == "orientation" else None
            same = np.allclose(own[what], value, 0, close) if close else own[what] == value
            if not same:
                raise VolumeError(
                    f"{name}: {Path(headers[0].filename).name} and {Path(header.filename).name} "
                    f"differ in {what}; keep the images of one stack in the folder, or name a "
                    "series of such (--series UID)"
                )
        shared = shared or own
    (rows, columns), pixel = shared["size"], np.asarray(shared["pixel spacing"])
    across, down = np.reshape(shared["orientation"], (2, 3))
    lengths = np.linalg.norm(across), np.linalg.norm(down)
    skew = abs(across @ down)
    if max(abs(lengths[0] - 1), abs(lengths[1] - 1), skew) > 1e-3 or pixel.min() <= 0 or rows < 1:
        raise VolumeError(
            f"{name}: {Path(headers[0].filename).name} has a pixel spacing or direction cosines "
            "that no grid can have; export the original images"
        )
    # Cosines are rounded in the file; ITK's, and so ours, are perpendicular.
    across = across / lengths[0]
    normal = np.cross(across, down)
    normal /= np.linalg.norm(normal)
    return rows, columns, pixel, np.stack([across, np.cross(normal, across), normal])


def _slice_spacing(
    name: str,
    headers: Sequence[pydicom.Dataset],
    positions: np.ndarray,
    pixel: np.ndarray,
    axes: np.ndarray,
) -> float:
    """Returns the distance in mm of slices in order, or refuses an uneven or a tilted stack."""
    if len(headers) == 1:  # no second position to measure to
        for keyword in ("SpacingBetweenSlices", "SliceThickness"):
            with contextlib.suppress(VolumeError):  # neither has to be there
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
            f"{usual:.4g} mm as a rule, so that one may be missing; export the series again, whole"
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


def _pixels(header: pydicom.Dataset) -> np.ndarray:
    """Decodes one image, (rows, columns) in the modality's unit."""
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
            f"{_install(syntax)}store the series uncompressed (for example with gdcmconv --raw)"
        )
    try:
        array = image.pixel_array
        if array.shape != (header.Rows, header.Columns):
            raise ValueError(f"decoded to {array.shape}")
        slope, intercept = header.get("RescaleSlope"), header.get("RescaleIntercept")
        return array * float(1 if slope is None else slope) + float(intercept or 0)
    except Exception as error:  # decoders fail in ways of their own
        other = f", or not decodable ({syntax.name}: store it uncompressed)" if coded else ""
        raise VolumeError(
            f"{path}: its pixels are cut off or damaged{other}; copy or export it again"
        ) from error


def _install(syntax: UID) -> str:
    """Says which package decodes a syntax; all of them are permissively licensed."""
    if syntax.name.startswith("High-Throughput JPEG 2000"):
        return "pip install pylibjpeg pylibjpeg-openjpeg, or "
    return "pip install python-gdcm, or " if "JPEG" in syntax.name else ""


def _can_decode(syntax: UID) -> bool:
    try:
        return get_decoder(syntax).is_available
    except NotImplementedError:
        return False
