"""Seconds to evaluate 45 cases of 288 × 288 × 24, all metrics included, and the size of the report.

    python -m tests.benchmarks.evaluate

The network is left out (a threshold stands for it): its time is that of prediction. Timed are the
prepared slices to the rows of `cases.csv`, once without and once with the files of the viewer, the
tables with their bootstraps, and the report. Lesions are ellipsoids, of which the "prediction" sees
a noisy and shifted copy, with specks.
"""

import argparse
import json
import tempfile
import time
from pathlib import Path

import numpy as np
from scipy import ndimage

from crlm_jax.config.schema import Config
from crlm_jax.config.storage import to_json
from crlm_jax.data import slice_cache
from crlm_jax.data.cohort.cases import read_cohort
from crlm_jax.measures import evaluate
from crlm_jax.measures.summary import summarise, write_results
from crlm_jax.report import page
from crlm_jax.runs.folder import RunFolder
from crlm_jax.training.experiment import describe_data
from tests.benchmarks.train_step import describe
from tests.finished_runs import bright, write_volume

LIMIT = 60.0  # s, of all metrics of 45 cases


def make_case(folder: Path, name: str, seed: int, shape: tuple[int, int, int]) -> str:
    """Writes an abdomen of smooth noise with two to six lesions, and their reference."""
    rng = np.random.default_rng(seed)
    image = ndimage.gaussian_filter(rng.normal(0, 120, shape), (0.5, 3, 3)) + 60
    mask = np.zeros(shape, bool)
    grid = np.ogrid[tuple(slice(n) for n in shape)]
    for _ in range(rng.integers(2, 7)):
        centre, radius = rng.uniform(0.3, 0.7, 3) * shape, rng.uniform((1, 5, 5), (3, 22, 22))
        for array, at in ((mask, centre), (image, centre + rng.normal(0, (0, 2, 2)))):
            inside = sum(((a - c) / r) ** 2 for a, c, r in zip(grid, at, radius, strict=True)) < 1
            array[inside] = True if array is mask else 220
    image[rng.random(shape) < 2e-5] = 255  # specks
    write_volume(folder / f"{name}.nii.gz", np.clip(image, 0, 255).astype(np.int16))
    write_volume(folder / f"{name}_mask.nii.gz", mask.astype(np.uint8))
    return f"{name}.nii.gz,{name}_mask.nii.gz"


def prepare(folder: Path, cases: int, shape: tuple[int, int, int]):
    rows = [
        f"p{i:02d},ct,{make_case(folder, f'p{i:02d}', i, shape)},{'test' if i else 'train'}"
        for i in range(cases + 1)
    ]
    cohort = folder / "cohort.csv"
    cohort.write_text("\n".join(["patient,condition,image,mask,split", *rows]) + "\n")
    config = Config()
    config.data.cohort, config.data.conditions = str(cohort), ("ct",)
    config.data.ct_window = (0.0, 255.0)
    chosen = read_cohort(cohort, conditions=("ct",), validation_fraction=0.0)
    config.data.cache = str(folder / "cache")
    return config, slice_cache.prepare(chosen, config.data)


def timed(label: str, call):
    start = time.perf_counter()
    result = call()
    seconds = time.perf_counter() - start
    print(f"{label:52}{seconds:7.1f} s", flush=True)
    return result, seconds


def run(folder: Path, cases: int, shape: tuple[int, int, int]) -> None:
    config, prepared = prepare(folder, cases, shape)

    def measure(run=None):
        return evaluate.evaluate_cases(config, prepared, bright, folder=run)

    workdir = folder / "run"
    workdir.mkdir()
    measured, seconds = timed(f"{cases} cases, all metrics", measure)
    print(f"under {LIMIT:g} s: {'held' if seconds < LIMIT else 'NOT HELD'}")
    timed("the same with the files of the viewer", lambda: measure(RunFolder(workdir)))
    summary, _ = timed("means and bootstraps", lambda: summarise(config, measured, {}))
    write_results(RunFolder(workdir), measured, {}, summary, [])
    (workdir / "config.json").write_text(to_json(config))
    (workdir / "data.json").write_text(json.dumps(describe_data(prepared)))
    path, _ = timed("report", lambda: page.write_report([workdir], workdir / "report.html"))
    print(f"report.html: {path.stat().st_size / 1e6:.1f} MB")
    lesions = sum(len(result.lesions) for result in measured)
    print(f"{lesions} lesions in both masks of all cases")


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cases", type=int, default=45)
    parser.add_argument("--shape", type=int, nargs=3, default=(24, 288, 288))
    args = parser.parse_args()
    args.batch, args.size, args.precision, args.stages, args.torch = 16, 224, "float32", (), False
    return args


if __name__ == "__main__":
    arguments = parse()
    describe(arguments)
    with tempfile.TemporaryDirectory() as place:
        run(Path(place), arguments.cases, tuple(arguments.shape))
