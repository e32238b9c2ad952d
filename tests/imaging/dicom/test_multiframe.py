"""Enhanced (multi-frame) images: read as the same volume that classic images give, or refused."""

import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset
from pydicom.uid import JPEGLSLossless, MultiFrameGrayscaleWordSecondaryCaptureImageStorage

from crlm_jax.imaging.dicom.series import read_series
from crlm_jax.imaging.volumes import read_image
from tests.imaging.dicom.dicoms import (
    ORIGIN,
    SHAPE,
    SPACING,
    refuse,
    rotation,
    save,
    uid,
    voxels,
    write_series,
)
from tests.imaging.dicom.enhanced import (
    assert_same,
    by_dcm2niix,
    diffusion,
    echo,
    make_enhanced,
    of_type,
    write_enhanced,
)

SEVERAL = [(voxels(b), diffusion(b, "ISOTROPIC" if b else "NONE")) for b in (0, 50, 1000)]


@pytest.mark.parametrize("modality", ["CT", "MR"])
@pytest.mark.parametrize("degrees", [0, 75])
def test_it_is_the_volume_of_the_classic_series(tmp_path, modality, degrees):
    axes = rotation(degrees)
    write_series(tmp_path / "classic", modality=modality, axes=axes)
    write_enhanced(tmp_path / "enhanced" / "a", [(voxels(), None)], modality=modality, axes=axes)
    expected, at, _ = read_series(tmp_path / "classic")
    array, geometry, series = read_series(tmp_path / "enhanced")
    np.testing.assert_array_equal(array, expected)
    assert geometry.size == at.size
    for name in ("spacing", "origin", "direction"):
        np.testing.assert_allclose(getattr(geometry, name), getattr(at, name), atol=1e-9)
    assert (series.uid, series.modality, len(series.headers)) == (uid(1), modality, SHAPE[0])
    assert series.headers[0].SliceThickness == SPACING[0]


@pytest.mark.parametrize("modality", ["CT", "MR"])
def test_it_is_the_volume_of_dcm2niix(tmp_path, modality):
    write_enhanced(tmp_path / "in" / "a.dcm", [(voxels(), None)], modality=modality)
    (theirs,) = by_dcm2niix(tmp_path / "in", tmp_path / "out").values()
    assert_same(read_image(tmp_path / "in"), theirs)


@pytest.mark.parametrize("interleaved", [False, True])
def test_b_1000_of_several(tmp_path, interleaved):
    path = write_enhanced(tmp_path / "a.dcm", SEVERAL, interleaved=interleaved)
    array, geometry, series = read_series(path)
    np.testing.assert_array_equal(array, voxels(1000))
    assert (series.b_value, geometry.size) == (1000.0, SHAPE[::-1])
    for b in (0, 50):
        array, _, series = read_series(path, b_value=b)
        np.testing.assert_array_equal(array, voxels(b))
        assert series.b_value == b
    refuse(lambda: read_series(path, b_value=800), "no image has a b-value of 800", "0, 50, 1000")


def test_one_object_a_volume(tmp_path):
    for number, volume in enumerate(SEVERAL):
        write_enhanced(tmp_path / f"{number}.dcm", [volume])
    for asked in (tmp_path, tmp_path / "0.dcm"):
        np.testing.assert_array_equal(read_series(asked)[0], voxels(1000))


def concatenate(folder, total=2):
    def part(number):
        def change(header: Dataset) -> None:
            header.ConcatenationUID = uid(77)
            header.InConcatenationNumber, header.InConcatenationTotalNumber = number + 1, total

        return change

    for number, some in enumerate((slice(0, 4), slice(4, 6))):
        header = make_enhanced([(voxels(), None)], change=part(number))
        frames = header.PerFrameFunctionalGroupsSequence[some]
        header.PerFrameFunctionalGroupsSequence = frames
        header.NumberOfFrames = len(frames)
        header.PixelData = voxels()[some].tobytes()
        save(header, folder / f"{number}.dcm")


def test_a_concatenation_is_one_volume(tmp_path):
    concatenate(tmp_path)
    np.testing.assert_array_equal(read_series(tmp_path)[0], voxels())
    (tmp_path / "1.dcm").unlink()
    refuse(lambda: read_series(tmp_path), "1 of the 2 files of a concatenation are missing")


def test_compressed_frames(tmp_path):
    array = np.abs(voxels())
    header = make_enhanced([(array, diffusion(0)), (array + 1, diffusion(1000))])
    header.compress(JPEGLSLossless)
    np.testing.assert_array_equal(read_series(save(header, tmp_path / "a.dcm"))[0], array + 1)


def test_rescale_is_that_of_each_frame(tmp_path):
    def rescale(groups, index):
        item = Dataset()
        item.RescaleSlope, item.RescaleIntercept = 0.5 + index, -10 * index
        groups.PixelValueTransformationSequence = [item]

    write_enhanced(tmp_path / "a.dcm", [(voxels(), rescale)])
    index = np.arange(SHAPE[0])[:, None, None]
    expected = voxels() * (0.5 + index) - 10 * index
    np.testing.assert_allclose(read_series(tmp_path)[0], expected, rtol=1e-6)


def test_padding_of_frames(tmp_path):
    array = np.where(voxels() < -300, -2000, voxels()).astype(np.int16)
    change = lambda header: setattr(header, "PixelPaddingValue", -2000)  # noqa: E731
    write_enhanced(tmp_path / "a.dcm", [(array, None)], change=change)
    np.testing.assert_array_equal(read_image(tmp_path).padding, array == -2000)


def private(groups: Dataset, b: float) -> None:
    block = groups.private_block(0x2001, "Philips Imaging DD 001", create=True)
    block.add_new(0x03, "FL", float(b))


def nested(groups: Dataset, b: float) -> None:
    item = Dataset()
    private(item, b)
    block = groups.private_block(0x2005, "Philips MR Imaging DD 005", create=True)
    block.add_new(0x0F, "SQ", [item])


def unassigned(groups: Dataset, b: float) -> None:
    item = Dataset()
    private(item, b)
    groups.UnassignedPerFrameConvertedAttributesSequence = [item]


@pytest.mark.parametrize("state", [private, nested, unassigned])
def test_private_b_values_of_frames(tmp_path, state):
    write_enhanced(
        tmp_path / "a.dcm",
        [(voxels(b), lambda groups, _, b=b: state(groups, b)) for b in (0, 1000)],
    )
    np.testing.assert_array_equal(read_series(tmp_path)[0], voxels(1000))


def test_the_trace_among_the_directions(tmp_path):
    directions = [(voxels(n), diffusion(1000, "DIRECTIONAL")) for n in (1, 2, 3)]
    path = write_enhanced(tmp_path / "a.dcm", [*SEVERAL, *directions])
    np.testing.assert_array_equal(read_series(path)[0], voxels(1000))
    path = write_enhanced(tmp_path / "b.dcm", [SEVERAL[0], *directions])
    (tmp_path / "a.dcm").unlink()
    refuse(lambda: read_series(path), "as for several diffusion directions", "b.dcm, frame 13")


@pytest.mark.parametrize("b", [None, 0, 1000])
def test_an_adc_map_beside_the_images_is_left_out(tmp_path, b):
    def adc(groups, index):
        diffusion(b)(groups, index)
        of_type("DERIVED", "PRIMARY", "DIFFUSION", "ADC")(groups, index)

    path = write_enhanced(tmp_path / "a.dcm", [*SEVERAL, (voxels(9), adc)])
    for asked in (0, 50, 1000):
        np.testing.assert_array_equal(read_series(path, b_value=asked)[0], voxels(asked))


def test_magnitude_beside_a_field_map(tmp_path):
    values = [
        (voxels(1), of_type("ORIGINAL", "PRIMARY", "T1", "M")),
        (voxels(2), of_type("ORIGINAL", "PRIMARY", "T1", "FIELD_MAP")),
    ]
    write_enhanced(tmp_path / "a.dcm", values)
    array, _, series = read_series(tmp_path)
    np.testing.assert_array_equal(array, voxels(1))
    assert "6 others at the same positions (field map) are left out" in series.doubts[0]


# What is refused


def test_echoes_and_phases(tmp_path):
    path = write_enhanced(tmp_path / "a.dcm", [(voxels(1), echo(4.6)), (voxels(2), echo(9.2))])
    refuse(
        lambda: read_series(path),
        "several images at one position (a.dcm, frame 1 and a.dcm, frame 7)",
        "differ in echo time, temporal position",
        "convert the wanted one to NIfTI",
    )
    path = write_enhanced(tmp_path / "a.dcm", [(voxels(1), None), (voxels(2), None)])
    refuse(lambda: read_series(path), "differ in temporal position;")


def test_stacks_in_several_directions(tmp_path):
    header = make_enhanced([(voxels(), None), (voxels(1), None)])
    for groups in header.PerFrameFunctionalGroupsSequence[6:]:
        groups.FrameContentSequence[0].StackID = "2"
        item = Dataset()
        item.ImageOrientationPatient = [1, 0, 0, 0, 0, -1]
        groups.PlaneOrientationSequence = [item]
    save(header, tmp_path / "a.dcm")
    refuse(lambda: read_series(tmp_path), "holds 2 stacks of slices in different directions")


def as_secondary_capture(header: Dataset) -> None:
    kind = MultiFrameGrayscaleWordSecondaryCaptureImageStorage
    header.SOPClassUID = header.file_meta.MediaStorageSOPClassUID = kind


def test_frames_without_positions(tmp_path):
    def change(header):
        del header.PerFrameFunctionalGroupsSequence

    path = write_enhanced(tmp_path / "a.dcm", [(voxels(), None)], change=change)
    refuse(lambda: read_series(path), f"{path}: holds 6 frames without a position each", "NIfTI")


def test_a_secondary_capture_is_read_if_it_says_where_its_frames_lie(tmp_path):
    path = write_enhanced(tmp_path / "a.dcm", [(voxels(), None)], change=as_secondary_capture)
    array, _, _ = read_series(path)
    np.testing.assert_array_equal(array, voxels())

    def change(header):
        as_secondary_capture(header)
        del header.PerFrameFunctionalGroupsSequence

    write_enhanced(path, [(voxels(), None)], change=change)
    refuse(
        lambda: read_series(path),
        f"{path}: no image among its 1 DICOM files (Secondary Capture (1))",
        "a Secondary Capture does not say where it lies: convert it to NIfTI",
    )


def test_frames_that_are_not_those_described(tmp_path):
    change = lambda header: setattr(header, "NumberOfFrames", 5)  # noqa: E731
    path = write_enhanced(tmp_path / "a.dcm", [(voxels(), None)], change=change)
    refuse(lambda: read_series(path), f"{path}: holds 5 frames, but describes 6")


def test_frames_that_are_cut_off(tmp_path):
    path = write_enhanced(tmp_path / "a.dcm", [(voxels(), None)])
    path.write_bytes(path.read_bytes()[:-500])
    refuse(lambda: read_series(path), f"{path}: its pixels are cut off or damaged")


def test_a_missing_frame(tmp_path):
    header = make_enhanced([(voxels(), None)])
    header.PerFrameFunctionalGroupsSequence = [
        groups for z, groups in enumerate(header.PerFrameFunctionalGroupsSequence) if z != 2
    ]
    header.NumberOfFrames, header.PixelData = 5, np.delete(voxels(), 2, axis=0).tobytes()
    path = save(header, tmp_path / "a.dcm")
    refuse(lambda: read_series(path), "5 mm between a.dcm, frame 2 and a.dcm, frame 3")


def test_a_frame_without_a_place(tmp_path):
    header = make_enhanced([(voxels(), None)])
    del header.PerFrameFunctionalGroupsSequence[3].PlanePositionSequence
    path = save(header, tmp_path / "a.dcm")
    refuse(lambda: read_series(path), "no valid Image Position", "(frame 4)", str(path))


def test_headers_stay_as_they_were(tmp_path):
    path = write_enhanced(tmp_path / "a.dcm", SEVERAL)
    before = path.read_bytes()
    _, _, series = read_series(path)
    assert path.read_bytes() == before
    positions = [float(header.ImagePositionPatient[2]) for header in series.headers]
    np.testing.assert_allclose(positions, ORIGIN[2] + SPACING[0] * np.arange(6))
    assert "PixelData" not in series.headers[0]
    assert pydicom.dcmread(path).NumberOfFrames == 18
