"""Seconds and memory of predicting one CT of 512 × 512 × 120, and the share that is not network.

    pip install -e ".[benchmark]"
    python -m tests.benchmarks.predict

The run is UNet++ 32 … 512 with random weights. First the command itself runs once in a process of
its own, for the memory that a user needs and the time with imports and compilation. Then two
programs take turns (A B A B …), each from the file of the scan to the file of the mask (compressed
NIfTI), compiled and warm:

  A  `predict.stream.predict_scans` (window, resample, network, resample, threshold, lesions).
  B  The same in eager PyTorch: SimpleITK, NumPy's clip, `interpolate`, the same network with the
     same weights and batch size. It finds no lesions.

If their masks do not agree, the benchmark stops.
"""

import argparse
import dataclasses
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import SimpleITK as sitk
from flax import nnx
from scipy import ndimage

from crlm_jax.config.schema import Config
from crlm_jax.config.storage import to_json
from crlm_jax.imaging import volumes
from crlm_jax.imaging.grey import to_uint8
from crlm_jax.imaging.resize import resize
from crlm_jax.method.checkpoint import Checkpoints
from crlm_jax.method.step import create_state
from crlm_jax.models import inputs, torch_weights
from crlm_jax.predict import outputs, segmenter, stream
from crlm_jax.predict.scans import Scan
from crlm_jax.system import parallel
from crlm_jax.training.loop import segmenter_part
from tests.benchmarks.train_step import TorchUNetPlusPlus, describe, torch

LIMITS = {"share": 0.15, "gib": 3.0}  # of everything but the network; of peak memory


def make_scan(path: Path, size: tuple[int, int, int]) -> None:
    """Writes a CT of soft noise with eight ellipsoids; the time depends on its size alone."""
    rng = np.random.default_rng(0)
    noise = ndimage.gaussian_filter(rng.normal(0, 150, size).astype(np.float32), (1, 4, 4))
    voxels = (40 + noise).astype(np.int16)
    z, y, x = np.ogrid[tuple(slice(n) for n in size)]
    for centre in rng.uniform(0.3, 0.7, (8, 3)) * size:
        about = zip((z, y, x), centre, (6, 30, 30), strict=True)
        voxels[sum(((axis - middle) / radius) ** 2 for axis, middle, radius in about) < 1] += 90
    voxels[:, :, :20] = -1000
    image = sitk.GetImageFromArray(voxels)
    image.SetSpacing((0.75, 0.75, 2.5))
    sitk.WriteImage(image, str(path))


def make_run(run: Path, scan: Path) -> nnx.Module:
    """Writes a run of the paper's size whose network marks 2 % of the scan's middle slice."""
    config = Config(name="benchmark")
    config.data.conditions, config.loss.stages = ("ct",), ()
    config.data.cache = str(run.parent / "cache")
    networks, state = create_state(config, parallel.make_mesh(1))
    module = nnx.merge(networks.segmenter_eval, state.params, state.batch_stats)
    grey = resize(to_uint8(volumes.read_image(scan), "ct", config.data), 224)
    middle = grey[len(grey) // 2][None, ..., None]
    logits = module(inputs.network_input(middle))[0]
    module.final.bias[...] -= np.quantile(logits, 0.98)
    state = dataclasses.replace(state, params=nnx.state(module, nnx.Param))
    run.mkdir(parents=True)
    (run / "config.json").write_text(to_json(config), encoding="utf-8")
    with Checkpoints(run / "checkpoints") as checkpoints:
        checkpoints.save(1, segmenter_part(state), None)
    return module


class TorchPrediction:
    """B."""

    def __init__(self, module: nnx.Module, size: int, threshold: float):
        self.network, self.size, self.threshold = TorchUNetPlusPlus().eval(), size, threshold
        tensors = {k: torch.from_numpy(v.copy()) for k, v in torch_weights.to_torch(module).items()}
        self.network.load_state_dict(self.network.state_dict() | tensors)
        self.seconds = 0.0

    def __call__(self, scan: Path, out: Path) -> None:
        image = sitk.ReadImage(str(scan))
        voxels = sitk.GetArrayFromImage(image).astype(np.float32)
        grey = np.rint(np.clip((voxels + 150) * np.float32(255 / 400), 0, 255))
        interpolate = torch.nn.functional.interpolate
        mask = np.empty(grey.shape, np.uint8)
        with torch.inference_mode():
            for start in range(0, len(grey), 8):
                batch = torch.from_numpy(grey[start : start + 8, None])
                small = interpolate(batch, (self.size,) * 2, mode="bilinear").round()
                mean, std = (
                    torch.from_numpy(v)[None, :, None, None]
                    for v in (inputs.IMAGENET_MEAN, inputs.IMAGENET_STD)
                )
                begin = time.perf_counter()
                probability = self.network((small / 255 - mean) / std).sigmoid()
                self.seconds += time.perf_counter() - begin
                whole = interpolate(probability, grey.shape[1:], mode="bilinear")
                mask[start : start + 8] = whole[:, 0].numpy() > self.threshold
        result = sitk.GetImageFromArray(mask)
        result.CopyInformation(image)
        sitk.WriteImage(result, str(out), useCompression=True)


class Timed:
    """A network that counts the seconds spent in it."""

    def __init__(self, network):
        self.network, self.seconds = network, 0.0

    def __call__(self, batch: np.ndarray) -> np.ndarray:
        begin = time.perf_counter()
        out = self.network(batch)
        self.seconds += time.perf_counter() - begin
        return out


def command(run: Path, scan: Path, out: Path) -> tuple[float, float]:
    """Runs the command in its own process; returns seconds and GiB at its peak."""
    begin = time.perf_counter()
    words = ["--run", run, "--image", scan, "--out", out]
    subprocess.run([sys.executable, "-m", "crlm_jax.predict", *map(str, words)], check=True)
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss  # KiB, of the largest child
    return time.perf_counter() - begin, peak / 2**20


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--slices", type=int, default=120)
    parser.add_argument("--side", type=int, default=512, help="of the scan's slices, pixels")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--torch", action=argparse.BooleanOptionalAction, default=torch is not None)
    args = parser.parse_args()
    # What `describe` prints of a training step.
    args.batch, args.size, args.precision, args.stages = 8, 224, "float32", ()
    return args


def main() -> None:
    args = parse()
    describe(args)
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        scan, run = folder / "scan.nii.gz", folder / "run"
        make_scan(scan, (args.slices, args.side, args.side))
        module = make_run(run, scan)
        seconds, peak = command(run, scan, folder / "command.nii.gz")
        verdict = "held" if peak < LIMITS["gib"] else "NOT HELD"
        print(f"the command, cold: {seconds:.1f} s, {peak:.2f} GiB at its peak")
        print(f"at most {LIMITS['gib']:g} GiB: {verdict}")
        network = Timed(None)
        loaded = segmenter.load(run)
        network.network = loaded.network
        object.__setattr__(loaded, "network", network)
        loaded.network(np.zeros((loaded.batch, 224, 224, 1), np.uint8))
        theirs = TorchPrediction(module, 224, loaded.threshold) if args.torch else None
        times: dict[str, list] = {"A jax": [], "B torch": []}
        for _ in range(args.rounds):
            network.seconds, begin = 0.0, time.perf_counter()
            job = outputs.Job(Scan(scan, "scan"), folder / "a.nii.gz")
            _, failed = stream.predict_scans(loaded, [job], warn=print)
            assert not failed, failed
            times["A jax"].append((time.perf_counter() - begin, network.seconds))
            if theirs:
                theirs.seconds, begin = 0.0, time.perf_counter()
                theirs(scan, folder / "b.nii.gz")
                times["B torch"].append((time.perf_counter() - begin, theirs.seconds))
        if theirs:
            compare(folder / "a.nii.gz", folder / "b.nii.gz")
        report(times)


def compare(a: Path, b: Path) -> None:
    """Stops unless the two masks agree, except for voxels that rounding decides."""
    ours, theirs = (sitk.GetArrayFromImage(sitk.ReadImage(str(path))) > 0 for path in (a, b))
    differ = (ours != theirs).mean()
    print(f"marked: {ours.mean():.4f} (A), {theirs.mean():.4f} (B); differ: {differ:.2e} of voxels")
    if differ > 1e-4 or not 0 < ours.mean() < 1:
        raise SystemExit("A and B do not give the same mask")


def report(times: dict[str, list]) -> None:
    """Prints seconds, share outside the network, and the ratio to A."""
    print(f"{'':10}{'s':>8}{'network':>9}{'the rest':>10}{'/ A':>7}")
    reference = statistics.median(whole for whole, _ in times["A jax"])
    for name, values in times.items():
        if values:
            whole, network = (statistics.median(column) for column in zip(*values, strict=True))
            share = 1 - network / whole
            print(f"{name:10}{whole:8.1f}{network:9.1f}{share:10.1%}{whole / reference:7.2f}")
            if name == "A jax":
                verdict = "held" if share <= LIMITS["share"] else "NOT HELD"
                print(f"{'':10}the rest at most {LIMITS['share']:.0%}: {verdict}")


if __name__ == "__main__":
    main()
