"""The command against Orthanc: the archive sends a CT, and gets the run's answer."""

import dataclasses
import os
import signal
import subprocess
import sys

import numpy as np
import pydicom

from crlm_jax.imaging import volumes
from crlm_jax.imaging.dicom import segmentation
from crlm_jax.imaging.dicom.series import read_series
from crlm_jax.predict import load
from crlm_jax.predict.outputs import Job
from crlm_jax.predict.scans import Scan
from crlm_jax.predict.stream import predict_scans
from tests.imaging.dicom import dicoms
from tests.predict.test_segmenter import tiny_run
from tests.serve import nodes, orthanc

__all__ = ["archive", "tiny_run"]
archive = orthanc.archive
RULES = "[[rule]]\ncondition = 'ct'\ndescription = 'portal'\n"


def described(index: int, header: pydicom.Dataset) -> None:
    header.SeriesDescription = "Abdomen portal venous"


def start(tmp_path, run, threshold, archive, log) -> subprocess.Popen:
    """Starts the command."""
    (tmp_path / "rules.toml").write_text(RULES)
    words = ["--run", run, "--threshold", threshold, "--engine", "xla", "--port", archive.node_port,
             "--send-to", f"{archive.title}@127.0.0.1:{archive.port}", "--spool",
             tmp_path / "spool", "--rules", tmp_path / "rules.toml", "--allow", archive.title,
             "--quiet", 0.5, "--room", 0]  # fmt: skip
    return subprocess.Popen(
        [sys.executable, "-m", "crlm_jax.serve", *map(str, words)],
        stdout=log, stderr=log, env=os.environ | {"HOME": str(tmp_path / "home")},
    )  # fmt: skip


def test_orthanc_gets_what_predict_gives(tmp_path, archive, tiny_run):
    files = dicoms.write_series(
        tmp_path / "ct", dicoms.voxels(shape=(6, 24, 24)), spacing=(2.5, 0.8, 0.8), change=described
    )
    exact = load(tiny_run, engine="xla")
    volume = volumes.read_image(tmp_path / "ct")
    # Untrained weights: a threshold that some voxels pass.
    threshold = round(float(np.median(exact.probability(exact.look([volume], "ct").slices))), 4)
    with (tmp_path / "log").open("w") as log:
        node = start(tmp_path, tiny_run, threshold, archive, log)
        try:
            nodes.wait(lambda: "listens on" in (tmp_path / "log").read_text() or node.poll())
            archive.add(files)
            nodes.wait(lambda: archive.find("SR"))
            node.send_signal(signal.SIGTERM)
            assert node.wait(30) == 75
        finally:
            node.kill()
    (seg,), (sr,) = archive.find("SEG"), archive.find("SR")

    segmenter = dataclasses.replace(exact, threshold=threshold)
    job = Job(Scan(tmp_path / "ct", "ct", "", "ct"), tmp_path / "seg.dcm",
              report=tmp_path / "sr.dcm")  # fmt: skip
    predict_scans(segmenter, [job], warn=print)
    assert seg.SOPInstanceUID == pydicom.dcmread(tmp_path / "seg.dcm").SOPInstanceUID
    assert sr.SOPInstanceUID == pydicom.dcmread(tmp_path / "sr.dcm").SOPInstanceUID
    _, geometry, read = read_series(tmp_path / "ct")
    seg.save_as(tmp_path / "got.dcm", enforce_file_format=True)
    found, expected = (
        segmentation.read_segmentation(tmp_path / name, geometry, read)
        for name in ("got.dcm", "seg.dcm")
    )
    np.testing.assert_array_equal(found, expected)
    assert 0 < found.mean() < 1, "a mask that can differ"
    said = (tmp_path / "log").read_text()
    assert "answered" in said
    assert not any(secret in said for secret in ("Musterfrau", "19610203", "A-99"))
