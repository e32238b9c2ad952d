"""What is evaluated: a run with its checkpoint, or masks; each with its cases and their slices."""

import copy
import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import jax

from crlm_jax import __version__
from crlm_jax.config.notices import is_phantom, scale_of
from crlm_jax.config.schema import Config, ConfigError, Data
from crlm_jax.data import slice_cache
from crlm_jax.data.cohort.cases import Case
from crlm_jax.data.cohort.channels import with_channels
from crlm_jax.data.slices import Slices
from crlm_jax.evaluate.about import about_data, record, unlike, unlike_ones
from crlm_jax.evaluate.masks import check_pattern, find_files, own_references, read_masks
from crlm_jax.evaluate.patients import (
    PHANTOM,
    TestCohort,
    Wish,
    check_conditions,
    check_images,
    choose_cases,
    choose_conditions,
)
from crlm_jax.evaluate.rules import Rules, check_livers_there, describe_rules, with_rules
from crlm_jax.imaging.channels import MOTION
from crlm_jax.measures import evaluate
from crlm_jax.measures.case import CaseResult
from crlm_jax.measures.predicted import drawn_images
from crlm_jax.runs.evaluation import Evaluation
from crlm_jax.runs.folder import RunFolder
from crlm_jax.runs.log import read_log
from crlm_jax.runs.members import check_alike, find_members
from crlm_jax.runs.results import Card
from crlm_jax.runs.taught import read_taught
from crlm_jax.runs.threshold import read_threshold
from crlm_jax.system import parallel
from crlm_jax.training.card import (
    describe_attributions,
    describe_choice,
)
from crlm_jax.training.fit_picture import write_fit
from crlm_jax.training.measuring import measure_best, measure_mean
from crlm_jax.training.threshold import describe_threshold


@dataclass(frozen=True)
class System:
    """A run or masks, ready to be measured.

    Args:
      name: unlike the names of the others, and fit for a folder.
      config: what it is measured with.
      slices: of its cases.
      evaluation: what `evaluation.json` says.
      card: the first lines of the card.
      measure: measures the test cases, and writes the viewer's files into a folder; returns what
        the card says of that too.
      doubts: about single masks.
    """

    name: str
    config: Config
    slices: Slices
    evaluation: Evaluation
    card: Card
    measure: Callable[[RunFolder], tuple[list[CaseResult], Card]]
    doubts: tuple[str, ...] = ()


@dataclass(frozen=True)
class Options:
    """How all systems are measured.

    Args:
      cache: folder of prepared slices.
      resample_masks: take masks on other grids than their images'.
      register: align images before and after chemotherapy; False: as a run has it.
      rules: what is made of the networks' answers, where that is not left to the runs.
    """

    cache: str = Data.cache
    resample_masks: bool = False
    register: bool = False
    rules: Rules = field(default_factory=dict)


def check_run(run: Path, rules: Rules) -> list[tuple[Config, RunFolder]]:
    """Returns a run that can be evaluated, or all members of an ensemble, with configurations.

    Args:
      run: its folder, or a folder that holds the runs of an ensemble.
      rules: in which members may differ, since the command decides them.

    Raises:
      ConfigError: the folder holds no run, or an evaluation, or runs that cannot be averaged.
      FileNotFoundError: a run has no checkpoint.
    """
    paths = find_members([run])
    members = [RunFolder(path) for path in paths]
    for member in members:
        if not member.checkpoints.is_dir():
            raise FileNotFoundError(
                f"{member.checkpoints}: no complete checkpoint; train the run first"
            )
    return list(zip(check_alike(paths, rules), members, strict=True))


def of_run(
    run: Path, name: str, cohort: TestCohort, wish: Wish, options: Options | None = None
) -> System:
    """Makes a system of a run, or of the mean of several.

    Args:
      run: its folder, or a folder that holds the runs of an ensemble.
      name: of the system.
      cohort: to evaluate on.
      wish: whom to evaluate.
      options: None: as by default.

    Raises:
      UserError: the run cannot be evaluated on the cohort.
    """
    options = options or Options()
    members = check_run(run, options.rules)
    every = [config for config, _ in members]
    trained = every[0]
    conditions, notes = choose_conditions(cohort, wish.conditions, trained, run)
    taught = read_taught(run)
    cases, of_patients = choose_cases(cohort, conditions, wish, taught)
    if channels := trained.data.channels:
        cases = _with_channels(run, cohort, conditions, cases, channels)
    config = with_rules(_measured_with(trained, cohort, conditions, options), options.rules)
    notes += of_patients + unlike(conditions, trained.data.conditions)
    check_livers_there(options.rules, cohort.name, cases)
    notes += describe_rules(every, options.rules)
    slices = slice_cache.prepare(cases, config.data)
    notes += [f"{doubt}." for doubt in [*([MOTION] if channels else []), *slices.doubts]]
    notes += check_images(cohort, slices, wish, taught)

    def measure(into: RunFolder) -> tuple[list[CaseResult], Card]:
        if config.data.channels:
            write_fit(config, slices, into)
        return _measure(config, slices, members, options.rules, into)

    about = f"{'+'.join(unlike_ones(c.method for c in every))}, {scale_of(trained)}"
    seeds = ", ".join(unlike_ones(str(c.train.seed) for c in every))
    what = "run" if len(every) == 1 else f"mean of {len(every)} runs in"
    about += f", ensemble of {len(every)}" * (len(every) > 1)
    digital = any(map(is_phantom, every))
    if digital and cohort.name != PHANTOM:
        notes.append(
            f"PHANTOM: the network was trained on digital images (version "
            f"{trained.phantom.version} of the phantom), not on patients."
        )
    evaluation = record("run", run, name, about, cohort, wish, notes)
    evaluation = dataclasses.replace(evaluation, phantom=evaluation.phantom or digital)
    card = [
        ("evaluated", f"the {what} {run}: {about}, seed {seeds}, crlm_jax {__version__}"),
        ("trained on", f"{', '.join(unlike_ones(c.data.cohort for c in every))}: "
                       f"{', '.join(trained.data.conditions)}; "
                       f"{len(taught.training)} patients with those who validated"),
        *about_data(cohort, config, cases, slices, wish, network=True),
        ("devices", f"{len(jax.devices())} × {jax.devices()[0].device_kind}, "
                    f"{parallel.threads()} threads, {config.train.precision}"),
    ]  # fmt: skip
    return System(name, config, slices, evaluation, card, measure)


def _measure(
    config: Config,
    slices: Slices,
    members: Sequence[tuple[Config, RunFolder]],
    rules: Rules,
    into: RunFolder,
) -> tuple[list[CaseResult], Card]:
    """Measures one run, or the mean of several."""
    mesh = parallel.make_mesh()
    if config.evaluation.batch_size % mesh.size:
        mesh = parallel.make_mesh(1)
    if len(members) > 1:
        saved = [(with_rules(own, rules), folder.checkpoints) for own, folder in members]
        mean = measure_mean(config, slices, saved, into, mesh)
        steps = zip(members, mean.steps, strict=True)
        text = ", ".join(f"{folder.name} step {step}" for (_, folder), step in steps)
        return mean.results, [("checkpoints", text), ("attribution", "none of an ensemble")]
    ((trained, folder),) = members
    measured = measure_best(config, slices, folder.checkpoints, into, mesh)
    chosen = describe_choice(trained, read_log(folder.log))
    card = [("checkpoint", f"step {measured.step}, {chosen}")]
    if "threshold" not in rules:
        card += describe_threshold(read_threshold(folder.threshold))
    return measured.results, card + describe_attributions(measured.errors)


def of_masks(
    pattern: str,
    name: str,
    cohort: TestCohort,
    wish: Wish,
    options: Options | None = None,
    *,
    label: int | str | None = None,
    like: Config | None = None,
) -> System:
    """Makes a system of masks, all of which are read once.

    Args:
      pattern: of the masks' files.
      name: of the system.
      cohort: to evaluate on.
      wish: whom to evaluate.
      options: None: as by default.
      label: what is tumour in the masks, as in a cohort's column `mask_label`.
      like: the configuration of a run that the masks are compared with, whose network size,
        windows and bootstrap are taken; None: the defaults.

    Raises:
      UserError: masks are missing or cannot be used.
    """
    options = options or Options()
    check_pattern(pattern)
    conditions = wish.conditions or tuple(cohort.conditions)
    check_conditions(cohort, conditions)
    cases, notes = choose_cases(cohort, conditions, wish, None)
    files = find_files(pattern, cohort, cases)
    base = like or Config()
    config = Config(name=name, method="masks", scale="own")
    config.data, config.evaluation = copy.deepcopy((base.data, base.evaluation))
    config.phantom, config.loss.stages = base.phantom, ()
    config = _measured_with(config, cohort, conditions, options)
    config.data.context, config.data.channels = 0, ()  # nothing looks at the images
    slices = slice_cache.prepare(cases, config.data)  # errors of the cohort come first
    given = read_masks(files, cases, label, config.data)
    notes += own_references(files, cases)

    def measure(into: RunFolder) -> tuple[list[CaseResult], Card]:
        images = drawn_images(slices, given.found, given.read)
        return evaluate.measure_images(config, slices, images, into), []

    evaluation = record("masks", pattern, name, "masks", cohort, wish, notes)
    said = "its only label" if label is None else str(label)
    card = [
        ("evaluated", f"the masks {pattern}: tumour is {said}; crlm_jax {__version__}"),
        ("paper's protocol", f"masks are shrunk to {config.data.image_size} × "
                             f"{config.data.image_size} pixels as the reference is"),
        *about_data(cohort, config, cases, slices, wish, network=False),
    ]  # fmt: skip
    return System(name, config, slices, evaluation, card, measure, given.doubts)


def _measured_with(
    config: Config, cohort: TestCohort, conditions: Sequence[str], options: Options
) -> Config:
    """Returns a configuration with another cohort; all else is as the run has it."""
    data = dataclasses.replace(
        config.data,
        cohort=cohort.name,
        conditions=tuple(conditions),
        cache=options.cache,
        resample_masks=config.data.resample_masks or options.resample_masks,
    )
    evaluation = dataclasses.replace(
        config.evaluation,
        register=config.evaluation.register or options.register,
        choose_threshold=False,  # that of the run is in `threshold` here
    )
    phantom = cohort.made or config.phantom
    return dataclasses.replace(config, data=data, phantom=phantom, evaluation=evaluation)


def _with_channels(
    run: Path,
    cohort: TestCohort,
    conditions: tuple[str, ...],
    cases: Sequence[Case],
    channels: tuple[str, ...],
) -> tuple[Case, ...]:
    """Puts the other sequences of `data.channels` beside the images of cases.

    Raises:
      ConfigError: another condition is asked for than that of the first channel.
      CohortError: a patient lacks a sequence.
    """
    if conditions != channels[:1]:
        raise ConfigError(
            f"--condition {' '.join(conditions)}: {run} sees {', '.join(channels)} together, and "
            f"is evaluated under {channels[0]}; leave the option out"
        )
    chosen = {case.patient for case in cases}
    every = [case for case in cohort.cases if case.patient in chosen]
    return with_channels(cohort.name, every, channels)
