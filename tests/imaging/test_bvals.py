"""A 4D NIfTI file with its `.bval`, as dcm2niix makes of a diffusion series."""

import numpy as np
import pytest
import SimpleITK as sitk

from crlm_jax.imaging.geometry import VolumeError
from crlm_jax.imaging.volumes import read_image, to_original_grid
from tests.imaging import test_odd_grids as grids
from tests.imaging.dicom.dicoms import voxels, write_series
from tests.imaging.dicom.enhanced import by_dcm2niix
from tests.imaging.dicom.test_diffusion import uih, write_diffusion


def magnitudes(b: int) -> np.ndarray:
    return np.abs(voxels(b))


def write(folder, b_values=(0, 50, 1000), text=None, name="a.nii.gz"):
    volumes = np.stack([magnitudes(int(b)) for b in b_values])
    image = sitk.JoinSeries([sitk.GetImageFromArray(volume) for volume in volumes])
    image.SetSpacing((0.7, 0.8, 5.0, 1.0))
    sitk.WriteImage(image, str(folder / name))
    text = " ".join(map(str, b_values)) + "\n" if text is None else text
    (folder / name.replace(".nii", ".bval").removesuffix(".gz")).write_text(text)
    return folder / name


def refuse(call, *parts):
    with pytest.raises(VolumeError) as caught:
        call()
    assert all(part in str(caught.value) for part in parts), str(caught.value)


@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz"])
@pytest.mark.parametrize("text", [None, "0\n50\n1000", "0 49.8 1000.2\n", "0, 50, 1000"])
def test_b_1000_of_several(tmp_path, name, text):
    path = write(tmp_path, text=text, name=name)
    image = read_image(path)
    np.testing.assert_array_equal(image.geometry.from_axial(image.voxels), magnitudes(1000))
    for b in (0, 50):
        image = read_image(path, b_value=b)
        np.testing.assert_array_equal(image.geometry.from_axial(image.voxels), magnitudes(b))


def test_what_dcm2niix_makes_of_a_series(tmp_path):
    def change(index, header, b):
        header.Manufacturer = "UIH"
        header.AcquisitionNumber = (0, 50, 1000).index(b) + 1
        header.InstanceNumber = 6 * header.AcquisitionNumber + index

    write_diffusion(tmp_path / "in", uih, change=change)
    by_dcm2niix(tmp_path / "in", tmp_path / "out")
    (path,) = (tmp_path / "out").glob("*.nii")
    for b in (0, 50, 1000):
        ours, theirs = (read_image(place, b_value=b) for place in (tmp_path / "in", path))
        np.testing.assert_array_equal(ours.voxels, theirs.voxels)
        np.testing.assert_allclose(ours.spacing, theirs.spacing, rtol=1e-6)


def test_the_mask_has_the_grid_of_one_volume(tmp_path):
    image = read_image(write(tmp_path))
    mask = to_original_grid(image.voxels > 0, image.geometry)
    assert mask.GetSize() == (16, 12, 6)
    assert mask.GetSpacing() == pytest.approx((0.7, 0.8, 5.0))


def test_axes_of_a_4d_file_are_checked_too(tmp_path):
    for affine in (grids.SLIGHT, grids.SHEAR):
        file = bytearray(grids.write_nifti(tmp_path / "one.nii", affine).read_bytes())
        dims = np.frombuffer(bytes(file[40:56]), "<i2").copy()
        dims[0], dims[4] = 4, 2
        file[40:56] = dims.tobytes()
        path = tmp_path / "four.nii"
        path.write_bytes(bytes(file) + bytes(file[352:]))
        (tmp_path / "four.bval").write_text("0 1000")
        if affine is grids.SLIGHT:
            assert "nearest rotation" in read_image(path).doubts[0]
        else:
            refuse(lambda path=path: read_image(path), "not perpendicular")


@pytest.mark.parametrize(
    ("b_values", "text", "asked", "parts"),
    [
        ((0, 50, 800), None, None, ("no image has a b-value of 1000", "the default", "0, 50, 800")),
        ((0, 50, 800), None, 400, ("no image has a b-value of 400", "a.bval has 0, 50, 800")),
        ((0, 1000, 1000), None, None, ("2 volumes have the b-value 1000", "save the trace")),
        ((800, 800), None, 1000, ("has a b-value of 800 s/mm² by a.bval, not 1000",)),
        ((0, 1000), "0 50 1000", None, ("a.bval: has 3 b-values, but a.nii.gz has 2 volumes",)),
        ((0, 1000), "", None, ("a.bval: not a list of b-values",)),
        ((0, 1000), "a b", None, ("a.bval: not a list of b-values",)),
        ((0, 1000), "0 nan", None, ("a.bval: not a list of b-values",)),
        ((0, 1000), "-5 1000", None, ("a.bval: not a list of b-values",)),
    ],
)
def test_what_is_refused(tmp_path, b_values, text, asked, parts):
    path = write(tmp_path, b_values, text)
    refuse(lambda: read_image(path, b_value=asked), str(tmp_path), *parts)


def test_without_a_bval_file(tmp_path):
    path = write(tmp_path)
    (tmp_path / "a.bval").unlink()
    refuse(lambda: read_image(path), "has 4 dimensions", "put the .bval file of dcm2niix beside it")
    refuse(lambda: read_image(path, b_value=50), "no .bval file beside it", "leave the b-value out")


def test_a_3d_file_with_one_b_value(tmp_path):
    path = tmp_path / "a.nii.gz"
    sitk.WriteImage(sitk.GetImageFromArray(voxels()), str(path))
    (tmp_path / "a.bval").write_text("500")
    for asked in (None, 500):
        np.testing.assert_array_equal(read_image(path, b_value=asked).voxels, voxels())
    refuse(lambda: read_image(path, b_value=1000), "has a b-value of 500 s/mm² by a.bval, not 1000")
    (tmp_path / "a.bval").write_text("0 50 1000")  # of the 4D file that this was cut out of
    np.testing.assert_array_equal(read_image(path).voxels, voxels())


def test_dicom_is_not_asked_for_a_bval_file(tmp_path):
    write_series(tmp_path, modality="MR")
    assert read_image(tmp_path).voxels.shape == voxels().shape
