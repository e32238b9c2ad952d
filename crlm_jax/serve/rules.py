"""Which series is which condition: the rules of a file, of which the first that fits is taken.

    [[rule]]
    condition = "ct"
    description = "portal|venous"   # a regular expression, looked for anywhere; capitals alike
    plane = "axial"

    [[rule]]
    condition = "pre_dwi"
    b_value = 800                   # s/mm²: the series has images of it, and they are taken

A series that fits no rule is left alone.
"""

import dataclasses
import re
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from crlm_jax.errors import UserError
from crlm_jax.imaging.conditions import CONDITION, is_ct
from crlm_jax.imaging.dicom.listing import SeriesFacts

_PLANES = ("axial", "coronal", "sagittal")
_FIELDS = {"condition": str, "modality": str, "description": str, "plane": str,
           "b_value": int | float}  # fmt: skip


class RulesError(UserError):
    """A file of rules that cannot be followed."""


@dataclasses.dataclass(frozen=True)
class Rule:
    """What a series must have, and which condition it then is; an empty field fits every series."""

    condition: str
    modality: str = ""  # CT or MR; empty: that of the condition
    description: str = ""  # regular expression
    plane: str = ""
    b_value: float | None = None  # s/mm²

    @property
    def own_modality(self) -> str:
        return self.modality or ("CT" if is_ct(self.condition) else "MR")

    def fits(self, facts: SeriesFacts) -> bool:
        """Whether a series is of this rule; its b-values must have been counted."""
        return (
            facts.modality == self.own_modality
            and re.search(self.description, facts.description, re.IGNORECASE) is not None
            and self.plane in ("", facts.plane)
            and (self.b_value is None or float(round(self.b_value)) in facts.b_values)
        )


def find_rule(rules: Sequence[Rule], facts: SeriesFacts) -> Rule | None:
    """Returns the first rule that fits a series; None: it is left alone."""
    return next((rule for rule in rules if rule.fits(facts)), None)


def modalities(rules: Sequence[Rule]) -> frozenset[str]:
    """Returns the modalities that some rule asks for, as DICOM's codes."""
    return frozenset(rule.own_modality for rule in rules)


def default_rules(conditions: Sequence[str]) -> tuple[Rule, ...]:
    """Returns the rules of a run without a file: every series of its modality is its condition.

    Raises:
      RulesError: the run has several conditions, which only a file can tell apart.
    """
    if len(conditions) > 1:
        raise RulesError(
            f"the run was trained on {', '.join(conditions)}; say with --rules FILE which series "
            "is which"
        )
    return (Rule(conditions[0]),)


def read_rules(path: Path) -> tuple[Rule, ...]:
    """Reads a file of rules (TOML).

    Raises:
      RulesError: a rule is wrong; the message has a line for each that is.
    """
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise RulesError(f"{path}: no TOML ({error}); correct that place") from error
    tables = content.pop("rule", [])
    if content or not isinstance(tables, list) or not tables:
        others = f", and {', '.join(content)} is not understood" if content else ""
        raise RulesError(f"{path}: write one table [[rule]] or more{others}")
    wrong: list[str] = []
    rules = []
    for number, table in enumerate(tables, start=1):
        found = _mistakes(table)
        wrong += [f"{path}: rule {number}: {text}" for text in found]
        if not found:
            rules.append(Rule(**table))
    if wrong:
        raise RulesError("\n".join(wrong))
    return tuple(rules)


def _mistakes(table: Any) -> list[str]:
    """Says what is wrong with one rule."""
    if not isinstance(table, dict):
        return ["no table; write [[rule]] above its fields"]
    found = []
    for name, value in table.items():
        if name not in _FIELDS:
            found.append(f"{name} is no field; a rule has {', '.join(_FIELDS)}")
        elif not isinstance(value, _FIELDS[name]) or isinstance(value, bool):
            found.append(f"{name} = {value!r}: write a {'number' if name == 'b_value' else 'text'}")
    if found:
        return found
    if not CONDITION.fullmatch(table.get("condition", "")):
        found.append("condition: name it with lower-case letters, digits and _")
    if table.get("modality", "CT") not in ("CT", "MR"):
        found.append(f"modality {table['modality']!r}: CT or MR")
    if table.get("plane", "axial") not in _PLANES:
        found.append(f"plane {table['plane']!r}: one of {', '.join(_PLANES)}")
    if table.get("b_value", 0) < 0:
        found.append("b_value: a number of s/mm², at least 0")
    try:
        re.compile(table.get("description", ""))
    except re.error as error:
        found.append(f"description {table['description']!r}: no regular expression ({error})")
    return found
