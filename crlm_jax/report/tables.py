"""The rows of the report's tables, as text."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from crlm_jax.measures import overlap
from crlm_jax.runs.finished import FinishedRun
from crlm_jax.stats import comparison

HEADER = ("condition", "protocol", "n", "DSC", "IoU", "recall", "precision", "F1")
CLINICAL = {  # metric: what stands above its column
    "hd95": "HD95 mm",
    "assd": "ASSD mm",
    "nsd_2mm": "surface Dice 2 mm",
    "nsd_voxel": "surface Dice 1 voxel",
    "lesion_sensitivity": "lesion sensitivity",
    "lesion_precision": "lesion precision",
    "false_positives": "false lesions a case",
    "volume_error_relative": "volume error",
}
SIZES = {"lt10": "< 10 mm", "10to20": "10–20 mm", "gt20": "> 20 mm"}
_COMPARED = {"dsc_paper": "DSC (paper)", "dsc": "DSC (clinical)", "nsd_2mm": "surface Dice 2 mm"}


def format_mean(value: dict[str, Any]) -> str:
    """Writes a mean with its interval, as `0.81 (0.76–0.85)`; `–` where there is none.

    An interval of few patients, which means little, is marked `*`.
    """
    if value["mean"] is None:
        return "–"
    mean, low, high = (
        "" if value[name] is None else f"{value[name]:.2f}".replace("-", "−")
        for name in ("mean", "ci_low", "ci_high")
    )
    if not low:
        return mean
    between = " to " if "−" in low else "–"
    return f"{mean} ({low}{between}{high})" + ("*" if value.get("small") else "")


def result_rows(summary: dict[str, Any]) -> list[list[str]]:
    """Returns the table of results: condition, protocol, n, then the metrics with their CIs."""
    rows = []
    for condition, values in summary["conditions"].items():
        for protocol, suffix in (("paper", "_paper"), ("clinical", "")):
            cells = [format_mean(values[name + suffix]) for name in overlap.OVERLAP]
            rows.append([condition, protocol, str(values["dsc" + suffix]["n"]), *cells])
    return rows


def clinical_rows(summary: dict[str, Any]) -> list[list[str]]:
    """Returns the table of surfaces, lesions and volumes: condition, n, then `CLINICAL`."""
    return [
        [condition, str(values["hd95"]["n"]), *(format_mean(values[name]) for name in CLINICAL)]
        for condition, values in summary["conditions"].items()
    ]


def size_rows(summary: dict[str, Any]) -> list[list[str]]:
    """Returns how many reference lesions were found: condition, all, then by diameter."""

    def share(found: int, there: int) -> str:
        return f"{found} of {there}" + (f" ({found / there:.0%})" if there else "")

    rows = []
    for condition, values in summary["conditions"].items():
        sums = values["sums"]
        cells = [share(sums["lesions_found"], sums["lesions_reference"])]
        cells += [share(sums[f"found_{size}"], sums[f"lesions_{size}"]) for size in SIZES]
        rows.append([condition, *cells, str(sums["false_positives"])])
    return rows


def comparison_rows(runs: Sequence[FinishedRun]) -> list[list[str]]:
    """Compares every run with the first, patient by patient.

    Returns:
      run, condition, metric, n, mean difference with its interval, p of the Wilcoxon signed-rank
      test, and p by Holm's correction over all rows.
    """
    first, *others = runs
    found = []
    for run in others:
        for condition in run.summary["conditions"]:
            for metric, label in _COMPARED.items():
                ours, reference = (by_patient([r], condition, metric) for r in (run, first))
                difference = comparison.paired_difference(
                    ours, reference, run.config.evaluation.resamples
                )
                found.append(([run.name, condition, label], difference))
    return compared_rows(found)


def compared_rows(found: Sequence[tuple[list[str], dict[str, Any]]]) -> list[list[str]]:
    """Writes `stats.paired_difference`s as rows, each after its names; those without a patient go.

    Returns:
      The names, n, mean difference with its interval, p, and p by Holm's correction over all rows.
    """
    found = [(names, difference) for names, difference in found if difference["n"]]
    adjusted = comparison.holm([difference["p"] for _, difference in found])
    return [
        [*names, str(d["n"]), format_mean(d), f"{d['p']:.3f}", f"{p:.3f}"]
        for (names, d), p in zip(found, adjusted, strict=True)
    ]


def by_patient(runs: Sequence[FinishedRun], condition: str, metric: str) -> dict[str, float]:
    """A metric of every patient under a condition, the mean over the runs that have it."""
    values: dict[str, list[float]] = {}
    for run in runs:
        for row in run.rows:
            if row["condition"] == condition and row[metric]:
                values.setdefault(row["patient"], []).append(float(row[metric]))
    return {patient: float(np.mean(each)) for patient, each in values.items()}
