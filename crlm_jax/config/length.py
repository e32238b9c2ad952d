"""How long a training is, and whether it may become longer."""

from crlm_jax.config.schema import Config

FIELDS = ("train.steps", "train.epochs", "train.patience")  # of a configuration: the length alone


def total_steps(config: Config, slices: int) -> int:
    """Returns the number of updates, unless `train.patience` ends the training before.

    `train.steps`, or, if it is 0, the full batches of `train.epochs` passes over the slices.
    """
    return config.train.steps or max(1, config.train.epochs * slices // config.train.batch_size)


def has_own_length(config: Config) -> bool:
    """Whether a training is planned for its length, so that going on would be another training.

    The learning rate of the polynomial and cosine schedules has fallen to 0 at its end, a warm-up
    and the updates on tumour alone take a share of the whole, and a refit has the length that
    validation chose.
    """
    falls = config.optimizer.schedule in ("polynomial", "cosine")
    shares = config.optimizer.warmup > 0 or config.train.tumour_first > 0
    return falls or shares or bool(config.train.refit)
