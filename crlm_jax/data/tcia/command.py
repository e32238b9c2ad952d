"""The command that imports the public CT collection.

python -m crlm_jax.data.tcia --dicom DIR --out DIR             # files downloaded before
python -m crlm_jax.data.tcia --dicom DIR --out DIR --download  # from the Imaging Data Commons
"""

import argparse
import shlex
from collections.abc import Sequence
from pathlib import Path

from crlm_jax.data.tcia import download
from crlm_jax.data.tcia.folder import COHORT, LOG
from crlm_jax.data.tcia.importing import Outcome, import_collection
from crlm_jax.system.console import local_path, print_stderr


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line; returns the exit code: 0 if every patient was taken, else 1."""
    parser = argparse.ArgumentParser(
        prog="python -m crlm_jax.data.tcia",
        description="Turn TCIA's collection Colorectal-Liver-Metastases into a cohort.",
    )
    add = parser.add_argument
    dicom, out = "folder of the downloaded files", "folder of the cohort"
    add("--dicom", type=local_path, required=True, metavar="DIR", help=dicom)
    add("--out", type=local_path, required=True, metavar="DIR", help=out)
    add("--clinical", type=local_path, metavar="FILE", help="table to copy beside the cohort")
    resumes = "to --dicom first; continues a download that was cut off"
    add("--download", action="store_true", help=resumes)
    add("--yes", action="store_true", help="download without asking")
    args = parser.parse_args(argv)
    try:
        if args.download and not download.download(args.dicom, yes=args.yes):
            return 1
        outcome = import_collection(args.dicom, args.out, clinical=args.clinical)
    except KeyboardInterrupt:
        print_stderr("stopped; the same command continues from here")
        return 130
    return _summarise(outcome, args.out)


def _summarise(outcome: Outcome, out: Path) -> int:
    if outcome.skipped:
        print(f"skipped: {len(outcome.skipped)} patients were there already")
    table = out / COHORT
    print(f"{table}: {len(outcome.taken)} patients taken, {len(outcome.skipped)} from before")
    if outcome.clinical:
        print(f"{out / outcome.clinical.name}: the clinical table, as it was")
    print(f"next: python -m crlm_jax.data.cohort check {shlex.quote(str(table))}")
    if outcome.refused:
        log = out / LOG
        print_stderr(f"error: {len(outcome.refused)} refused; {log} says why")
    return 1 if outcome.refused else 0
