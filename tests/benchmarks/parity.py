"""How far gradients agree with PyTorch's, on several seeds, and how much float32 itself moves them.

    python -m tests.benchmarks.parity --seeds 5
    python -m tests.benchmarks.parity --make tests/fixtures/float64.npz  # needs PyTorch

Weights and images are the recipe's of `tests/fixtures`; a seed draws other images. By network and
seed the first command prints

  rounding   how far our gradients in float32 are from our own in float64
  agreement  how far ours in float64 are from PyTorch's in float64, where a fixture has the seed

Rounding is the greatest error of the first layer's gradient over its largest value, the same of the
parameter that fares worst, and the relative error of the norm of the whole gradient. Agreement is
that of the loss, of the first layer's gradient, of the norm of the parameter that fares worst, and
of the norm of the whole gradient. Parameters whose gradient is zero but for rounding (biases before
a normalisation) are left out. `whole` is the first step of the method: UNet++ under 0.5 · BCE, Dice
and the feature distance of all four stages of a ResNet-50. SegAN's is its segmentor's step in
evaluation mode, as in the fixture.

The second command makes `float64.npz` with PyTorch, and stops unless what it computes on seed 0 is
what the fixtures have from the published code.
"""

import argparse
import functools
import json
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from crlm_jax.method import losses
from crlm_jax.models import layers, segan
from crlm_jax.models.nnunet import NNUNet
from crlm_jax.models.resnet import ResNet50
from crlm_jax.models.transunet import TransUNet
from crlm_jax.models.unet import UNet
from crlm_jax.models.unetpp import UNetPlusPlus
from tests.benchmarks import train_step
from tests.benchmarks.train_step import TorchBlock, TorchResNet50, TorchUNetPlusPlus, dice
from tests.fixtures import recipe
from tests.models import parity, test_nnunet, test_segan, test_transunet

try:
    import torch
    from torch import nn
    from torch.nn import functional as F
except ImportError:
    torch, nn = None, train_step.nn

FIXTURES = Path(recipe.__file__).parent
STORED = FIXTURES / "float64.npz"
ZERO = 1e-7  # of the norm of the whole gradient: less is rounding
WIDTHS = (32, 64, 128, 256, 512)


class TorchUNet(nn.Module):
    """U-Net as `UNet` of github 4uiiurz1/pytorch-nested-unet."""

    def __init__(self):
        super().__init__()
        for i, (before, width) in enumerate(zip((3, *WIDTHS), WIDTHS, strict=False)):
            setattr(self, f"conv{i}_0", TorchBlock(before, width))
        for i in (3, 2, 1, 0):
            setattr(self, f"conv{i}_{4 - i}", TorchBlock(WIDTHS[i] + WIDTHS[i + 1], WIDTHS[i]))
        self.final = nn.Conv2d(WIDTHS[0], 1, 1)
        self.up = nn.Upsample(scale_factor=2, mode="bilinear", align_corners=True)

    def forward(self, image):
        levels = [self.conv0_0(image)]
        for i in range(1, 5):
            levels.append(getattr(self, f"conv{i}_0")(F.max_pool2d(levels[-1], 2)))
        x = levels.pop()
        for i in (3, 2, 1, 0):
            x = getattr(self, f"conv{i}_{4 - i}")(torch.cat((levels[i], self.up(x)), 1))
        return self.final(x)


class TorchDeep(TorchUNetPlusPlus):
    """UNet++ with a head on every node of the finest level; gives their logits, coarsest first."""

    def __init__(self):
        super().__init__()
        for j in range(1, 5):
            setattr(self, f"final{j}", nn.Conv2d(WIDTHS[0], 1, 1))
        self.nodes = []
        del self.final
        self.final = nn.Identity()
        for j in range(1, 5):
            block = getattr(self, f"conv0_{j}")
            block.register_forward_hook(lambda _, __, out: self.nodes.append(out))

    def forward(self, image):
        self.nodes.clear()
        super().forward(image)
        return [getattr(self, f"final{j + 1}")(x) for j, x in enumerate(self.nodes)]


def filled(network, name: str):
    """The network with the recipe's weights, in float64."""
    tensors = {
        key: torch.from_numpy(recipe.tensor(name, key, tuple(value.shape)))
        for key, value in network.state_dict().items()
        if "num_batches" not in key
    }
    network.load_state_dict(network.state_dict() | tensors)
    return network.double()


def torch_gradients(network, seed: int, critic=None, dtype: str = "float64") -> dict:
    """Loss, gradients and logits of a training step."""
    dtype = getattr(torch, dtype)
    x, y = (torch.from_numpy(a).to(dtype) for a in recipe.inputs(seed, 64))
    network.to(dtype).train().zero_grad()
    if critic is not None:
        critic.to(dtype)
    heads = network(x)
    heads = heads if isinstance(heads, list) else [heads]
    terms = [0.5 * F.binary_cross_entropy_with_logits(z, y) + dice(z, y) for z in heads]
    loss = sum(terms) / len(terms)
    if critic is not None:
        with torch.no_grad():
            reference = critic(x * y)
        found = critic(x * heads[0].sigmoid())
        loss = loss + sum(F.l1_loss(f, r) for f, r in zip(found, reference, strict=True))
    loss.backward()
    named = {name: value.grad for name, value in network.named_parameters()}
    norms = torch.stack([value.norm() for value in named.values()])
    return {
        "loss": loss.item(),
        "grad_first": named["conv0_0.conv1.weight"].numpy().copy(),
        "grad_norms": norms.numpy(),
        "grad_norm": norms.norm().item(),
        "logits": torch.stack(heads)[..., ::8, ::8].detach().numpy(),
    }


def make(path: Path, seeds: int) -> None:
    """Writes PyTorch's float64 numbers of all networks and seeds."""
    critic = filled(TorchResNet50(4), "resnet50").eval().requires_grad_(False)
    networks = {
        "unet": (filled(TorchUNet(), "unet"), None),
        "unetpp": (filled(TorchUNetPlusPlus(), "unetpp"), None),
        "unetpp_ds": (filled(TorchDeep(), "unetpp"), None),
        "whole": (filled(TorchUNetPlusPlus(), "unetpp"), critic),
    }
    arrays = {}
    for name, (network, with_critic) in networks.items():
        for seed in range(seeds):
            found = torch_gradients(network, seed, with_critic)
            if seed == 0:
                check_published(name, found)
            single = torch_gradients(network, seed, with_critic, "float32")["grad_first"]
            moved = np.abs(single - found["grad_first"]).max() / np.abs(found["grad_first"]).max()
            arrays |= {f"{name}_{seed}_{key}": value for key, value in found.items()}
            print(
                f"{name}, seed {seed}: float32 moves PyTorch's first gradient by {moved:.1e}",
                flush=True,
            )
    names = {
        name: [n for n, _ in network.named_parameters()] for name, (network, _) in networks.items()
    }
    arrays |= {f"{name}_parameters": np.array(each) for name, each in names.items()}
    # Large arrays are rounded to float32, by 6e-8 at most: the file is half as large.
    small = {k: v.astype(np.float32) if np.size(v) > 500 else v for k, v in arrays.items()}
    np.savez_compressed(path, **small)
    print(f"{path}: {path.stat().st_size / 1e3:.0f} kB, torch {torch.__version__}")


def check_published(name: str, found: dict) -> None:
    """Stops unless the published code's float64 numbers of seed 0 are these."""
    if name == "whole":
        stored = np.load(FIXTURES / "trajectory.npz")
        row = dict(zip(stored["row_names"], stored["f64_rows"][0], strict=True))
        wanted = {"loss": row["total"], "grad_norm": row["grad_norm"]}
        wanted["grad_first"] = stored["f64_step0_grad_first"]
    else:
        stored = np.load(FIXTURES / f"{name}.npz")
        wanted = {"loss": stored["f64_loss_bcedice"], "grad_norm": stored["f64_grad_norm"]}
    for key, value in wanted.items():
        error = np.abs(found[key] - value).max() / np.abs(value).max()
        print(f"{name}, seed 0, {key}: differs from the published code's by {error:.1e}")
        if error > 1e-9:
            raise SystemExit(f"{name}: {key} is not the published code's")


@dataclass(frozen=True)
class Network:
    """A network of this project, and how its gradient is taken."""

    create: Callable  # dtype -> module, or modules of which the first is trained
    objective: Callable  # (module or modules, x, y) -> loss
    first: str = "conv0_0.conv1.weight"  # name of its first layer
    size: int = 64  # pixels


def mean_of_heads(model, x, y):
    """0.5 · BCE + Dice, mean over the heads."""
    terms = [0.5 * losses.bce(z, y) + losses.dice(z, y) for z in model(x)]
    return sum(terms) / len(terms)


def whole(models, x, y):
    """The loss of the method in its first step."""
    segmenter, critic = models
    (logits,) = segmenter(x)
    found, true = critic(x * jax.nn.sigmoid(logits)), critic(x * y)
    own = 0.5 * losses.bce(logits, y) + losses.dice(logits, y)
    return own + losses.feature_distance(found, true, (1, 2, 3, 4))


def segan_step(models, x, y):
    """What SegAN's segmentor minimises."""
    segmentor, critic = models
    (logits,) = segmentor(x)
    found, true = critic(x * jax.nn.sigmoid(logits)), critic(x * y)
    return test_segan.distance(found, true) + losses.squared_dice(logits, y)


def make_segan(dtype):
    """Segmentor and critic in evaluation mode: 1×1 maps of two images are ill-conditioned."""
    drawn = lambda key: test_segan.Zeros()  # noqa: E731
    with mock.patch.object(layers, "host_rng", drawn), mock.patch.object(segan, "host_rng", drawn):
        built = [
            create(dtype=dtype, rngs=nnx.Rngs(0))
            for create in (segan.SegANSegmentor, segan.SegANCritic)
        ]
    for name, model in zip(("segan_s", "segan_c"), built, strict=True):
        parity.fill(model, name).eval()
    return built


def make_whole(dtype):
    critic = ResNet50(dtype=dtype, precision=jax.lax.Precision.HIGHEST, rngs=nnx.Rngs(0))
    segmenter = UNetPlusPlus(dtype=dtype, rngs=nnx.Rngs(0))
    return parity.fill(segmenter, "unetpp"), parity.fill(critic, "resnet50")


def plain(create: Callable, name: str) -> Callable:
    return lambda dtype: parity.fill(create(dtype=dtype, rngs=nnx.Rngs(0)), name)


NETWORKS = {
    "unet": Network(plain(UNet, "unet"), mean_of_heads),
    "unetpp": Network(plain(UNetPlusPlus, "unetpp"), mean_of_heads),
    "unetpp_ds": Network(
        plain(functools.partial(UNetPlusPlus, deep_supervision=True), "unetpp"), mean_of_heads
    ),
    "whole": Network(make_whole, whole),
    "nnunet": Network(
        plain(NNUNet, "nnunet"),
        lambda model, x, y: test_nnunet.objective(test_nnunet.tumour(model.class_logits(x)), y) - 1,
        "encoder.stages.0.0.convs.0.conv.weight",
    ),
    "transunet": Network(
        plain(functools.partial(TransUNet, 64), "transunet"),
        lambda model, x, y: test_transunet.loss(model.class_logits(x), y),
        "transformer.embeddings.hybrid_model.root.conv.weight",
    ),
    "segan": Network(make_segan, segan_step, "convblock1.0.weight", 128),
}


def gradients(network: Network, dtype: str, seeds: int) -> Iterator[dict[str, np.ndarray]]:
    """Yields loss and gradients by name, float64, of each seed; compiled once."""
    with jax.enable_x64(dtype == "float64"):
        built = network.create(jnp.dtype(dtype))
        trained, others = (built[0], built[1:]) if isinstance(built, (list, tuple)) else (built, ())
        graph, params, stats = nnx.split(trained, nnx.Param, nnx.BatchStat)
        frozen = [nnx.split(other) for other in others]
        graphs, states = [each[0] for each in frozen], [each[1] for each in frozen]

        @jax.jit
        def step(params, stats, states, x, y):
            def loss(params):
                model = nnx.merge(graph, params, stats, copy=True)
                rest = [nnx.merge(g, s) for g, s in zip(graphs, states, strict=True)]
                return network.objective((model, *rest) if rest else model, x, y)

            return jax.value_and_grad(loss)(params)

        for seed in range(seeds):
            x, y = (parity.nhwc(a) for a in recipe.inputs(seed, network.size))
            loss, grads = step(params, stats, states, x, y)
            found = {name: np.float64(g) for name, g in parity.parameters(grads).items()}
            yield {"loss": np.float64(loss), **found}


def stored(name: str, seed: int) -> dict | None:
    """PyTorch's float64 loss, norms by parameter and first gradient (PyTorch's layout), if any."""
    arrays = np.load(STORED)
    if f"{name}_{seed}_loss" in arrays:
        norms = arrays[f"{name}_{seed}_grad_norms"]
        named = dict(zip(arrays[f"{name}_parameters"].tolist(), norms, strict=True))
        first = arrays[f"{name}_{seed}_grad_first"]
        return {"loss": arrays[f"{name}_{seed}_loss"], "norms": named, "first": first}
    if seed or name not in ("nnunet", "transunet", "segan"):
        return None
    arrays, keys = np.load(FIXTURES / f"{name}.npz"), f"keys_{name}.json"
    prefix, norms, first = "f64_", arrays.get("f64_grad_norms"), None
    if name == "segan":
        norms, first, keys = (
            arrays["eval_f64_grad_norms_S"],
            arrays["eval_f64_grad_first_S"],
            "keys_segan_s.json",
        )
        loss = arrays["eval_f64_loss_G"] + arrays["eval_f64_loss_dice"]
    else:
        loss = arrays[f"{prefix}loss_train"] if name == "transunet" else None
    order = json.loads((FIXTURES / keys).read_text())["named_parameters_order"]
    named = {key: norm for key, norm in zip(order, norms, strict=True) if np.isfinite(norm)}
    return {"loss": None if loss is None else np.ravel(loss)[0], "norms": named, "first": first}


def compare(name: str, first: str, single: dict, double: dict, theirs: dict | None) -> str:
    """Returns one line: rounding, and agreement where PyTorch's numbers are stored."""
    norms = {key: np.linalg.norm(value) for key, value in double.items() if key != "loss"}
    total = np.linalg.norm([*norms.values()])
    kept = [key for key, norm in norms.items() if norm > ZERO * total]
    whole32 = np.linalg.norm([np.linalg.norm(single[key]) for key in norms])
    moved = {
        key: np.abs(single[key] - double[key]).max() / np.abs(double[key]).max() for key in kept
    }
    worst = max(moved, key=moved.get)
    line = f"{moved[first]:.1e} | {moved[worst]:.1e} ({worst}) | {abs(whole32 / total - 1):.1e}"
    if theirs is None:
        return f"{line} | – | – | – | –"
    loss = "–" if theirs["loss"] is None else f"{abs(double['loss'] / theirs['loss'] - 1):.1e}"
    grad = "–"
    if theirs["first"] is not None:
        own = double[first].transpose(3, 2, 0, 1)
        grad = f"{np.abs(own - theirs['first']).max() / np.abs(theirs['first']).max():.1e}"
    off = max(abs(norms[key] / theirs["norms"][key] - 1) for key in kept)
    whole64 = np.linalg.norm([*theirs["norms"].values()])
    return f"{line} | {loss} | {grad} | {off:.1e} | {abs(total / whole64 - 1):.1e}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--networks", default="+".join(NETWORKS), help="joined by +")
    parser.add_argument("--make", type=Path, help="write PyTorch's numbers of three seeds")
    args = parser.parse_args()
    if args.make:
        make(args.make, 3)
        return
    print(f"jax {jax.__version__}, numpy {np.__version__}, {jax.devices()[0].device_kind}")
    print(
        "network | seed | rounding: first | worst | norm | agreement: loss | first | norms | norm"
    )
    for name in args.networks.split("+"):
        network, begin = NETWORKS[name], time.perf_counter()
        pairs = zip(
            gradients(network, "float32", args.seeds), gradients(network, "float64", args.seeds),
            strict=True,
        )  # fmt: skip
        for seed, (single, double) in enumerate(pairs):
            line = compare(name, network.first, single, double, stored(name, seed))
            print(f"{name} | {seed} | {line}", flush=True)
        print(f"{name}: {time.perf_counter() - begin:.0f} s", flush=True)


if __name__ == "__main__":
    main()
