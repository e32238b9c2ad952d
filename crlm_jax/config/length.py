"""How long a training is, and whether it may become longer."""

from crlm_jax.config.schema import Config

PATIENCE = "train.patience"  # ends a training before its planned length, which stays
FIELDS = ("train.steps", "train.epochs", PATIENCE)  # of a configuration: the length alone


def total_steps(config: Config, slices: int) -> int:
    """Returns the number of updates, unless `train.patience` ends the training before.

    `train.steps`, or, if it is 0, the full batches of `train.epochs` passes over the slices.
    """
    return config.train.steps or max(1, config.train.epochs * slices // config.train.batch_size)


def tumour_steps(config: Config, planned: int) -> int:
    """Returns the number of updates, the first ones, on slices with tumour alone.

    `planned` is the number of updates by which the training's course is planned.
    """
    return round(config.train.tumour_first * planned)


def planned_by(config: Config) -> list[str]:
    """Names the fields that plan a training for its length: a longer one would be another.

    The learning rate of the polynomial and cosine schedules has fallen to 0 at its end, a warm-up
    and the updates on tumour alone take a share of the whole, and a refit has the length that
    validation chose.
    """
    optimizer, train = config.optimizer, config.train
    fields = {
        f"optimizer.schedule = {optimizer.schedule!r}": optimizer.schedule
        in ("polynomial", "cosine"),
        f"optimizer.warmup = {optimizer.warmup:g}": optimizer.warmup,
        f"train.tumour_first = {train.tumour_first:g}": train.tumour_first,
        f"train.refit = {train.refit!r}": train.refit,
    }
    return [field for field, plans in fields.items() if plans]
