"""The training state, the optimiser, and one pure step for every method.

One step, after Xia et al., Cancer Imaging 26:10 (2025):

    prob       = sigmoid(segmenter(image))
    loss       = bce_weight · BCE + dice_weight · Dice
               + feature_weight · Σ_{s in stages} mean |critic(image·prob)_s − critic(image·mask)_s|
    segmenter  ← gradient of loss         (through the critic, never into it)
    critic     ← ascent on the same distance, only where critic.update = "adversarial"
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence

import jax
import jax.numpy as jnp
import optax  # type: ignore[import-untyped]  # optax has neither annotations nor stubs
from flax import nnx
from jax.sharding import Mesh

from crlm_jax.config.schema import Config, Loss
from crlm_jax.method import losses
from crlm_jax.method.networks import Networks, create_networks
from crlm_jax.models import forms, packing
from crlm_jax.models.inputs import critic_input, network_input
from crlm_jax.system import parallel

Terms = dict[str, jax.Array]


Average = dict[str, nnx.State]  # "params" and "batch_stats", averaged over the updates


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class TrainState:
    """What a step reads and writes."""

    step: jax.Array  # () int32, updates done
    params: nnx.State  # of the segmenter
    batch_stats: nnx.State  # of the segmenter
    opt_state: optax.OptState
    critic: nnx.State | None  # None: no stage is constrained
    critic_opt_state: optax.OptState | None  # None: the critic is frozen
    average: Average | None = None  # None: `train.ema` is 0

    @property
    def weights(self) -> dict[str, nnx.State]:
        """Parameters and batch statistics of the segmenter, as they are trained."""
        return {"params": self.params, "batch_stats": self.batch_stats}


Update = Callable[[TrainState, jax.Array, jax.Array], tuple[TrainState, Terms]]


def learning_rate(config: Config, steps: int) -> optax.Schedule:
    """Returns the learning rate as a function of the number of updates done, of `steps` in all."""
    start, rising = config.optimizer.learning_rate, round(config.optimizer.warmup * steps)
    following = _after_warmup(config, max(1, steps - rising))
    if not rising:
        return following
    return optax.join_schedules([optax.linear_schedule(0.0, start, rising), following], [rising])


def _after_warmup(config: Config, steps: int) -> optax.Schedule:
    """Returns the learning rate after the warm-up, over so many updates."""
    optimizer, start = config.optimizer, config.optimizer.learning_rate
    if optimizer.schedule == "polynomial":
        return optax.polynomial_schedule(start, 0.0, power=0.9, transition_steps=steps)
    if optimizer.schedule == "cosine":
        return optax.cosine_decay_schedule(start, decay_steps=steps)
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
      WeightsError: weights that the configuration names cannot be obtained, or do not fit.
    """
    structure, params, batch_stats, critic = create_networks(config)
    optimizer = make_optimizer(config, steps=1)  # its state does not depend on `steps`
    critic_opt_state, average = None, None
    if config.train.ema:  # copies: the step overwrites each part of the state in its place
        average = jax.tree.map(jnp.copy, {"params": params, "batch_stats": batch_stats})
    if critic is not None and config.critic.update == "adversarial":
        critic_opt_state = optimizer.init(nnx.filter_state(critic, nnx.Param))
    state = TrainState(
        step=jnp.zeros((), jnp.int32),
        params=params,
        batch_stats=batch_stats,
        opt_state=optimizer.init(params),
        critic=critic,
        critic_opt_state=critic_opt_state,
        average=average,
    )
    return structure, jax.device_put(state, parallel.replicated(mesh))


def critic_features(
    critic: nnx.Module, image: jax.Array, logits: jax.Array, mask: jax.Array, loss: Loss
) -> tuple[Sequence[jax.Array], Sequence[jax.Array]]:
    """Returns the critic's stage features of the image under the predicted map and the mask."""
    predicted = jax.nn.sigmoid(logits) if loss.mask_with == "probability" else logits
    if not loss.feature_gradient:
        predicted = jax.lax.stop_gradient(predicted)
    found, wanted = (critic_input(image, seen, loss.mask_applied) for seen in (predicted, mask))
    return critic(found), critic(wanted)


def training_heads(
    networks: Networks, params: nnx.State, state: TrainState, image: jax.Array, seed: int
) -> tuple[Sequence[jax.Array], nnx.State]:
    """Returns the segmenter's heads in training mode, and its new batch statistics."""
    # A copy, since batch norm writes its statistics and they come from outside the gradient.
    segmenter = nnx.merge(networks.segmenter, params, state.batch_stats, networks.random, copy=True)
    if networks.random:  # so that dropout is a function of seed and step alone
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
) -> tuple[jax.Array, tuple[Terms, nnx.State]]:
    """Returns the total, its terms, and the segmenter's new batch statistics."""
    loss = config.loss
    heads, batch_stats = training_heads(networks, params, state, image, config.train.seed)
    weights, dice = losses.head_weights(len(heads), loss.heads), losses.DICE[loss.dice]
    parts = [
        (weight, logits, losses.mask_of(logits, mask))
        for weight, logits in zip(weights, heads, strict=True)
        if weight
    ]
    zero = jnp.zeros((), jnp.float32)
    terms = {
        "bce": sum((weight * losses.bce(logits, y) for weight, logits, y in parts), zero),
        "dice": sum((weight * dice(logits, y) for weight, logits, y in parts), zero),
    }
    total = loss.bce_weight * terms["bce"] + loss.dice_weight * terms["dice"]
    if networks.critic is not None and state.critic is not None:
        statistics = nnx.filter_state(state.critic, nnx.BatchStat)
        # A copy, as in `training_heads`. What its batch norms write is dropped, since the critic
        # never normalises by it.
        critic = nnx.merge(networks.critic, critic_params, statistics, copy=True)
        features = critic_features(critic, image, heads[0], mask, loss)
        terms["feature"] = losses.feature_distance(*features, loss.stages, loss.fusion)
        total = total + loss.feature_weight * terms["feature"]
    return total, (terms, batch_stats)


def _ascend(
    optimizer: optax.GradientTransformation,
    critic: nnx.State,
    opt_state: optax.OptState,
    gradient: nnx.State,
    limit: float,
) -> tuple[nnx.State, optax.OptState]:
    """Moves the critic's parameters up the feature distance.

    Returns the critic's state and that of its optimiser. Weights are clipped to ± `limit`, unless
    it is 0.
    """
    params = nnx.filter_state(critic, nnx.Param)
    descent = jax.tree.map(jnp.negative, gradient)
    updates, opt_state = optimizer.update(descent, opt_state, params)
    params = optax.apply_updates(params, updates)
    if limit:
        params = jax.tree.map(lambda weight: jnp.clip(weight, -limit, limit), params)
    return nnx.merge_state(critic, params), opt_state


def _average(
    average: Average | None, now: Average, step: jax.Array, decay: float
) -> Average | None:
    """Moves the average towards the weights of now.

    For the first updates it is their plain mean, so that the start is forgotten.
    """
    if average is None:
        return None
    share = jnp.maximum(1 - decay, 1 / (step + 1))
    return jax.tree.map(lambda old, new: old + share.astype(old.dtype) * (new - old), average, now)


def make_update(config: Config, networks: Networks, steps: int) -> Update:
    """Builds the pure step `(state, image, mask) -> (state, terms)` of a training of `steps`.

    `image` is (B, H, W, 3) float32 as the networks see it, `mask` (B, H, W, 1) float32 {0, 1}. The
    terms are float32 scalars: `loss`, `bce`, `dice`, `feature` (where stages are constrained) and
    `grad_norm`, the segmenter's, without weight decay.
    """
    optimizer = make_optimizer(config, steps)
    adversarial = networks.critic is not None and config.critic.update == "adversarial"

    def update(state: TrainState, image: jax.Array, mask: jax.Array) -> tuple[TrainState, Terms]:
        critic_params = None if state.critic is None else nnx.filter_state(state.critic, nnx.Param)
        # One forward pass serves both players: the critic's parameters act on the distance alone.
        grad = jax.value_and_grad(_loss, argnums=(0, 1) if adversarial else 0, has_aux=True)
        (loss, (terms, batch_stats)), grads = grad(
            state.params, critic_params, networks, state, image, mask, config
        )
        critic, critic_opt_state = state.critic, state.critic_opt_state
        if adversarial and critic is not None:
            grads, ascent = grads
            critic, critic_opt_state = _ascend(
                optimizer, critic, critic_opt_state, ascent, config.critic.clip
            )
        updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        now = {"params": params, "batch_stats": batch_stats}
        new = TrainState(
            step=state.step + 1,
            params=params,
            batch_stats=batch_stats,
            opt_state=opt_state,
            critic=critic,
            critic_opt_state=critic_opt_state,
            average=_average(state.average, now, state.step, config.train.ema),
        )
        return new, {"loss": loss, **terms, "grad_norm": optax.global_norm(grads)}

    return update


def make_train_step(
    config: Config, networks: Networks, mesh: Mesh, steps: int
) -> Callable[[TrainState, Mapping[str, jax.Array]], tuple[TrainState, Terms]]:
    """Builds the jitted step over the mesh, `(state, batch) -> (state, terms)`; `state` is donated.

    `steps` is the number of updates of the whole training. The batch is global: `image`
    (B, H, W, 1) or (B, H, W, 3) uint8, `mask` (B, H, W, 1) uint8 {0, 1} and `photometric` (B, 6)
    float32 (`network_input`). The terms are those of `make_update`.
    """
    update = make_update(config, networks, steps)
    form = forms.of_platform(parallel.platform(mesh))

    def train_step(state: TrainState, batch: Mapping[str, jax.Array]) -> tuple[TrainState, Terms]:
        image, mask = batch["image"], batch["mask"]
        if form.packed and networks.packable:
            image, mask = packing.pack(image), packing.pack(mask)
        with forms.using(form):
            image = network_input(image, batch["photometric"])
            return update(state, image, mask.astype(jnp.float32))

    everywhere, split = parallel.replicated(mesh), parallel.split_by_batch(mesh)
    return jax.jit(
        train_step,
        in_shardings=(everywhere, split),
        out_shardings=everywhere,
        donate_argnums=0,
    )
