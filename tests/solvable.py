"""Tasks that only several images of a slice solve: trained in seconds, and kept as a run folder."""

import dataclasses
import itertools
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from crlm_jax.config.schema import Config
from crlm_jax.config.storage import to_json
from crlm_jax.data import pipeline
from crlm_jax.data.slices import Slices
from crlm_jax.method.checkpoint import Checkpoints
from crlm_jax.method.segment import TrainedSegmenter
from crlm_jax.method.step import create_state, make_train_step
from crlm_jax.predict import command as predict_command
from crlm_jax.system import parallel
from crlm_jax.system.console import exit_code
from crlm_jax.training.experiment import prepare
from crlm_jax.training.loop import segmenter_part
from tests.cohorts import tiny_config

SIDE = 32


@dataclasses.dataclass(frozen=True)
class Solved:
    """What a short training left."""

    folder: Path  # of the run
    config: Config
    slices: Slices
    trained: TrainedSegmenter

    def dsc(self) -> float:
        """Of all test slices with tumour together, at the network's size."""
        source = self.slices.source("test")
        chosen = np.flatnonzero(self.slices.index("test")["tumour"]).tolist()
        images, masks = (np.stack(each) for each in zip(*(source[i] for i in chosen), strict=True))
        found, there = np.asarray(self.trained.probability(images)) > 0.5, masks[..., 0] > 0
        return float(2 * (found & there).sum() / (found.sum() + there.sum()))


def discs(rng: np.random.Generator, depth: int) -> np.ndarray:
    """A disc of 5 pixels at a random place of every slice: (depth, SIDE, SIDE) bool."""
    row, column = np.indices((SIDE, SIDE))
    centres = rng.uniform(8, SIDE - 8, (depth, 2))
    return np.stack([np.hypot(row - y, column - x) < 5 for y, x in centres])


def shown(rng: np.random.Generator, inside: np.ndarray) -> np.ndarray:
    """An image whose bright parts are `inside`."""
    return (rng.normal(100, 8, inside.shape) + 80 * inside).astype(np.int16)


def write(path: Path, voxels: np.ndarray, spacing=(1.5, 1.5, 7.0), origin=(0.0, 0.0, 0.0)) -> None:
    image = sitk.GetImageFromArray(voxels)
    image.SetSpacing(spacing)
    image.SetOrigin(origin)
    sitk.WriteImage(image, str(path))


def read(path: Path) -> np.ndarray:
    """Reads a mask as bool."""
    return sitk.GetArrayFromImage(sitk.ReadImage(str(path))) > 0


def dsc(found: np.ndarray, wanted: np.ndarray) -> float:
    return 2 * (found & wanted).sum() / (found.sum() + wanted.sum())


def predict(run: Path, *words) -> int:
    """Runs the command by XLA; returns its exit code."""
    words = ("--run", run, "--engine", "xla", *words)
    return exit_code(predict_command.main, list(map(str, words)))


def split_of(patient: int) -> str:
    return "train" if patient < 5 else "test"


def train(folder: Path, cohort: Path, steps: int, **data) -> Solved:
    """Trains a small UNet on a cohort, and writes the run; `data` are fields of `Data`."""
    config = tiny_config(cohort, folder.parent / "cache")
    config.data = dataclasses.replace(config.data, validation_fraction=0.0, **data)
    config.segmenter.name, config.segmenter.widths = "unet", (8, 16)
    config.loss.stages = ()
    config.optimizer.name, config.optimizer.learning_rate = "adam", 0.01
    config.train.batch_size = 8
    slices, mesh = prepare(config), parallel.make_mesh(1)
    networks, state = create_state(config, mesh)
    step = make_train_step(config, networks, mesh, steps)
    batches = pipeline.train_batches(slices.source("train"), config.augment, batch_size=8, seed=0)
    for batch in itertools.islice(batches, steps):
        batch.pop("record")
        state, _ = step(state, parallel.to_global(batch, mesh))
    folder.mkdir()
    (folder / "config.json").write_text(to_json(config), encoding="utf-8")
    with Checkpoints(folder / "checkpoints") as checkpoints:
        checkpoints.save(steps, segmenter_part(state), None)
    trained = TrainedSegmenter(
        config, networks.segmenter_eval, state.weights, steps, mesh, mirror=False
    )
    return Solved(folder, config, slices, trained)
