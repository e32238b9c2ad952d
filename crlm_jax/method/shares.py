"""What each term of the loss, and each stage of the critic, brings to loss and gradient.

The loss says little about that: a term may be large and nearly flat. So the norm of each term's
gradient with respect to the logits is measured beside its value.
"""

import dataclasses
from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import Mesh

from crlm_jax.config.schema import Config
from crlm_jax.method import losses
from crlm_jax.method.networks import Networks
from crlm_jax.method.step import TrainState, critic_features, training_heads
from crlm_jax.models.inputs import network_input
from crlm_jax.system import parallel


@dataclasses.dataclass(frozen=True)
class Shares:
    """Shares of the terms, by name (`bce`, `dice`, `stage 1` …); each sums to 1."""

    loss: dict[str, float]
    gradient: dict[str, float]  # of the sum of the norms, with respect to the first head's logits


Measure = Callable[[TrainState, Mapping[str, jax.Array]], Shares]


def make_shares(config: Config, networks: Networks, mesh: Mesh) -> Measure:
    """Builds the function that measures the shares in a batch, as `make_train_step` takes it.

    A term counts with its weight. Deep supervision's other heads are left out.
    """
    loss = config.loss
    weights = {"bce": loss.bce_weight, "dice": loss.dice_weight}
    weights |= {f"stage {stage}": loss.feature_weight for stage in loss.stages}

    def terms(logits: jax.Array, state: TrainState, image: jax.Array, mask: jax.Array) -> jax.Array:
        values = {"bce": losses.bce(logits, mask), "dice": losses.DICE[loss.dice](logits, mask)}
        if networks.critic is not None and state.critic is not None:
            critic = nnx.merge(networks.critic, state.critic, copy=True)
            features = critic_features(critic, image, logits, mask, loss)
            parts = losses.stage_distances(*features, loss.stages, loss.fusion)
            values |= {f"stage {stage}": part for stage, part in parts.items()}
        return jnp.stack([weights[name] * values[name] for name in weights])

    def program(state: TrainState, batch: Mapping[str, jax.Array]) -> tuple[jax.Array, jax.Array]:
        image = network_input(batch["image"], batch["photometric"])
        mask = batch["mask"].astype(jnp.float32)
        heads, _ = training_heads(networks, state.params, state, image, config.train.seed)
        values = terms(heads[0], state, image, mask)
        slopes = jax.jacrev(terms)(heads[0].astype(jnp.float32), state, image, mask)
        return values, jnp.sqrt(jnp.square(slopes).sum(range(1, slopes.ndim)))

    everywhere, split = parallel.replicated(mesh), parallel.split_by_batch(mesh)
    jitted = jax.jit(program, in_shardings=(everywhere, split), out_shardings=everywhere)

    def measure(state: TrainState, batch: Mapping[str, jax.Array]) -> Shares:
        values, norms = (np.abs(np.asarray(x)) for x in jax.device_get(jitted(state, batch)))
        return Shares(*(_shares(list(weights), x) for x in (values, norms)))

    return measure


def _shares(names: list[str], values: np.ndarray) -> dict[str, float]:
    total = float(values.sum()) or 1.0
    return {name: float(value) / total for name, value in zip(names, values, strict=True)}
