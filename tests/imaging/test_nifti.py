"""Headers that contradict themselves, or say a spacing that no scan has."""

import contextlib
import gzip
import struct
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from crlm_jax.imaging.geometry import VolumeError
from crlm_jax.imaging.masks import read_lesions
from crlm_jax.imaging.volumes import read_image


def scan() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 500, (4, 8, 8)).astype(np.int16)


def write(path: Path, spacing=(0.8, 0.8, 5.0)) -> Path:
    image = sitk.GetImageFromArray(scan())
    image.SetSpacing(spacing)
    sitk.WriteImage(image, str(path))
    return path


def patch(path: Path, kind: str, offset: int, *values: float) -> Path:
    content = bytearray(path.read_bytes())
    struct.pack_into(f"<{len(values)}{kind}", content, offset, *values)
    path.write_bytes(content)
    return path


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_spacing_that_is_no_number(tmp_path, value):
    path = patch(write(tmp_path / "a.nii"), "f", 88, value)
    with pytest.raises(VolumeError, match="a spacing that is no number"):
        read_image(path)


@pytest.mark.parametrize("codes", [(0, 1), (0, 2), (0, 4), (1, 1)])
def test_an_sform_of_another_spacing_than_pixdim(tmp_path, codes):
    path = patch(write(tmp_path / "a.nii"), "f", 80, 1, 1, 1)
    patch(path, "h", 252, *codes)
    with pytest.raises(VolumeError, match=r"\(1, 1, 1\) mm by pixdim, but \(0.8, 0.8, 5\) mm"):
        read_image(path)


@pytest.mark.parametrize("codes", [(1, 0), (1, 4)])
def test_an_sform_that_says_nothing_of_the_patient(tmp_path, codes):
    path = patch(write(tmp_path / "a.nii"), "f", 280, 1.1)
    patch(path, "h", 252, *codes)
    np.testing.assert_allclose(read_image(path).spacing, (5, 0.8, 0.8), rtol=1e-6)


@pytest.mark.parametrize(("code", "unit"), [(1, "metres"), (3, "micrometres")])
def test_lengths_in_another_unit(tmp_path, code, unit):
    with pytest.raises(VolumeError, match=f"lengths are in {unit}"):
        read_image(patch(write(tmp_path / "a.nii"), "B", 123, code))


@pytest.mark.parametrize("name", ["a.nii.gz", "a.nrrd", "a.mha"])
@pytest.mark.parametrize("spacing", [(0.0008, 0.0008, 0.005), (800, 800, 5000)])
def test_a_spacing_that_no_scan_has(tmp_path, name, spacing):
    path = write(tmp_path / name, spacing)
    with pytest.raises(VolumeError, match=r"between 0\.001 and 100 mm"):
        read_image(path)
    sitk.WriteImage(sitk.ReadImage(str(path)) > 250, str(path))
    with pytest.raises(VolumeError, match=r"between 0\.001 and 100 mm"):
        read_lesions(path, None, None)


def text_header(path: Path, *lines: str) -> Path:
    voxels = scan().astype("<i2").tobytes()
    end = "ElementDataFile = LOCAL\n" if path.suffix == ".mha" else "\n"
    path.write_bytes("".join(line + "\n" for line in lines).encode() + end.encode() + voxels)
    return path


NRRD = ("NRRD0004", "type: short", "dimension: 3", "sizes: 8 8 4", "encoding: raw",
        "endian: little")  # fmt: skip
MHA = ("ObjectType = Image", "NDims = 3", "DimSize = 8 8 4", "ElementType = MET_SHORT",
       "BinaryData = True", "ElementByteOrderMSB = False")  # fmt: skip


def test_no_spacing(tmp_path):
    for path, lines in ((tmp_path / "a.nrrd", NRRD), (tmp_path / "a.mha", MHA)):
        assert "no spacing" in read_image(text_header(path, *lines)).doubts[0]


def test_a_spacing_that_is_no_number_in_a_text_header(tmp_path):
    nrrd, mha = tmp_path / "a.nrrd", tmp_path / "a.mha"
    text_header(nrrd, *NRRD, "spacings: 0.8 0.8 nan")
    text_header(mha, *MHA, "ElementSpacing = 0.8 0.8 nan")
    for path in (nrrd, mha):
        with pytest.raises(VolumeError, match="no number"):
            read_image(path)
    text_header(nrrd, *NRRD, "spacings: 0.8 0.8 5")
    assert read_image(nrrd).doubts == ()


def forms(path: Path, codes: tuple[int, int], sform: np.ndarray) -> Path:
    """Gives a NIfTI an sform (RAS) beside the qform that it has, and the codes of both."""
    return patch(patch(path, "h", 252, *codes), "f", 280, *sform[:3].ravel())


QFORM = np.diag((-0.8, -0.8, 5.0, 1.0))  # what `write` writes


@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz"])
@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("codes", [(1, 2), (1, 1), (2, 5)])
def test_an_sform_that_is_mirrored_against_the_qform(tmp_path, name, axis, codes):
    mirrored = QFORM @ np.diag([-1.0 if own == axis else 1.0 for own in range(4)])
    path = forms(write(tmp_path / "a.nii"), codes, mirrored)
    if name.endswith(".gz"):
        path = tmp_path / name
        path.write_bytes(gzip.compress((tmp_path / "a.nii").read_bytes()))
    with pytest.raises(VolumeError, match=r"point different ways \(LPS and (RPS|LAS|LPI)\)"):
        read_image(path)


@pytest.mark.parametrize(("codes", "taken"), [((1, 2), "qform"), ((1, 1), "sform")])
def test_an_sform_that_lies_elsewhere_than_the_qform(tmp_path, codes, taken):
    path = write(tmp_path / "a.nii")
    moved = QFORM.copy()
    moved[0, 3] = 0.3  # below half a voxel
    assert read_image(forms(path, codes, moved)).doubts == ()
    moved[0, 3] = 30
    (doubt,) = read_image(forms(path, codes, moved)).doubts
    assert f"place it up to 30 mm apart; the {taken} is taken" in doubt
    angle = np.radians(10)
    turned = QFORM.copy()
    turned[:2, :2] = 0.8 * np.array(
        [[-np.cos(angle), np.sin(angle)], [-np.sin(angle), -np.cos(angle)]]
    )
    assert "mm apart" in read_image(forms(path, codes, turned)).doubts[0]
    for other in ((1, 0), (0, 1), (1, 4)):
        assert read_image(forms(path, other, turned)).doubts == ()


def test_no_orientation_is_a_doubt_of_images_and_masks(tmp_path):
    path = patch(write(tmp_path / "a.nii"), "h", 252, 0, 0)
    (doubt,) = read_image(path).doubts
    assert "does not say how it lies in the patient" in doubt
    sitk.WriteImage(sitk.ReadImage(str(path)) > 450, str(tmp_path / "m.nii"))
    patch(tmp_path / "m.nii", "h", 252, 0, 0)
    assert doubt in read_lesions(tmp_path / "m.nii", None, None).doubts


@pytest.mark.parametrize("turn", [(0.1, -0.2, 0.3), (1.2, 0.4, -2.0)])
def test_the_qform_and_sform_that_itk_writes_agree(tmp_path, turn):
    image = sitk.GetImageFromArray(np.random.default_rng(0).integers(0, 500, (40, 200, 200)))
    image = sitk.Cast(image, sitk.sitkInt16)
    image.SetSpacing((0.7, 0.9, 3.1))
    image.SetOrigin((-120.3, 80.7, -900.1))
    image.SetDirection(sitk.Euler3DTransform((0, 0, 0), *turn).GetMatrix())
    sitk.WriteImage(image, str(tmp_path / "a.nii"))
    assert read_image(tmp_path / "a.nii").doubts == ()


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("value", [np.nan, np.inf, 1e38])
@pytest.mark.parametrize("place", [256, 268, 280, 292])
def test_forms_of_no_numbers_are_not_compared(tmp_path, value, place):
    path = patch(write(tmp_path / "a.nii"), "f", place, value)
    patch(path, "h", 252, 1, 2)
    with contextlib.suppress(VolumeError):
        read_image(path)
