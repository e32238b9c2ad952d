"""Seconds of one training step of CRLM-GAN: this project's, PyTorch's, the released code's work.

    pip install -e ".[benchmark]"
    python tests/benchmarks/train_step.py --batch 4 --size 224 --steps 5

Contestants take turns (A B C A B C …), so that the drift of a noisy machine hits all alike:

  A  `crlm_jax.train.make_train_step`: UNet++ 32 … 512, frozen ResNet-50 with random weights.
  B  The same work in PyTorch: one forward and backward of the segmenter; one forward of the critic
     on image · probability with the gradient of its input only, one on image · mask without;
     BCE + Dice + one L1 a stage; SGD with momentum and weight decay.
  C  The released code's work in PyTorch. Its loop has a discriminator and a generator part, read
     here as follows. Each runs the segmenter in training mode and the frozen critic, with batch
     norm in training mode, on image · logits and image · mask: two and four forwards in all. The
     first part only shows a distance (backward and step are commented out). In the second the stage
     outputs are copied out of the graph before one L1 over all, so that term has no gradient; the
     one backward and update are the segmenter's, of 0.5 · BCE + Dice.

First A and B take two steps from the same weights on the same batches; the run stops unless all
terms agree (the second step depends on the first one's gradients). On a shared machine compare the
least seconds too: the median is then that of the neighbours.
"""

import argparse
import functools
import math
import os
import platform
import re
import statistics
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import jax
import numpy as np
from flax import nnx

from crlm_jax.config.schema import Config
from crlm_jax.method.step import create_state, make_train_step
from crlm_jax.models import inputs, torch_weights
from crlm_jax.system import parallel

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
        for i, (before, width) in enumerate(zip((3, *widths), widths, strict=False)):
            setattr(self, f"conv{i}_0", TorchBlock(before, width))
        self.levels = len(widths)
        for j in range(1, self.levels):
            for i in range(self.levels - j):
                block = TorchBlock(j * widths[i] + widths[i + 1], widths[i])
                setattr(self, f"conv{i}_{j}", block)
        self.final = nn.Conv2d(widths[0], 1, 1)
        self.up = nn.Upsample(scale_factor=2, mode="bilinear", align_corners=True)

    def forward(self, image):
        levels = [[self.conv0_0(image)]]
        for i in range(1, self.levels):
            levels.append([getattr(self, f"conv{i}_0")(F.max_pool2d(levels[-1][0], 2))])
        for j in range(1, self.levels):
            for i in range(self.levels - j):
                x = torch.cat((*levels[i], self.up(levels[i + 1][j - 1])), 1)
                levels[i].append(getattr(self, f"conv{i}_{j}")(x))
        return self.final(levels[0][-1])


class TorchBottleneck(nn.Module):
    """1×1, 3×3 (with the stride, as in v1.5) and 1×1 convolution beside a shortcut."""

    def __init__(self, before: int, width: int, stride: int):
        super().__init__()
        conv, after = functools.partial(nn.Conv2d, bias=False), 4 * width
        self.conv1, self.bn1 = conv(before, width, 1), nn.BatchNorm2d(width)
        self.conv2, self.bn2 = conv(width, width, 3, stride, 1), nn.BatchNorm2d(width)
        self.conv3, self.bn3 = conv(width, after, 1), nn.BatchNorm2d(after)
        self.downsample = nn.Sequential()
        if stride > 1 or before != after:
            self.downsample.extend([conv(before, after, 1, stride), nn.BatchNorm2d(after)])

    def forward(self, x):
        y = F.relu(self.bn1(self.conv1(x)), inplace=True)
        y = F.relu(self.bn2(self.conv2(y)), inplace=True)
        return F.relu(self.bn3(self.conv3(y)) + self.downsample(x), inplace=True)


class TorchResNet50(nn.Module):
    """ResNet-50 without classifier; gives the outputs of stages 1 to `last_stage`."""

    def __init__(self, last_stage: int, stem: int = 64):
        super().__init__()
        self.conv1 = nn.Conv2d(3, stem, 7, stride=2, padding=3, bias=False)
        self.bn1, before = nn.BatchNorm2d(stem), stem
        for stage, blocks in enumerate((3, 4, 6, 3)[:last_stage], 1):
            layer, width = nn.Sequential(), stem * 2 ** (stage - 1)
            for block in range(blocks):
                layer.append(TorchBottleneck(before, width, 2 if stage > 1 and block == 0 else 1))
                before = 4 * width
            setattr(self, f"layer{stage}", layer)
        self.last_stage = last_stage

    def forward(self, image):
        features = [F.max_pool2d(F.relu(self.bn1(self.conv1(image))), 3, 2, 1)]
        for stage in range(1, self.last_stage + 1):
            features.append(getattr(self, f"layer{stage}")(features[-1]))
        return features[1:]


def dice(logits, mask):
    p, y = logits.sigmoid().flatten(1), mask.flatten(1)
    return 1 - ((2 * (p * y).sum(1) + 1e-5) / (p.sum(1) + y.sum(1) + 1e-5)).mean()


class TorchContestant:
    """Networks with the JAX side's first weights, and the two PyTorch steps.

    They run on the device that JAX has by default, or on `device`. `exact_critic` leaves the critic
    out of bfloat16, as this project does; `layout` is the order in which maps lie in memory.
    """

    def __init__(
        self,
        config: Config,
        modules: dict[str, nnx.Module],
        device: str = "",
        exact_critic: bool = False,
        layout: object = None,
    ):
        self.stages, self.bfloat16 = config.loss.stages, config.train.precision == "bfloat16"
        gpu = jax.default_backend() == "gpu" and torch.cuda.is_available()
        self.device = torch.device(device or ("cuda" if gpu else "cpu"))
        self.exact_critic, self.layout = exact_critic, layout or torch.contiguous_format
        black = torch.zeros(1, 3, 1, 1)
        if config.loss.mask_applied == "before_normalisation":
            black = torch.from_numpy(-inputs.IMAGENET_MEAN / inputs.IMAGENET_STD).view(1, 3, 1, 1)
        self.black = black.float().to(self.device)
        self.segmenter, self.critic = TorchUNetPlusPlus(config.segmenter.widths), None
        if self.stages:
            critic = TorchResNet50(max(self.stages), config.critic.width)
            self.critic = critic.eval().requires_grad_(False)
        for name, module in modules.items():
            own = getattr(self, name).to(self.device)
            tensors = {
                k: torch.from_numpy(v.copy()) for k, v in torch_weights.to_torch(module).items()
            }
            own.load_state_dict(own.state_dict() | tensors)  # its own only for the step counters
            assert count(module) == sum(p.numel() for p in own.parameters())
            own.to(memory_format=self.layout)
        options = config.optimizer
        self.optimizer = torch.optim.SGD(
            self.segmenter.parameters(), options.learning_rate, options.momentum, 0.0,
            options.weight_decay,
        )  # fmt: skip

    def place(self, batch: Batch):
        """Image and mask as they are, uint8, on the device."""
        return tuple(torch.from_numpy(batch[k]).to(self.device) for k in ("image", "mask"))

    def normalise(self, image, mask):
        """Three z-scored channels and the mask; the batch's photometric change is none."""
        zscore = (inputs.IMAGENET_MEAN, inputs.IMAGENET_STD)
        mean, std = (torch.from_numpy(value).to(self.device) for value in zscore)
        image = ((image.float() / 255 - mean) / std).permute(0, 3, 1, 2)
        return image.contiguous(memory_format=self.layout), mask.permute(0, 3, 1, 2).float()

    def load(self, batch: Batch):
        return self.normalise(*self.place(batch))

    def forward(self, network, x):
        rounded = self.bfloat16 and not (self.exact_critic and network is self.critic)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=rounded):
            y = network(x)
        return [f.float() for f in y] if isinstance(y, list) else y.float()

    def update(self, loss):
        self.optimizer.zero_grad()
        loss.backward()
        norm = torch.nn.utils.get_total_norm([p.grad for p in self.segmenter.parameters()])
        self.optimizer.step()
        return norm

    def masked(self, image, shown):
        """What the critic sees: by the paper, black where nothing is shown."""
        return (image - self.black) * shown + self.black

    def loss_terms(self, image, mask):
        """The method as the paper has it."""
        logits = self.forward(self.segmenter, image)
        bce = F.binary_cross_entropy_with_logits(logits, mask)
        terms = {"bce": bce, "dice": dice(logits, mask)}
        if self.stages:
            with torch.no_grad():
                r = self.forward(self.critic, self.masked(image, mask))
            f = self.forward(self.critic, self.masked(image, logits.sigmoid()))
            terms["feature"] = sum(F.l1_loss(f[s - 1], r[s - 1]) for s in self.stages)
        return terms | {"loss": sum(terms.values())}

    def same_step(self, image, mask):
        """B: a step from tensors of `normalise`; waits for no device."""
        terms = self.loss_terms(image, mask)
        return terms | {"grad_norm": self.update(terms["loss"])}

    def same_work(self, batch: Batch) -> dict[str, float]:
        """B: a step from a batch, done when this returns."""
        return {k: v.item() for k, v in self.same_step(*self.load(batch)).items()}

    def released_work(self, batch: Batch) -> dict[str, float]:
        """C: what the released code computes in one iteration of its loop."""
        image, mask = self.load(batch)
        for part in ("discriminator", "generator"):
            logits = self.forward(self.segmenter, image)
            sides = [self.forward(self.critic, image * m) for m in (logits, mask)]
            if part == "discriminator":  # only shown: nothing is updated
                shown = sum(F.mse_loss(f, r) for f, r in zip(*sides, strict=True)).item()
        copies = [torch.cat([f.detach().clone().flatten() for f in side]) for side in sides]
        bce = F.binary_cross_entropy_with_logits(logits, mask)
        loss = 0.5 * bce + dice(logits, mask) + F.l1_loss(*copies)
        self.update(loss)
        return {"loss": loss.item(), "discriminator": shown}


def count(module: nnx.Module) -> int:
    return sum(x.size for x in jax.tree.leaves(nnx.state(module, nnx.Param)))


def make_config(args: argparse.Namespace) -> Config:
    """The paper's scale, which is `Config`'s default, with random weights in the critic."""
    config = Config()
    config.critic.weights, config.loss.stages = "random", args.stages
    config.train.batch_size, config.data.image_size = args.batch, args.size
    config.train.precision = args.precision
    return config


def make_batch(args: argparse.Namespace, seed: int) -> Batch:
    """Noise and a disc, without photometric change: time does not depend on the values."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[: args.size, : args.size] / args.size
    centres = rng.uniform(0.3, 0.7, (args.batch, 2, 1, 1))
    disc = (y - centres[:, 0]) ** 2 + (x - centres[:, 1]) ** 2 < 1 / 36
    return {
        "image": rng.integers(0, 256, (args.batch, args.size, args.size, 1), dtype=np.uint8),
        "mask": disc[..., None].astype(np.uint8),
        "photometric": np.repeat(np.float32([[1, 1, 1, 0, 0, 0]]), args.batch, 0),
    }


def jax_contestant(config: Config, first: Batch) -> tuple[Step, dict[str, nnx.Module], str]:
    """Returns the compiled step, the networks at the start, and its compile time and memory."""
    mesh = parallel.make_mesh(1)
    networks, state = create_state(config, mesh)
    begin = jax.tree.map(np.array, state)  # the state itself is donated to the first step
    modules = {"segmenter": nnx.merge(networks.segmenter, begin.params, begin.batch_stats)}
    if networks.critic is not None:
        modules["critic"] = nnx.merge(networks.critic, begin.critic)
    start, batch = time.perf_counter(), parallel.to_global(first, mesh)
    compiled = make_train_step(config, networks, mesh, steps=1).lower(state, batch).compile()
    fact = f"compiled in {time.perf_counter() - start:.1f} s"
    if (memory := compiled.memory_analysis()) is not None:
        fact += f", {memory.temp_size_in_bytes / 2**30:.2f} GiB of buffers beside state and batch"

    def step(batch: Batch) -> dict[str, float]:
        nonlocal state
        state, terms = compiled(state, parallel.to_global(batch, mesh))
        jax.block_until_ready(state)
        return {k: float(v) for k, v in terms.items()}

    return step, modules, fact


def check_agreement(ours: list[Mapping], theirs: list[Mapping], tolerance: float) -> None:
    """Stops unless all terms of A and B agree in both steps."""
    for a, b in zip(ours, theirs, strict=True):
        print("A / B: " + ", ".join(f"{k} {a[k]:.6f} / {b[k]:.6f}" for k in sorted(b)))
        for name in b:
            if not math.isclose(a[name], b[name], rel_tol=tolerance):
                raise SystemExit(f"{name} differs: A and B do not do the same work")
    print(f"They agree within {tolerance:g}.\n")


def describe(args: argparse.Namespace) -> None:
    """Prints the machine, versions and the size of the task."""
    cpu = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
    cpu = re.search(r"model name\s*: (.*)|$", cpu)[1] or platform.machine()
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30
    print(f"{cpu}, {os.cpu_count()} cores, {memory:.0f} GiB, load {os.getloadavg()[0]:.1f}")
    other = f", torch {torch.__version__}, {torch.get_num_threads()} threads" if args.torch else ""
    print(f"jax {jax.__version__} on {jax.devices()[0].device_kind}{other}")
    print(f"batch {args.batch}, {args.size}², {args.precision}, stages {args.stages}\n")


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    option = parser.add_argument
    option("--batch", type=int, default=4)
    option("--size", type=int, default=224, help="side of a slice, pixels")
    option("--steps", type=int, default=5, help="timed, of each contestant")
    option("--warmup", type=int, default=1, help="not timed, after the check")
    option("--stages", default="1,2,3,4", help="of the critic; empty: no critic, and no C")
    option("--precision", choices=sorted(TOLERANCE), default="float32")
    option("--torch", action=argparse.BooleanOptionalAction, default=torch is not None)
    args = parser.parse_args()
    args.stages = tuple(int(stage) for stage in args.stages.split(",") if stage)
    if args.torch and torch is None:
        parser.error("PyTorch is not installed; install the extra `benchmark` or say --no-torch")
    return args


def main() -> None:
    args = parse()
    describe(args)
    config = make_config(args)
    batches = [make_batch(args, seed) for seed in range(2 + args.warmup + args.steps)]
    ours, modules, compiled = jax_contestant(config, batches[0])
    assert count(modules["segmenter"]) == PARAMETERS["segmenter"]
    assert 4 not in args.stages or count(modules["critic"]) == PARAMETERS["critic"]
    steps = {"A jax": ours}
    if args.torch:
        steps["B torch, same work"] = TorchContestant(config, modules).same_work
    checked = [[step(batch) for batch in batches[:2]] for step in steps.values()]
    if args.torch:
        check_agreement(*checked, TOLERANCE[args.precision])
    if args.torch and args.stages:
        contestant = TorchContestant(config, modules)
        contestant.critic.train()
        steps["C torch, released"] = contestant.released_work
        contestant.released_work(batches[0])
    seconds = {name: [] for name in steps}
    for batch in batches[2:]:
        for name, step in steps.items():
            start = time.perf_counter()
            step(batch)
            seconds[name].append(time.perf_counter() - start)
    report(args, {k: v[args.warmup :] for k, v in seconds.items()}, compiled)


def report(args: argparse.Namespace, seconds: dict, compiled: str) -> None:
    """Prints one line a contestant: median, least and most seconds, ratio of the medians to A's."""
    print(f"{'':20}{'s/step':>8}{'least':>8}{'most':>8}{'slices/s':>10}{'/ A':>7}")
    reference = statistics.median(seconds["A jax"])
    for name, values in seconds.items():
        median = statistics.median(values)
        times = f"{median:8.3f}{min(values):8.3f}{max(values):8.3f}{args.batch / median:10.2f}"
        print(f"{name:20}{times}{median / reference:7.2f}")
    print(f"A: {compiled}")


if __name__ == "__main__":
    main()
