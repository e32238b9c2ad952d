"""DICOM segmentations in and out: segments, places, codes, and what is refused."""

import dataclasses
import warnings

import numpy as np
import pydicom
import pytest
import SimpleITK as sitk

from crlm_jax.imaging.dicom.results import Algorithm
from crlm_jax.imaging.dicom.segmentation import (
    is_segmentation,
    read_segmentation,
    write_segmentation,
)
from crlm_jax.imaging.dicom.series import read_series
from tests.imaging.dicom.dicoms import (
    FRAME,
    ORIGIN,
    PATIENT,
    SHAPE,
    SPACING,
    STUDY,
    refuse,
    rotation,
    uid,
    voxels,
    write_segments,
    write_series,
)
from tests.imaging.dicom.test_diffusion import siemens, write_diffusion

POOR = """
    PatientName PatientID PatientBirthDate PatientSex StudyID StudyDate StudyTime AccessionNumber
    SpecificCharacterSet FrameOfReferenceUID SliceThickness
"""
RUN = {"algorithm": Algorithm("CRLM-GAN", "1.2.3", "0123abcd")}


def blobs(seed: int = 0, share: float = 0.3) -> np.ndarray:
    return np.random.default_rng(seed).random(SHAPE) < share


def segment_labels(path) -> list[str]:
    return [str(segment.SegmentLabel) for segment in pydicom.dcmread(path).SegmentSequence]


def at(slice_: int, row: int = 0, column: int = 0) -> list[float]:
    """Position in mm of a voxel of the axial series."""
    return (np.array(ORIGIN) + np.array([column, row, slice_]) * SPACING[::-1]).tolist()


@pytest.fixture
def scan(tmp_path):
    """An axial series: files, geometry and what it says of itself."""
    files = write_series(tmp_path / "ct")
    _, geometry, series = read_series(tmp_path / "ct")
    return files, geometry, series


# Out and in again


@pytest.mark.parametrize("flip", [1, -1])
@pytest.mark.parametrize("degrees", [0, 35])
def test_written_mask_reads_back(tmp_path, degrees, flip):
    axes = rotation(degrees)
    axes[2] *= flip
    write_series(tmp_path / "mr", axes=axes, modality="MR")
    _, geometry, series = read_series(tmp_path / "mr")
    for mask in (blobs(), blobs(share=0.01), np.ones(SHAPE, bool)):
        write_segmentation(tmp_path / "seg.dcm", mask, series, **RUN)
        np.testing.assert_array_equal(
            read_segmentation(tmp_path / "seg.dcm", geometry, series), mask
        )
        assert segment_labels(tmp_path / "seg.dcm") == ["Tumor_1"]
        assert is_segmentation(tmp_path / "seg.dcm")


def test_one_segment_a_lesion(tmp_path, scan):
    _, geometry, series = scan
    lesions = np.random.default_rng(0).integers(0, 4, SHAPE)
    path = tmp_path / "seg.dcm"
    write_segmentation(path, lesions, series, **RUN)
    assert segment_labels(path) == ["Tumor_1", "Tumor_2", "Tumor_3"]
    np.testing.assert_array_equal(read_segmentation(path, geometry, series), lesions > 0)
    for number in (1, 2, 3):
        found = read_segmentation(path, geometry, series, f"tumor_{number}")
        np.testing.assert_array_equal(found, lesions == number)


def test_more_lesions_than_a_byte_counts(tmp_path):
    write_series(tmp_path / "ct", voxels(shape=(1, 17, 16)))
    _, geometry, series = read_series(tmp_path / "ct")
    lesions = np.arange(17 * 16).reshape(1, 17, 16)
    write_segmentation(tmp_path / "seg.dcm", lesions, series, **RUN)
    assert segment_labels(tmp_path / "seg.dcm")[-1] == "Tumor_271"
    found = read_segmentation(tmp_path / "seg.dcm", geometry, series, "Tumor_14, Tumor_27?")
    np.testing.assert_array_equal(found, (lesions == 14) | (lesions >= 270))


@pytest.mark.parametrize("dtype", [bool, np.int32])
def test_empty_mask(tmp_path, scan, dtype):
    _, geometry, series = scan
    path = tmp_path / "seg.dcm"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        write_segmentation(path, np.zeros(SHAPE, dtype), series, **RUN)
    assert segment_labels(path) == ["Tumor_1"]
    assert pydicom.dcmread(path).NumberOfFrames == SHAPE[0]
    found = read_segmentation(path, geometry, series)
    assert found.shape == SHAPE
    assert not found.any()


def test_of_one_b_value_among_several(tmp_path):
    write_diffusion(tmp_path / "dwi", siemens, (0, 1000))
    _, geometry, series = read_series(tmp_path / "dwi")
    write_segmentation(tmp_path / "seg.dcm", blobs(), series, **RUN)
    found = read_segmentation(tmp_path / "seg.dcm", geometry, series)
    np.testing.assert_array_equal(found, blobs())
    reference = pydicom.dcmread(tmp_path / "seg.dcm").ReferencedSeriesSequence[0]
    assert len(reference.ReferencedInstanceSequence) == SHAPE[0]


def test_patient_study_and_codes(tmp_path, scan, caplog):
    _, _, series = scan
    write_segmentation(tmp_path / "seg.dcm", blobs(), series, **RUN)
    written = pydicom.dcmread(tmp_path / "seg.dcm")
    for keyword, value in PATIENT.items():
        assert written[keyword].value == value
    assert (written.PatientSex, written.AccessionNumber, written.StudyID) == ("F", "A-99", "S1")
    assert (written.StudyInstanceUID, written.StudyDate) == (STUDY, "20240506")
    assert written.FrameOfReferenceUID == FRAME
    assert written.ReferencedSeriesSequence[0].SeriesInstanceUID == uid(1)
    references = written.ReferencedSeriesSequence[0].ReferencedInstanceSequence
    assert {item.ReferencedSOPInstanceUID for item in references} == {
        header.SOPInstanceUID for header in series.headers
    }
    assert written.SeriesInstanceUID != uid(1)
    segment = written.SegmentSequence[0]

    def code(name):
        item = segment[name].value[0]
        return item.CodingSchemeDesignator, item.CodeValue

    assert code("SegmentedPropertyCategoryCodeSequence") == ("SCT", "49755003")
    assert code("SegmentedPropertyTypeCodeSequence") == ("SCT", "14799000")
    assert code("AnatomicRegionSequence") == ("SCT", "10200004")
    assert segment.SegmentAlgorithmType == "AUTOMATIC"
    assert segment.SegmentAlgorithmName == "CRLM-GAN"
    algorithm = segment.SegmentationAlgorithmIdentificationSequence[0]
    assert (algorithm.AlgorithmName, algorithm.AlgorithmVersion) == ("CRLM-GAN", "1.2.3")
    assert "0123abcd" in algorithm.AlgorithmParameters
    assert "Musterfrau" not in caplog.text


def test_headers_that_anonymisation_left_poor(tmp_path):
    def strip(index, header):
        for keyword in POOR.split():
            delattr(header, keyword)

    write_series(tmp_path / "ct", change=strip)
    _, geometry, series = read_series(tmp_path / "ct")
    write_segmentation(tmp_path / "seg.dcm", blobs(), series, **RUN)
    np.testing.assert_array_equal(
        read_segmentation(tmp_path / "seg.dcm", geometry, series), blobs()
    )


def test_headers_with_odd_values(tmp_path, scan, caplog):
    _, geometry, series = scan
    odd = {"PatientName": "NOBODY", "PatientSex": "U", "PatientBirthDate": "unknown"}
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        with pydicom.config.disable_value_validation():
            for header in series.headers:
                header.update(odd)
        write_segmentation(tmp_path / "seg.dcm", blobs(), series, **RUN)
        found = read_segmentation(tmp_path / "seg.dcm", geometry, series)
    written = pydicom.dcmread(tmp_path / "seg.dcm")
    with pydicom.config.disable_value_validation():
        for keyword, value in odd.items():
            assert written[keyword].value == value
    np.testing.assert_array_equal(found, blobs())
    said = caplog.text + "".join(str(warning.message) for warning in caught)
    assert "NOBODY" not in said
    assert "unknown" not in said


def test_real_segmentation(tmp_path, shared):
    folder = shared / "data" / "dicom_seg"
    _, geometry, series = read_series(folder / "ct")
    path = folder / "liver_seg.dcm"
    assert segment_labels(path) == ["Liver"]
    expected = sitk.GetArrayFromImage(sitk.ReadImage(str(folder / "liver_seg.nrrd"))) > 0
    found = read_segmentation(path, geometry, series, "liver*")
    np.testing.assert_array_equal(found, expected)
    write_segmentation(tmp_path / "again.dcm", found, series, **RUN)
    again = read_segmentation(tmp_path / "again.dcm", geometry, series)
    np.testing.assert_array_equal(again, expected)
    refuse(lambda: read_segmentation(path, geometry, series), "no segment", "labels are 'Liver'")


# Segments of other producers


def test_only_the_segments_asked_for_united(tmp_path, scan):
    files, geometry, series = scan
    segments = {
        "Liver": np.ones(SHAPE, bool),
        "TUMOR_1": blobs(1),
        "Tumor 2": blobs(2),  # overlaps TUMOR_1
        "Not tumor": blobs(3),
        "Metastasis": blobs(4),
    }
    path = write_segments(tmp_path / "seg.dcm", files, segments)
    assert segment_labels(path) == list(segments)
    found = read_segmentation(path, geometry, series)
    np.testing.assert_array_equal(found, blobs(1) | blobs(2))
    found = read_segmentation(path, geometry, None, "tumor 2, META*")
    np.testing.assert_array_equal(found, blobs(2) | blobs(4))


@pytest.mark.parametrize("fractional_type", ["PROBABILITY", "OCCUPANCY"])
@pytest.mark.parametrize("full", [255, 100])
def test_fractions(tmp_path, scan, fractional_type, full):
    files, geometry, series = scan
    share = np.random.default_rng(0).integers(0, full + 1, SHAPE) / full

    def change(written):
        written.SegmentationFractionalType = fractional_type
        written.MaximumFractionalValue = full
        stored = np.round(share * full).astype(np.uint8)
        assert written.NumberOfFrames == SHAPE[0]
        order = [
            files_of[tuple(group.PlanePositionSequence[0].ImagePositionPatient)]
            for group in written.PerFrameFunctionalGroupsSequence
        ]
        written.PixelData = stored[order].tobytes()

    files_of = {tuple(h.ImagePositionPatient): k for k, h in enumerate(series.headers)}
    path = write_segments(
        tmp_path / "seg.dcm", files, {"Tumor": share}, kind="FRACTIONAL", change=change
    )
    np.testing.assert_array_equal(read_segmentation(path, geometry, series), share >= 0.5)


def test_label_map(tmp_path, scan):
    files, geometry, series = scan
    segments = {"Liver": ~blobs(), "Tumor": blobs() & (voxels() > 0)}
    path = write_segments(tmp_path / "seg.dcm", files, segments, kind="LABELMAP")
    assert is_segmentation(path)
    assert segment_labels(path)[-2:] == ["Liver", "Tumor"]
    found = read_segmentation(path, geometry, series)
    np.testing.assert_array_equal(found, segments["Tumor"])
    found = read_segmentation(path, geometry, series, "*")
    np.testing.assert_array_equal(found, segments["Tumor"] | segments["Liver"])


# Places


def test_sparse_frames_in_any_order(tmp_path, scan):
    files, geometry, series = scan
    expected = np.zeros(SHAPE, bool)
    expected[[0, 1, 4]] = blobs()[[0, 1, 4]]
    path = write_segments(tmp_path / "seg.dcm", files, {"Tumor": expected})
    assert pydicom.dcmread(path).NumberOfFrames == 3
    np.testing.assert_array_equal(read_segmentation(path, geometry, series), expected)
    path = write_segments(tmp_path / "reversed.dcm", files[::-1], {"Tumor": expected[::-1]})
    np.testing.assert_array_equal(read_segmentation(path, geometry, series), expected)


def test_cropped_frames(tmp_path, scan):
    files, geometry, series = scan
    part = (slice(2, 5), slice(3, 11), slice(4, 10))
    expected = np.zeros(SHAPE, bool)
    expected[part] = blobs()[part]
    path = write_segments(
        tmp_path / "seg.dcm",
        files,
        {"Tumor": expected[part]},
        positions=[at(index, 3, 4) for index in (2, 3, 4)],
    )
    np.testing.assert_array_equal(read_segmentation(path, geometry, series), expected)


def test_turned_frames(tmp_path, scan):
    files, geometry, series = scan
    mirrored = np.diag([-1.0, 1.0, -1.0])  # rows run to the patient's right
    path = write_segments(
        tmp_path / "mirrored.dcm",
        files,
        {"Tumor": blobs()[..., ::-1]},
        positions=[at(index, 0, 15) for index in range(6)],
        axes=mirrored,
    )
    np.testing.assert_array_equal(read_segmentation(path, geometry, series), blobs())
    coronal = np.array([[1, 0, 0], [0, 0, -1], [0, 1, 0]], float)
    path = write_segments(
        tmp_path / "coronal.dcm",
        files,
        {"Tumor": blobs().transpose(1, 0, 2)[:, ::-1]},
        positions=[at(5, row) for row in range(12)],
        axes=coronal,
        spacing=(0.7, 2.5, 0.8),
    )
    np.testing.assert_array_equal(read_segmentation(path, geometry, series), blobs())


def test_places_rounded_in_the_file(tmp_path, scan):
    files, geometry, series = scan
    positions = [[value + 0.05 for value in at(index)] for index in range(6)]
    path = write_segments(
        tmp_path / "seg.dcm",
        files,
        {"Tumor": blobs()},
        positions=positions,
        spacing=(2.5, 0.7001, 0.8),
    )
    np.testing.assert_array_equal(read_segmentation(path, geometry, series), blobs())


@pytest.mark.parametrize(
    ("shift", "spacing", "degrees"),
    [
        ((0.4, 0, 0), SPACING, 0),
        ((0, 0, 1.25), SPACING, 0),
        ((0, 0, 0), (2.5, 0.35, 0.4), 0),
        ((0, 0, 0), (2.5, 0.75, 0.8), 0),
        ((0, 0, 0), SPACING, 3),
    ],
)
def test_frames_off_the_grid(tmp_path, scan, shift, spacing, degrees):
    files, geometry, series = scan
    path = write_segments(
        tmp_path / "seg.dcm",
        files,
        {"Tumor": blobs()},
        positions=[np.add(at(index), shift).tolist() for index in range(6)],
        spacing=spacing,
        axes=rotation(degrees),
    )
    refuse(
        lambda: read_segmentation(path, geometry, series),
        f"{path}: the frame at (",
        "does not lie on the grid of the image",
        "without resampling",
    )


@pytest.mark.parametrize("start", [(-1, 0, 0), (1, 0, 0), (0, -1, 0), (0, 0, 3)])
def test_frames_outside_the_grid(tmp_path, scan, start):
    files, geometry, series = scan
    path = write_segments(
        tmp_path / "seg.dcm",
        files,
        {"Tumor": np.ones(SHAPE, bool)},
        positions=[at(start[0] + index, *start[1:]) for index in range(6)],
    )
    refuse(
        lambda: read_segmentation(path, geometry, series),
        f"{path}: the frame at (",
        "marks voxels outside the image",
    )


# What is refused


def test_of_another_series(tmp_path, scan):
    _, geometry, series = scan
    others = write_series(tmp_path / "other", series=uid(2))
    path = write_segments(tmp_path / "seg.dcm", others, {"Tumor": blobs()})
    refuse(
        lambda: read_segmentation(path, geometry, series),
        f"{path}: a segmentation of series {uid(2)}, not of {uid(1)}; give",
    )
    np.testing.assert_array_equal(read_segmentation(path, geometry, None), blobs())


def test_of_another_frame_of_reference(tmp_path, scan):
    files, geometry, series = scan

    def change(written):
        written.FrameOfReferenceUID = FRAME + ".7"

    path = write_segments(tmp_path / "seg.dcm", files, {"Tumor": blobs()}, change=change)
    refuse(
        lambda: read_segmentation(path, geometry, series),
        f"{path}: its frame of reference {FRAME}.7 is not that of series {uid(1)} ({FRAME})",
    )


def test_without_the_segment(tmp_path, scan):
    files, geometry, series = scan
    segments = {"Liver": blobs(), "Hepatic vein": blobs(1)}
    path = write_segments(tmp_path / "seg.dcm", files, segments)
    refuse(
        lambda: read_segmentation(path, geometry, series),
        f"{path}: no segment is labelled 'Tumor*'; its labels are 'Liver', 'Hepatic vein'",
    )


@pytest.mark.parametrize("share", [0.02, 0.3, 0.7, 0.99])
def test_cut_off(tmp_path, scan, share):
    files, geometry, series = scan
    path = write_segments(tmp_path / "seg.dcm", files, {"Tumor": blobs(), "Liver": blobs(1)})
    whole = path.read_bytes()
    path.write_bytes(whole[: int(share * len(whole))])
    refuse(
        lambda: read_segmentation(path, geometry, series, "*"),
        f"{path}: not a readable DICOM segmentation, or cut off",
    )


def test_no_segmentation(tmp_path, scan):
    files, geometry, series = scan
    absent, text = tmp_path / "none.dcm", tmp_path / "text.dcm"
    text.write_text("hello " * 90)
    for path in (absent, text, files[0], tmp_path):
        assert not is_segmentation(path)
    refuse(lambda: read_segmentation(absent, geometry, series), f"{absent}: file not found")
    for path, part in (
        (text, "not a readable DICOM segmentation"),
        (files[0], "CT Image Storage, not a segmentation"),
    ):
        refuse(lambda path=path: read_segmentation(path, geometry, series), f"{path}: {part}")


def test_failed_writing_leaves_no_file(tmp_path, scan):
    _, _, series = scan
    poor = pydicom.Dataset()
    poor.update({key: item for key, item in series.headers[2].items() if key != 0x00080018})
    headers = (*series.headers[:2], poor, *series.headers[3:])
    refuse(
        lambda: write_segmentation(
            tmp_path / "seg.dcm", blobs(), dataclasses.replace(series, headers=headers), **RUN
        ),
        f"{tmp_path / 'seg.dcm'}: series {uid(1)} cannot carry a DICOM segmentation",
        "write the mask as NIfTI",
    )
    assert [path.name for path in tmp_path.iterdir()] == ["ct"]


@pytest.mark.parametrize(
    ("mask", "message"),
    [
        (np.zeros((5, 12, 16), bool), "shape"),
        (np.full(SHAPE, 255, np.uint8), "lesion numbers"),
        (np.full(SHAPE, -1), "lesion numbers"),
        (np.ones(SHAPE, np.float32), "lesion numbers"),
    ],
)
def test_masks_that_are_none(tmp_path, scan, mask, message):
    with pytest.raises(ValueError, match=message):
        write_segmentation(tmp_path / "seg.dcm", mask, scan[2], **RUN)
    assert not (tmp_path / "seg.dcm").exists()
