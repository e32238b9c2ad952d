"""Builds the networks of a configuration with their first weights, and splits them for the step."""

import dataclasses

import jax.numpy as jnp
from flax import nnx

from crlm_jax.config.schema import Config
from crlm_jax.models import packing, torch_weights, transunet_weights
from crlm_jax.models.listing import CRITICS, SEGMENTERS
from crlm_jax.models.options import SegmenterOptions
from crlm_jax.models.transunet import TransUNet


@dataclasses.dataclass(frozen=True)
class Networks:
    """The structure of the two networks, without any weight."""

    segmenter: nnx.GraphDef  # in training mode
    segmenter_eval: nnx.GraphDef
    critic: nnx.GraphDef | None  # in the mode in which it is used
    random: nnx.State  # of the segmenter's dropout, in training mode; every step reseeds it
    packable: bool  # whether both take packed maps (`crlm_jax.models.packing`)


def create_segmenter(config: Config) -> nnx.Module:
    """Builds the segmenter with fresh weights, drawn from `train.seed`, in training mode."""
    name = config.segmenter.name
    own = getattr(config, name, None)  # the fields of this segmenter alone
    options = SegmenterOptions(
        widths=config.segmenter.widths,
        deep_supervision=config.segmenter.deep_supervision,
        image_size=config.data.image_size,
        own={} if own is None else dataclasses.asdict(own),
        dtype=jnp.dtype(config.train.precision),
        rngs=nnx.Rngs(params=config.train.seed, dropout=config.train.seed),
    )
    segmenter = SEGMENTERS[name](options)
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

    Whatever `train.precision` is, it computes in float32, and no platform may round its products:
    in bfloat16, or by a TPU's default, half of the feature gradient near convergence is noise.

    Raises:
      WeightsError: `critic.weights` cannot be obtained, or do not fit.
    """
    if not config.loss.stages:
        return None
    critic = CRITICS[config.critic.name](
        last_stage=max(config.loss.stages),
        width=config.critic.width,
        dtype=jnp.promote_types(config.train.precision, jnp.float32),
        exact=True,
        rngs=nnx.Rngs(config.train.seed),
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
      WeightsError: weights that the configuration names cannot be obtained, or do not fit.
    """
    segmenter, critic = create_segmenter(config), create_critic(config)
    if isinstance(segmenter, TransUNet) and config.transunet.weights != "random":
        transunet_weights.load_imagenet21k(segmenter, config.transunet.weights)
    graph, *states = nnx.split(segmenter, nnx.Param, nnx.BatchStat, nnx.RngState)
    params, batch_stats, random = states
    graph_eval = evaluation_graph(segmenter)
    if critic is None:
        packable = packing.packable(segmenter)
        return Networks(graph, graph_eval, None, random, packable), params, batch_stats, None
    critic_graph, critic_state = nnx.split(critic)
    packable = packing.packable(segmenter, critic)
    networks = Networks(graph, graph_eval, critic_graph, random, packable)
    return networks, params, batch_stats, critic_state
