"""Checks of a configuration's values: ranges, and what one field asks of another.

Types and choices are checked by `schema.validate`, before these.
"""

from typing import Any

from crlm_jax.config.folds import parse_fold
from crlm_jax.system.files import ADDRESS

_POSITIVE = (
    "data.image_size",
    "phantom.patients",
    "transunet.resnet_width",
    "transunet.hidden",
    "transunet.layers",
    "transunet.heads",
    "transunet.mlp",
    "critic.width",
    "optimizer.learning_rate",
    "optimizer.halve_every",
    "train.batch_size",
    "train.epochs",
    "train.log_every",
    "train.checkpoint_every",
    "train.keep",
    "evaluation.batch_size",
    "evaluation.resamples",
)
_NOT_NEGATIVE = (
    "data.test_patients",
    "data.split_seed",
    "data.workers",
    "phantom.seed",
    "evaluation.attribution_steps",
    "train.steps",
    "train.patience",
    "critic.clip",
    "optimizer.clip_norm",
    "optimizer.weight_decay",
    "loss.bce_weight",
    "loss.dice_weight",
    "loss.feature_weight",
    "evaluation.min_lesion_mm3",
    "system.threads",
)
_BELOW_ONE = (  # and 0 or more
    "data.test_fraction",
    "data.validation_fraction",
    "transunet.dropout",
    "optimizer.warmup",
    "optimizer.momentum",
    "train.tumour_first",
    "train.ema",
)
_UP_TO = {  # and 0 or more
    "train.foreground": 1,
    "train.seed": 2**32 - 1,  # JAX drops what is above, so that two seeds would be one
    "augment.hue": 180,
    "augment.saturation": 255,
    "augment.brightness": 1,
    "augment.contrast": 1,
}
_PATHS = ("data.cohort", "data.cache", "critic.weights", "transunet.weights")
PHANTOM_VERSIONS = (1, 2)
CRITIC_STAGES = {"resnet50": 4, "segan": 7}  # as the networks have them, which load JAX


def problems(values: dict[str, Any]) -> list[str]:
    """Lists what is wrong with the values of a configuration, whose types are right.

    Args:
      values: by dotted name.
    """
    found = []
    for name, value in values.items():
        if name in _POSITIVE and not value > 0:
            found.append(f"{name} = {value!r}: must be above 0")
        elif name in _NOT_NEGATIVE and value < 0:
            found.append(f"{name} = {value!r}: must be 0 or more")
    return found or [
        *_segmenter_problems(values),
        *_critic_problems(values),
        *_loss_problems(values),
        *_path_problems(values),
        *_split_problems(values),
        *_plane_problems(values),
        *_phantom_problems(values),
        *_ranges(values),
    ]


def _segmenter_problems(values: dict[str, Any]) -> list[str]:
    """Checks the segmenter's widths, and the side of a slice against them."""
    name, widths = values["segmenter.name"], values["segmenter.widths"]
    size, depth = values["data.image_size"], len(values["segmenter.widths"])
    counts = {"transunet": (5, 5), "segan": (1, 1)}
    fewest, most = counts.get(name, (2, 99))
    if not fewest <= depth <= most or min(widths) < 1:
        wanted = "two or more" if most > fewest else f"exactly {fewest}"
        return [f"segmenter.widths = {widths!r}: {wanted} for {name}, above 0"]
    if name == "segan":
        small = size < 33
        return [f"data.image_size = {size}: SegAN needs 33 or more"] if small else []
    multiple = 16 if name == "transunet" else 2 ** (depth - 1)
    found = []
    if size % multiple:
        why = (
            "a token of TransUNet is 16 pixels wide"
            if name == "transunet"
            else f"the segmenter halves the slice {depth - 1} times"
        )
        near = max(multiple, round(size / multiple) * multiple)
        found.append(
            f"data.image_size = {size}: must be a multiple of {multiple}, since {why}; try {near}"
        )
    elif name == "nnunet" and size == multiple:
        found.append(
            f"data.image_size = {size}: nnU-Net's instance norm needs more than one pixel at the "
            f"coarsest of {depth} depths; try {2 * multiple}, or fewer widths"
        )
    if name == "transunet":
        heads, units = values["transunet.heads"], values["transunet.resnet_units"]
        if values["transunet.hidden"] % heads:
            found.append(
                f"transunet.hidden = {values['transunet.hidden']}: must be a multiple of "
                f"transunet.heads = {heads}"
            )
        if len(units) != 3 or min(units) < 1:
            found.append(f"transunet.resnet_units = {units!r}: exactly 3, above 0")
    return found


def _critic_problems(values: dict[str, Any]) -> list[str]:
    """Checks that the constrained stages are stages of the critic."""
    stages, critic = values["loss.stages"], values["critic.name"]
    last = CRITIC_STAGES[critic]
    if len(set(stages)) == len(stages) and all(1 <= s <= last for s in stages):
        return []
    return [
        f"loss.stages = {stages!r}: give different stages, from 1 to {last} of {critic} "
        "(empty: no critic)"
    ]


def _loss_problems(values: dict[str, Any]) -> list[str]:
    """Checks that something is minimised."""
    terms = ["loss.bce_weight", "loss.dice_weight"]
    if values["loss.stages"] and values["loss.feature_gradient"]:
        terms.append("loss.feature_weight")
    if any(values[name] > 0 for name in terms):
        return []
    said = " and ".join(f"{name} = 0" for name in terms)
    return [f"{said}: nothing would be learned; give one of them a value above 0"]


def _path_problems(values: dict[str, Any]) -> list[str]:
    """Refuses addresses of object stores, which would be taken for folders."""
    return [
        f"{name} = {values[name]!r}: mount the bucket and give its folder (see launch/README.md)"
        for name in _PATHS
        if ADDRESS.match(values[name])
    ]


def _phantom_problems(values: dict[str, Any]) -> list[str]:
    """Checks that the phantom has this version."""
    version = values["phantom.version"]
    if version in PHANTOM_VERSIONS:
        return []
    return [f"phantom.version = {version}: choose from {', '.join(map(str, PHANTOM_VERSIONS))}"]


def _split_problems(values: dict[str, Any]) -> list[str]:
    """Checks the text of a fold, and that only one field says who is tested."""
    fold, tests = values["data.fold"], values["data.test_patients"]
    try:
        chosen = parse_fold(fold)
    except ValueError as error:
        return [f"data.fold = {fold!r}: {error}"]
    if chosen and tests:
        return [
            f"data.fold = {fold!r} and data.test_patients = {tests} both say who is tested; give "
            "data.test_patients=0 with a fold"
        ]
    return []


def _plane_problems(values: dict[str, Any]) -> list[str]:
    """Checks what the three channels show."""
    context, channels = values["data.context"], values["data.channels"]
    if context not in (0, 1):
        return [f"data.context = {context}: choose from 0, 1: three channels hold three slices"]
    if not channels:
        return []
    about = f"data.channels = {channels!r}"
    if len(channels) not in (2, 3) or len(set(channels)) < len(channels):
        return [f"{about}: two or three different conditions, or () for one at a time"]
    if context:
        return [
            f"{about} and data.context = {context} both say what the three channels hold; give "
            "data.context=0 or data.channels=()"
        ]
    if values["data.conditions"] != channels[:1]:
        return [
            f"{about}: the masks are those of the first, so that data.conditions has to be "
            f"{channels[0]} alone; give --config.data.conditions={channels[0]}"
        ]
    return []


def _ranges(values: dict[str, Any]) -> list[str]:
    """Checks lists, fractions and windows."""
    found = []
    conditions, window = values["data.conditions"], values["data.ct_window"]
    if not conditions or len(set(conditions)) < len(conditions):
        found.append(f"data.conditions = {conditions!r}: one or more, different")
    if len(window) != 2 or not window[0] < window[1]:
        found.append(f"data.ct_window = {window!r}: two values in HU, the lower first")
    for name in _BELOW_ONE:
        if not 0 <= values[name] < 1:
            found.append(f"{name} = {values[name]}: must be in [0, 1)")
    for name, most in _UP_TO.items():
        if not 0 <= values[name] <= most:
            found.append(f"{name} = {values[name]}: must be in [0, {most}]")
    if not 0 < values["evaluation.threshold"] < 1:
        found.append(f"evaluation.threshold = {values['evaluation.threshold']}: must be in (0, 1)")
    return found
