"""Files whose headers or names say something odd: each is read, or refused by what it is."""

import gzip
import struct
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from pydicom.uid import RTPlanStorage

from crlm_jax.imaging.geometry import VolumeError
from crlm_jax.imaging.masks import read_mask
from crlm_jax.imaging.volumes import from_image, read_image, to_original_grid
from tests.imaging.dicom import dicoms

SHAPE = (4, 12, 16)


def voxels() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 900, SHAPE).astype(np.int16)


def write_nifti(path: Path, affine: np.ndarray | None = None, **fields) -> Path:
    """Writes a NIfTI by SimpleITK, then replaces its affine (RAS) and other header fields."""
    image = sitk.GetImageFromArray(voxels())
    image.SetSpacing((1.5, 1.5, 5.0))
    sitk.WriteImage(image, str(path))
    data = bytearray(path.read_bytes())
    if affine is not None:
        data[252:256] = struct.pack("<2h", 0, 1)  # no qform, but an sform
        data[280:328] = np.asarray(affine, "<f4")[:3].tobytes()
        lengths = np.linalg.norm(np.asarray(affine)[:3, :3], axis=0)
        data[80:92] = lengths.astype("<f4").tobytes()
    for place, content in fields.values():
        data[place : place + len(content)] = content
    path.write_bytes(bytes(data))
    return path


def affine(*columns) -> np.ndarray:
    matrix = np.eye(4)
    matrix[:3, :3] = np.transpose(columns)
    matrix[:3, 3] = -30, -30, 0
    return matrix


SLIGHT = affine((1.5, 0, 0), (0.004, 1.4996, -0.012), (0, 0.004, 5))
SHEAR = affine((1.5, 0, 0), (0, 1.5, 0), (0, 5 * np.sin(0.14), 5 * np.cos(0.14)))


def test_slightly_sheared_axes_take_the_nearest_rotation_with_a_word(tmp_path):
    volume = read_image(write_nifti(tmp_path / "a.nii", SLIGHT))
    axes = np.reshape(volume.geometry.direction, (3, 3))
    np.testing.assert_allclose(axes @ axes.T, np.eye(3), atol=1e-6)
    ras = np.diag((-1, -1, 1)) @ axes * volume.geometry.spacing
    np.testing.assert_allclose(ras, SLIGHT[:3, :3], atol=0.025)
    (doubt,) = volume.doubts
    assert "not quite perpendicular" in doubt
    assert "nearest rotation is taken" in doubt
    mask = to_original_grid(volume.voxels > 500, volume.geometry)
    sitk.WriteImage(mask, str(tmp_path / "mask.nii.gz"))
    np.testing.assert_array_equal(
        read_mask(tmp_path / "mask.nii.gz", None, volume), volume.voxels > 500
    )
    binary = sitk.ReadImage(str(tmp_path / "a.nii")) > 500
    sitk.WriteImage(binary, str(tmp_path / "sheared.nii"))
    data = bytearray((tmp_path / "sheared.nii").read_bytes())
    data[252:348] = (tmp_path / "a.nii").read_bytes()[252:348]
    (tmp_path / "sheared.nii").write_bytes(bytes(data))
    doubts = []
    read_mask(tmp_path / "sheared.nii", None, volume, doubts)
    assert doubts[0] == doubt  # the mask of noise has a second one


def test_clearly_sheared_axes_are_refused_by_name(tmp_path):
    with pytest.raises(VolumeError, match=r"not perpendicular .*gantry tilt.*upright grid"):
        read_image(write_nifti(tmp_path / "a.nii", SHEAR))
    for name in ("a.mha", "a.nrrd"):
        image = sitk.GetImageFromArray(voxels())
        image.SetDirection((1, 0, 0, 0, 1, 0.14, 0, 0, 0.99))
        sitk.WriteImage(image, str(tmp_path / name))
        with pytest.raises(VolumeError, match=r"not perpendicular|not a readable image"):
            read_image(tmp_path / name)


def test_rounded_cosines_are_no_doubt():
    image = sitk.GetImageFromArray(voxels())
    turned = (0.9397, -0.342, 0, 0.342, 0.9397, 0, 0, 0, 1)  # 20 degrees, four digits
    image.SetDirection(turned)
    volume = from_image(image)
    assert volume.geometry.direction == turned
    assert volume.doubts == ()


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_a_spacing_of_0_is_an_error(tmp_path, axis):
    field = (80 + 4 * axis, struct.pack("<f", 0.0))
    path = write_nifti(tmp_path / "a.nii", forms=(252, struct.pack("<2h", 0, 0)), pixdim=field)
    with pytest.raises(VolumeError, match=r"a\.nii: its header says a spacing of 0 mm \("):
        read_image(path)
    image = sitk.GetImageFromArray(voxels())
    sitk.WriteImage(image, str(tmp_path / "a.mha"), useCompression=False)
    data = (tmp_path / "a.mha").read_bytes()
    spacing = [b"1", b"1", b"1"]
    spacing[axis] = b"0"
    line = b"ElementSpacing = "
    assert line + b"1 1 1" in data
    (tmp_path / "a.mha").write_bytes(data.replace(line + b"1 1 1", line + b" ".join(spacing)))
    with pytest.raises(VolumeError, match=r"a\.mha: its header says a spacing of 0 mm"):
        read_image(tmp_path / "a.mha")


@pytest.mark.parametrize("dtype", [np.complex64, np.complex128])
def test_complex_voxels_are_an_error_with_the_remedy(tmp_path, dtype):
    image = sitk.GetImageFromArray(voxels().astype(dtype))
    sitk.WriteImage(image, str(tmp_path / "a.nii.gz"))
    with pytest.raises(VolumeError, match=r"complex numbers; save their magnitude"):
        read_image(tmp_path / "a.nii.gz")
    with pytest.raises(VolumeError, match=r"complex numbers; save their magnitude"):
        from_image(image)


def test_an_unpacked_nifti_under_its_packed_name_is_read(tmp_path):
    write_nifti(tmp_path / "a.nii").rename(tmp_path / "a.nii.gz")
    np.testing.assert_array_equal(read_image(tmp_path / "a.nii.gz").voxels, voxels())


def test_a_packed_nifti_under_its_unpacked_name_is_named(tmp_path):
    path = write_nifti(tmp_path / "a.nii")
    path.write_bytes(gzip.compress(path.read_bytes()))
    with pytest.raises(VolumeError, match=r"a\.nii: is compressed .*rename it to a\.nii\.gz"):
        read_image(path)


def test_other_dicom_objects_as_mask_are_called_by_their_name(tmp_path):
    files = dicoms.write_series(tmp_path / "ct")
    volume = read_image(tmp_path / "ct")

    def plan(index, header):
        del header.PixelData
        header.SOPClassUID = header.file_meta.MediaStorageSOPClassUID = RTPlanStorage

    (other,) = dicoms.write_series(
        tmp_path / "rt", dicoms.voxels()[:1], series=dicoms.uid(2), change=plan
    )
    with pytest.raises(VolumeError, match=r"000\.dcm: RT Plan Storage, not a segmentation"):
        read_mask(other, None, volume)
    with pytest.raises(VolumeError, match=r"000\.dcm: CT Image Storage, not a segmentation"):
        read_mask(files[0], None, volume)
