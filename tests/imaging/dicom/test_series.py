"""DICOM series to volumes: order, geometry, values, and what is refused."""

import io
import shutil
from pathlib import Path

import numpy as np
import pydicom
import pytest
import SimpleITK as sitk
from pydicom.dataset import Dataset
from pydicom.filebase import DicomIO
from pydicom.filewriter import write_dataset, write_file_meta_info
from pydicom.uid import (
    MPEG2MPML,
    HTJ2KLossless,
    JPEGLSLossless,
    RLELossless,
    SecondaryCaptureImageStorage,
    generate_uid,
)

from crlm_jax.imaging.dicom import pixels as dicom_pixels
from crlm_jax.imaging.dicom.files import find_series, is_dicom
from crlm_jax.imaging.dicom.results import Algorithm
from crlm_jax.imaging.dicom.segmentation import write_segmentation
from crlm_jax.imaging.dicom.series import read_series
from crlm_jax.imaging.geometry import VolumeError
from crlm_jax.imaging.masks import read_mask
from crlm_jax.imaging.volumes import read_image
from tests.imaging.dicom.dicoms import (
    FRAME,
    ORIGIN,
    SHAPE,
    SPACING,
    by_simpleitk,
    image,
    refuse,
    rotation,
    save,
    uid,
    voxels,
    write_segments,
    write_series,
)

# Order, geometry and values


@pytest.mark.parametrize("degrees", [0, 20, 75, 180])
@pytest.mark.parametrize("flip", [1, -1])
def test_volume_is_the_one_of_simpleitk(tmp_path, degrees, flip):
    axes = rotation(degrees)
    axes[2] *= flip  # files in the order of decreasing position
    write_series(tmp_path, axes=axes)
    array, geometry, series = read_series(tmp_path)
    expected = by_simpleitk(tmp_path)
    assert array.dtype == np.float32
    np.testing.assert_array_equal(array, sitk.GetArrayFromImage(expected))
    np.testing.assert_array_equal(array, voxels()[::flip] - 1024)
    assert geometry.size == expected.GetSize() == SHAPE[::-1]
    np.testing.assert_allclose(geometry.spacing, expected.GetSpacing(), rtol=1e-6)
    np.testing.assert_allclose(geometry.origin, expected.GetOrigin(), atol=1e-6)
    np.testing.assert_allclose(geometry.direction, expected.GetDirection(), atol=1e-7)
    assert np.linalg.det(np.reshape(geometry.direction, (3, 3))) == pytest.approx(1)
    assert len(series.headers) == SHAPE[0]
    for index, header in enumerate(series.headers):
        z = geometry.origin + np.reshape(geometry.direction, (3, 3))[:, 2] * 2.5 * index
        np.testing.assert_allclose(header.ImagePositionPatient, z, atol=1e-5)
        assert "PixelData" not in header


def test_names_and_numbers_of_files_are_of_no_account(tmp_path):
    order = np.random.default_rng(3).permutation(SHAPE[0])
    names = [f"IM{order[index]:04d}" for index in range(SHAPE[0])]

    def shuffle(index, header):
        header.InstanceNumber = int(order[-1 - index])

    files = write_series(tmp_path, names=names, change=shuffle)
    array, geometry, series = read_series(tmp_path)
    np.testing.assert_array_equal(array, voxels() - 1024)
    assert geometry.origin == ORIGIN
    assert geometry.spacing == pytest.approx(SPACING[::-1])
    assert [Path(header.filename) for header in series.headers] == files


def test_what_the_series_says(tmp_path):
    write_series(tmp_path, modality="MR")
    _, _, series = read_series(tmp_path)
    assert (series.uid, series.modality, series.path) == (uid(1), "MR", tmp_path)
    assert series.b_value is None


def test_rescale_is_that_of_each_slice(tmp_path):
    def rescale(index, header):
        header.RescaleSlope, header.RescaleIntercept = 0.5 + index, -10 * index

    write_series(tmp_path, change=rescale)
    index = np.arange(SHAPE[0])[:, None, None]
    array, _, _ = read_series(tmp_path)
    np.testing.assert_allclose(array, voxels() * (0.5 + index) - 10 * index, rtol=1e-6)
    np.testing.assert_allclose(array, sitk.GetArrayFromImage(by_simpleitk(tmp_path)), rtol=1e-6)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int16])
def test_stored_types(tmp_path, dtype):
    array = voxels().astype(dtype)
    write_series(tmp_path, array, modality="MR")
    np.testing.assert_array_equal(read_series(tmp_path)[0], array)


@pytest.mark.parametrize(
    ("change", "spacing"),
    [
        ({"SpacingBetweenSlices": 4.5, "SliceThickness": 3}, 4.5),
        ({"SliceThickness": 3}, 3.0),
        ({"SliceThickness": None}, 1.0),
    ],
)
def test_one_slice(tmp_path, change, spacing):
    write_series(tmp_path, voxels()[:1], change=lambda _, header: header.update(change))
    array, geometry, _ = read_series(tmp_path)
    np.testing.assert_array_equal(array, voxels()[:1] - 1024)
    assert geometry.spacing == (0.8, 0.7, spacing)


def test_positions_of_two_digits_are_even_enough(tmp_path):
    def round_off(index, header):
        header.ImagePositionPatient = [f"{value:.2f}" for value in header.ImagePositionPatient]

    write_series(tmp_path, axes=rotation(20), spacing=(0.333, 0.7, 0.7), change=round_off)
    assert read_series(tmp_path)[1].spacing[2] == pytest.approx(0.333, abs=0.005)


@pytest.mark.parametrize("spacing", [1.25, 2.5, 0.9])
def test_positions_of_one_digit_are_even_enough(tmp_path, spacing):
    def round_off(index, header):
        header.ImagePositionPatient = [f"{value:.1f}" for value in header.ImagePositionPatient]

    write_series(tmp_path, spacing=(spacing, 0.7, 0.8), change=round_off)
    _, geometry, series = read_series(tmp_path)
    assert geometry.spacing[2] == pytest.approx(spacing, abs=0.03)
    assert series.doubts == ()


def test_spacing_that_is_slightly_uneven_is_a_doubt(tmp_path):
    def shift(index, header):
        x, y, z = header.ImagePositionPatient
        header.ImagePositionPatient = [x, y, z + 0.2 * (index == 3)]

    write_series(tmp_path, change=shift)
    assert "not quite evenly spaced (off by up to 0.2 mm" in read_series(tmp_path)[2].doubts[0]


def test_pixel_spacing_that_differs_in_the_seventh_digit(tmp_path):
    def change(index, header):
        header.PixelSpacing = [0.7 + 1e-7 * index, 0.8 - 1e-7 * index]

    write_series(tmp_path, change=change)
    array, geometry, series = read_series(tmp_path)
    np.testing.assert_array_equal(array, voxels() - 1024)
    assert geometry.spacing[:2] == pytest.approx((0.8, 0.7))
    assert series.doubts == ()


def skewed(angle: float, length: float = 1.0):
    """Direction cosines with the columns turned towards the rows."""
    cosines = [1, 0, 0, np.sin(angle), np.cos(angle) * length, 0]
    return lambda _, header: setattr(header, "ImageOrientationPatient", cosines)


@pytest.mark.parametrize("change", [skewed(0.004), skewed(-0.015), skewed(0, 1.006)])
def test_axes_slightly_off_take_the_nearest_rotation(tmp_path, change):
    write_series(tmp_path, change=change)
    array, geometry, series = read_series(tmp_path)
    np.testing.assert_array_equal(array, voxels() - 1024)
    axes = np.reshape(geometry.direction, (3, 3))
    np.testing.assert_allclose(axes @ axes.T, np.eye(3), atol=1e-12)
    np.testing.assert_allclose(axes, np.eye(3), atol=0.01)
    assert "not quite perpendicular unit vectors" in series.doubts[0]
    assert read_image(tmp_path).doubts == series.doubts


@pytest.mark.parametrize("change", [skewed(0.1), skewed(0, 0.9), skewed(0, 0), skewed(np.pi / 2)])
def test_axes_clearly_off(tmp_path, change):
    write_series(tmp_path, change=change)
    refuse(
        lambda: read_series(tmp_path),
        f"series {uid(1)}: 000.dcm has direction cosines (Image Orientation) that are not perp",
        "export the original images",
    )


def test_files_of_one_uid_with_several_series_numbers(tmp_path):
    for number in (1, 2):
        write_series(
            tmp_path,
            voxels(number),
            names=[f"{number}-{index}" for index in range(6)],
            change=lambda _, header, number=number: setattr(header, "SeriesNumber", number),
        )
    for number in (1, 2):
        np.testing.assert_array_equal(
            read_series(tmp_path / f"{number}-3")[0], voxels(number) - 1024
        )
    refuse(lambda: read_series(tmp_path), "differ in Series Number (give a file of the wanted one)")


def test_a_series_number_of_each_image_is_no_choice(tmp_path):
    files = write_series(
        tmp_path, change=lambda index, header: setattr(header, "SeriesNumber", index)
    )
    np.testing.assert_array_equal(read_series(files[2])[0], voxels() - 1024)


def test_real_series(shared):
    folder = shared / "data" / "dicom_seg" / "ct"
    array, geometry, series = read_series(folder)
    expected = by_simpleitk(folder)
    np.testing.assert_array_equal(array, sitk.GetArrayFromImage(expected))
    assert geometry.spacing == pytest.approx((0.810547, 0.810547, 1.0))
    assert geometry.origin == pytest.approx(expected.GetOrigin())
    assert series.modality == "CT"
    assert np.median(array[1, 200:300, 200:300]) == pytest.approx(50, abs=150)  # HU of soft tissue


# Files and folders


def test_is_dicom(tmp_path):
    files = write_series(tmp_path / "a", names=[f"IM{index}" for index in range(6)])
    assert is_dicom(tmp_path / "a")
    assert is_dicom(files[0])
    assert not is_dicom(tmp_path)  # not directly in it
    assert not is_dicom(tmp_path / "none")
    (tmp_path / "scan.nii.gz").write_bytes(b"0" * 400)
    assert not is_dicom(tmp_path / "scan.nii.gz")
    assert not is_dicom(tmp_path)
    (tmp_path / "x.DCM").write_bytes(b"")
    assert is_dicom(tmp_path / "x.DCM")


def test_find_series(tmp_path):
    first = write_series(tmp_path / "p1" / "deep", names=[f"I{index}" for index in range(6)])
    second = write_series(tmp_path / "p1", series=uid(2))
    third = write_series(tmp_path / "p2", series=uid(3), modality="MR")
    write_segments(tmp_path / "p2" / "seg.dcm", third, {"Tumor": voxels() > 0})
    (tmp_path / "notes.txt").write_text("hello")
    (tmp_path / "p2" / "._000.dcm").write_bytes(b"resource fork")
    assert find_series(tmp_path) == {uid(1): first, uid(2): second, uid(3): third}
    assert find_series(tmp_path / "p1" / "deep") == {uid(1): first}


def test_one_of_several_series(tmp_path):
    write_series(tmp_path, names=[f"a{index}" for index in range(6)])
    other = write_series(tmp_path, voxels(1), series=uid(2), modality="MR")
    listed = [
        f"{uid(1)}: no description, CT, axial, 6 images, number 3",
        f"{uid(2)}: no description, MR, axial, 6 images, number 3",
    ]
    for asked, said in ((None, "holds 2 series; choose"), (uid(9), f"has no series {uid(9)};")):
        with pytest.raises(VolumeError, match="--series UID") as why:
            read_series(tmp_path, series=asked)
        first, *lines = str(why.value).splitlines()
        assert first.startswith(f"{tmp_path}: {said}")
        assert lines == listed
    refuse(
        lambda: read_series(other[0], series=uid(1)),
        f"{other[0]}: belongs to series {uid(2)}, not {uid(1)}",
    )
    for found in (read_series(tmp_path, series=uid(2)), read_series(other[3])):
        np.testing.assert_array_equal(found[0], voxels(1))
        assert found[2].uid == uid(2)
    assert read_series(other[3])[2].path == other[3]


def test_objects_that_are_no_images_are_ignored(tmp_path):
    files = write_series(tmp_path)
    write_segments(tmp_path / "seg.dcm", files, {"Tumor": voxels() > 0})
    for number, kind in enumerate(
        ("1.2.840.10008.5.1.4.1.1.88.33", "1.2.840.10008.5.1.4.1.1.481.3", "1.2.840.10008.1.3.10")
    ):
        other = pydicom.dcmread(files[0])
        other.SOPClassUID = other.file_meta.MediaStorageSOPClassUID = kind
        other.SeriesInstanceUID = uid(20 + number)
        save(other, tmp_path / f"other{number}")
    (tmp_path / "readme.txt").write_text("hello")
    np.testing.assert_array_equal(read_series(tmp_path)[0], voxels() - 1024)
    refuse(
        lambda: read_series(tmp_path / "seg.dcm"),
        f"{tmp_path / 'seg.dcm'}: holds no image (Segmentation Storage)",
    )
    for file in files:
        file.unlink()
    refuse(lambda: read_series(tmp_path), f"{tmp_path}: no image among its 4 DICOM files")


def test_series_beside_unreadable_files(tmp_path):
    files = write_series(tmp_path / "ct")
    files[2].write_bytes(files[2].read_bytes()[:300])
    unreadable = []
    found = find_series(tmp_path, unreadable)
    assert found == {uid(1): [*files[:2], *files[3:]]}
    assert unreadable == [files[2]]


def test_absent_empty_and_foreign(tmp_path):
    refuse(lambda: read_series(tmp_path / "none"), f"{tmp_path / 'none'}: file or folder not found")
    refuse(lambda: read_series(tmp_path), f"{tmp_path}: no DICOM file in the folder; give the")
    text = tmp_path / "a.nii"
    text.write_text("hello " * 100)
    refuse(lambda: read_series(text), f"{text}: not a DICOM file; give")
    refuse(lambda: read_series(tmp_path), f"{tmp_path}: no DICOM file in the folder")
    named = tmp_path / "b.dcm"
    text.rename(named)
    for call in (read_series, find_series):
        refuse(lambda call=call: call(tmp_path), f"{named}: not a DICOM file, or cut off")


@pytest.mark.parametrize("share", [0.0, 0.09, 0.125, 0.2, 0.35, 0.6, 0.7, 0.8, 0.999])
def test_files_cut_off(tmp_path, share):
    file = write_series(tmp_path)[-1]  # at the edge, where no gap would tell
    whole = file.read_bytes()
    file.write_bytes(whole[: int(len(whole) * share)])
    refuse(lambda: read_series(tmp_path), f"{file}: ", "copy it again" if share < 0.65 else "again")


@pytest.mark.parametrize("names", ["IM{:04d}", "1.2.840.{}", "MR.{}.IMA"])
@pytest.mark.parametrize("left", [0, 100, -1])
def test_an_end_slice_without_ending_that_is_no_dicom(tmp_path, names, left):
    files = write_series(tmp_path, names=[names.format(index) for index in range(8, 14)])
    whole = files[-1].read_bytes()
    files[-1].write_bytes(whole[:left] if left >= 0 else bytes(len(whole)))
    for call in (read_series, find_series):
        refuse(lambda call=call: call(tmp_path), f"{files[-1]}: not a DICOM file, though named lik")
    unreadable = []
    assert len(find_series(tmp_path, unreadable)[uid(1)]) == 5
    assert unreadable == [files[-1]]


@pytest.mark.parametrize(("modality", "doubted"), [("MR", True), ("CT", False), ("OT", True)])
def test_low_values_that_are_meant_to_be_white(tmp_path, modality, doubted):
    def change(_, header):
        header.PhotometricInterpretation = "MONOCHROME1"
        header.Modality = modality

    array = np.abs(voxels())
    write_series(tmp_path, array, modality="MR", change=change)
    values, _, about = read_series(tmp_path)
    np.testing.assert_array_equal(values, array)
    assert ["bright and dark may be exchanged" in doubt for doubt in about.doubts] == [
        True
    ] * doubted


def test_an_empty_file_beside_a_series_is_a_doubt(tmp_path):
    write_series(tmp_path)
    for name in ("note.txt", ".hidden", "DICOMDIR", "Thumbs.db"):
        (tmp_path / name).write_bytes(b"")
    (tmp_path / "README").write_text("of the CD")
    assert read_image(tmp_path).doubts == ()
    (tmp_path / "SLICE").write_bytes(bytes(500))
    assert "1 file(s) that are empty or hold zeros alone (SLICE)" in read_image(tmp_path).doubts[0]


def test_file_without_preamble(tmp_path):
    for file in write_series(tmp_path):
        header = pydicom.dcmread(file)
        del header.file_meta
        header.save_as(file, implicit_vr=True, little_endian=True, enforce_file_format=False)
    np.testing.assert_array_equal(read_series(tmp_path)[0], voxels() - 1024)


# Compressed pixels


@pytest.mark.parametrize("syntax", [RLELossless, JPEGLSLossless])
def test_compressed(tmp_path, syntax):
    array = np.abs(voxels()).astype(np.uint16)
    write_series(tmp_path, array, change=lambda _, header: header.compress(syntax))
    np.testing.assert_array_equal(read_series(tmp_path)[0], array - 1024.0)


@pytest.mark.parametrize("codec", ["JPEG", "JPEG2000"])  # JPEG: lossless, process 14
def test_compressed_as_by_an_archive(tmp_path, codec):
    if codec == "JPEG":
        pytest.importorskip("gdcm")

    def encode(index, header):
        writer = sitk.ImageFileWriter()
        writer.SetFileName(str(tmp_path / "encoded.dcm"))
        writer.UseCompressionOn()
        writer.SetCompressor(codec)
        writer.Execute(sitk.GetImageFromArray(voxels()[index][None]))
        encoded = pydicom.dcmread(tmp_path / "encoded.dcm")
        header.file_meta.TransferSyntaxUID = encoded.file_meta.TransferSyntaxUID
        header["PixelData"] = encoded["PixelData"]

    write_series(tmp_path / "series", change=encode)
    file = tmp_path / "series" / "000.dcm"
    assert pydicom.dcmread(file).file_meta.TransferSyntaxUID.is_compressed
    np.testing.assert_array_equal(read_series(tmp_path / "series")[0], voxels() - 1024)


@pytest.mark.parametrize(
    ("syntax", "remedy"),
    [
        (HTJ2KLossless, "pip install pylibjpeg pylibjpeg-openjpeg, or store the series uncomp"),
        (JPEGLSLossless, "pip install python-gdcm, or store the series uncompressed"),
        (MPEG2MPML, "; store the series uncompressed"),
    ],
)
def test_no_decoder(tmp_path, monkeypatch, syntax, remedy):
    def encode(index, header):
        header.compress(RLELossless)
        header.file_meta.TransferSyntaxUID = syntax

    def none(_):
        raise NotImplementedError

    monkeypatch.setattr(dicom_pixels, "get_decoder", none)
    write_series(tmp_path, change=encode)
    refuse(
        lambda: read_series(tmp_path),
        f"{tmp_path / '000.dcm'}: no decoder for its transfer syntax {syntax} ({syntax.name})",
        remedy,
    )


def test_compressed_pixels_that_are_damaged(tmp_path):
    def damage(index, header):
        header.compress(JPEGLSLossless)
        header.PixelData = header.PixelData[:24] + bytes(len(header.PixelData) - 24)

    write_series(tmp_path, np.abs(voxels()).astype(np.uint16), change=damage)
    refuse(lambda: read_series(tmp_path), "000.dcm: its pixels are cut off or damaged", "JPEG-LS")


# What is no stack


def test_missing_slice(tmp_path):
    write_series(tmp_path)[2].unlink()
    refuse(
        lambda: read_series(tmp_path),
        f"{tmp_path}: series {uid(1)}: slices are unevenly spaced, 5 mm between 001.dcm and "
        "003.dcm and 2.5 mm as a rule",
        "export the complete series again",
    )


def test_doubled_slice(tmp_path):
    files = write_series(tmp_path)
    shutil.copy(files[2], tmp_path / "copy.dcm")
    refuse(
        lambda: read_series(tmp_path),
        f"series {uid(1)}: holds the same image twice (002.dcm and copy.dcm); remove one",
    )
    again = pydicom.dcmread(files[2])
    again.SOPInstanceUID = generate_uid()
    save(again, tmp_path / "copy.dcm")
    refuse(
        lambda: read_series(tmp_path),
        f"series {uid(1)}: several images at one position (002.dcm and copy.dcm)",
        "remove the doubled images",
    )


def test_several_phases_in_one_series(tmp_path):
    write_series(tmp_path, names=[f"a{index}" for index in range(6)])
    write_series(tmp_path, names=[f"b{index}" for index in range(6)])
    refuse(lambda: read_series(tmp_path), "several images at one position (a0 and b0)", "phase")


@pytest.mark.parametrize(
    ("change", "what"),
    [
        ({"ImageOrientationPatient": [1, 0, 0, 0, 0, -1]}, "orientation"),
        ({"Rows": 6, "Columns": 32}, "size"),
        ({"PixelSpacing": [0.7, 0.9]}, "pixel spacing"),
        ({"FrameOfReferenceUID": FRAME + ".1"}, "frame of reference"),
    ],
)
def test_mixed(tmp_path, change, what):
    write_series(tmp_path, change=lambda index, header: index == 4 and header.update(change))
    refuse(
        lambda: read_series(tmp_path),
        f"{tmp_path}: series {uid(1)}: 000.dcm and 004.dcm differ in {what}",
        "--series UID",
    )


def test_gantry_tilt(tmp_path):
    def tilt(index, header):
        x, y, z = header.ImagePositionPatient
        header.ImagePositionPatient = [x, y + index * 2.5 * np.tan(np.radians(12)), z]

    write_series(tmp_path, change=tilt)
    refuse(
        lambda: read_series(tmp_path),
        f"series {uid(1)}: slices are shifted in their plane by up to 2.657 mm",
        "gantry tilt of 12°",
        "dcm2niix",
    )


@pytest.mark.parametrize(
    ("change", "parts"),
    [
        ({"ImageType": ["ORIGINAL", "PRIMARY", "LOCALIZER"]}, ["is a localizer", "--series UID"]),
        ({"SamplesPerPixel": 3, "PhotometricInterpretation": "RGB"}, ["in colour", "--series UID"]),
        ({"PhotometricInterpretation": "PALETTE COLOR"}, ["in colour"]),
    ],
)
def test_images_that_are_no_slices(tmp_path, change, parts):
    write_series(tmp_path, change=lambda index, header: index == 5 and header.update(change))
    refuse(lambda: read_series(tmp_path), f"{tmp_path}: series {uid(1)}: 005.dcm", *parts)


@pytest.mark.parametrize(
    ("keyword", "said"),
    [
        ("ImagePositionPatient", "Image Position (Patient) (0020,0032)"),
        ("ImageOrientationPatient", "Image Orientation (Patient) (0020,0037)"),
        ("PixelSpacing", "Pixel Spacing (0028,0030)"),
        ("Rows", "Rows (0028,0010)"),
    ],
)
def test_headers_without_a_place(tmp_path, keyword, said):
    for change in (Dataset.__delattr__, lambda header, name: setattr(header, name, None)):
        write_series(
            tmp_path, change=lambda index, header, by=change: index == 3 and by(header, keyword)
        )
        refuse(lambda: read_series(tmp_path), f"{tmp_path / '003.dcm'}: has no valid {said}")


def test_a_screenshot_is_no_series(tmp_path):
    write_series(tmp_path)
    picture = image(voxels()[0], ORIGIN, np.eye(3), series=uid(2), number=1)
    picture.SOPClassUID = SecondaryCaptureImageStorage
    picture.file_meta.MediaStorageSOPClassUID = SecondaryCaptureImageStorage
    save(picture, tmp_path / "shot.dcm")
    np.testing.assert_array_equal(read_series(tmp_path)[0], voxels() - 1024)
    said: list[str] = []
    assert list(find_series(tmp_path, left_out=said)) == [uid(1)]
    assert said == ["Secondary Capture (1)"]


def test_a_scan_stored_as_secondary_capture_is_a_series(tmp_path):
    def change(index, header):
        header.SOPClassUID = header.file_meta.MediaStorageSOPClassUID = SecondaryCaptureImageStorage

    write_series(tmp_path, change=change)
    np.testing.assert_array_equal(read_series(tmp_path)[0], voxels() - 1024)


# Files without preamble


def strip(file: Path, *, meta: bool, implicit: bool = False) -> None:
    """Takes the preamble from a file, and with `meta` the meta header too, as old exports lack."""
    header = pydicom.dcmread(file)
    own = Dataset()
    own.update(header)
    buffer = io.BytesIO()
    with DicomIO(buffer) as stream:
        stream.is_little_endian, stream.is_implicit_VR = True, implicit
        if not meta:
            write_file_meta_info(stream, header.file_meta, enforce_standard=True)
            stream.is_little_endian, stream.is_implicit_VR = True, implicit
        write_dataset(stream, own)
        file.write_bytes(buffer.getvalue())


@pytest.mark.parametrize(("meta", "implicit"), [(False, False), (True, False), (True, True)])
def test_files_without_preamble_and_ending(tmp_path, meta, implicit):
    names = [f"IM{index}" for index in range(6)]
    folder = tmp_path / "cd"
    for file in write_series(folder, names=names):
        strip(file, meta=meta, implicit=implicit)
        assert file.read_bytes()[128:132] != b"DICM"
        assert is_dicom(file)
    (folder / "README").write_text("of the CD")
    array, _, about = read_series(folder)
    np.testing.assert_array_equal(array, voxels() - 1024)
    assert about.uid == uid(1)
    assert list(find_series(tmp_path)) == [uid(1)]
    volume = read_image(folder)
    lesion = volume.geometry.from_axial(volume.voxels > 300).astype(np.int32)
    write_segmentation(
        tmp_path / "seg.dcm", lesion, volume.series, algorithm=Algorithm("a", "1", "f")
    )
    np.testing.assert_array_equal(read_mask(tmp_path / "seg.dcm", None, volume), lesion > 0)


@pytest.mark.parametrize(
    "content",
    [
        b"", b"\x08\x00", b"08 00 CS", b"patient,condition\n" * 20, bytes(400),
        b"\x08\x00\x05\x00CS\x0a\x00" * 40, b"\x08\x00\x16\x00UI\x04\x001.2\0" * 9,
        b"\x02\x00\x00\x00UL\x04\x00" + bytes(300),
        bytes(range(256)) * 2, b"\x1f\x8b\x08\x00" * 99, b"\x08\x00\x08\x00" + b"\xff" * 300,
    ],
)  # fmt: skip
def test_what_only_begins_like_dicom_is_none(tmp_path, content):
    (tmp_path / "FILE").write_bytes(content)
    assert not is_dicom(tmp_path / "FILE")
    assert not is_dicom(tmp_path)
