"""What `results.json` holds: the measures of all test cases together."""

import dataclasses
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from crlm_jax.stats.comparison import Numbers


@dataclass(frozen=True)
class ConditionSummary:
    """The test cases of one condition."""

    means: dict[str, Numbers]  # by measure, from `stats.bootstrap_mean`
    sums: dict[str, int]  # of the lesion counts
    # "sum_of_diameters" (mm) and "volume" (mm³): `stats.bland_altman` of prediction and reference,
    # with the values of each patient under "reference" and "prediction".
    agreement: dict[str, dict[str, Any]]
    cases: int
    empty_prediction: int  # cases whose prediction alone is empty
    empty_reference: int  # cases whose reference alone is empty
    both_empty: int
    without_tumour_slices: int

    def to_json(self) -> dict[str, Any]:
        values = dict(vars(self))
        return values.pop("means") | values

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> "ConditionSummary":
        own = {f.name: values[f.name] for f in dataclasses.fields(cls) if f.name != "means"}
        return cls(means={k: v for k, v in values.items() if k not in own}, **own)


NOT_EVALUABLE = "NE"  # the category of `recist.rules`, which loads more than a table needs


@dataclass(frozen=True)
class ResponseAgreement:
    """How far the model's responses of one sequence agree with the reference's.

    What follows from the table is no field, so that results of earlier versions have it too.
    """

    patients: int  # with both time points
    not_evaluable: int  # by the reference, the model or both
    kappa: Numbers  # from `stats.cohen_kappa`, over those whom both can evaluate
    categories: list[str]
    table: list[list[int]]  # patients by category of the reference (rows) and of the model
    # Patients by how their lesions were paired, the reference's; empty: none were.
    paired: dict[str, int] = field(default_factory=dict)
    doubtful: int = 0  # patients whose scans were registered in vain

    def _cells(self) -> Iterator[tuple[str, str, int]]:
        """Yields category of the reference, category of the model, and patients."""
        for reference, row in zip(self.categories, self.table, strict=True):
            for model, count in zip(self.categories, row, strict=True):
                yield reference, model, count

    @property
    def not_evaluable_by_reference(self) -> int:
        return sum(n for reference, _, n in self._cells() if reference == NOT_EVALUABLE)

    @property
    def not_evaluable_by_model_alone(self) -> int:
        """Patients with lesions of whom the model finds none."""
        return sum(
            n for reference, model, n in self._cells() if reference != model == NOT_EVALUABLE
        )

    @property
    def same_category(self) -> float | None:
        """Share of the patients whom the reference can evaluate; None: there is none.

        One whom the model alone cannot evaluate is a disagreement: to leave those out who are
        missed altogether would flatter it.
        """
        rated = [cell for cell in self._cells() if cell[0] != NOT_EVALUABLE]
        every = sum(n for *_, n in rated)
        same = sum(n for reference, model, n in rated if reference == model)
        return same / every if every else None

    def to_json(self) -> dict[str, Any]:
        return vars(self) | {name: getattr(self, name) for name in _DERIVED}

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> "ResponseAgreement":
        return cls(**{name: value for name, value in values.items() if name not in _DERIVED})


_DERIVED = ("not_evaluable_by_reference", "not_evaluable_by_model_alone", "same_category")


@dataclass(frozen=True)
class Summary:
    """The test cases of a run."""

    data: str  # "phantom" or "cohort"
    method: str
    critic_weights: str | None
    conditions: dict[str, ConditionSummary]
    responses: dict[str, ResponseAgreement]  # by sequence, such as "dwi"
    # Patients by sequence who have both time points, but no response: several images show one.
    several_images: dict[str, int] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        return vars(self) | {
            "conditions": {name: each.to_json() for name, each in self.conditions.items()},
            "responses": {name: each.to_json() for name, each in self.responses.items()},
        }

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> "Summary":
        return cls(
            data=values["data"],
            method=values["method"],
            critic_weights=values["critic_weights"],
            conditions={
                name: ConditionSummary.from_json(each)
                for name, each in values["conditions"].items()
            },
            responses={
                name: ResponseAgreement.from_json(each)
                for name, each in values["responses"].items()
            },
            several_images=values.get("several_images", {}),
        )


Card = list[tuple[str, str]]  # the lines of the run card: name and text


def results_json(summary: Summary, card: Card) -> str:
    """Returns the text of `results.json`."""
    return json.dumps(summary.to_json() | {"card": card}, indent=2) + "\n"
