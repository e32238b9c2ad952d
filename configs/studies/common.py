"""The keys that all studies share."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

from crlm_jax.config.schema import Config, ConfigError


@dataclass(frozen=True)
class Training:
    """One training of a study: a seed, and the fold of the patients that it tests."""

    seed: int
    fold: int = 0  # from 1; 0: the study has no folds
    folds: int = 0

    @property
    def name(self) -> str:
        """The last part of its runs' names."""
        return f"seed{self.seed}" + (f"_fold{self.fold}of{self.folds}" if self.fold else "")


def study_arguments(arg: str | None, **defaults: str) -> SimpleNamespace:
    """Reads `key=value` pairs, comma-separated.

    Args:
      arg: the pairs; keys are `scale`, `seeds`, `folds`, `cohort` and those of `defaults`.
      defaults: a study's own keys.

    Returns:
      The values, `trainings`, all seeds and folds in the order in which they run, and
      `apply(config, training)`, which sets what every run of a study has in common.

    Raises:
      ConfigError: an unknown key or a value of the wrong kind; lists the right ones.
    """
    values = {"scale": "laptop", "seeds": "3", "folds": "none", "cohort": "phantom", **defaults}
    for pair in filter(None, (arg or "").split(",")):
        key, _, value = pair.partition("=")
        if key not in values:
            raise ConfigError(f"study argument {pair!r}: the keys are {', '.join(values)}")
        if not value:
            raise ConfigError(f"study argument {key} has no value; give one, or leave the key out")
        values[key] = value
    weights = values.get("weights", "")
    if weights not in ("", "imagenet", "random") and not Path(weights).expanduser().is_file():
        raise ConfigError(
            f"study argument weights={weights}: there is no such file; give its path, imagenet or "
            "random"
        )
    seeds = whole_number("seeds", values["seeds"])
    folds = 0 if values["folds"] == "none" else whole_number("folds", values["folds"])
    if folds == 1:
        raise ConfigError("study argument folds=1: two folds or more; leave the key out for none")
    trainings = [
        Training(seed, fold, folds)
        for seed in range(seeds)
        for fold in (range(1, folds + 1) if folds else (0,))
    ]

    def apply(config: Config, training: Training) -> Config:
        config.data.cohort, config.train.seed = values["cohort"], training.seed
        if training.fold:  # it says who is tested, so nothing else may
            config.data.fold = f"{training.fold}/{training.folds}"
            config.data.test_patients = 0
        config.evaluation.attribution_steps = 0  # nobody looks at all of them
        return config

    numbers = {"seeds": seeds, "folds": folds}
    return SimpleNamespace(**values | numbers, trainings=trainings, apply=apply)


def whole_number(key: str, value: str) -> int:
    """Reads the value of a key that is a whole number from 1 on.

    Raises:
      ConfigError: it is none.
    """
    if not value.isdecimal() or int(value) < 1:
        raise ConfigError(f"study argument {key}={value}: a whole number from 1 on")
    return int(value)


def chosen(key: str, value: str, groups: Mapping[str, Sequence[str]]) -> list[str]:
    """Reads a group's name, or members of the group `all` joined by `+`.

    Raises:
      ConfigError: a name that is neither; lists the right ones.
    """
    if value in groups:
        return list(groups[value])
    names = value.split("+")
    if unknown := [name for name in names if name not in groups["all"]]:
        known = ", ".join(dict.fromkeys((*groups, *groups["all"])))
        raise ConfigError(f"study argument {key}={value}: {unknown[0]!r} is none of {known}")
    return [name for name in groups["all"] if name in names]
