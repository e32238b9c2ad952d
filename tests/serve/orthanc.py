"""Orthanc, an archive as hospitals have it, of the system's packages, on loopback.

Its settings are those of `launch/`, but for places, ports and the password: it sends every CT to
the node.

In a test module:

    from tests.serve import orthanc

    archive = orthanc.archive      # an orthanc.Orthanc; skips where there is none
"""

import json
import os
import shutil
import subprocess
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pydicom
import pytest

from tests.processes import free_port
from tests.serve import nodes

LAUNCH = Path(__file__).parents[2] / "launch"
_PLACES = os.pathsep.join((os.environ.get("PATH", ""), "/usr/sbin", "/usr/local/sbin"))


class Orthanc:
    """A running archive; `node_port` is where it knows the node `CRLM`."""

    title = "ORTHANC"

    def __init__(self, program: str, folder: Path):
        self.port, self.web, self.node_port = free_port(), free_port(), free_port()
        settings = json.loads((LAUNCH / "orthanc.json").read_text()) | {
            "DicomAet": self.title, "DicomPort": self.port,
            "HttpPort": self.web, "StorageDirectory": str(folder / "db"),
            "IndexDirectory": str(folder / "db"), "RemoteAccessAllowed": False,
            "AuthenticationEnabled": False, "OverwriteInstances": False,
            "DicomModalities": {"CRLM": ["CRLM", "127.0.0.1", self.node_port]},
            "DicomAssociationCloseDelay": 0, "StableAge": 1,
            "LuaScripts": [str(LAUNCH / "orthanc-route.lua")],
            "Plugins": ["/usr/share/orthanc/plugins/libOrthancDicomWeb.so"],
        }  # fmt: skip
        (folder / "orthanc.json").write_text(json.dumps(settings))
        self._output = (folder / "orthanc.txt").open("w")
        self._process = subprocess.Popen(
            [program, str(folder / "orthanc.json")], stdout=self._output, stderr=self._output
        )
        nodes.wait(self._answers)

    def _answers(self) -> bool:
        assert self._process.poll() is None, "Orthanc ended"
        try:
            return bool(self.get("/system"))
        except OSError:
            return False

    def close(self) -> None:
        self._process.terminate()
        self._process.wait(30)
        self._output.close()

    def get(self, path: str) -> bytes:
        with urllib.request.urlopen(f"http://127.0.0.1:{self.web}{path}", timeout=60) as answer:
            return answer.read()

    def post(self, path: str, content: bytes | dict | str) -> dict | list:
        data = content if isinstance(content, bytes) else json.dumps(content).encode()
        request = urllib.request.Request(f"http://127.0.0.1:{self.web}{path}", data)
        with urllib.request.urlopen(request, timeout=120) as answer:
            return json.load(answer)

    def add(self, files: list[Path]) -> None:
        for file in files:
            self.post("/instances", file.read_bytes())

    def find(self, modality: str) -> list[pydicom.Dataset]:
        """Returns the objects of a modality, such as SEG."""
        query = {"Level": "Instance", "Query": {"Modality": modality}}
        return [
            pydicom.dcmread(pydicom.filebase.DicomBytesIO(self.get(f"/instances/{name}/file")))
            for name in self.post("/tools/find", query)
        ]


@pytest.fixture
def archive(tmp_path) -> Iterator[Orthanc]:
    """A fresh archive; skips where Orthanc is not installed."""
    program = shutil.which("Orthanc", path=_PLACES)
    if program is None:
        pytest.skip("no Orthanc here; apt-get install orthanc orthanc-dicomweb")
    folder = tmp_path / "orthanc"
    folder.mkdir()
    made = Orthanc(program, folder)
    yield made
    made.close()
