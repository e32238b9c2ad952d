"""Series from an archive by WADO-RS and results back by STOW-RS: whole, or one error."""

import signal
import socket
import ssl
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pydicom
import pytest
import requests

from crlm_jax.predict import archive_session, dicomweb
from crlm_jax.predict.archive import ArchiveError, parse_series
from tests.imaging.dicom import dicoms
from tests.predict import archives
from tests.predict.archives import archive
from tests.predict.test_command import bright_series, run

__all__ = ["archive", "run"]  # fixtures
TOKEN = "Geheim-Token-1"
MULTIPART = "multipart/related; type=application/dicom; boundary=a-b"
PRESENTATION = "1.2.840.10008.5.1.4.1.1.11.1"


@pytest.fixture(autouse=True)
def temporary(tmp_path, monkeypatch) -> Path:
    """Where series are kept meanwhile; nothing is left there."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    monkeypatch.setenv("CRLM_DICOMWEB_TOKEN", TOKEN)
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")  # nobody is there
    yield folder
    assert list(folder.iterdir()) == []


def no_image(path: Path) -> Path:
    """An object of the series that is no image."""
    header = dicoms.image(dicoms.voxels()[0], (0, 0, 0), np.eye(3), series=dicoms.uid(1), number=9)
    header.SOPClassUID = header.file_meta.MediaStorageSOPClassUID = PRESENTATION
    return dicoms.save(header, path)


def test_from_an_archive_and_back(tmp_path, run, archive, capsys):
    bright_series(tmp_path / "ct")
    files = sorted((tmp_path / "ct").iterdir())
    archive.hold([*files[::-1], no_image(tmp_path / "state.dcm")])
    web = ["--image", archive.series, "--out", tmp_path / "web.dcm", "--sr", tmp_path / "sr.dcm"]
    assert run(*web, "--stow") == 0
    assert run(*web, "--stow", archive.studies) == 0
    said = "".join(capsys.readouterr())
    assert f"{archive.series}: left out 1 DICOM object(s) that are no scans" in said
    assert f"{archive.studies}: has {tmp_path / 'web.dcm'} now" in said
    for secret in (TOKEN, "temporary", "Musterfrau"):
        assert secret not in said
    assert all(headers["Authorization"] == f"Bearer {TOKEN}" for _, headers in archive.seen)
    host = archive.root.removeprefix("http://")
    assert {headers["Host"] for _, headers in archive.seen} == {host}
    seg, sr, again, _ = archive.stored
    assert (seg.Modality, sr.Modality) == ("SEG", "SR")
    assert seg.SOPInstanceUID == again.SOPInstanceUID, "sent twice, it is the same object"

    assert run("--image", tmp_path / "ct", "--out", tmp_path / "folder.dcm") == 0
    folder = pydicom.dcmread(tmp_path / "folder.dcm")
    assert folder.SOPInstanceUID == seg.SOPInstanceUID
    assert folder.PixelData == seg.PixelData


def broken(headers: dict[str, str]):
    """A transfer that ends within an object."""

    def answer(request):
        body = archives.multipart(request.archive.objects)
        request.reply(200, MULTIPART, body[: len(body) // 2], **headers)

    return answer


def replying(status: int, kind: str = "text/html", body: bytes = b"<p>", **headers: str):
    return lambda request: request.reply(status, kind, body, **headers)


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (replying(401), "--credentials"),
        (replying(403), "ask its administrator"),
        (replying(404), "correct the address or its UIDs"),
        (replying(503), "answers 503; try again later"),
        (replying(200), "answers with text/html"),
        (replying(206, MULTIPART), "only a part"),
        (replying(200, "multipart/related"), "answers with multipart/related"),
        (broken({"Content_Length": "99999"}), "broke off"),
        (broken({}), "broke off within the series"),
        (replying(200, MULTIPART, archives.multipart([b"<p>"])), "no DICOM (InvalidDicomError)"),
        (replying(200, MULTIPART, b"\r\n--a-b--"), "the archive sends"),
        (lambda request: time.sleep(0.6), "gave no answer in 0.3 s"),
        (replying(302, Location="http://10.255.255.1/web"), "leads to http://10.255.255.1:80"),
    ],
)
def test_an_answer_that_is_refused(tmp_path, archive, run, capsys, monkeypatch, answer, said):
    monkeypatch.setattr(archive_session, "TIMEOUT", (0.3, 0.3))
    bright_series(tmp_path / "ct")
    archive.hold(sorted((tmp_path / "ct").iterdir()))
    archive.answer = answer
    assert run("--image", archive.series, "--out", tmp_path / "web.dcm") == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"error: {archive.series}: ")
    assert said in line
    assert TOKEN not in line
    assert not (tmp_path / "web.dcm").exists()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda there: setattr(there, "stated", 7), "6 of 7 objects came"),
        (lambda there: there.objects.append(there.objects[0]), "the same object twice"),
        (lambda there: there.objects.append(
            there.objects.pop().replace(dicoms.uid(1).encode(), dicoms.uid(2).encode())
        ), "an object of another series"),
        (lambda there: setattr(there, "objects", [o[:-300] for o in there.objects]), "cut off"),
    ],
)  # fmt: skip
def test_no_part_of_a_series_is_segmented(tmp_path, archive, run, capsys, change, said):
    bright_series(tmp_path / "ct")
    archive.hold(sorted((tmp_path / "ct").iterdir()))
    change(archive)
    assert run("--image", archive.series, "--out", tmp_path / "web.dcm") == 1
    err = capsys.readouterr().err
    assert said in err
    assert archive.series in err
    assert not (tmp_path / "web.dcm").exists()


def fetch(address: str, warn=lambda text: None) -> int:
    read = parse_series("--image", address, insecure=False)
    with dicomweb.fetched(read, None, warn) as folder:
        return len(list(folder.iterdir()))


def test_an_archive_that_does_not_count(tmp_path, archive):
    archive.hold(dicoms.write_series(tmp_path / "ct"))
    for reply in (replying(403), replying(200, "application/dicom+json", b"[{}]"), replying(200)):
        archive.count, warned = reply, []
        assert fetch(archive.series, warned.append) == 6
        assert "does not say how many objects" in warned[0]


def test_a_redirect_within_the_archive_is_followed_with_credentials_and_no_other(tmp_path, archive):
    archive.hold(dicoms.write_series(tmp_path / "ct"))

    def moved(request):
        archive.answer = None
        request.reply(301, "text/html", b"", Location=archive.series + "/")

    archive.answer = moved
    assert fetch(archive.series) == 6
    other = archives.Archive()
    try:
        archive.answer = replying(307, Location=other.series)
        with pytest.raises(ArchiveError, match=f"leads to {other.root}; "):
            fetch(archive.series)
        assert other.seen == []
    finally:
        other.close()


def test_told_to_stop_it_removes_what_it_fetched(tmp_path, archive):
    archive.hold(dicoms.write_series(tmp_path / "ct"))
    before = signal.getsignal(signal.SIGTERM)

    def stop() -> None:
        address = parse_series("--image", archive.series, insecure=False)
        with dicomweb.fetched(address, None, print) as folder:
            assert len(list(folder.iterdir())) == 6
            assert folder.parent.stat().st_mode & 0o077 == 0
            # As the signal does, which would end a worker of pytest-xdist whose main thread waits.
            signal.getsignal(signal.SIGTERM)(signal.SIGTERM, None)

    with pytest.raises(SystemExit) as ended:
        stop()
    assert ended.value.code == 75
    assert signal.getsignal(signal.SIGTERM) is before


def test_an_object_that_never_ends(tmp_path, archive, monkeypatch):
    archive.hold(dicoms.write_series(tmp_path / "ct"))
    monkeypatch.setattr(archive_session, "LARGEST", 1000)
    with pytest.raises(ArchiveError, match="fetch it by other means, and give its folder"):
        fetch(archive.series)


@pytest.mark.parametrize(
    ("says", "code", "said"),
    [
        ((409, archives.failing(0x0111)), 0, "already"),
        ((409, archives.failing(0x0122)), 1, "(0122): takes no objects of this kind"),
        ((202, archives.failing(0xC123)), 1, "(C123)"),
        ((409, b"<p>"), 1, "(409) and does not say why"),
        ((401, b""), 1, "the same command sends it again"),
        ((200, b""), 0, "now"),
    ],
)
def test_what_an_archive_says_to_a_result(tmp_path, archive, run, capsys, says, code, said):
    bright_series(tmp_path / "ct")
    archive.says = says
    words = ["--image", tmp_path / "ct", "--out", tmp_path / "seg.dcm"]
    assert run(*words, "--stow", archive.studies) == code
    assert said in "".join(capsys.readouterr())
    assert (tmp_path / "seg.dcm").exists()


def test_what_cannot_be_sent(tmp_path, archive, run, capsys, monkeypatch):
    bright_series(tmp_path / "ct")
    words = ["--image", tmp_path / "ct", "--out", tmp_path / "seg.nii.gz"]
    assert run(*words, "--stow") == 1
    assert "give --stow https://HOST" in capsys.readouterr().err
    assert run(*words, "--stow", archive.studies) == 1
    assert "end --out in .dcm, or add --sr" in capsys.readouterr().err
    assert run(*words, "--stow", f"http://me:{TOKEN}@127.0.0.1/studies") == 1
    assert TOKEN not in capsys.readouterr().err
    with socket.socket() as nobody:  # bound, and not listening
        nobody.bind(("127.0.0.1", 0))
        words[-1] = tmp_path / "seg.dcm"
        there = f"http://127.0.0.1:{nobody.getsockname()[1]}/studies"
        assert run(*words, "--stow", there) == 1
    assert f"{there}: cannot be reached" in capsys.readouterr().err
    monkeypatch.setitem(sys.modules, "crlm_jax.predict.dicomweb", None)
    monkeypatch.delattr("crlm_jax.predict.dicomweb")
    assert run(*words, "--stow", archive.studies) == 1
    assert "pip install 'crlm_jax[pacs]'" in capsys.readouterr().err


def test_a_session_takes_credentials_from_nowhere_else(tmp_path, monkeypatch):
    (tmp_path / "netrc").write_text("machine pacs.example.org login me password pw\n")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    address = parse_series("--image", "https://pacs.example.org/studies/1/series/2", insecure=False)
    request = requests.Request("GET", "https://pacs.example.org/x")
    session = archive_session.Session(address, None, print)
    assert "Authorization" not in session.prepare_request(request).headers
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(tmp_path / "none.pem"))
    with pytest.raises(ArchiveError, match=r"REQUESTS_CA_BUNDLE: there is no file .*none\.pem"):
        archive_session.Session(address, None, print)


def test_certificates_are_verified(tmp_path, archive, monkeypatch):
    try:
        subprocess.run(
            ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256",
             "-nodes", "-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost",
             "-keyout", tmp_path / "key.pem", "-out", tmp_path / "own.pem"],
            check=True, capture_output=True,
        )  # fmt: skip
    except FileNotFoundError:
        pytest.skip("no openssl here, which makes the certificate")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "own.pem", tmp_path / "key.pem")
    archive.server.socket = context.wrap_socket(archive.server.socket, server_side=True)
    archive.hold(dicoms.write_series(tmp_path / "ct"))
    address = archive.series.replace("http://127.0.0.1", "https://localhost")
    with pytest.raises(ArchiveError, match=r"by REQUESTS_CA_BUNDLE=FILE\.pem"):
        fetch(address)
    assert archive.seen == []
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(tmp_path / "own.pem"))
    assert fetch(address) == 6
