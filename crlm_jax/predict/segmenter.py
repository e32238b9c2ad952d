"""A trained segmenter as a function from a scan to a mask in the scan's own geometry."""

import dataclasses
import hashlib
from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np
import SimpleITK as sitk

from crlm_jax.config.schema import Config, ConfigError
from crlm_jax.config.storage import to_json
from crlm_jax.imaging import volumes
from crlm_jax.imaging.conditions import is_ct
from crlm_jax.imaging.geometry import Geometry
from crlm_jax.imaging.grey import to_uint8
from crlm_jax.imaging.lesions import Lesion, drop_small, label_lesions, measure_lesions
from crlm_jax.imaging.resize import resize
from crlm_jax.method.segment import Variables, load_best
from crlm_jax.runs.folder import RunFolder, read_run
from crlm_jax.system import parallel
from crlm_jax.system.files import locate

# Slices that the network sees at once. On CPU the activations of one stay in cache, and a batch of
# eight takes twice as long a slice.
_BATCH = {"cpu": 1}
_BATCH_ON_ACCELERATORS = 16


@dataclasses.dataclass(frozen=True)
class Prediction:
    """What a segmenter says of a scan, as axial slices at the scan's own resolution."""

    mask: np.ndarray  # (Z, H, W) bool
    labels: np.ndarray  # (Z, H, W) int32: the lesions, numbered from 1
    lesions: list[Lesion]


@dataclasses.dataclass(frozen=True)
class Segmenter:
    """A trained segmenter: a function from a SimpleITK image to a SimpleITK mask. See `load`."""

    config: Config  # of the run
    name: str  # of the run
    step: int  # of the checkpoint
    fingerprint: str  # SHA-256 of configuration and weights
    tta: bool  # average over the 8 flips and quarter turns
    threshold: float  # probability above which a voxel is tumour
    min_lesion_mm3: float  # lesions below it are dropped
    batch: int  # slices that the network takes at once
    network: Callable[[np.ndarray], np.ndarray]  # (batch, S, S, 1) uint8 -> (batch, S, S) float32

    def __call__(self, image: sitk.Image, condition: str | None = None) -> sitk.Image:
        """Segments one scan.

        Args:
          image: 3D, or a single slice in 2D.
          condition: of the scan, such as `ct`; None: that of the run.

        Returns:
          Mask of 0 and 1 (uint8) with the image's size, spacing, origin and direction.
        """
        volume = volumes.from_image(image)
        probability = self.probability(self.slices(self.grey(volume, condition)))
        return volumes.to_original_grid(
            self.finish(probability, volume.geometry).mask, volume.geometry
        )

    def windowed_as(self, condition: str | None) -> str:
        """Returns the condition by which a scan is windowed.

        Raises:
          ConfigError: none is given, and the run has several that are windowed differently.
        """
        own = self.config.data.conditions
        if condition is None and len({is_ct(name) for name in own}) > 1:
            raise ConfigError(
                f"the run {self.name} was trained on {', '.join(own)}, which are windowed "
                "differently; say which the scan is with --condition"
            )
        return condition or own[0]

    def grey(self, volume: volumes.Volume, condition: str | None = None) -> np.ndarray:
        """Windows a scan at its own resolution: (Z, H, W) uint8; `condition` as in a call."""
        return to_uint8(volume, self.windowed_as(condition), ct_window=self.config.data.ct_window)

    def slices(self, grey: np.ndarray) -> np.ndarray:
        """Resamples what `grey` gives: (Z, S, S, 1) uint8, S being the network's image size."""
        return resize(grey, self.config.data.image_size)[..., None]

    def probability(
        self, slices: np.ndarray, progress: Callable[[int], object] = lambda done: None
    ) -> np.ndarray:
        """Maps (Z, S, S, 1) uint8 to the probability of tumour (Z, S, S) float32, in batches.

        `progress` is told how many slices each batch held.
        """
        out = np.empty(slices.shape[:3], np.float32)
        for start in range(0, len(slices), self.batch):
            batch = slices[start : start + self.batch]
            full = np.zeros((self.batch, *batch.shape[1:]), np.uint8)  # one shape, one program
            full[: len(batch)] = batch
            out[start : start + len(batch)] = self._averaged(full)[: len(batch)]
            progress(len(batch))
        return out

    def _averaged(self, batch: np.ndarray) -> np.ndarray:
        if not self.tta:
            return self.network(batch)
        total = np.zeros(batch.shape[:3], np.float32)
        for turns in range(4):
            for flip in (slice(None), slice(None, None, -1)):
                seen = np.ascontiguousarray(np.rot90(batch, turns, (1, 2))[:, :, flip])
                total += np.rot90(self.network(seen)[:, :, flip], -turns, (1, 2))
        return total / 8

    def finish(self, probability: np.ndarray, geometry: Geometry) -> Prediction:
        """Takes the probability (Z, S, S) to the scan's own grid, and finds the lesions."""
        size = (len(probability), *geometry.axial_size[1:])
        mask = np.empty(size, bool)
        for z in range(len(mask)):  # by slices: a map of floats may be larger than the scan
            mask[z] = resize(probability[z : z + 1], size[1:])[0] > self.threshold
        if self.min_lesion_mm3 > 0:
            mask = drop_small(mask, self.min_lesion_mm3, geometry)
        labels, _ = label_lesions(mask)
        return Prediction(mask, labels, measure_lesions(labels, geometry))


def load(
    run: str | Path,
    *,
    tta: bool = False,
    threshold: float | None = None,
    min_lesion_mm3: float = 0.0,
    device: jax.Device | None = None,
) -> Segmenter:
    """Loads the best checkpoint of a run as a function from a SimpleITK image to a mask.

    Args:
      run: folder of the run, or its address (`gs://`); nothing else is needed, and nothing in it
        is changed.
      tta: average the probabilities of the 8 flips and quarter turns of every slice.
      threshold: probability above which a voxel is tumour; None: that of the run.
      min_lesion_mm3: lesions of a smaller volume are dropped.
      device: to compute on; None: JAX's first.

    Raises:
      ConfigError: the folder holds no run.
      FileNotFoundError: the run has no checkpoint.
    """
    run = locate(run)
    config = read_run(run)
    mesh = parallel.make_mesh([device] if device else 1)
    trained = load_best(config, RunFolder(run).checkpoints, mesh)
    return Segmenter(
        config=config,
        name=run.resolve().name,
        step=trained.step,
        fingerprint=_fingerprint(config, trained.variables),
        tta=tta,
        threshold=config.evaluation.threshold if threshold is None else threshold,
        min_lesion_mm3=min_lesion_mm3,
        batch=_BATCH.get(mesh.devices.flat[0].platform, _BATCH_ON_ACCELERATORS),
        network=lambda batch: np.asarray(trained.probability(batch)),
    )


def _fingerprint(config: Config, variables: Variables) -> str:
    digest = hashlib.sha256(to_json(config).encode())
    for path, value in jax.tree_util.tree_leaves_with_path(variables):
        digest.update(jax.tree_util.keystr(path).encode())
        digest.update(np.asarray(value).tobytes())
    return digest.hexdigest()
