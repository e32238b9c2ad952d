"""The b-values of a cohort's diffusion images: one condition should have one."""

from collections.abc import Sequence
from pathlib import Path

from crlm_jax.data.cohort.rows import ImageRow
from crlm_jax.imaging.bvals import find_bvals, only_b_value
from crlm_jax.imaging.dicom.diffusion import DEFAULT_B_VALUE
from crlm_jax.imaging.volumes import Volume

_SHOWN = 5  # rows that a warning names for each b-value


def b_value_of(row: ImageRow, volume: Volume) -> float | None:
    """Returns the b-value in s/mm² of the image that was read for a row; None: nothing says it."""
    if volume.series is not None:
        return volume.series.b_value
    if find_bvals(row.image) is None:
        return None
    if row.b_value is not None:
        return float(round(row.b_value))
    only = only_b_value(row.image)
    return float(DEFAULT_B_VALUE) if only is None else only


def b_value_warnings(path: Path, images: Sequence[tuple[ImageRow, float | None]]) -> list[str]:
    """Returns a line for each condition whose images have different b-values.

    Args:
      path: of the cohort file.
      images: the rows, and the b-value of each, or None.
    """
    found: dict[str, dict[float, list[int]]] = {}
    for row, b_value in images:
        if b_value is not None:
            found.setdefault(row.condition, {}).setdefault(b_value, []).append(row.row)
    return [
        f"{path}: condition {condition}: its images have different b-values: "
        + "; ".join(f"{b:g} s/mm² ({_rows(rows)})" for b, rows in sorted(by_value.items()))
        + "; a network sees them as one kind: choose one in the column b_value, or give each its "
        "own condition"
        for condition, by_value in sorted(found.items())
        if len(by_value) > 1
    ]


def _rows(rows: Sequence[int]) -> str:
    shown = ", ".join(map(str, rows[:_SHOWN])) + ", …" * (len(rows) > _SHOWN)
    return f"row{'s' * (len(rows) > 1)} {shown}"
