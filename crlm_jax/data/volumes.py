"""Images and masks from disk to axial slices, and masks back onto the input's own grid.

NIfTI, NRRD, MetaImage and PNG are read through SimpleITK, DICOM through `data/dicom.py`, and turned
so that the first array axis runs along the patient from feet to head, rows from front to back and
columns from the patient's right to left (ITK's LPS), to the nearest axis where the scan is oblique.
The turn is a permutation and flips only, so `to_original_grid` undoes it exactly.

What ITK lets pass without a word is checked here: its NIfTI reader fills a truncated file up with
zeros and turns voxels that are NaN or infinite into zeros.
"""

import dataclasses
import os
import uuid
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from crlm_jax.data import dicom, dicom_seg
from crlm_jax.data.geometry import (
    NOT_FINITE,
    Geometry,
    VolumeError,
    check_same_grid,
    check_size,
)
from crlm_jax.data.headers import check_deflated, check_text_header
from crlm_jax.data.nifti import check_nifti

ENDINGS = (".nii.gz", ".nii", ".nrrd", ".mha", ".mhd", ".png")  # of images, besides DICOM
_PICTURES = (".png", ".jpg", ".jpeg", ".bmp")


@dataclasses.dataclass(frozen=True)
class Volume:
    """An image as axial slices: `voxels` (Z, H, W) float32.

    `series` is what a DICOM series says of itself; None: the image is no DICOM.
    """

    voxels: np.ndarray
    geometry: Geometry
    eight_bit: bool
    path: Path
    series: dicom.Series | None = None

    @property
    def spacing(self) -> tuple[float, float, float]:
        """Spacing (z, y, x) in mm."""
        return self.geometry.axial_spacing


def read_image(
    path: str | Path, *, series: str | None = None, b_value: float | None = None
) -> Volume:
    """Reads an image; a 2D one is a single slice with a nominal spacing of 1 mm between slices.

    Args:
      path: of a file, or of the folder of a DICOM series.
      series: UID of the one to take out of a DICOM folder with several.
      b_value: s/mm², the one to take out of a DICOM diffusion series with several; None: 1000.

    Raises:
      VolumeError: naming the file and the remedy.
    """
    path = Path(path)
    if dicom.is_dicom(path):
        array, geometry, about = dicom.read_series(path, series=series, b_value=b_value)
        return _volume(array, geometry, path, about)
    if series is not None or b_value is not None:
        what = "series" if series is not None else "b-value"
        raise VolumeError(f"{path}: a {what} is asked for, but this is no DICOM; leave it out")
    return _volume(*_read(path), path)


def from_image(image: sitk.Image, source: str | Path = "image") -> Volume:
    """Takes a SimpleITK image as `read_image` takes a file; `source` names it in errors."""
    return _volume(*_unpack(image, Path(source)), Path(source))


def _volume(
    array: np.ndarray, geometry: Geometry, path: Path, series: dicom.Series | None = None
) -> Volume:
    voxels = geometry.to_axial(array).astype(np.float32, copy=False)
    low, high = voxels.min(), voxels.max()
    if not (np.isfinite(low) and np.isfinite(high)):  # NaN wins every comparison
        raise VolumeError(f"{path}: {NOT_FINITE}")
    if low == high:
        raise VolumeError(
            f"{path}: every voxel is {low:g}; an image without contrast cannot be "
            "segmented: export it again or leave it out"
        )
    return Volume(voxels, geometry, array.dtype == np.uint8, path, series)


def read_mask(path: str | Path, label: int | str | None, like: Volume) -> np.ndarray:
    """Reads the mask of an image as bool (Z, H, W).

    Args:
      path: of the mask.
      label: the value that counts, or a pattern of the labels of a DICOM-SEG's segments; None: any
        value that is not zero, or `Tumor*`. A mask without the value is an image without tumour,
        as there are in every data set of liver and tumour; a DICOM-SEG without it is an error.
      like: the image; sizes must be equal, and geometries to `geometry.GEOMETRY_TOLERANCE`. The
        frames of a DICOM-SEG are placed by their position and may be fewer.
    """
    path = Path(path)
    if dicom.is_dicom(path):
        pattern = {} if label is None else {"labels": str(label)}
        return like.geometry.to_axial(
            dicom_seg.read_segmentation(path, like.geometry, like.series, **pattern)
        )
    array, geometry = read_label_map(path)
    check_same_grid(f"the mask {path} and the image {like.path}", geometry, like.geometry)
    return geometry.to_axial(array != 0 if label is None else array == label)


def read_label_map(path: Path) -> tuple[np.ndarray, Geometry]:
    """Reads whole numbers in the file's own order, (Z, H, W), and where they lie."""
    array, geometry = _read(path)
    if array.dtype.kind == "f":
        if not np.isfinite(array).all():
            raise VolumeError(f"{path}: {NOT_FINITE}")
        if (array != np.round(array)).any():
            off = array[array != np.round(array)].flat[0]
            raise VolumeError(
                f"{path}: a mask holds whole numbers, but this has {off:g}; export it as a label "
                "map, without smoothing or interpolation"
            )
    return array, geometry


def to_original_grid(array: np.ndarray, geometry: Geometry) -> sitk.Image:
    """Puts a mask or map (Z, H, W) onto the file's own size, spacing, origin and direction."""
    array = geometry.from_axial(array.astype(np.uint8) if array.dtype == bool else array)
    size = (*geometry.size, 1)[:3]
    if array.shape != size[::-1]:
        raise ValueError(f"the map's shape, {array.shape[::-1]} voxels, is not the image's, {size}")
    image = sitk.GetImageFromArray(array[0] if len(geometry.size) == 2 else array, isVector=False)
    image.SetSpacing(geometry.spacing)
    image.SetOrigin(geometry.origin)
    image.SetDirection(geometry.direction)
    return image


def write_image(image: sitk.Image, path: Path) -> None:
    """Writes a NIfTI, NRRD, MetaImage or PNG, compressed; it appears whole or not at all."""
    ending = next((e for e in ENDINGS if path.name.lower().endswith(e)), None)
    if ending in (None, ".mhd"):  # .mhd would need its voxels in a second file
        endings = ", ".join(e for e in ENDINGS if e != ".mhd")
        raise VolumeError(f"{path}: cannot be written; choose one of the endings {endings}")
    if ending == ".png" and image.GetDimension() == 3:
        raise VolumeError(f"{path}: a PNG holds one slice; choose the ending .nii.gz")
    temporary = path.with_name(f".{uuid.uuid4().hex}{ending}")
    try:
        sitk.WriteImage(image, str(temporary), useCompression=True)
        os.replace(temporary, path)
    except RuntimeError as error:
        raise OSError(
            f"{path}: cannot be written; see that the folder is there and has room"
        ) from error
    finally:
        temporary.unlink(missing_ok=True)


def is_ct(condition: str) -> bool:
    """Whether images of a condition are shown in a window of HU: `ct`, or beginning with `ct_`."""
    return condition == "ct" or condition.startswith("ct_")


def modality_doubt(volume: Volume, condition: str) -> str | None:
    """Says why an image looks like another modality than its condition's; None: it does not.

    By the modality of a DICOM series; else by its range: CT in HU has voxels of fat or air below
    zero, and the magnitude images of MRI have none far below. An 8-bit image tells nothing.
    """
    if volume.series is not None:
        modality, expected = volume.series.modality, "CT" if is_ct(condition) else "MR"
        return None if modality == expected else f"its DICOM modality is {modality}"
    if volume.eight_bit:
        return None
    if is_ct(condition):
        low = volume.voxels.min()
        return f"no voxel is below 0 HU (least: {low:g})" if low >= 0 else None
    low = float(np.percentile(volume.voxels[:, ::4, ::4], 1))
    return f"1 % of its voxels are below {low:g}, as in CT" if low < -100 else None


def find_window(
    volume: Volume, condition: str, ct_window: tuple[float, float] = (-150.0, 250.0)
) -> tuple[float, float]:
    """Returns the values of an image that are shown as black and white.

    An 8-bit image (a PNG, as a rule) was windowed at its source: 0 and 255. Otherwise of a CT
    (condition `ct` or beginning with `ct_`) `ct_window` (lower and upper HU), and of an MRI, whose
    values have no unit, the 0.5 and 99.5 percentiles of its own voxels.
    """
    if volume.eight_bit:
        return 0.0, 255.0
    if is_ct(condition):
        return ct_window
    low, high = np.percentile(volume.voxels, (0.5, 99.5))
    if low == high:  # more than 99 % of one value
        low, high = volume.voxels.min(), volume.voxels.max()
    return float(low), float(high)


def to_uint8(
    volume: Volume, condition: str, *, ct_window: tuple[float, float] = (-150.0, 250.0)
) -> np.ndarray:
    """Maps an image to grey levels, uint8 (Z, H, W), by its `find_window`."""
    if volume.eight_bit:
        return volume.voxels.astype(np.uint8)
    low, high = find_window(volume, condition, ct_window)
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


def _read(path: Path) -> tuple[np.ndarray, Geometry]:
    """Returns the grey voxels in the file's own order, (Z, H, W), and their geometry."""
    if path.is_dir():
        raise VolumeError(f"{path}: a folder without a DICOM image; name an image file")
    if not path.is_file():
        raise VolumeError(f"{path}: file not found; correct the path")
    name = path.name.lower()
    if name.endswith((".hdr", ".img")):
        raise VolumeError(f"{path}: header and voxels in two files; convert it to .nii.gz")
    if name.endswith((".nii", ".nii.gz")):
        check_nifti(path)
    check_text_header(path)
    check_deflated([path])  # ITK takes DICOM by any name, also by one that is not taken for it here
    reader = sitk.ImageFileReader()
    reader.SetFileName(str(path))
    try:
        reader.ReadImageInformation()
        check_size(path, (*reader.GetSize(), reader.GetNumberOfComponents()))
        image = reader.Execute()
    except RuntimeError as error:
        raise VolumeError(
            f"{path}: not an image that can be read, or cut off; copy it again, or export it as "
            "NIfTI, NRRD, MHA or PNG"
        ) from error
    return _unpack(image, path)


def _unpack(image: sitk.Image, path: Path) -> tuple[np.ndarray, Geometry]:
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
    if len(size) == 2 and path.name.lower().endswith(_PICTURES):  # its resolution means nothing
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
