"""The command that compares the lesions of two or more masks by RECIST 1.1.

One line each for NIfTI masks, and for DICOM-SEG masks with the series that they were drawn on:

    python -m crlm_jax.recist --pre pre_mask.nii.gz --post post_mask.nii.gz
    python -m crlm_jax.recist --pre pre.dcm --pre-image dicom/pre --post post.dcm \\
        --post-image dicom/post --out response.json

Scans of two dates share no frame; `--register` aligns them by their images, and draws a picture:

    python -m crlm_jax.recist --pre pre_mask.nii.gz --pre-image pre.nii.gz \\
        --post post_mask.nii.gz --post-image post.nii.gz --register --out response.json
"""

import argparse
import dataclasses
import math
from collections.abc import Callable, Sequence
from pathlib import Path

from crlm_jax.imaging import volumes
from crlm_jax.imaging.geometry import Geometry, VolumeError
from crlm_jax.imaging.lattice import RESAMPLE
from crlm_jax.imaging.lesions import DISCLAIMER
from crlm_jax.imaging.mask_files import split_masks
from crlm_jax.imaging.masks import read_lesions
from crlm_jax.imaging.regions import Region, measure_regions
from crlm_jax.recist.matching import Body, Match, locate_regions, match_lesions, out_of_view
from crlm_jax.recist.output import (
    FollowUp,
    course_table,
    lesion_table,
    registration_line,
    summary_lines,
    write,
)
from crlm_jax.recist.prepared import PreparedImage, prepare
from crlm_jax.recist.registration import Registration, match_registered, register
from crlm_jax.recist.rules import TimePoint, compare
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
        registration = _register(pre, post)
        if registration is None:
            match = _match(pre, post, args.same_frame)
        else:
            match = match_registered(pre.bodies, post.bodies, registration)
        response = compare(pre.point, post.point, match, earlier)
        follow_ups.append(FollowUp(post.mask, post.point, response, registration))
    if args.register:
        _draw(args.register_picture, pre, posts, follow_ups)
    for number, each in enumerate(follow_ups, start=1):
        if len(follow_ups) > 1:
            print(f"follow-up {number}: {each.mask}")
        print_table(lesion_table(pre.point, each.point, each.response), width=120)
        if each.registration is not None:
            print(registration_line(each.registration))
        print("\n".join(summary_lines(pre.point, each.response)))
    if len(follow_ups) > 1:
        print_table(course_table(follow_ups), width=120)
    print(DISCLAIMER)
    if args.out:
        write(args.out, args.pre, pre.point, follow_ups)
    if args.sr:
        _write_report(args.sr, pre, posts, follow_ups)
    return 0


def _write_report(
    path: Path, pre: "_Scan", posts: "Sequence[_Scan]", follow_ups: Sequence[FollowUp]
) -> None:
    """Writes the structured report."""
    from crlm_jax.recist.dicom_report import MeasuredScan, write_dicom_report

    def measured(scan: "_Scan") -> MeasuredScan:
        assert scan.image is not None  # `_check_report` asks for it
        return MeasuredScan(scan.point, scan.regions, scan.image, split_masks(str(scan.mask)))

    responses = [
        (measured(post), each.response) for post, each in zip(posts, follow_ups, strict=True)
    ]
    write_dicom_report(path, measured(pre), responses)
    print(f"structured report: {path}")


def _register(pre: "_Scan", post: "_Scan") -> Registration | None:
    """Aligns a follow-up with its baseline, and warns of doubts; None: not asked for."""
    if pre.prepared is None or post.prepared is None:
        return None
    found = register(pre.prepared, post.prepared, pre.bodies, post.bodies)
    if found.doubts:
        print_stderr(
            f"warning: {post.mask}: the registration is doubtful ({'; '.join(found.doubts)}), so "
            "lesions are not paired; look at its picture, or align the scans and their masks by "
            "other means and give --same-frame"
        )
    return found


def _draw(
    path: Path, pre: "_Scan", posts: "Sequence[_Scan]", follow_ups: Sequence[FollowUp]
) -> None:
    """Draws the registrations of all follow-ups."""
    from crlm_jax.recist.picture import Aligned, write_registrations

    assert pre.prepared is not None
    aligned = [
        Aligned(post.prepared, post.bodies, each.registration)
        for post, each in zip(posts, follow_ups, strict=True)
        if post.prepared is not None and each.registration is not None
    ]
    write_registrations(path, pre.prepared, pre.bodies, aligned)
    print(f"picture of the registration: {path}")


def _match(pre: "_Scan", post: "_Scan", same_frame: bool) -> Match | None:
    """Pairs the lesions of scans that share a frame; None for other scans."""
    if pre.frame is not None and pre.frame == post.frame:
        if pre.study != post.study and not same_frame:
            print_stderr(
                f"warning: {post.mask}: it is of another study than the baseline, and yet of the "
                "same frame of reference; its lesions are paired by position, which is wrong "
                "unless the scans were aligned (--register aligns them)"
            )
        same_frame = True
    elif same_frame and pre.frame and post.frame:
        print_stderr(
            f"warning: {post.mask}: its frame of reference is not the other's; paired by position "
            "because of --same-frame"
        )
    if not same_frame:
        return None
    if pre.view and post.view:
        unseen = out_of_view(pre.bodies, post.bodies, pre.view, post.view)
        if unseen:
            print_stderr(f"warning: {post.mask}: {'; '.join(unseen)}; lesions are not paired")
            return None
    return match_lesions(pre.bodies, post.bodies)


def _make_parser() -> argparse.ArgumentParser:
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
    _add_register(add)
    add(
        "--out",
        type=local_path,
        metavar="FILE",
        help="also write .json (all lesions) or .csv (a row per follow-up)",
    )
    add(
        "--sr",
        type=local_path,
        metavar="FILE",
        help="also write a DICOM structured report (.dcm); needs all images, as DICOM",
    )
    return parser


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = _make_parser()
    args = parser.parse_args(argv)
    if args.out and args.out.suffix not in (".json", ".csv"):
        parser.error(f"--out {args.out}: choose the ending .json or .csv")
    args.post_image = args.post_image or [None] * len(args.post)
    if len(args.post_image) != len(args.post):
        parser.error(
            f"{len(args.post)} --post, but {len(args.post_image)} --post-image; give one for each, "
            "in the same order"
        )
    _check_register(parser, args)
    _check_report(parser, args)
    thickness = args.slice_thickness
    if thickness is not None and not (math.isfinite(thickness) and thickness > 0):
        parser.error(f"--slice-thickness {thickness:g}: give a positive number of mm")
    return args


def _add_register(add: Callable[..., argparse.Action]) -> None:
    add(
        "--register",
        action="store_true",
        help="align the images of both dates, and pair lesions by position; needs all images",
    )
    add(
        "--register-picture",
        type=local_path,
        metavar="PNG",
        help="of --register (default: beside --out, or registration.png)",
    )


def _check_register(parser: argparse.ArgumentParser, args: argparse.Namespace) -> None:
    """Ends the command if `--register` cannot be done; fills in its picture's path."""
    if not args.register:
        if args.register_picture:
            parser.error("--register-picture: only --register draws it; give --register too")
        return
    if args.same_frame:
        parser.error("--register and --same-frame: give one of them")
    if args.pre_image is None or None in args.post_image:
        parser.error(
            "--register compares images, not masks; give that of each mask by --pre-image and "
            "--post-image"
        )
    if args.register_picture is None:
        out = args.out
        args.register_picture = (
            out.with_name(f"{out.stem}_registration.png") if out else Path("registration.png")
        )
    picture = args.register_picture
    if picture.suffix.lower() != ".png":
        parser.error(f"--register-picture {picture}: choose the ending .png")
    if not picture.parent.is_dir():
        parser.error(f"--register-picture {picture}: there is no folder {picture.parent}; make it")


def _check_report(parser: argparse.ArgumentParser, args: argparse.Namespace) -> None:
    """Ends the command if the structured report cannot be written."""
    if args.sr is None:
        return
    if args.sr.suffix.lower() != ".dcm":
        parser.error(f"--sr {args.sr}: choose the ending .dcm")
    if not args.sr.parent.is_dir():
        parser.error(f"--sr {args.sr}: there is no folder {args.sr.parent}; make it")
    if args.pre_image is None or None in args.post_image:
        parser.error(
            "--sr refers to the DICOM images; give that of each mask by --pre-image and "
            "--post-image"
        )
    masks = [path for mask in (args.pre, *args.post) for path in split_masks(str(mask))]
    if args.sr.resolve() in {path.resolve() for path in masks}:
        parser.error(f"--sr {args.sr}: is a mask; name another file")


@dataclasses.dataclass(frozen=True)
class _Scan:
    """The measured mask of one time point."""

    mask: Path
    point: TimePoint
    regions: tuple[Region, ...]  # the lesions of `point`
    bodies: list[Body]  # where they lie
    frame: str | None  # Frame of Reference UID; None if the image is not DICOM or has none
    study: str | None  # Study Instance UID
    view: Geometry | None  # what the image shows; None: no 3D image was given
    prepared: PreparedImage | None  # for --register
    doubts: list[str]  # warnings for the user
    image: volumes.Volume | None = None  # without voxels


def _read_scan(mask_path: Path, image_path: Path | None, args: argparse.Namespace) -> _Scan:
    image = None
    if image_path:
        image = volumes.read_image(image_path, series=args.series, b_value=args.b_value)
    label = args.label
    thickness = None if image is None else slice_thickness(image)
    if thickness is None:
        thickness = args.slice_thickness
    elif args.slice_thickness not in (None, thickness):
        print_stderr(
            f"warning: {image_path}: its slice thickness is {thickness:g} mm, which counts, not "
            "--slice-thickness"
        )
    mask = read_lesions(split_masks(str(mask_path)), label, image, resample=args.resample_masks)
    geometry, doubts = mask.geometry, list(mask.doubts)
    if len(geometry.size) == 2:
        raise VolumeError(f"{mask_path}: a picture; give a 3D mask, with a slice spacing in mm")
    if mask.labels and not mask.voxels.any():
        there = ", ".join(mask.labels[:8])
        doubts.append(f"no voxel is labelled {label}; it has {there}")
    lesions = tuple(measure_regions(mask.regions, geometry))
    point = TimePoint(lesions, geometry.axial_spacing[0], thickness)
    series = None if image is None else image.series
    return _Scan(
        mask=mask_path,
        point=point,
        regions=mask.regions,
        bodies=locate_regions(mask.regions, geometry),
        frame=None if image is None else image.frame_of_reference,
        study=None if series is None else series.headers[0].get("StudyInstanceUID") or None,
        view=None if image is None or len(image.geometry.size) < 3 else image.geometry,
        prepared=prepare(image) if args.register and image is not None else None,
        doubts=doubts,
        image=image and dataclasses.replace(image, voxels=image.voxels[:0].copy()),
    )
