"""The command that runs a study, lists its runs and writes its tables.

    python -m crlm_jax.study --study configs/studies/stages.py --workdir runs/stages
    python -m crlm_jax.study --study configs/studies/stages.py:seeds=1 --workdir runs/stages --list
    python -m crlm_jax.study --study configs/studies/stages.py --workdir runs/stages --report

`--list` loads no JAX, so that it answers at once: what writes the tables is imported where needed.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from rich.box import SIMPLE_HEAD
from rich.table import Table

from crlm_jax.config.schema import ConfigError
from crlm_jax.study.runs import StudyRun, load_study, run_all, run_one
from crlm_jax.system.console import console, print_error
from crlm_jax.system.files import locate


def show(runs: list[StudyRun]) -> None:
    """Prints the runs with their index and state."""
    table = Table(box=SIMPLE_HEAD)
    for name in ("index", "run", "state"):
        table.add_column(name)
    for index, run in enumerate(runs):
        table.add_row(str(index), run.name, run.state)
    console.print(table)
    finished = sum(run.state == "finished" for run in runs)
    console.print(f"{finished} of {len(runs)} finished")


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line; returns the exit code: 1 if a run failed."""
    parser = argparse.ArgumentParser(prog="python -m crlm_jax.study", description="Run a study.")
    add = parser.add_argument
    add("--study", required=True, help="file, and after a colon its arguments")
    add("--workdir", type=Path, required=True, help="folder of all runs")
    add("--index", type=int, help="run this one only (for job arrays)")
    add("--list", action="store_true", help="print the runs with their state")
    add("--report", action="store_true", help="make the tables of whatever has finished")
    add(
        "--paper-data",
        action="store_true",
        help="the cohort is the paper's own: put its numbers of CRLM-GAN below ours",
    )
    args = parser.parse_args(argv)
    args.workdir = locate(args.workdir)
    runs = load_study(args.study, args.workdir)
    if args.list:
        show(runs)
    elif args.report:
        _write_tables(args, runs)
    elif args.index is not None:
        if not 0 <= args.index < len(runs):
            raise ConfigError(f"--index {args.index}: the runs are 0 to {len(runs) - 1}")
        run_one(runs[args.index])
    else:
        return _run_all(args, runs)
    return 0


def _write_tables(args: argparse.Namespace, runs: list[StudyRun]) -> None:
    from crlm_jax.study import page

    print(page.write_tables(runs, args.workdir, paper=args.paper_data))


def _run_all(args: argparse.Namespace, runs: list[StudyRun]) -> int:
    """Runs whatever is not finished and writes the tables; returns 1 if a run failed."""
    if args.paper_data:  # checked before hours of training
        from crlm_jax.study import page

        page.check_paper_data(runs)
    words = ["--study", args.study, "--workdir", str(args.workdir), "--index"]
    failed = run_all(runs, [sys.executable, "-m", "crlm_jax.study", *words])
    _write_tables(args, runs)
    if failed:
        print_error(f"{failed} of {len(runs)} runs failed; see --list")
    return 1 if failed else 0
