"""Seconds of one training step of CRLM-GAN: this project's, PyTorch's, the released code's work.

    pip install -e ".[benchmark]"
    python tests/benchmarks/train_step.py --batch 4 --size 224 --steps 5

Three contestants take turns (A B C A B C …), so that the drift of a noisy machine hits all alike:

  A  `crlm_jax.train.make_train_step`: UNet++ 32 … 512, frozen ResNet-50 with random weights.
  B  The same work in PyTorch: one forward and backward of the segmenter; one forward of the critic
     on image · probability with the gradient of its input only, one on image · mask without
     gradient; BCE + Dice + one L1 a stage; SGD with momentum and weight decay.
  C  The work of the released code in PyTorch. Its loop has a generator and a discriminator part,
     read here as follows. Each part runs the generator in training mode (two forwards) and the
     critic on image · mask and on image · prediction (four forwards, with batch-norm statistics of
     the batch, running ones updated). The image is multiplied by logits; the stage outputs are
     copied out of the graph before one L1 over all of them, so the term has no gradient, neither
     into the generator nor into the critic, whose weights are frozen and whose optimiser never
     steps. The only backward and update are the generator's, of 0.5 · BCE + Dice.

Before timing, A and B start from the same weights and take two steps on the same batches; the run
stops unless the terms of both steps agree. The second step depends on the first one's gradients.
A contestant's memory is the growth of the resident set during its first step (Linux only).
"""

import argparse
import math
import os
import platform
import re
import statistics
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import jax
import numpy as np
from flax import nnx

from crlm_jax import parallel, train
from crlm_jax.config import Config
from crlm_jax.models import inputs, port

try:
    import torch
    from torch import nn
    from torch.nn import functional as F
except ImportError:
    torch, nn = None, argparse.Namespace(Module=object)

PARAMETERS = {"segmenter": 9_163_329, "critic": 23_508_032}
TOLERANCE = {"float32": 1e-3, "bfloat16": 5e-2}  # relative, of the terms of A and B

Batch = dict[str, np.ndarray]
Step = Callable[[Batch], Mapping[str, float]]  # returns once the step is done


class TorchBlock(nn.Module):
    """Twice convolution 3×3, batch norm, ReLU."""

    def __init__(self, before: int, width: int):
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(before, width, 3, padding=1), nn.BatchNorm2d(width)
        self.conv2, self.bn2 = nn.Conv2d(width, width, 3, padding=1), nn.BatchNorm2d(width)

    def forward(self, x):
        x = F.relu(self.bn1(self.conv1(x)), inplace=True)
        return F.relu(self.bn2(self.conv2(x)), inplace=True)


class TorchUNetPlusPlus(nn.Module):
    """UNet++ as `NestedUNet` of github 4uiiurz1/pytorch-nested-unet, without deep supervision."""

    def __init__(self, widths: tuple[int, ...] = (32, 64, 128, 256, 512)):
        super().__init__()
        self.depth = depth = len(widths) - 1
        for i, (before, width) in enumerate(zip((3, *widths), widths, strict=False)):
            setattr(self, f"conv{i}_0", TorchBlock(before, width))
        for j in range(1, depth + 1):
            for i in range(depth + 1 - j):
                block = TorchBlock(j * widths[i] + widths[i + 1], widths[i])
                setattr(self, f"conv{i}_{j}", block)
        self.final = nn.Conv2d(widths[0], 1, 1)
        self.up = nn.Upsample(scale_factor=2, mode="bilinear", align_corners=True)

    def forward(self, image):
        levels = [[self.conv0_0(image)]]
        for i in range(1, self.depth + 1):
            levels.append([getattr(self, f"conv{i}_0")(F.max_pool2d(levels[-1][0], 2))])
        for j in range(1, self.depth + 1):
            for i in range(self.depth + 1 - j):
                x = torch.cat((*levels[i], self.up(levels[i + 1][j - 1])), 1)
                levels[i].append(getattr(self, f"conv{i}_{j}")(x))
        return self.final(levels[0][-1])


class TorchBottleneck(nn.Module):
    """1×1, 3×3 (with the stride, as in v1.5) and 1×1 convolution beside a shortcut."""

    def __init__(self, before: int, channels: int, stride: int):
        super().__init__()
        after = 4 * channels
        self.conv1, self.bn1 = nn.Conv2d(before, channels, 1, bias=False), nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.conv3, self.bn3 = nn.Conv2d(channels, after, 1, bias=False), nn.BatchNorm2d(after)
        self.downsample = None
        if stride > 1 or before != after:
            projection = nn.Conv2d(before, after, 1, stride, bias=False)
            self.downsample = nn.Sequential(projection, nn.BatchNorm2d(after))

    def forward(self, x):
        y = F.relu(self.bn1(self.conv1(x)), inplace=True)
        y = F.relu(self.bn2(self.conv2(y)), inplace=True)
        y = self.bn3(self.conv3(y))
        shortcut = x if self.downsample is None else self.downsample(x)
        return F.relu(y + shortcut, inplace=True)


class TorchResNet50(nn.Module):
    """ResNet-50 without classifier; gives the outputs of stages 1 to `last_stage`."""

    def __init__(self, last_stage: int):
        super().__init__()
        self.conv1 = nn.Conv2d(3, 64, 7, stride=2, padding=3, bias=False)
        self.bn1, before = nn.BatchNorm2d(64), 64
        for stage, blocks in enumerate((3, 4, 6, 3)[:last_stage], 1):
            layers, channels = [], 32 * 2**stage
            for block in range(blocks):
                stride = 2 if stage > 1 and block == 0 else 1
                layers.append(TorchBottleneck(before, channels, stride))
                before = 4 * channels
            setattr(self, f"layer{stage}", nn.Sequential(*layers))
        self.last_stage = last_stage

    def forward(self, image):
        x = F.max_pool2d(F.relu(self.bn1(self.conv1(image))), 3, 2, 1)
        features = []
        for stage in range(1, self.last_stage + 1):
            x = getattr(self, f"layer{stage}")(x)
            features.append(x)
        return features


def dice(logits, mask):
    p = logits.sigmoid().flatten(1)
    y = mask.flatten(1)
    return 1 - ((2 * (p * y).sum(1) + 1e-5) / (p.sum(1) + y.sum(1) + 1e-5)).mean()


class TorchContestant:
    """Networks with the JAX side's first weights, and the two PyTorch steps."""

    def __init__(self, config: Config, modules: dict[str, nnx.Module]):
        self.stages = config.loss.stages
        self.device = torch.device(
            "cuda" if jax.default_backend() == "gpu" and torch.cuda.is_available() else "cpu"
        )
        self.bfloat16 = config.train.precision == "bfloat16"
        self.segmenter, self.critic = TorchUNetPlusPlus(), None
        if self.stages:
            self.critic = TorchResNet50(max(self.stages)).eval().requires_grad_(False)
        for name, module in modules.items():
            own = getattr(self, name)
            tensors = {k: torch.from_numpy(v.copy()) for k, v in port.to_torch(module).items()}
            missing, unexpected = own.load_state_dict(tensors, strict=False)
            assert not unexpected, unexpected
            assert all(key.endswith("num_batches_tracked") for key in missing), missing
            assert count(module) == sum(p.numel() for p in own.parameters())
            own.to(self.device)
        options = config.optimizer
        self.optimizer = torch.optim.SGD(
            self.segmenter.parameters(),
            lr=options.learning_rate,
            momentum=options.momentum,
            weight_decay=options.weight_decay,
        )

    def load(self, batch: Batch):
        image, mask, photometric = (
            torch.from_numpy(batch[k]).to(self.device) for k in ("image", "mask", "photometric")
        )
        gain, offset = photometric[:, :, None, None].split(3, 1)
        grey = (image.permute(0, 3, 1, 2).float() * gain + offset).clamp(0, 255)
        mean, std = (
            torch.from_numpy(v).to(self.device)[:, None, None]
            for v in (inputs.IMAGENET_MEAN, inputs.IMAGENET_STD)
        )
        return (grey / 255 - mean) / std, mask.permute(0, 3, 1, 2).float()

    def forward(self, network, x):
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.bfloat16):
            y = network(x)
        return [f.float() for f in y] if isinstance(y, list) else y.float()

    def update(self, loss) -> float:
        self.optimizer.zero_grad()
        loss.backward()
        norm = math.sqrt(sum(p.grad.square().sum().item() for p in self.segmenter.parameters()))
        self.optimizer.step()
        return norm

    def same_work(self, batch: Batch) -> dict[str, float]:
        """B: the method as the paper has it."""
        image, mask = self.load(batch)
        logits = self.forward(self.segmenter, image)
        terms = {"bce": F.binary_cross_entropy_with_logits(logits, mask)}
        terms["dice"] = dice(logits, mask)
        if self.critic is not None:
            with torch.no_grad():
                reference = self.forward(self.critic, image * mask)
            features = self.forward(self.critic, image * logits.sigmoid())
            pairs = [(features[s - 1], reference[s - 1]) for s in self.stages]
            terms["feature"] = sum(F.l1_loss(f, r) for f, r in pairs)
        terms["loss"] = sum(terms.values())
        norm = self.update(terms["loss"])
        return {k: v.item() for k, v in terms.items()} | {"grad_norm": norm}

    def _released_distance(self, image, logits, mask):
        """One mean over all stages, of copies outside the graph."""
        sides = [
            torch.cat([f.detach().clone().flatten() for f in self.forward(self.critic, x)])
            for x in (image * mask, image * logits)
        ]
        return F.l1_loss(*sides)

    def released_work(self, batch: Batch) -> dict[str, float]:
        """C: what the released code computes in one iteration of its loop."""
        image, mask = self.load(batch)
        logits = self.forward(self.segmenter, image)  # discriminator part: nothing to update
        discriminator_loss = self._released_distance(image, logits, mask)
        logits = self.forward(self.segmenter, image)  # generator part
        distance = self._released_distance(image, logits, mask)
        own = 0.5 * F.binary_cross_entropy_with_logits(logits, mask) + dice(logits, mask)
        norm = self.update(own + distance)
        return {
            "loss": (own + distance).item(),
            "discriminator": discriminator_loss.item(),
            "grad_norm": norm,
        }


def count(module: nnx.Module) -> int:
    return sum(x.size for x in jax.tree.leaves(nnx.state(module, nnx.Param)))


def make_config(args: argparse.Namespace) -> Config:
    """The paper's scale, which is `Config`'s default, with random weights in the critic."""
    config = Config()
    config.critic.weights = "random"
    config.loss.stages = args.stages
    config.train.batch_size, config.data.image_size = args.batch, args.size
    config.train.precision = args.precision
    return config


def make_batch(args: argparse.Namespace, seed: int) -> Batch:
    """Noise, a disc, and a small photometric change: time does not depend on the values."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[: args.size, : args.size] / args.size
    centres = rng.uniform(0.3, 0.7, (args.batch, 2, 1, 1))
    disc = (y - centres[:, 0]) ** 2 + (x - centres[:, 1]) ** 2 < 1 / 36
    image = rng.integers(0, 256, (args.batch, args.size, args.size, 1), dtype=np.uint8)
    gain = rng.uniform(0.9, 1.1, (args.batch, 3))
    offset = rng.uniform(-10, 10, (args.batch, 3))
    return {
        "image": image,
        "mask": disc[..., None].astype(np.uint8),
        "photometric": np.concatenate((gain, offset), 1).astype(np.float32),
    }


def jax_contestant(
    config: Config, first: Batch
) -> tuple[Step, dict[str, nnx.Module], dict[str, str]]:
    """Returns the compiled step, the networks at the start, and the facts of the compilation."""
    mesh = parallel.make_mesh(1)
    networks, state = train.create_state(config, mesh)
    modules = {"segmenter": nnx.merge(networks.segmenter, state.params, state.batch_stats)}
    if networks.critic is not None:
        modules["critic"] = nnx.merge(networks.critic, state.critic)
    copies = {}  # the state is donated: the modules' arrays die with the first step
    for name, module in modules.items():
        graph, variables = nnx.split(module)
        copies[name] = nnx.merge(graph, jax.tree.map(np.array, variables))
    start = time.perf_counter()
    batch = parallel.to_global(first, mesh)
    compiled = train.make_train_step(config, networks, mesh).lower(state, batch).compile()
    seconds = time.perf_counter() - start
    memory = compiled.memory_analysis()
    facts = {"compile": f"{seconds:.1f} s"}
    if memory is not None:
        facts["compiled program's own buffers"] = f"{memory.temp_size_in_bytes / 2**30:.2f} GiB"

    def step(batch: Batch) -> dict[str, float]:
        nonlocal state
        state, terms = compiled(state, parallel.to_global(batch, mesh))
        jax.block_until_ready(state)
        return {k: float(v) for k, v in terms.items()}

    return step, copies, facts


def resident(field: str) -> float:
    """GiB: `VmRSS` now, or `VmHWM`, the most since the last reset."""
    return int(re.search(rf"{field}:\s*(\d+)", Path("/proc/self/status").read_text())[1]) / 2**20


def measured_step(step: Step, batch: Batch) -> tuple[Mapping[str, float], str]:
    """Runs one step; returns its terms and how much the resident set grew, where that is known."""
    try:
        Path("/proc/self/clear_refs").write_text("5")  # resets VmHWM
        before = resident("VmRSS")
    except OSError:
        return step(batch), "unknown"
    return step(batch), f"{resident('VmHWM') - before:.2f} GiB"


def check_agreement(ours: list[Mapping], theirs: list[Mapping], tolerance: float) -> None:
    """Stops unless all terms of A and B agree in both steps."""
    for number, (a, b) in enumerate(zip(ours, theirs, strict=True), 1):
        print(f"step {number}: " + ", ".join(f"{k} {a[k]:.6f} / {b[k]:.6f}" for k in sorted(b)))
        for name in b:
            if not math.isclose(a[name], b[name], rel_tol=tolerance):
                raise SystemExit(f"{name} differs: A and B do not do the same work")
    print(f"A / B agree within {tolerance:g}, parameters alike\n")


def machine(args: argparse.Namespace) -> None:
    """Prints versions, the machine and the size of the task."""
    cpuinfo = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
    model = re.search(r"model name\s*: (.*)", cpuinfo)
    pages = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30
    print(f"{model[1] if model else platform.processor()}, {os.cpu_count()} cores, {pages:.0f} GiB")
    print(
        f"Python {platform.python_version()}, jax {jax.__version__} on {jax.devices()[0]}", end=""
    )
    print(f", torch {torch.__version__}, {torch.get_num_threads()} threads" if args.torch else "")
    print(
        f"batch {args.batch}, {args.size} × {args.size}, {args.precision}, stages {args.stages}\n"
    )


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--size", type=int, default=224, help="side of a slice, pixels")
    parser.add_argument("--steps", type=int, default=5, help="timed, of each contestant")
    parser.add_argument("--warmup", type=int, default=1, help="not timed, after the check")
    parser.add_argument(
        "--stages", default=(1, 2, 3, 4), type=lambda s: tuple(int(n) for n in s.split(",") if n)
    )
    parser.add_argument("--precision", choices=sorted(TOLERANCE), default="float32")
    parser.add_argument("--torch", action=argparse.BooleanOptionalAction, default=torch is not None)
    args = parser.parse_args()
    if args.torch and torch is None:
        parser.error("PyTorch is not installed; install the extra `benchmark` or say --no-torch")
    return args


def main() -> None:
    args = parse()
    machine(args)
    config = make_config(args)
    batches = [make_batch(args, seed) for seed in range(2 + args.warmup + args.steps)]
    ours, modules, facts = jax_contestant(config, batches[0])
    for name, module in modules.items():
        if name == "segmenter" or max(args.stages) == 4:
            assert count(module) == PARAMETERS[name], count(module)
    steps, memory = {"A jax": ours}, {}
    if args.torch:
        contestant = TorchContestant(config, modules)
        steps["B torch, same work"] = contestant.same_work
    checked = {}
    for name, step in steps.items():
        terms, memory[name] = measured_step(step, batches[0])
        checked[name] = [terms, step(batches[1])]
    if args.torch:
        check_agreement(*checked.values(), TOLERANCE[args.precision])
    if args.torch and args.stages:
        released = TorchContestant(config, modules)
        released.critic.train()
        steps["C torch, released"] = released.released_work
        _, memory["C torch, released"] = measured_step(released.released_work, batches[0])
    seconds = {name: [] for name in steps}
    for batch in batches[2:]:
        for name, step in steps.items():
            start = time.perf_counter()
            step(batch)
            seconds[name].append(time.perf_counter() - start)
    report(args, {k: v[args.warmup :] for k, v in seconds.items()}, memory, facts)


def report(args: argparse.Namespace, seconds: dict, memory: dict, facts: dict) -> None:
    """Prints one line a contestant."""
    print(
        f"{'':20}{'s/step':>8}{'least':>8}{'most':>8}{'slices/s':>10}{'/ A':>7}  memory of a step"
    )
    reference = statistics.median(next(iter(seconds.values())))
    for name, values in seconds.items():
        median = statistics.median(values)
        print(
            f"{name:20}{median:8.3f}{min(values):8.3f}{max(values):8.3f}"
            f"{args.batch / median:10.2f}{median / reference:7.2f}  {memory[name]}"
        )
    print("A: " + ", ".join(f"{k} {v}" for k, v in facts.items()))


if __name__ == "__main__":
    sys.exit(main())
