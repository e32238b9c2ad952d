"""The training loop, read top to bottom: batches, steps, log, validation, checkpoints."""

import contextlib
import dataclasses
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from tqdm import tqdm

from crlm_jax.config.length import tumour_steps
from crlm_jax.config.schema import Config, ConfigError
from crlm_jax.config.selection import metric_name
from crlm_jax.data import pipeline
from crlm_jax.data.slices import Slices
from crlm_jax.measures import evaluate
from crlm_jax.method.checkpoint import Checkpoints
from crlm_jax.method.networks import Networks
from crlm_jax.method.segment import TrainedSegmenter
from crlm_jax.method.shares import Shares, make_shares
from crlm_jax.method.step import TrainState, make_train_step
from crlm_jax.runs.folder import RunFolder, read_begun
from crlm_jax.runs.log import TrainLog, read_log
from crlm_jax.runs.tensorboard import open_board
from crlm_jax.system import parallel
from crlm_jax.system.files import locate
from crlm_jax.system.preemption import Notice, Preempted
from crlm_jax.system.profiling import Profiler
from crlm_jax.training.patience import Patience
from crlm_jax.training.refit import Refit, lengths


@dataclasses.dataclass(frozen=True)
class Experiment:
    """What training and evaluation have in common."""

    config: Config
    slices: Slices
    folder: RunFolder
    mesh: Mesh  # over all devices of all processes
    refit: Refit | None = None  # the run that is done again, with its validation patients


def segmenter_part(state: TrainState) -> dict[str, Any]:
    """Returns the part of a checkpoint that evaluation and prediction need.

    These are the averaged weights, if there are any.
    """
    return {"segmenter": state.weights if state.average is None else state.average}


def checkpoint_parts(state: TrainState) -> dict[str, Any]:
    """Returns a whole checkpoint, without a frozen critic, which is read again from its source."""
    training = {"step": state.step, "opt_state": state.opt_state}
    if state.critic_opt_state is not None:
        training |= {"critic": state.critic, "critic_opt_state": state.critic_opt_state}
    if state.average is not None:
        training |= state.weights
    return segmenter_part(state) | {"training": training}


def with_parts(state: TrainState, parts: Mapping[str, Any]) -> TrainState:
    """Returns the state with the parts of a checkpoint."""
    segmenter, training = parts["segmenter"], parts["training"]
    if state.average is None:
        return dataclasses.replace(state, **segmenter, **training)
    return dataclasses.replace(state, average=segmenter, **training)


def find_init(config: Config) -> RunFolder:
    """Returns the folder of the run `train.init`.

    Raises:
      ConfigError: no run is there.
    """
    source = RunFolder(locate(config.train.init))
    if not source.begun:
        raise ConfigError(
            f"train.init = {config.train.init!r}: no run is there yet; train it first (in a study, "
            "the run of that name)"
        )
    return source


def step_of_init(config: Config, steps: int) -> int:
    """Returns the step of the newest checkpoint of the run `train.init`.

    Args:
      config: the experiment that begins there.
      steps: its updates, those of that run included.

    Raises:
      ConfigError: no run is there, it has no checkpoint, or no update would be left.
    """
    source = find_init(config)
    with Checkpoints(source.checkpoints, config.train.keep, saves=False) as saved:
        step = saved.latest
    if step is None:
        raise ConfigError(
            f"train.init = {config.train.init!r}: that run has no complete checkpoint yet; train "
            "it first"
        )
    if step >= steps:
        raise ConfigError(
            f"train.init = {config.train.init!r}: that run is at step {step:,}, and this one has "
            f"{steps:,} in all; set more by --config.train.steps"
        )
    return step


def take_over(config: Config, state: TrainState, steps: int) -> tuple[int, TrainState]:
    """Returns the step and the state of the newest checkpoint of the run `train.init`.

    Without an average there, the average begins with the weights.

    Raises:
      ConfigError: as of `step_of_init`.
      CheckpointError: its checkpoint is of other networks or of another optimiser.
    """
    step, source = step_of_init(config, steps), find_init(config)
    averaged = bool(read_begun(source.path).train.ema)
    like = dataclasses.replace(state, average=state.weights if averaged else None)
    with Checkpoints(source.checkpoints, config.train.keep, saves=False) as saved:
        found = with_parts(like, saved.load(step, checkpoint_parts(like)))
    if state.average is None:
        return step, dataclasses.replace(found, average=None)
    # A copy: the step is given the state to overwrite, and one array cannot be two of its parts.
    average = found.average or jax.tree.map(jnp.copy, found.weights)
    return step, dataclasses.replace(found, average=average)


def fit(experiment: Experiment, networks: Networks, state: TrainState, profile: int = 0) -> None:
    """Trains from `state`, or from the newest checkpoint of the run's folder if it has one.

    Writes checkpoints and the training log, and traces `profile` of the steps. `state` is donated.

    Raises:
      NonFiniteLoss: naming step, terms and cases; the checkpoints stay.
      Preempted: the process was told to stop, and the current step is saved.
    """
    config, slices, folder = experiment.config, experiment.slices, experiment.folder
    steps, schedule = lengths(config, len(slices.source("train")), experiment.refit)
    train_step = make_train_step(config, networks, experiment.mesh, schedule)
    with contextlib.ExitStack() as stack:
        checkpoints = stack.enter_context(Checkpoints(folder.checkpoints, config.train.keep))
        notice = stack.enter_context(Notice())
        start, found = checkpoints.resume(checkpoint_parts(state)) or (0, None)
        if found:
            state = with_parts(state, found)
        elif config.train.init:
            start, state = take_over(config, state, steps)
        shares = make_shares(config, networks, experiment.mesh)
        profiler = stack.enter_context(Profiler(folder.profile, profile, start))
        batches = _batches(config, slices, start, schedule)
        board = stack.enter_context(open_board(config, folder, start))
        log = TrainLog(folder.log, start if found else -1, config, _name_record(slices), board)
        validated = _validations(folder, config, start)
        patience = Patience(config.train.patience, validated.values())
        course = _Course(experiment, networks, log, checkpoints, patience)
        if found and _is_due(config, start, steps) and start not in validated:
            course.validate(state, start, again=True)
        bar = tqdm(range(start + 1, steps + 1), "train", steps, initial=start, unit="step",
                   disable=not parallel.is_main())  # fmt: skip
        for step in bar:
            if patience.over:
                bar.set_description("stopped early")
                break
            with profiler.step(step):
                batch = next(batches)
                records = batch.pop("record")
                placed = parallel.to_global(batch, experiment.mesh)
                if step == start + 1 and found is None:  # a run that goes on has its line
                    _log_shares(log, start, shares(state, placed))
                state, terms = train_step(state, placed)
            log.add(step, terms, records)
            told = notice.reached(step)
            save = told or _is_due(config, step, steps)
            if save or step % config.train.log_every == 0:
                bar.set_postfix_str(log.flush())
            # There may be seconds left: a validation that is due waits until the run goes on.
            if told:
                checkpoints.save(step, checkpoint_parts(state), None)
                raise Preempted(f"told to stop: step {step} of {steps} is saved; start it again")
            if save:
                course.validate(state, step)
                _log_shares(log, step, shares(state, placed))


def _is_due(config: Config, step: int, steps: int) -> bool:
    """Whether a step of a training of so many is validated and saved."""
    return step % config.train.checkpoint_every == 0 or step == steps


@dataclasses.dataclass(frozen=True)
class _Course:
    """Where a training writes what it has reached."""

    experiment: Experiment
    networks: Networks
    log: TrainLog
    checkpoints: Checkpoints
    patience: Patience

    def validate(self, state: TrainState, step: int, *, again: bool = False) -> None:
        """Validates a step, and saves its checkpoint; `again`: over the one that is there."""
        dsc = _validate(self.experiment, self.networks, state, step)
        self.log.validation(step, dsc)
        if dsc is not None:
            self.patience.add(dsc)
        if dsc is not None or not again:
            name = metric_name(self.experiment.config)
            self.checkpoints.save(step, checkpoint_parts(state), dsc, name, again=again)


def _validations(folder: RunFolder, config: Config, start: int) -> dict[int, float]:
    """Returns the DSCs that a run reached until a step, by their steps in order."""
    name = metric_name(config)
    lines = (line for line in read_log(folder.log) if name in line)
    return {line["step"]: line[name] for line in lines if line["step"] <= start}


def _log_shares(log: TrainLog, step: int, shares: Shares) -> None:
    log.shares(step, shares.loss, shares.gradient)


def _validate(
    experiment: Experiment, networks: Networks, state: TrainState, step: int
) -> float | None:
    """Returns the mean DSC of the validation patients, without mirroring."""
    variables = segmenter_part(state)["segmenter"]
    config, mesh = experiment.config, experiment.mesh
    trained = TrainedSegmenter(
        config, networks.segmenter_eval, variables, step, mesh, mirror=False
    ).on_own_devices()
    return evaluate.validation_dsc(config, experiment.slices, trained.probability)


def _name_record(slices: Slices) -> Callable[[int], str]:
    """Returns the function that names a training record, such as `p1/ct z=3`."""
    index = slices.index("train")

    def name(record: int) -> str:
        case = slices.cases[index["case"][record]]
        return f"{case.patient}/{case.condition} z={index['z'][record]}"

    return name


def _batches(config: Config, slices: Slices, start: int, planned: int) -> Iterator[pipeline.Batch]:
    """Returns the batches from a step on, of a training planned for a number of updates."""
    return pipeline.train_batches(
        slices.source("train"),
        config.augment,
        batch_size=config.train.batch_size,
        seed=config.train.seed,
        start_step=start,
        process=(jax.process_index(), jax.process_count()),
        workers=config.data.workers,
        foreground=config.train.foreground,
        tumour_steps=tumour_steps(config, planned),
        tumour=np.flatnonzero(slices.index("train")["tumour"]),
    )
