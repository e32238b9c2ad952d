"""Small cohorts for tests: bright blobs on noise, which a network learns in a few steps."""

from pathlib import Path

import numpy as np
import SimpleITK as sitk

from crlm_jax.config.schema import Config


def make_cohort(
    folder: Path,
    patients: int = 6,
    conditions: tuple[str, ...] = ("pre_dwi",),
    shape: tuple[int, int, int] = (4, 48, 48),
) -> Path:
    """Writes NIfTI images and masks and returns the path of `cohort.csv`."""
    lines = ["patient,condition,image,mask"]
    for patient in range(patients):
        for condition in conditions:
            name = f"p{patient:02d}_{condition}"
            rng = np.random.default_rng([patient, len(condition)])
            z, y, x = np.indices(shape)
            centre = rng.uniform(0.35, 0.65, 2) * shape[1:]
            mask = (np.hypot(y - centre[0], x - centre[1]) < shape[1] / 6) & (z > 0)
            image = rng.normal(100, 8, shape) + 80 * mask
            folder.mkdir(parents=True, exist_ok=True)
            for kind, voxels in (
                ("image", image.astype(np.int16)),
                ("mask", mask.astype(np.uint8)),
            ):
                volume = sitk.GetImageFromArray(voxels)
                volume.SetSpacing((1.5, 1.5, 7.0))
                sitk.WriteImage(volume, str(folder / f"{name}_{kind}.nii.gz"))
            lines.append(f"p{patient:02d},{condition},{name}_image.nii.gz,{name}_mask.nii.gz")
    path = folder / "cohort.csv"
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def tiny_config(cohort: Path, cache: Path, conditions: tuple[str, ...] = ("pre_dwi",)) -> Config:
    """A whole experiment that compiles and runs in seconds."""
    config = Config(name="tiny")
    config.data.cohort, config.data.cache = str(cohort), str(cache)
    config.data.conditions = conditions
    config.data.image_size = 32
    config.segmenter.widths = (4, 8)
    config.critic.weights = "random"
    config.loss.stages = (1,)
    config.optimizer.learning_rate = 0.05
    config.train.batch_size = 4
    config.train.epochs = 4
    config.train.log_every = 2
    config.train.checkpoint_every = 3
    config.evaluation.batch_size = 8
    config.evaluation.resamples = 99
    return config
