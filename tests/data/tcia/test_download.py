"""The download of TCIA's CT collection: what is asked, fetched, said and refused."""

import dataclasses
import io
import sys
import types
from pathlib import Path

import pytest

from crlm_jax.data.tcia import download
from crlm_jax.data.tcia.collection import ImportFailed
from crlm_jax.data.tcia.command import main
from crlm_jax.system.console import exit_code
from tests.data.tcia.test_importing import IDS, add_patient, listed
from tests.imaging.dicom.dicoms import generate_uid


class Client:
    """What idc-index's client does, as far as it is asked for."""

    calls: list[dict]
    index: list[download.IndexedSeries]
    sources: dict[str, Path]
    arrives = True

    def download_from_selection(self, **options):
        self.calls.append(options)
        assert Path(options["downloadDir"]).is_dir()
        for one in self.index if self.arrives else ():
            files = sorted(self.sources[one.uid].rglob("*.dcm"))
            for number, file in enumerate(files):
                path = Path(options["downloadDir"]) / one.folder / f"{number}.dcm"
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(file.read_bytes())


@pytest.fixture
def client(tmp_path, monkeypatch):
    """Stands in for the Imaging Data Commons, with one patient."""
    source = add_patient(tmp_path / "remote", 1)
    series, sources = [], {}
    for modality, place in (("CT", "101*"), ("SEG", "300*")):
        folder = next(source.rglob(place))
        size = sum(file.stat().st_size for file in folder.iterdir())
        count, uid = len(list(folder.iterdir())), generate_uid()
        one = download.IndexedSeries(IDS[0], modality, uid, count, size / 1e6, "CC BY 4.0")
        series.append(one)
        sources[uid] = folder
    stub = type("Stub", (Client,), {"calls": [], "index": series, "sources": sources})
    monkeypatch.setitem(sys.modules, "idc_index", types.SimpleNamespace(IDCClient=stub))
    monkeypatch.setattr(download, "list_series", lambda: stub.index)
    return stub


def test_download(client, tmp_path, capsys):
    folder, out = tmp_path / "new" / "dicom", tmp_path / "out"
    command = ["--dicom", str(folder), "--out", str(out), "--download"]
    assert exit_code(main, [*command, "--yes"]) == 0
    said = capsys.readouterr().out
    assert "1 patients, 2 series (1 CT, 1 SEG), 7 files" in said
    assert "CC BY 4.0" in said
    assert "https://doi.org/10.7937/QXK2-QG03" in said
    assert listed(out) == [IDS[0]]
    (options,) = client.calls
    assert options == {
        "downloadDir": str(folder),
        "seriesInstanceUID": [one.uid for one in client.index],
        "dirTemplate": "%PatientID/%Modality_%SeriesInstanceUID",
        "use_s5cmd_sync": True,
    }
    assert exit_code(main, [*command, "--yes"]) == 0
    assert "all of it is here already" in capsys.readouterr().out
    assert len(client.calls) == 1
    next(folder.rglob("CT_*/3.dcm")).unlink()
    assert exit_code(main, [*command, "--yes"]) == 0
    assert client.calls[1]["seriesInstanceUID"] == [client.index[0].uid]


def test_download_that_does_not_arrive(client, tmp_path, capsys):
    client.arrives = False
    arguments = [
        "--dicom",
        str(tmp_path / "d"),
        "--out",
        str(tmp_path / "o"),
        "--download",
        "--yes",
    ]
    assert exit_code(main, arguments) == 1
    assert "2 of 2 series did not arrive whole" in capsys.readouterr().err
    assert not (tmp_path / "o").exists()


@pytest.mark.parametrize(("answer", "fetched"), [("y", 1), ("n", 0), ("", 0), (None, 0)])
def test_download_asks(client, tmp_path, capsys, monkeypatch, answer, fetched):
    stdin = io.StringIO("" if answer is None else f"{answer}\n")
    stdin.isatty = lambda: answer is not None
    monkeypatch.setattr("sys.stdin", stdin)
    arguments = ["--dicom", str(tmp_path / "d"), "--out", str(tmp_path / "o"), "--download"]
    assert exit_code(main, arguments) == 1 - fetched
    assert len(client.calls) == fetched
    assert ("add --yes" in capsys.readouterr().err) == (answer is None)
    assert (tmp_path / "d").exists() == bool(fetched)


def test_download_needs_room(client, tmp_path):
    client.index[0] = dataclasses.replace(client.index[0], megabytes=1e15)
    with pytest.raises(ImportFailed, match="GB free"):
        download.download(tmp_path / "d", yes=True)


def test_download_without_the_extra(tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "idc_index", None)
    arguments = ["--dicom", str(tmp_path), "--out", str(tmp_path / "o"), "--download", "--yes"]
    assert exit_code(main, arguments) == 1
    assert capsys.readouterr().err == (
        "error: --download needs the package idc-index: pip install 'crlm_jax[tcia]'\n"
    )


def test_real_index(tmp_path, capsys, monkeypatch):
    """The index that idc-index ships: no network is needed to learn what there is."""
    pytest.importorskip("idc_index")
    monkeypatch.setattr("sys.stdin", io.StringIO())
    with pytest.raises(ImportFailed, match="add --yes"):
        download.download(tmp_path / "d")
    said = capsys.readouterr().out
    assert "197 patients, 394 series (197 CT, 197 SEG), 17836 files, 10.9 GB" in said
    assert "Licence: CC BY 4.0" in said
    assert not (tmp_path / "d").exists()
