"""A cross-validation: a run for each fold of the patients, and their results out of fold.

Each fold is an ordinary run in a folder of its own, `fold2of5`. In the folder above them lie the
tables and the report of all patients, each of whom was tested by the one network that had not seen
that patient.
"""

import copy
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from crlm_jax.config.schema import Config, ConfigError, validate
from crlm_jax.data.cohort.cases import SPLITS, Case
from crlm_jax.data.cohort.rows import CohortError
from crlm_jax.runs.finished import read_finished
from crlm_jax.runs.folder import RunFolder, WorkdirError, open_workdir
from crlm_jax.runs.records import with_own_precision
from crlm_jax.runs.results import Summary
from crlm_jax.runs.taught import read_taught
from crlm_jax.system import parallel
from crlm_jax.system.console import console
from crlm_jax.system.files import locate
from crlm_jax.system.text import listed
from crlm_jax.training import experiment
from crlm_jax.training.card import show_results
from crlm_jax.training.loop import find_init
from crlm_jax.training.pooling import write_pooled

_NAMED = 20  # patients that a message names


def run_folds(
    config: Config, workdir: str | Path, folds: int, profile: int = 0, source: str = ""
) -> Summary | None:
    """Trains and tests a network for each fold, and reports all patients together.

    What is finished is left alone, so that the same command goes on.

    Args:
      config: the experiment, which names no fold.
      workdir: folder of the folds, or its address in a bucket.
      folds: how many, two or more.
      profile: how many training steps of each fold to trace.
      source: the experiment's file, which the run cards name.

    Returns:
      The summary of all patients; None if all was finished before, and in all processes but the
      main one.

    Raises:
      UserError: as `experiment.run`; a fold leaves no tumour to train on or to test, or a fold's
        test patients are known to the run that it goes on from. Nothing is trained then.
    """
    configs = _configs(config, folds)
    folder = RunFolder(locate(workdir))
    members = [RunFolder(folder.path / f"fold{k}of{folds}") for k in range(1, folds + 1)]
    if _check_workdir(folder, members, configs) and folder.finished:
        if parallel.is_main():
            console.print(f"{folder.path} is finished: see {folder.report}")
        return None
    _check_patients(configs)
    for member, own in zip(members, configs, strict=True):
        if parallel.is_main():
            console.rule(member.name, align="left")
        experiment.run(own, member.path, profile, source)
    if not parallel.is_main():
        return None
    summary = write_pooled([read_finished(member.path) for member in members], folder)
    console.rule(f"all {folds} folds: every patient, out of fold", align="left")
    show_results(summary)
    console.print(f"report: {folder.report}")
    return summary


def _configs(config: Config, folds: int) -> list[Config]:
    """Returns the configuration of each fold; nothing but the fold says who is tested."""
    for name, value in (("data.fold", config.data.fold), ("train.refit", config.train.refit)):
        if value:
            raise ConfigError(
                f"--folds {folds} and {name} = {value!r}: give one of the two, since the folds "
                "together have every patient"
            )
    configs = []
    for number in range(1, folds + 1):
        own = copy.deepcopy(config)
        own.data.fold, own.data.test_patients = f"{number}/{folds}", 0
        configs.append(validate(own))
    return configs


def _check_workdir(
    folder: RunFolder, members: Sequence[RunFolder], configs: Sequence[Config]
) -> bool:
    """Checks that a folder is new, or of the same cross-validation; changes nothing.

    Returns:
      Whether all folds are finished, and none is to be longer.

    Raises:
      WorkdirError: it holds something else.
    """
    path, folds = folder.path, len(members)
    if folder.begun and not folder.evaluation.exists():
        raise WorkdirError(f"{path} is a run without folds; give another --workdir")
    names = {each.name for each in path.iterdir()} if path.is_dir() else set()
    ours = {member.name for member in members}
    if other := sorted(n for n in names - ours if re.fullmatch(r"fold\d+of\d+", n)):
        raise WorkdirError(
            f"{path} holds {other[0]}, of another number of folds than {folds}; give another "
            "--workdir"
        )
    if names and not names & ours:
        raise WorkdirError(f"{path} exists and holds no folds; give another --workdir")
    platform = parallel.platform(parallel.make_mesh())
    finished = [
        open_workdir(with_own_precision(config, member, platform), member, of_folds=True)
        for member, config in zip(members, configs, strict=True)
    ]
    return all(finished)


def _check_patients(configs: Sequence[Config]) -> None:
    """Checks all folds before the first is trained.

    Raises:
      CohortError: a fold leaves no patient with tumour to train on, or to test.
      ConfigError: the run that all go on from has learned from patients whom they test.
    """
    prepared = experiment.prepare(configs[0])
    with_tumour = {
        prepared.cases[number].patient
        for split in SPLITS
        for number in _numbers_with_tumour(prepared.index(split))
    }
    patients = {case.patient for case in prepared.cases}
    every = [prepared.cases, *(experiment.read_cases(config, []) for config in configs[1:])]
    problems = [
        f"fold {config.data.fold} has no patient with tumour {said} ({_named(without)})"
        for config, cases in zip(configs, every, strict=True)
        for said, without in _without_tumour(cases, with_tumour)
    ]
    cohort = configs[0].data.cohort
    if problems:
        raise CohortError(
            f"{cohort}: {'; '.join(problems)}; {len(with_tumour)} of {len(patients)} patients have "
            "tumour; give fewer --folds, or deal the patients otherwise by "
            "--config.data.split_seed"
        )
    if not (init := configs[0].train.init):
        return
    taught = read_taught(find_init(configs[0]).path)
    known = {
        prepared.cases[number].patient
        for (number, _), own in prepared.prints.items()
        if own in taught.prints
    }
    if known:
        raise ConfigError(
            f"--folds and train.init = {init!r}: that run has learned from images of {cohort} that "
            f"the folds would test ({_named(sorted(known))}); begin from a run that has seen none "
            "of them, or leave train.init out"
        )


def _numbers_with_tumour(index: np.ndarray) -> set[int]:
    return set(index["case"][index["tumour"]].tolist())


def _without_tumour(cases: Sequence[Case], with_tumour: set[str]) -> list[tuple[str, list[str]]]:
    """Returns the splits of a fold in which nobody has tumour, with their patients."""
    found = []
    for split, said in (("train", "to train on"), ("test", "to test")):
        patients = {case.patient for case in cases if case.split == split}
        if not patients & with_tumour:
            found.append((said, sorted(patients)))
    return found


def _named(patients: Sequence[str]) -> str:
    return listed(patients, _NAMED)
