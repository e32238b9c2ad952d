"""Writes `cohort.csv`, and only what its reader accepts."""

import collections
import os
import uuid
from collections.abc import Sequence
from pathlib import Path

from crlm_jax.data.cohort import patterns
from crlm_jax.data.cohort.rows import REQUIRED, CohortError, Row, read_rows
from crlm_jax.system.files import write_whole
from crlm_jax.system.text import to_csv


def write_cohort(out: Path, entries: Sequence[patterns.Entry]) -> list[Row]:
    """Writes a cohort file, replacing what was there only once it has passed all row checks.

    Args:
      out: the file; images and masks are written relative to its folder.
      entries: the rows, in the order to be written.

    Returns:
      The rows as read back.

    Raises:
      CohortError: listing what is wrong; `out` is as it was.
    """
    if not entries:
        raise CohortError("no image has a mask; nothing is written")
    spellings = collections.defaultdict(set)
    for entry in entries:
        spellings[entry.patient.casefold()].add(entry.patient)
    if alike := [sorted(names) for names in spellings.values() if len(names) > 1]:
        raise CohortError(
            f"patients that differ in upper and lower case only: {', '.join(alike[0])}; rename the "
            "files, for the split takes them for different patients"
        )
    table: list[tuple] = [(*REQUIRED, "mask_label", "split")]
    for entry in entries:
        image, mask = (_relative(file, out.parent) for file in (entry.image, entry.mask))
        table.append((entry.patient, entry.condition, image, mask, entry.mask_label, entry.split))
    draft = out.with_name(f".{out.name}.draft-{uuid.uuid4().hex[:8]}")
    try:
        write_whole(draft, to_csv(table))
        rows, problems = read_rows(draft)
        if problems:
            raise CohortError("\n".join(problems).replace(str(draft), f"{out} (not written)"))
        draft.replace(out)
    finally:
        draft.unlink(missing_ok=True)
    return rows


def _relative(file: Path, folder: Path) -> str:
    """The path as seen from a folder; links among the folders are followed, or ".." would err."""
    return os.path.relpath(file.parent.resolve() / file.name, folder.resolve())
