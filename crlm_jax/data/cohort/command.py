"""The command that checks a cohort, images and all, or builds a `cohort.csv`.

    python -m crlm_jax.data.cohort check cohort.csv
    python -m crlm_jax.data.cohort build --images 'data/{patient}/{condition}.nii.gz' \\
        --masks 'data/{patient}/{condition}_roi.nii.gz' --out cohort.csv

`check` reads every image and lists every problem, or summarises a cohort that has none; `build`
makes the file from a folder with names that follow a pattern, or from another project's layout.
"""

import argparse
import collections
import shlex
from collections.abc import Sequence
from pathlib import Path

from crlm_jax.config.schema import Data
from crlm_jax.data.cohort.check import check_cohort, split_line, summary_table
from crlm_jax.data.cohort.layouts import from_decathlon, from_nnunet, from_released
from crlm_jax.data.cohort.patterns import Found, from_patterns
from crlm_jax.data.cohort.rows import CohortError
from crlm_jax.data.cohort.write import write_cohort
from crlm_jax.imaging.lattice import RESAMPLE
from crlm_jax.system.console import local_path, print_stderr, print_table
from crlm_jax.system.files import check_new

# The layouts that an option goes with; with another layout the option is an error.
_GOES_WITH = {
    "masks": {"images"},
    "livers": {"images"},
    "rename_condition": {"images"},
    "label": {"images", "nnunet", "decathlon"},
    "channel": {"nnunet"},
    "patient_pattern": {"nnunet", "decathlon", "released"},
    "one_slice_per_patient": {"released"},
}


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line; returns the exit code: 1 if the cohort has problems."""
    args = _parser().parse_args(argv)
    return _check(args) if args.command == "check" else _build(args)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m crlm_jax.data.cohort", description="Check or build a cohort.csv."
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="check|build")
    check = commands.add_parser("check", help="read all images and masks; list every problem")
    check.add_argument("cohort", type=local_path, help="the cohort.csv")
    check.add_argument(
        "--image-size",
        type=int,
        default=Data.image_size,
        metavar="S",
        help=f"side of the network's slices in pixels (default {Data.image_size})",
    )
    check.add_argument("--workers", type=int, default=2, help="images read at once (default 2)")
    check.add_argument("--resample-masks", action="store_true", help=RESAMPLE)
    build = commands.add_parser(
        "build",
        help="make a cohort.csv",
        description="Make a cohort.csv from file-name patterns or another project's folder.",
    )
    _add_layouts(build)
    add = build.add_argument
    add("--masks", metavar="PATTERN", help="with --images; the same {names}")
    livers = "masks of the liver, with --images; the same {names}; an image may be without"
    add("--livers", metavar="PATTERN", help=livers)
    add(
        "--condition",
        action="append",
        default=[],
        metavar="NAME",
        help="where the names do not tell it; once for each channel of --nnunet",
    )
    rename = "with --images; repeatable"
    add("--rename-condition", action="append", default=[], metavar="OLD=NEW", help=rename)
    add("--label", help="which label is tumour: its number or name")
    channel = "of --nnunet; repeatable (default: all)"
    add("--channel", action="append", default=[], metavar="N", help=channel)
    add(
        "--patient-pattern",
        metavar="REGEX",
        help=r"finds the patient in a case or slice name, such as '(?P<patient>[^_]+)_\d+'",
    )
    add("--one-slice-per-patient", action="store_true", help="with --released")
    add("--skip-unpaired", action="store_true", help="leave out what has no partner")
    add("--out", type=local_path, default=Path("cohort.csv"), help="(default cohort.csv)")
    add("--force", action="store_true", help="replace the file if it is there")
    return parser


def _add_layouts(build: argparse.ArgumentParser) -> None:
    """Adds the options of which exactly one says where the images are."""
    layout = build.add_mutually_exclusive_group(required=True)
    layout.add_argument(
        "--images",
        metavar="PATTERN",
        help="in quotes, such as 'data/{patient}/{condition}.nii.gz': {patient}, {condition}, "
        "{split} and any other {name} stand for part of one file or folder name ({name:REGEX} to "
        "be exact), * for any part and ** for any folders",
    )
    for name, about in (
        ("--nnunet", "nnU-Net's raw data set"),
        ("--decathlon", "a Decathlon task"),
        ("--released", "CRLM-GAN's released layout: images/, masks/0/"),
    ):
        layout.add_argument(name, metavar="DIR", type=local_path, help=about)


def _check(args: argparse.Namespace) -> int:
    if args.workers < 1:
        raise CohortError(f"--workers {args.workers}: write 1 or more")
    if args.image_size < 1:
        raise CohortError(f"--image-size {args.image_size}: write 1 or more, in pixels")
    data = Data(image_size=args.image_size, resample_masks=args.resample_masks)
    report = check_cohort(args.cohort, data=data, workers=args.workers, progress=True)
    for problem in report.problems:
        print_stderr(f"error: {problem}")
    for warning in report.warnings:
        print_stderr(f"warning: {warning}")
    if report.problems:
        count = len(report.problems)
        print_stderr(f"{count} problem{'s' * (count > 1)} to correct")
        return 1
    print_table(summary_table(report), width=140)
    print(split_line(report))
    if any(image.spacing is None for image in report.images):
        print("Pictures have no spacing: their lesions count in each picture and have no volume.")
    return 0


def _build(args: argparse.Namespace) -> int:
    layout = next(n for n in ("images", "nnunet", "decathlon", "released") if getattr(args, n))
    for option, layouts in _GOES_WITH.items():
        if getattr(args, option) and layout not in layouts:
            flags = " or ".join(f"--{name}" for name in sorted(layouts))
            raise CohortError(
                f"--{option.replace('_', '-')} goes with {flags}, not with --{layout}; leave it out"
            )
    _check_out(args.out, args.force)
    found = _find(layout, args)
    if not args.skip_unpaired:
        _check_unpaired(found.unpaired)
    rows = write_cohort(args.out, found.entries)
    for note in found.notes:
        print(f"note: {note}")
    if found.unpaired:
        print(f"note: {len(found.unpaired)} without a partner left out")
    conditions = collections.Counter(row.condition for row in rows)
    each = ", ".join(f"{name} {count}" for name, count in sorted(conditions.items()))
    print(f"{args.out}: {len(rows)} images of {len({r.patient for r in rows})} patients ({each})")
    print(f"next: python -m crlm_jax.data.cohort check {shlex.quote(str(args.out))}")
    return 0


def _find(layout: str, args: argparse.Namespace) -> Found:
    """Finds the images and masks of a layout, by the options that go with it."""
    if layout == "images":
        return from_patterns(
            args.images,
            args.masks,
            livers=args.livers,
            conditions=args.condition,
            rename=args.rename_condition,
            label=args.label,
        )
    if layout == "released":
        return from_released(
            args.released,
            conditions=args.condition,
            patient_pattern=args.patient_pattern,
            one_slice_per_patient=args.one_slice_per_patient,
        )
    if layout == "decathlon":
        return from_decathlon(
            args.decathlon,
            conditions=args.condition,
            label=args.label,
            patient_pattern=args.patient_pattern,
        )
    return from_nnunet(
        args.nnunet,
        conditions=args.condition,
        channels=args.channel,
        label=args.label,
        patient_pattern=args.patient_pattern,
    )


def _check_out(out: Path, force: bool) -> None:
    """Raises CohortError or UserError before the search if the file could not be written."""
    if out.is_dir():
        raise CohortError(f"--out {out}: is a folder; name the file, such as {out / 'cohort.csv'}")
    check_new(out, force)


def _check_unpaired(unpaired: Sequence[str]) -> None:
    if unpaired:
        more = [f"… {len(unpaired)} in all"] if len(unpaired) > 10 else []
        remedy = "add or correct the files, or leave these out by --skip-unpaired"
        raise CohortError("\n".join([*unpaired[:10], *more, remedy]))
