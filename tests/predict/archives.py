"""A DICOMweb archive of a few lines, on loopback, that answers as it is told."""

import http.server
import json
import re
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pydicom
import pytest

from tests.imaging.dicom import dicoms

BOUNDARY = "a-b"


class Handler(http.server.BaseHTTPRequestHandler):
    """A request; `server.archive` says how it is answered."""

    def setup(self):
        super().setup()
        self.archive: Archive = self.server.archive

    def log_message(self, *_):
        pass

    def do_GET(self):
        self.archive.seen.append((self.path, dict(self.headers)))
        if self.archive.answer:
            self.archive.answer(self)
        elif self.path.startswith("/web/studies/") and "/series?" in self.path:
            self.archive.count(self)
        else:
            self.reply(200, f'multipart/related; type="application/dicom"; boundary="{BOUNDARY}"',
                       multipart(self.archive.objects))  # fmt: skip

    def do_POST(self):
        self.archive.seen.append((self.path, dict(self.headers)))
        body = self._body()
        head, _, rest = body.partition(b"\r\n\r\n")
        assert b"application/dicom" in head
        self.archive.stored.append(
            pydicom.dcmread(pydicom.filebase.DicomBytesIO(rest.rpartition(b"\r\n--")[0]))
        )
        status, answer = self.archive.says
        self.reply(status, "application/dicom+json; charset=utf-8", answer)

    def _body(self) -> bytes:
        if "Content-Length" in self.headers:
            return self.rfile.read(int(self.headers["Content-Length"]))
        body = b""
        while size := int(self.rfile.readline(), 16):
            body += self.rfile.read(size)
            self.rfile.readline()
        return body

    def reply(self, status: int, kind: str, body: bytes, **headers: str) -> None:
        self.send_response(status)
        for name, value in ({"Content-Type": kind} | headers).items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(body)


def multipart(objects: list[bytes], end: bytes = b"\r\n--a-b--\r\n") -> bytes:
    return (
        b"".join(b"\r\n--a-b\r\nContent-Type: application/dicom\r\n\r\n" + each for each in objects)
        + end
    )


class Archive:
    """A server; `answer` takes the place of what it does with every GET."""

    def __init__(self):
        self.objects: list[bytes] = []
        self.stated: int | None = None  # objects of the series; None: as many as there are
        self.seen: list[tuple[str, dict[str, str]]] = []  # path and headers of each request
        self.stored: list[pydicom.Dataset] = []
        self.says: tuple[int, bytes] = (200, b"{}")  # to what is stored
        self.answer: Callable[[Handler], None] | None = None
        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.archive, self.server.daemon_threads = self, True
        self.root = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, args=(0.02,), daemon=True).start()

    @property
    def studies(self) -> str:
        return f"{self.root}/web/studies"

    @property
    def series(self) -> str:
        return f"{self.studies}/{dicoms.STUDY}/series/{dicoms.uid(1)}"

    def hold(self, files: list[Path]) -> None:
        self.objects = [file.read_bytes() for file in files]

    def count(self, request: Handler) -> None:
        uid = re.search(r"SeriesInstanceUID=([\d.]+)", request.path)[1]
        found = {"0020000E": {"vr": "UI", "Value": [uid]}}
        stated = len(self.objects) if self.stated is None else self.stated
        found["00201209"] = {"vr": "IS", "Value": [stated]}
        request.reply(200, "application/dicom+json", json.dumps([found]).encode())

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()


def failing(reason: int) -> bytes:
    """What an archive says of an object that it does not store."""
    item = {"00081197": {"vr": "US", "Value": [reason]}}
    return json.dumps({"00081198": {"vr": "SQ", "Value": [item]}}).encode()


@pytest.fixture
def archive() -> Iterator[Archive]:
    made = Archive()
    yield made
    made.close()
