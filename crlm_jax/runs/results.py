"""What `results.json` holds: the measures of all test cases together."""

import dataclasses
import json
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


@dataclass(frozen=True)
class ResponseAgreement:
    """How far the model's responses of one sequence agree with the reference's."""

    patients: int  # with both time points
    not_evaluable: int
    kappa: Numbers  # from `stats.cohen_kappa`
    categories: list[str]
    table: list[list[int]]  # patients by category of the reference (rows) and of the model
    # Patients by how their lesions were paired, the reference's; empty: none were.
    paired: dict[str, int] = field(default_factory=dict)
    doubtful: int = 0  # patients whose scans were registered in vain


@dataclass(frozen=True)
class Summary:
    """The test cases of a run."""

    data: str  # "phantom" or "cohort"
    method: str
    critic_weights: str | None
    conditions: dict[str, ConditionSummary]
    responses: dict[str, ResponseAgreement]  # by sequence, such as "dwi"

    def to_json(self) -> dict[str, Any]:
        return vars(self) | {
            "conditions": {name: each.to_json() for name, each in self.conditions.items()},
            "responses": {name: vars(each) for name, each in self.responses.items()},
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
                name: ResponseAgreement(**each) for name, each in values["responses"].items()
            },
        )


Card = list[tuple[str, str]]  # the lines of the run card: name and text


def results_json(summary: Summary, card: Card) -> str:
    """Returns the text of `results.json`."""
    return json.dumps(summary.to_json() | {"card": card}, indent=2) + "\n"
