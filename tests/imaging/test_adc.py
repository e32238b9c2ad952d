"""An ADC map that is given as an image: by its header, its name, or its values."""

import json

import numpy as np
import pytest
import SimpleITK as sitk
from pydicom.dataset import Dataset

from crlm_jax.imaging.grey import modality_doubt
from crlm_jax.imaging.volumes import read_image
from tests.imaging.dicom.dicoms import write_series


def magnitudes() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 1500, (4, 12, 16)).astype(np.int16)


def doubt_of_dicom(folder, condition="pre_dwi", **elements) -> str | None:
    change = lambda _, header: header.update(elements)  # noqa: E731
    write_series(folder, magnitudes(), modality="MR", change=change)
    return modality_doubt(read_image(folder), condition)


def code(value: str) -> list[Dataset]:
    item = Dataset()
    item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = value, "DCM", "x"
    return [item]


@pytest.mark.parametrize(
    ("elements", "by"),
    [
        ({"ImageType": ["DERIVED", "PRIMARY", "DIFFUSION", "ADC"]}, "Image Type"),
        ({"ImageType": ["DERIVED", "SECONDARY", "ADC_MAP"]}, "Image Type"),
        ({"SeriesDescription": "ep2d_diff_b50_400_1000_ADC"}, "description"),
        ({"SeriesDescription": "dADC Map"}, "description"),
        ({"SeriesDescription": "ADCmap"}, "description"),
        ({"SeriesDescription": "isoADC"}, "description"),
        ({"SeriesDescription": "sADC"}, "description"),
        ({"SeriesDescription": "Apparent Diff. Coeff."}, "description"),
        ({"SeriesDescription": "Diffusion_coefficient"}, "description"),
        ({"SeriesDescription": "D (mm2/s)"}, "description"),
        ({"SeriesDescription": "DWI b=800 s/mm2"}, None),
        ({"RescaleType": "10E-6 MM2/S"}, "Rescale Type"),
        ({"ProtocolName": "ADC map"}, "Protocol Name"),
        ({"ProtocolName": "DWI_ADC_b50_b800", "DiffusionBValue": 800.0}, None),
        (
            {
                "SeriesDescription": "DWI_ADC_b50_b800",
                "ProtocolName": "DWI_ADC_b50_b800",
                "ImageType": ["DERIVED", "PRIMARY", "DIFFUSION", "TRACEW"],
            },
            None,
        ),
        ({"SeriesDescription": "eADC (10^-3)"}, "description"),
        ({"SeriesDescription": "Apparent Diffusion Coefficient"}, "description"),
        ({"DerivationCodeSequence": code("113041")}, "derivation"),
        ({"DerivationCodeSequence": code("113042")}, None),
        ({"SeriesDescription": "DWI b1000"}, None),
        ({"SeriesDescription": "BROADCAST"}, None),
        (
            {
                "SeriesDescription": "DWI with ADC",
                "ImageType": ["DERIVED", "PRIMARY", "DIFFUSION", "TRACEW"],
            },
            None,
        ),
    ],
)
def test_a_header_that_says_adc(tmp_path, elements, by):
    expected = by and f"it is an ADC map by its {by}"
    assert doubt_of_dicom(tmp_path, **elements) == expected


def test_a_condition_of_adc_maps_is_no_doubt(tmp_path):
    kind = ["DERIVED", "PRIMARY", "DIFFUSION", "ADC"]
    assert doubt_of_dicom(tmp_path / "a", "pre_adc", ImageType=kind) is None
    assert "ADC" in doubt_of_dicom(tmp_path / "b", "post_t2", ImageType=kind)


def doubt_of_nifti(path, array=None, condition="pre_dwi") -> str | None:
    array = magnitudes() if array is None else array
    sitk.WriteImage(sitk.GetImageFromArray(array), str(path))
    return modality_doubt(read_image(path), condition)


@pytest.mark.parametrize(
    ("name", "is_adc"),
    [
        ("602_ADC.nii.gz", True),
        ("p3_dwi_adc.nii", True),
        ("adc17_dwi.nii.gz", False),
        ("ADC-b1000.nrrd", True),
        ("p1_adc_b1000.nii.gz", True),
        ("adc_from_dwi.nii.gz", True),
        ("p1_ADCmap.nii.gz", True),
        ("dADC.nii.gz", True),
        ("diffusion_coefficient.nii.gz", True),
        ("DWI_ADC_b50_b800.nii.gz", False),
        ("dwi.nii.gz", False),
        ("broadcast.nii.gz", False),
    ],
)
def test_a_name_that_says_adc(tmp_path, name, is_adc):
    assert doubt_of_nifti(tmp_path / name) == ("it is an ADC map by its name" if is_adc else None)


@pytest.mark.parametrize(
    ("about", "is_adc"),
    [
        ({"ImageType": ["DERIVED", "PRIMARY", "DIFFUSION", "ADC"]}, True),
        ({"SeriesDescription": "DWI_ADC"}, True),
        ({"ImageType": ["DERIVED", "PRIMARY", "DIFFUSION", "TRACEW"]}, False),
        ({"ImageType": 3, "SeriesDescription": None}, False),
        ([1], False),
    ],
)
def test_the_json_file_of_dcm2niix(tmp_path, about, is_adc):
    (tmp_path / "a.json").write_text(json.dumps(about))
    said = doubt_of_nifti(tmp_path / "a.nii.gz")
    assert said == ("it is an ADC map by the JSON file beside it" if is_adc else None)
    (tmp_path / "a.json").write_text("{")
    assert doubt_of_nifti(tmp_path / "a.nii.gz") is None


def test_values_in_mm2_per_s(tmp_path):
    said = doubt_of_nifti(tmp_path / "a.nii", magnitudes().astype(np.float32) * 2e-6)
    assert said == "its largest value is 0.003, as of an ADC map in mm²/s"
    assert doubt_of_nifti(tmp_path / "b.nii", magnitudes().astype(np.float32) / 1500) is None


def test_a_lone_b_value_of_0(tmp_path):
    said = doubt_of_dicom(tmp_path / "dicom", DiffusionBValue=0.0)
    assert said.startswith("its b-value is 0 s/mm²")
    (tmp_path / "a.bval").write_text("0")
    assert doubt_of_nifti(tmp_path / "a.nii.gz").startswith("its b-value is 0 s/mm²")
    for condition in ("pre_t2", "pre_dwi_b0"):
        assert doubt_of_nifti(tmp_path / "a.nii.gz", condition=condition) is None
    (tmp_path / "a.bval").write_text("800")
    assert doubt_of_nifti(tmp_path / "a.nii.gz") is None


@pytest.mark.parametrize("b", [20, 50, 199])
def test_a_low_b_value(tmp_path, b):
    said = doubt_of_dicom(tmp_path / "dicom", DiffusionBValue=float(b))
    assert (
        said
        == f"its b-value is {b} s/mm², so that diffusion hardly shows; give the image of b = 1000"
    )
    (tmp_path / "a.bval").write_text(f"{b}")
    assert doubt_of_nifti(tmp_path / "a.nii.gz") == said
    for condition in ("pre_t2", f"pre_dwi_b{b}", f"dwi_b_{b}_post"):
        assert doubt_of_nifti(tmp_path / "a.nii.gz", condition=condition) is None
    (tmp_path / "a.bval").write_text("200")
    assert doubt_of_nifti(tmp_path / "a.nii.gz") is None


def test_a_trace_of_a_protocol_that_makes_maps_too(tmp_path):
    about = {"ImageType": ["DERIVED", "DIFFUSION", "TRACEW"], "SeriesDescription": "dwi_ADC"}
    (tmp_path / "dwi_ADC.json").write_text(json.dumps(about))
    assert doubt_of_nifti(tmp_path / "dwi_ADC.nii.gz") is None
