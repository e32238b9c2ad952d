"""Prepares, trains, evaluates and reports one experiment.

    python -m crlm_jax.main --config configs/cross_pre.py
    python -m crlm_jax.main --config configs/ct.py:scale=paper --config.data.cohort=cohort.csv

Flags and exit codes only: `training/experiment.py` does the work.
"""

import sys
import traceback

from absl import app, flags, logging

from crlm_jax.config.flags import flagged_config, parse_flags, root_cause
from crlm_jax.config.schema import ConfigError
from crlm_jax.data.cohort.rows import CohortError
from crlm_jax.imaging.geometry import VolumeError
from crlm_jax.method.checkpoint import CheckpointError
from crlm_jax.models.torch_weights import WeightsError
from crlm_jax.runs.log import NonFiniteLoss
from crlm_jax.system import parallel, preemption
from crlm_jax.system.console import console
from crlm_jax.training.experiment import run

_WORKDIR = flags.DEFINE_string(
    "workdir", None, "Folder of the run, also at gs://; runs/<config.name> by default."
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

_USER_ERRORS = (
    ConfigError, CohortError, VolumeError, WeightsError, NonFiniteLoss, CheckpointError, OSError,
    ValueError,
)  # fmt: skip


def main(argv: list[str]) -> None:
    """Entry point after the flags are parsed."""
    if len(argv) > 1:
        sys.exit(f"error: {argv[1]!r} is not a flag; fields are set as --config.field=value")
    try:
        config = flagged_config()
        preemption.exit_when_told()
        given = [f for f in (_COORDINATOR, _PROCESSES, _PROCESS) if f.value != f.default]
        if given and not _DISTRIBUTED.value:
            raise ValueError(f"--{given[0].name} is of several processes: give --distributed too")
        if _DISTRIBUTED.value:
            parallel.start(_COORDINATOR.value, _PROCESSES.value, _PROCESS.value, _LOST_AFTER.value)
        parallel.use_compile_cache(config.data.cache)
        run(config, _WORKDIR.value or f"runs/{config.name}", _PROFILE.value)
    except preemption.Preempted as told:
        console.print(str(told))
        sys.exit(preemption.EXIT_CODE)
    except Exception as error:
        known = isinstance(error, _USER_ERRORS) or parallel.is_cut_off(error)
        if known and not logging.level_debug():
            parallel.leave(f"error: {root_cause(error)}", error, _LOST_AFTER.value)
        traceback.print_exc()
        parallel.leave(1, error, _LOST_AFTER.value)


if __name__ == "__main__":
    logging.set_verbosity(logging.WARNING)
    app.run(main, flags_parser=parse_flags)
