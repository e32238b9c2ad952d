"""What a cohort file seems to say in words that are not read: a split, or a condition of CT."""

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
