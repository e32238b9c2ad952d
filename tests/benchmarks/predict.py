"""Seconds and memory of predicting one CT of 512 × 512 × 120, and the share that is not network.

    pip install -e ".[benchmark,engine]"
    python -m tests.benchmarks.predict

The run is UNet++ 32 … 512 with random weights. First the command itself runs in processes of its
own, by each engine twice: for the memory that a user needs, and the time with imports and
compilation (the first by OpenVINO also translates the network). Then programs take turns
(A B C D A B …), each from the file of the scan to the file of the mask (compressed NIfTI), compiled
and warm:

  A  `predict.stream.predict_scans` by XLA: window, resample, network, resample, threshold, lesions.
  B  The same in eager PyTorch: SimpleITK, NumPy's clip, `interpolate`, the same network with the
     same weights. It finds no lesions.
  C  A, by OpenVINO in bfloat16, where the CPU has units for it. Random weights leave every slice in
     doubt, so none is computed again in float32 here: a trained run adds its share of such slices.
  D  B, in PyTorch's bfloat16 (autocast).

If the masks of A and B do not agree, the benchmark stops. The ratios are medians over the rounds.
"""

import argparse
import dataclasses
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from unittest import mock

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
from crlm_jax.predict.engine.choice import EngineError, choose
from crlm_jax.predict.scans import Scan
from crlm_jax.system import parallel
from crlm_jax.training.loop import segmenter_part
from tests.benchmarks.train_step import TorchUNetPlusPlus, describe, torch

# Of everything but the network; of peak memory; of OpenVINO's times over eager PyTorch's.
LIMITS = {"share": 0.15, "gib": 3.0, "whole": 0.55, "network": 0.5}


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

    def __init__(self, module: nnx.Module, size: int, threshold: float, *, bfloat16: bool = False):
        self.bfloat16 = bfloat16
        self.network, self.size, self.threshold = TorchUNetPlusPlus().eval(), size, threshold
        tensors = {k: torch.from_numpy(v.copy()) for k, v in torch_weights.to_torch(module).items()}
        self.network.load_state_dict(self.network.state_dict() | tensors)
        self.seconds = 0.0

    def __call__(self, scan: Path, out: Path) -> float:
        """Predicts a scan; returns the network's seconds."""
        self.seconds = 0.0
        image = sitk.ReadImage(str(scan))
        voxels = sitk.GetArrayFromImage(image).astype(np.float32)
        grey = np.rint(np.clip((voxels + 150) * np.float32(255 / 400), 0, 255))
        interpolate = torch.nn.functional.interpolate
        mask = np.empty(grey.shape, np.uint8)
        with (
            torch.inference_mode(),
            torch.autocast("cpu", torch.bfloat16, enabled=self.bfloat16),
        ):
            for start in range(0, len(grey), 8):
                batch = torch.from_numpy(grey[start : start + 8, None])
                small = interpolate(batch, (self.size,) * 2, mode="bilinear", antialias=True)
                small = small.round()
                mean, std = (
                    torch.from_numpy(v)[None, :, None, None]
                    for v in (inputs.IMAGENET_MEAN, inputs.IMAGENET_STD)
                )
                begin = time.perf_counter()
                probability = self.network((small / 255 - mean) / std).float().sigmoid()
                self.seconds += time.perf_counter() - begin
                whole = interpolate(probability, grey.shape[1:], mode="bilinear")
                mask[start : start + 8] = whole[:, 0].numpy() > self.threshold
        result = sitk.GetImageFromArray(mask)
        result.CopyInformation(image)
        sitk.WriteImage(result, str(out), useCompression=True)
        return self.seconds


class Ours:
    """A and C: a run by one engine, which counts the seconds spent in the network."""

    def __init__(self, run: Path, engine: str):
        if engine == "openvino":
            from crlm_jax.predict.engine import doubt

            mock.patch.object(doubt, "in_doubt", return_value=False).start()
        self.loaded = segmenter.load(run, engine=engine)
        self.network, self.seconds = self.loaded.network, 0.0
        object.__setattr__(self.loaded, "network", self.timed)
        self.network(np.zeros((self.loaded.batch, 224, 224, 1), np.uint8))

    def timed(self, batch: np.ndarray) -> np.ndarray:
        begin = time.perf_counter()
        out = self.network(batch)
        self.seconds += time.perf_counter() - begin
        return out

    def __call__(self, scan: Path, out: Path) -> float:
        """Predicts a scan; returns the network's seconds."""
        self.seconds = 0.0
        job = outputs.Job(Scan(scan, "scan"), out)
        _, failed = stream.predict_scans(self.loaded, [job], warn=print)
        assert not failed, failed
        return self.seconds


def command(run: Path, scan: Path, out: Path, engine: str) -> tuple[float, float]:
    """Runs the command in its own process; returns seconds and GiB at its peak."""
    begin = time.perf_counter()
    words = ["--run", run, "--image", scan, "--out", out, "--engine", engine]
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
        engines = engines_here()
        for engine in engines:
            for _ in range(2):
                seconds, peak = command(run, scan, folder / "command.nii.gz", engine)
                print(f"the command by {engine}, cold: {seconds:.1f} s, {peak:.2f} GiB at its peak")
            print(f"at most {LIMITS['gib']:g} GiB: {verdict(peak < LIMITS['gib'])}")
        contestants: dict[str, Callable[[Path, Path], float]] = {}
        for name, engine in (("A xla", "xla"), ("C openvino", "openvino")):
            if engine in engines:
                contestants[name] = Ours(run, engine)
        if args.torch:
            threshold = Config().evaluation.threshold
            contestants["B torch"] = TorchPrediction(module, 224, threshold)
            contestants["D torch bf16"] = TorchPrediction(module, 224, threshold, bfloat16=True)
        times: dict[str, list] = {name: [] for name in sorted(contestants)}
        for _ in range(args.rounds):
            for name in times:
                begin = time.perf_counter()
                network = contestants[name](scan, folder / f"{name[0]}.nii.gz")
                times[name].append((time.perf_counter() - begin, network))
        if args.torch:
            compare(folder / "A.nii.gz", folder / "B.nii.gz")
        report(times)


def engines_here() -> list[str]:
    """XLA, and OpenVINO where the CPU has units for bfloat16."""
    try:
        units = choose("openvino").precision == "bfloat16"
    except EngineError:
        units = False
    print(f"OpenVINO in bfloat16: {'yes' if units else 'not here'}")
    return ["xla", "openvino"] if units else ["xla"]


def verdict(held: bool) -> str:
    return "held" if held else "NOT HELD"


def compare(a: Path, b: Path) -> None:
    """Stops unless the two masks agree, except for voxels that rounding decides."""
    ours, theirs = (sitk.GetArrayFromImage(sitk.ReadImage(str(path))) > 0 for path in (a, b))
    differ = (ours != theirs).mean()
    print(f"marked: {ours.mean():.4f} (A), {theirs.mean():.4f} (B); differ: {differ:.2e} of voxels")
    if differ > 1e-4 or not 0 < ours.mean() < 1:
        raise SystemExit("A and B do not give the same mask")


def report(times: dict[str, list]) -> None:
    """Prints seconds, the share outside the network, and the paired ratios to PyTorch."""
    base = "B torch" if "B torch" in times else "A xla"
    print(f"{'':14}{'s':>8}{'network':>9}{'the rest':>10}{'/ ' + base[0]:>7}{'network':>9}")
    for name, values in times.items():
        whole, network = (statistics.median(column) for column in zip(*values, strict=True))
        ratios = [
            statistics.median(a[i] / b[i] for a, b in zip(values, times[base], strict=True))
            for i in (0, 1)
        ]
        share = 1 - network / whole
        print(f"{name:14}{whole:8.1f}{network:9.1f}{share:10.1%}{ratios[0]:7.2f}{ratios[1]:9.2f}")
        if name == "A xla":
            held = share <= LIMITS["share"]
            print(f"{'':14}the rest at most {LIMITS['share']:.0%}: {verdict(held)}")
        if name == "C openvino" and base == "B torch":
            for ratio, limit in zip(ratios, (LIMITS["whole"], LIMITS["network"]), strict=True):
                print(f"{'':14}{ratio:.2f} at most {limit}: {verdict(ratio <= limit)}")


if __name__ == "__main__":
    main()
