"""Response to chemotherapy by RECIST 1.1, from the lesions of two masks.

    python -m crlm_jax.recist --pre pre_mask.nii.gz --post post_mask.nii.gz
    python -m crlm_jax.recist --pre pre.dcm --pre-image dicom/pre --post post.dcm \\
        --post-image dicom/post --out response.json

Rules and section numbers are those of Eisenhauer et al., "New response evaluation criteria in solid
tumours: revised RECIST guideline (version 1.1)", Eur J Cancer 45:228, 2009, for the liver alone:

- Measurable (3.1): longest diameter ≥ 10 mm and ≥ 2 × slice spacing. RECIST asks twice the slice
  thickness beyond 5 mm; up to 5 mm both are the same rule. Slice spacing is what an image states.
- Targets (4.2): the two largest measurable lesions at baseline, the most that an organ may have.
- Their sum at follow-up (4.3.2): what is measured, however small; 0 for one that vanished; where
  one split, its fragments together; where two merged, the one that they became.
- CR: no lesion is left, target or not. PD: the sum is ≥ 20 % and ≥ 5 mm larger, or there is a new
  lesion. PR: the sum is ≥ 30 % smaller; also −100 % while a non-target lesion is left (4.4, table
  1). SD: else. NE: nothing was measurable at baseline, whatever is new since. With two time points
  the baseline is the smallest sum before the follow-up.

What takes a reader is left to one: whether a new lesion is unequivocal (any counts here), whether
non-target lesions unequivocally progress (never counted here), and disease outside the masks.
"""

import argparse
import dataclasses
import json
import math
import sys
from pathlib import Path

import numpy as np
from rich.table import Table

from crlm_jax import lesions
from crlm_jax.commands import local_path, print_table, tell
from crlm_jax.data import dicom, volumes
from crlm_jax.data.geometry import Geometry, VolumeError, check_same_grid
from crlm_jax.files import to_csv, write_whole
from crlm_jax.lesions import Lesion

CATEGORIES = ("CR", "PR", "SD", "PD")  # and "NE", not evaluable
MEASURABLE = 10.0  # mm
SLICES = 2  # spacings of slices that a measurable lesion is long
TARGETS = 2  # at most, in one organ
SMALLER, LARGER, LARGER_BY = 0.30, 0.20, 5.0  # PR; PD: both the share and the mm
TOLERANCE = 1e-4  # mm by which a limit may be missed; float32 spacings are off by 1e-7 of a length
DISCLAIMER = "A measurement on masks, not a diagnosis; crlm_jax is not a medical device."


@dataclasses.dataclass(frozen=True)
class TimePoint:
    """The lesions of a patient's liver in one scan; `slice_spacing` in mm."""

    lesions: tuple[Lesion, ...]
    slice_spacing: float

    @property
    def patient_volume(self) -> float:
        """Volume of all lesions together, in mm³."""
        return math.fsum(lesion.volume for lesion in self.lesions)


@dataclasses.dataclass(frozen=True)
class Response:
    """How a follow-up compares with its baseline. Lesions are indices into their time point's.

    Sums are in mm, volumes (of all lesions) in mm³, and % are of the baseline, None where it is 0.
    """

    category: str  # of CATEGORIES, or "NE"
    baseline_sum: float
    follow_up_sum: float
    change_mm: float
    change_percent: float | None
    volume_baseline: float
    volume_follow_up: float
    volume_change_percent: float | None
    paired: str  # "by position" or "sums only"
    targets: tuple[int, ...]  # at baseline
    counted: tuple[int, ...]  # at follow-up: the lesions that make up its sum
    pairs: tuple[tuple[int, int], ...]  # (baseline, follow-up), one to one
    fragments: tuple[tuple[int, int], ...]  # more follow-up lesions of a paired baseline lesion
    new: tuple[int, ...]  # at follow-up; always empty for "sums only", which cannot tell
    notes: tuple[str, ...]  # what a reader should know; they number lesions from 1


def time_point(mask: np.ndarray, geometry: Geometry) -> TimePoint:
    """Measures the lesions of a mask, bool (Z, H, W), on the grid of `geometry` (mm)."""
    if mask.shape != geometry.axial_size:
        raise ValueError(f"a mask of {mask.shape} on a grid of {geometry.axial_size} voxels")
    labels, _ = lesions.label(mask)
    return TimePoint(tuple(lesions.measure(labels, geometry)), geometry.axial_spacing[0])


def measurable(lesion: Lesion, slice_spacing: float) -> bool:
    """Is the diameter ≥ 10 mm and ≥ 2 × `slice_spacing` (mm), to `TOLERANCE`? RECIST 1.1, 3.1."""
    return lesion.diameter >= max(MEASURABLE, SLICES * slice_spacing) - TOLERANCE


def targets(point: TimePoint) -> list[int]:
    """Returns the indices of the two largest measurable lesions, largest first (RECIST 1.1, 4.2).

    That they can be measured again and again, which it asks as well, is for a reader to judge.
    """
    largest = _by_size(point)
    return [i for i in largest if measurable(point.lesions[i], point.slice_spacing)][:TARGETS]


def sum_of_diameters(point: TimePoint) -> float:
    """Sum of the longest diameters of a time point's own targets, in mm (RECIST 1.1, 4.2)."""
    return _sum(point, targets(point))


def compare(baseline: TimePoint, follow_up: TimePoint, *, same_frame: bool) -> Response:
    """Says how the lesions responded between two time points: see the module's rules.

    With a shared frame, lesions are paired one to one by position, as `lesions.match` says.

    Without one, only sums are compared: the follow-up's is that of its largest lesions, of any
    size, as many as there were targets. Unless a target split, that is never less than what is
    left of the targets. New lesions cannot be told.

    Args:
      baseline: before chemotherapy.
      follow_up: after it.
      same_frame: whether both scans' patient coordinates are the same, as of one examination, or
        after registration.
    """
    chosen = targets(baseline)
    found = lesions.Match((), (), (), ())
    if same_frame:
        found = lesions.match(baseline.lesions, follow_up.lesions)
        same = found.pairs + found.fragments + found.merged
        counted = sorted({after for i, after in same if i in chosen})
        notes = _pairing_notes(found, baseline, follow_up)
    else:
        counted = _by_size(follow_up)[: len(chosen)]
        notes = ["the scans share no frame: new lesions cannot be told from old ones"]
    before, after = _sum(baseline, chosen), _sum(follow_up, counted)
    by_sums = _category(before, after, lesions_left=bool(follow_up.lesions))
    category = "PD" if found.new and by_sums != "NE" else by_sums
    if not chosen:
        notes.append("no lesion is measurable at baseline: not evaluable by diameters")
    if found.new:
        sizes = [f"{i + 1} ({follow_up.lesions[i].diameter:.1f} mm)" for i in found.new]
        notes.append(
            f"new at follow-up: lesion {', '.join(sizes)}; by the sum alone, {by_sums}; see that "
            "it is unequivocal"
        )
    elif category == "PR" and not after:
        notes.append("all targets vanished, but a non-target lesion is left: PR, not CR")
    volumes_of = baseline.patient_volume, follow_up.patient_volume
    return Response(
        category, before, after, after - before, _percent(before, after),
        *volumes_of, _percent(*volumes_of), "by position" if same_frame else "sums only",
        tuple(chosen), tuple(counted), found.pairs, found.fragments, found.new, tuple(notes),
    )  # fmt: skip


def _category(before: float, after: float, *, lesions_left: bool) -> str:
    """The response by sums in mm; a limit is reached to within `TOLERANCE` (RECIST 1.1, 4.3.1)."""
    if not before:
        return "NE"
    if not lesions_left:
        return "CR"
    if after <= before * (1 - SMALLER) + TOLERANCE:
        return "PR"
    if after >= max(before * (1 + LARGER), before + LARGER_BY) - TOLERANCE:
        return "PD"
    return "SD"


def _by_size(point: TimePoint) -> list[int]:
    """Indices of the lesions, the longest first; of equally long ones, the more voluminous."""
    sizes = [(-round(lesion.diameter, 4), -lesion.volume) for lesion in point.lesions]
    return sorted(range(len(sizes)), key=sizes.__getitem__)


def _sum(point: TimePoint, chosen: list[int]) -> float:
    return math.fsum(point.lesions[i].diameter for i in chosen)


def _percent(before: float, after: float) -> float | None:
    return 100 * (after - before) / before if before else None


def _pairing_notes(found: lesions.Match, baseline: TimePoint, follow_up: TimePoint) -> list[str]:
    if baseline.lesions and follow_up.lesions and not found.pairs:
        return ["no lesion lies where one was: see that the scans truly share a frame"]
    split, merged = "lesion {} split, into lesion {} too", "lesion {} merged into lesion {}"
    said = [(split, *pair) for pair in found.fragments] + [(merged, *p) for p in found.merged]
    return [text.format(i + 1, j + 1) + " of the follow-up" for text, i, j in said]


# The command


def _measure(
    path: Path, image: Path | None, label: str | None, b_value: float | None
) -> tuple[TimePoint, str | None, list[str]]:
    """Returns the lesions of a mask, the frame of reference if DICOM tells it, and doubts."""
    doubts, frame = [], None
    like = volumes.read_image(image, b_value=b_value) if image else None
    if like is not None and like.series is not None:
        frame = like.series.headers[0].get("FrameOfReferenceUID") or None
    if dicom.is_dicom(path):
        if like is None:
            raise VolumeError(
                f"{path}: a DICOM-SEG needs its images; name their folder by --pre-image or "
                "--post-image"
            )
        geometry, mask = like.geometry, volumes.read_mask(path, label, like)
    else:
        array, geometry = volumes.read_label_map(path)
        if len(geometry.size) == 2:
            raise VolumeError(f"{path}: a picture; RECIST needs slices with their spacing in mm")
        if like is not None:
            check_same_grid(f"the mask {path} and the image {image}", geometry, like.geometry)
        if label is not None and not label.isdecimal():
            raise VolumeError(f"--label {label}: must be a whole number, for {path} is no DICOM")
        mask = geometry.to_axial(array != 0 if label is None else array == int(label))
        values = [f"{value:g}" for value in np.unique(array[array != 0])]
        if label is None and len(values) > 1:
            doubts.append(f"its labels {', '.join(values[:8])} all count; choose with --label")
        elif label is not None and not mask.any():
            doubts.append(f"no voxel is labelled {label}; it has {', '.join(values[:8]) or 'none'}")
    return time_point(mask, geometry), frame, doubts


def _table(pre: TimePoint, post: TimePoint, response: Response) -> Table:
    """A row a lesion, paired ones side by side; diameters in mm."""
    table = Table(box=None, header_style="bold")
    table.add_column("lesion")
    for when in ("pre", "post"):
        for name in (when, "mm", "across", "slice", "mm³"):
            table.add_column(name, justify="right", no_wrap=True)
    partners = dict(response.pairs)
    rows = [(i, partners.get(i)) for i in _by_size(pre)]
    rows += [(None, i) for i in _by_size(post) if i not in partners.values()]
    left_over = "fragment" if response.paired == "by position" else ""
    for before, after in rows:
        role = "target" if before in response.targets else "non-target"
        if before is None:
            role = "new" if after in response.new else left_over
            role += " in sum" * (after in response.counted)
        table.add_row(role.strip(), *_cells(pre, before), *_cells(post, after))
    return table


def _cells(point: TimePoint, index: int | None) -> list[str]:
    if index is None:
        return ["–", *[""] * 4]
    own = point.lesions[index]
    numbers = index + 1, f"{own.diameter:.1f}", f"{own.short_axis:.1f}", own.slice
    return [*map(str, numbers), f"{own.volume:.0f}"]


def _summary(response: Response) -> list[str]:
    def change(before: float, after: float, percent: float | None, unit: str) -> str:
        share = "" if percent is None else f", {percent:+.1f} %"
        return f"{before:.1f} → {after:.1f} {unit} ({after - before:+.1f} {unit}{share})"

    r = response
    volume = change(r.volume_baseline, r.volume_follow_up, r.volume_change_percent, "mm³")
    return [
        f"sum of diameters: {change(r.baseline_sum, r.follow_up_sum, r.change_percent, 'mm')}",
        f"tumour volume: {volume}",
        f"response (RECIST 1.1): {r.category}; paired: {r.paired}",
        *(f"note: {note}" for note in r.notes),
        DISCLAIMER,
    ]


def _write(path: Path, points: dict[str, tuple[Path, TimePoint]], response: Response) -> None:
    """As JSON with every lesion; or as CSV, one row, to be put below those of other patients."""
    units = dict.fromkeys(("baseline_sum", "follow_up_sum"), "_mm")
    units |= dict.fromkeys(("volume_baseline", "volume_follow_up"), "_mm3")
    values = dataclasses.asdict(response)
    content = {when: str(mask) for when, (mask, _) in points.items()}
    content |= {k + units.get(k, ""): v for k, v in values.items() if not isinstance(v, tuple)}
    if path.suffix == ".csv":
        rounded = {name: f"{x:.2f}" if isinstance(x, float) else x for name, x in content.items()}
        rounded |= {"notes": "; ".join(response.notes), "disclaimer": DISCLAIMER}
        write_whole(path, to_csv([rounded.keys(), rounded.values()]))
        return
    for name in ("targets", "counted", "pairs", "fragments", "new"):
        content[name] = (np.array(values[name], int) + 1).tolist()
    content |= {"notes": response.notes, "disclaimer": DISCLAIMER}
    content["units"] = "mm, mm³; lesions are numbered from 1, slices, rows and columns from 0"
    for when, (_, point) in points.items():
        content[f"time_point_{when}"] = dataclasses.asdict(point)
    write_whole(path, json.dumps(content, indent=2, ensure_ascii=False) + "\n")


def _arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m crlm_jax.recist",
        description=f"Response between the lesions of two masks by RECIST 1.1. {DISCLAIMER}",
    )
    add = parser.add_argument
    mask, image = "NIfTI, NRRD, MHA or DICOM-SEG", "of a DICOM-SEG: the series' folder or a file"
    add(
        "--pre", type=local_path, required=True, metavar="MASK", help=f"before chemotherapy: {mask}"
    )
    add("--post", type=local_path, required=True, metavar="MASK", help=f"after it: {mask}")
    add("--pre-image", type=local_path, metavar="IMAGE", help=image)
    add("--post-image", type=local_path, metavar="IMAGE", help=image)
    add("--b-value", type=float, metavar="B", help="s/mm², of DICOM diffusion series with several")
    add("--label", help="of tumour: a number, or a pattern of DICOM-SEG labels (default: Tumor*)")
    add("--same-frame", action="store_true", help="registered: pair lesions by position")
    add(
        "--out",
        type=local_path,
        metavar="FILE",
        help="also write .json (all lesions) or .csv (one row)",
    )
    args = parser.parse_args(argv)
    if args.out and args.out.suffix not in (".json", ".csv"):
        parser.error(f"--out {args.out}: choose the ending .json or .csv")
    return args


def run(args: argparse.Namespace) -> Response:
    """Measures and compares what the arguments name, prints the result and writes `--out`."""
    if args.out and not args.out.parent.is_dir():
        raise VolumeError(f"--out {args.out}: there is no folder {args.out.parent}; make it")
    pre, frame, doubts = _measure(args.pre, args.pre_image, args.label, args.b_value)
    post, other, more = _measure(args.post, args.post_image, args.label, args.b_value)
    if args.same_frame and frame and other and frame != other:
        more.append("its frame of reference is not the other's; paired since you asked")
    for path, said in ((args.pre, doubts), (args.post, more)):
        for doubt in said:
            tell(f"warning: {path}: {doubt}")
    same_frame = args.same_frame or (frame is not None and frame == other)
    response = compare(pre, post, same_frame=same_frame)
    print_table(_table(pre, post, response), width=120)
    print("\n".join(_summary(response)))
    if args.out:
        _write(args.out, {"pre": (args.pre, pre), "post": (args.post, post)}, response)
    return response


def main(argv: list[str] | None = None) -> None:
    """Command line; exits with 1 where a mask cannot be read."""
    try:
        run(_arguments(argv))
    except (ValueError, OSError, RuntimeError) as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
