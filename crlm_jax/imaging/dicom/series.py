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

from crlm_jax.imaging.dicom.cut import empty_doubts
from crlm_jax.imaging.dicom.diffusion import choose_images
from crlm_jax.imaging.dicom.files import as_volume_error, beside, choose_series, read_file
from crlm_jax.imaging.dicom.frames import name_of, numbers
from crlm_jax.imaging.dicom.mosaic import is_tiled, split_tiles
from crlm_jax.imaging.dicom.multiframe import check_complete, check_one_stack, split_frames
from crlm_jax.imaging.dicom.pixels import read_pixels
from crlm_jax.imaging.geometry import (
    GEOMETRY_TOLERANCE,
    SLIGHT_SHEAR,
    Geometry,
    VolumeError,
    check_size,
    nearest_rotation,
)
from crlm_jax.imaging.headers import check_deflated

# How far a slice may lie from its place on the even grid, as a share of the spacing. Positions are
# decimal text, often with one or two digits after the point, so that the slices of a true grid
# stray from the line through its ends. A missing slice makes them stray by half a spacing or more.
UNEVEN = 0.1
OFF_GRID = 0.2  # of a voxel: how far a slice, or a frame of a mask, may lie off the grid in plane
SAME_DIRECTION = 1e-4  # of a direction cosine; exports keep four digits or more
SAME_SPACING = 1e-4  # of the pixel spacing; 0.05 of a pixel at the far edge of 512
ROUNDED = 0.101  # mm off the even grid: positions rounded to a tenth of a millimetre


@dataclasses.dataclass(frozen=True)
class Series:
    """The headers of a series that was read as a volume.

    `headers` are without pixels, one per slice, in the order of the volume; slices that share a
    file are `frames.Frame`. `path` is the file or
    folder as it was given. `b_value` (s/mm²) is the one that the chosen images state, or None.
    `padding` is bool (slices, rows, columns), True where the headers mark padding; None if they
    mark none. `doubts` say what the user should know of how the series was read, a sentence each.
    """

    headers: tuple[pydicom.Dataset, ...]
    path: Path
    b_value: float | None
    padding: np.ndarray | None = None
    doubts: tuple[str, ...] = ()

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
    """Reads one series as a volume: an image a slice, multi-frame ("enhanced") images, or MOSAIC.

    Args:
      path: the folder of the files, or one file of the series in that folder. Where one Series
        Instance UID has several Series Numbers, a file stands for those of its own number.
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
    headers = _read_headers(name, files)
    with as_volume_error(name):
        check_one_stack(name, headers)
        headers = _of_same_number(path, headers)
        first = _check_alike(name, headers)
        rows, columns, pixel = first.rows, first.columns, first.pixel
        axes, doubts = _axes(name, first)
        positions = np.stack([numbers(header, "ImagePositionPatient", 3) for header in headers])
        choice = choose_images(name, headers, positions @ axes[2], b_value)
    chosen = sorted(choice.images, key=lambda index: positions[index] @ axes[2])
    headers, positions = [headers[index] for index in chosen], positions[chosen]
    spacing, uneven = _slice_spacing(name, headers, positions, pixel, axes)
    geometry = Geometry(
        (columns, rows, len(headers)),
        (float(pixel[1]), float(pixel[0]), spacing),
        tuple(positions[0].tolist()),
        tuple(axes.T.ravel().tolist()),  # ITK's columns are the axes
    )
    check_size(path, (columns, rows, len(headers)))
    voxels = np.empty((len(headers), rows, columns), np.float32)
    padding = np.zeros(voxels.shape, bool)
    for index, (values, marked) in enumerate(read_pixels(headers)):
        voxels[index] = values
        padding[index] = False if marked is None else marked
    marks = padding if padding.any() else None
    folder = path if path.is_dir() else path.parent
    of_files = empty_doubts(beside(folder, files), files)
    doubts = (*doubts, *choice.doubts, *uneven, *_inverted(headers), *of_files)
    return voxels, geometry, Series(tuple(headers), path, choice.b_value, marks, doubts)


# Headers


def _read_headers(name: str, files: Sequence[Path]) -> list[pydicom.Dataset]:
    """Reads the header of each slice, or of each frame and tile where files hold several."""
    headers, whole = [], []
    for file in files:
        header = read_file(file, stop_before_pixels=True)
        with as_volume_error(file):
            _check_image(name, header)
            tiled = is_tiled(header)
        whole.append(header)
        headers += split_tiles(header) if tiled else split_frames(header)
    with as_volume_error(name):
        check_complete(name, whole)
    return headers


def _of_same_number(path: Path, headers: list[pydicom.Dataset]) -> list[pydicom.Dataset]:
    """Returns the images with the Series Number of a file that stands for its series.

    All are returned where those images are not a whole stack: some exports number every image.
    """
    number = {str(header.filename): header.get("SeriesNumber") for header in headers}
    if path.is_dir() or len(set(number.values())) == 1:
        return headers

    def places(some: Sequence[pydicom.Dataset]) -> set[str]:
        return {str(header.get("ImagePositionPatient")) for header in some}

    same = [header for header in headers if header.get("SeriesNumber") == number.get(str(path))]
    return same if places(same) == places(headers) else headers


@dataclasses.dataclass(frozen=True)
class _Plane:
    """What all slices of a stack have in common."""

    file: str
    rows: int
    columns: int
    pixel: np.ndarray  # (2,) spacing down and across, mm
    orientation: np.ndarray  # (6,) direction cosines along a row and down a column, LPS
    frame_of_reference: str | None


def _check_image(name: str, header: pydicom.Dataset) -> None:
    """Raises VolumeError if an image is not one grey slice of a stack."""
    file = Path(header.filename).name
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


def _inverted(headers: Sequence[pydicom.Dataset]) -> tuple[str, ...]:
    """Says that low values are meant to be white; in CT they are HU, whatever they are shown as."""
    shown = {header.get("PhotometricInterpretation") for header in headers}
    if "MONOCHROME1" not in shown or headers[0].get("Modality") == "CT":
        return ()
    return (
        "its lowest values are to be shown white (MONOCHROME1), but are taken as black, so that "
        "bright and dark may be exchanged; export it as MONOCHROME2",
    )


def _check_alike(name: str, headers: Sequence[pydicom.Dataset]) -> _Plane:
    """Returns what all slices share; raises VolumeError if one of them differs."""
    planes = [_plane(header) for header in headers]
    first = planes[0]
    for plane in planes[1:]:
        differs = {
            "size": (plane.rows, plane.columns) != (first.rows, first.columns),
            "pixel spacing": not np.allclose(plane.pixel, first.pixel, rtol=SAME_SPACING, atol=0),
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
    rows, columns = (int(numbers(header, keyword, 1)[0]) for keyword in ("Rows", "Columns"))
    return _Plane(
        name_of(header),
        rows,
        columns,
        numbers(header, "PixelSpacing", 2),
        numbers(header, "ImageOrientationPatient", 6),
        header.get("FrameOfReferenceUID"),
    )


def _axes(name: str, plane: _Plane) -> tuple[np.ndarray, tuple[str, ...]]:
    """Returns the directions of x, y and the normal in LPS, (3, 3), one per row, and doubts.

    They are the rotation nearest to the direction cosines, which are rounded in the file.
    """
    across, down = np.reshape(plane.orientation, (2, 3))
    if plane.pixel.min() <= 0 or plane.rows < 1:
        raise VolumeError(
            f"{name}: {plane.file} has an invalid pixel spacing; export the original images"
        )
    lengths = np.linalg.norm(across), np.linalg.norm(down)
    normal = np.cross(across, down)
    columns = np.stack([across, down, normal], axis=1)
    off = float(max(abs(lengths[0] - 1), abs(lengths[1] - 1)))
    with contextlib.suppress(VolumeError):  # the message below fits DICOM better
        if off <= SLIGHT_SHEAR:
            rotation, skew = nearest_rotation(Path(name), columns.ravel().tolist())
            off = max(off, skew)
            doubt = (
                "its direction cosines are not quite perpendicular unit vectors (off by "
                f"{off:.2g}); the nearest rotation is taken"
            )
            return rotation.T, (doubt,) if off > GEOMETRY_TOLERANCE else ()
    raise VolumeError(
        f"{name}: {plane.file} has direction cosines (Image Orientation) that are not perpendicular"
        f" unit vectors (lengths {lengths[0]:.4g} and {lengths[1]:.4g}, product "
        f"{across @ down:.2g}); export the original images"
    )


def _slice_spacing(
    name: str,
    headers: Sequence[pydicom.Dataset],
    positions: np.ndarray,
    pixel: np.ndarray,
    axes: np.ndarray,
) -> tuple[float, tuple[str, ...]]:
    """Returns the distance in mm of ordered slices, and doubts.

    Raises VolumeError if the stack is uneven, or tilted against its normal.
    """
    if len(headers) == 1:  # no second position to measure the distance to
        for keyword in ("SpacingBetweenSlices", "SliceThickness"):
            with contextlib.suppress(VolumeError):  # both are optional
                if (size := float(numbers(headers[0], keyword, 1)[0])) > 0:
                    return size, ()
        return 1.0, ()
    offsets = (positions - positions[0]) @ axes.T  # mm along x, y, normal
    heights = offsets[:, 2]
    step = heights[-1] / (len(headers) - 1)
    off = np.abs(heights - step * np.arange(len(headers)))
    if off.max() > max(UNEVEN * step, min(ROUNDED, step / 4)):
        gaps = np.diff(heights)
        usual = np.median(gaps)
        worst = int(np.abs(gaps - usual).argmax())
        pair = " and ".join(name_of(header) for header in headers[worst : worst + 2])
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
    doubts: tuple[str, ...] = ()
    if off.max() > max(UNEVEN / 10 * step, ROUNDED):
        doubts = (
            f"its slices are not quite evenly spaced (off by up to {off.max():.2g} mm at a spacing "
            f"of {step:.4g} mm); an even spacing is taken",
        )
    return float(step), doubts
