"""What a miss and two kinds of false lesion cost in the feature distance, by `loss.mask_applied`.

    python -m tests.benchmarks.mask_applied WEIGHTS.safetensors IMAGES MASKS

On every slice with tumour, three errors of one size (that of the tumour) are compared with the true
mask: the tumour is missed; a false lesion lies on tissue (the true one, moved to the place in the
body that is nearest to its mean grey); a false lesion lies in the air of a corner. Also given is
the norm of the gradient with respect to the probability map, within the error, at a map of 0.5
there. ResNet-50, stages 1 and 2; means over the slices.
"""

import argparse
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from PIL import Image

from crlm_jax.config.schema import Config
from crlm_jax.method import losses, networks
from crlm_jax.method.step import critic_features
from crlm_jax.models.inputs import network_input

SIDE = 224


def load(images: Path, masks: Path) -> list[tuple[np.ndarray, np.ndarray]]:
    """Grey slices uint8 and their tumour bool, (S, S), of all slices with 20 pixels or more."""
    pairs = []
    for path in sorted(images.glob("*.png")):
        size = (SIDE, SIDE)
        grey = np.array(Image.open(path).convert("L").resize(size, Image.Resampling.BOX))
        mask = Image.open(masks / path.name).convert("L").resize(size, Image.Resampling.NEAREST)
        tumour = np.array(mask) > 127
        if tumour.sum() >= 20:
            pairs.append((grey, tumour))
    return pairs


def moved(grey: np.ndarray, tumour: np.ndarray) -> dict[str, np.ndarray]:
    """The tumour's shape elsewhere: on tissue like it, and in the air of a corner."""
    rows, columns = np.nonzero(tumour)
    shape = rows - rows.min(), columns - columns.min()
    height, width = (axis.max() + 1 for axis in shape)
    target, places = grey[tumour].mean(), []
    for top in range(0, SIDE - height, 4):
        for left in range(0, SIDE - width, 4):
            at = shape[0] + top, shape[1] + left
            if not tumour[at].any() and np.median(grey[at]) > 20:
                places.append((abs(grey[at].mean() - target), top, left))
    found = {}
    for name, (top, left) in (("tissue", min(places)[1:]), ("air", (2, 2))):
        found[name] = tumour.copy()
        found[name][shape[0] + top, shape[1] + left] = True
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name in ("weights", "images", "masks"):
        parser.add_argument(name, type=Path)
    args = parser.parse_args()
    config = Config()
    config.loss.stages, config.critic.weights = (1, 2), str(args.weights)
    critic = networks.create_critic(config)
    graph, state = nnx.split(critic)
    pairs = load(args.images, args.masks)
    print(f"{len(pairs)} slices, JAX {jax.__version__}, {jax.devices()[0].device_kind}")
    print("mask applied | error | feature distance | gradient's norm within the error")
    for applied in ("after_normalisation", "before_normalisation"):
        loss = Config().loss
        loss.mask_with, loss.mask_applied = "logits", applied  # the map itself

        @jax.jit
        def distance(seen, image, mask, loss=loss):
            features = critic_features(nnx.merge(graph, state), image, seen, mask, loss)
            return losses.feature_distance(*features, (1, 2))

        slope = jax.jit(jax.grad(distance))
        rows: dict[str, list[tuple[float, float]]] = {}
        for grey, tumour in pairs:
            image = network_input(jnp.asarray(grey)[None, ..., None])
            mask = jnp.asarray(tumour, jnp.float32)[None, ..., None]
            errors = {"missed": np.zeros_like(tumour), **moved(grey, tumour)}
            for name, wrong in errors.items():
                seen = jnp.asarray(wrong, jnp.float32)[None, ..., None]
                where = wrong != tumour
                half = jnp.where(jnp.asarray(where)[None, ..., None], 0.5, seen)
                gradient = np.asarray(slope(half, image, mask))[0, ..., 0][where]
                value = float(distance(seen, image, mask))
                rows.setdefault(name, []).append((value, float(np.linalg.norm(gradient))))
        for name, values in rows.items():
            value, norm = np.mean(values, axis=0)
            print(f"{applied} | {name} | {value:.4f} | {norm:.2e}")


if __name__ == "__main__":
    main()
