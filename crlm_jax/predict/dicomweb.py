"""DICOMweb: a series of an archive into a temporary folder (WADO-RS), results back (STOW-RS).

Imported only where an address is given, as it needs the extra `pacs`. Messages name addresses and
UIDs, never credentials or what a header says of the patient.
"""

import contextlib
import dataclasses
import signal
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pydicom
import requests
from dicomweb_client.web import DICOMwebClient

from crlm_jax.errors import UserError
from crlm_jax.predict.archive import Address, ArchiveError, Credentials
from crlm_jax.predict.archive_session import Session, connect, status, told
from crlm_jax.system.preemption import EXIT_CODE

_DUPLICATE = 0x0111  # the reason of an archive that has the object
_REASONS = {
    0x0122: "takes no objects of this kind (SOP class); have it let them in",
    0x0124: "does not allow it; ask its administrator for the right to store",
    0xA700: "has no room",
}

Warn = Callable[[str], object]


@dataclasses.dataclass(frozen=True)
class Sent:
    """What became of a result; `there`: the archive has it now."""

    there: bool
    said: str


@contextlib.contextmanager
def fetched(address: Address, credentials: Credentials | None, warn: Warn) -> Iterator[Path]:
    """Fetches a series into a folder, which is removed afterwards, also by SIGTERM.

    An error within the block names the address in place of the folder.

    Args:
      address: of the series.
      credentials: None: the archive asks for none.
      warn: called with each doubt.

    Yields:
      The folder; its name is the Series Instance UID.

    Raises:
      ArchiveError: the series cannot be fetched, or not all of it.
      OSError: the temporary folder has no room.
    """
    with _ended_in_order(), tempfile.TemporaryDirectory(prefix="crlm_jax_") as temporary:
        folder = Path(temporary) / address.series
        folder.mkdir()
        session = Session(address, credentials, warn)
        client = connect(address, session)
        count = _fetch(client, session, address, folder)
        stated = _count(client, address)
        if stated is None:
            warn(f"{address}: the archive does not say how many objects this series has; see that "
                 f"the {count} fetched ones are all")  # fmt: skip
        elif count < stated:
            raise ArchiveError(
                f"{address}: {count} of {stated} objects came; if the series is still being sent "
                "to the archive, try again later"
            )
        try:
            yield folder
        except UserError as error:
            raise type(error)(str(error).replace(str(folder), str(address))) from error


@contextlib.contextmanager
def _ended_in_order() -> Iterator[None]:
    """Lets SIGTERM end the process by an exception, which removes what is temporary."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, lambda *_: sys.exit(EXIT_CODE))
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _fetch(client: DICOMwebClient, session: Session, address: Address, folder: Path) -> int:
    """Writes the instances of a series into a folder, one after the other; returns how many."""
    kinds = (("application/dicom", "*"),)  # as they are stored, nothing is decoded for us
    with told(address):
        instances = client.iter_series(address.study, address.series, media_types=kinds)
    uids: set[str] = set()
    while True:
        session.arrived = 0
        with told(address):
            instance = next(instances, None)
            if instance is None:
                break
            whose = (str(instance.StudyInstanceUID), str(instance.SeriesInstanceUID))
            uid = str(instance.SOPInstanceUID)
        if whose != (address.study, address.series) or uid in uids:
            what = "the same object twice" if uid in uids else "an object of another series"
            raise ArchiveError(f"{address}: the archive sends {what}; report it to its operator")
        uids.add(uid)
        with told(address):
            try:
                instance.save_as(folder / f"{len(uids):06d}.dcm", enforce_file_format=True)
            except OSError as error:
                raise OSError(
                    f"{folder.parent}: cannot be written ({error.strerror}); name a folder with "
                    "room for the series by TMPDIR"
                ) from error
    if not uids:
        raise ArchiveError(f"{address}: the archive sends nothing; correct the UIDs")
    return len(uids)


def _count(client: DICOMwebClient, address: Address) -> int | None:
    """Returns how many objects the archive says that a series has; None: it does not say it."""
    with told(address):
        try:
            found = client.search_for_series(
                address.study,
                fields=["NumberOfSeriesRelatedInstances"],
                search_filters={"SeriesInstanceUID": address.series},
            )
            for series in found:
                if series["0020000E"]["Value"] == [address.series]:
                    return int(series["00201209"]["Value"][0])
        except requests.HTTPError as error:
            if status(error) == 401:
                raise
        except (KeyError, IndexError, TypeError, ValueError):  # no DICOM in JSON
            pass
    return None


def send(files: list[Path], address: Address, credentials: Credentials | None) -> Iterator[Sent]:
    """Stores results, each by a request of its own; yields what became of each.

    Raises:
      ArchiveError: the archive cannot be reached, or does not let us in.
    """
    client = connect(address, Session(address, credentials, lambda text: None))
    for file in files:
        try:
            with told(address):
                became = _store(client, address, file)
        except ArchiveError as error:
            raise ArchiveError(
                f"{error}; {file} was not sent. It stays on this disk, and the same command sends "
                "it again as the same object"
            ) from error
        yield became


def _store(client: DICOMwebClient, address: Address, file: Path) -> Sent:
    try:
        answer = client.store_instances([pydicom.dcmread(file)])
    except requests.HTTPError as error:
        if error.response is None or status(error) != 409:
            raise
        answer = pydicom.Dataset()
        with contextlib.suppress(Exception):  # anything may stand there
            answer = pydicom.Dataset.from_json(error.response.json())
        if not answer.get("FailedSOPSequence"):
            return Sent(
                False,
                f"{address}: refuses {file} (409) and does not say why; it may have the object "
                "already, or allow none of its kind: look there",
            )
    for failed in answer.get("FailedSOPSequence") or ():  # one at most, as one was sent
        reason = failed.get("FailureReason") or 0
        if reason == _DUPLICATE:
            return Sent(True, f"{address}: has {file} already")
        said = _REASONS.get(reason, "its operator can look this reason up")
        return Sent(False, f"{address}: refuses {file} ({reason:04X}): {said}")
    return Sent(True, f"{address}: has {file} now")
