"""The recipe that all experiments share: the methods, and the paper and laptop scales.

A config file takes `key=value` pairs after a colon, as in
`--config configs/cross_pre.py:scale=paper,method=unetpp`.
"""

from crlm_jax.config import Config, ConfigError


def _crlm_gan(config: Config) -> None:
    """UNet++ under BCE + Dice and the feature distance in a frozen ResNet-50."""


def _unetpp(config: Config) -> None:
    """The same segmenter, loss and optimiser without a critic."""
    config.loss.stages = ()


def _unet(config: Config) -> None:
    """UNet with the loss and optimiser of the method, without a critic."""
    config.segmenter.name = "unet"
    config.loss.stages = ()


METHODS = {"crlm_gan": _crlm_gan, "unetpp": _unetpp, "unet": _unet}


def _paper(config: Config) -> None:
    """Xia et al., Cancer Imaging 26:10 (2025): the defaults of `crlm_jax.config` are its values."""


def _laptop(config: Config) -> None:
    """Small enough for two CPU cores: half the resolution, a quarter of the width, fewer steps.

    SGD from scratch needs a larger learning rate to get somewhere in so few steps. The critic's
    weights are random, so that nothing has to be fetched; every report says so.
    """
    config.data.image_size = 112
    config.segmenter.widths = (8, 16, 32, 64, 128)
    config.critic.weights = "random"
    config.loss.stages = (1, 2)
    config.optimizer.learning_rate = 0.1
    config.train.batch_size = 8
    config.train.epochs = 26
    config.train.checkpoint_every = 100


SCALES = {"laptop": _laptop, "paper": _paper}


def get_config(name: str, conditions: tuple[str, ...], arg: str | None) -> Config:
    """Builds the config of an experiment.

    Args:
      name: the experiment, and the default folder of its runs.
      conditions: trained on together, evaluated one by one.
      arg: `key=value` pairs, comma-separated: `scale` (default laptop), `method` (default
        crlm_gan).

    Raises:
      ConfigError: an unknown key or value; lists the right ones.
    """
    choices = {"scale": SCALES, "method": METHODS}
    chosen = {"scale": "laptop", "method": "crlm_gan"}
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
    SCALES[chosen["scale"]](config)
    METHODS[chosen["method"]](config)
    return config
