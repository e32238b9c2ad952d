"""Paths as cohort files spell them: of Windows, of a home folder, with variables of the system."""

import os
import re
import sys
import unicodedata
from collections.abc import Iterator
from pathlib import Path

# $NAME, ${NAME}, and %NAME% of Windows.
_VARIABLE = re.compile(r"\$(?:(?P<plain>[A-Za-z_]\w*)|\{(?P<braced>[^{}]+)\})|%(?P<windows>\w+)%")
_DRIVE = re.compile(r"[A-Za-z]:[\\/]|\\\\")  # and UNC, as \\server\share


def spelt_path(text: str, folder: Path) -> Path:
    """Returns the path that a cell means; the text as it stands wins if there is such a file.

    Otherwise `~` and variables are expanded, a backslash is a stroke, and accented letters may be
    written in either way of Unicode, as macOS and Windows differ in it.

    Args:
      text: of the cell, not empty.
      folder: that relative paths start from.

    Raises:
      ValueError: a variable or a home folder is not known here, or it is a path of Windows whose
        drive this system does not have. The message never shows the value of a variable.
    """
    if len(text) > 2 and text[0] == text[-1] and text[0] in "\"'":  # "Copy as path" of Windows
        text = text[1:-1].strip()
    path = folder / text
    if _is_there(path):
        return path
    wide = _expanded(text)
    if sys.platform != "win32":
        if _DRIVE.match(wide) and not _is_there(Path(wide)):
            raise ValueError(_of_windows(text, wide, folder))
        wide = wide.replace("\\", "/")
    found = (folder / form for form in _forms(wide))
    return next((path for path in found if _is_there(path)), folder / wide)


def _is_there(path: Path) -> bool:
    try:
        return path.exists()
    except (OSError, ValueError):  # a name that is too long, a folder that may not be looked into
        return False


def _expanded(text: str) -> str:
    def value(match: re.Match) -> str:
        name = match["plain"] or match["braced"] or match["windows"]
        if name not in os.environ:
            raise ValueError(
                f"the variable {match[0]} is not set here: {text}; set it, or write the path"
            )
        return os.environ[name]

    if text.startswith("~"):
        wide = os.path.expanduser(text.replace("\\", "/"))
        if wide.startswith("~"):
            user = re.split(r"[\\/]", text)[0]
            raise ValueError(f"there is no home folder {user} here: {text}; write the path")
        text = wide
    return _VARIABLE.sub(value, text)


def _forms(text: str) -> Iterator[str]:
    yield text
    for form in ("NFC", "NFD"):
        yield unicodedata.normalize(form, text)


def _of_windows(text: str, wide: str, folder: Path) -> str:
    """Says that a path is of Windows, and names the file that it may mean."""
    parts = [part for part in re.split(r"[\\/]+", wide) if part]
    places = ["/".join(parts[start:]) for start in range(1, len(parts))]
    if len(wide) > 1 and wide[1] == ":":
        places.append("/".join(["/mnt", parts[0][0].lower(), *parts[1:]]))  # as WSL mounts drives
    meant = next((place for place in places if _is_there(folder / place)), None)
    hint = f", such as {meant}" if meant else ""
    return (
        f"a path of Windows, whose drive or server is not here: {text}; write it relative to the "
        f"folder of the cohort file{hint}"
    )
