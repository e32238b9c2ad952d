"""The keys that all studies share."""

from collections.abc import Mapping, Sequence
from types import SimpleNamespace

from crlm_jax.config.schema import Config, ConfigError


def study_arguments(arg: str | None, **defaults: str) -> SimpleNamespace:
    """Reads `key=value` pairs, comma-separated.

    Args:
      arg: the pairs; keys are `scale`, `seeds`, `cohort` and those of `defaults`.
      defaults: a study's own keys.

    Returns:
      The values, and `apply(config, seed)`, which sets what every run of a study has in common.

    Raises:
      ConfigError: an unknown key or a value of the wrong kind; lists the right ones.
    """
    values = {"scale": "laptop", "seeds": "3", "cohort": "phantom", **defaults}
    for pair in filter(None, (arg or "").split(",")):
        key, _, value = pair.partition("=")
        if key not in values:
            raise ConfigError(f"study argument {pair!r}: the keys are {', '.join(values)}")
        values[key] = value
    seeds = whole_number("seeds", values["seeds"])

    def apply(config: Config, seed: int) -> Config:
        config.data.cohort, config.train.seed = values["cohort"], seed
        config.evaluation.attribution_steps = 0  # nobody looks at all of them
        return config

    return SimpleNamespace(**values | {"seeds": seeds}, apply=apply)


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
