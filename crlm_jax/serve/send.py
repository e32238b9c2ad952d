"""The sending side: results go to the archive by C-STORE, until the archive has them.

A result keeps its UIDs, so that one that is sent twice is the same object there.
"""

import contextlib
import dataclasses
import re
import ssl
import threading
import time
from collections.abc import Sequence
from pathlib import Path

import pydicom
import pynetdicom

from crlm_jax.errors import UserError
from crlm_jax.serve.journal import say
from crlm_jax.serve.spool import RESULTS, Spool, short

_LONGEST_WAIT = 300.0  # seconds between two tries
_LOOK = 0.2  # seconds between two looks into the queue
_MOST = 20  # tries of a result that is refused while others are taken; over an hour, by the pauses
_DUPLICATE = 0x0111  # the archive has the object
# What stays as it is, however often it is sent; see `checks`.
_FINAL = (0x0117, 0x0122, 0x0124, range(0xA900, 0xAA00), range(0xC000, 0xD000))


class NotSent(Exception):
    """The archive did not take a result; `final`: and never will. The message is the cause."""

    def __init__(self, cause: str, final: bool = False):
        super().__init__(cause)
        self.final = final


class NotReached(NotSent):
    """The archive cannot be spoken to, whatever the result."""


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
      NotReached: there is no association.
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
        if association.rejected_contexts:  # it would have had an association, but for no object
            raise NotSent(_takes_no(archive, objects[0]))
        refused = "refuses the association" if association.is_rejected else "cannot be reached"
        raise NotReached(f"{archive} {refused}")
    try:
        for each in objects:
            try:
                status = association.send_c_store(each).get("Status")
            except ValueError as error:  # no presentation context
                raise NotSent(_takes_no(archive, each)) from error
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


def _takes_no(archive: Archive, what: pydicom.Dataset) -> str:
    return f"{archive} takes no {what.SOPClassUID.name}; let it, or see --no-sr"


def pause(failures: int) -> float:
    """Returns the seconds between two tries, after so many failures in a row."""
    return min(_LONGEST_WAIT, 2.0 ** min(failures, 30))  # 2.0 ** 1024 is an error


@dataclasses.dataclass
class _Refusals:
    """What this process knows of a result that the archive did not take."""

    tries: int = 0
    due: float = 0.0  # when it is tried again, in seconds of the clock
    taken: int = 0  # results that the archive had taken at the last try
    alone: int = 0  # tries that failed although the archive had taken another since the one before


class Sender(threading.Thread):
    """Sends the results of the spool, the oldest first, and tries again until they are taken.

    An archive that cannot be reached is left alone for a while. A result that the archive does not
    take waits by itself, so that it holds up no other.
    """

    def __init__(self, spool: Spool, archive: Archive, title: str):
        super().__init__(name="send", daemon=True)
        self._spool, self._archive, self._title = spool, archive, title
        self._stopped = threading.Event()
        self._refusals: dict[str, _Refusals] = {}  # by the job's name
        self._taken = 0  # results that the archive took
        self.failures = 0  # in a row, to reach the archive

    def stop(self) -> None:
        self._stopped.set()

    def run(self) -> None:
        while not self._stopped.wait(pause(self.failures) if self.failures else _LOOK):
            try:
                self._send_due()
            except Exception as error:  # the thread must not end while there is something to send
                self.failures += 1
                said = error if isinstance(error, OSError) else f"a defect, {type(error).__name__}"
                say(f"not sent: {said}; tries again in {pause(self.failures):.0f} s")

    def _send_due(self) -> None:
        """Tries every result whose time has come, those first that were tried least."""
        now, known = time.monotonic(), self._refusals
        due = [
            job
            for job in self._spool.jobs("answered")
            if job.name not in known or known[job.name].due <= now
        ]
        for job in sorted(due, key=lambda job: known[job.name].tries if job.name in known else 0):
            if self._stopped.is_set():
                return
            try:
                self._send(job)
            except NotReached as error:
                self.failures += 1
                wait = pause(self.failures)
                say(f"not sent: {short(job)}: {error}; tries again in {wait:.0f} s")
                return
            except (NotSent, OSError) as error:
                self._refused(job, error)
            self.failures = 0

    def _send(self, job: Path) -> None:
        try:
            files = sorted((job / RESULTS).glob("*.dcm"))
            send(files, self._archive, self._title)
        except (NotSent, OSError):
            raise
        except Exception as error:  # a defect; the other results are still to be sent
            what = f"its results gave {type(error).__name__} as they were sent"
            self._set_aside(job, what)
            return
        self._taken += 1
        self._spool.settle(job, "done")
        self._refusals.pop(job.name, None)
        say(f"sent: {short(job)}, {len(files)} object(s) to {self._archive}")

    def _refused(self, job: Path, error: NotSent | OSError) -> None:
        """Lets a result wait, or sets it aside if it is the result that the archive refuses."""
        known = self._refusals.setdefault(job.name, _Refusals(taken=self._taken))
        known.tries += 1
        # While the archive takes nothing, the fault is the archive's: its disk may be full.
        known.alone += self._taken > known.taken
        known.taken = self._taken
        known.due = time.monotonic() + pause(known.tries)
        if isinstance(error, NotSent) and error.final:
            self._set_aside(job, f"{error}, which stays so; send the series again to retry")
        elif known.alone >= _MOST:
            often = f"{known.tries} tries, while it took others"
            self._set_aside(job, f"{error}, after {often}; send the series again to retry")
        else:
            say(f"not sent: {short(job)}: {error}; is tried again in {pause(known.tries):.0f} s")

    def _set_aside(self, job: Path, why: str) -> None:
        say(f"failed: {short(job)}: {why}")
        self._spool.settle(job, "failed")
        self._refusals.pop(job.name, None)
