"""Results reach the archive, late rather than never, and once."""

import pytest

from crlm_jax.errors import UserError
from crlm_jax.serve import send as send_module
from crlm_jax.serve.send import Archive
from tests.imaging.dicom import dicoms
from tests.serve import nodes
from tests.serve.test_node import bright


@pytest.mark.parametrize("text", ["ORTHANC", "A@host", "@host:1", "A@host:0", "A@host:70000"])
def test_an_archive_is_title_host_and_port(text):
    with pytest.raises(UserError, match="TITLE@HOST:PORT"):
        Archive.parse(text)
    assert Archive.parse("PACS 1@[::1]:104") == Archive("PACS 1", "::1", 104)


def test_an_archive_that_is_away_gets_the_result_later(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(send_module, "_LONGEST_WAIT", 0.3)
    archive = nodes.Store()
    archive.close()
    with nodes.running(tmp_path / "spool", archive) as node:
        nodes.send(node.port, dicoms.write_series(tmp_path / "ct", bright()))
        said = []
        nodes.wait(lambda: said.append(capsys.readouterr().err) or "not sent" in "".join(said))
        archive = nodes.Store(archive.port)
        archive.status = 0xA700
        nodes.wait(lambda: said.append(capsys.readouterr().err) or "A700" in "".join(said))
        archive.status = 0
        nodes.wait(lambda: len(archive.got) == 2)
    archive.close()
    assert "cannot be reached; tries again" in "".join(said)


def test_what_the_archive_will_never_take_is_set_aside(tmp_path, capsys):
    archive = nodes.Store()
    archive.status = 0xC123
    spool = tmp_path / "spool"
    with nodes.running(spool, archive) as node:
        nodes.send(node.port, dicoms.write_series(tmp_path / "ct", bright()))
        nodes.wait(lambda: list((spool / "failed").iterdir()))
    archive.close()
    assert "answers C123, which stays so" in capsys.readouterr().err
