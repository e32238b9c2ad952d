"""Training: the state, one pure step for every method, and the loop, read top to bottom.

One step, after Xia et al., Cancer Imaging 26:10 (2025):

    prob       = sigmoid(segmenter(image))
    loss       = bce_weight · BCE + Dice
               + Σ_{s in stages} mean |critic(image·prob)_s − critic(image·mask)_s|
    segmenter  ← gradient of loss         (through the critic, never into it)
    critic     ← ascent on the same distance, only where critic.update = "adversarial"
"""

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
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
from crlm_jax.models import CRITICS, SEGMENTERS, port
from crlm_jax.models.inputs import network_input

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


@dataclasses.dataclass(frozen=True)
class Networks:
    """The structure of the two networks, without any number."""

    segmenter: nnx.GraphDef  # in training mode
    segmenter_eval: nnx.GraphDef
    critic: nnx.GraphDef | None


Update = Callable[[TrainState, jax.Array, jax.Array], tuple[TrainState, Terms]]


def make_optimizer(config: Config) -> optax.GradientTransformation:
    """SGD as PyTorch writes it: L2 added to the gradient of every parameter, then momentum."""
    return optax.chain(
        optax.add_decayed_weights(config.optimizer.weight_decay),
        optax.sgd(config.optimizer.learning_rate, momentum=config.optimizer.momentum),
    )


def create_segmenter(config: Config) -> nnx.Module:
    """Builds the segmenter with fresh weights, drawn from `train.seed`."""
    if config.segmenter.name not in SEGMENTERS:
        raise ValueError(
            f"segmenter.name = {config.segmenter.name!r}: choose one of {', '.join(SEGMENTERS)}"
        )
    options = {"deep_supervision": True} if config.segmenter.deep_supervision else {}
    return SEGMENTERS[config.segmenter.name](
        widths=config.segmenter.widths,
        dtype=jnp.dtype(config.train.precision),
        rngs=nnx.Rngs(config.train.seed),
        **options,
    )


def create_critic(config: Config) -> nnx.Module | None:
    """Builds the critic up to the last constrained stage; None where no stage is constrained.

    Raises:
      port.WeightsError: `critic.weights` cannot be had, or do not fit.
    """
    if not config.loss.stages:
        return None
    if config.critic.name not in CRITICS:
        raise ValueError(
            f"critic.name = {config.critic.name!r}: choose one of {', '.join(CRITICS)}"
        )
    critic = CRITICS[config.critic.name](
        last_stage=max(config.loss.stages),
        dtype=jnp.dtype(config.train.precision),
        rngs=nnx.Rngs(config.train.seed),
    )
    if config.critic.weights != "random":
        tensors, source = port.critic_tensors(config.critic.weights)
        port.load_torch(critic, tensors, source=source)
    critic.eval()
    return critic


def create_state(config: Config, mesh: Mesh) -> tuple[Networks, TrainState]:
    """Builds networks and optimiser, copied to every device of the mesh."""
    segmenter, critic = create_segmenter(config), create_critic(config)
    optimizer = make_optimizer(config)
    segmenter.train()
    graph, params, batch_stats = nnx.split(segmenter, nnx.Param, nnx.BatchStat)
    segmenter.eval()
    graph_eval = nnx.graphdef(segmenter)
    critic_graph, critic_state = (None, None) if critic is None else nnx.split(critic)
    adversarial = critic is not None and config.critic.update == "adversarial"
    state = TrainState(
        step=jnp.zeros((), jnp.int32),
        params=params,
        batch_stats=batch_stats,
        opt_state=optimizer.init(params),
        critic=critic_state,
        critic_opt_state=optimizer.init(nnx.filter_state(critic_state, nnx.Param))
        if adversarial
        else None,
    )
    state = jax.device_put(state, parallel.replicated(mesh))
    return Networks(graph, graph_eval, critic_graph), state


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


def _loss(
    params: nnx.State,
    critic_params: nnx.State | None,
    networks: Networks,
    state: TrainState,
    image: jax.Array,
    mask: jax.Array,
    config: Loss,
) -> tuple[jax.Array, tuple[dict[str, jax.Array], nnx.State]]:
    """Returns the total, its terms, and the segmenter's new batch statistics."""
    # A copy, since batch norm writes its statistics and they come from outside the gradient.
    segmenter = nnx.merge(networks.segmenter, params, state.batch_stats, copy=True)
    heads = segmenter(image)
    batch_stats = nnx.state(segmenter, nnx.BatchStat)
    terms = {
        "bce": sum(losses.bce(logits, mask) for logits in heads) / len(heads),
        "dice": sum(losses.dice(logits, mask) for logits in heads) / len(heads),
    }
    total = config.bce_weight * terms["bce"] + terms["dice"]
    if networks.critic is not None:
        critic = nnx.merge(
            networks.critic, critic_params, nnx.filter_state(state.critic, nnx.BatchStat)
        )
        terms["feature"] = _feature_distance(critic, image, heads[0], mask, config)
        total = total + terms["feature"]
    return total, (terms, batch_stats)


def make_update(config: Config, networks: Networks) -> Update:
    """Builds the pure step `(state, image, mask) -> (state, terms)`.

    `image` is (B, H, W, 3) float32 as the networks see it, `mask` (B, H, W, 1) float32 {0, 1}. The
    terms are float32 scalars: `loss`, `bce`, `dice`, `feature` (where stages are constrained) and
    `grad_norm`, the segmenter's, without weight decay.
    """
    optimizer = make_optimizer(config)
    adversarial = networks.critic is not None and config.critic.update == "adversarial"

    def update(state: TrainState, image: jax.Array, mask: jax.Array):
        critic_params = None if state.critic is None else nnx.filter_state(state.critic, nnx.Param)
        # One forward pass serves both players: the critic's parameters act on the distance alone.
        grad = jax.value_and_grad(_loss, argnums=(0, 1) if adversarial else 0, has_aux=True)
        (loss, (terms, batch_stats)), grads = grad(
            state.params, critic_params, networks, state, image, mask, config.loss
        )
        critic, critic_opt_state = state.critic, state.critic_opt_state
        if adversarial:
            grads, ascent = grads[0], jax.tree.map(jnp.negative, grads[1])
            updates, critic_opt_state = optimizer.update(ascent, critic_opt_state, critic_params)
            critic = nnx.merge_state(critic, optax.apply_updates(critic_params, updates))
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
    config: Config, networks: Networks, mesh: Mesh
) -> Callable[[TrainState, Mapping[str, jax.Array]], tuple[TrainState, Terms]]:
    """Builds the jitted step over the mesh, `(state, batch) -> (state, terms)`; `state` is used up.

    The batch is global: `image` (B, H, W, 1) uint8, `mask` (B, H, W, 1) uint8 {0, 1} and
    `photometric` (B, 6) float32 (`network_input`). The terms are those of `make_update`.
    """
    update = make_update(config, networks)

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


def _restore(checkpoints: Checkpoints, step: int, state: TrainState) -> TrainState:
    parts = checkpoints.load(step, _parts(state))
    return dataclasses.replace(state, **parts["segmenter"], **parts["training"])


def total_steps(config: Config, slices: int) -> int:
    """Number of updates: `train.epochs` passes over the training slices, in full batches."""
    return max(1, config.train.epochs * slices // config.train.batch_size)


def fit(
    config: Config, slices: Slices, workdir: Path, mesh: Mesh, networks: Networks, state: TrainState
) -> None:
    """Trains from `state` (used up), or goes on where the newest checkpoint in `workdir` stands.

    Writes `workdir/checkpoints` and `workdir/train.jsonl`.

    Raises:
      NonFiniteLoss: naming step, terms and cases; the checkpoints stay.
    """
    steps = total_steps(config, len(slices.source("train")))
    train_step = make_train_step(config, networks, mesh)
    segment = evaluate.make_segment(networks.segmenter_eval, mesh)
    with Checkpoints(workdir / "checkpoints", config.train.keep) as checkpoints:
        start = checkpoints.latest or 0
        if start:
            state = _restore(checkpoints, start, state)
        batches = _batches(config, slices, start)
        log = TrainLog(workdir / "train.jsonl", start, config, slices)
        bar = tqdm(range(start + 1, steps + 1), "train", steps, initial=start, unit="step",
                   disable=not parallel.is_main())  # fmt: skip
        for step in bar:
            batch = next(batches)
            records = batch.pop("record")
            state, terms = train_step(state, parallel.to_global(batch, mesh))
            log.add(step, terms, records)
            save = step % config.train.checkpoint_every == 0 or step == steps
            if save or step % config.train.log_every == 0:
                bar.set_postfix_str(log.flush())
            if save:
                variables = segmenter_part(state)["segmenter"]
                dsc = evaluate.validation_dsc(config, slices, segment, variables, mesh)
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
    segmenter.eval()
    graph, params, batch_stats = nnx.split(segmenter, nnx.Param, nnx.BatchStat)
    like = jax.device_put(
        {"segmenter": {"params": params, "batch_stats": batch_stats}}, parallel.replicated(mesh)
    )
    with Checkpoints(folder, config.train.keep, saves=False) as checkpoints:
        step = checkpoints.best
        if step is None:
            raise none
        return graph, checkpoints.load(step, like)["segmenter"], step
