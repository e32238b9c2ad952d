"""The console script `crlm`: lists the commands, and calls the one that is named.

    crlm
    crlm train --config configs/cross_pre.py
    crlm predict --run runs/ct --image scan.nii.gz --out mask.nii.gz

A command's module is imported only when it is called, so that the list appears at once.
"""

import difflib
import importlib
import runpy
import sys
from collections.abc import Sequence
from dataclasses import dataclass

from crlm_jax import __version__


@dataclass(frozen=True)
class Command:
    """A command: `module` holds `main(argv) -> int`; `purpose` is one line of the list."""

    module: str
    purpose: str


COMMANDS = {
    "phantom": Command("data.phantom.command", "write a cohort of digital patients to try it on"),
    "cohort": Command("data.cohort.command", "make a cohort.csv from your folders, or check one"),
    "tcia": Command("data.tcia.command", "turn TCIA's public CT collection into a cohort"),
    "train": Command("main", "train, evaluate and report one experiment"),
    "report": Command("report.command", "write the report of a run, or compare several"),
    "evaluate": Command("evaluate.command", "measure a run on another cohort, or any masks"),
    "predict": Command("predict.command", "segment scans with a trained run"),
    "serve": Command("serve.command", "segment what a PACS sends, and send it back (DICOM)"),
    "explain": Command("explain.command", "map where a trained segmenter looks"),
    "recist": Command("recist.command", "compare two masks by RECIST 1.1"),
    "export": Command("export.command", "write a segmenter as StableHLO and ONNX"),
    "study": Command("study.command", "run many experiments, and compare them in tables"),
    "stats": Command("stats.command", "write Table 1 of two groups of patients"),
    "plan": Command("plan.command", "estimate a training on Cloud TPU with no TPU at hand"),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Calls the command that the first argument names; without one, lists all of them.

    Returns:
      The exit code; 2 if there is no such command.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    if not words or words[0] in ("-h", "--help", "help"):
        print(_usage())
        return 0
    name, *rest = words
    if name == "--version":
        print(f"crlm_jax {__version__}")
        return 0
    if name not in COMMANDS:
        near = difflib.get_close_matches(name, COMMANDS, n=1)
        hint = f"did you mean {near[0]}? " if near else ""
        print(f"error: crlm {name}: no such command; {hint}crlm lists them all", file=sys.stderr)
        return 2
    if name == "train":
        # As `python -m crlm_jax.main` runs it: absl asks the main module for its help.
        sys.argv[1:] = rest
        runpy.run_module("crlm_jax.main", run_name="__main__", alter_sys=True)
        return 0
    from crlm_jax.system.console import exit_code

    return exit_code(importlib.import_module(f"crlm_jax.{COMMANDS[name].module}").main, rest)


def _usage() -> str:
    width = max(map(len, COMMANDS))
    lines = [f"  {name:{width}}  {command.purpose}" for name, command in COMMANDS.items()]
    return "\n".join(
        [
            "usage: crlm COMMAND …; crlm COMMAND --help says more",
            "",
            *lines,
            "",
            "Not a medical device.",
        ]
    )


if __name__ == "__main__":
    sys.exit(main())
