"""What every command shares: how it ends, and what it says on the console."""

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NoReturn

from rich.console import Console
from rich.table import Table
from tqdm import tqdm

from crlm_jax.errors import UserError
from crlm_jax.system.files import ADDRESS
from crlm_jax.system.preemption import EXIT_CODE, Preempted

Main = Callable[[Sequence[str] | None], int | None]  # arguments; None: those of the process


class UsageError(UserError):
    """A wrong command line that argparse did not see; the command ends with exit code 2."""


def run(main: Main, argv: Sequence[str] | None = None) -> NoReturn:
    """Runs a command and ends the process with its `exit_code`."""
    sys.exit(exit_code(main, argv))


def exit_code(main: Main, argv: Sequence[str] | None = None) -> int:
    """Runs a command; the one place that decides what an error prints and how the process ends.

    A `UserError` or an `OSError` prints its message, a line for each thing that is wrong, and gives
    1, a `UsageError` 2. A command that was told to stop gives 75 (`preemption`). argparse itself
    ends usage errors with 2. Every other exception is a defect of the program and keeps its
    traceback. With several processes any error exits immediately (`parallel.leave`).

    Args:
      main: the command's `main`; it returns its exit code, None for 0.
      argv: its arguments; None: those of the process.
    """
    try:
        return main(argv) or 0
    except Preempted as told:
        print(told)
        return EXIT_CODE
    except Exception as error:
        known = isinstance(error, UserError | OSError)
        if _is_distributed():
            from crlm_jax.system import parallel

            parallel.leave(str(error) if known else None, error)
        if not known:
            raise
        print_error(error)
        return 2 if isinstance(error, UsageError) else 1


def _is_distributed() -> bool:
    """Whether this process is one of several; JAX is not loaded to find out."""
    jax = sys.modules.get("jax")
    return jax is not None and jax.distributed.is_initialized()


def print_error(error: object) -> None:
    """Writes an error to stderr, a line for each line of its message."""
    for line in str(error).splitlines() or [type(error).__name__]:
        print_stderr(f"error: {line}")


def print_stderr(text: str) -> None:
    """Writes a line to stderr, above a progress bar if there is one."""
    tqdm.write(printable(text), file=sys.stderr)


def printable(text: str) -> str:
    """Writes characters that a terminal would obey, not show, as Python does: `\\x1b`."""
    return "".join(c if c.isprintable() or c == "\n" else repr(c)[1:-1] for c in text)


def make_console(width: int) -> Console:
    """Returns a console for stdout, `width` characters wide where that is a file without width."""
    return Console(highlight=False, width=None if sys.stdout.isatty() else width)


def print_table(table: Table, width: int) -> None:
    """Prints a table, `width` characters wide where stdout is a file."""
    make_console(width).print(table)


def local_path(text: str) -> Path:
    """The type of an argument that is a path of this machine; an address would be taken for one."""
    if ADDRESS.match(text):
        raise argparse.ArgumentTypeError(f"{text}: is not of this machine; give a path on its disk")
    return Path(text)


console = make_console(120)  # characters; the table of results needs as many
