"""The test cases of a run together: `cases.csv`, `lesions.csv`, `responses.csv`, `results.json`."""

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from crlm_jax.config.schema import Config
from crlm_jax.measures import detection, overlap
from crlm_jax.measures.case import READERS, CaseResult
from crlm_jax.measures.surfaces import SURFACE
from crlm_jax.recist import rules
from crlm_jax.recist.rules import Response
from crlm_jax.runs.folder import RunFolder
from crlm_jax.stats import agreement, comparison
from crlm_jax.system.files import write_whole
from crlm_jax.system.text import to_csv

MEANS = (
    *overlap.OVERLAP,
    *(f"{name}_paper" for name in overlap.OVERLAP),
    *SURFACE,
    "lesion_sensitivity",
    "lesion_precision",
    "lesion_f1",
    "false_positives",
    "volume_error",
    "volume_error_relative",
)
SUMS = tuple(name for name in detection.LESION if name.startswith(("lesions_", "found_", "false_")))


def summarise(config: Config, results: Sequence[CaseResult]) -> dict[str, Any]:
    """Computes, per condition and metric, the mean over patients with its 95 % bootstrap CI.

    Returns:
      What `results.json` holds: per condition the means of `MEANS`, the sums of the lesion counts
      in `SUMS`, the agreement of model and reference on diameters and volumes (Bland and Altman),
      and how many cases had an empty prediction, an empty reference or both (each counted in the
      means as the metrics say) and how many had no tumour slice (these have no `_paper` value).
      Under `responses`, for every sequence with both time points, how far the responses agree.
    """
    conditions = {}
    for condition in config.data.conditions:
        chosen = [r for r in results if r.condition == condition]
        conditions[condition] = _summarise_condition(config, chosen)
    return {
        "data": "phantom" if config.data.cohort == "phantom" else "cohort",
        "method": config.method,
        "critic_weights": config.critic.weights if config.loss.stages else None,
        "conditions": conditions,
        "responses": {
            sequence: _agreement(config, pairs) for sequence, pairs in responses(results).items()
        },
    }


def _summarise_condition(config: Config, results: Sequence[CaseResult]) -> dict[str, Any]:
    rows = [r.row for r in results]
    means = {
        name: comparison.bootstrap_mean(
            np.array([row[name] for row in rows if row[name] is not None]),
            config.evaluation.resamples,
        )
        for name in MEANS
    }
    empty = [(r.empty_prediction, r.empty_reference) for r in results]
    return means | {
        "sums": {name: sum(row[name] for row in rows) for name in SUMS},
        "agreement": {
            "sum_of_diameters": _bland_altman(results, _diameters),
            "volume": _bland_altman(results, _volume),
        },
        "cases": len(results),
        "empty_prediction": sum(p and not r for p, r in empty),
        "empty_reference": sum(r and not p for p, r in empty),
        "both_empty": sum(p and r for p, r in empty),
        "without_tumour_slices": sum(row["tumour_slices"] == 0 for row in rows),
    }


def _diameters(result: CaseResult, who: str) -> float:
    return sum(rules.sum_of_diameters(point) for point in result.points[who])


def _volume(result: CaseResult, who: str) -> float:
    return sum(point.patient_volume for point in result.points[who])


def _bland_altman(results: Sequence[CaseResult], measure: Any) -> dict[str, Any]:
    """Agreement of prediction with reference, with the values of each patient for the picture."""
    reference, prediction = ([measure(result, who) for result in results] for who in READERS)
    return agreement.bland_altman(prediction, reference) | {
        "reference": reference,
        "prediction": prediction,
    }


def responses(results: Sequence[CaseResult]) -> dict[str, dict[str, dict[str, Response]]]:
    """Compares the two time points of every patient that has both, by each reader's masks.

    Scans of different sessions share no frame, so only sums are compared. A case of several images
    is left out: their lesions cannot be told apart.

    Returns:
      By sequence (such as `dwi`, of `pre_dwi` and `post_dwi`), patient and reader.
    """
    points = {
        (r.patient, r.condition): {who: r.points[who][0] for who in READERS}
        for r in results
        if len(r.points["reference"]) == 1
    }
    found: dict[str, dict[str, dict[str, Response]]] = {}
    for patient, condition in points:
        match = re.fullmatch(r"pre_(.+)", condition)
        later = points.get((patient, f"post_{match[1]}")) if match else None
        if later:
            found.setdefault(match[1], {})[patient] = {
                who: rules.compare(points[patient, condition][who], later[who], same_frame=False)
                for who in READERS
            }
    return found


def _agreement(config: Config, patients: dict[str, dict[str, Response]]) -> dict[str, Any]:
    """How far the model's responses agree with the reference's."""
    both = [(pair["reference"].category, pair["prediction"].category) for pair in patients.values()]
    categories = [*rules.CATEGORIES, "NE"]
    rated = [(a, b) for a, b in both if "NE" not in (a, b)]
    reference, prediction = zip(*rated, strict=True) if rated else ((), ())
    return {
        "patients": len(both),
        "not_evaluable": len(both) - len(rated),
        "kappa": agreement.cohen_kappa(
            prediction, reference, rules.CATEGORIES, "linear", config.evaluation.resamples
        ),
        "categories": categories,
        "table": [[both.count((a, b)) for b in categories] for a in categories],
    }


def write_results(
    folder: RunFolder,
    results: Sequence[CaseResult],
    summary: dict[str, Any],
    card: Sequence[tuple[str, str]],
) -> None:
    """Writes `cases.csv` (a row a case), `lesions.csv`, `responses.csv` and `results.json`.

    `card` has the lines of the run card, which the report shows.
    """
    _write_table(folder.cases, [result.row for result in results])
    _write_table(folder.lesions, [row for r in results for row in r.lesion_rows])
    rows = [
        {
            "patient": patient,
            "sequence": sequence,
            "mask": who,
            "response": response.category,
            "sum_pre_mm": response.baseline_sum,
            "sum_post_mm": response.follow_up_sum,
            "sum_change_percent": response.change_percent,
            "volume_pre_mm3": response.volume_baseline,
            "volume_post_mm3": response.volume_follow_up,
            "volume_change_percent": response.volume_change_percent,
        }
        for sequence, patients in responses(results).items()
        for patient, readers in patients.items()
        for who, response in readers.items()
    ]
    if rows:
        _write_table(folder.responses, rows)
    text = json.dumps(summary | {"card": list(card)}, indent=2)
    write_whole(folder.results, text + "\n")


def _write_table(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    cells = ([f"{v:.6f}" if isinstance(v, float) else v for v in row.values()] for row in rows)
    write_whole(path, to_csv([rows[0].keys() if rows else [], *cells]))
