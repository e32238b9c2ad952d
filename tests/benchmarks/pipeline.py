"""How many augmented training slices a second one core makes ready, beside albumentations.

Both go from the same ArrayRecord files to a batch of 16 slices of 224 × 224, in one process that is
pinned to one core, with the files in the page cache. Ours is `train_batches` as the training loop
uses it: it turns and flips, and ships the change of grey levels as six numbers a slice, which the
device applies together with the z-score. albumentations does the same operations on the host, on
three uint8 channels: RandomRotate90, the flips, HueSaturationValue, RandomBrightnessContrast,
Normalize. What ours leaves to the device is timed too, done by numpy on the same core.

    pip install .[benchmark]
    python tests/benchmarks/pipeline.py
"""

import argparse
import os
import platform
import statistics
import tempfile
import time
from collections.abc import Callable
from importlib import metadata
from pathlib import Path

os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")  # it would ask the network for its version

import numpy as np
import SimpleITK as sitk

from crlm_jax.config.schema import Augment, Data
from crlm_jax.data.cohort.cases import Case
from crlm_jax.data.cohort.rows import ImagePair
from crlm_jax.data.pipeline import train_batches
from crlm_jax.data.slice_cache import prepare
from crlm_jax.data.slices import Slices

SIZE = 224
BATCH = 16
MEAN = np.array((0.485, 0.456, 0.406), np.float32) * 255  # ImageNet, in grey levels
SPREAD = np.array((0.229, 0.224, 0.225), np.float32) * 255


def prepared(folder: Path, patients: int = 12, depth: int = 40) -> Slices:
    """Cuts noisy ellipsoids with a bright ball in each: every slice differs, all hold tumour."""
    z, y, x = np.indices((depth, 256, 256), dtype=np.float32)
    cases = []
    for patient in range(patients):
        rng = np.random.default_rng(patient)
        centre = rng.uniform(90, 166, 2)
        body = ((y - 128) / 110) ** 2 + ((x - 128) / 120) ** 2 < 1
        tumour = (y - centre[0]) ** 2 + (x - centre[1]) ** 2 < rng.uniform(8, 25) ** 2
        image = 300 * body + 200 * tumour + 20 * np.sin(x / 9 + z) + rng.normal(0, 15, z.shape)
        paths = folder / f"{patient}.nrrd", folder / f"{patient}_mask.nrrd"
        for array, path in zip(
            (image.astype(np.int16), tumour.astype(np.uint8)), paths, strict=True
        ):
            sitk.WriteImage(sitk.GetImageFromArray(array), str(path))
        cases.append(
            Case(
                f"p{patient}", "dwi", (ImagePair(paths[0], paths[1:], None, patient + 2),), "train"
            )
        )
    return prepare(cases, Data(cache=str(folder / "cache"), image_size=SIZE))


def albumentations_batches(source) -> Callable[[], dict]:
    """Returns a function that makes one batch with albumentations."""
    import albumentations
    import cv2

    cv2.setNumThreads(1)
    transform = albumentations.Compose(
        [
            albumentations.RandomRotate90(p=1.0),
            albumentations.HorizontalFlip(p=0.5),
            albumentations.VerticalFlip(p=0.5),
            albumentations.HueSaturationValue(20, 30, 0, p=1.0),
            albumentations.RandomBrightnessContrast(0.2, 0.2, p=1.0),
            albumentations.Normalize(),
        ],
        seed=0,
    )
    rng = np.random.default_rng(0)

    def batch() -> dict:
        done = []
        for record in rng.integers(len(source), size=BATCH).tolist():
            image, mask = source[record]
            done.append(transform(image=np.repeat(image, 3, axis=2), mask=mask))
        return {name: np.stack([one[name] for one in done]) for name in ("image", "mask")}

    return batch


def on_the_device(batch: dict) -> np.ndarray:
    """What the training step does with a batch, in numpy."""
    levels = [
        np.clip(image.astype(np.float32) * six[:3] + six[3:], 0, 255, dtype=np.float32)
        for image, six in zip(batch["image"], batch["photometric"], strict=True)
    ]
    return (np.stack(levels) - MEAN) / SPREAD


def rate(make: Callable[[], object], batches: int) -> tuple[float, float]:
    """Returns slices a second of wall time, and of CPU time over all threads."""
    wall, cpu = time.perf_counter(), time.process_time()
    for _ in range(batches):
        make()
    count = batches * BATCH
    return count / (time.perf_counter() - wall), count / (time.process_time() - cpu)


def main() -> None:
    """Measures and prints; the line that begins with `ratio` is for a test to read."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--batches", type=int, default=40, help="in each repeat")
    options = parser.parse_args()
    cores = os.cpu_count()
    core = max(os.sched_getaffinity(0))
    os.sched_setaffinity(0, {core})  # before any thread is started, so that all of them inherit it

    with tempfile.TemporaryDirectory() as folder:
        source = prepared(Path(folder)).source("train")
        batches = train_batches(source, Augment(), batch_size=BATCH, seed=0)
        fixed = next(batches)
        makers = {"crlm_jax": lambda: next(batches), "left to device": lambda: on_the_device(fixed)}
        try:
            makers["albumentations"] = albumentations_batches(source)
        except ModuleNotFoundError:
            print("albumentations is not installed (extra 'benchmark'): measured without it")
        found: dict[str, list[tuple[float, float]]] = {name: [] for name in makers}
        for _ in range(options.repeats + 1):
            for name, make in makers.items():  # in turns, so that a busy machine slows all alike
                found[name].append(rate(make, options.batches))
        length = len(source)
        batches.close()

    names = ("numpy", "grain", "tensorflow-datasets", "array_record", "albumentations")
    versions = []
    for name in names:
        try:
            versions.append(f"{name} {metadata.version(name)}")
        except metadata.PackageNotFoundError:
            continue
    print(f"{platform.machine()}, {cores} cores, Python {platform.python_version()}")
    print(", ".join(versions))
    print(f"{length} slices of {SIZE} x {SIZE}, batch {BATCH}, one core, {options.repeats} repeats")
    print(f"{'slices/s/core':16}{'median':>8}{'least':>8}{'most':>8}{'per CPU s':>11}")
    medians = {}
    for name, rates in found.items():
        wall = [one for one, _ in rates[1:]]  # the first repeat warms up
        medians[name] = statistics.median(wall)
        cpu = statistics.median(one for _, one in rates[1:])
        print(f"{name:16}{medians[name]:8.0f}{min(wall):8.0f}{max(wall):8.0f}{cpu:11.0f}")
    if "albumentations" in medians:
        print(f"ratio {medians['crlm_jax'] / medians['albumentations']:.1f}")


if __name__ == "__main__":
    main()
