"""The node's queue on disk: images that arrive, series that wait, results that are sent.

A series is a folder, and its state is the folder above it; a state changes by renaming. What is
promised to a sender or an archive is on the disk (fsync) before it is promised, so that a node that
is killed goes on where it was. No name of a file or folder says anything of a patient: UIDs are
hashed.

    partial/               objects that are being written; emptied at every start
    open/SERIES/           images of a series that may still grow
    queue/JOB/             a complete series, waiting to be segmented
    answered/JOB/          with `results/`, waiting to be sent
    done/JOB/, failed/JOB/ kept for a while, for images that come late and series that come again
"""

import contextlib
import dataclasses
import datetime
import filecmp
import hashlib
import itertools
import os
import shutil
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import filelock

from crlm_jax.errors import UserError
from crlm_jax.serve.disk import folders, link, rename, sync
from crlm_jax.serve.journal import say

_STATES = ("queue", "answered", "done", "failed")
_WAITING = ("open", "queue", "answered")  # what counts as the queue's length
_CLOSED, _BROKEN = "closed", "broken"  # marks in an open folder
_TIME = "%Y%m%dT%H%M%S%f"  # at the beginning of a job's name, UTC
_MAKER = "maker"  # file of a job: what made its results
_AGAIN = "again"  # mark of an answered job, which is computed again after it was sent
RESULTS = "results"


class Full(Exception):
    """An image cannot be taken now; the message says why, in a few words."""


@dataclasses.dataclass
class _Arrival:
    """What is known of an open series beside its files."""

    touched: float  # when something last happened to it, in seconds of the clock
    senders: set[int] = dataclasses.field(default_factory=set)  # associations that send it
    broken: int = 0  # only an association of a higher number can still complete it; 0: any
    closed: bool = False  # an association that sent it was released; False: this process knows none


@dataclasses.dataclass(frozen=True)
class Limits:
    """How much is taken, and how long a series may rest before it counts as complete."""

    series: int = 500  # open and waiting
    room: int = 2 << 30  # bytes of the disk that stay free
    quiet: float = 30.0  # seconds after the last association was released
    interrupted: float = 600.0  # seconds after a restart, if the node was killed in between
    keep: float = 24 * 3600.0  # seconds for what is done, failed or was never completed


class Spool:
    """The folders of one node; all methods may be called from any thread.

    `maker` is a print of what makes results now; those of the same images and maker are the same.

    Raises:
      UserError: another node uses the folder.
      OSError: it cannot be written to.
    """

    def __init__(
        self,
        folder: Path,
        limits: Limits | None = None,
        clock: Callable[[], float] = time.monotonic,
    ):
        self.folder, self.limits, self._clock = folder, limits or Limits(), clock
        self._lock = threading.RLock()
        self._numbers = itertools.count(1)
        self.maker = ""
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._own = filelock.FileLock(folder / "lock")
        try:
            self._own.acquire(timeout=0)
        except filelock.Timeout as error:
            raise UserError(
                f"--spool {folder}: another node uses this folder; stop it, or give another folder"
            ) from error
        shutil.rmtree(folder / "partial", ignore_errors=True)
        for name in ("partial", "open", *_STATES):
            (folder / name).mkdir(mode=0o700, exist_ok=True)
        sync(folder)
        self._arrivals = {path.name: self._found(path) for path in folders(folder / "open")}
        self._drop_superseded()
        for job in self.jobs("queue"):
            shutil.rmtree(job / RESULTS, ignore_errors=True)  # of a job that did not end

    def close(self) -> None:
        """Lets another node use the folder."""
        self._own.release()

    def _found(self, path: Path) -> _Arrival:
        """Returns what the marks of an earlier process say of a series."""
        broken = next(self._numbers) if (path / _BROKEN).exists() else 0
        return _Arrival(self._clock(), broken=broken, closed=(path / _CLOSED).exists())

    # Images arrive

    def begin(self) -> int:
        """Returns the number of a new association."""
        with self._lock:
            return next(self._numbers)

    @contextlib.contextmanager
    def partial(self, size: int) -> Iterator[Path]:
        """Yields a path to write an object of so many bytes to, for `take`; removes it if it stays.

        Raises:
          Full: the disk has no room for it.
        """
        if shutil.disk_usage(self.folder).free - size < self.limits.room:
            raise Full("no room on the disk")
        path = self.folder / "partial" / f"{uuid.uuid4().hex}.dcm"
        try:
            yield path
        finally:
            path.unlink(missing_ok=True)

    def take(self, path: Path, series: str, instance: str, association: int) -> None:
        """Makes a written object part of its series; when this returns, it is safe on the disk.

        Args:
          path: from `partial`.
          series: Series Instance UID.
          instance: SOP Instance UID; an object of the same UID is replaced.
          association: that sends it.

        Raises:
          Full: too many series wait.
        """
        sync(path)
        name = hashed(series)
        folder = self.folder / "open" / name
        with self._lock:
            arrival = self._arrivals.get(name)
            if arrival is None:
                if sum(len(folders(self.folder / each)) for each in _WAITING) >= (
                    self.limits.series
                ):
                    raise Full("the queue is full")
                folder.mkdir(mode=0o700, exist_ok=True)
                sync(folder.parent)
                arrival = self._arrivals[name] = _Arrival(self._clock())
            (folder / _CLOSED).unlink(missing_ok=True)
            arrival.senders.add(association)
            arrival.touched, arrival.closed = self._clock(), False
            os.replace(path, folder / f"{hashed(instance)}.dcm")
            sync(folder)

    def end(self, association: int, released: bool) -> None:
        """Notes that an association is over.

        A series whose association was not released was broken off: only another association, which
        begins after that and is released, can complete it.
        """
        with self._lock:
            for name, arrival in self._arrivals.items():
                if association not in arrival.senders:
                    continue
                arrival.senders.discard(association)
                arrival.touched = self._clock()
                if not released:
                    arrival.broken = next(self._numbers)
                    count = len(list((self.folder / "open" / name).glob("*.dcm")))
                    say(f"broken off: {name} after {count} image(s); waits for its sender")
                elif association > arrival.broken:
                    arrival.broken = 0
                if not arrival.senders:
                    arrival.closed = not arrival.broken
                    self._mark(self.folder / "open" / name, bool(arrival.broken))

    @staticmethod
    def _mark(folder: Path, broken: bool) -> None:
        for mark, there in ((_CLOSED, not broken), (_BROKEN, broken)):
            if there:
                (folder / mark).touch()
            else:
                (folder / mark).unlink(missing_ok=True)
        sync(folder)

    # Series become jobs

    def collect(self) -> None:
        """Puts the series that are complete into the queue."""
        with self._lock:
            now = self._clock()
            for name, arrival in list(self._arrivals.items()):
                limit = self.limits.quiet if arrival.closed else self.limits.interrupted
                if arrival.senders or arrival.broken or now - arrival.touched < limit:
                    continue
                if not arrival.closed:
                    say(f"taken as complete: {name}, whose sender never came back")
                del self._arrivals[name]
                self._enqueue(name)

    def _enqueue(self, name: str) -> None:
        """Makes a job of an open series, together with the images that came before."""
        folder = self.folder / "open" / name
        new = {path.name for path in folder.glob("*.dcm")}
        found = [job for state in _STATES for job in self.jobs(state) if f"-{name}-" in job.name]
        earlier = sorted(found, key=lambda job: job.name, reverse=True)
        for job in earlier:  # the last first: its images count where UIDs came more than once
            for image in job.glob("*.dcm"):
                if not (folder / image.name).exists():
                    link(image, folder / image.name)
        images = sorted(path.name for path in folder.glob("*.dcm"))
        digest = hashed("\n".join(images))
        same = next((job for job in earlier if job.name.endswith(digest)), None)
        # An archive that corrects a header, such as a patient's name, need not change the UID.
        changed = [each for each in new if same and not _alike(folder / each, same / each)]
        if same and not changed:
            self._again(same)
            shutil.rmtree(folder)
            return
        for mark in (_CLOSED, _BROKEN):
            (folder / mark).unlink(missing_ok=True)
        sync(folder)
        now = datetime.datetime.now(datetime.UTC)
        job = self.folder / "queue" / f"{now.strftime(_TIME)}-{name}-{digest}"
        rename(folder, job)
        late = f", {len(new)} of them after {len(earlier)} answer(s)" if earlier else ""
        late += f", {len(changed)} with another content under the same UID" if changed else ""
        say(f"complete: {short(job)}, {len(images)} image(s){late}")
        self._drop_superseded()

    def _drop_superseded(self) -> None:
        """Removes jobs that were not begun and whose images a later job of the series has too."""
        newest = {job.name.split("-")[1]: job for job in self.jobs("queue")}
        for job in self.jobs("queue"):
            if job not in newest.values():
                shutil.rmtree(job)

    def _again(self, job: Path) -> None:
        """Answers a series that came once more with the same images."""
        state, told = job.parent.name, f"came again: {short(job)}"
        maker = job / _MAKER
        same = maker.exists() and maker.read_text(encoding="utf-8") == self.maker
        # An older version of the node did not note what made a result.
        other = f"its result {'is' if maker.exists() else 'may be'} of another run, setting or rule"
        if state == "queue" or (state == "answered" and same):
            say(f"{told}, which is {state}")
        elif state == "answered":  # perhaps it is just being sent
            (job / _AGAIN).touch()
            sync(job)
            say(f"{told}; {other}, and is computed again when that is sent")
        elif state == "done" and same and (job / RESULTS).is_dir():
            self.move(job, "answered")
            say(f"{told}; the same result is sent again")
        else:
            has_result = state == "done" and (job / RESULTS).is_dir()
            self._requeue(job)
            say(f"{told}; {f'{other}, and is computed again' if has_result else 'is tried again'}")

    def _requeue(self, job: Path) -> None:
        """Lets a job be computed again."""
        job = self.move(job, "queue")
        (job / _AGAIN).unlink(missing_ok=True)
        shutil.rmtree(job / RESULTS, ignore_errors=True)  # other settings may write other files

    def jobs(self, state: str) -> list[Path]:
        """Lists the jobs of a state, the oldest first."""
        return sorted(folders(self.folder / state))

    def move(self, job: Path, state: str) -> Path:
        """Puts a job into another state; returns its new folder."""
        with self._lock:
            target = self.folder / state / job.name
            rename(job, target)
            os.utime(target)  # since when it is kept
            return target

    def put_results(self, job: Path) -> None:
        """Makes the results of a job safe on the disk, and lets them be sent."""
        (job / _MAKER).write_text(self.maker, encoding="utf-8")
        for path in (*(job / RESULTS).iterdir(), job / _MAKER):
            sync(path)
        sync(job / RESULTS)
        sync(job)
        self.move(job, "answered")

    def settle(self, job: Path, state: str) -> None:
        """Ends the sending of a job: it is done or failed, or to be computed again."""
        with self._lock:
            if (job / _AGAIN).exists():
                self._requeue(job)
            else:
                self.move(job, state)

    def clean(self) -> None:
        """Removes what was kept long enough."""
        old = time.time() - self.limits.keep
        with self._lock:
            for state in ("done", "failed"):
                for job in self.jobs(state):
                    if job.stat().st_mtime < old:
                        shutil.rmtree(job, ignore_errors=True)
            for name, arrival in list(self._arrivals.items()):
                folder = self.folder / "open" / name
                if not arrival.senders and arrival.broken and folder.stat().st_mtime < old:
                    del self._arrivals[name]
                    shutil.rmtree(folder, ignore_errors=True)
                    say(f"removed: {name}, which was broken off and never completed")


def hashed(text: str) -> str:
    """Returns a name for a UID that says nothing of it: 32 digits and letters."""
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def short(job: Path) -> str:
    """Returns the name of a job for a line: the first letters of its series and of its images."""
    _, series, images = job.name.split("-")
    return f"{series[:12]}-{images[:6]}"


def completed(job: Path) -> datetime.datetime:
    """Returns the local time at which a job's series was complete; its results carry that time."""
    told = datetime.datetime.strptime(job.name.split("-")[0], _TIME)
    return told.replace(tzinfo=datetime.UTC).astimezone()


def _alike(image: Path, other: Path) -> bool:
    return filecmp.cmp(image, other, shallow=False)
