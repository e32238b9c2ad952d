"""The command that plans a training on Cloud TPU or NVIDIA GPUs with none at hand.

    python -m crlm_jax.plan --config configs/cross_pre.py:scale=paper \\
        --topology v5e:2x2,v5e:16x16,v6e:4x4,v5p:2x2x1 --out plan
    python -m crlm_jax.plan --config configs/cross_pre.py:scale=paper --topology h100:1,h100:8
    python -m crlm_jax.plan --config configs/cross_pre.py --topology cpu --measure

It estimates memory, FLOPs, communication, time and cost (`compiling`, `cost`), for weak and strong
scaling (`scaling`).
"""

import argparse
import sys
from collections.abc import Sequence

import jax

from crlm_jax.config import flags
from crlm_jax.config.schema import Config, validate
from crlm_jax.plan import cost as plan_cost
from crlm_jax.plan import report as plan_report
from crlm_jax.plan.scaling import make_plan
from crlm_jax.system.console import local_path


def _parse(words: list[str]) -> tuple[argparse.Namespace, Config]:
    """Parses the command line; a usage error ends the program.

    argparse takes the command's own options. absl, which the configuration's fields need, takes
    the others.
    """
    parser = argparse.ArgumentParser(
        prog="python -m crlm_jax.plan",
        description="Plan a training on Cloud TPU or NVIDIA GPUs, by their compilers, with none "
        "at hand. Any field of the configuration can be set, as --config.train.batch_size=64.",
    )
    add = parser.add_argument
    add("--config", required=True, help="file, such as configs/cross_pre.py:scale=paper")
    add("--topology", required=True, help="comma-separated, such as v5e:2x2,v6e:4x4,h100:8; or cpu")
    add("--out", type=local_path, help="folder for plan.md, plan.json and plan.png")
    add("--slices", type=int, help="of the training (default: those of the paper's cohort)")
    add("--largest-batch", action="store_true", help="find it for each topology; compiles often")
    add("--measure", action="store_true", help="with cpu: run the step and compare")
    args, overrides = parser.parse_known_args(words)
    if args.slices is not None and args.slices < 1:
        parser.error(f"--slices {args.slices}: must be 1 or more")
    left = flags.parse_flags(["plan", f"--config={args.config}", *overrides])[1:]
    if left:
        parser.error(f"{left[0]!r} is not an option; fields are set as --config.field=value")
    return args, validate(flags.flagged_config())


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line; returns the exit code."""
    words = list(sys.argv[1:] if argv is None else argv)
    args, config = _parse(words)
    jax.config.update("jax_platforms", "cpu")  # nothing runs on an accelerator of this machine
    if args.out:
        plan_report.check_out(args.out)
    slices = args.slices or plan_cost.paper_slices(config)
    origin = "--slices" if args.slices else plan_report.PAPER_SLICES
    names = list(dict.fromkeys(args.topology.split(",")))
    rows = make_plan(config, names, slices, largest=args.largest_batch, measured=args.measure)
    command = "python -m crlm_jax.plan " + " ".join(words)
    plan = plan_report.describe(config, args.config, rows, slices, origin, command)
    plan_report.show(plan)
    if args.out:
        plan_report.write(plan, args.out)
    return 0
