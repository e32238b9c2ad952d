"""Tables and lists as text."""

import csv
import io
from collections.abc import Iterable, Sequence


def listed(names: Sequence[str], most: int) -> str:
    """Returns names joined by commas; of more than `most`, the first and how many more."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def to_csv(rows: Iterable[Iterable[object]]) -> str:
    """Returns rows of cells, the header first, as CSV."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue()


def to_markdown(header: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """Returns a table in Markdown, without a last line end."""
    header = list(header)
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(
        "| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines
    )
