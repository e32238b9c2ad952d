"""The sending side: results go to the archive by C-STORE, until the archive has them.

A result keeps its UIDs, so that one that is sent twice is the same object there.
"""

import contextlib
import dataclasses
import re
import ssl
import threading
from collections.abc import Sequence
from pathlib import Path

import pydicom
import pynetdicom

from crlm_jax.errors import UserError
from crlm_jax.serve.journal import say
from crlm_jax.serve.spool import RESULTS, Spool, short

_LONGEST_WAIT = 300.0  # seconds between two tries
_LOOK = 0.2  # seconds between two looks into the queue
_DUPLICATE = 0x0111  # the archive has the object
# What stays as it is, however often it is sent; see `checks`.
_FINAL = (0x0117, 0x0122, 0x0124, range(0xA900, 0xAA00), range(0xC000, 0xD000))


class NotSent(Exception):
    """The archive did not take a result; `final`: and never will. The message is the cause."""

    def __init__(self, cause: str, final: bool = False):
        super().__init__(cause)
        self.final = final


@dataclasses.dataclass(frozen=True)
class Archive:
    """Where results are sent."""

    title: str  # its AE title
    host: str
    port: int
    tls: ssl.SSLContext | None = None

    @classmethod
    def parse(cls, text: str, tls: ssl.SSLContext | None = None) -> "Archive":
        """Reads `TITLE@HOST:PORT`.

        Raises:
          UserError: the text is something else.
        """
        found = re.fullmatch(r"([^@\\]{1,16})@\[?([^@\]]+?)\]?:(\d{1,5})", text)
        if not found or not 0 < int(found[3]) < 65536:
            raise UserError(f"--send-to {text}: write TITLE@HOST:PORT, as ORTHANC@10.0.0.5:104")
        return cls(found[1], found[2], int(found[3]), tls)

    def __str__(self) -> str:
        return f"{self.title}@{self.host}:{self.port}"


def send(files: Sequence[Path], archive: Archive, title: str) -> None:
    """Sends objects in one association.

    Args:
      files: DICOM files.
      archive: that gets them.
      title: AE title of the node.

    Raises:
      NotSent: at the first object that the archive does not take.
    """
    entity = pynetdicom.AE(title)
    entity.connection_timeout = entity.acse_timeout = 30
    entity.dimse_timeout = entity.network_timeout = 120
    objects = [pydicom.dcmread(file) for file in files]
    for kind in {(each.SOPClassUID, each.file_meta.TransferSyntaxUID) for each in objects}:
        entity.add_requested_context(*kind)
    tls = (archive.tls, archive.host) if archive.tls else None
    association = entity.associate(archive.host, archive.port, ae_title=archive.title, tls_args=tls)
    if not association.is_established:
        refused = "refuses the association" if association.is_rejected else "cannot be reached"
        raise NotSent(f"{archive} {refused}")
    try:
        for each in objects:
            try:
                status = association.send_c_store(each).get("Status")
            except ValueError as error:  # no presentation context
                what = each.SOPClassUID.name
                raise NotSent(f"{archive} takes no {what}; let it, or see --no-sr") from error
            except RuntimeError as error:
                raise NotSent(f"{archive} broke off") from error
            if status is None:
                raise NotSent(f"{archive} gave no answer")
            # Bxxx: the object is there, with a remark.
            if status not in (0x0000, _DUPLICATE) and not 0xB000 <= status < 0xC000:
                final = any(
                    status in each if isinstance(each, range) else status == each for each in _FINAL
                )
                raise NotSent(f"{archive} answers {status:04X}", final)
    finally:
        with contextlib.suppress(Exception):
            association.release()


class Sender(threading.Thread):
    """Sends the results of the spool, the oldest first, and tries again until they are taken."""

    def __init__(self, spool: Spool, archive: Archive, title: str):
        super().__init__(name="send", daemon=True)
        self._spool, self._archive, self._title = spool, archive, title
        self._stopped = threading.Event()
        self.failures = 0  # in a row

    def stop(self) -> None:
        self._stopped.set()

    def run(self) -> None:
        while not self._stopped.wait(self._wait()):
            try:
                for job in self._spool.jobs("answered"):
                    if self._stopped.is_set():
                        return
                    self._send(job)
                    self.failures = 0
            except (NotSent, OSError) as error:
                self.failures += 1
                say(f"not sent: {error}; tries again in {self._wait():.0f} s")

    def _wait(self) -> float:
        return min(_LONGEST_WAIT, 2.0**self.failures) if self.failures else _LOOK

    def _send(self, job: Path) -> None:
        try:
            files = sorted((job / RESULTS).glob("*.dcm"))
            send(files, self._archive, self._title)
        except NotSent as error:
            if not error.final:
                raise
            say(f"failed: {short(job)}: {error}, which stays so; send the series again to retry")
            self._spool.move(job, "failed")
        except OSError:
            raise
        except Exception as error:  # a defect; the other results are still to be sent
            say(f"failed: {short(job)}: its results gave {type(error).__name__} as they were sent")
            self._spool.move(job, "failed")
        else:
            self._spool.move(job, "done")
            say(f"sent: {short(job)}, {len(files)} object(s) to {self._archive}")
