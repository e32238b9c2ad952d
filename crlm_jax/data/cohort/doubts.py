"""What a cohort file says that is not read: a split, a condition of CT, columns of one's own."""

import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from crlm_jax.imaging.conditions import is_ct

_SPLIT = {"train", "training", "val", "valid", "validation", "test", "testing"}
# Words that begin or end with "ct" and are no CT.
_OTHER = re.compile(r"ctrl.*|.*(resect|dissect|intact|direct|tract|artefact|artifact|defect)")


def split_doubts(
    path: Path, names: Sequence[str], rows: Iterable[Sequence[str]], known: Sequence[str]
) -> list[str]:
    """Returns a line for each column that is not read, but whose cells are those of a split.

    There is none if a split is read.

    Args:
      path: of the file.
      names: of its columns, as they are written.
      rows: the cells below them.
      known: by column, its name if it is read, else empty.
    """
    columns: dict[int, set[str]] = {}
    for row in rows:
        for index, cell in enumerate(row[: len(names)]):
            if cell.strip():
                columns.setdefault(index, set()).add(cell.strip().casefold())
    if any(known[index] == "split" for index in columns):
        return []
    return [
        f"{path}, column {names[index].strip()!r}: looks like a split but is not read, and the "
        "split is drawn; if it is the split, rename the column to 'split'"
        for index, cells in sorted(columns.items())
        if not known[index] and cells <= _SPLIT
    ]


def unread_doubts(
    path: Path,
    names: Sequence[str],
    rows: Iterable[Sequence[str]],
    known: Sequence[str],
    of_split: Sequence[str],
) -> list[str]:
    """Returns a line that lists the columns which are not read, if any holds something.

    Args:
      path: as for `split_doubts`.
      names: as for `split_doubts`.
      rows: as for `split_doubts`.
      known: as for `split_doubts`.
      of_split: lines of `split_doubts`, whose columns are named there.
    """
    filled = {index for row in rows for index, cell in enumerate(row[: len(names)]) if cell.strip()}
    unread = [
        repr(names[index].strip())
        for index in sorted(filled)
        if not known[index]
        and not any(f"column {names[index].strip()!r}:" in line for line in of_split)
    ]
    if not unread:
        return []
    more = f" and {len(unread) - _SHOWN} more" * (len(unread) > _SHOWN)
    return [
        f"{path}: not read, since no column of a cohort is called so: {', '.join(unread[:_SHOWN])}"
        f"{more}; rename what should be read (docs/how-to/cohort.md lists the columns)"
    ]


_SHOWN = 12  # columns that a line names


def ct_doubts(path: Path, conditions: Iterable[str]) -> list[str]:
    """Returns a line for each condition that seems to be CT by its name, but is windowed as MRI."""
    return [
        f"{path}, column 'condition': {name!r} is windowed as MRI; if it is CT, name it 'ct' or "
        f"'{_as_ct(name)}'"
        for name in sorted(set(conditions))
        if not is_ct(name) and any(map(_is_ct_word, re.split(r"[_\d]+", name)))
    ]


def _is_ct_word(word: str) -> bool:
    return (word.startswith("ct") or word.endswith("ct")) and not _OTHER.fullmatch(word)


def _as_ct(name: str) -> str:
    rest = [part for part in re.sub(r"^ct(?=[a-z\d])", "ct_", name).split("_") if part != "ct"]
    return "_".join(["ct", *filter(None, rest)])
