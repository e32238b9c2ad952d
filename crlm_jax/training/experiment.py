"""One experiment: prepare the data, train, measure, report."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jax.experimental import multihost_utils
from jax.sharding import Mesh

from crlm_jax.config.notices import is_phantom
from crlm_jax.config.schema import Config, ConfigError, validate
from crlm_jax.data import slice_cache
from crlm_jax.data.cohort.cases import SPLITS, Case, read_cohort, with_validation_trained
from crlm_jax.data.cohort.channels import with_channels
from crlm_jax.data.cohort.reference import check_livers
from crlm_jax.data.phantom.cohort import cached_phantom
from crlm_jax.data.slices import Slices
from crlm_jax.errors import UserError
from crlm_jax.imaging.channels import MOTION
from crlm_jax.method.step import create_state
from crlm_jax.runs.aside import set_aside
from crlm_jax.runs.folder import RunFolder, open_workdir
from crlm_jax.runs.lock import only_training
from crlm_jax.runs.log import read_log
from crlm_jax.runs.records import check_records, keep_records, with_own_precision, with_threads
from crlm_jax.runs.results import Summary
from crlm_jax.runs.taught import doubts_of_test
from crlm_jax.runs.tensorboard import check_board
from crlm_jax.runs.threshold import with_threshold
from crlm_jax.system import parallel
from crlm_jax.system.console import console, print_stderr
from crlm_jax.system.files import locate
from crlm_jax.system.parallel import chosen_numbers
from crlm_jax.training.card import (
    describe_attributions,
    describe_choice,
    describe_early_end,
    describe_mask,
    describe_run,
    describe_small_lesions,
    describe_split,
    describe_terms,
    doubt_of_repetition,
    show_card,
    show_results,
)
from crlm_jax.training.fit_picture import write_fit
from crlm_jax.training.loop import Experiment, find_init, fit, step_of_init
from crlm_jax.training.measuring import conclude, measure_best
from crlm_jax.training.refit import lengths, read_refit
from crlm_jax.training.threshold import describe_threshold, settle_threshold


def prepare(config: Config) -> Slices:
    """Reads the cohort, or makes the phantom, and cuts it into slices.

    For a refit the validation patients are among the training patients.

    If the processes share the cache, the main one prepares the data and the others read its cache.
    Otherwise all prepare the data at once.

    Raises:
      UserError: the slices of another process are not those of the main one.
    """
    wait = config.data.cache_shared
    if wait and not parallel.is_main():
        multihost_utils.sync_global_devices("prepared")
    doubts: list[str] = []
    cases = read_cases(config, doubts)
    for doubt in doubts if parallel.is_main() else ():
        print_stderr(f"warning: {doubt}")
    prepared = slice_cache.prepare(cases, config.data)
    if wait and parallel.is_main():
        multihost_utils.sync_global_devices("prepared")
    digests = parallel.gather(prepared.digest)
    if others := chosen_numbers(digest != digests[0] for digest in digests):
        raise UserError(
            f"data.cohort = {config.data.cohort!r}: process {others} found "
            "other images or masks there than process 0; copy the cohort again"
        )
    return prepared


def read_cases(config: Config, doubts: list[str]) -> tuple[Case, ...]:
    """Reads the cohort, or makes the phantom, and splits its patients.

    Args:
      config: the experiment.
      doubts: receives what the user should know of the file, a line each.

    Raises:
      CohortError: listing all that is wrong with the file.
    """
    if is_phantom(config):
        phantom = config.phantom
        cohort = cached_phantom(config.data.cache, phantom.patients, phantom.seed, phantom.version)
    else:
        cohort = Path(config.data.cohort).expanduser()
    cases = read_cohort(
        cohort,
        conditions=config.data.channels or config.data.conditions,
        test_fraction=config.data.test_fraction,
        test_patients=config.data.test_patients,
        fold=config.data.fold,
        validation_fraction=config.data.validation_fraction,
        seed=config.data.split_seed,
        doubts=doubts,
    )
    if config.data.channels:
        cases = with_channels(cohort, cases, config.data.channels)
    return with_validation_trained(cases) if config.train.refit else cases


def run(config: Config, workdir: str | Path, profile: int = 0, source: str = "") -> Summary | None:
    """Runs one experiment from its data to its report.

    Args:
      config: the experiment.
      workdir: folder of the run, or the address of one in a bucket (`gs://`).
      profile: how many training steps to trace.
      source: the experiment's file, which the run card names.

    Returns:
      The summary; None if the run was finished before, and in all processes but the main one.

    Raises:
      UserError: the configuration, the data, the weights or the folder are wrong.
      OSError: a file cannot be read or written.
    """
    validate(config)
    folder, mesh = RunFolder(locate(workdir)), parallel.make_mesh()
    config = with_own_precision(config, folder, parallel.platform(mesh))
    if open_workdir(config, folder):
        if parallel.is_main():
            console.print(f"{folder.path} is finished: see {folder.report}")
        return None
    with only_training(folder):  # before hours of preparing data for a folder that is read-only
        return _run(config, folder, mesh, profile, source)


def _run(
    config: Config, folder: RunFolder, mesh: Mesh, profile: int, source: str
) -> Summary | None:
    parallel.check_batch_size(config.train.batch_size, mesh, "train.batch_size")
    parallel.check_batch_size(config.evaluation.batch_size, mesh, "evaluation.batch_size")
    config = with_threads(config, folder, parallel.platform(mesh))
    check_board(config, folder)
    refit = read_refit(config)
    init = find_init(config) if config.train.init else None
    networks, state = create_state(config, mesh)
    prepared = prepare(config)
    data = describe_data(prepared)
    if refit is None:
        _check_validation(config, data)
    if refit is not None:
        refit.check_patients(data)
    if config.data.channels and parallel.is_main():
        write_fit(config, prepared, folder)
    doubts = [f"{MOTION}; see {folder.channels.name}"] * bool(config.data.channels)
    doubts += [*prepared.doubts, *(doubts_of_test(init.path, data["test"]) if init else ())]
    check_records(folder, data, prepared.digest)
    steps, planned = lengths(config, data["train"]["slices"], refit)
    doubts += doubt_of_repetition(config, data["train"], planned)
    if not folder.begun:  # before the folder is this run's, and hours go by
        if init:
            step_of_init(config, steps)
        if config.evaluation.liver == "column":
            check_livers(prepared.cases, resample=config.data.resample_masks)
    if parallel.is_main() and (aside := set_aside(folder)):
        console.print(f"what the run had found so far is kept in {aside}")
    keep_records(config, folder, data, prepared.digest)
    card = describe_run(config, folder, data, state, steps, planned)
    card.insert(3, ("patients", describe_split(prepared.cases, config)))
    card += describe_small_lesions(config, prepared) + describe_mask(config, prepared.cases)
    card += [("doubt", doubt) for doubt in doubts]
    if source:
        card.insert(1, ("config file", source))
    if parallel.is_main():
        show_card(config, card)
        for doubt in doubts:
            print_stderr(f"warning: {doubt}")
    experiment = Experiment(config, prepared, folder, mesh, refit)
    fit(experiment, networks, state, profile)
    chosen = settle_threshold(config, prepared, folder, mesh, refit)
    card += describe_threshold(chosen, config.evaluation.threshold)
    if chosen is not None:
        config = with_threshold(config, chosen.threshold)
    measured = measure_best(config, prepared, folder.checkpoints, folder, mesh)
    if not parallel.is_main():
        return None
    log = read_log(folder.log)
    card += describe_terms(log)
    card.append(("checkpoint", f"step {measured.step}, {describe_choice(config, log)}"))
    card += describe_early_end(config, log, steps)
    card += describe_attributions(measured.errors)
    summary = conclude(config, folder, measured.results, card)
    show_results(summary)
    console.print(f"report: {folder.report}")
    return summary


def _check_validation(config: Config, data: Mapping[str, Mapping[str, Any]]) -> None:
    """Checks, before the training, that what is decided on validation patients can be.

    Raises:
      ConfigError: no validation patient has tumour.
    """
    wanted = (
        ("train.patience", config.train.patience, "when to end", 0),
        ("evaluation.choose_threshold", config.evaluation.choose_threshold,
         "which threshold is best", False),
    )  # fmt: skip
    for name, value, what, without in wanted:
        if value and not data["validation"]["tumour_slices"]:
            raise ConfigError(
                f"{name} = {value}: no validation patient has tumour, so nothing says {what}; give "
                "some by data.validation_fraction or the cohort's column split, or set "
                f"--config.{name}={str(without).lower()}"
            )


def describe_data(prepared: Slices) -> dict[str, dict[str, Any]]:
    """Returns patients, images and slices of each split, for the run card and `data.json`."""
    description: dict[str, dict[str, Any]] = {}
    for split in SPLITS:
        numbered = [(i, case) for i, case in enumerate(prepared.cases) if case.split == split]
        cases, numbers = [case for _, case in numbered], {i for i, _ in numbered}
        index = prepared.index(split)
        description[split] = {
            "patients": sorted({case.patient for case in cases}),
            "images": sum(len(case.images) for case in cases),
            "slices": len(index),
            "tumour_slices": int(index["tumour"].sum()),
            "prints": sorted(own for (i, _), own in prepared.prints.items() if i in numbers),
        }
    return description
