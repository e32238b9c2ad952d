"""Orthanc's DICOMweb: a compressed series out of it, and the results into it."""

import numpy as np
import pydicom
import pytest
from pydicom.uid import RLELossless

from crlm_jax.imaging import masks, volumes
from crlm_jax.predict import dicomweb
from crlm_jax.predict.archive import parse_series
from tests.imaging.dicom import dicoms
from tests.predict.test_command import bright_series, run

orthanc = pytest.importorskip("tests.serve.orthanc", reason="the node's tests start Orthanc")
archive = orthanc.archive

__all__ = ["run"]  # a fixture


def test_orthanc_gives_a_series_and_takes_the_results(tmp_path, archive, run, capsys):
    bright_series(tmp_path / "ct", change=lambda index, header: header.compress(RLELossless))
    archive.add(sorted((tmp_path / "ct").iterdir()))
    studies = f"http://127.0.0.1:{archive.web}/dicom-web/studies"
    series = f"{studies}/{dicoms.STUDY}/series/{dicoms.uid(1)}"
    address = parse_series("--image", series, insecure=False)
    with dicomweb.fetched(address, None, print) as folder:
        headers = [pydicom.dcmread(file) for file in folder.iterdir()]
        assert {header.file_meta.TransferSyntaxUID for header in headers} == {RLELossless}
    for kind in ("seg", "rtstruct", "seg"):
        results = ["--out", tmp_path / f"{kind}.dcm", "--sr", tmp_path / "sr.dcm", "--as", kind]
        assert run("--image", series, *results, "--stow") == 0
    said = capsys.readouterr()
    assert "does not say how many" not in said.err
    assert said.out.count(f"{studies}: has ") == 6
    volume = volumes.read_image(tmp_path / "ct")
    for modality in ("SEG", "RTSTRUCT"):
        (stored,) = archive.find(modality)
        stored.save_as(tmp_path / "stored.dcm", enforce_file_format=True)
        found = masks.read_mask(tmp_path / "stored.dcm", None, volume)
        np.testing.assert_array_equal(found, volume.voxels > 50)
    # With the segments, and without: two reports, the first of which was sent twice.
    assert len({sr.SOPInstanceUID for sr in archive.find("SR")}) == len(archive.find("SR")) == 2
    assert pydicom.dcmread(tmp_path / "sr.dcm").SOPInstanceUID in {
        sr.SOPInstanceUID for sr in archive.find("SR")
    }
