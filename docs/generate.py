"""The pages of the reference that are made from the code: run by `conf.py` at every build.

python docs/generate.py configuration     # print what a page will hold
python docs/generate.py command-line
"""

import ast
import contextlib
import copy
import dataclasses
import inspect
import io
import itertools
import os
import pkgutil
import re
import runpy
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

WIDTH = "88"  # characters of a usage text

# Every module that is a command, with its subcommands, in the order of the page.
COMMANDS: dict[str, tuple[str, ...]] = {
    "main": (),
    "predict": (),
    "serve": (),
    "evaluate": (),
    "report": (),
    "explain": (),
    "recist": (),
    "export": (),
    "study": (),
    "plan": (),
    "stats": ("cohort",),
    "data.cohort": ("build", "check"),
    "data.phantom": (),
    "data.tcia": (),
}
_IMPOSSIBLE = {bool: "?", int: -1, float: -1.0, str: "?"}  # a value that a check refuses


# -- Configuration --------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Field:
    """One field of the configuration, as the page shows it."""

    name: str  # dotted, as on the command line
    kind: str
    default: str  # as it is written on the command line
    allowed: str
    meaning: str


def configuration() -> str:
    """Returns a section for each group of the configuration, with a table of its fields."""
    from crlm_jax.config import Config

    sections = []
    for title, cls, fields in groups(Config):
        about = " ".join((inspect.getdoc(cls) or "").split())
        rows = [
            f"| `{f.name}` | {f.kind} | `{f.default}` | {_cell(f.allowed)} | {_cell(f.meaning)} |"
            for f in fields
        ]
        head = ["| field | type | default | allowed | meaning |", "| --- | --- | --- | --- | --- |"]
        sections.append("\n".join([f"## {title}", "", about, "", *head, *rows, ""]))
    return "\n".join(sections)


def groups(root: type) -> Iterator[tuple[str, type, list[Field]]]:
    """Yields the title, class and fields of every group, those of the experiment itself first."""
    default = root()
    hints = get_type_hints(root)
    own = {name: hint for name, hint in hints.items() if not dataclasses.is_dataclass(hint)}
    yield "The experiment", root, _fields(root, own, default, default, "")
    for name, hint in hints.items():
        if dataclasses.is_dataclass(hint):
            node = getattr(default, name)
            yield f"`{name}`", hint, _fields(hint, get_type_hints(hint), node, default, f"{name}.")


def _fields(cls: type, hints: dict[str, Any], node: Any, root: Any, prefix: str) -> list[Field]:
    comments = _comments(cls)
    return [
        Field(
            name=prefix + name,
            kind=_kind(hint),
            default=_written(getattr(node, name)),
            allowed=_allowed(root, prefix + name, hint),
            meaning=comments.get(name, ""),
        )
        for name, hint in hints.items()
    ]


def _comments(cls: type) -> dict[str, str]:
    """The comment beside each field of a dataclass, else the comment lines above it."""
    source = textwrap.dedent(inspect.getsource(cls))
    lines = source.splitlines()
    found = {}
    for node in ast.parse(source).body[0].body:
        if not isinstance(node, ast.AnnAssign):
            continue
        beside = lines[node.end_lineno - 1][node.end_col_offset :].strip()
        above: list[str] = []
        line = node.lineno - 2
        while line >= 0 and lines[line].strip().startswith("#"):
            above.insert(0, lines[line].strip())
            line -= 1
        words = [text.lstrip("# ").strip() for text in ([*above, beside] if beside else above)]
        found[node.target.id] = " ".join(words)
    return found


def _kind(hint: Any) -> str:
    if get_origin(hint) is tuple:
        return f"list of {_kind(get_args(hint)[0])}"
    if get_origin(hint) is Literal:
        return "choice"
    return {bool: "yes or no", int: "whole number", float: "number", str: "text"}[hint]


def _written(value: Any) -> str:
    if isinstance(value, tuple):
        return ",".join(map(_written, value)) or "()"
    return f"{value:g}" if isinstance(value, float) else str(value)


def _allowed(root: Any, name: str, hint: Any) -> str:
    """What the checks of the configuration say of a value that cannot be; empty: anything goes."""
    if get_origin(hint) is Literal:
        return ", ".join(f"`{value}`" for value in get_args(hint))
    if hint is bool:
        return "`True`, `False`"
    values = [()] if get_origin(hint) is tuple else [_IMPOSSIBLE[hint]]
    if hint is float:
        values.append(1e9)
    if get_origin(hint) is tuple:
        values.append((_IMPOSSIBLE[get_args(hint)[0]],))
    said = filter(None, (_refusal(root, name, value) for value in values))
    text = next(said, "")
    choices = re.fullmatch(r"choose one of (.*)", text)
    if choices:
        return ", ".join(f"`{value}`" for value in choices[1].split(", "))
    return text.removeprefix("must be ").removeprefix("give ") or "any"


def _refusal(root: Any, name: str, value: Any) -> str:
    from crlm_jax.config import ConfigError, validate

    config = copy.deepcopy(root)
    *path, last = name.split(".")
    node = config
    for step in path:
        node = getattr(node, step)
    setattr(node, last, value)
    try:
        validate(config)
    except ConfigError as error:
        match = re.search(rf"\b{re.escape(name)} = [^:]*: ([^;]*)", str(error))
        return match[1] if match else ""
    return ""


def _cell(text: str) -> str:
    return text.replace("|", "or").replace("*", r"\*").replace("<", "&lt;")


# -- Command line ---------------------------------------------------------------------------------


def command_line() -> str:
    """Returns a section for each command, with its usage text."""
    sections = []
    for name, subcommands in COMMANDS.items():
        sections.append(f"## `{name}`\n\n```text\n{usage(name)}\n```\n")
        for sub in subcommands:
            sections.append(f"### `{name} {sub}`\n\n```text\n{usage(name, sub)}\n```\n")
    return "\n".join(sections)


def usage(name: str, *sub: str) -> str:
    """Returns what a command prints for `--help`."""
    if name == "main":
        return _flags()
    said = io.StringIO()
    argv, columns = sys.argv, os.environ.get("COLUMNS")
    sys.argv = [f"python -m crlm_jax.{name}", *sub, "--help"]
    os.environ["COLUMNS"] = WIDTH
    try:
        with contextlib.redirect_stdout(said), contextlib.suppress(SystemExit):
            runpy.run_module(f"crlm_jax.{name}", run_name="__main__")
    finally:
        sys.argv = argv
        os.environ.pop("COLUMNS")
        if columns is not None:
            os.environ["COLUMNS"] = columns
    return said.getvalue().strip()


def _flags() -> str:
    """What the main command's flags are, those of the configuration file included."""
    done = subprocess.run(  # a process of its own, since absl's flags are of the whole process
        [sys.executable, "-m", "crlm_jax.main", "--helpfull"],
        capture_output=True,
        text=True,
        cwd=Path(__file__).parents[1],
        env=os.environ | {"JAX_PLATFORMS": "cpu"},
        check=False,
    )
    found = re.split(r"^(\S+):$", done.stdout, flags=re.MULTILINE)
    ours = [text.strip("\n") for name, text in itertools.pairwise(found) if "crlm_jax" in name]
    lines = sorted(re.findall(r"^  --.*(?:\n    .*)*", "\n".join(ours), re.MULTILINE))
    head = "usage: python -m crlm_jax.main --config FILE[:key=value,…] [flags]"
    fields = (
        "  --config.FIELD=VALUE: Any field of the configuration, such as --config.train.seed=1."
    )
    return "\n".join([head, "", fields, *lines])


# -- The API --------------------------------------------------------------------------------------


def packages() -> list[str]:
    """The packages and modules that lie directly in `crlm_jax`, but for its own `__main__`."""
    found = pkgutil.iter_modules([str(Path(__file__).parents[1] / "crlm_jax")])
    return sorted(module.name for module in found if not module.name.startswith("_"))


def api(package: str) -> str:
    """Returns an autodoc directive for every module of a package that is no command line."""
    names = [f"crlm_jax.{package}"]
    folder = Path(__file__).parents[1] / "crlm_jax" / package
    for path in sorted(folder.rglob("*.py")):
        *above, name = path.relative_to(folder).with_suffix("").parts
        if name in ("__main__", "flags") or "templates" in above:
            continue
        names.append(".".join([names[0], *above, *([] if name == "__init__" else [name])]))
    names = list(dict.fromkeys(names))
    parts = []
    for name in names:
        options = "" if name in _packages_of(names) else "   :members:\n"
        title = "" if name == names[0] else f"## `{name}`\n\n"
        parts.append(f"{title}```{{eval-rst}}\n.. automodule:: {name}\n{options}```\n")
    return "\n".join(parts)


def _packages_of(names: list[str]) -> set[str]:
    """Those that hold others: they re-export what is documented where it is written."""
    return {name for name in names if any(other.startswith(f"{name}.") for other in names)}


PAGES = {"configuration": configuration, "command-line": command_line, "api": api}


def main(argv: list[str]) -> None:
    """Prints what a page will hold."""
    name, *rest = argv or [""]
    if name not in PAGES:
        sys.exit(f"usage: python docs/generate.py {'|'.join(PAGES)} [package]")
    print(PAGES[name](*rest))


if __name__ == "__main__":
    main(sys.argv[1:])
