"""Experiment and study files: found by path or by name.

A file of the user's own wins. Otherwise the project's own files are looked through, which lie in
`configs/` of a checkout and in the package of an installation:

    configs/cross_pre.py    the file; if it is absent, the project's cross_pre.py
    cross_pre               configs/cross_pre.py here; if it is absent, the project's
    studies/stages          likewise
"""

import sys
import types
from pathlib import Path

from crlm_jax.config.schema import ConfigError

_PACKAGE = Path(__file__).parents[1]


def project_folder() -> Path:
    """Returns the folder of the project's own experiments."""
    checkout = _PACKAGE.parent
    if (checkout / "pyproject.toml").is_file() and (checkout / "configs").is_dir():
        return checkout / "configs"
    return _PACKAGE / "configs"


def find(flag: str, name: str) -> Path:
    """Returns the file that a path or a name stands for.

    Args:
      flag: that gives the name, for the message.
      name: a path, or a name without `configs/` and `.py`.

    Raises:
      ConfigError: there is no such file, or it is not Python; lists the project's own.
    """
    stem = Path(name).with_suffix("") if name.endswith(".py") else Path(name)
    if stem.parts[:1] == ("configs",):
        stem = stem.relative_to("configs")
    file = f"{stem}.py"
    for path in (Path(name), Path("configs") / file, project_folder() / file):
        if path.is_file() and path.suffix == ".py":
            return path
    folder = project_folder()
    files = folder.glob("studies/*.py" if flag == "--study" else "*.py")
    names = (str(path.relative_to(folder).with_suffix("")) for path in files)
    own = ", ".join(sorted(n for n in names if not n.endswith(("common", "methods"))))
    if Path(name).is_file():
        raise ConfigError(
            f"{flag} {name}: is no experiment's file, which is Python and ends in .py; the "
            f"project's own are {own}"
        )
    raise ConfigError(f"{flag} {name}: no such file, nor one of the project's own ({own})")


def provide_package(file: Path) -> None:
    """Makes `from configs import …` in an experiment file mean the files beside it.

    The project's own files find the project's first, and a file of the user's own finds the user's
    first: both may have a `common.py`.
    """
    folders = [Path("configs").absolute(), project_folder()]
    if file.resolve().is_relative_to(project_folder().resolve()):
        folders.reverse()
    package = types.ModuleType("configs")
    package.__path__ = [str(folder) for folder in folders if folder.is_dir()]
    sys.modules["configs"] = package
