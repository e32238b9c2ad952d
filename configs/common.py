"""What all experiments share: scales, recipes, and how a config is put together.

A config file takes `key=value` pairs after a colon, as in
`--config configs/cross_pre.py:scale=paper,method=unetpp,recipe=clinical`.
"""

from configs.methods import LAPTOP, METHODS
from crlm_jax.config.schema import Config, ConfigError

# Test patients of the paper: 66 / 45 of 111 with MRI, 119 / 78 of 197 with CT.
TESTED = {"pre_dwi": 45, "post_dwi": 45, "pre_t2wi": 45, "post_t2wi": 45, "ct": 78}


def _paper(config: Config) -> None:
    """Xia et al., Cancer Imaging 26:10 (2025): the defaults of `crlm_jax.config` are its values.

    But for the number of test patients, which depends on the condition. A condition that the paper
    does not have is split by `data.test_fraction`.
    """
    numbers = {TESTED.get(condition, 0) for condition in config.data.conditions}
    config.data.test_patients = numbers.pop() if len(numbers) == 1 else 0


def _laptop(config: Config) -> None:
    """Small enough for two CPU cores: half the resolution, a quarter of the width, fewer steps.

    SGD from scratch needs a larger learning rate to learn in so few steps. The critic's weights are
    random, so that nothing has to be downloaded; every report says so. All methods have the same
    slices and the same number of updates; `methods.LAPTOP` has the further changes of some.
    """
    config.data.image_size = 112
    config.segmenter.widths = (8, 16, 32, 64, 128)
    config.critic.weights = "random"
    if config.critic.name == "resnet50" and config.loss.stages:
        config.loss.stages = (1, 2)
    config.optimizer.learning_rate = 0.1
    config.train.batch_size, config.train.epochs, config.train.steps = 8, 26, 0
    config.train.checkpoint_every, config.train.precision = 100, "auto"
    if config.method in LAPTOP:
        LAPTOP[config.method](config)


def _as_in_the_paper(config: Config) -> None:
    """Slices with tumour alone, one at a time, at one learning rate."""


def _clinical(config: Config) -> None:
    """For whole scans: fewer false lesions.

    The paper trains on slices with tumour alone, so that its network has never seen a liver without
    and marks something in most slices. Here all slices are trained on, each with those below and
    above, and a third of each batch has tumour. The first half of the training sees slices with
    tumour alone, without which a short training learns to mark nothing. Slices without tumour act
    through BCE: their Dice loss has hardly a gradient. The checkpoint is chosen by whole volumes.
    What is marked outside the liver, where the cohort has its mask, or is smaller than a lesion
    that a report would name, is removed.
    """
    config.data.train_slices, config.train.foreground = "all", 1 / 3
    config.train.tumour_first = 0.5
    config.data.context = 1
    config.optimizer.schedule, config.optimizer.warmup = "cosine", 0.05
    config.train.ema, config.train.select = 0.98, "clinical"
    config.evaluation.mirror = True
    config.evaluation.min_lesion_mm3, config.evaluation.liver = 250.0, "column"


SCALES = {"laptop": _laptop, "paper": _paper}
RECIPES = {"paper": _as_in_the_paper, "clinical": _clinical}


def get_config(name: str, conditions: tuple[str, ...], arg: str | None) -> Config:
    """Builds the config of an experiment.

    Args:
      name: the experiment, and the default folder of its runs.
      conditions: trained on together, evaluated one by one.
      arg: `key=value` pairs, comma-separated: `scale` (default laptop), `method` (default
        crlm_gan), `recipe` (default paper).

    Raises:
      ConfigError: an unknown key or value; lists the right ones.
    """
    choices = {"scale": SCALES, "method": METHODS, "recipe": RECIPES}
    chosen = {"scale": "laptop", "method": "crlm_gan", "recipe": "paper"}
    for pair in filter(None, (arg or "").split(",")):
        key, _, value = pair.partition("=")
        if key not in choices:
            raise ConfigError(f"config argument {pair!r}: the keys are {', '.join(choices)}")
        if value not in choices[key]:
            raise ConfigError(
                f"config argument {pair!r}: {key} is one of {', '.join(choices[key])}"
            )
        chosen[key] = value
    config = Config(name=name, **chosen)
    config.data.conditions = conditions
    METHODS[chosen["method"]](config)
    SCALES[chosen["scale"]](config)
    RECIPES[chosen["recipe"]](config)
    return config
