"""The receiving side: associations, C-ECHO and C-STORE, by pynetdicom.

What a hostile peer can use up is bounded: connections, associations, the length of a PDU, the size
of an object, and the time of a handshake or a silence.
"""

import contextlib
import dataclasses
import socket
import socketserver
import ssl
import threading
import time
from collections.abc import Collection, Sequence
from typing import Any

import pynetdicom
from pydicom.dataset import Dataset
from pydicom.filewriter import write_file_meta_info
from pydicom.uid import (
    JPEG2000,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGExtended12Bit,
    JPEGLossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    JPEGLSNearLossless,
    RLELossless,
)
from pynetdicom import evt
from pynetdicom.association import Association
from pynetdicom.presentation import PresentationContext
from pynetdicom.transport import ThreadedAssociationServer

from crlm_jax.serve.checks import CLASSES, NOT_UNDERSTOOD, OUT_OF_RESOURCES, Refused, check_image
from crlm_jax.serve.journal import say
from crlm_jax.serve.spool import Full, Spool

SYNTAXES = (
    ExplicitVRLittleEndian, ImplicitVRLittleEndian, ExplicitVRBigEndian, JPEGBaseline8Bit,
    JPEGExtended12Bit, JPEGLossless, JPEGLosslessSV1, JPEGLSLossless, JPEGLSNearLossless,
    JPEG2000Lossless, JPEG2000, RLELossless,
)  # fmt: skip
_VERIFICATION = "1.2.840.10008.1.1"
_PDU = 256 << 10  # bytes of a PDU that the node asks for
_LONGEST = 1 << 20  # bytes of a PDU that is still read, and of a command
_SILENCE = 300  # seconds without a word, after which an association is released
_HANDSHAKE = 10  # seconds for TLS and the request of an association
_EVERY = 10.0  # seconds between two lines about refused connections


@dataclasses.dataclass(frozen=True)
class Listening:
    """Where and for whom the node listens."""

    title: str  # the node's AE title
    host: str = "127.0.0.1"
    port: int = 11112  # 0: any free one
    allowed: Sequence[str] = ()  # calling AE titles; empty: all
    tls: ssl.SSLContext | None = None
    associations: int = 8  # at once
    largest: int = 512 << 20  # bytes of an object


@dataclasses.dataclass
class _Peer:
    """An association that is open: its number in the spool, and what was said of it."""

    number: int
    said: set[str] = dataclasses.field(default_factory=set)


class Receiver:
    """Listens, checks what comes, and puts images into the spool; `close` ends it.

    Args:
      listening: where and for whom.
      spool: that takes the images.
      modalities: that are taken, such as "CT".

    Raises:
      OSError: the address cannot be listened on.
    """

    def __init__(self, listening: Listening, spool: Spool, modalities: Collection[str]):
        self._listening, self._spool, self._modalities = listening, spool, modalities
        self._peers: dict[Association, _Peer] = {}
        self._told: set[str] = set()  # titles of peers that offered what is not taken
        self._lock = threading.Lock()
        entity = pynetdicom.AE(listening.title)
        entity.maximum_pdu_size = _PDU
        entity.maximum_associations = listening.associations
        entity.acse_timeout = _HANDSHAKE
        entity.network_timeout = _SILENCE
        entity.require_calling_aet = list(listening.allowed)
        entity.require_called_aet = True
        entity.add_supported_context(_VERIFICATION)
        for uid in CLASSES:
            entity.add_supported_context(uid, list(SYNTAXES))
        handlers: list[Any] = [
            (evt.EVT_CONN_OPEN, self._on_connection),
            (evt.EVT_ESTABLISHED, self._on_begin),
            (evt.EVT_REJECTED, self._on_rejected),
            (evt.EVT_RELEASED, self._on_released),
            (evt.EVT_C_STORE, self._on_store),
        ]
        pynetdicom._config.LOG_HANDLER_LEVEL = "none"  # its lines quote what peers send
        try:
            self._server = entity.make_server(
                (listening.host, listening.port), evt_handlers=handlers, server_class=_Server,
                ssl_context=listening.tls,
            )  # fmt: skip
        except OSError as error:
            raise OSError(
                f"--host {listening.host} --port {listening.port}: cannot be listened on "
                f"({error.strerror or error}); give another, or stop what listens there"
            ) from error
        self.port: int = self._server.server_address[1]
        threading.Thread(target=self._server.serve_forever, name="listen", daemon=True).start()

    def close(self) -> None:
        """Takes no more connections, and breaks off those that are open.

        Their series are not marked as broken off: for the next node they were interrupted by this
        one, and their senders may have sent all.
        """
        self._server.shutdown()
        for association in list(self._peers):
            with contextlib.suppress(Exception):
                association.abort(block=False)

    def reap(self) -> None:
        """Tells the spool of associations that ended in whatever way."""
        for association in list(self._peers):
            if not association.is_alive():
                self._end(association, association.is_released)

    def _end(self, association: Association, released: bool) -> None:
        with self._lock:
            peer = self._peers.pop(association, None)
        if peer:
            self._spool.end(peer.number, released)

    # Handlers of pynetdicom, each in the thread of its association

    def _on_connection(self, event: evt.Event) -> None:
        event.assoc.network_timeout_response = "A-RELEASE"
        _bound(event.assoc, self._listening.largest)

    def _on_begin(self, event: evt.Event) -> None:
        with self._lock:
            self._peers[event.assoc] = _Peer(self._spool.begin())
        refused, title = event.assoc.rejected_contexts, event.assoc.requestor.ae_title
        if refused and title not in self._told and len(self._told) < 100:  # said once a title
            self._told.add(str(title)[:16])
            names = sorted({_name(context) for context in refused})
            more = f" and {len(names) - 3} more" * (len(names) > 3)
            say(f"not offered to {_who(event)}: {', '.join(names[:3])}{more}")

    def _on_rejected(self, event: evt.Event) -> None:
        say(f"refused: an association of {_who(event)}, by its title or because too many are open")

    def _on_released(self, event: evt.Event) -> None:
        self._end(event.assoc, True)

    def _on_store(self, event: evt.Event) -> int | Dataset:
        """Answers C-STORE; success means that the image is on the disk."""
        with self._lock:
            peer = self._peers.setdefault(event.assoc, _Peer(0))
        try:
            self._take(event, peer.number)
            return 0x0000
        except Refused as error:
            status, cause = error.status, str(error)
        except Full as error:
            status, cause = OUT_OF_RESOURCES, str(error)
        except OSError as error:
            status, cause = OUT_OF_RESOURCES, f"the disk failed ({error.strerror})"
        except Exception as error:  # the node goes on, and the image is not taken
            status, cause = NOT_UNDERSTOOD, f"an object that gave {type(error).__name__}"
        if cause not in peer.said:  # a line a cause, not an image
            peer.said.add(cause)
            say(f"refused with {status:04X}, from {_who(event)}: {cause}")
        answer = Dataset()
        answer.Status, answer.ErrorComment = status, cause[:64]
        return answer

    def _take(self, event: evt.Event, number: int) -> None:
        request: Any = event.request
        content = request.DataSet.getbuffer()
        uid = str(request.AffectedSOPInstanceUID)
        with self._spool.partial(len(content)) as path:
            with path.open("xb") as file:
                file.write(b"\0" * 128 + b"DICM")
                write_file_meta_info(file, event.file_meta)  # type: ignore[arg-type]
                file.write(content)
            kind = str(request.AffectedSOPClassUID)
            series = check_image(path, kind, uid, self._modalities)
            self._spool.take(path, series, uid, number)


class _Server(ThreadedAssociationServer):
    """pynetdicom's server, which silent peers cannot hold up, however many they are."""

    daemon_threads = True
    request_queue_size = 64  # connections that wait to be accepted
    _refused, _last = 0, 0.0
    _starting, _counting = 0, threading.Lock()  # connections whose association is not begun

    def shutdown(self) -> None:
        socketserver.BaseServer.shutdown(self)
        self.server_close()

    def get_request(self) -> tuple[socket.socket, Any]:
        """Accepts a connection; the handshake of TLS waits for a thread of its own."""
        connection, address = self.socket.accept()  # type: ignore[union-attr]
        connection.settimeout(_HANDSHAKE)
        if self.ssl_context:
            connection = self.ssl_context.wrap_socket(
                connection, server_side=True, do_handshake_on_connect=False
            )
        return connection, address

    def verify_request(self, request: Any, client_address: Any) -> bool:
        """Whether there is a thread for one more connection, be it to refuse an association."""
        with self._counting:
            if self._starting + len(self.active_associations) < 4 * self.ae.maximum_associations:
                self._starting += 1
                return True
        self._refused += 1
        if time.monotonic() - self._last > _EVERY:
            say(f"refused: {self._refused} connection(s), since too many are open")
            self._refused, self._last = 0, time.monotonic()
        return False

    def finish_request(self, request: Any, client_address: Any) -> None:
        try:
            if self.ssl_context:
                request.do_handshake()
            super().finish_request(request, client_address)  # starts the association's thread
        finally:
            with self._counting:
                self._starting -= 1

    def handle_error(self, request: Any, client_address: Any) -> None:
        say(f"refused: a connection from {client_address[0]}, which failed before it began")


def _bound(association: Association, largest: int) -> None:
    """Lets a connection be lost when its peer sends more than memory is meant for."""
    connection: Any = association.dul.socket
    read = connection.recv

    def recv(count: int) -> bytearray:
        message: Any = association.dimse.message
        sizes = (message.data_set.tell(), message.encoded_command_set.tell()) if message else (0, 0)
        many = association.dimse.msg_queue.qsize() > 1  # requests before their answers
        if count > _LONGEST or sizes[0] > largest or sizes[1] > _LONGEST or many:
            say(f"broken off: {association.requestor.ae_title or 'a peer'} sent too much at once")
            raise OSError("too much at once")
        return read(count)

    connection.recv = recv


def _name(context: PresentationContext) -> str:
    return context.abstract_syntax.name if context.abstract_syntax else "?"


def _who(event: evt.Event) -> str:
    """Names the peer by its title and address."""
    peer = event.assoc.requestor
    return f"{peer.ae_title or '?'}@{peer.address}"
