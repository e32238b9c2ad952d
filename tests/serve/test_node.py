"""The node as a whole: series come, results go, whatever happens in between."""

import os
import signal
import subprocess
import sys
import threading

import numpy as np
import pydicom
import pytest

from crlm_jax.imaging.dicom import segmentation
from crlm_jax.imaging.dicom.series import read_series
from crlm_jax.predict.outputs import Job
from crlm_jax.predict.scans import Scan
from crlm_jax.predict.stream import predict_scans
from crlm_jax.serve.rules import Rule
from crlm_jax.serve.work import answer_with
from tests.imaging.dicom import dicoms
from tests.processes import free_port
from tests.serve import nodes

SECRETS = ("Musterfrau", "Änne", "19610203", "A-99", "P-17")


def bright(slices: int = 6) -> np.ndarray:
    """Stored values of a CT with a bright block."""
    array = np.full((slices, 32, 32), 924, np.int16)  # -100 HU
    array[1:-1, 8:14, 20:27] = 1224
    return array


@pytest.fixture
def archive():
    made = nodes.Store()
    yield made
    made.close()


def named(index: int, header: pydicom.Dataset) -> None:
    """Types the patient's data where some sites do."""
    header.SeriesDescription = "portal Musterfrau 19610203 A-99"


def results_of(archive: nodes.Store, count: int) -> dict[str, list[pydicom.Dataset]]:
    nodes.wait(lambda: len(archive.got) >= count)
    return {k: [o for o in archive.got if o.SOPClassUID == k] for k in (nodes.SEG, nodes.SR)}


def test_a_series_is_answered_as_predict_answers_its_folder(tmp_path, archive, capsys):
    files = dicoms.write_series(tmp_path / "ct", bright(), change=named)
    with nodes.running(tmp_path / "spool", archive) as node:
        assert nodes.send(node.port, files) == [0] * 6
        found = results_of(archive, 2)
    ((seg,), (sr,)) = found.values()
    assert seg.StudyInstanceUID == sr.StudyInstanceUID == dicoms.STUDY
    assert seg.PatientName == sr.PatientName == dicoms.PATIENT["PatientName"]

    job = Job(Scan(tmp_path / "ct", "ct", "", "ct"), tmp_path / "seg.dcm")
    predict_scans(nodes.threshold(), [job], warn=print)
    expected = pydicom.dcmread(tmp_path / "seg.dcm")
    assert seg.SOPInstanceUID == expected.SOPInstanceUID, "the same object"
    assert seg.PixelData == expected.PixelData
    seg.file_meta = expected.file_meta
    seg.save_as(tmp_path / "got.dcm", enforce_file_format=True)
    _, geometry, series = read_series(tmp_path / "ct")
    mask = segmentation.read_segmentation(tmp_path / "got.dcm", geometry, series)
    np.testing.assert_array_equal(mask, bright() > 1000)

    said = capsys.readouterr().err
    assert "1 lesion(s)" in said
    paths = " ".join(map(str, (tmp_path / "spool").rglob("*")))
    for text in (*SECRETS, dicoms.uid(1)):
        assert text not in paths
    assert not any(secret in said for secret in SECRETS)


def test_late_images_give_a_new_result_and_a_repeated_series_the_same(tmp_path, archive):
    files = dicoms.write_series(tmp_path / "ct", bright())
    with nodes.running(tmp_path / "spool", archive) as node:
        nodes.send(node.port, files[:5])
        results_of(archive, 2)
        nodes.send(node.port, files[5:])
        results_of(archive, 4)
        nodes.send(node.port, files)
        found = results_of(archive, 6)
    for objects in found.values():
        first, second, again = (o.SOPInstanceUID for o in objects)
        assert first != second == again


@pytest.mark.parametrize(
    ("threshold", "report", "plane", "counts", "line"),
    [
        (0.5, True, "", (1, 1, 4), "the same result is sent again"),
        (0.9, True, "", (2, 2, 4), "its result is of another run, setting or rule"),
        (0.5, False, "", (1, 1, 3), "its result is of another run, setting or rule"),
        (0.5, True, "sagittal", (1, 1, 2), "fits no rule"),
    ],
)
def test_a_restarted_node_answers_by_its_own_settings(
    tmp_path, archive, capsys, threshold, report, plane, counts, line
):
    files = dicoms.write_series(tmp_path / "ct", bright())
    before = answer_with(nodes.threshold()), Rule("ct")
    after = (
        answer_with(nodes.threshold(threshold=threshold), report=report), Rule("ct", plane=plane)
    )  # fmt: skip
    for (answer, rule), end in ((before, "sent: "), (after, "alone: " if plane else "sent: ")):
        with nodes.running(tmp_path / "spool", archive, answer=answer, rules=[rule]) as node:
            nodes.send(node.port, files)
            found = []
            nodes.wait(lambda end=end, found=found: found.append(capsys.readouterr().err)
                       or end in "".join(found))  # fmt: skip
        said = "".join(found)
    assert line in said
    kinds = archive.kinds()
    assert (len(kinds[nodes.SEG]), len(kinds[nodes.SR]), len(archive.got)) == counts


def test_what_fits_no_rule_or_cannot_be_segmented_is_left_with_a_line(tmp_path, archive, capsys):
    gap = dicoms.write_series(tmp_path / "gap", bright(), series=dicoms.uid(2), change=named)
    side = dicoms.write_series(
        tmp_path / "side", bright(), series=dicoms.uid(3), axes=np.eye(3)[[1, 2, 0]], change=named
    )
    good = dicoms.write_series(tmp_path / "ct", bright(), series=dicoms.uid(4))
    rules = [Rule("ct", plane="axial")]
    with nodes.running(tmp_path / "spool", archive, rules=rules) as node:
        for files in ([*gap[:3], *gap[4:]], side, good):
            assert set(nodes.send(node.port, files)) == {0}
        results_of(archive, 2)
        nodes.wait(lambda: len(list((tmp_path / "spool" / "done").iterdir())) == 2)
    said = capsys.readouterr().err
    assert "slices are unevenly spaced" in said
    assert "fits no rule: CT, sagittal, 6 images" in said
    assert not any(secret in said for secret in SECRETS)
    assert len(archive.got) == 2


def test_a_defect_of_the_segmenter_fails_one_series(tmp_path, archive, capsys):
    def broken(*_, **__):
        raise KeyError("Musterfrau")

    with nodes.running(tmp_path / "spool", archive, answer=broken) as node:
        nodes.send(node.port, dicoms.write_series(tmp_path / "ct", bright()))
        nodes.wait(lambda: list((tmp_path / "spool" / "failed").iterdir()))
        assert nodes.associate(node.port).is_established
    said = capsys.readouterr().err
    assert "a defect of the program, KeyError at test_node.py" in said
    assert "Musterfrau" not in said


def test_a_stop_in_the_midst_leaves_a_job_for_the_next_node(tmp_path, archive):
    class Stopped(BaseException):
        """As the signal's SystemExit, which is raised in the thread that runs the node."""

    def stop(*_, **__):
        raise Stopped

    files = dicoms.write_series(tmp_path / "ct", bright())
    spool = tmp_path / "spool"
    thread_errors = []
    hook, threading.excepthook = threading.excepthook, lambda args: thread_errors.append(args)
    try:
        with nodes.running(spool, archive, answer=stop) as node:
            nodes.send(node.port, files)
            nodes.wait(lambda: thread_errors)
    finally:
        threading.excepthook = hook
    assert thread_errors[0].exc_type is Stopped
    with nodes.running(spool, archive):
        results_of(archive, 2)
    assert [len(uids) for uids in archive.kinds().values()] == [1, 1]


def test_a_series_that_kills_the_node_is_set_aside(tmp_path, archive, capsys):
    spool = tmp_path / "spool"
    with nodes.running(spool, archive, answer=lambda *_, **__: "no file to send") as node:
        nodes.send(node.port, dicoms.write_series(tmp_path / "ct", bright()))
        nodes.wait(lambda: list(spool.glob("failed/*")))
    (job,) = spool.glob("failed/*")
    assert "its results gave RuntimeError" in capsys.readouterr().err
    os.rename(job, spool / "queue" / job.name)
    (spool / "queue" / job.name / "tries").write_bytes(b".....")  # as kills leave it
    with nodes.running(spool, archive):
        nodes.wait(lambda: list(spool.glob("failed/*")))
    assert "was killed 5 times" in capsys.readouterr().err
    assert not list(spool.glob("failed/*/tries"))


def test_images_of_two_patients_are_no_series(tmp_path, archive, capsys):
    def other(index: int, header: pydicom.Dataset) -> None:
        header.PatientID = f"P-{index // 3}"

    with nodes.running(tmp_path / "spool", archive) as node:
        nodes.send(node.port, dicoms.write_series(tmp_path / "ct", bright(), change=other))
        nodes.wait(lambda: list((tmp_path / "spool" / "failed").iterdir()))
    assert "several patients" in capsys.readouterr().err


def start(spool, port: int, archive: nodes.Store, output) -> subprocess.Popen:
    words = [sys.executable, "-m", "tests.serve.nodes", spool, port, archive.port, 0.5]
    return subprocess.Popen(list(map(str, words)), stdout=output, stderr=output)


def test_a_kill_costs_no_series_and_doubles_none(tmp_path, archive):
    series = [
        dicoms.write_series(tmp_path / str(n), bright(), series=dicoms.uid(n)) for n in range(6)
    ]
    spool, port = tmp_path / "spool", free_port()

    def deliver(own) -> None:
        for files in own:
            nodes.wait(lambda files=files: nodes.send(port, files) == [0] * 6)

    senders = [threading.Thread(target=deliver, args=(series[n::2],)) for n in range(2)]
    with (tmp_path / "log").open("w") as output:
        node = start(spool, port, archive, output)
        try:
            for sender in senders:
                sender.start()
            nodes.wait(lambda: list(spool.glob("open/*/*.dcm")))
            os.kill(node.pid, signal.SIGKILL)
            node.wait()
            node = start(spool, port, archive, output)
            for sender in senders:
                sender.join()
            nodes.wait(lambda: all(len(uids) == 6 for uids in archive.kinds().values()))
            nodes.wait(lambda: len(list(spool.glob("done/*"))) == 6)
        finally:
            node.kill()
            node.wait()
    by_series = {}
    for found in archive.got:
        if found.SOPClassUID == nodes.SEG:
            source = found.ReferencedSeriesSequence[0].SeriesInstanceUID
            by_series.setdefault(source, set()).add(found.SOPInstanceUID)
    assert {uid: len(found) for uid, found in by_series.items()} == {
        dicoms.uid(n): 1 for n in range(6)
    }
    assert not any(secret in (tmp_path / "log").read_text() for secret in SECRETS)
