"""A trained segmenter: its structure, weights and devices, and the probability that it gives."""

import dataclasses
import functools
from collections.abc import Callable
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import Mesh

from crlm_jax.config.schema import Config
from crlm_jax.method.checkpoint import NO_CHECKPOINT, Checkpoints
from crlm_jax.method.networks import create_segmenter, evaluation_graph
from crlm_jax.models import forms, packing
from crlm_jax.models.inputs import network_input
from crlm_jax.system import parallel

Variables = dict[str, nnx.State]  # "params" and "batch_stats"


def slices_at_once(platform: str) -> int:
    """Returns how many slices one call of a network takes best on a platform ("cpu", "gpu" …).

    On a CPU the activations of one slice stay in its cache; in a batch of eight, a slice takes
    twice as long.
    """
    return 1 if platform == "cpu" else 16


@dataclasses.dataclass(frozen=True)
class TrainedSegmenter:
    """A segmenter in evaluation mode with its weights. See `load_best`."""

    config: Config  # of the run
    graph: nnx.GraphDef
    variables: Variables  # on every device of the mesh
    step: int  # updates done when the weights were saved
    mesh: Mesh
    mirror: bool  # average the logits of a slice and its three mirror images

    def probability(self, slices: np.ndarray | jax.Array) -> jax.Array:
        """Maps slices (B, S, S, C) uint8 to the probability of tumour (B, S, S) float32.

        C is 1, or 3 for a run whose slices show three images (`Data.planes`).

        The devices of the mesh share the slices, so B is a multiple of their number. Every shape
        is compiled once.
        """
        program = _jitted_probability(self.graph, self.mesh, self.mirror)
        return program(self.variables, jax.device_put(slices, parallel.split_by_batch(self.mesh)))

    def in_float32(self) -> "TrainedSegmenter":
        """Returns the same segmenter with all computation in float32."""
        if self.config.train.precision == "float32":
            return self
        train = dataclasses.replace(self.config.train, precision="float32")
        config = dataclasses.replace(self.config, train=train)
        return dataclasses.replace(
            self, config=config, graph=evaluation_graph(create_segmenter(config))
        )

    def on_own_devices(self) -> "TrainedSegmenter":
        """Returns the same segmenter on the devices of this process alone; nothing is copied."""
        own = parallel.make_mesh(jax.local_devices())
        return dataclasses.replace(self, variables=parallel.to_local(self.variables, own), mesh=own)


def probability(
    graph: nnx.GraphDef, variables: Variables, image: jax.Array, *, mirror: bool
) -> jax.Array:
    """Maps an image (B, H, W, 3) to the probability of tumour (B, H, W), float32.

    Args:
      graph: of the segmenter, in evaluation mode.
      variables: `params` and `batch_stats`.
      image: as the networks see it (`models.inputs.network_input`).
      mirror: average the logits of the image and its three mirror images, as nnU-Net does.
    """
    model = nnx.merge(graph, variables["params"], variables["batch_stats"])
    if not mirror:
        return jax.nn.sigmoid(_logits(model, image)[..., 0])
    sides = ((), (1,), (2,), (1, 2))
    seen = jnp.stack([jnp.flip(image, axes) for axes in sides], 1)  # (B, 4, H, W, 3)
    logits = _logits(model, seen.reshape(-1, *image.shape[1:])).reshape(-1, *seen.shape[1:4])
    turned = [jnp.flip(logits[:, i], axes) for i, axes in enumerate(sides)]
    return jax.nn.sigmoid(sum(turned) / len(turned))


def _logits(model: nnx.Module, image: jax.Array) -> jax.Array:
    """Maps an image (B, H, W, 3) to the logits (B, H, W, 1) of the first head."""
    if forms.current().packed and packing.packable(model):
        return packing.unpack(model(packing.pack(image))[0])
    return model(image)[0]


@functools.lru_cache(maxsize=16)
def _jitted_probability(
    graph: nnx.GraphDef, mesh: Mesh, mirror: bool
) -> Callable[[Variables, jax.Array], jax.Array]:
    """Builds the jitted map (variables, (B, H, W, C) uint8) -> (B, H, W) probability, float32.

    The jitted function is cached, so that a segmenter with new weights is not compiled again.
    """

    form = forms.of_platform(parallel.platform(mesh))

    def program(variables: Variables, slices: jax.Array) -> jax.Array:
        with forms.using(form):
            return probability(graph, variables, network_input(slices), mirror=mirror)

    everywhere, split = parallel.replicated(mesh), parallel.split_by_batch(mesh)
    return jax.jit(program, in_shardings=(everywhere, split), out_shardings=split)


def load_best(config: Config, checkpoints: Path, mesh: Mesh) -> TrainedSegmenter:
    """Loads the segmenter with the highest validation DSC of a run.

    Args:
      config: of the run.
      checkpoints: folder of the run's checkpoints.
      mesh: devices that the weights are copied to.

    Raises:
      FileNotFoundError: the folder holds no complete checkpoint.
    """
    none = FileNotFoundError(f"{checkpoints}: {NO_CHECKPOINT}")
    if not checkpoints.is_dir():  # opening it would make the folder
        raise none
    segmenter = create_segmenter(config)
    graph = evaluation_graph(segmenter)
    params, batch_stats = nnx.state(segmenter, nnx.Param), nnx.state(segmenter, nnx.BatchStat)
    like = jax.device_put(
        {"segmenter": {"params": params, "batch_stats": batch_stats}}, parallel.replicated(mesh)
    )
    with Checkpoints(checkpoints, config.train.keep, saves=False) as saved:
        step = saved.best
        if step is None:
            raise none
        variables = saved.load(step, like)["segmenter"]
    return TrainedSegmenter(config, graph, variables, step, mesh, config.evaluation.mirror)
