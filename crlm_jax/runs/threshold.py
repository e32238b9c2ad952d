"""The threshold that a run chose on its validation patients: `threshold.json`."""

import dataclasses
import functools
import json
from dataclasses import dataclass
from pathlib import Path

from crlm_jax.config.schema import Config, ConfigError
from crlm_jax.system.console import print_stderr
from crlm_jax.system.files import write_whole


@dataclass(frozen=True)
class ChosenThreshold:
    """A threshold of the mask, and why it was chosen."""

    threshold: float
    step: int  # of the checkpoint that it was chosen with
    cases: int  # of validation; 0: a refit has the threshold of the run that it does again
    dsc: dict[str, float]  # mean clinical DSC of the validation cases, by threshold


def write_threshold(path: Path, chosen: ChosenThreshold) -> None:
    """Writes `threshold.json`."""
    write_whole(path, json.dumps(dataclasses.asdict(chosen), indent=2) + "\n")


def read_threshold(path: Path) -> ChosenThreshold | None:
    """Reads `threshold.json`; None if it is absent.

    Raises:
      ConfigError: the file is damaged.
    """
    if not path.exists():
        return None
    try:
        chosen = ChosenThreshold(**json.loads(path.read_text(encoding="utf-8")))
        if not 0 < chosen.threshold < 1:
            raise ValueError(f"threshold = {chosen.threshold}: must be in (0, 1)")
        scores = {str(name): float(value) for name, value in dict(chosen.dsc).items()}
        chosen = dataclasses.replace(chosen, dsc=scores)
    except (ValueError, TypeError, OverflowError, RecursionError) as error:
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        raise ConfigError(
            f"{path}: damaged ({reason}); delete it and report.html in the run, and start the run "
            "again with the same command, and the threshold is chosen anew"
        ) from error
    return chosen


def with_chosen_threshold(config: Config, path: Path) -> Config:
    """Returns a run's configuration with the threshold that the run chose, if it chooses one.

    A run that has not chosen yet is a warning, and keeps `evaluation.threshold`.

    Args:
      config: as the run was begun.
      path: its `threshold.json`.

    Raises:
      ConfigError: the file is damaged.
    """
    if not config.evaluation.choose_threshold:
        return config
    chosen = read_threshold(path)
    if chosen is None:
        _warn(path, config.evaluation.threshold)
        return config
    return with_threshold(config, chosen.threshold)


def with_threshold(config: Config, threshold: float) -> Config:
    """Returns a configuration with another threshold of the mask."""
    evaluation = dataclasses.replace(config.evaluation, threshold=threshold)
    return dataclasses.replace(config, evaluation=evaluation)


@functools.cache  # a command may ask several times
def _warn(path: Path, threshold: float) -> None:
    print_stderr(
        f"warning: {path}: not there, so this run has not chosen its threshold yet "
        f"(evaluation.choose_threshold); {threshold:g} is taken. The threshold is chosen when the "
        "training is finished"
    )
