"""Files and folders: where they are, whole or not at all, and what may be written over."""

import contextlib
import hashlib
import importlib.util
import itertools
import os
import re
import shutil
import tempfile
import time
import unicodedata
import uuid
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import fsspec
from etils import epath

from crlm_jax.errors import UserError

# Names that Windows takes for devices, whatever ending follows.
DEVICE = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\..*)?", re.IGNORECASE | re.DOTALL)
ADDRESS = re.compile("([a-z0-9]{2,}):/+")  # of a store; pathlib leaves one stroke of the two
_PARTIAL = ".partial"  # ending of the temporary folders of `whole_folder`
_LONG = 120  # bytes of a name: file systems take 255, and endings and numbers come after it


def own_names(texts: Iterable[str]) -> list[str]:
    """Makes a file name, still without its ending, of each text: safe, and unlike the others.

    Whatever a text says (`../../etc/x`, `C:\\x`, `nul`, a line break, 5000 letters), its name is a
    file of the folder that it is put in, on every system: letters, digits, `_`, `.` and `-`, no
    dot first. Names also differ where upper and lower case or ways of writing a letter do not
    count.
    """
    taken: set[str] = set()
    names = []
    for text in texts:
        stem = _safe(text)
        numbered = (f"{stem}_{number}" for number in itertools.count(2))
        name = next(n for n in itertools.chain([stem], numbered) if _alike(n) not in taken)
        taken.add(_alike(name))
        names.append(name)
    return names


def _safe(text: str) -> str:
    name = re.sub(r"[^\w.-]", "_", unicodedata.normalize("NFC", text)).strip(".") or "_"
    if DEVICE.fullmatch(name):
        name = f"_{name}"
    if len(name.encode()) > _LONG:
        digest = hashlib.sha256(text.encode(errors="surrogatepass")).hexdigest()[:12]
        name = f"{name.encode()[: _LONG - 13].decode(errors='ignore')}-{digest}"
    return name


def _alike(name: str) -> str:
    return unicodedata.normalize("NFKC", name).casefold()


def locate(path: str | Path) -> Path:
    """Returns a path that can be used as it is: of this machine, or of a bucket (`gs://`).

    Raises:
      OSError: it is of another kind of store, or the bucket is not there or cannot be reached.
    """
    scheme = ADDRESS.match(str(path))
    if not scheme:
        return Path(path)
    address = f"{scheme[1]}://{str(path)[scheme.end() :]}"
    if scheme[1] != "gs":
        raise OSError(f"{address}: only gs:// is understood; mount the store and give its folder")
    if importlib.util.find_spec("gcsfs") is None:
        raise OSError(f"{address}: needs gcsfs; pip install 'crlm_jax[gcs]'")
    # Other processes write there too: what was once listed is asked for again.
    fsspec.config.conf.setdefault("gcs", {})["use_listings_cache"] = False
    bucket = address.split("/")[2]
    try:
        there = bool(bucket) and epath.Path(f"gs://{bucket}").exists()
    except Exception as error:  # of gcsfs, aiohttp and Google's authentication
        raise OSError(f"{address}: the bucket cannot be reached ({error})") from error
    if not there:
        raise OSError(
            f"{address}: no bucket {bucket!r} is there, or none that this account may see"
        )
    return epath.Path(address)


def in_bucket(path: Path) -> bool:
    """Whether a path that `locate` returned is of a bucket."""
    return not isinstance(path, Path)


@contextlib.contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """Yields a temporary path beside `path` to write to; then renames that file over `path`.

    The temporary name has the same ending in lower case, by which writers of images choose a
    format. If the block raises, `path` stays as it was.
    """
    endings = path.suffixes[-2:] if path.suffix.lower() == ".gz" else [path.suffix]
    temporary = path.with_name(f".{uuid.uuid4().hex}{''.join(endings).lower()}")
    try:
        yield temporary
        os.replace(temporary, path)
    except OSError as error:
        if error.filename == str(temporary):  # the user knows the file by its own name
            error.filename = str(path)
        raise
    finally:
        temporary.unlink(missing_ok=True)


def write_whole(path: Path, content: str | bytes) -> None:
    """Writes a file under a temporary name beside it, then renames it over `path`."""
    data = content.encode() if isinstance(content, str) else content
    if in_bucket(path):  # a bucket shows a file only when all of it has arrived
        path.write_bytes(data)
        return
    with whole_file(path) as temporary:
        temporary.write_bytes(data)


def append(path: Path, text: str) -> None:
    """Adds to the end of a file; one in a bucket, which cannot grow, is written anew."""
    if in_bucket(path):
        path.write_text(path.read_text() + text)
        return
    with path.open("a", encoding="utf-8") as file:
        file.write(text)


def check_new(out: Path, force: bool) -> None:
    """Raises UserError if the folder is absent, or the file exists and `force` is false."""
    if not out.parent.is_dir():
        raise UserError(f"--out {out}: there is no folder {out.parent}; make it, or correct it")
    if out.exists() and not force:
        raise UserError(f"--out {out}: is there already; name another, or --force to replace it")


def check_folder(out: Path, ours: str, mark: str) -> None:
    """Raises UserError unless a folder is new, empty or of an earlier run; changes nothing.

    Args:
      out: the folder.
      ours: pattern (a regular expression) of the names that a run leaves.
      mark: the name that is there after every run.
    """
    if not out.exists():
        return
    names = sorted(path.name for path in out.iterdir()) if out.is_dir() else ["a file"]
    others = [name for name in names if not re.fullmatch(ours, name)]
    if others or (names and mark not in names):
        found = ", ".join((others or names)[:3])
        raise UserError(f"{out} holds something else ({found}); give another --out")


def make_writable(folder: Path) -> None:
    """Makes a folder if it is absent, and writes to it once: its disk may be mounted read-only.

    Raises:
      OSError: the folder cannot be made, or no file can be written in it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=folder):
        pass


@contextlib.contextmanager
def whole_folder(out: Path, check: Callable[[Path], bool | None]) -> Iterator[Path]:
    """Yields a temporary folder beside `out` to write to; then renames that folder to `out`.

    If the block raises, `out` stays as it was and the temporary folder is removed. A process that
    is killed leaves the temporary folder behind, for `clear_partial`.

    Args:
      out: absent, empty, or a folder that may be replaced.
      check: asked before and after the writing. It raises if `out` holds what must not be lost, and
        returns True if `out` already holds what is being written, because another process was
        faster: `out` is then kept.
    """
    check(out)
    temporary = out.with_name(f".{out.name}.{uuid.uuid4().hex}{_PARTIAL}")
    replaced = temporary.with_suffix(".replaced")
    try:
        temporary.mkdir(parents=True)
    except OSError as error:
        raise UserError(f"{out}: cannot be made ({error.strerror}); give another --out") from error
    try:
        yield temporary
        if check(out):
            return
        try:
            os.rename(temporary, out)
        except OSError:  # `out` holds files, perhaps since a moment ago
            if check(out):
                return
            os.rename(out, replaced)
            os.rename(temporary, out)
    except BaseException:
        if replaced.exists() and not out.exists():
            os.rename(replaced, out)
        raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    shutil.rmtree(replaced, ignore_errors=True)


def clear_partial(folder: Path, seconds: float = 0.0) -> None:
    """Removes the temporary folders that killed processes left in `folder` (`whole_folder`).

    Args:
      folder: where `whole_folder` wrote.
      seconds: age below which a temporary folder stays, since a process may still be writing to it.
    """
    for left in folder.glob(f".*{_PARTIAL}"):
        with contextlib.suppress(OSError):  # another process removes it too
            if time.time() - left.stat().st_mtime >= seconds:
                shutil.rmtree(left)
