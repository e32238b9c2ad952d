"""Prepares, trains, evaluates and reports one experiment.

    python -m crlm_jax.main --config configs/cross_pre.py
    python -m crlm_jax.main --config configs/ct.py:scale=paper --config.data.cohort=cohort.csv
    python -m crlm_jax.main --config configs/ct.py --config.data.cohort=cohort.csv --folds 5

Flags and exit codes only: `training/experiment.py` does the work.
"""

from collections.abc import Sequence
from typing import NoReturn

from absl import app, flags, logging

from crlm_jax.config.flags import config_file, flagged_config, parse_flags
from crlm_jax.system import console, parallel, preemption
from crlm_jax.system.console import UsageError
from crlm_jax.training.experiment import run
from crlm_jax.training.folds import run_folds

flags.declare_key_flag("config")  # so that --help lists it, though config.flags defines it
_WORKDIR = flags.DEFINE_string(
    "workdir",
    None,
    "Folder of the run, also at gs://; runs/<config.name> by default, with --folds 5 "
    "runs/<config.name>_5folds.",
)
_FOLDS = flags.DEFINE_integer(
    "folds", 0, "Cross-validate: a run for each of so many folds of the patients; 0: one run.", 0
)
_DISTRIBUTED = flags.DEFINE_bool("distributed", False, "One of several processes of one run.")
_COORDINATOR = flags.DEFINE_string("coordinator", "", "host:port of process 0; empty: found.")
_PROCESSES = flags.DEFINE_integer("processes", 0, "How many processes; 0: found.")
_PROCESS = flags.DEFINE_integer("process", -1, "Which process this is; -1: found.")
_LOST_AFTER = flags.DEFINE_integer(
    "lost_after", parallel.LOST_AFTER, "Seconds of silence after which a process counts as lost.", 1
)
_PROFILE = flags.DEFINE_integer(
    "profile", 0, "Steps of the training to trace into profile/, for xprof; 0: none.", 0
)


def main(argv: Sequence[str] | None = None) -> int:
    """Trains, evaluates and reports the experiment that the parsed flags name.

    Args:
      argv: the program's name and what the flag parser left over.

    Raises:
      UsageError: a flag is wrong or missing.
      UserError: a field of the configuration is wrong.
    """
    if argv is not None and len(argv) > 1:
        raise UsageError(f"{argv[1]!r} is not a flag; fields are set as --config.field=value")
    if _FOLDS.value == 1:
        raise UsageError("--folds 1: two folds or more; leave the flag out for one run")
    config = flagged_config()
    parallel.use_threads(config.system.threads)
    preemption.exit_when_told()
    given = [f for f in (_COORDINATOR, _PROCESSES, _PROCESS) if f.value != f.default]
    if given and not _DISTRIBUTED.value:
        raise UsageError(f"--{given[0].name} requires --distributed")
    if _DISTRIBUTED.value:
        parallel.start(_COORDINATOR.value, _PROCESSES.value, _PROCESS.value, _LOST_AFTER.value)
    parallel.use_compile_cache(config.data.cache)
    folds, source = _FOLDS.value, str(config_file())
    if folds:
        workdir = _WORKDIR.value or f"runs/{config.name}_{folds}folds"
        run_folds(config, workdir, folds, _PROFILE.value, source)
    else:
        run(config, _WORKDIR.value or f"runs/{config.name}", _PROFILE.value, source)
    return 0


def start(argv: Sequence[str] | None = None) -> NoReturn:
    """Parses the flags and runs `main`; the program's entry, also as `crlm train`.

    Args:
      argv: the program's name and its arguments; None: those of the process.
    """
    logging.set_verbosity(logging.WARNING)
    words = None if argv is None else list(argv)
    app.run(lambda left: console.exit_code(main, left), words, flags_parser=parse_flags)


if __name__ == "__main__":
    start()
