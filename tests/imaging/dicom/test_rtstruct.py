"""RTSTRUCT out: the mask that comes back, here and in another program; what it refers to."""

import shutil
import subprocess

import numpy as np
import pydicom
import pytest
import SimpleITK as sitk

from crlm_jax.imaging.dicom.rtstruct import write_rtstruct
from crlm_jax.imaging.masks import read_lesions
from crlm_jax.imaging.volumes import read_image
from tests.imaging.dicom.dicoms import FRAME, PATIENT, SHAPE, rotation, uid, write_series
from tests.imaging.dicom.enhanced import diffusion, write_enhanced
from tests.imaging.dicom.results import ALGORITHM, check, lesions


def write(path, volume, mask):
    write_rtstruct(path, mask, volume.series, algorithm=ALGORITHM)
    return pydicom.dcmread(path)


@pytest.mark.parametrize("degrees", [0, 35, 90])
def test_lesions_with_holes_and_parts_come_back(tmp_path, degrees):
    axes = rotation(degrees)
    axes[2] *= 1 if degrees else -1
    write_series(tmp_path / "ct", axes=axes)
    volume = read_image(tmp_path / "ct")
    written = write(tmp_path / "rs.dcm", volume, lesions())
    found = read_lesions(tmp_path / "rs.dcm", None, volume)
    np.testing.assert_array_equal(volume.geometry.from_axial(found.lesions), lesions())
    assert not any("ROI" in doubt for doubt in found.doubts)
    names = [str(roi.ROIName) for roi in written.StructureSetROISequence]
    assert names == ["Tumor_1", "Tumor_2", "Tumor_3"]
    places = {str(h.SOPInstanceUID): h for h in volume.series.headers}
    for drawn in written.ROIContourSequence:
        for contour in drawn.ContourSequence:
            (image,) = contour.ContourImageSequence
            header = places[image.ReferencedSOPInstanceUID]
            points = np.reshape(contour.ContourData, (-1, 3)).astype(float)
            off = (points - np.array(header.ImagePositionPatient, float)) @ axes[2]
            assert np.abs(off).max() < 1e-3  # in the plane of the image that it names


def test_patient_study_and_references_are_the_series_own(tmp_path, caplog):
    write_series(tmp_path / "ct")
    volume = read_image(tmp_path / "ct")
    written = write(tmp_path / "rs.dcm", volume, lesions())
    for keyword, value in PATIENT.items():
        assert written[keyword].value == value
    assert (written.StudyID, written.StudyDate, written.AccessionNumber) == (
        "S1", "20240506", "A-99"
    )  # fmt: skip
    (frame,) = written.ReferencedFrameOfReferenceSequence
    assert frame.FrameOfReferenceUID == FRAME
    (series,) = frame.RTReferencedStudySequence[0].RTReferencedSeriesSequence
    assert series.SeriesInstanceUID == uid(1)
    assert len(series.ContourImageSequence) == SHAPE[0]
    assert written.ApprovalStatus == "UNAPPROVED"
    assert "Musterfrau" not in caplog.text
    check(tmp_path / "rs.dcm")


def test_frames_and_an_empty_mask(tmp_path):
    arrays = [(np.ones(SHAPE, np.int16), diffusion(b)) for b in (0, 1000)]
    arrays[1][0][2] = 9
    volume = read_image(write_enhanced(tmp_path / "a.dcm", arrays))
    written = write(tmp_path / "rs.dcm", volume, lesions())
    first = written.ROIContourSequence[0].ContourSequence[0].ContourImageSequence[0]
    assert first.ReferencedFrameNumber == SHAPE[0] + 1 + 1
    assert np.array_equal(read_lesions(tmp_path / "rs.dcm", None, volume).lesions, lesions())
    write(tmp_path / "none.dcm", volume, lesions() * 0)
    assert not read_lesions(tmp_path / "none.dcm", None, volume).voxels.any()
    check(tmp_path / "none.dcm")


def test_plastimatch_fills_the_same_voxels(tmp_path):
    if shutil.which("plastimatch") is None:
        pytest.skip("plastimatch (Debian: plastimatch) is not here")
    write_series(tmp_path / "ct")
    volume = read_image(tmp_path / "ct")
    write(tmp_path / "rs.dcm", volume, lesions())
    words = f"convert --input {tmp_path}/rs.dcm --referenced-ct {tmp_path}/ct --prefix-format nrrd"
    command = ["plastimatch", *words.split(), "--output-prefix", str(tmp_path / "out")]
    subprocess.run(command, check=True, capture_output=True)
    for number in (1, 2, 3):
        theirs = sitk.ReadImage(str(tmp_path / "out" / f"Tumor_{number}.nrrd"))
        np.testing.assert_array_equal(sitk.GetArrayFromImage(theirs) > 0, lesions() == number)
