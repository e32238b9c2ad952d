"""What the commands share: what they say on the console, and the arguments that choose a scan."""

import argparse
import sys
from pathlib import Path

from rich.console import Console
from rich.table import Table
from tqdm import tqdm

from crlm_jax.system.files import ADDRESS


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
