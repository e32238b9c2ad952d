"""From grey slices to what the networks see: photometric change, three channels, z-score.

This is computed on the device, inside the step, so that only one byte per pixel is transferred.
"""

from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np

MaskApplied = Literal["before_normalisation", "after_normalisation"]

# Mean and standard deviation of ImageNet's RGB channels, in units of the full range; the paper
# normalises with them.
IMAGENET_MEAN = np.array((0.485, 0.456, 0.406), np.float32)
IMAGENET_STD = np.array((0.229, 0.224, 0.225), np.float32)


def network_input(image: jax.Array, photometric: jax.Array | None = None) -> jax.Array:
    """Stacks a grey image to three channels, if it has one, and normalises it.

    Args:
      image: (B, H, W, 1) uint8, or (B, H, W, 3), three grey images; or packed
        (`crlm_jax.models.packing`), (B, H/2, W/2, 4) or (B, H/2, W/2, 12).
      photometric: (B, 6) float32: three gains, then three offsets in grey levels, one per
        channel (`crlm_jax.data.augment.photometric`); None: no change.

    Returns:
      (B, H, W, 3) float32, z-scored with the ImageNet mean and standard deviation; or packed,
      (B, H/2, W/2, 12).
    """
    grey, squares = image.astype(jnp.float32), {1: 1, 3: 1, 4: 4, 12: 4}[image.shape[-1]]
    if image.shape[-1] == 4:  # one channel spreads by itself
        grey = jnp.repeat(grey, 3, -1)
    mean, deviation = (np.tile(values, squares) for values in (IMAGENET_MEAN, IMAGENET_STD))
    if photometric is not None:
        gain, offset = (
            jnp.tile(values, squares)
            for values in jnp.split(photometric[:, None, None, :], 2, axis=-1)
        )
        grey = jnp.clip(grey * gain + offset, 0.0, 255.0)
    return (grey / 255.0 - mean) / deviation


def critic_input(
    image: jax.Array,
    mask: jax.Array,
    applied: MaskApplied,
) -> jax.Array:
    """Masks an image for the critic.

    Args:
      image: (B, H, W, 3), z-scored, as from `network_input`.
      mask: (B, H, W, 1), of any range: what is shown, from 0 to 1; packed where the image is.
      applied: to the grey levels, so that black hides; or to the z-scored image, so that the mean
        grey of ImageNet does.

    Returns:
      (B, H, W, 3), z-scored.
    """
    squares = mask.shape[-1]
    if squares > 1:  # otherwise the one channel spreads by itself
        mask = jnp.repeat(mask, 3, -1)
    if applied == "after_normalisation":
        return image * mask
    black = np.tile(-IMAGENET_MEAN / IMAGENET_STD, squares)
    return (image - black) * mask + black
