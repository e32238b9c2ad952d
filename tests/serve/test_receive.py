"""What the node takes, what it refuses and how, and who cannot bring it down."""

import socket
import ssl
import struct
import subprocess
import threading
from types import SimpleNamespace

import numpy as np
import pydicom
import pynetdicom
import pytest

from crlm_jax.serve import checks, command, receive
from crlm_jax.serve.receive import Listening, Receiver
from crlm_jax.serve.send import Archive, NotSent, send
from crlm_jax.serve.spool import Limits, Spool
from tests.imaging.dicom import dicoms
from tests.serve import nodes

LARGEST = 20_000  # bytes of an object; a slice here has 9 kB, which the check does not read


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    return dicoms.write_series(tmp_path_factory.mktemp("ct"), np.full((3, 64, 64), 924, np.int16))


@pytest.fixture
def spool(tmp_path):
    made = Spool(tmp_path / "spool", Limits(room=0, series=2))
    yield made
    made.close()


@pytest.fixture
def receiver(spool):
    made = Receiver(Listening("CRLM", port=0, largest=LARGEST, associations=3), spool, {"CT"})
    yield made
    made.close()


def stored(spool) -> int:
    return len(list((spool.folder / "open").rglob("*.dcm")))


def assert_alive(receiver, files) -> None:
    """The node answers, and still takes images."""
    association = nodes.associate(receiver.port)
    assert association.is_established
    assert association.send_c_echo().Status == 0
    assert association.send_c_store(files[0]).Status == 0
    association.release()


def changed(file, **values) -> pydicom.Dataset:
    image = pydicom.dcmread(file)
    for name, value in values.items():
        setattr(image, name, value) if value is not None else delattr(image, name)
    return image


@pytest.mark.parametrize(
    ("values", "status"),
    [
        ({"ImageType": ["ORIGINAL", "PRIMARY", "LOCALIZER"]}, checks.LOCALIZER),
        ({"SOPClassUID": nodes.MR, "Modality": "MR"}, checks.NO_RULE),
        ({"Modality": "PT"}, checks.NOT_OF_ITS_CLASS),
        ({"PixelData": None}, checks.NOT_UNDERSTOOD),
        ({"PixelData": b"\0" * 100}, checks.NOT_UNDERSTOOD),
        ({"SeriesInstanceUID": "../../x"}, checks.NOT_UNDERSTOOD),
        ({"SeriesInstanceUID": None}, checks.NOT_UNDERSTOOD),
    ],
)
def test_what_is_refused_has_its_status_and_a_line(
    receiver, spool, files, capsys, values, status
):  # fmt: skip
    image = changed(files[0], **values)
    assert nodes.send(receiver.port, [image, image, files[1]]) == [status, status, 0]
    assert stored(spool) == 1
    (line,) = (line for line in capsys.readouterr().err.splitlines() if " refused " in line)
    assert f"refused with {status:04X}, from PACS@127.0.0.1" in line
    assert not any(text in line for text in ("Musterfrau", "19610203", "A-99", "P-17"))


def test_an_object_that_is_cut_off_is_refused(receiver, spool, files, monkeypatch):
    encode = pynetdicom.association.encode
    monkeypatch.setattr(pynetdicom.association, "encode", lambda *a, **k: encode(*a, **k)[:-500])
    assert nodes.send(receiver.port, files[:1]) == [checks.NOT_UNDERSTOOD]
    assert stored(spool) == 0


def test_another_object_than_announced_is_refused(receiver, spool, files, monkeypatch):
    image = changed(files[0])
    encode = pynetdicom.association.encode
    uid = image.SOPInstanceUID.encode()
    monkeypatch.setattr(
        pynetdicom.association, "encode",
        lambda *a, **k: encode(*a, **k).replace(uid, uid[:-1] + b"\0"),
    )  # fmt: skip
    assert nodes.send(receiver.port, [image]) == [checks.NOT_UNDERSTOOD]
    assert stored(spool) == 0


def test_a_full_queue_and_a_failing_disk_are_out_of_resources(
    receiver, spool, files, monkeypatch
):  # fmt: skip
    others = [changed(files[0], SeriesInstanceUID=dicoms.uid(n)) for n in (5, 6, 7)]
    assert nodes.send(receiver.port, others) == [0, 0, checks.OUT_OF_RESOURCES]

    def fail(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(spool, "take", fail)
    assert nodes.send(receiver.port, others[:1]) == [checks.OUT_OF_RESOURCES]
    assert list((spool.folder / "partial").iterdir()) == []


def test_titles_and_classes_that_are_not_known_are_refused(spool, files, capsys):
    receiver = Receiver(Listening("CRLM", port=0, allowed=["PACS"]), spool, {"CT"})
    try:
        assert not nodes.associate(receiver.port, title="OTHER").is_established
        assert not nodes.associate(receiver.port, called="OTHER").is_established
        assert capsys.readouterr().err.count("by its title") == 2
        entity = pynetdicom.AE("PACS")
        entity.add_requested_context(nodes.CT)
        entity.add_requested_context("1.2.840.10008.5.1.4.1.1.7")
        association = entity.associate("127.0.0.1", receiver.port, ae_title="CRLM")
        assert [context.abstract_syntax for context in association.accepted_contexts] == [nodes.CT]
        association.release()
        nodes.wait(lambda: "not offered to PACS" in capsys.readouterr().err)
    finally:
        receiver.close()


def raw(port: int, files) -> tuple[socket.socket, bytes]:
    """A connection whose association is established, and the PDUs of one C-STORE."""
    sent: list[bytes] = []
    association = nodes.associate(
        port, evt_handlers=[(pynetdicom.evt.EVT_DATA_SENT, lambda e: sent.append(e.data))]
    )
    assert association.send_c_store(files[0]).Status == 0
    association.release()
    connection = socket.create_connection(("127.0.0.1", port), timeout=10)
    connection.sendall(sent[0])
    assert connection.recv(4096)[:1] == b"\x02", "accepted"
    return connection, b"".join(pdu for pdu in sent[1:] if pdu[:1] == b"\x04")


def test_a_c_store_that_is_broken_off_leaves_nothing_behind(receiver, spool, files, capsys):
    connection, pdus = raw(receiver.port, files)
    before = {path.stat().st_mtime_ns for path in (spool.folder / "open").rglob("*.dcm")}
    connection.sendall(pdus[:-700])
    connection.close()
    nodes.wait(lambda: receiver.reap() or not receiver._peers)
    after = {path.stat().st_mtime_ns for path in (spool.folder / "open").rglob("*.dcm")}
    assert after == before
    assert list((spool.folder / "partial").iterdir()) == []
    assert_alive(receiver, files)


def closed(connection: socket.socket) -> bool:
    """Whether the node ends the connection."""
    try:
        while connection.recv(4096):
            pass
    except ConnectionError:
        pass
    return True


def test_endless_pdus_commands_and_objects_end_the_connection(receiver, spool, files, capsys):
    connection, _ = raw(receiver.port, files)
    connection.sendall(struct.pack(">BBL", 4, 0, 0xFFFFFFF0) + b"\0" * 1000)
    assert closed(connection)

    connection, pdus = raw(receiver.port, files)
    command = pdus[: 6 + struct.unpack(">L", pdus[2:6])[0]]
    part = struct.pack(">BBLLBB", 4, 0, 8006, 8002, 1, 0) + b"\0" * 8000  # never the last
    connection.sendall(command)
    assert any(is_closed_after(connection, part) for _ in range(100))
    assert capsys.readouterr().err.count("too much at once") == 2
    assert stored(spool) == 1
    assert_alive(receiver, files)


def is_closed_after(connection: socket.socket, data: bytes) -> bool:
    connection.settimeout(0.02)
    try:
        connection.sendall(data)
        return connection.recv(1) == b""
    except TimeoutError:
        return False
    except ConnectionError:
        return True


def test_a_flood_of_connections_is_refused_and_passes(spool, files, capsys, monkeypatch):
    monkeypatch.setattr(receive, "_HANDSHAKE", 1)
    receiver = Receiver(Listening("CRLM", port=0, associations=3), spool, {"CT"})
    before = threading.active_count()  # of other tests too
    flood = [socket.create_connection(("127.0.0.1", receiver.port)) for _ in range(40)]
    nodes.wait(lambda: "too many are open" in capsys.readouterr().err)
    assert threading.active_count() - before < 40
    for connection in flood:
        connection.close()
    nodes.wait(lambda: nodes.send(receiver.port, files[:1]) == [0])
    assert_alive(receiver, files)
    receiver.close()


@pytest.fixture
def certificate(tmp_path):
    key, pem = tmp_path / "key.pem", tmp_path / "cert.pem"
    words = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256",
             "-nodes", "-keyout", key, "-out", pem, "-days", "2", "-subj", "/CN=localhost",
             "-addext", "subjectAltName=IP:127.0.0.1"]  # fmt: skip
    try:
        subprocess.run(words, check=True, capture_output=True)
    except FileNotFoundError:
        pytest.skip("no openssl here to make a certificate")
    return pem, key


def test_tls_and_a_peer_that_never_shakes_hands(spool, files, certificate):
    inward = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    inward.load_cert_chain(*certificate)
    receiver = Receiver(Listening("CRLM", port=0, tls=inward), spool, {"CT"})
    try:
        with socket.create_connection(("127.0.0.1", receiver.port)):
            outward = ssl.create_default_context(cafile=certificate[0])
            association = nodes.associate(receiver.port, tls_args=(outward, "127.0.0.1"))
            assert association.send_c_store(files[0]).Status == 0
            association.release()
        assert not nodes.associate(receiver.port).is_established, "without TLS"
        assert stored(spool) == 1
    finally:
        receiver.close()


def test_an_authority_lets_in_its_own_peers_alone_and_results_go_by_tls_too(
    tmp_path, spool, files, certificate, capsys
):
    pem, key = certificate
    given = SimpleNamespace(tls_cert=pem, tls_key=key, tls_ca=pem, send_tls=True)
    inward, outward = command._tls(given)
    receiver = Receiver(Listening("CRLM", port=0, tls=inward), spool, {"CT"})
    stranger = ssl.create_default_context(cafile=pem)
    try:
        assert not nodes.associate(receiver.port, tls_args=(stranger, "127.0.0.1")).is_established
        assert "failed before it began" in capsys.readouterr().err
        # The node sends as any peer does.
        send(files[:1], Archive("CRLM", "127.0.0.1", receiver.port, outward), "PACS")
        assert stored(spool) == 1
        with pytest.raises(NotSent, match="cannot be reached"):
            send(files[:1], Archive("CRLM", "127.0.0.1", receiver.port), "PACS")
    finally:
        receiver.close()
