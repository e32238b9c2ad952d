"""The command that compares the lesions of two masks by RECIST 1.1.

One line each for NIfTI masks, and for DICOM-SEG masks with the series that they were drawn on:

    python -m crlm_jax.recist --pre pre_mask.nii.gz --post post_mask.nii.gz
    python -m crlm_jax.recist --pre pre.dcm --pre-image dicom/pre --post post.dcm \\
        --post-image dicom/post --out response.json
"""

import argparse
import dataclasses
import json
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from rich.table import Table

from crlm_jax.imaging import volumes
from crlm_jax.imaging.dicom import files
from crlm_jax.imaging.geometry import Geometry, VolumeError, check_same_grid
from crlm_jax.recist.matching import Body, locate_lesions, match_lesions
from crlm_jax.recist.rules import (
    DISCLAIMER,
    Response,
    TimePoint,
    compare,
    largest_first,
    measure_time_point,
)
from crlm_jax.recist.thickness import slice_thickness
from crlm_jax.system.console import local_path, print_stderr, print_table
from crlm_jax.system.files import write_whole
from crlm_jax.system.text import to_csv


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line; returns the exit code."""
    args = _arguments(argv)
    if args.out and not args.out.parent.is_dir():
        raise VolumeError(f"--out {args.out}: there is no folder {args.out.parent}; make it")
    pre = _read_scan(args.pre, args.pre_image, args)
    post = _read_scan(args.post, args.post_image, args)
    for scan in (pre, post):
        for doubt in scan.doubts:
            print_stderr(f"warning: {scan.mask}: {doubt}")
    differ = bool(pre.frame and post.frame and pre.frame != post.frame)
    if args.same_frame and differ:
        print_stderr(
            f"warning: {post.mask}: its frame of reference is not the other's; paired by position "
            "because of --same-frame"
        )
    same_frame = args.same_frame or (pre.frame is not None and pre.frame == post.frame)
    match = match_lesions(pre.bodies, post.bodies) if same_frame else None
    response = compare(pre.point, post.point, match)
    print_table(_lesion_table(pre.point, post.point, response), width=120)
    print("\n".join(_summary_lines(pre.point, response)))
    if args.out:
        _write(args.out, pre, post, response)
    return 0


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
    add(
        "--post", type=local_path, required=True, metavar="MASK", help=f"after chemotherapy: {mask}"
    )
    add("--pre-image", type=local_path, metavar="IMAGE", help=image)
    add("--post-image", type=local_path, metavar="IMAGE", help=image)
    add("--b-value", type=float, metavar="B", help="s/mm², of DICOM diffusion series with several")
    add(
        "--slice-thickness",
        type=float,
        metavar="MM",
        help="of images that do not say it, as DICOM does; otherwise the slice spacing counts",
    )
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
    thickness = args.slice_thickness
    if thickness is not None and not (math.isfinite(thickness) and thickness > 0):
        parser.error(f"--slice-thickness {thickness:g}: give a positive number of mm")
    return args


@dataclasses.dataclass(frozen=True)
class _Scan:
    """The measured mask of one time point."""

    mask: Path
    point: TimePoint
    bodies: list[Body]  # where the lesions of `point` lie
    frame: str | None  # Frame of Reference UID; None if the image is not DICOM or has none
    doubts: list[str]  # warnings for the user


def _read_scan(mask_path: Path, image_path: Path | None, args: argparse.Namespace) -> _Scan:
    image = volumes.read_image(image_path, b_value=args.b_value) if image_path else None
    frame, label = None, args.label
    thickness = None if image is None else slice_thickness(image)
    if thickness is None:
        thickness = args.slice_thickness
    elif args.slice_thickness not in (None, thickness):
        print_stderr(
            f"warning: {image_path}: its slice thickness is {thickness:g} mm, which counts, not "
            "--slice-thickness"
        )
    if image is not None and image.series is not None:
        frame = image.series.headers[0].get("FrameOfReferenceUID") or None
    if not files.is_dicom(mask_path):
        mask, geometry, doubts = _read_label_map(mask_path, label)
        if image is not None:
            between = f"the mask {mask_path} and the image {image_path}"
            check_same_grid(between, geometry, image.geometry)
        point = measure_time_point(mask, geometry, thickness)
        return _Scan(mask_path, point, locate_lesions(mask, geometry), frame, doubts)
    if image is None:
        raise VolumeError(
            f"{mask_path}: a DICOM-SEG needs its images; give their folder by --pre-image or "
            "--post-image"
        )
    mask = volumes.read_mask(mask_path, label, image)
    point = measure_time_point(mask, image.geometry, thickness)
    return _Scan(mask_path, point, locate_lesions(mask, image.geometry), frame, [])


def _read_label_map(path: Path, label: str | None) -> tuple[np.ndarray, Geometry, list[str]]:
    """Returns the mask (Z, H, W) bool of a label map, its geometry, and doubts about `label`."""
    doubts: list[str] = []
    array, geometry = volumes.read_label_map(path, doubts)
    if len(geometry.size) == 2:
        raise VolumeError(f"{path}: a picture; give a 3D mask, with a slice spacing in mm")
    if label is not None and not label.isdecimal():
        raise VolumeError(f"--label {label}: must be a whole number, because {path} is not DICOM")
    mask = geometry.to_axial(array != 0 if label is None else array == int(label))
    values = [f"{value:g}" for value in np.unique(array[array != 0])]
    if label is None and len(values) > 1:
        doubts.append(f"its labels {', '.join(values[:8])} all count; choose with --label")
    elif label is not None and not mask.any():
        doubts.append(f"no voxel is labelled {label}; it has {', '.join(values[:8]) or 'none'}")
    return mask, geometry, doubts


def _lesion_table(pre: TimePoint, post: TimePoint, response: Response) -> Table:
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
    unpaired = "fragment" if response.paired == "by position" else ""
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


def _summary_lines(pre: TimePoint, response: Response) -> list[str]:
    def change(before: float, after: float, percent: float | None, unit: str) -> str:
        share = "" if percent is None else f", {percent:+.1f} %"
        return f"{before:.1f} → {after:.1f} {unit} ({after - before:+.1f} {unit}{share})"

    r = response
    volume = change(r.volume_baseline, r.volume_follow_up, r.volume_change_percent, "mm³")
    return [
        _measurable_line(pre),
        f"sum of diameters: {change(r.baseline_sum, r.follow_up_sum, r.change_percent, 'mm')}",
        f"tumour volume: {volume}",
        f"response (RECIST 1.1): {r.category}; paired: {r.paired}",
        *(f"note: {note}" for note in r.notes),
        DISCLAIMER,
    ]


def _measurable_line(point: TimePoint) -> str:
    size = point.slice_spacing if point.slice_thickness is None else point.slice_thickness
    unknown = "; the thickness is not known" if point.slice_thickness is None else ""
    return (
        f"measurable: from {point.measurable_from:.1f} mm, by the {point.measurable_by} of "
        f"{size:g} mm{unknown}"
    )


def _write(path: Path, pre: _Scan, post: _Scan, response: Response) -> None:
    """Writes JSON with every lesion, or CSV with one row to be joined with other patients' rows."""
    units = dict.fromkeys(("baseline_sum", "follow_up_sum"), "_mm")
    units |= dict.fromkeys(("volume_baseline", "volume_follow_up"), "_mm3")
    values = dataclasses.asdict(response)
    content: dict[str, object] = {"pre": str(pre.mask), "post": str(post.mask)}
    content |= {k + units.get(k, ""): v for k, v in values.items() if not isinstance(v, tuple)}
    content |= {
        "measurable_by": pre.point.measurable_by,
        "measurable_from_mm": pre.point.measurable_from,
    }
    if path.suffix == ".csv":
        row = {name: f"{x:.2f}" if isinstance(x, float) else x for name, x in content.items()}
        row |= {"notes": "; ".join(response.notes), "disclaimer": DISCLAIMER}
        write_whole(path, to_csv([row.keys(), row.values()]))
        return
    for name in ("targets", "counted", "pairs", "fragments", "new"):
        content[name] = (np.array(values[name], int) + 1).tolist()
    content |= {"notes": response.notes, "disclaimer": DISCLAIMER}
    content["units"] = "mm, mm³; lesions are numbered from 1, slices, rows and columns from 0"
    for when, scan in (("pre", pre), ("post", post)):
        content[f"time_point_{when}"] = dataclasses.asdict(scan.point)
    write_whole(path, json.dumps(content, indent=2, ensure_ascii=False) + "\n")
