"""Padding is no image: it is left out of window, doubt of modality and prediction."""

import dataclasses

import numpy as np
import pytest
import SimpleITK as sitk

from crlm_jax.config.schema import Data
from crlm_jax.imaging.geometry import VolumeError
from crlm_jax.imaging.grey import find_window, modality_doubt, to_uint8
from crlm_jax.imaging.volumes import from_image, read_image
from crlm_jax.predict import command as predict_command
from crlm_jax.system.console import exit_code
from tests.imaging.dicom import dicoms
from tests.predict.test_segmenter import identity

DATA = Data(mr_window="percentiles")


def magnitudes(seed: int = 0) -> np.ndarray:
    """Stored values of an MR, int16 (4, 32, 32): noise, a body and a lesion of 10 pixels."""
    array = np.random.default_rng(seed).integers(0, 40, (4, 32, 32))
    array[:, 4:28, 8:30] += 300
    array[1:3, 12:16, 12:22] += 400
    return array.astype(np.int16)


def padded(value: int) -> tuple[np.ndarray, np.ndarray]:
    """The same with padding in the first three columns, and where the padding is."""
    array, where = magnitudes(), np.zeros((4, 32, 32), bool)
    where[:, :, :3] = True
    return np.where(where, value, array), where


def mark(**elements):
    """What adds padding elements, each of its own type, to a header."""
    tags = {"value": 0x00280120, "limit": 0x00280121}

    def change(index, header):
        for name, (vr, value) in elements.items():
            header.add_new(tags[name], vr, value)

    return change


@pytest.mark.parametrize(
    ("dtype", "stored", "elements"),
    [
        (np.int16, -32768, {"value": ("SS", -32768)}),
        (np.int16, -2000, {"value": ("US", 63536)}),  # as scanners of CT write it
        (np.uint16, 63536, {"value": ("SS", -2000)}),
        (np.uint16, 65535, {"value": ("US", 65535)}),  # brighter than all else
        (np.int16, 5000, {"value": ("SS", 4000), "limit": ("SS", 6000)}),
        (np.int16, -1500, {"value": ("SS", -1000), "limit": ("SS", -1500)}),  # both ends
        (np.int16, -1000, {"value": ("SS", -1000), "limit": ("SS", -1500)}),
        (np.int16, 200, {"value": ("SS", 200)}),  # within the data
    ],
)
@pytest.mark.parametrize("slope", [None, 0.25])
def test_marked_padding_is_that_of_the_stored_values(tmp_path, dtype, stored, elements, slope):
    array, where = padded(stored)
    array[(array == 200) & ~where] = 201

    def change(index, header):
        mark(**elements)(index, header)
        if slope:
            header.RescaleSlope, header.RescaleIntercept = slope, 7

    dicoms.write_series(tmp_path, array.astype(dtype), modality="MR", change=change)
    volume = read_image(tmp_path)
    np.testing.assert_array_equal(volume.padding, where)
    plain = array * (slope or 1) + (7 if slope else 0)
    expected = np.percentile(plain[~where].astype(np.float32), (0.5, 99.5))
    assert find_window(volume, "pre_dwi", DATA) == pytest.approx(tuple(expected))
    grey = to_uint8(volume, "pre_dwi", DATA)
    assert (grey[where] == 0).all()
    assert modality_doubt(volume, "pre_dwi") is None


@pytest.mark.parametrize(
    "elements",
    [
        {},
        {"value": ("SS", None)},
        {"value": ("SS", -32768)},
        {"limit": ("SS", 400)},
        {"value": ("LO", "none")},
    ],
)
def test_without_padding_nothing_changes(tmp_path, elements):
    array = magnitudes()
    dicoms.write_series(tmp_path, array, modality="MR", change=mark(**elements))
    volume = read_image(tmp_path)
    assert volume.padding is None
    low, high = np.percentile(array.astype(np.float32), (0.5, 99.5))
    assert find_window(volume, "pre_dwi", DATA) == (low, high)


def test_padding_of_an_oblique_series_turns_with_it(tmp_path):
    array, _ = padded(-32768)
    axes = np.array([[0, 1, 0], [0, 0, -1], [-1, 0, 0]])  # sagittal
    change = mark(value=("SS", -32768))
    dicoms.write_series(tmp_path, array, modality="MR", axes=axes, change=change)
    volume = read_image(tmp_path)
    np.testing.assert_array_equal(volume.padding, volume.voxels == -32768)


def test_a_series_of_padding_alone(tmp_path):
    array = np.full((4, 32, 32), -5, np.int16)
    array[0, 0, 0] = 3
    dicoms.write_series(tmp_path, array, modality="MR", change=mark(value=("SS", -5)))
    with pytest.raises(VolumeError, match="every voxel is 3 except for padding"):
        read_image(tmp_path)


# Padding that no header marks


def framed(value: int) -> np.ndarray:
    """Magnitudes with a border of one value."""
    array = magnitudes()
    border = np.ones(array.shape, bool)
    border[:, 2:-2, 2:-2] = False
    return np.where(border, value, array).astype(np.int16)


@pytest.mark.parametrize(
    ("value", "modality", "is_padding"),
    [
        (-32768, "MR", True),
        (-800, "MR", True),  # the others range over about 740
        (-700, "MR", False),
        (0, "MR", False),
        (-32768, None, True),
        (-3024, None, False),  # it may be CT
        (-32768, "CT", False),
    ],
)
def test_a_value_in_all_corners_far_below_the_others(tmp_path, value, modality, is_padding):
    array = framed(value)
    if modality:
        dicoms.write_series(tmp_path, array, modality=modality)
        volume = read_image(tmp_path)
    else:
        volume = from_image(sitk.GetImageFromArray(array))
    if is_padding:
        np.testing.assert_array_equal(volume.padding, array == value)
    else:
        assert volume.padding is None


@pytest.mark.parametrize("value", [-32768, 32767])
@pytest.mark.parametrize("where", [np.s_[:, :4], np.s_[:, :, -3:], np.s_[:, -1:], "frame"])
def test_an_edge_of_one_value_far_beyond_the_others_is_padding(tmp_path, value, where):
    """As a registration leaves it; bright padding would make all else black."""
    array = framed(value) if where == "frame" else magnitudes()
    if where != "frame":
        array[where] = value
    dicoms.write_series(tmp_path, array, modality="MR")
    volume = read_image(tmp_path)
    np.testing.assert_array_equal(volume.padding, array == value)
    assert find_window(volume, "pre_dwi", Data())[1] < 2000
    assert (to_uint8(volume, "pre_dwi", Data())[array == value] == 0).all()


def test_one_corner_and_a_bright_border_within_reach_are_no_padding(tmp_path):
    array = magnitudes()
    array[:, :3, :3] = 32767
    dicoms.write_series(tmp_path / "corner", array, modality="MR")
    assert read_image(tmp_path / "corner").padding is None
    dicoms.write_series(tmp_path / "border", framed(1200), modality="MR")  # coil flare
    assert read_image(tmp_path / "border").padding is None


def test_opposite_corners_are_not_enough(tmp_path):
    array = framed(-32768)
    array[-1, -1, -1] = array[-1, 0, 0] = 4
    dicoms.write_series(tmp_path, array, modality="MR")
    assert read_image(tmp_path).padding is None


# The modality by the values of a DICOM series


def test_the_values_of_a_dicom_series_are_checked_too(tmp_path):
    hounsfield = np.random.default_rng(0).integers(-1000, 900, (4, 32, 32)).astype(np.int16)
    dicoms.write_series(tmp_path / "mr", hounsfield, modality="MR")
    dicoms.write_series(tmp_path / "ct", magnitudes() + 1024)
    dicoms.write_series(tmp_path / "right", hounsfield + 1024)
    assert "as in CT" in modality_doubt(read_image(tmp_path / "mr"), "pre_dwi")
    assert "no voxel is below 0 HU" in modality_doubt(read_image(tmp_path / "ct"), "ct")
    assert modality_doubt(read_image(tmp_path / "right"), "ct") is None
    assert modality_doubt(read_image(tmp_path / "right"), "pre_dwi") == "its DICOM modality is CT"


# Prediction


def test_padding_is_background_and_the_lesion_keeps_its_size(tmp_path, monkeypatch, capsys):
    array, where = padded(-32768)
    change = mark(value=("SS", -32768))
    dicoms.write_series(
        tmp_path / "mr", array, modality="MR", change=change, spacing=(5.0, 1.5, 1.5)
    )
    bright = identity(conditions=("pre_dwi",), threshold=0.5)
    inverted = lambda batch: 1 - batch[..., 0].astype(np.float32) / 255  # noqa: E731
    dark = dataclasses.replace(bright, network=inverted)  # would take padding for a lesion
    for name, segmenter in (("bright", bright), ("dark", dark)):
        monkeypatch.setattr(predict_command, "load", lambda run, made=segmenter, **_: made)
        mask, probability = tmp_path / f"{name}.nii.gz", tmp_path / f"{name}_p.nii.gz"
        words = ["--run", "x", "--image", tmp_path / "mr", "--out", mask]
        words += ["--probability", probability]
        assert exit_code(predict_command.main, [str(word) for word in words]) == 0
        for path in (mask, probability):
            written = sitk.GetArrayFromImage(sitk.ReadImage(str(path)))
            assert written.any()
            assert not written[where].any()
    found = sitk.GetArrayFromImage(sitk.ReadImage(str(tmp_path / "bright.nii.gz")))
    np.testing.assert_array_equal(found > 0, array > 600)
    header, row = (tmp_path / "bright_lesions.csv").read_text().splitlines()
    diameter = float(row.split(",")[header.split(",").index("diameter_mm")])
    assert diameter == pytest.approx(np.hypot(10 * 1.5, 4 * 1.5), abs=2)
    assert "modality" not in capsys.readouterr().err
