"""Files that appear whole or not at all."""

import contextlib
import os
import shutil
import tempfile
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path


def write_whole(path: Path, content: str | bytes) -> None:
    """Writes a file under a temporary name beside it, then renames it over `path`."""
    data = content.encode() if isinstance(content, str) else content
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
        umask = os.umask(0)
        os.umask(umask)
        os.chmod(temporary, 0o666 & ~umask)  # mkstemp makes it private
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise


@contextlib.contextmanager
def whole_folder(out: Path, check: Callable[[Path], None]) -> Iterator[Path]:
    """Gives a folder beside `out` to write to, which takes its place at the end, or goes.

    Args:
      out: new, or what may be replaced.
      check: raises where `out` holds what must not be lost; asked before and after the writing.
    """
    check(out)
    temporary, replaced = (out.with_name(f".{out.name}.{uuid.uuid4().hex}") for _ in range(2))
    try:
        temporary.mkdir(parents=True)
    except OSError as error:
        raise OSError(f"{out}: cannot be made ({error.strerror}); give another --out") from error
    try:
        yield temporary
        check(out)
        if out.exists():
            os.rename(out, replaced)
        os.rename(temporary, out)
    except BaseException:
        if replaced.exists() and not out.exists():
            os.rename(replaced, out)
        raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    shutil.rmtree(replaced, ignore_errors=True)
