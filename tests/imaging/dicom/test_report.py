"""Structured reports: what stands of every lesion, where, and what it refers to."""

import highdicom as hd
import numpy as np
import pydicom
import pytest
from pydicom.sr.codedict import codes

from crlm_jax.imaging.dicom.report import write_report
from crlm_jax.imaging.dicom.segmentation import write_segmentation
from crlm_jax.imaging.lesions import DISCLAIMER, measure_lesions
from crlm_jax.imaging.volumes import read_image
from tests.imaging.dicom.dicoms import PATIENT, STUDY, refuse, rotation, uid, write_series
from tests.imaging.dicom.enhanced import diffusion, write_enhanced
from tests.imaging.dicom.results import ALGORITHM, check, lesions

CORONAL = np.array([(1, 0, 0), (0, 0, -1), (0, 1, 0)])


def write(path, volume, *, segmented=False, mask=None):
    """Writes a report of the lesions; returns it, and the lesions as they are measured."""
    labels = volume.geometry.to_axial(lesions() if mask is None else mask)
    found = measure_lesions(labels, volume.geometry)
    write_report(
        path, labels, found, volume.geometry, volume.series, algorithm=ALGORITHM,
        segmented=segmented, comments=("A phantom.",),
    )  # fmt: skip
    return hd.sr.srread(path), found


def values(group) -> dict[str, float]:
    return {each.name.meaning: each.value for each in group.get_measurements()}


def of_image(group, name):
    """The image that shows a measurement, and the points of its line (N, 2), if it has one."""
    (measurement,) = group.get_measurements(name=name)
    if measurement.referenced_images:
        return measurement.referenced_images[0].ReferencedSOPSequence[0], None
    (line,) = measurement.referenced_coordinates
    return line.ContentSequence[0].ReferencedSOPSequence[0], line.value


@pytest.mark.parametrize("axes", [np.eye(3), np.diag((-1, -1, 1)), rotation(20)])
def test_every_lesion_has_axes_volume_images_and_its_segment(tmp_path, axes, caplog):
    write_series(tmp_path / "ct", axes=axes)
    volume = read_image(tmp_path / "ct")
    write_segmentation(tmp_path / "seg.dcm", lesions(), volume.series, algorithm=ALGORITHM)
    report, found = write(tmp_path / "sr.dcm", volume, segmented=True)
    segmentation = pydicom.dcmread(tmp_path / "seg.dcm")
    solids = report.content.get_volumetric_roi_measurement_groups()
    drawn = report.content.get_image_measurement_groups()[1:]  # the first is of the scan
    for number, (lesion, solid, lines) in enumerate(zip(found, solids, drawn, strict=True), 1):
        assert values(solid) == {"Volume": pytest.approx(lesion.volume, abs=1e-3)}
        assert values(lines) == {
            "Long axis": pytest.approx(lesion.diameter, abs=1e-3),
            "Short axis": pytest.approx(lesion.short_axis, abs=1e-3),
        }
        segment = solid.referenced_segment
        assert segment.referenced_sop_instance_uid == segmentation.SOPInstanceUID
        assert list(segment.referenced_segment_numbers) == [number]
        own = segmentation.SegmentSequence[number - 1]
        for group in (solid, lines):
            assert group.tracking_identifier == own.TrackingID == f"Tumor_{number}"
            assert group.tracking_uid == own.TrackingUID
            assert group.finding_sites[0].value == codes.SCT.Liver
        slices = np.flatnonzero((lesions() == number).any(axis=(1, 2)))
        shown = {str(volume.series.headers[z].SOPInstanceUID) for z in slices}
        assert shown == {str(image.referenced_sop_instance_uid) for image in lines.source_images}
        image, points = of_image(lines, codes.SCT.LongAxis)
        assert of_image(lines, codes.SCT.ShortAxis)[0] == image
        assert str(image.ReferencedSOPInstanceUID) in shown
        header = next(
            h for h in volume.series.headers if h.SOPInstanceUID == image.ReferencedSOPInstanceUID
        )
        height, width = map(float, header.PixelSpacing)
        assert np.hypot(*(np.diff(points, axis=0)[0] * (width, height))) == pytest.approx(
            lesion.diameter, abs=1e-3
        )
        # A half pixel around the lesion's pixels in the stored picture; the first's centre is 0.5.
        z = volume.series.headers.index(header)
        rows, columns = np.nonzero(lesions()[z] == number)
        box = np.array([(columns.min(), rows.min()), (columns.max() + 1, rows.max() + 1)])
        assert (points >= box[0]).all()
        assert (points <= box[1]).all()
    assert "Musterfrau" not in caplog.text


def test_the_scan_the_algorithm_and_whom_it_is_of(tmp_path):
    write_series(tmp_path / "ct")
    volume = read_image(tmp_path / "ct")
    report, found = write(tmp_path / "sr.dcm", volume)
    scan, *each = report.content.get_image_measurement_groups()
    assert values(scan) == {
        "Number of lesions": 3,
        "Volume": pytest.approx(sum(lesion.volume for lesion in found), abs=1e-3),
    }
    assert [set(values(group)) for group in each] == [{"Long axis", "Short axis", "Volume"}] * 3
    assert report.content.get_volumetric_roi_measurement_groups() == []
    texts = [str(item.TextValue) for item in scan[0].ContentSequence if item.ValueType == "TEXT"]
    for text in ("A phantom.", DISCLAIMER, ALGORITHM.name, f"run {ALGORITHM.fingerprint}",
                 ALGORITHM.version, ALGORITHM.settings):  # fmt: skip
        assert text in texts
    assert (report.VerificationFlag, report.PreliminaryFlag) == ("UNVERIFIED", "PRELIMINARY")
    for keyword, value in PATIENT.items():
        assert report[keyword].value == value
    assert (report.StudyInstanceUID, report.StudyID) == (STUDY, "S1")
    evidence = {(series, image) for _, series, image, _ in report.get_evidence()}
    assert evidence == {(uid(1), str(h.SOPInstanceUID)) for h in volume.series.headers}


def test_a_coronal_series_has_no_image_of_an_axial_slice(tmp_path):
    write_series(tmp_path / "mr", axes=CORONAL, modality="MR")
    volume = read_image(tmp_path / "mr")
    report, found = write(tmp_path / "sr.dcm", volume)
    box = report.content.get_image_measurement_groups()[1]
    (measurement,) = box.get_measurements(name=codes.SCT.LongAxis)
    assert found[0].ends[0][0] != found[0].ends[1][0]  # through several images
    assert (measurement.referenced_images, measurement.referenced_coordinates) == ([], [])
    assert len(box.source_images) == 2
    check(tmp_path / "sr.dcm")


def test_frames_of_a_file_and_no_lesion(tmp_path):
    arrays = [(np.full(lesions().shape, b, np.int16), diffusion(b)) for b in (0, 1000)]
    arrays[1][0][2] = 9
    volume = read_image(write_enhanced(tmp_path / "a.dcm", arrays))
    report, _ = write(tmp_path / "sr.dcm", volume)
    box = report.content.get_image_measurement_groups()[1]
    frames = [image.referenced_frame_numbers for image in box.source_images]
    assert frames == [[len(lesions()) + 2], [len(lesions()) + 3]]
    assert of_image(box, codes.SCT.LongAxis)[0].ReferencedFrameNumber in (8, 9)
    report, _ = write(tmp_path / "none.dcm", volume, segmented=True, mask=lesions() * 0)
    (scan,) = report.content.get_image_measurement_groups()
    assert values(scan) == {"Number of lesions": 0, "Volume": 0}


def test_a_series_that_cannot_carry_a_report_is_named_without_its_patient(tmp_path):
    write_series(tmp_path / "ct", change=lambda index, header: delattr(header, "SOPClassUID"))
    volume = read_image(tmp_path / "ct")
    refuse(lambda: write(tmp_path / "sr.dcm", volume), uid(1), "leave --sr out")
    assert not (tmp_path / "sr.dcm").exists()
