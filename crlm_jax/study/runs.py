"""Many runs as one: what is not finished yet is run, one ordinary run directory each.

    python -m crlm_jax.study --study configs/studies/stages.py --workdir runs/stages
    python -m crlm_jax.study --study configs/studies/stages.py:seeds=1 --workdir runs/stages --list
    python -m crlm_jax.study --study configs/studies/stages.py --workdir runs/stages --report

A study file has `get_study(arg)`, which returns a list of (name, config); a name is
`experiment/system/seedN`, and so is the folder of its run. The first system of an experiment is
what the others are compared with. The runs share the prepared data and the compile cache.

A study that was interrupted goes on with the same command. A run that fails does not stop the
others: its error stands in its folder's neighbour, `NAME.error.txt`, until it succeeds.
"""

import importlib.util
import re
import traceback
from dataclasses import dataclass
from pathlib import Path

from crlm_jax.config import experiments
from crlm_jax.config.schema import Config, ConfigError, validate
from crlm_jax.runs.folder import RunFolder
from crlm_jax.system import preemption
from crlm_jax.system.console import console
from crlm_jax.system.files import write_whole

_NAME = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*/seed\d+")


@dataclass(frozen=True)
class StudyRun:
    """One run of a study: `name` is experiment/system/seedN, `folder` the run's."""

    name: str
    config: Config
    folder: Path

    @property
    def error(self) -> Path:
        """File with the error of the last attempt; absent where there was none."""
        return self.folder.with_name(self.folder.name + ".error.txt")

    @property
    def state(self) -> str:
        """Where the run stands: finished, failed (and why), begun or waiting."""
        folder = RunFolder(self.folder)
        if folder.finished:
            return "finished"
        if self.error.exists():
            lines = self.error.read_text(encoding="utf-8").strip().splitlines()
            return f"failed: {lines[-1] if lines else 'without a word'}"
        return "begun" if folder.begun else "waiting"


def load_study(file: str, workdir: Path) -> list[StudyRun]:
    """Reads a study file, given as PATH or PATH:ARGUMENTS.

    Raises:
      ConfigError: the file is no study, or a run's name or configuration is wrong.
    """
    name, _, arg = file.partition(":")
    path = experiments.find("--study", name)
    experiments.provide_package(path)
    spec = importlib.util.spec_from_file_location("study_file", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    if not hasattr(module, "get_study"):
        raise ConfigError(f"--study {path}: has no get_study(arg), so it is no study")
    runs = [StudyRun(n, validate(c), workdir / n) for n, c in module.get_study(arg or None)]
    names = [run.name for run in runs]
    for name in names:
        if not _NAME.fullmatch(name):
            raise ConfigError(f"--study {path}: run {name!r} is not named experiment/system/seedN")
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise ConfigError(f"--study {path}: two runs are named {twice[0]}")
    if not runs:
        raise ConfigError(f"--study {path}: has no run")
    return runs


def run_one(run: StudyRun) -> None:
    """Runs one experiment in this process; what goes wrong is kept and raised."""
    from crlm_jax.system import parallel  # JAX is for the processes that run, not for the listing
    from crlm_jax.training import experiment

    run.folder.parent.mkdir(parents=True, exist_ok=True)
    try:
        parallel.use_compile_cache(run.config.data.cache)
        preemption.exit_when_told()
        experiment.run(run.config, run.folder)
    except preemption.Preempted:
        raise  # no failure: it goes on when it is started again
    except Exception as error:
        write_whole(run.error, f"{traceback.format_exc()}\n{type(error).__name__}: {error}\n")
        raise
    run.error.unlink(missing_ok=True)


def run_all(runs: list[StudyRun], command: list[str]) -> int:
    """Runs what is not finished, each in a process of its own; returns how many failed.

    Raises:
      preemption.Preempted: the study was told to stop, and its run has saved what it had.

    Args:
      runs: of the study.
      command: starts a run when its index is added.
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
            if code < 0:  # killed, for example by the system for its memory: it could not say so
                run.folder.parent.mkdir(parents=True, exist_ok=True)
                write_whole(run.error, f"killed by signal {-code}\n")
    return failed
