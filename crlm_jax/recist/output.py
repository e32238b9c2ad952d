"""What the command prints and writes: the lesions, the sums and the response at each follow-up."""

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from rich.table import Table

from crlm_jax.imaging.lesions import DISCLAIMER
from crlm_jax.recist.registration import Registration
from crlm_jax.recist.rules import UNPAIRED, Response, TimePoint, largest_first
from crlm_jax.system.files import write_whole
from crlm_jax.system.text import to_csv


@dataclasses.dataclass(frozen=True)
class FollowUp:
    """A follow-up scan and its response."""

    mask: Path
    point: TimePoint
    response: Response
    registration: Registration | None = None  # None: it was not asked for


def lesion_table(pre: TimePoint, post: TimePoint, response: Response) -> Table:
    """A row per lesion, with paired lesions side by side; diameters in mm."""
    table = Table(box=None, header_style="bold")
    table.add_column("lesion")
    for when in ("pre", "post"):
        for name in (when, "mm", "across", "slice", "mm³"):
            table.add_column(name, justify="right", no_wrap=True)
    partners = dict(response.pairs)
    for before in largest_first(pre):
        role = "target" if before in response.targets else "non-target"
        table.add_row(role, *_cells(pre, before), *_cells(post, partners.get(before)))
    unpaired = "" if response.paired == UNPAIRED else "fragment"
    for after in largest_first(post):
        if after not in partners.values():
            role = "new" if after in response.new else unpaired
            role += " in sum" * (after in response.counted)
            table.add_row(role.strip(), *_cells(pre, None), *_cells(post, after))
    return table


def _cells(point: TimePoint, index: int | None) -> list[str]:
    if index is None:
        return ["–", *[""] * 4]
    own = point.lesions[index]
    numbers = index + 1, f"{own.diameter:.1f}", f"{own.short_axis:.1f}", own.slice
    return [*map(str, numbers), f"{own.volume:.0f}"]


def summary_lines(pre: TimePoint, response: Response) -> list[str]:
    """Returns what is measurable, the changes, the response and its notes, a line each."""

    def change(before: float, after: float, percent: float | None, unit: str) -> str:
        share = "" if percent is None else f", {percent:+.1f} %"
        return f"{before:.1f} → {after:.1f} {unit} ({after - before:+.1f} {unit}{share})"

    r = response
    volume = change(r.volume_baseline, r.volume_follow_up, r.volume_change_percent, "mm³")
    over = change(r.smallest_sum, r.follow_up_sum, r.change_from_smallest_percent, "mm")
    return [
        _measurable_line(pre),
        f"sum of diameters: {change(r.baseline_sum, r.follow_up_sum, r.change_percent, 'mm')}",
        *([f"over the smallest sum: {over}"] if r.smallest_sum < r.baseline_sum else []),
        f"tumour volume: {volume}",
        f"response (RECIST 1.1): {r.category}; paired: {r.paired}",
        *(f"note: {note}" for note in r.notes),
    ]


def registration_line(found: Registration) -> str:
    """Returns how far a follow-up was moved, and how well it fits."""
    return (
        f"registered: shift {found.shift:.1f} mm (within the body: {found.breath:.1f} mm), "
        f"rotation {found.rotation:.1f}°; similarity {found.similarity_before:.2f} → "
        f"{found.similarity_after:.2f} (1 cm beside: {found.similarity_beside:.2f}); overlap "
        f"{found.overlap:.0%}; both ways agree to {found.agreement:.1f} mm"
    )


def _measurable_line(point: TimePoint) -> str:
    size = point.slice_spacing if point.slice_thickness is None else point.slice_thickness
    unknown = "; the thickness is not known" if point.slice_thickness is None else ""
    return (
        f"measurable: from {point.measurable_from:.1f} mm, by the {point.measurable_by} of "
        f"{size:g} mm{unknown}"
    )


def course_table(follow_ups: Sequence[FollowUp]) -> Table:
    """A row per time point; diameters in mm."""
    table = Table(box=None, header_style="bold")
    columns = ("time point", "sum, mm", "of baseline", "of smallest", "volume, mm³", "response")
    for name in columns:
        table.add_column(name, justify="left" if name == columns[0] else "right", no_wrap=True)
    first = follow_ups[0].response
    table.add_row("baseline", f"{first.baseline_sum:.1f}", "", "", f"{first.volume_baseline:.0f}")
    for number, each in enumerate(follow_ups, start=1):
        r = each.response
        shares = (r.change_percent, r.change_from_smallest_percent)
        table.add_row(
            f"follow-up {number}",
            f"{r.follow_up_sum:.1f}",
            *("–" if share is None else f"{share:+.1f} %" for share in shares),
            f"{r.volume_follow_up:.0f}",
            r.category,
        )
    return table


def write(path: Path, pre_mask: Path, pre: TimePoint, follow_ups: Sequence[FollowUp]) -> None:
    """Writes JSON with every lesion, or CSV with a row per follow-up.

    With one follow-up the JSON is one object; with several it lists them as `follow_ups`.
    """
    rows = [_values(pre_mask, pre, each, n) for n, each in enumerate(follow_ups, start=1)]
    if path.suffix == ".csv":
        cells = [
            {name: f"{x:.2f}" if isinstance(x, float) else x for name, x in row.items()}
            | {"notes": "; ".join(each.response.notes), "disclaimer": DISCLAIMER}
            for row, each in zip(rows, follow_ups, strict=True)
        ]
        write_whole(path, to_csv([cells[0].keys(), *(row.values() for row in cells)]))
        return
    about: dict[str, object] = {
        "disclaimer": DISCLAIMER,
        "units": "mm, mm³; lesions are numbered from 1, slices, rows and columns from 0",
        "time_point_pre": dataclasses.asdict(pre),
    }
    objects = [
        row | _lesion_numbers(each.response) | {"time_point_post": dataclasses.asdict(each.point)}
        for row, each in zip(rows, follow_ups, strict=True)
    ]
    several = {"pre": str(pre_mask), "follow_ups": objects}
    content = (objects[0] if len(objects) == 1 else several) | about
    write_whole(path, json.dumps(content, indent=2, ensure_ascii=False) + "\n")


def _values(pre_mask: Path, pre: TimePoint, post: FollowUp, number: int) -> dict[str, object]:
    """Returns the masks and single values of a follow-up, with their units."""
    units = dict.fromkeys(("baseline_sum", "follow_up_sum", "smallest_sum"), "_mm")
    units |= dict.fromkeys(("volume_baseline", "volume_follow_up"), "_mm3")
    values = dataclasses.asdict(post.response)
    row: dict[str, object] = {"pre": str(pre_mask), "post": str(post.mask)}
    row |= {k + units.get(k, ""): v for k, v in values.items() if not isinstance(v, tuple)}
    row |= {
        "measurable_by": pre.measurable_by,
        "measurable_from_mm": pre.measurable_from,
        "follow_up": number,
    }
    return row if post.registration is None else row | _registration_values(post.registration)


def _registration_values(found: Registration) -> dict[str, object]:
    return {
        "registration_shift_mm": found.shift,
        "registration_rotation_degrees": found.rotation,
        "registration_breath_mm": found.breath,
        "registration_similarity_before": found.similarity_before,
        "registration_similarity_after": found.similarity_after,
        "registration_similarity_beside": found.similarity_beside,
        "registration_overlap": found.overlap,
        "registration_agreement_mm": found.agreement,
        "registration_doubts": "; ".join(found.doubts),
    }


def _lesion_numbers(response: Response) -> dict[str, object]:
    names = ("targets", "counted", "pairs", "fragments", "new")
    numbers = {name: (np.array(getattr(response, name), int) + 1).tolist() for name in names}
    return numbers | {"notes": response.notes}
