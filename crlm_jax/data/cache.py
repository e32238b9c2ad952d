"""The folder of `data.cache`: where it is, and errors that name it where it cannot be written."""

import contextlib
import errno
import os
from collections.abc import Iterator
from pathlib import Path

from crlm_jax.errors import UserError
from crlm_jax.system.files import make_writable

_FULL = (errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC))  # Windows has no EDQUOT


def cache_folder(cache: str | Path, part: str) -> Path:
    """Returns the folder `part` of the cache as an absolute path; makes nothing.

    Raises:
      UserError: `cache` begins with `~` and this user has no home folder.
    """
    try:
        return Path(cache).expanduser().absolute() / part
    except RuntimeError as error:
        raise _error(cache, "is in a home folder, which this user does not have") from error


@contextlib.contextmanager
def writing_to(cache: str | Path, folder: Path) -> Iterator[None]:
    """Makes a folder of the cache for a block that writes to it.

    Raises:
      UserError: the folder cannot be made or written to, or its disk is full. Other errors of the
        block stay as they are.
    """
    try:
        make_writable(folder)
    except OSError as error:
        raise _error(cache, f"{folder} cannot be written ({error.strerror})") from error
    try:
        yield
    except (OSError, RuntimeError) as error:
        for code in _FULL:
            # ArrayRecord raises a RuntimeError that has the reason in its text.
            if getattr(error, "errno", None) == code or os.strerror(code) in str(error):
                raise _error(cache, f"{folder} cannot be written ({os.strerror(code)})") from error
        if isinstance(error, OSError) and str(folder) in str(error):  # from a writer of images
            raise _error(cache, f"{folder} cannot be written") from error
        raise


def _error(cache: str | Path, problem: str) -> UserError:
    return UserError(
        f"data.cache = {str(cache)!r}: {problem}; name a folder that you may write to, on a disk "
        "with room, by --config.data.cache"
    )
