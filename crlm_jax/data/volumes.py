"""Images and masks from disk to axial slices, and masks back onto the input's own grid.

NIfTI, NRRD, MetaImage and PNG are read through SimpleITK and turned so that the first array axis
runs along the patient from feet to head, rows from front to back and columns from the patient's
right to left (ITK's LPS), to the nearest axis where the scan is oblique. The turn is a permutation
and flips only, so `to_original_grid` undoes it exactly.

What ITK lets pass without a word is checked here: its NIfTI reader fills a truncated file up with
zeros and turns voxels that are NaN or infinite into zeros.
"""

import dataclasses
import gzip
import math
import struct
import zlib
from pathlib import Path
from typing import BinaryIO

import numpy as np
import SimpleITK as sitk

from crlm_jax.data.geometry import Geometry, VolumeError, check_same_grid


@dataclasses.dataclass(frozen=True)
class Volume:
    """An image as axial slices: `voxels` (Z, H, W) float32, `spacing` (z, y, x) in mm."""

    voxels: np.ndarray
    spacing: tuple[float, float, float]
    geometry: Geometry
    eight_bit: bool
    path: Path


def read_image(path: str | Path) -> Volume:
    """Reads an image; a 2D one is a single slice with a nominal spacing of 1 mm between slices."""
    path = Path(path)
    array, geometry = _read(path)
    voxels = _turn(array, geometry).astype(np.float32)
    if not np.isfinite(voxels).all():
        raise VolumeError(f"{path}: {_NOT_FINITE}")
    if voxels.min() == voxels.max():
        raise VolumeError(
            f"{path}: every voxel is {voxels.flat[0]:g}; an image without contrast cannot be "
            "segmented: export it again or leave it out"
        )
    return Volume(voxels, _turned_spacing(geometry), geometry, array.dtype == np.uint8, path)


def read_mask(path: str | Path, label: int | None, like: Volume) -> np.ndarray:
    """Reads the mask of an image as bool (Z, H, W).

    Args:
      path: of the mask.
      label: the value that counts; None: any that is not zero. A mask of zeros alone is an image
        without tumour.
      like: the image; sizes must be equal, and geometries to `geometry.GEOMETRY_TOLERANCE`.
    """
    path = Path(path)
    array, geometry = _read(path)
    check_same_grid(f"the mask {path} and the image {like.path}", geometry, like.geometry)
    if array.dtype.kind == "f":
        if not np.isfinite(array).all():
            raise VolumeError(f"{path}: {_NOT_FINITE}")
        if (array != np.round(array)).any():
            off = array[array != np.round(array)].flat[0]
            raise VolumeError(
                f"{path}: a mask holds whole numbers, but this has {off:g}; export it as a label "
                "map, without smoothing or interpolation"
            )
    mask = array != 0 if label is None else array == label
    if label is not None and not mask.any() and (array != 0).any():
        found = ", ".join(f"{value:g}" for value in np.unique(array[array != 0])[:20])
        raise VolumeError(
            f"{path}: no voxel has mask_label {label}; the labels in it are {found}: correct "
            "mask_label, or leave it empty to take any that is not zero"
        )
    return _turn(mask, geometry)


def to_original_grid(mask: np.ndarray, volume: Volume) -> sitk.Image:
    """Puts a mask or map (Z, H, W) onto the file's own size, spacing, origin and direction."""
    geometry = volume.geometry
    if mask.shape != volume.voxels.shape:
        raise ValueError(f"shape {mask.shape} is not the image's {volume.voxels.shape}")
    axes, flips = geometry.turn
    array = np.flip(mask, flips).transpose(np.argsort(axes))
    array = array.astype(np.uint8) if array.dtype == bool else np.ascontiguousarray(array)
    image = sitk.GetImageFromArray(array[0] if len(geometry.size) == 2 else array, isVector=False)
    image.SetSpacing(geometry.spacing)
    image.SetOrigin(geometry.origin)
    image.SetDirection(geometry.direction)
    return image


def to_uint8(
    volume: Volume, condition: str, *, ct_window: tuple[float, float] = (-150.0, 250.0)
) -> np.ndarray:
    """Maps an image to grey levels, uint8 (Z, H, W).

    An 8-bit image (a PNG, as a rule) was windowed at its source and is taken as it is. Otherwise a
    CT (condition `ct` or beginning with `ct_`) is shown in `ct_window` (lower and upper HU), and an
    MRI, whose values have no unit, between the 0.5 and 99.5 percentiles of its own voxels.
    """
    if volume.eight_bit:
        return volume.voxels.astype(np.uint8)
    if condition == "ct" or condition.startswith("ct_"):
        low, high = ct_window
    else:
        low, high = np.percentile(volume.voxels, (0.5, 99.5))
        if low == high:  # more than 99 % of one value
            low, high = volume.voxels.min(), volume.voxels.max()
    scaled = (volume.voxels - np.float32(low)) * np.float32(255 / (high - low))
    return np.rint(np.clip(scaled, 0, 255, out=scaled), out=scaled).astype(np.uint8)


def resize(voxels: np.ndarray, size: int | tuple[int, int], *, nearest: bool = False) -> np.ndarray:
    """Resamples every slice of (Z, H, W) to `size` (square, or rows and columns).

    Both grids cover the same extent, so pixel centres lie at (i + 0.5) / n of it; values beyond
    the outermost centres are those of the border. Linear interpolation (of the two nearest pixels
    along each axis, without smoothing) gives uint8 for uint8 and else float32; `nearest`, for
    masks, keeps the type.
    """
    rows, columns = (size, size) if isinstance(size, int) else size
    height, width = voxels.shape[1:]
    if (rows, columns) == (height, width):
        return voxels.copy()
    if nearest:
        row = np.minimum((np.arange(rows) + 0.5) * height / rows, height - 1).astype(int)
        column = np.minimum((np.arange(columns) + 0.5) * width / columns, width - 1).astype(int)
        return voxels[:, row[:, None], column[None, :]]
    if voxels.dtype != np.uint8 and voxels.dtype.kind != "f":
        raise ValueError(f"linear resize of {voxels.dtype}: takes uint8 or float; use nearest=True")
    out = np.empty((len(voxels), rows, columns), np.uint8 if voxels.dtype == np.uint8 else "f4")
    top, bottom, down = _taps(height, rows)
    left, right, across = _taps(width, columns)
    down = down[:, None]
    for source, target in zip(voxels, out, strict=True):  # one slice at a time stays in cache
        source = source.astype(np.float32)
        lines = source[top] + (source[bottom] - source[top]) * down
        pixels = lines[:, left] + (lines[:, right] - lines[:, left]) * across
        target[...] = np.rint(pixels) if out.dtype == np.uint8 else pixels
    return out


def _taps(old: int, new: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The two old pixels on either side of every new one, and the weight of the second."""
    centre = np.clip((np.arange(new) + 0.5) * old / new - 0.5, 0, old - 1)
    first = np.minimum(centre.astype(int), max(old - 2, 0))
    return first, np.minimum(first + 1, old - 1), (centre - first).astype(np.float32)


_NOT_FINITE = (
    "it has voxels that are NaN or infinite; replace them (for example by the background's value) "
    "and save it again"
)
_CUT_OFF = "the file is cut off or damaged ({}); copy or export it again"


def _turn(array: np.ndarray, geometry: Geometry) -> np.ndarray:
    axes, flips = geometry.turn
    return np.ascontiguousarray(np.flip(array.transpose(axes), flips))


def _turned_spacing(geometry: Geometry) -> tuple[float, float, float]:
    if len(geometry.size) == 2:
        return (1.0, geometry.spacing[1], geometry.spacing[0])
    axes, _ = geometry.turn
    return tuple(geometry.spacing[::-1][axis] for axis in axes)


def _read(path: Path) -> tuple[np.ndarray, Geometry]:
    """Returns the grey voxels in the file's own order, (Z, H, W), and their geometry."""
    if not path.is_file():
        raise VolumeError(f"{path}: file not found; correct the path")
    name = path.name.lower()
    if name.endswith((".hdr", ".img")):
        raise VolumeError(f"{path}: header and voxels in two files; convert it to .nii.gz")
    if name.endswith((".nii", ".nii.gz")):
        _check_nifti(path)
    try:
        image = sitk.ReadImage(str(path))
    except RuntimeError as error:
        raise VolumeError(
            f"{path}: not an image that can be read, or cut off; copy it again, or export it as "
            "NIfTI, NRRD, MHA or PNG"
        ) from error
    array = sitk.GetArrayViewFromImage(image)
    if image.GetNumberOfComponentsPerPixel() > 1:
        array = _grey(path, array)
    size = image.GetSize()
    if len(size) == 4 and size[3] == 1:
        image, array, size = image[..., 0], array[0], size[:3]
    if len(size) > 3:
        raise VolumeError(
            f"{path}: has {len(size)} dimensions ({' × '.join(map(str, size))}); save the one 3D "
            "volume that is to be segmented (for DWI: one b-value) by itself"
        )
    geometry = Geometry(size, image.GetSpacing(), image.GetOrigin(), image.GetDirection())
    if name.endswith((".png", ".jpg", ".jpeg", ".bmp")):  # a picture's resolution is of no meaning
        geometry = Geometry(size, (1.0, 1.0), (0.0, 0.0), (1.0, 0.0, 0.0, 1.0))
    array = array.copy()  # the view dies with the image
    return (array[None] if len(size) == 2 else array), geometry


def _grey(path: Path, array: np.ndarray) -> np.ndarray:
    """Takes the grey values out of an image with several channels that are all alike."""
    channels = array.shape[-1]
    values = array
    if channels in (2, 4):  # with opacity
        values, opacity = array[..., :-1], array[..., -1]
        if (opacity != opacity.flat[0]).any():
            values = array
    if (values != values[..., :1]).any():
        raise VolumeError(
            f"{path}: in colour ({channels} channels that differ); save it as a grey image"
        )
    return values[..., 0]


_NIFTI_FLOATS = {16: "f4", 64: "f8"}


def _check_nifti(path: Path) -> None:
    """Reads a NIfTI file to its end: is all of it there, and is every voxel a number?

    The layout of the header is that of nifti1.h and nifti2.h.
    """
    opener = gzip.open if path.name.lower().endswith(".gz") else open
    try:
        with opener(path, "rb") as stream:
            head = stream.read(544)
            first = head[:4]
            order = next((o for o in "<>" if first == struct.pack(f"{o}i", 348)), None)
            order2 = next((o for o in "<>" if first == struct.pack(f"{o}i", 540)), None)
            if order and len(head) >= 348:
                dims = struct.unpack_from(f"{order}8h", head, 40)
                datatype, bits = struct.unpack_from(f"{order}2h", head, 70)
                start = int(struct.unpack_from(f"{order}f", head, 108)[0])
            elif order2 and len(head) >= 540:
                order = order2
                datatype, bits = struct.unpack_from(f"{order}2h", head, 12)
                dims = struct.unpack_from(f"{order}8q", head, 16)
                start = struct.unpack_from(f"{order}q", head, 168)[0]
            else:
                raise VolumeError(
                    f"{path}: not a NIfTI file, whatever its name says; export it again as .nii.gz"
                )
            length = math.prod(max(1, n) for n in dims[1 : 1 + dims[0]]) * bits // 8
            stream.seek(start)
            finite, missing = _drain(stream, length, _NIFTI_FLOATS.get(datatype), order)
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise VolumeError(f"{path}: {_CUT_OFF.format(str(error).rstrip('.'))}") from error
    if missing:
        reason = f"{missing} of {length} bytes of voxels are missing"
        raise VolumeError(f"{path}: {_CUT_OFF.format(reason)}")
    if not finite:
        raise VolumeError(f"{path}: {_NOT_FINITE}")


def _drain(stream: BinaryIO, length: int, dtype: str | None, order: str) -> tuple[bool, int]:
    """Reads the voxels and whatever follows them; returns (all finite, bytes missing)."""
    finite, step = True, 1 << 20  # bytes; a multiple of every voxel's size
    while length and (chunk := stream.read(min(step, length))):
        length -= len(chunk)
        if dtype and len(chunk) % np.dtype(dtype).itemsize == 0:
            finite = finite and bool(np.isfinite(np.frombuffer(chunk, order + dtype)).all())
    while stream.read(step):  # to the end: only there gzip's checksum is compared
        pass
    return finite, length
