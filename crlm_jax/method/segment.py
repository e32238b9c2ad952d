"""A trained segmenter as a jitted function from slices to the probability of tumour."""

from collections.abc import Callable
from pathlib import Path

import jax
import jax.numpy as jnp
from flax import nnx
from jax.sharding import Mesh

from crlm_jax.config.schema import Config
from crlm_jax.method.checkpoint import Checkpoints
from crlm_jax.method.networks import create_segmenter, evaluation_graph
from crlm_jax.models.inputs import network_input
from crlm_jax.system import parallel


def probability(
    graph: nnx.GraphDef, variables: dict[str, nnx.State], image: jax.Array, *, mirror: bool
) -> jax.Array:
    """Maps an image (B, H, W, 3) to the probability of tumour (B, H, W), float32.

    Args:
      graph: of the segmenter, in evaluation mode.
      variables: `params` and `batch_stats`.
      image: as the networks see it.
      mirror: average the logits of the image and its three mirror images, as nnU-Net does.
    """
    model = nnx.merge(graph, variables["params"], variables["batch_stats"])
    if not mirror:
        return jax.nn.sigmoid(model(image)[0][..., 0])
    sides = ((), (1,), (2,), (1, 2))
    seen = jnp.stack([jnp.flip(image, axes) for axes in sides], 1)  # (B, 4, H, W, 3)
    logits = model(seen.reshape(-1, *image.shape[1:]))[0].reshape(-1, *seen.shape[1:4])
    turned = [jnp.flip(logits[:, i], axes) for i, axes in enumerate(sides)]
    return jax.nn.sigmoid(sum(turned) / len(turned))


Segment = Callable[[dict[str, nnx.State], jax.Array], jax.Array]


def make_segment(graph: nnx.GraphDef, mesh: Mesh, *, mirror: bool = False) -> Segment:
    """Builds the jitted map (variables, (B, H, W, 1) uint8) -> (B, H, W) probability, float32.

    `mirror` averages over mirror images (`networks.probability`).
    """

    def segment(variables: dict[str, nnx.State], image: jax.Array) -> jax.Array:
        return probability(graph, variables, network_input(image), mirror=mirror)

    everywhere, split = parallel.replicated(mesh), parallel.split_by_batch(mesh)
    return jax.jit(segment, in_shardings=(everywhere, split), out_shardings=split)


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
