"""Real series of several scanners: read as dcm2niix reads them."""

import shutil

import numpy as np
import pytest

from crlm_jax.imaging.dicom.b_value import stated_b_value
from crlm_jax.imaging.dicom.files import read_file
from crlm_jax.imaging.dicom.multiframe import split_frames
from crlm_jax.imaging.grey import modality_doubt
from crlm_jax.imaging.volumes import read_image
from tests.imaging.dicom.dicoms import refuse
from tests.imaging.dicom.enhanced import assert_same, by_dcm2niix


@pytest.fixture(scope="module")
def dicom(shared):
    folder = shared / "data" / "dicom"
    if not folder.is_dir():
        pytest.skip("real DICOM series (../shared/data/dicom) are not here")
    return folder


@pytest.mark.parametrize(
    ("name", "condition"),
    [("crlm_ct/CRLM-CT-1006", "ct"), ("crc_liver_mr/t2", "pre_t2"), ("crc_liver_mr/adc", "adc")],
)
def test_classic_series(dicom, tmp_path, name, condition):
    image = read_image(dicom / name)
    (theirs,) = by_dcm2niix(dicom / name, tmp_path / "out").values()
    assert_same(image, theirs)
    assert image.doubts == ()
    assert modality_doubt(image, condition) is None


@pytest.mark.parametrize("name", ["crc_liver_mr/adc", "enhanced_dwi_siemens/11_DWI_dir80_PA"])
def test_the_adc_map_is_warned_of_by_name(dicom, name):
    assert modality_doubt(read_image(dicom / name), "pre_dwi") == (
        "it is an ADC map by its Image Type"
    )


def test_enhanced_diffusion(dicom, tmp_path):
    folder = dicom / "enhanced_dwi_siemens" / "10_DWI_dir80_PA"
    (theirs,) = by_dcm2niix(folder, tmp_path / "out").values()
    bvals = [float(b) for b in next((tmp_path / "out").glob("*.bval")).read_text().split()]
    assert bvals == [0, 2500, 2500, 2500]
    assert_same(read_image(folder, b_value=0), theirs[..., 0])
    for file, b in zip(sorted(folder.iterdir()), bvals, strict=True):
        frames = split_frames(read_file(file, stop_before_pixels=True))
        assert len(frames) == theirs.GetSize()[2]
        assert {stated_b_value(frame) for frame in frames} == {b}
        alone = tmp_path / file.name
        alone.mkdir()
        shutil.copy(file, alone)
        (volume,) = by_dcm2niix(alone, tmp_path / f"{file.name} out").values()
        assert_same(read_image(alone, b_value=b), volume)
    refuse(lambda: read_image(folder), "no image has a b-value of 1000", "the series has 0, 2500")
    refuse(lambda: read_image(folder, b_value=2500), "as for several diffusion directions")


@pytest.mark.parametrize(("name", "b"), [("11_DWI_dir80_PA", None), ("12_DWI_dir80_PA", 2500.0)])
def test_enhanced_maps_and_traces(dicom, tmp_path, name, b):
    folder = dicom / "enhanced_dwi_siemens" / name
    (theirs,) = by_dcm2niix(folder, tmp_path / "out").values()
    image = read_image(folder)
    assert_same(image, theirs)
    assert image.series.b_value == b


def test_enhanced_images_of_two_vendors(dicom, tmp_path):
    theirs = by_dcm2niix(dicom / "enhanced_mr", tmp_path / "out")
    siemens, magnitude, field_map = (theirs[name] for name in sorted(theirs))
    assert_same(read_image(dicom / "enhanced_mr" / "6_1.dcm"), siemens)
    philips = read_image(dicom / "enhanced_mr" / "IM_0027_fMAP.dcm")
    assert_same(philips, magnitude, tolerance=1e-3)
    assert "32 others at the same positions (field map) are left out" in philips.doubts[0]
    assert field_map.GetSize() == magnitude.GetSize()


@pytest.mark.parametrize("number", range(1, 10))
def test_every_encoding_decodes_to_the_same_mosaic(dicom, tmp_path, number):
    folder = dicom / "transfer_syntaxes"
    image, first = (read_image(folder / f"{n}.dcm") for n in (number, 1))
    np.testing.assert_array_equal(image.voxels, first.voxels)
    assert image.geometry == first.geometry
    alone = tmp_path / "alone"
    alone.mkdir()
    (alone / "1.dcm").write_bytes((folder / f"{number}.dcm").read_bytes())
    (theirs,) = by_dcm2niix(alone, tmp_path / "out").values()
    assert_same(read_image(alone), theirs)
