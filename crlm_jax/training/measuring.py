"""From a trained network, or anyone's predictions, to the tables and the report of a folder.

A training ends with this code, and `crlm_jax.evaluate` runs the same code on other cohorts and on
masks, so that both give the same numbers.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jax.sharding import Mesh

from crlm_jax.config.schema import Config
from crlm_jax.data.slices import Slices
from crlm_jax.measures import evaluate
from crlm_jax.measures.case import CaseResult
from crlm_jax.measures.predicted import images_of
from crlm_jax.measures.response import find_responses
from crlm_jax.measures.summary import summarise, write_results
from crlm_jax.method import attribution
from crlm_jax.method.segment import load_best
from crlm_jax.predict.engine import xla
from crlm_jax.predict.ensemble import average
from crlm_jax.runs.folder import RunFolder
from crlm_jax.runs.records import check_shared
from crlm_jax.runs.results import Card, Summary
from crlm_jax.system import parallel


@dataclass(frozen=True)
class Measured:
    """What a trained network reached."""

    results: list[CaseResult]  # of the test cases
    step: int  # of the checkpoint that was measured
    errors: list[float]  # completeness errors of the attributions that the viewer shows


def measure_best(
    config: Config, slices: Slices, checkpoints: Path, folder: RunFolder, mesh: Mesh
) -> Measured:
    """Measures the test cases with the best checkpoint of a run.

    Args:
      config: of the run.
      slices: of the cohort.
      checkpoints: folder of the run's checkpoints.
      folder: where the viewer's files are written.
      mesh: the devices of all processes.
    """
    trained = load_best(config, checkpoints, mesh).on_own_devices()
    errors: list[float] = []
    steps, exact = config.evaluation.attribution_steps, trained.in_float32()

    def attribute(image: np.ndarray, region: np.ndarray) -> attribution.Attribution:
        found = attribution.attribute_region(exact, image, region, steps)
        errors.append(found.error)
        return found

    results = evaluate.evaluate_cases(
        config, slices, trained.probability, folder=folder, attribute=attribute if steps else None
    )
    check_shared(folder.views, [folder.view(*image).name for image in images_of(slices)])
    every_error = [error for each in parallel.gather(errors) for error in each]
    return Measured(results, trained.step, every_error)


@dataclass(frozen=True)
class MeasuredMean:
    """What the mean of several networks reached."""

    results: list[CaseResult]  # of the test cases
    steps: list[int]  # of the checkpoints that were measured, in the order that was given


def measure_mean(
    config: Config,
    slices: Slices,
    members: Sequence[tuple[Config, Path]],
    folder: RunFolder,
    mesh: Mesh,
) -> MeasuredMean:
    """Measures the test cases with the mean of the probabilities of several runs.

    The members are added up as `predict` adds them, so that their order does not matter. The viewer
    shows no attribution.

    Args:
      config: how the mean is measured.
      slices: of the cohort.
      members: configuration and folder of checkpoints of each run.
      folder: where the viewer's files are written.
      mesh: the devices of all processes.
    """
    trained = [load_best(own, checkpoints, mesh).on_own_devices() for own, checkpoints in members]
    ordered = sorted(trained, key=lambda each: xla.fingerprint(each.config, each.variables))

    def segment(batch: np.ndarray) -> np.ndarray:
        return average(np.asarray(each.probability(batch)) for each in ordered)

    results = evaluate.evaluate_cases(config, slices, segment, folder=folder)
    check_shared(folder.views, [folder.view(*image).name for image in images_of(slices)])
    return MeasuredMean(results, [each.step for each in trained])


def conclude(
    config: Config,
    folder: RunFolder,
    results: Sequence[CaseResult],
    card: Card,
    *,
    phantom: bool | None = None,
) -> Summary:
    """Writes all tables and the report of a folder; returns the summary.

    Args:
      config: the experiment.
      folder: with its `config.json` and `data.json`.
      results: of all test cases.
      card: the lines of the run card.
      phantom: whether network or images are of a phantom; None: as the configuration says.
    """
    responses = find_responses(results)
    summary = summarise(config, results, responses, phantom=phantom)
    write_results(folder, results, responses, summary, card)
    from crlm_jax.report import page  # here: a training needs no matplotlib until its end

    page.write_report([folder.path], folder.report)
    return summary
