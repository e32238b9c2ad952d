"""The runs of a study: read from its file, run one after the other, and their states.

A study file has `get_study(arg)`, which returns a list of (name, config). A name is
`experiment/system/seedN`, or `experiment/system/seedN_foldKofF` for a fold of the patients, which
is also the folder of its run. The first system of an experiment is what the others are compared
with. The runs share the prepared data and the compile cache.

A study that was interrupted goes on with the same command. A run that fails does not stop the
others: its error is kept in `NAME.error.txt` beside its folder until the run succeeds.

`python -m crlm_jax.study --list` loads no JAX, so functions that need it import it themselves.
"""

import re
import traceback
import types
from dataclasses import dataclass
from importlib.machinery import SourceFileLoader
from pathlib import Path

from crlm_jax.config import experiments
from crlm_jax.config.schema import Config, ConfigError, validate
from crlm_jax.config.storage import differences
from crlm_jax.runs.folder import RunFolder, read_begun
from crlm_jax.system import preemption
from crlm_jax.system.console import console
from crlm_jax.system.files import write_whole

_NAME = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*/(seed\d+)(?:_fold([1-9]\d*)of([1-9]\d*))?")
_LEVELS = 3  # of a run's name
_FORM = "experiment/system/seedN or experiment/system/seedN_foldKofF"


@dataclass(frozen=True)
class StudyRun:
    """One run of a study."""

    name: str  # experiment/system/seedN, and _foldKofF for a fold
    config: Config
    folder: RunFolder

    @property
    def seed(self) -> str:
        """Such as `seed0`: the same in all folds of a seed."""
        return self.name.rpartition("/")[2].partition("_")[0]

    @property
    def fold(self) -> tuple[int, int] | None:
        """Which fold of how many it tests; None: the study has no folds."""
        match = _NAME.fullmatch(self.name)
        return (int(match[2]), int(match[3])) if match and match[2] else None

    @property
    def error(self) -> Path:
        """The file with the error of the last attempt; absent if there was none."""
        return self.folder.path.with_name(self.folder.path.name + ".error.txt")

    @property
    def unlike(self) -> str:
        """How the run in the folder is another experiment than this one; empty: it is this one.

        "auto" stands for whatever precision it was there, and a run that goes on from another one
        of the study may have been moved with it.
        """
        begun = read_begun(self.folder.path)
        free = ["train.precision"] * (self.config.train.precision == "auto")
        if Path(begun.train.init).parts[-_LEVELS:] == Path(self.config.train.init).parts[-_LEVELS:]:
            free.append("train.init")
        return "; ".join(differences(begun, self.config, besides=free))

    @property
    def state(self) -> str:
        """Whether the run is finished, failed (and why), begun, waiting or another experiment's."""
        if self.folder.finished:
            return f"of another experiment: {self.unlike}" if self.unlike else "finished"
        if self.error.exists():
            lines = self.error.read_text(encoding="utf-8").strip().splitlines()
            return f"failed: {lines[-1] if lines else 'no message'}"
        return "begun" if self.folder.begun else "waiting"


def load_study(file: str, workdir: Path) -> list[StudyRun]:
    """Reads a study. A run's `train.init` may be the name of an earlier run of it.

    Args:
      file: PATH or PATH:ARGUMENTS of the study file, or its name.
      workdir: folder of all runs.

    Raises:
      ConfigError: the file is no study, or a run's name or configuration is wrong.
    """
    name, _, arg = file.partition(":")
    path = experiments.find("--study", name)
    experiments.provide_package(path)
    module = types.ModuleType("study_file")
    module.__file__ = str(path)
    SourceFileLoader(module.__name__, str(path)).exec_module(module)
    if not hasattr(module, "get_study"):
        raise ConfigError(f"--study {path}: has no get_study(arg), so it is no study")
    listed = [(name, validate(config)) for name, config in module.get_study(arg or None)]
    names = [name for name, _ in listed]
    for _, config in listed:
        if config.train.init in names:  # another run of the study, which comes before it
            config.train.init = str(workdir / config.train.init)
    runs = [StudyRun(name, config, RunFolder(workdir / name)) for name, config in listed]
    for name in names:
        if not _NAME.fullmatch(name):
            raise ConfigError(f"--study {path}: run {name!r} is not named {_FORM}")
    for run in runs:
        fold = f"{run.fold[0]}/{run.fold[1]}" if run.fold else run.config.data.fold
        if fold != run.config.data.fold:
            raise ConfigError(
                f"--study {path}: run {run.name!r} has data.fold = {run.config.data.fold!r}, but "
                f"its name says {fold!r}"
            )
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise ConfigError(f"--study {path}: two runs are named {twice[0]}")
    if not runs:
        raise ConfigError(f"--study {path}: has no run")
    return runs


def run_one(run: StudyRun) -> None:
    """Runs one experiment in this process; an error is kept in `run.error` and raised."""
    from crlm_jax.runs.lock import BusyError
    from crlm_jax.system import parallel
    from crlm_jax.training import experiment

    run.error.parent.mkdir(parents=True, exist_ok=True)
    try:
        parallel.use_threads(run.config.system.threads)
        parallel.use_compile_cache(run.config.data.cache)
        preemption.exit_when_told()
        experiment.run(run.config, run.folder.path)
    except (preemption.Preempted, BusyError):
        raise  # not a failure: the run goes on, here when it is started again or elsewhere
    except Exception as error:
        write_whole(run.error, f"{traceback.format_exc()}\n{type(error).__name__}: {error}\n")
        raise
    run.error.unlink(missing_ok=True)


def run_all(runs: list[StudyRun], command: list[str]) -> int:
    """Runs whatever is not finished, each run in its own process.

    Args:
      runs: of the study.
      command: starts a run when its index is added.

    Returns:
      How many runs failed.

    Raises:
      preemption.Preempted: the study was told to stop, and its run has saved a checkpoint.
    """
    failed = 0
    for index, run in enumerate(runs):
        if run.state == "finished":
            continue
        console.rule(f"{index + 1} of {len(runs)}: {run.name}", align="left")
        code = preemption.run_child([*command, str(index)])
        if code == preemption.EXIT_CODE:
            raise preemption.Preempted(f"told to stop during {run.name}; start the study again")
        if code:
            failed += 1
            if code < 0:  # killed, for example for its memory, before it could write its error
                run.error.parent.mkdir(parents=True, exist_ok=True)
                write_whole(run.error, f"killed by signal {-code}\n")
    return failed
