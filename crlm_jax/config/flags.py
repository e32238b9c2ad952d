"""The command line's configuration: `--config FILE` and `--config.field=value` (absl)."""

import difflib
import re
import sys
from pathlib import Path
from typing import Literal

from absl import flags
from ml_collections import config_flags

from crlm_jax.config import experiments
from crlm_jax.config.schema import Config, ConfigError, flatten
from crlm_jax.errors import UserError
from crlm_jax.system.console import UsageError, print_error

# A `Literal` field is overridden as a string; `validate` refuses the values that it does not have.
config_flags.register_flag_parser_for_type(Literal, flags.ArgumentParser())
_CONFIG = config_flags.DEFINE_config_file(
    "config", None, "File of the experiment, such as configs/cross_pre.py:scale=paper."
)


_HELP = ("h", "help", "helpshort", "helpfull", "helpxml")  # flags, as absl has them


def flagged_config() -> Config:
    """Returns the configuration that the flags give.

    Raises:
      UsageError: `--config` is missing.
    """
    config = _CONFIG.value
    if config is None:
        raise UsageError("--config is missing, such as --config configs/cross_pre.py")
    # The flag library splits numbers at commas, as in loss.stages=1,2, but not words.
    config.data.conditions = tuple(",".join(config.data.conditions).split(","))
    config.data.channels = tuple(filter(None, ",".join(config.data.channels).split(",")))
    return config


def config_file() -> Path:
    """Returns the experiment's file that the flags name."""
    return Path(config_flags.get_config_filename(flags.FLAGS["config"]))


def root_cause(error: BaseException) -> BaseException:
    """Returns the first cause: the flag library wraps a config file's error several times."""
    while isinstance(error, (OSError, flags.Error)):
        cause = error.__cause__ or error.__context__
        if cause is None:
            break
        error = cause
    return error


def _check_names(argv: list[str]) -> None:
    """Raises ConfigError where an override names no field; lists the right ones."""
    fields = list(flatten(Config()))
    for arg in argv:
        match = re.match(r"--?config\.([\w.]+)", arg)
        if match and match[1] not in fields:
            name = match[1]
            group = [f for f in fields if f.startswith(name.rpartition(".")[0] + ".")]
            near = difflib.get_close_matches(name, fields, n=1)
            hint = f"did you mean {near[0]}? " if near else ""
            raise ConfigError(
                f"--config.{name}: there is no such field; {hint}"
                f"the fields {'beside it ' if group else ''}are {', '.join(group or fields)}"
            )


def _with_found_file(argv: list[str]) -> list[str]:
    """Replaces the value of `--config` by the path of the file that it stands for."""
    argv = list(argv)
    for i, word in enumerate(argv):
        if word in ("--config", "-config") and i + 1 < len(argv):
            argv[i + 1] = _found(argv[i + 1])
        elif match := re.match(r"--?config=", word):
            argv[i] = match[0] + _found(word[match.end() :])
    return argv


def _found(value: str) -> str:
    name, colon, arguments = value.partition(":")
    file = experiments.find("--config", name)
    experiments.provide_package(file)
    return f"{file}{colon}{arguments}"


def parse_flags(argv: list[str]) -> list[str]:
    """Parses the flags and returns what is left over; an error is printed and ends the process.

    A wrong flag, as every usage error, ends it with code 2, a wrong field or value of the
    configuration with 1; a wrong field is one line that lists the right ones. Help ends it with 0.
    """
    try:
        _check_names(argv)
        return flags.FLAGS(_with_found_file(argv))
    except flags.UnrecognizedFlagError as error:
        print_error(error)
        sys.exit(2)
    except flags.IllegalFlagValueError as error:
        fields = flatten(Config())
        name = re.match(r"flag --config\.([\w.]+)", str(error))
        kind = type(fields[name[1]]).__name__ if name and name[1] in fields else ""
        if not re.match(r"flag --config\b", str(error)):
            print_error(error)
            sys.exit(2)
        print_error(f"{error} (must be: {kind})" if kind else root_cause(error))
        sys.exit(1)
    except (UserError, OSError, flags.Error) as error:
        print_error(root_cause(error))
        sys.exit(1)
    except SystemExit:
        if any(word.lstrip("-").partition("=")[0] in _HELP for word in argv[1:]):
            sys.exit(0)  # absl has printed help, and would end with 1
        raise  # of the experiment's file
