"""Images and masks from disk to axial slices, and masks back onto the input's own grid.

NIfTI, NRRD, MetaImage and PNG are read through SimpleITK, DICOM through `imaging.dicom`. Voxels are
turned so that the first array axis runs from the patient's feet to the head, rows from front to
back, and columns from the patient's right to left (ITK's LPS). An oblique scan is turned to the
nearest axes. The turn only permutes and flips axes, so `to_original_grid` undoes it exactly.

Files that ITK would misread without an error are checked beforehand, by `headers` and `nifti`.
"""

import dataclasses
import gzip
import math
import os
import zlib
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from crlm_jax.imaging.bvals import take_volume
from crlm_jax.imaging.compressed import check_compressed
from crlm_jax.imaging.dicom import files
from crlm_jax.imaging.dicom.series import Series, read_series
from crlm_jax.imaging.geometry import (
    COMPLEX,
    GEOMETRY_TOLERANCE,
    NOT_FINITE,
    Geometry,
    VolumeError,
    check_size,
    check_spacing,
    nearest_rotation,
)
from crlm_jax.imaging.headers import check_deflated, check_text_header, spacing_doubts
from crlm_jax.imaging.nifti import check_nifti
from crlm_jax.imaging.nifti_forms import form_doubts
from crlm_jax.imaging.padding import corner_padding
from crlm_jax.imaging.pictures import check_picture
from crlm_jax.system.files import whole_file

ENDINGS = (".nii.gz", ".nii", ".nrrd", ".mha", ".mhd", ".png")  # of images other than DICOM
_PICTURES = (".png", ".jpg", ".jpeg", ".bmp")


@dataclasses.dataclass(frozen=True)
class Volume:
    """An image as axial slices."""

    voxels: np.ndarray  # (Z, H, W) float32
    geometry: Geometry  # of the file's own grid
    eight_bit: bool  # stored as uint8
    path: Path
    series: Series | None = None  # None if the image is not DICOM
    padding: np.ndarray | None = None  # (Z, H, W) bool, True where nothing was measured; None: none
    doubts: tuple[str, ...] = ()  # what the user should know of how it was read, a sentence each

    @property
    def measured(self) -> np.ndarray:
        """The voxels that are not padding: (Z, H, W), or (voxels,) where some are."""
        return self.voxels if self.padding is None else self.voxels[~self.padding]

    @property
    def spacing(self) -> tuple[float, float, float]:
        """Spacing (z, y, x) in mm."""
        return self.geometry.axial_spacing

    @property
    def frame_of_reference(self) -> str | None:
        """The Frame of Reference UID; None if the image does not say it, as DICOM alone does.

        Images of one frame have the same patient coordinates.
        """
        return self.series.headers[0].get("FrameOfReferenceUID") or None if self.series else None


def read_image(
    path: str | Path, *, series: str | None = None, b_value: float | None = None
) -> Volume:
    """Reads an image; a 2D image becomes one slice, with a nominal slice spacing of 1 mm.

    Args:
      path: of a file, or of the folder of a DICOM series.
      series: Series Instance UID, or a pattern of `dicom.listing`, to read from a DICOM folder with
        several series.
      b_value: s/mm², to read from a diffusion series with several b-values, DICOM or a NIfTI file
        with a `.bval` file beside it; None: 1000.

    Raises:
      VolumeError: the image cannot be used.
    """
    path = Path(path)
    if files.is_dicom(path):
        array, geometry, about = read_series(path, series=series, b_value=b_value)
        return _volume(array, geometry, about.doubts, path, about)
    if series is not None:
        raise VolumeError(f"{path}: not DICOM, so it has no series to choose; leave the series out")
    return _volume(*_unpack(take_volume(load(path), path, b_value), path), path)


def from_image(image: sitk.Image, source: str | Path = "image") -> Volume:
    """Turns a SimpleITK image into a `Volume`, as `read_image` does a file.

    `source` names the image in errors.
    """
    return _volume(*_unpack(image, Path(source)), Path(source))


def _volume(
    array: np.ndarray,
    geometry: Geometry,
    doubts: tuple[str, ...],
    path: Path,
    series: Series | None = None,
) -> Volume:
    check_spacing(path, geometry)
    voxels = geometry.to_axial(array).astype(np.float32, copy=False)
    low, high = voxels.min(), voxels.max()
    if not (np.isfinite(low) and np.isfinite(high)):  # the least of values with NaN is NaN
        raise VolumeError(f"{path}: {NOT_FINITE}")
    eight_bit, padding = array.dtype == np.uint8, None
    if series is not None and series.padding is not None:
        padding = geometry.to_axial(series.padding)
    elif not eight_bit and (series is None or series.modality != "CT"):
        padding = corner_padding(voxels, is_mr=series is not None and series.modality == "MR")
    volume = Volume(voxels, geometry, eight_bit, path, series, padding, doubts)
    if padding is not None and volume.measured.size:
        low, high = volume.measured.min(), volume.measured.max()
    if low == high or (padding is not None and padding.all()):
        but = " except for padding" * (padding is not None)
        raise VolumeError(
            f"{path}: every voxel is {low:g}{but}; an image without contrast cannot be "
            "segmented: export it again or leave it out"
        )
    return volume


def to_original_grid(array: np.ndarray, geometry: Geometry) -> sitk.Image:
    """Turns a mask or map (Z, H, W) of axial slices back to the file's own grid.

    Raises ValueError if the map has another shape than the image.
    """
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
    """Writes a compressed NIfTI, NRRD, MetaImage or PNG; the file appears whole or not at all.

    All images of the package are written here. ITK's writers do not report a full disk, so the file
    is read back and compared before it gets its name.

    Raises:
      VolumeError: the ending is none of these formats, or the format cannot hold the image.
      OSError: the folder is missing or full.
    """
    ending = next((e for e in ENDINGS if path.name.lower().endswith(e)), None)
    if ending in (None, ".mhd"):  # .mhd has its voxels in a second file
        endings = ", ".join(e for e in ENDINGS if e != ".mhd")
        raise VolumeError(f"{path}: cannot be written; choose one of the endings {endings}")
    if ending == ".png" and image.GetDimension() == 3:
        raise VolumeError(f"{path}: a PNG holds one slice; choose the ending .nii.gz")
    try:
        with whole_file(path) as temporary:
            sitk.WriteImage(image, str(temporary), useCompression=True)
            if not _is_written(image, temporary):
                raise OSError(f"{path}: {_NOT_WRITTEN}")
    except RuntimeError as error:  # all that SimpleITK raises
        raise OSError(f"{path}: {_NOT_WRITTEN}") from error


_NOT_WRITTEN = "cannot be written; see that the folder exists and has room"


def _is_written(image: sitk.Image, path: Path) -> bool:
    """Whether a file is complete and holds every voxel of the image.

    ITK fills up a truncated file with zeros, which are right in a mask that is 0 there.
    """
    try:
        if path.name.lower().endswith((".nii", ".nii.gz")):
            check_nifti(path)
        elif path.suffix.lower() == ".nrrd":  # ITK does not look at the checksum at its end
            gzip.decompress(path.read_bytes().partition(b"\n\n")[2])
    except (VolumeError, EOFError, gzip.BadGzipFile, zlib.error):
        return False
    written = sitk.ReadImage(str(path))
    return written.GetSize() == image.GetSize() and np.array_equal(
        sitk.GetArrayViewFromImage(written), sitk.GetArrayViewFromImage(image)
    )


def read_voxels(path: Path) -> tuple[np.ndarray, Geometry, tuple[str, ...]]:
    """Returns the grey voxels in the file's own order, (Z, H, W), their geometry, and doubts.

    Raises:
      VolumeError: the file cannot be read, or holds no 3D grey image.
    """
    return _unpack(load(path), path)


def load(path: Path) -> sitk.Image:
    """Reads an image file as it is.

    Raises:
      VolumeError: the file cannot be read.
    """
    if path.is_dir():
        raise VolumeError(f"{path}: a folder without a DICOM file; give an image file")
    if not path.is_file():
        raise VolumeError(f"{path}: file not found; correct the path")
    name = path.name.lower()
    if name.endswith((".hdr", ".img")):
        raise VolumeError(f"{path}: header and voxels in two files; convert it to .nii.gz")
    if not name.endswith((*ENDINGS, *_PICTURES, ".nhdr")):
        # Of other formats ITK shows foreign memory where a file is cut off, or takes dots per inch.
        raise VolumeError(
            f"{path}: not an image by its ending; copy it again if it was DICOM, or export it as "
            "NIfTI, NRRD, MHA or PNG"
        )
    if name.endswith((".nii", ".nii.gz")):
        check_nifti(path)
    check_text_header(path)
    check_picture(path)
    check_deflated([path])  # ITK recognises DICOM that `is_dicom` does not
    # ITK then takes the nearest rotation of any sheared NIfTI; `_unpack` decides if that is right.
    os.environ["ITK_NIFTI_SFORM_PERMISSIVE"] = "1"
    sitk.ProcessObject.SetGlobalWarningDisplay(False)  # else ITK prints its own words about it
    reader = sitk.ImageFileReader()
    reader.SetFileName(str(path))
    try:
        reader.ReadImageInformation()
        size = (*reader.GetSize(), reader.GetNumberOfComponents())
        check_size(path, size)
        check_compressed(path, math.prod(size))
        return reader.Execute()
    except RuntimeError as error:
        if "Zero-valued spacing" in str(error):
            raise VolumeError(
                f"{path}: its header says a spacing of 0 mm, so that no volume can be measured; "
                "export it again with the spacing of the scan"
            ) from error
        raise VolumeError(
            f"{path}: not a readable image, or cut off; copy it again, or export it as NIfTI, "
            "NRRD, MHA or PNG"
        ) from error


def _unpack(image: sitk.Image, path: Path) -> tuple[np.ndarray, Geometry, tuple[str, ...]]:
    if "complex" in image.GetPixelIDTypeAsString():
        raise VolumeError(f"{path}: {COMPLEX}")
    array = sitk.GetArrayViewFromImage(image)
    if image.GetNumberOfComponentsPerPixel() > 1:
        array = _grey(path, array)
    size = image.GetSize()
    if len(size) == 4 and size[3] == 1:
        image, array, size = image[..., 0], array[0], size[:3]
    if len(size) > 3:
        raise VolumeError(
            f"{path}: has {len(size)} dimensions ({' × '.join(map(str, size))}); save the one 3D "
            "volume that is to be segmented as its own file, or for DWI put the .bval file of "
            "dcm2niix beside it"
        )
    geometry, doubts = read_geometry(image, path)
    array = array.copy()  # the view is valid only as long as the image
    return (array[None] if len(size) == 2 else array), geometry, doubts


def read_geometry(image: sitk.Image, path: Path) -> tuple[Geometry, tuple[str, ...]]:
    """Returns the geometry of a 2D or 3D image, and doubts about it.

    Raises:
      VolumeError: the axes are clearly not perpendicular, or the spacing cannot be that of a scan.
    """
    size = image.GetSize()
    if len(size) == 2 and path.name.lower().endswith(_PICTURES):  # dots per inch are no spacing
        return Geometry(size, (1.0, 1.0), (0.0, 0.0), (1.0, 0.0, 0.0, 1.0)), ()
    direction = image.GetDirection()
    doubts: tuple[str, ...] = ()
    if image.GetDimension() == 3:
        direction, doubts = _upright(image, path)
        doubts = (*doubts, *form_doubts(path))
    geometry = Geometry(size, image.GetSpacing(), image.GetOrigin(), direction)
    check_spacing(path, geometry)
    return geometry, (*doubts, *spacing_doubts(path))


def _upright(image: sitk.Image, path: Path) -> tuple[tuple[float, ...], tuple[str, ...]]:
    """Returns the direction of a 3D image, made a rotation if it is slightly off, and doubts.

    Raises:
      VolumeError: the axes are clearly not perpendicular.
    """
    own = image.GetDirection()
    corrected = image.HasMetaDataKey(_CORRECTED) and image.GetMetaData(_CORRECTED) == "YES"
    stated = own
    if corrected:  # ITK has taken the nearest rotation; the file's own axes are in these rows
        rows = [image.GetMetaData(f"srow_{axis}").split()[:3] for axis in "xyz"]
        stated = tuple(float(value) for row in rows for value in row)
    rotation, off = nearest_rotation(path, stated)
    if off <= GEOMETRY_TOLERANCE:
        return own, ()
    doubt = (
        f"its axes are not quite perpendicular (direction cosines are off by {off:.2g}), as after "
        "a registration; the nearest rotation is taken"
    )
    return own if corrected else tuple(rotation.ravel().tolist()), (doubt,)


_CORRECTED = "ITK_sform_corrected"


def _grey(path: Path, array: np.ndarray) -> np.ndarray:
    """Returns the grey values of an image whose colour channels are all equal."""
    channels = array.shape[-1]
    values = array
    if channels in (2, 4):  # the last channel may be opacity
        values, opacity = array[..., :-1], array[..., -1]
        if (opacity != opacity.flat[0]).any():
            values = array
    if (values != values[..., :1]).any():
        raise VolumeError(
            f"{path}: a colour image ({channels} channels that differ); save it as a grey image"
        )
    return values[..., 0]
