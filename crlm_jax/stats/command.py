"""The command that writes Table 1, the comparison of two groups of patients.

Here the groups are the values of the column `split`:

    python -m crlm_jax.stats cohort patients.csv --group split --ordinal diameter --out table1.md
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

from crlm_jax.stats.patient_table import TableError, read_patients
from crlm_jax.stats.table_one import KINDS, as_csv, as_markdown, as_text, table_one
from crlm_jax.system.console import local_path, print_stderr, print_table
from crlm_jax.system.files import check_new, write_whole

_WRITERS = {".csv": as_csv, ".md": as_markdown}


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line; returns the exit code."""
    args = _parser().parse_args(argv)
    if args.out:
        _check_out(args.out, args.force)
    kinds: dict[str, str] = {}
    for kind in KINDS:
        for name in getattr(args, kind):
            if kinds.setdefault(name, kind) != kind:
                raise TableError(f"--{kind} {name}: also given as --{kinds[name]}; choose one")
    patients = read_patients(args.table)
    table = table_one(patients, args.group, kinds, args.groups, args.leave_out)
    if args.out:
        write_whole(args.out, _WRITERS[args.out.suffix](table))
    for warning in table.warnings:
        print_stderr(f"warning: {warning}")
    print_table(as_text(table), width=140)
    print("\n".join(table.notes))
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m crlm_jax.stats", description="Statistics of a table of patients."
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="cohort")
    cohort = commands.add_parser("cohort", help="Table 1: two groups described and compared")
    cohort.add_argument(
        "table", type=local_path, help="CSV: one row per patient, with a column 'patient'"
    )
    cohort.add_argument("--group", default="split", help="column of the groups (default split)")
    for kind, what in KINDS.items():
        what = what.replace("%", "%%")
        cohort.add_argument(f"--{kind}", type=_names, default=[], metavar="A,B", help=what)
    for flag, what in (
        ("--groups", "the two groups to compare, in order"),
        ("--leave-out", "columns to leave out"),
    ):
        cohort.add_argument(flag, type=_names, default=[], metavar="A,B", help=what)
    cohort.add_argument("--out", type=local_path, help="also write a .csv or .md file")
    cohort.add_argument("--force", action="store_true", help="replace an existing file")
    return parser


def _names(text: str) -> list[str]:
    return [name.strip() for name in text.split(",") if name.strip()]


def _check_out(out: Path, force: bool) -> None:
    if out.suffix not in _WRITERS:
        raise TableError(f"--out {out}: choose the ending {' or '.join(_WRITERS)}")
    check_new(out, force)
