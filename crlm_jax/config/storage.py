"""A configuration as JSON: written, read, compared."""

import dataclasses
import json
import shlex
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any, get_origin, get_type_hints

from crlm_jax.config.schema import Config, ConfigError, flatten, validate

# Fields that say how a run is carried out, not what it computes.
_NOT_THE_EXPERIMENT = (
    "name", "data.cache", "data.cache_shared", "data.workers", "train.log_every", "train.keep",
    "train.tensorboard",
    "system.threads",
)  # fmt: skip


# Fields that are younger than version 0.1.0, and what a run without them was trained with.
_BEFORE = {
    "data.antialias": False,
    "data.mr_window": "percentiles",
    "data.resample_masks": False,
    "data.context": 0,
    "data.channels": (),
    "data.test_patients": 0,
    "data.fold": "",
    "phantom.version": 1,
    "loss.feature_weight": 1.0,
    "loss.mask_applied": "after_normalisation",
    "evaluation.register": False,
    "evaluation.choose_threshold": False,
    "evaluation.min_lesion_mm3": 0.0,
    "evaluation.liver": "none",
    "optimizer.warmup": 0.0,
    "train.tumour_first": 0.0,
    "train.init": "",
    "train.select": "paper",
    "train.refit": "",
    "train.ema": 0.0,
    "train.patience": 0,
    "train.tensorboard": False,
}


def to_json(config: Config) -> str:
    """Returns the config as indented JSON."""
    return json.dumps(dataclasses.asdict(config), indent=2) + "\n"


def from_json(text: str | bytes, source: str | Path) -> Config:
    """Reads what `to_json` wrote; a field that an older version did not have is as it was then.

    Raises:
      ConfigError: the text is not a configuration of this version; names `source`.
    """
    try:
        config = _build(Config, _fill_in(json.loads(text)), "")
        return validate(config)
    # ConfigError is `_build`'s and `validate`'s; damaged JSON raises the others.
    except (ConfigError, ValueError, TypeError, OverflowError, RecursionError) as error:
        raise ConfigError(
            f"{source} is not a configuration of this version of crlm_jax "
            f"({' '.join(str(error).split())}); "
            "start a new run in another --workdir"
        ) from error


def _fill_in(values: Any) -> Any:
    """Adds the fields that are missing because they are younger, in groups that are there."""
    for name, value in _BEFORE.items():
        group, _, field = name.partition(".")
        if isinstance(values, dict) and isinstance(values.get(group), dict):
            values[group].setdefault(field, value)
    return values


def _build(group: type, values: Any, prefix: str) -> Any:
    """Builds a group of fields, and the groups in it, from decoded JSON."""
    hints = get_type_hints(group)
    if not isinstance(values, dict):
        raise ConfigError(f"{prefix.rstrip('.') or 'the whole'} is not a group of fields")
    unknown = [prefix + name for name in values if name not in hints]
    if unknown:
        raise ConfigError(f"unknown field {', '.join(unknown)}")
    built = {}
    for name, value in values.items():
        hint = hints[name]
        if isinstance(hint, type) and dataclasses.is_dataclass(hint):
            value = _build(hint, value, f"{prefix}{name}.")
        elif get_origin(hint) is tuple:
            value = tuple(value)
        built[name] = value
    return group(**built)


def differences(a: Config, b: Config, besides: Collection[str] = ()) -> list[str]:
    """Lists the fields in which two experiments differ, as `field: a's value → b's value`.

    Args:
      a: one.
      b: the other.
      besides: fields that are not compared.
    """
    return [
        f"{name}: {ours!r} → {theirs!r}"
        for name, ours, theirs in _changed(a, b)
        if name not in besides
    ]


def overrides(a: Config, b: Config) -> list[str]:
    """Lists the options that make the experiment `a` of `b`, as a shell takes them."""

    def text(value: Any) -> str:
        return ",".join(map(str, value)) or "()" if isinstance(value, tuple) else str(value)

    return [shlex.quote(f"--config.{name}={text(ours)}") for name, ours, _ in _changed(a, b)]


def _changed(a: Config, b: Config) -> Iterator[tuple[str, Any, Any]]:
    """Yields each field in which two experiments differ, with both values."""
    right = flatten(b)
    for name, value in flatten(a).items():
        if value != right[name] and name not in _NOT_THE_EXPERIMENT:
            yield name, value, right[name]
