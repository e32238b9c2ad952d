"""Losses of a segmenter, plain functions: binary cross-entropy, Dice, and the feature distance.

The total of CRLM-GAN is their sum (Xia et al., Cancer Imaging 26:10, 2025); the released code
halves the cross-entropy. Each of the methods compared has its own Dice (`DICE`). For a method with
two classes, z is the difference of their logits: then the binary cross-entropy of z is its
cross-entropy, and p = σ(z) its softmax. All compute in float32, or in the float64 that they are
given, and return a scalar of it; the mean over a batch is the global one under `jax.jit` over a
mesh.
"""

from collections.abc import Sequence
from typing import Literal

import jax
import jax.numpy as jnp
import optax  # type: ignore[import-untyped]  # optax has neither annotations nor stubs


def _exact(x: jax.Array) -> jax.Array:
    return x.astype(jnp.promote_types(x.dtype, jnp.float32))


def _foreground(logits: jax.Array, mask: jax.Array) -> tuple[jax.Array, jax.Array]:
    return jax.nn.sigmoid(_exact(logits)), _exact(mask)


def bce(logits: jax.Array, mask: jax.Array) -> jax.Array:
    r"""Mean binary cross-entropy of logits.

    .. math::
      \frac{1}{N} \sum_i -y_i \log σ(z_i) - (1 - y_i) \log(1 - σ(z_i))

    Args:
      logits: (B, H, W, 1), z.
      mask: (B, H, W, 1), y in {0, 1}.

    Returns:
      () float32.

    Examples:
      >>> logits, mask = jnp.zeros((1, 2, 2, 1)), jnp.ones((1, 2, 2, 1))
      >>> print(f"{bce(logits, mask):.4f}")
      0.6931

    References:
      `torch.nn.BCEWithLogitsLoss`.
    """
    z, y = _exact(logits), _exact(mask)
    return optax.sigmoid_binary_cross_entropy(z, y).mean()


def dice(logits: jax.Array, mask: jax.Array, smooth: float = 1e-5) -> jax.Array:
    r"""One minus the mean over images of the soft Dice coefficient.

    .. math::
      1 - \frac{1}{B} \sum_b \frac{2 \sum_i p_{bi} y_{bi} + s}{\sum_i p_{bi} + \sum_i y_{bi} + s},
      \quad p = σ(z)

    Args:
      logits: (B, H, W, 1), z.
      mask: (B, H, W, 1), y in {0, 1}.
      smooth: s, which makes an empty prediction of an empty mask perfect.

    Returns:
      () float32, in [0, 1].

    Examples:
      >>> logits, mask = jnp.zeros((1, 2, 2, 1)), jnp.ones((1, 2, 2, 1))
      >>> print(f"{dice(logits, mask):.4f}")
      0.3333

    References:
      Milletari et al., V-Net (https://arxiv.org/abs/1606.04797), 2016, there with squares in the
      denominator; without them in the released CRLM-GAN code (`BCEDiceLoss`).
    """
    p, y = _foreground(logits, mask)
    pixels = tuple(range(1, p.ndim))
    overlap, sizes = (p * y).sum(pixels), p.sum(pixels) + y.sum(pixels)
    return 1 - jnp.mean((2 * overlap + smooth) / (sizes + smooth))


def batch_dice(logits: jax.Array, mask: jax.Array, smooth: float = 1e-5) -> jax.Array:
    """As `dice`, but of all pixels of the batch as one image, without the background class.

    References:
      nnU-Net, github MIC-DKFZ/nnUNet 0e495086, `MemoryEfficientSoftDiceLoss(batch_dice=True,
      do_bg=False)`, which is lower by 1.
    """
    p, y = _foreground(logits, mask)
    return 1 - (2 * (p * y).sum() + smooth) / (p.sum() + y.sum() + smooth)


def two_class_dice(logits: jax.Array, mask: jax.Array, smooth: float = 1e-5) -> jax.Array:
    r"""Mean of the Dice losses of tumour and background over all pixels of the batch, with squares.

    .. math::
      1 - \frac{2 \sum_i p_i y_i + s}{\sum_i p_i^2 + \sum_i y_i^2 + s}, \quad
      p = σ(z) \text{ and } 1 - σ(z), \text{ y alike}

    References:
      TransUNet, github Beckschen/TransUNet, `DiceLoss` in `utils.py`.
    """
    p, y = _foreground(logits, mask)
    classes = [(p, y), (1 - p, 1 - y)]
    scores = [(2 * (p * y).sum() + smooth) / ((p * p + y * y).sum() + smooth) for p, y in classes]
    return 1 - (scores[0] + scores[1]) / 2


def squared_dice(logits: jax.Array, mask: jax.Array) -> jax.Array:
    r"""As `dice`, with squares in the denominator and nothing added.

    References:
      SegAN, github YuanXue1993/SegAN (aa892a63), `dice_loss` in `train.py`.
    """
    p, y = _foreground(logits, mask)
    pixels = tuple(range(1, p.ndim))
    return 1 - jnp.mean(2 * (p * y).sum(pixels) / (p * p + y * y).sum(pixels))


DICE = {"image": dice, "batch": batch_dice, "two_class": two_class_dice, "squared": squared_dice}


def head_weights(heads: int, rule: Literal["equal", "halved"]) -> list[float]:
    """Weights of a segmenter's heads, finest first, which sum to 1.

    Args:
      heads: how many.
      rule: `equal`, or `halved` from each head to the next coarser one and 0 for the coarsest, as
        nnU-Net does.

    Examples:
      >>> head_weights(3, "halved")
      [0.6666666666666666, 0.3333333333333333, 0.0]
    """
    if rule == "equal" or heads == 1:
        return [1 / heads] * heads
    weights = [0.5**i for i in range(heads - 1)]
    return [weight / sum(weights) for weight in weights] + [0.0]


def mask_of(head: jax.Array, mask: jax.Array) -> jax.Array:
    """Resamples a mask (B, H, W, 1) to the size of a head (B, H/f, W/f, 1): pixel f·i + ⌊f/2⌋.

    Nearest-exact, as nnU-Net resizes a mask for deep supervision.
    """
    rows, columns = mask.shape[1] // head.shape[1], mask.shape[2] // head.shape[2]
    return mask[:, rows // 2 :: rows, columns // 2 :: columns]


def stage_distances(
    features: Sequence[jax.Array],
    reference: Sequence[jax.Array],
    stages: Sequence[int],
    fusion: Literal["per_stage", "concatenated"] = "per_stage",
) -> dict[int, jax.Array]:
    """Each stage's part of `feature_distance`, which is their sum; () float32, by stage.

    Arguments as there.
    """
    pairs = {stage: (features[stage - 1], reference[stage - 1]) for stage in stages}
    means = {stage: jnp.abs(_exact(f) - _exact(r)).mean() for stage, (f, r) in pairs.items()}
    if fusion == "per_stage":
        return means
    counts = {stage: f.size for stage, (f, _) in pairs.items()}
    return {s: mean * (counts[s] / sum(counts.values())) for s, mean in means.items()}


def feature_distance(
    features: Sequence[jax.Array],
    reference: Sequence[jax.Array],
    stages: Sequence[int] = (1, 2, 3, 4),
    fusion: Literal["per_stage", "concatenated"] = "per_stage",
) -> jax.Array:
    r"""L1 distance of a critic's stage features: what CRLM-GAN adds to the loss.

    .. math::
      \text{per\_stage: } \sum_{s} \frac{1}{N_s} \sum_i |f_{si} - r_{si}|, \qquad
      \text{concatenated: } \frac{\sum_s \sum_i |f_{si} - r_{si}|}{\sum_s N_s}

    With one mean over all stages (`concatenated`, as in the released code) a stage weighs by its
    number of elements: 53, 27, 13 and 7 % for a ResNet-50.

    Args:
      features: f, of image · predicted map; stage s is `features[s - 1]`, (B, H_s, W_s, C_s).
      reference: r, of image · mask; alike.
      stages: the constrained ones; empty: 0.
      fusion: one mean for each stage, or one over all of them.

    Returns:
      () float32.

    Examples:
      >>> f, r = [jnp.ones((1, 2, 2, 1)), jnp.ones((1, 1, 1, 2))], [jnp.zeros((1, 2, 2, 1))] * 2
      >>> print(feature_distance(f, r, stages=(1,)))
      1.0

    References:
      Xia et al., CRLM-GAN, Cancer Imaging 26:10, 2025; Xue et al., SegAN
      (https://arxiv.org/abs/1706.01805), 2017.
    """
    parts = stage_distances(features, reference, stages, fusion)
    return sum(parts.values(), jnp.zeros((), jnp.float32))
