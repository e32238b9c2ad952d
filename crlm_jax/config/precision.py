"""What `train.precision = "auto"` stands for on a platform."""

import dataclasses

from crlm_jax.config.schema import Config


def with_precision(config: Config, platform: str) -> Config:
    """Returns the config with a precision that can be computed in.

    Args:
      config: of the experiment; whatever else than "auto" it says stays.
      platform: `cpu`, where float32 is as fast; `gpu` or `tpu`, which have units for bfloat16.

    Example:
      >>> config = Config()
      >>> config.train.precision = "auto"
      >>> with_precision(config, "tpu").train.precision
      'bfloat16'
    """
    if config.train.precision != "auto":
        return config
    train = dataclasses.replace(
        config.train, precision="float32" if platform == "cpu" else "bfloat16"
    )
    return dataclasses.replace(config, train=train)
