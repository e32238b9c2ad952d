"""The files of a mask: one, several joined by `|`, or those that fit a pattern."""

import glob
from collections.abc import Callable, Sequence
from pathlib import Path

from crlm_jax.imaging.dicom.files import is_hidden

JOINED = "|"


def _below(text: str, folder: Path) -> Path:
    return folder / text


def split_masks(
    text: str, folder: Path = Path(), spell: Callable[[str, Path], Path] = _below
) -> tuple[Path, ...]:
    """Returns the files of a mask.

    Args:
      text: paths joined by ``|``; each may be a pattern with ``*``, ``?`` or ``[``, which stands
        for all files that fit it, hidden ones left out. The name of a file that exists is no
        pattern.
      folder: that paths are relative to.
      spell: returns the path that a text means from the folder.

    Returns:
      The paths, each once, in the order of the text and those of a pattern by name. A pattern that
      no file fits stays as it is, so that whoever opens it says that it is not found.
    """
    if _exists(folder / text):
        return (folder / text,)
    found: dict[Path, None] = {}
    for part in filter(None, map(str.strip, text.split(JOINED))):
        path = spell(part, folder)
        fits = sorted(p for p in _fitting(path, folder) if p.is_file() and not is_hidden(p.name))
        found |= dict.fromkeys(fits or [path])
    return tuple(found) or (folder / text,)


def _fitting(path: Path, folder: Path) -> list[Path]:
    """Returns the files that fit a pattern; the names of the folder itself are no patterns."""
    pattern, start = str(path), ""
    if path.is_relative_to(folder):
        pattern, start = str(path.relative_to(folder)), glob.escape(str(folder)) + "/"
    if _exists(path) or not glob.has_magic(pattern):
        return []
    return [Path(name) for name in glob.glob(start + pattern)]


def name_masks(paths: Sequence[Path]) -> str:
    """Names the files of a mask for a message."""
    more = f" (and {len(paths) - 1} more)" if len(paths) > 1 else ""
    return f"{paths[0]}{more}" if paths else "no mask"


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except OSError:  # a name that is too long
        return False
