"""Which segments of a mask are tumour, where the file names them.

A DICOM-SEG, a `.seg.nrrd` of 3D Slicer and an RTSTRUCT name what they hold. A pattern chooses
among these names; nothing else is guessed from them.
"""

import fnmatch
import re
from collections.abc import Hashable, Mapping
from pathlib import Path
from typing import TypeVar

from crlm_jax.imaging.geometry import VolumeError

TUMOUR_LABELS = "Tumor*"  # the segments that are tumour, unless the user chooses others …
_BRITISH = "tumour*"  # … and these
EACH_LABEL = "lesions"  # a mask's label that says: every label, or segment, is a lesion
_LISTED = 20  # the most names that a message lists
_UNNAMED = re.compile(r"segment([_ -]?\d+)?", re.IGNORECASE)  # what 3D Slicer calls a segment
_Key = TypeVar("_Key", bound=Hashable)


def choose_segments(
    path: Path,
    names: Mapping[_Key, str],
    label: int | str | None,
    kind: str = "segment",
    values: Mapping[_Key, int] | None = None,
) -> list[_Key]:
    """Chooses the segments that are tumour.

    Args:
      path: of the mask, for messages.
      names: of the segments.
      label: names, or patterns as for file names (``*``, ``?``), separated by commas, where upper
        and lower case are equal; what is a name is no pattern; `EACH_LABEL`: all; a number: the
        segment of that name or value; None: `TUMOUR_LABELS`, or the only segment if it has no name
        of its own.
      kind: what a segment is called.
      values: the label values of the segments, where the file has them.

    Returns:
      Keys of `names`, in their order.

    Raises:
      VolumeError: no segment is meant, or a number means several; the message lists the names.
    """
    patterns = [part.strip().lower() for part in str(label or TUMOUR_LABELS).split(",")]
    patterns += [_BRITISH] if label is None else []
    lower = {key: name.strip().lower() for key, name in names.items()}
    if (whole := str(label or "").strip().lower()) in lower.values():  # a name with a comma
        patterns = [whole]
    exact = set(patterns).intersection(lower.values())  # such a name is no pattern: "Met [1]"
    chosen = [
        key
        for key, name in lower.items()
        if name and (name in exact or any(_fits(name, p) for p in patterns if p not in exact))
    ]
    if chosen:
        return chosen
    if label is None and len(names) == 1 and _UNNAMED.fullmatch(next(iter(names.values())).strip()):
        return list(names)
    if str(label).strip().lower() == EACH_LABEL:
        return list(names)
    if values is not None and str(label).strip().isdecimal():
        chosen = [key for key in names if values[key] == int(str(label))]
        if len(chosen) == 1:
            return chosen
    several = "several segments have" if chosen else f"no {kind} is labelled"
    raise VolumeError(
        f"{path}: {several} {str(label or TUMOUR_LABELS)!r}; its labels are {_listed(names)}: "
        f"choose those that are tumour, by a pattern such as 'GTV*', or '{EACH_LABEL}' if each is "
        "a lesion"
    )


def _fits(name: str, pattern: str) -> bool:
    return bool(pattern) and fnmatch.fnmatchcase(name, pattern)


def _listed(names: Mapping[_Key, str]) -> str:
    shown = [repr(name) for name in names.values()]
    more = f", … ({len(shown)} in all)" if len(shown) > _LISTED else ""
    return (", ".join(shown[:_LISTED]) + more) or "none"
