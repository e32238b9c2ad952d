"""Files beside DICOM that may be slices cut off before anything says that they are DICOM.

A slice at the end of a stack leaves no gap if it is lost, so that nothing else would tell of it.
"""

import re
from collections.abc import Sequence
from pathlib import Path

from crlm_jax.imaging.geometry import VolumeError

_HEAD = 132  # bytes: up to where DICOM's mark ends
_SHOWN = 5  # files that a message names


def like_slices(others: Sequence[Path], dicom: Sequence[Path]) -> list[Path]:
    """Returns the files that are named like DICOM files of their folder, but for numbers.

    Args:
      others: files that are not DICOM.
      dicom: the DICOM files.
    """
    names = {(file.parent, _pattern(file.name)) for file in dicom}
    return [file for file in others if (file.parent, _pattern(file.name)) in names]


def _pattern(name: str) -> str:
    return re.sub(r"\d+", "#", name.lower())


def check_no_cut_slice(others: Sequence[Path], dicom: Sequence[Path]) -> None:
    """Raises VolumeError if a file is named like the DICOM files beside it, as `like_slices`."""
    if lost := like_slices(others, dicom):
        more = f" (and {len(lost) - 1} more)" * (len(lost) > 1)
        raise VolumeError(
            f"{lost[0]}{more}: not a DICOM file, though named like the slices beside it, so that "
            "it may be a slice that is empty, cut off or damaged; copy it again or remove it"
        )


def empty_doubts(others: Sequence[Path], dicom: Sequence[Path]) -> tuple[str, ...]:
    """Says that files beside a series are empty or hold zeros, whatever their names.

    Files whose ending says that they are something else are none of them.
    """
    endings = {_ending(file) for file in dicom} | {""}
    empty = [file.name for file in others if _ending(file) in endings and _is_blank(file)]
    if not empty:
        return ()
    more = f" and {len(empty) - _SHOWN} more" * (len(empty) > _SHOWN)
    return (
        f"beside it lie {len(empty)} file(s) that are empty or hold zeros alone "
        f"({', '.join(empty[:_SHOWN])}{more}); if one was a slice, copy it again",
    )


def _ending(file: Path) -> str:
    """The ending in lower case; empty for none, and for the last number of a UID."""
    ending = file.suffix.lower()
    return "" if ending[1:].isdigit() else ending


def _is_blank(file: Path) -> bool:
    with file.open("rb") as stream:
        return not stream.read(_HEAD).strip(b"\0")
