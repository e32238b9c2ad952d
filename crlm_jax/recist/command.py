"""The command that compares the lesions of two or more masks by RECIST 1.1.

One line each for NIfTI masks, and for DICOM-SEG masks with the series that they were drawn on:

    python -m crlm_jax.recist --pre pre_mask.nii.gz --post post_mask.nii.gz
    python -m crlm_jax.recist --pre pre.dcm --pre-image dicom/pre --post post.dcm \\
        --post-image dicom/post --out response.json
"""

import argparse
import dataclasses
import math
from collections.abc import Sequence
from pathlib import Path

from crlm_jax.imaging import volumes
from crlm_jax.imaging.geometry import VolumeError
from crlm_jax.imaging.lattice import RESAMPLE
from crlm_jax.imaging.mask_files import split_masks
from crlm_jax.imaging.masks import read_lesions
from crlm_jax.imaging.regions import measure_regions
from crlm_jax.recist.matching import Body, Match, locate_regions, match_lesions
from crlm_jax.recist.output import FollowUp, course_table, lesion_table, summary_lines, write
from crlm_jax.recist.rules import DISCLAIMER, TimePoint, compare
from crlm_jax.recist.thickness import slice_thickness
from crlm_jax.system.console import local_path, print_stderr, print_table


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line; returns the exit code."""
    args = _arguments(argv)
    if args.out and not args.out.parent.is_dir():
        raise VolumeError(f"--out {args.out}: there is no folder {args.out.parent}; make it")
    pre = _read_scan(args.pre, args.pre_image, args)
    posts = [_read_scan(*scan, args) for scan in zip(args.post, args.post_image, strict=True)]
    for scan in (pre, *posts):
        for doubt in scan.doubts:
            print_stderr(f"warning: {scan.mask}: {doubt}")
    follow_ups: list[FollowUp] = []
    for post in posts:
        earlier = [each.response for each in follow_ups]
        response = compare(pre.point, post.point, _match(pre, post, args.same_frame), earlier)
        follow_ups.append(FollowUp(post.mask, post.point, response))
    for number, each in enumerate(follow_ups, start=1):
        if len(follow_ups) > 1:
            print(f"follow-up {number}: {each.mask}")
        print_table(lesion_table(pre.point, each.point, each.response), width=120)
        print("\n".join(summary_lines(pre.point, each.response)))
    if len(follow_ups) > 1:
        print_table(course_table(follow_ups), width=120)
    print(DISCLAIMER)
    if args.out:
        write(args.out, args.pre, pre.point, follow_ups)
    return 0


def _match(pre: "_Scan", post: "_Scan", same_frame: bool) -> Match | None:
    """Pairs the lesions of scans that share a frame; None for other scans."""
    if pre.frame is not None and pre.frame == post.frame:
        same_frame = True
    elif same_frame and pre.frame and post.frame:
        print_stderr(
            f"warning: {post.mask}: its frame of reference is not the other's; paired by position "
            "because of --same-frame"
        )
    return match_lesions(pre.bodies, post.bodies) if same_frame else None


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m crlm_jax.recist",
        description=f"Response between the lesions of two masks by RECIST 1.1. {DISCLAIMER}",
    )
    add = parser.add_argument
    mask = "NIfTI, NRRD, MHA, DICOM-SEG or RTSTRUCT; several files: joined by |"
    image = "that the mask was drawn on; of a DICOM-SEG or RTSTRUCT: the series' folder or a file"
    add(
        "--pre", type=local_path, required=True, metavar="MASK", help=f"before chemotherapy: {mask}"
    )
    add(
        "--post",
        type=local_path,
        required=True,
        action="append",
        metavar="MASK",
        help=f"after chemotherapy: {mask}; several follow-ups: repeat it, in the order of time",
    )
    add("--pre-image", type=local_path, metavar="IMAGE", help=image)
    several = f"{image}; as many as --post, in the same order"
    add("--post-image", type=local_path, action="append", metavar="IMAGE", help=several)
    add(
        "--series",
        metavar="PATTERN",
        help="of the images' folders with several DICOM series, such as 'description=*T2*'",
    )
    add("--b-value", type=float, metavar="B", help="s/mm², of DICOM diffusion series with several")
    add(
        "--slice-thickness",
        type=float,
        metavar="MM",
        help="of images that do not say it, as DICOM does; otherwise the slice spacing counts",
    )
    what = (
        "of tumour: a number, a pattern of segment names (default: Tumor*), or 'lesions': each is"
    )
    add("--label", help=what)
    add("--resample-masks", action="store_true", help=RESAMPLE)
    add("--same-frame", action="store_true", help="registered: pair lesions by position")
    add(
        "--out",
        type=local_path,
        metavar="FILE",
        help="also write .json (all lesions) or .csv (a row per follow-up)",
    )
    args = parser.parse_args(argv)
    if args.out and args.out.suffix not in (".json", ".csv"):
        parser.error(f"--out {args.out}: choose the ending .json or .csv")
    args.post_image = args.post_image or [None] * len(args.post)
    if len(args.post_image) != len(args.post):
        parser.error(
            f"{len(args.post)} --post, but {len(args.post_image)} --post-image; give one for each, "
            "in the same order"
        )
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
    image = None
    if image_path:
        image = volumes.read_image(image_path, series=args.series, b_value=args.b_value)
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
    mask = read_lesions(split_masks(str(mask_path)), label, image, resample=args.resample_masks)
    geometry, doubts = mask.geometry, list(mask.doubts)
    if len(geometry.size) == 2:
        raise VolumeError(f"{mask_path}: a picture; give a 3D mask, with a slice spacing in mm")
    if mask.labels and not mask.voxels.any():
        there = ", ".join(mask.labels[:8])
        doubts.append(f"no voxel is labelled {label}; it has {there}")
    lesions = tuple(measure_regions(mask.regions, geometry))
    point = TimePoint(lesions, geometry.axial_spacing[0], thickness)
    return _Scan(mask_path, point, locate_regions(mask.regions, geometry), frame, doubts)
