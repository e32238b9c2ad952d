"""One training at a time in a run folder."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

import filelock

from crlm_jax.runs.folder import RunFolder, WorkdirError
from crlm_jax.system import parallel
from crlm_jax.system.files import in_bucket


class BusyError(WorkdirError):
    """Another process trains in the folder."""


@contextlib.contextmanager
def only_training(folder: RunFolder) -> Iterator[None]:
    """Locks a run folder against other trainings; makes the folder if need be.

    The system holds the lock, on the open file `.lock`, and gives it up however the process ends.
    Of several processes of one run only the main one locks. A bucket has no locks: nothing is
    checked there. A folder that was made here and is still empty is removed again.

    Raises:
      BusyError: another process trains in the folder.
      WorkdirError: the folder cannot be made or written to.
    """
    path = folder.path
    if in_bucket(path) or not parallel.is_main():
        yield
        return
    made = [each for each in (path, *path.parents) if not each.exists()]
    lock = filelock.FileLock(folder.lock)
    try:
        path.mkdir(parents=True, exist_ok=True)
        lock.acquire(timeout=0)
    except filelock.Timeout as error:
        raise BusyError(
            f"{path}: another training is writing to this folder; let it end, or give another "
            "--workdir"
        ) from error
    except OSError as error:
        _remove_empty(made)
        raise WorkdirError(
            f"{path}: cannot be written to ({error.strerror or error}); give another --workdir"
        ) from error
    try:
        yield
    finally:
        with contextlib.suppress(OSError):  # where an open file cannot be removed, it stays
            folder.lock.unlink(missing_ok=True)
        lock.release()
        _remove_empty(made)


def _remove_empty(folders: list[Path]) -> None:
    """Removes folders, the deepest first, up to one that holds something or is not there."""
    with contextlib.suppress(OSError):
        for folder in folders:
            folder.rmdir()
