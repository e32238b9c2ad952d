"""The command that compares the lesions of two masks.

    python -m crlm_jax.recist --pre pre_mask.nii.gz --post post_mask.nii.gz
    python -m crlm_jax.recist --pre pre.dcm --pre-image dicom/pre --post post.dcm \\
        --post-image dicom/post --out response.json
"""

import argparse
import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from rich.table import Table

from crlm_jax.imaging import volumes
from crlm_jax.imaging.dicom import files
from crlm_jax.imaging.geometry import VolumeError, check_same_grid
from crlm_jax.recist.rules import (
    DISCLAIMER,
    Response,
    TimePoint,
    by_size,
    compare,
    time_point,
)
from crlm_jax.system.console import local_path, print_stderr, print_table
from crlm_jax.system.files import write_whole
from crlm_jax.system.text import to_csv

# The command


def _measure(
    path: Path, image: Path | None, label: str | None, b_value: float | None
) -> tuple[TimePoint, str | None, list[str]]:
    """Returns the lesions of a mask, the frame of reference if DICOM tells it, and doubts."""
    doubts, frame = [], None
    like = volumes.read_image(image, b_value=b_value) if image else None
    if like is not None and like.series is not None:
        frame = like.series.headers[0].get("FrameOfReferenceUID") or None
    if files.is_dicom(path):
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
    rows = [(i, partners.get(i)) for i in by_size(pre)]
    rows += [(None, i) for i in by_size(post) if i not in partners.values()]
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


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
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
            print_stderr(f"warning: {path}: {doubt}")
    same_frame = args.same_frame or (frame is not None and frame == other)
    response = compare(pre, post, same_frame=same_frame)
    print_table(_table(pre, post, response), width=120)
    print("\n".join(_summary(response)))
    if args.out:
        _write(args.out, {"pre": (args.pre, pre), "post": (args.post, post)}, response)
    return response


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line; returns the exit code."""
    run(_arguments(argv))
    return 0
