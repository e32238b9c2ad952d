"""Writes a `cohort.csv` that its reader accepts, or none."""

import collections
import os
from collections.abc import Sequence
from pathlib import Path

from crlm_jax.data.cohort.cells import REQUIRED
from crlm_jax.data.cohort.patterns import Entry
from crlm_jax.data.cohort.rows import CohortError, Row, read_rows
from crlm_jax.system.files import whole_file
from crlm_jax.system.text import to_csv


def write_cohort(out: Path, entries: Sequence[Entry]) -> list[Row]:
    """Writes a cohort file; a file that was there is replaced only if the rows pass all checks.

    Args:
      out: the file; paths of images and masks are written relative to its folder.
      entries: the rows, in the order to be written.

    Returns:
      The rows as read back.

    Raises:
      CohortError: listing all problems; `out` is not changed.
    """
    if not entries:
        raise CohortError("no image has a mask; nothing is written")
    spellings = collections.defaultdict(set)
    for entry in entries:
        spellings[entry.patient.casefold()].add(entry.patient)
    if alike := [sorted(names) for names in spellings.values() if len(names) > 1]:
        raise CohortError(
            f"patients that differ in upper and lower case only: {', '.join(alike[0])}; rename the "
            "files, since the split takes them for different patients"
        )
    with_liver = any(entry.liver for entry in entries)
    table: list[tuple] = [(*REQUIRED, "mask_label", "split", *["liver"] * with_liver)]
    for entry in entries:
        image, mask = (_relative(file, out.parent) for file in (entry.image, entry.mask))
        cells = (entry.patient, entry.condition, image, mask, entry.mask_label, entry.split)
        liver = _relative(entry.liver, out.parent) if entry.liver else ""
        table.append((*cells, *[liver] * with_liver))
    with whole_file(out) as draft:
        draft.write_bytes(to_csv(table).encode())
        rows, problems = read_rows(draft)
        if problems:
            raise CohortError("\n".join(problems).replace(str(draft), f"{out} (not written)"))
    return rows


def _relative(file: Path, folder: Path) -> str:
    """The path as seen from a folder; links are followed first, since ".." may not undo a link."""
    return os.path.relpath(file.parent.resolve() / file.name, folder.resolve())
