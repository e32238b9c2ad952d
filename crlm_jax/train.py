"""Training: the state, one pure step for every method, and the loop, read top to bottom.

One step, after Xia et al., Cancer Imaging 26:10 (2025):

    prob       = sigmoid(segmenter(image))
    loss       = bce_weight · BCE + dice_weight · Dice
               + Σ_{s in stages} mean |critic(image·prob)_s − critic(image·mask)_s|
    segmenter  ← gradient of loss         (through the critic, never into it)
    critic     ← ascent on the same distance, only where critic.update = "adversarial"
"""

import contextlib
import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jax.sharding import Mesh
from tqdm import tqdm

from crlm_jax import evaluate, losses, parallel
from crlm_jax.checkpoint import Checkpoints
from crlm_jax.config import Config, Loss
from crlm_jax.data import pipeline
from crlm_jax.data.slices import Slices
from crlm_jax.log import TrainLog
from crlm_jax.models.inputs import network_input
from crlm_jax.networks import Networks, create_networks, create_segmenter, evaluation_graph
from crlm_jax.preemption import Notice, Preempted
from crlm_jax.profiling import Profiler

Terms = dict[str, jax.Array]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class TrainState:
    """All that a step reads and writes."""

    step: jax.Array  # () int32, updates done
    params: nnx.State  # of the segmenter
    batch_stats: nnx.State  # of the segmenter
    opt_state: optax.OptState
    critic: nnx.State | None  # None: no stage is constrained
    critic_opt_state: optax.OptState | None  # None: the critic is frozen


Update = Callable[[TrainState, jax.Array, jax.Array], tuple[TrainState, Terms]]


def learning_rate(config: Config, steps: int) -> optax.Schedule:
    """The learning rate as a function of the number of updates done, of `steps` in all."""
    optimizer, start = config.optimizer, config.optimizer.learning_rate
    if optimizer.schedule == "polynomial":
        return optax.polynomial_schedule(start, 0.0, power=0.9, transition_steps=steps)
    if optimizer.schedule == "halved":
        every = max(1, steps * optimizer.halve_every // config.train.epochs)
        return optax.exponential_decay(start, every, 0.5, staircase=True)
    return lambda step: start


def make_optimizer(config: Config, steps: int) -> optax.GradientTransformation:
    """SGD or Adam as PyTorch writes them: L2 added to the gradient of every parameter first.

    `steps` is the number of updates in all, by which the learning rate falls.
    """
    optimizer, limit = config.optimizer, config.optimizer.clip_norm
    if optimizer.name == "adam":
        direction = optax.scale_by_adam(b1=optimizer.momentum)
    else:
        direction = optax.trace(optimizer.momentum, nesterov=optimizer.nesterov)
    return optax.chain(
        optax.clip_by_global_norm(limit) if limit else optax.identity(),
        optax.add_decayed_weights(optimizer.weight_decay),
        direction,
        optax.scale_by_learning_rate(learning_rate(config, steps)),
    )


def create_state(config: Config, mesh: Mesh) -> tuple[Networks, TrainState]:
    """Builds networks and optimiser, copied to every device of the mesh.

    Raises:
      port.WeightsError: weights that the configuration names cannot be had, or do not fit.
    """
    structure, params, batch_stats, critic = create_networks(config)
    optimizer = make_optimizer(config, steps=1)  # its state does not depend on them
    adversarial = critic is not None and config.critic.update == "adversarial"
    state = TrainState(
        step=jnp.zeros((), jnp.int32),
        params=params,
        batch_stats=batch_stats,
        opt_state=optimizer.init(params),
        critic=critic,
        critic_opt_state=optimizer.init(nnx.filter_state(critic, nnx.Param))
        if adversarial
        else None,
    )
    return structure, jax.device_put(state, parallel.replicated(mesh))


def _feature_distance(
    critic: nnx.Module, image: jax.Array, logits: jax.Array, mask: jax.Array, loss: Loss
) -> jax.Array:
    """Distance of the critic's stage features under the predicted map and under the true mask."""
    predicted = jax.nn.sigmoid(logits) if loss.mask_with == "probability" else logits
    if not loss.feature_gradient:
        predicted = jax.lax.stop_gradient(predicted)
    return losses.feature_distance(
        critic(image * predicted), critic(image * mask), stages=loss.stages, fusion=loss.fusion
    )


def _segment(
    networks: Networks, params: nnx.State, state: TrainState, image: jax.Array, seed: int
) -> tuple[Sequence[jax.Array], nnx.State]:
    """Returns the segmenter's heads in training mode, and its new batch statistics."""
    # A copy, since batch norm writes its statistics and they come from outside the gradient.
    segmenter = nnx.merge(networks.segmenter, params, state.batch_stats, networks.random, copy=True)
    if networks.random:  # dropout, too, is a function of seed and step alone
        nnx.reseed(segmenter, dropout=jax.random.fold_in(jax.random.key(seed), state.step))
    heads = segmenter(image)
    return heads, nnx.state(segmenter, nnx.BatchStat)


def _loss(
    params: nnx.State,
    critic_params: nnx.State | None,
    networks: Networks,
    state: TrainState,
    image: jax.Array,
    mask: jax.Array,
    config: Config,
) -> tuple[jax.Array, tuple[dict[str, jax.Array], nnx.State]]:
    """Returns the total, its terms, and the segmenter's new batch statistics."""
    loss = config.loss
    heads, batch_stats = _segment(networks, params, state, image, config.train.seed)
    weights, dice = losses.head_weights(len(heads), loss.heads), losses.DICE[loss.dice]
    parts = [
        (weight, logits, losses.mask_of(logits, mask))
        for weight, logits in zip(weights, heads, strict=True)
        if weight
    ]
    terms = {
        "bce": sum(weight * losses.bce(logits, y) for weight, logits, y in parts),
        "dice": sum(weight * dice(logits, y) for weight, logits, y in parts),
    }
    total = loss.bce_weight * terms["bce"] + loss.dice_weight * terms["dice"]
    if networks.critic is not None:
        statistics = nnx.filter_state(state.critic, nnx.BatchStat)
        # A copy, as above. What its batch norms write is dropped: they never normalise by it.
        critic = nnx.merge(networks.critic, critic_params, statistics, copy=True)
        terms["feature"] = _feature_distance(critic, image, heads[0], mask, loss)
        total = total + terms["feature"]
    return total, (terms, batch_stats)


def _ascend(
    config: Config,
    optimizer: optax.GradientTransformation,
    state: TrainState,
    params: nnx.State,
    gradient: nnx.State,
) -> tuple[nnx.State, optax.OptState]:
    """Moves the critic's parameters up the feature distance; returns its state and optimiser's."""
    descent = jax.tree.map(jnp.negative, gradient)
    updates, opt_state = optimizer.update(descent, state.critic_opt_state, params)
    params, limit = optax.apply_updates(params, updates), config.critic.clip
    if limit:
        params = jax.tree.map(lambda weight: jnp.clip(weight, -limit, limit), params)
    return nnx.merge_state(state.critic, params), opt_state


def make_update(config: Config, networks: Networks, steps: int) -> Update:
    """Builds the pure step `(state, image, mask) -> (state, terms)` of a training of `steps`.

    `image` is (B, H, W, 3) float32 as the networks see it, `mask` (B, H, W, 1) float32 {0, 1}. The
    terms are float32 scalars: `loss`, `bce`, `dice`, `feature` (where stages are constrained) and
    `grad_norm`, the segmenter's, without weight decay.
    """
    optimizer = make_optimizer(config, steps)
    adversarial = networks.critic is not None and config.critic.update == "adversarial"

    def update(state: TrainState, image: jax.Array, mask: jax.Array):
        critic_params = None if state.critic is None else nnx.filter_state(state.critic, nnx.Param)
        # One forward pass serves both players: the critic's parameters act on the distance alone.
        grad = jax.value_and_grad(_loss, argnums=(0, 1) if adversarial else 0, has_aux=True)
        (loss, (terms, batch_stats)), grads = grad(
            state.params, critic_params, networks, state, image, mask, config
        )
        critic, critic_opt_state = state.critic, state.critic_opt_state
        if adversarial:
            grads, ascent = grads
            critic, critic_opt_state = _ascend(config, optimizer, state, critic_params, ascent)
        updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
        new = TrainState(
            step=state.step + 1,
            params=optax.apply_updates(state.params, updates),
            batch_stats=batch_stats,
            opt_state=opt_state,
            critic=critic,
            critic_opt_state=critic_opt_state,
        )
        return new, {"loss": loss, **terms, "grad_norm": optax.global_norm(grads)}

    return update


def make_train_step(
    config: Config, networks: Networks, mesh: Mesh, steps: int
) -> Callable[[TrainState, Mapping[str, jax.Array]], tuple[TrainState, Terms]]:
    """Builds the jitted step over the mesh, `(state, batch) -> (state, terms)`; `state` is used up.

    `steps` is the number of updates of the whole training.

    The batch is global: `image` (B, H, W, 1) uint8, `mask` (B, H, W, 1) uint8 {0, 1} and
    `photometric` (B, 6) float32 (`network_input`). The terms are those of `make_update`.
    """
    update = make_update(config, networks, steps)

    def train_step(state: TrainState, batch: Mapping[str, jax.Array]):
        image = network_input(batch["image"], batch["photometric"])
        return update(state, image, batch["mask"].astype(jnp.float32))

    everywhere, split = parallel.replicated(mesh), parallel.split_by_batch(mesh)
    return jax.jit(
        train_step,
        in_shardings=(everywhere, split),
        out_shardings=everywhere,
        donate_argnums=0,
    )


def segmenter_part(state: TrainState) -> dict[str, Any]:
    """The part of a checkpoint that evaluation and prediction need."""
    return {"segmenter": {"params": state.params, "batch_stats": state.batch_stats}}


def _parts(state: TrainState) -> dict[str, Any]:
    """A whole checkpoint; a frozen critic is read again from its source instead."""
    training = {"step": state.step, "opt_state": state.opt_state}
    if state.critic_opt_state is not None:
        training |= {"critic": state.critic, "critic_opt_state": state.critic_opt_state}
    return segmenter_part(state) | {"training": training}


def _with_parts(state: TrainState, parts: Mapping[str, Any]) -> TrainState:
    return dataclasses.replace(state, **parts["segmenter"], **parts["training"])


def total_steps(config: Config, slices: int) -> int:
    """Number of updates: `train.steps`, or the full batches of `train.epochs` passes over them."""
    return config.train.steps or max(1, config.train.epochs * slices // config.train.batch_size)


def fit(
    config: Config,
    slices: Slices,
    workdir: Path,
    mesh: Mesh,
    networks: Networks,
    state: TrainState,
    profile: int = 0,
) -> None:
    """Trains from `state` (used up), or goes on where the newest checkpoint in `workdir` stands.

    Writes `workdir/checkpoints` and `workdir/train.jsonl`, and traces `profile` of the steps into
    `workdir/profile`.

    Raises:
      NonFiniteLoss: naming step, terms and cases; the checkpoints stay.
      Preempted: the process was told to stop; the step that it was at is saved.
    """
    steps = total_steps(config, len(slices.source("train")))
    train_step = make_train_step(config, networks, mesh, steps)
    own = parallel.make_mesh(jax.local_devices())
    segment = evaluate.make_segment(networks.segmenter_eval, own)
    with contextlib.ExitStack() as stack:
        checkpoints = stack.enter_context(Checkpoints(workdir / "checkpoints", config.train.keep))
        notice = stack.enter_context(Notice())
        start, found = checkpoints.resume(_parts(state)) or (0, None)
        if found:
            state = _with_parts(state, found)
        profiler = stack.enter_context(Profiler(workdir / "profile", profile, start))
        batches = _batches(config, slices, start)
        log = TrainLog(workdir / "train.jsonl", start, config, slices)
        bar = tqdm(range(start + 1, steps + 1), "train", steps, initial=start, unit="step",
                   disable=not parallel.is_main())  # fmt: skip
        for step in bar:
            with profiler.step(step):
                batch = next(batches)
                records = batch.pop("record")
                state, terms = train_step(state, parallel.to_global(batch, mesh))
            log.add(step, terms, records)
            told = notice.reached(step)
            save = told or step % config.train.checkpoint_every == 0 or step == steps
            if save or step % config.train.log_every == 0:
                bar.set_postfix_str(log.flush())
            if told:  # there may be seconds left: nothing is measured
                checkpoints.save(step, _parts(state), None)  # complete when this block is left
                raise Preempted(f"told to stop: step {step} of {steps} is saved; start it again")
            if save:
                variables = parallel.to_local(segmenter_part(state)["segmenter"], own)
                dsc = evaluate.validation_dsc(config, slices, segment, variables, own)
                log.validation(step, dsc)
                checkpoints.save(step, _parts(state), dsc)


def _batches(config: Config, slices: Slices, start: int):
    augment = config.augment
    return pipeline.train_batches(
        slices.source("train"),
        batch_size=config.train.batch_size,
        seed=config.train.seed,
        start_step=start,
        process_index=jax.process_index(),
        process_count=jax.process_count(),
        workers=config.data.workers,
        augment=augment.enabled,
        hue=augment.hue,
        saturation=augment.saturation,
        brightness=augment.brightness,
        contrast=augment.contrast,
        policy=augment.policy,
        foreground=config.train.foreground,
        tumour=np.flatnonzero(slices.index("train")["tumour"]),
    )


def load_best(config: Config, workdir: Path, mesh: Mesh) -> tuple[nnx.GraphDef, dict, int]:
    """Loads the segmenter with the highest validation DSC of a run.

    Returns:
      Its structure in evaluation mode, its variables (`params`, `batch_stats`), and the step at
      which it was saved.

    Raises:
      FileNotFoundError: the run has no checkpoint yet.
    """
    folder = workdir / "checkpoints"
    none = FileNotFoundError(f"{folder}: no complete checkpoint; train the run first")
    if not folder.is_dir():  # to look into it would make it
        raise none
    segmenter = create_segmenter(config)
    graph = evaluation_graph(segmenter)
    params, batch_stats = nnx.state(segmenter, nnx.Param), nnx.state(segmenter, nnx.BatchStat)
    like = jax.device_put(
        {"segmenter": {"params": params, "batch_stats": batch_stats}}, parallel.replicated(mesh)
    )
    with Checkpoints(folder, config.train.keep, saves=False) as checkpoints:
        step = checkpoints.best
        if step is None:
            raise none
        return graph, checkpoints.load(step, like)["segmenter"], step
