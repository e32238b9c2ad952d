"""The only schema of an experiment: typed dataclasses, with the unit of every field.

A file in `configs/` builds a `Config`; the command line overrides its fields as
`--config.loss.stages=1,2`; a run folder keeps it as `config.json`. A field with a few allowed
values has them as its type (`Literal`), and nowhere else.
"""

import dataclasses
import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Literal, get_args, get_origin, get_type_hints

from crlm_jax.config import checks
from crlm_jax.errors import UserError


class ConfigError(UserError):
    """A field of the configuration has a wrong name, type or value."""


@dataclass
class Data:
    """Which images, how they are cut into slices, and who is tested."""

    cohort: str = "phantom"  # path of a cohort.csv, or "phantom": the embedded digital cohort
    conditions: tuple[str, ...] = ("pre_dwi",)  # trained on together, evaluated one by one
    image_size: int = 224  # pixels, side of the square slice that the network sees
    # Slices are averaged where they shrink to that size, and every lesion keeps a pixel. False: as
    # in 0.1.0, pixels between are skipped, and small lesions with them.
    antialias: bool = True
    ct_window: tuple[float, ...] = (-150.0, 250.0)  # HU, shown as black and white
    # White on MRI: 1.5 times the body's 99 percentile, or the 99.5 percentile of all voxels, which
    # clips bright lesions (0.1.0).
    mr_window: Literal["body", "percentiles"] = "body"
    # 1: the network sees the slices below and above beside each slice, in the three channels that
    # otherwise repeat the slice (2.5D).
    context: int = 0
    # Conditions of one patient that the network sees together, one a channel, such as
    # pre_dwi,pre_t2wi: two (the third channel repeats the first) or three. They are resampled onto
    # the grid of the first, whose mask counts, by their headers. (): one condition at a time.
    channels: tuple[str, ...] = ()
    # Slices to train on: those with a lesion (the paper's choice), or all.
    train_slices: Literal["tumour", "all"] = "tumour"
    resample_masks: bool = False  # take masks on another grid than the image's, resampled
    test_fraction: float = 0.4  # of the patients, where the cohort has no split column
    # Patients to test instead of that share, where the cohort has no split column; 0: the share.
    # The paper has 45 (MRI) and 78 (CT), which no one share gives.
    test_patients: int = 0
    # Such as "2/5": the patients are dealt into five folds, and the second is tested; instead of
    # the share, and only where the cohort has no split column.
    fold: str = ""
    # Share of the training patients that are taken out of them to validate on, where the cohort
    # names no validation patients.
    validation_fraction: float = 0.2
    split_seed: int = 0  # of the split and of the folds; the same under every training seed
    cache: str = "~/.cache/crlm_jax"  # prepared slices, the phantom, compiled programs
    # With several processes: True: the main one prepares the data and the others read its cache.
    # False: each process prepares its own cache.
    cache_shared: bool = True
    workers: int = 0  # processes that read and augment; 0: threads of this process

    @property
    def planes(self) -> int:
        """How many images a slice is made of: 1, which the channels repeat, or 3, one in each."""
        return 3 if self.context or self.channels else 1


@dataclass
class Phantom:
    """The embedded digital cohort."""

    patients: int = 24
    seed: int = 0
    # 1: easy images, as up to 0.1.0, which a threshold nearly solves; 2: images with much of what
    # makes real ones hard.
    version: int = 2


@dataclass
class Augment:
    """Random changes of a training slice; the paper names them but gives no limits."""

    enabled: bool = True
    # The paper's: turns, flips and the four changes below. Or nnU-Net's own.
    policy: Literal["paper", "nnunet"] = "paper"
    # ± half-degrees, of 180; none with data.context or data.channels.
    hue: float = 20.0
    # ± grey levels, of 255; none with data.context or data.channels.
    saturation: float = 30.0
    brightness: float = 0.2  # ± of 255 grey levels
    contrast: float = 0.2  # ± of 1


@dataclass
class SegmenterConfig:
    """The network that maps an image to logits.

    A segmenter with fields of its own has them in the group of its name, as `Config.transunet`.
    """

    name: Literal["unet", "unetpp", "nnunet", "transunet", "segan"] = "unetpp"
    # Channels per depth; TransUNet: of its decoder, five numbers; SegAN: of its first block, one.
    widths: tuple[int, ...] = (32, 64, 128, 256, 512)
    # A loss for every head: X^{0,j} of UNet++, the decoder's stages of nnU-Net.
    deep_supervision: bool = False


@dataclass
class TransUNetConfig:
    """Parts of TransUNet, read only where segmenter.name is "transunet"; R50-ViT-B/16."""

    resnet_width: int = 64  # channels of the stem
    resnet_units: tuple[int, ...] = (3, 4, 9)  # bottlenecks of the three stages
    hidden: int = 768  # channels of a token
    layers: int = 12  # of the transformer
    heads: int = 12  # of each attention
    mlp: int = 3072  # channels between its two linear layers
    dropout: float = 0.1  # rate, in the transformer, while training
    weights: str = "random"  # path of R50+ViT-B_16.npz (ImageNet-21k) | "random"


@dataclass
class CriticConfig:
    """The network whose stage features are compared; built only up to the last stage used."""

    name: Literal["resnet50", "segan"] = "resnet50"
    width: int = 64  # channels of the stem; 64 in every published ResNet-50 and in SegAN
    weights: str = "imagenet"  # "imagenet" | path of a .safetensors | "random"
    # An adversarial critic is trained to increase the feature distance.
    update: Literal["frozen", "adversarial"] = "frozen"
    clip: float = 0.0  # adversarial: every weight is kept within ± this after a step; 0: not
    # Statistics that the critic normalises by: its running ones, or those of the batch.
    batch_norm: Literal["running", "batch"] = "running"


@dataclass
class Loss:
    """bce_weight·BCE + dice_weight·Dice + feature_weight·Σ_s mean |difference of stage s|.

    The difference is that of the critic's features of image·p and image·mask.
    """

    bce_weight: float = 1.0  # paper: BCE + Dice; the released code: 0.5
    dice_weight: float = 1.0
    # Dice of each image, of the whole batch (nnU-Net), of both classes (TransUNet), or of each
    # image with squares in the denominator (SegAN).
    dice: Literal["image", "batch", "two_class", "squared"] = "image"
    # Weights of several heads: the same for all, or half as much from each to the coarser one.
    heads: Literal["equal", "halved"] = "equal"
    stages: tuple[int, ...] = (1, 2, 3, 4)  # constrained stages of the critic; (): no critic
    feature_weight: float = 1.0  # of the feature distance; the paper: 1
    # What masks the image before the critic sees it: the paper's probability, or the released
    # code's logits.
    mask_with: Literal["probability", "logits"] = "probability"
    # Whether the mask hides grey levels, which are then black, or z-scored values, which are then
    # the mean grey of ImageNet (the released code).
    mask_applied: Literal["before_normalisation", "after_normalisation"] = "before_normalisation"
    feature_gradient: bool = True  # False: as in the released code, the term only adds a number
    # One mean per stage, or one mean over all features (released code).
    fusion: Literal["per_stage", "concatenated"] = "per_stage"


@dataclass
class Optimizer:
    """The optimiser of the segmenter and of an adversarial critic."""

    name: Literal["sgd", "adam"] = "sgd"
    learning_rate: float = 1e-3
    # polynomial: times (1 − step/steps)^0.9; halved: every `halve_every` epochs; cosine: half a
    # wave, from the full rate down to 0 at the last update.
    schedule: Literal["constant", "polynomial", "halved", "cosine"] = "constant"
    halve_every: int = 25  # epochs
    # Share of the updates over which the rate first rises from 0, in a line; 0: none. The schedule
    # follows in what is left.
    warmup: float = 0.0
    momentum: float = 0.9  # Adam: β1 (β2 is 0.999)
    nesterov: bool = False
    weight_decay: float = 1e-4  # as PyTorch has it: L2 added to the gradient of every parameter
    clip_norm: float = 0.0  # the largest norm of the gradient, which is scaled down to it; 0: any


@dataclass
class Train:
    """Length of the training, its random seed and its bookkeeping."""

    batch_size: int = 16  # slices, over all devices together
    epochs: int = 200
    steps: int = 0  # updates; 0: as many as the epochs take
    # Validations in a row without a better DSC, after which the training ends; 0: it never ends
    # before its steps.
    patience: int = 0
    foreground: float = 0.0  # share of a batch that is drawn from the slices with tumour alone
    # Share of the updates, the first ones, whose whole batch is drawn from the slices with tumour.
    tumour_first: float = 0.0
    seed: int = 0
    # Folder of a run whose newest checkpoint this training goes on from: weights, batch statistics,
    # optimiser and step. `steps` counts those of that run too.
    init: str = ""
    # By which DSC of the validation patients the checkpoint is chosen: that of their slices with
    # tumour, pooled, at the network's size, or that of their whole volumes at their own resolution.
    select: Literal["paper", "clinical"] = "paper"
    # Folder of a finished run of the same experiment: trains on its training and validation
    # patients together, for as many steps as its validation chose, and validates on nobody.
    refit: str = ""
    # Decay of an average of the weights and batch statistics, which is what is evaluated, such as
    # 0.99; 0: the weights themselves are.
    ema: float = 0.0
    # Of the segmenter's computation; a critic's is float32. auto: bfloat16 on TPUs and GPUs and
    # float32 on CPUs; the run keeps what that was.
    precision: Literal["float32", "bfloat16", "auto"] = "float32"
    log_every: int = 10  # steps
    tensorboard: bool = False  # write the log for TensorBoard too
    checkpoint_every: int = 200  # steps; the validation patients are measured at the same steps
    keep: int = 2  # latest checkpoints kept, besides the best


@dataclass
class Evaluation:
    """How the test patients are measured."""

    batch_size: int = 16  # slices, over all devices together
    threshold: float = 0.5  # probability above which a voxel is tumour
    # At the end of the training, choose the threshold of the highest mean clinical DSC of the
    # validation patients, which the run is then tested and used with. While training, and where the
    # choice is equal, `threshold` counts.
    choose_threshold: bool = False
    mirror: bool = False  # average over mirror images; prediction does the same
    # mm³; lesions of a smaller volume are removed from the mask; prediction does the same. The
    # paper's protocol, at the network's size, measures what is there before.
    min_lesion_mm3: float = 0.0
    # column: nothing is marked outside the liver masks of the cohort's column `liver`, in images
    # that have one; prediction does the same.
    liver: Literal["none", "column"] = "none"
    resamples: int = 9999  # of the bootstrap over patients
    register: bool = False  # align pre_ and post_ images, so that responses pair lesions
    # Of integrated gradients at first, in one slice an image; doubled up to three times until the
    # map adds up to 1 %. 0: none is shown.
    attribution_steps: int = 16


@dataclass
class System:
    """The computer."""

    # Of the CPU, for JAX; 0: as many as there are. Results depend on their number.
    threads: int = 0


@dataclass
class Config:
    """One experiment."""

    name: str = "crlm"  # the run's default folder is runs/<name>
    method: str = "crlm_gan"  # what the reports call it
    scale: str = "paper"  # what the reports call it: "paper", "laptop" …
    recipe: str = "paper"  # what the reports call it: "paper", "clinical" …
    data: Data = field(default_factory=Data)
    phantom: Phantom = field(default_factory=Phantom)
    augment: Augment = field(default_factory=Augment)
    segmenter: SegmenterConfig = field(default_factory=SegmenterConfig)
    transunet: TransUNetConfig = field(default_factory=TransUNetConfig)
    critic: CriticConfig = field(default_factory=CriticConfig)
    loss: Loss = field(default_factory=Loss)
    optimizer: Optimizer = field(default_factory=Optimizer)
    train: Train = field(default_factory=Train)
    evaluation: Evaluation = field(default_factory=Evaluation)
    system: System = field(default_factory=System)


def flatten(config: Config) -> dict[str, Any]:
    """Returns the value of every field by its dotted name, in the order of the schema."""

    def walk(group: Any, prefix: str) -> Iterator[tuple[str, Any]]:
        for f in dataclasses.fields(group):
            value = getattr(group, f.name)
            if dataclasses.is_dataclass(value):
                yield from walk(value, f"{prefix}{f.name}.")
            else:
                yield prefix + f.name, value

    return dict(walk(config, ""))


def field_types(group: type = Config, prefix: str = "") -> dict[str, Any]:
    """Returns the type of every field by its dotted name, in the order of the schema."""
    types: dict[str, Any] = {}
    for name, hint in get_type_hints(group).items():
        if isinstance(hint, type) and dataclasses.is_dataclass(hint):
            types |= field_types(hint, f"{prefix}{name}.")
        else:
            types[prefix + name] = hint
    return types


def validate(config: Config) -> Config:
    """Checks types and values of all fields.

    Returns:
      The same config.

    Raises:
      ConfigError: naming every wrong field, its value and what is allowed.
    """
    values = flatten(config)
    problems = [
        f"{name} = {values[name]!r}: {problem}"
        for name, hint in field_types().items()
        if (problem := _type_problem(values[name], hint))
    ]
    problems = problems or checks.problems(values)
    if problems:
        raise ConfigError("configuration: " + "; ".join(problems))
    return config


def _type_problem(value: Any, hint: Any) -> str | None:
    """Says what is wrong with the type of a value; None: nothing is."""
    if get_origin(hint) is Literal:
        allowed = get_args(hint)
        return None if value in allowed else f"choose one of {', '.join(allowed)}"
    if get_origin(hint) is tuple:
        element = get_args(hint)[0]
        if isinstance(value, tuple) and all(_type_problem(v, element) is None for v in value):
            return None
        return f"must be a list of {element.__name__}, comma-separated; () for none"
    if hint is float:
        if type(value) in (int, float) and math.isfinite(value):
            return None
        return "must be a finite number"
    return None if type(value) is hint else f"must be of type {hint.__name__}"
