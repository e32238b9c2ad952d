"""The response as a structured report: two studies, their lesions, sums and the coded response."""

import highdicom as hd
import numpy as np
import pytest
from pydicom.sr.codedict import codes

from crlm_jax.errors import UserError
from crlm_jax.imaging.dicom.results import Algorithm
from crlm_jax.imaging.dicom.segmentation import write_segmentation
from crlm_jax.imaging.dicom.series import read_series
from crlm_jax.imaging.lesions import Lesion
from crlm_jax.recist import command as recist_command
from crlm_jax.recist.dicom_report import response_code
from crlm_jax.recist.matching import Match
from crlm_jax.recist.rules import TimePoint, compare
from tests.imaging.dicom.dicoms import uid, write_series
from tests.imaging.dicom.results import check

LENGTHS = {"pre": ((2, 15), (8, 13)), "post": ((2, 9),)}  # row and pixels of 0.8 mm


@pytest.fixture
def studies(tmp_path):
    """Two studies of a patient with the masks of their lesions, as words of the command."""
    words = []
    for number, (when, lines) in enumerate(LENGTHS.items(), start=1):

        def change(_, header, number=number):
            header.StudyInstanceUID, header.StudyDate = f"1.2.3.{number}", f"2024050{number}"
            header.SliceThickness = 2.5

        write_series(tmp_path / when, series=uid(number), change=change)
        _, geometry, series = read_series(tmp_path / when)
        mask = np.zeros(geometry.size[::-1], np.int32)
        for label, (row, length) in enumerate(lines, start=1):
            mask[3, row, :length] = label
        path = tmp_path / f"{when}.dcm"
        write_segmentation(path, mask, series, algorithm=Algorithm("a", "1", "f"))
        words += [f"--{when}", str(path), f"--{when}-image", str(tmp_path / when)]
    return [*words, "--same-frame", "--sr", str(tmp_path / "sr.dcm")]


def test_both_studies_are_evidence_of_lesions_sums_and_response(studies, tmp_path, capsys):
    assert recist_command.main(studies) == 0
    assert "structured report: " in capsys.readouterr().out
    report = hd.sr.srread(tmp_path / "sr.dcm")
    assert report.StudyInstanceUID == "1.2.3.2"
    assert report.StudyDate == "20240502"
    series = {(study, series) for study, series, _, _ in report.get_evidence()}
    assert {("1.2.3.1", uid(1)), ("1.2.3.2", uid(2))} <= series
    assert len(series) == 4  # with both masks
    before, first, second, after, left = report.content.get_image_measurement_groups()
    assert before.method.meaning == after.method.meaning == "RECIST 1.1"

    def numbers(group):
        return {(m.name.meaning, m.unit.value): m.value for m in group.get_measurements()}

    assert numbers(before)["Sum of diameters of target lesions", "mm"] == pytest.approx(22.4)
    told = numbers(after)
    assert told["Sum of diameters of target lesions", "mm"] == pytest.approx(7.2)
    assert told["Change of the sum of diameters from baseline", "%"] == pytest.approx(-67.857)
    (response,) = after.get_qualitative_evaluations(name=codes.DCM.CurrentResponse)
    assert response.value == codes.DCM.TargetLesionPartialResponse
    assert [group.tracking_identifier for group in (first, second)] == ["Lesion_1", "Lesion_2"]
    assert left.tracking_uid == first.tracking_uid != second.tracking_uid
    (role,) = second.get_qualitative_evaluations(name=codes.DCM.BaselineCategory)
    assert role.value == codes.DCM.TargetLesionAtBaseline
    (scheme,) = report.CodingSchemeIdentificationSequence
    assert scheme.CodingSchemeDesignator == "99CRLM"
    uids = report.SOPInstanceUID, report.SeriesInstanceUID
    check(tmp_path / "sr.dcm")
    assert recist_command.main(studies) == 0
    again = hd.sr.srread(tmp_path / "sr.dcm")
    assert (again.SOPInstanceUID, again.SeriesInstanceUID) == uids


def test_scans_of_two_patients_are_refused(studies, tmp_path):
    def other(_, header):
        header.PatientID, header.StudyInstanceUID = "P-18", "1.2.3.2"

    write_series(tmp_path / "post", series=uid(2), change=other)
    with pytest.raises(UserError, match="have different Patient IDs") as caught:
        recist_command.main(studies)
    assert "P-1" not in str(caught.value)
    assert not (tmp_path / "sr.dcm").exists()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (["--sr", "a.json"], "choose the ending .dcm"),
        (["--sr", "no/such/a.dcm"], "there is no folder"),
        (["--sr", "{tmp}/pre.dcm"], "is a mask"),
        (["--pre-image"], "--sr refers to the DICOM images"),
    ],
)
def test_what_a_report_needs(studies, tmp_path, change, said, capsys):
    if change == ["--pre-image"]:
        at = studies.index("--pre-image")
        studies = studies[:at] + studies[at + 2 :]
        change = []
    with pytest.raises(SystemExit):
        recist_command.main([*studies, *(word.format(tmp=tmp_path) for word in change)])
    assert said in capsys.readouterr().err


def point(*diameters: float) -> TimePoint:
    lesions = [Lesion(1, d, d, 0, (0, 0, 0), d, ((0, 0), (0, 0))) for d in diameters]
    return TimePoint(tuple(lesions), 1.0)


@pytest.mark.parametrize(
    ("before", "after", "match", "said"),
    [
        ((20, 20), (), Match(), "Target Lesion Complete Response"),
        ((20,), (10,), Match(pairs=((0, 0),)), "Target Lesion Partial Response"),
        ((20,), (19,), Match(pairs=((0, 0),)), "Target Lesion Stable Disease"),
        ((20,), (30,), Match(pairs=((0, 0),)), "Target Lesion Progressive Disease"),
        ((20,), (10, 8), Match(pairs=((0, 0),), new=(1,)), "Progressive disease by a new"),
        ((5,), (), Match(), "Non-Target Lesion Complete Response"),
        ((5,), (9,), Match(pairs=((0, 0),)), "Non-Target Lesion Incomplete Response or Stable"),
        ((), (9,), Match(), "Progressive disease by a new"),
        ((), (), Match(), "Response not evaluable"),
    ],
)
def test_the_code_is_that_of_the_rule(before, after, match, said):
    code = response_code(compare(point(*before), point(*after), match))
    assert code.meaning.startswith(said)


def test_a_lesion_after_a_complete_response_is_not_the_targets_growth():
    gone = compare(point(20), point(), Match())
    back = compare(point(20), point(3), Match(pairs=((0, 0),)), [gone])
    assert (back.category, response_code(back).value) == ("PD", "PD_NEW")
