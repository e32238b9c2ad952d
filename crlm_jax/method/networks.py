"""From a configuration to its networks: built, with first weights, and split for the step."""

import dataclasses

import jax.numpy as jnp
from flax import nnx

from crlm_jax.config.schema import Config
from crlm_jax.models import torch_weights, transunet_weights
from crlm_jax.models.listing import CRITICS, SEGMENTERS


@dataclasses.dataclass(frozen=True)
class Networks:
    """The structure of the two networks, without any weight."""

    segmenter: nnx.GraphDef  # in training mode
    segmenter_eval: nnx.GraphDef
    critic: nnx.GraphDef | None  # in the mode in which it is used
    random: nnx.State  # of the segmenter's dropout, in training mode; every step sets it anew


def create_segmenter(config: Config) -> nnx.Module:
    """Builds the segmenter with fresh weights, drawn from `train.seed`, in training mode."""
    name, widths = config.segmenter.name, config.segmenter.widths
    rngs = nnx.Rngs(params=config.train.seed, dropout=config.train.seed)
    options = {"dtype": jnp.dtype(config.train.precision), "rngs": rngs}
    if name == "transunet":
        options |= dataclasses.asdict(config.transunet) | {"decoder_widths": widths}
        options["image_size"] = config.data.image_size
        del options["weights"]
    elif name == "segan":
        (options["width"],) = widths
    else:
        options["widths"] = widths
    if name in ("unetpp", "nnunet"):
        options["deep_supervision"] = config.segmenter.deep_supervision
    segmenter = SEGMENTERS[name](**options)
    segmenter.train()
    return segmenter


def evaluation_graph(segmenter: nnx.Module) -> nnx.GraphDef:
    """Puts a segmenter into evaluation mode, without dropout, and returns its structure."""
    segmenter.eval()
    for _, module in nnx.iter_modules(segmenter):
        if isinstance(module, nnx.Dropout):
            module.rngs = None  # its state would have to be carried wherever the graph is used
    return nnx.graphdef(segmenter)


def create_critic(config: Config) -> nnx.Module | None:
    """Builds the critic up to the last constrained stage; None where no stage is constrained.

    Raises:
      port.WeightsError: `critic.weights` cannot be had, or do not fit.
    """
    if not config.loss.stages:
        return None
    critic = CRITICS[config.critic.name](
        last_stage=max(config.loss.stages),
        dtype=jnp.dtype(config.train.precision),
        rngs=nnx.Rngs(config.train.seed),
        **({"width": config.critic.width} if config.critic.name == "segan" else {}),
    )
    if config.critic.weights != "random":
        tensors, source = torch_weights.critic_tensors(config.critic.weights)
        torch_weights.load_torch(critic, tensors, source=source)
    if config.critic.batch_norm == "batch":
        critic.train()
    else:
        critic.eval()
    return critic


def create_networks(config: Config) -> tuple[Networks, nnx.State, nnx.State, nnx.State | None]:
    """Builds both networks with the weights that training starts from.

    Returns:
      Their structure; the segmenter's parameters; its batch statistics; the critic's state, None
      where no stage is constrained.

    Raises:
      port.WeightsError: weights that the configuration names cannot be had, or do not fit.
    """
    segmenter, critic = create_segmenter(config), create_critic(config)
    if config.segmenter.name == "transunet" and config.transunet.weights != "random":
        transunet_weights.load_imagenet21k(segmenter, config.transunet.weights)
    graph, params, batch_stats, random = nnx.split(
        segmenter, nnx.Param, nnx.BatchStat, nnx.RngState
    )
    graph_eval = evaluation_graph(segmenter)
    critic_graph, critic_state = (None, None) if critic is None else nnx.split(critic)
    return Networks(graph, graph_eval, critic_graph, random), params, batch_stats, critic_state
