"""What is made of a network's answer, where the command decides it and not the run."""

import argparse
import dataclasses
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

from crlm_jax.config.schema import Config
from crlm_jax.data.cohort.cases import Case
from crlm_jax.errors import UserError
from crlm_jax.predict import arguments
from crlm_jax.runs.members import DECIDED

# Fields of `evaluation`, and the options that decide them.
OPTIONS = MappingProxyType({**DECIDED, "mirror": "--[no-]mirror"})

Rules = Mapping[str, Any]  # of `OPTIONS`, those that the command decides


def add_rules(add: Callable[..., argparse.Action]) -> None:
    """Adds the options, each of which is left to the run unless it is given."""
    arguments.add_rules(add)
    add("--liver", choices=("column", "none"),
        help="column: mark nothing outside the masks of the cohort's column liver (default: as "
        "the run says)")  # fmt: skip
    add(
        "--mirror",
        action=argparse.BooleanOptionalAction,
        help="average over a slice and its three mirror images (default: as the run does)",
    )


def read_rules(args: argparse.Namespace) -> Rules:
    """Returns what the command decides, by the field of `evaluation`."""
    given = {name: getattr(args, name) for name in OPTIONS}
    return {name: value for name, value in given.items() if value is not None}


def with_rules(config: Config, rules: Rules) -> Config:
    """Returns a configuration with what the command decides."""
    decided = dataclasses.replace(config.evaluation, **rules)
    return dataclasses.replace(config, evaluation=decided)


def check_livers_there(rules: Rules, cohort: str, cases: Sequence[Case]) -> None:
    """Raises UserError if livers are asked for, and no test case has the mask of one."""
    tested = [pair for case in cases if case.split == "test" for pair in case.images]
    if rules.get("liver") == "column" and not any(pair.liver for pair in tested):
        raise UserError(
            f"--liver column: {cohort} names no mask of a liver for any tested patient; add the "
            "column liver, or leave the option out"
        )


def describe_rules(configs: Sequence[Config], rules: Rules) -> list[str]:
    """Says which rules are others than those of a run, or of the runs that are averaged."""
    said = []
    for name, value in rules.items():
        own = list(dict.fromkeys(getattr(config.evaluation, name) for config in configs))
        if own != [value]:
            have = "the run has" if len(configs) == 1 else "the runs have"
            theirs = " and ".join(map(_text, own))
            said.append(f"Measured with {name} = {_text(value)}; {have} {theirs}.")
    return said


def _text(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return f"{value:g}" if isinstance(value, float) else str(value)
