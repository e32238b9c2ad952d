"""The rows of tables of results, as text."""

from collections.abc import Sequence
from dataclasses import dataclass

from crlm_jax.measures.table import BY_NAME, OVERLAP, SHORT, SIZES, SUFFIX
from crlm_jax.runs.finished import FinishedRun, values_by_patient
from crlm_jax.runs.results import Summary
from crlm_jax.stats import comparison
from crlm_jax.stats.cells import compared_rows, format_mean
from crlm_jax.stats.comparison import Numbers

OVERLAP_HEADER = tuple(BY_NAME[name].header for name in OVERLAP)
HEADER = ("condition", "protocol", "n", *OVERLAP_HEADER)
_CLINICAL = (
    "hd95", "assd", "nsd_2mm", "nsd_voxel", "lesion_sensitivity", "lesion_precision",
    "false_positives", "volume_error_relative",
)  # fmt: skip
CLINICAL_HEADER = ("condition", "n", *(BY_NAME[name].header for name in _CLINICAL))
SIZE_HEADER = ("condition", "found", *SIZES.values(), "false")
COMPARISON_HEADER = (
    "run", "condition", "metric", "n", "mean difference", "p (Wilcoxon)", "p (Holm)",
)  # fmt: skip
# Of these measures more is better, so that a difference above zero speaks for the run.
COMPARED = ("dsc_paper", "dsc", "nsd_2mm")


def result_rows(summary: Summary) -> list[list[str]]:
    """Returns the overlap by each protocol under `HEADER`: means with their intervals.

    A run of 0.1.0 has no mean of slices, and no row of it.
    """
    rows = []
    for condition, values in summary.conditions.items():
        for protocol, suffix in SUFFIX.items():
            means = [found for name in OVERLAP if (found := values.means.get(name + suffix))]
            if means:
                n = means[0]["n"]
                cells = [_cell(value, n) for value in means]
                rows.append([condition, SHORT[protocol], str(n), *cells])
    return rows


def _cell(value: Numbers, n: float | None) -> str:
    """Writes a mean; of fewer cases than the row's `n`, with its own: not all have a value."""
    fewer = value["n"] and value["n"] != n
    return format_mean(value) + f", n = {value['n']}" * bool(fewer)


def clinical_rows(summary: Summary) -> list[list[str]]:
    """Returns surfaces, lesions and volumes under `CLINICAL_HEADER`: means with their intervals."""
    rows = []
    for condition, values in summary.conditions.items():
        n = values.means["hd95"]["n"]
        rows.append([condition, str(n), *(_cell(values.means[name], n) for name in _CLINICAL)])
    return rows


def size_rows(summary: Summary) -> list[list[str]]:
    """Returns how many reference lesions were found, all and by diameter, under `SIZE_HEADER`."""

    def share(found: int, there: int) -> str:
        return f"{found} of {there}" + (f" ({found / there:.0%})" if there else "")

    rows = []
    for condition, values in summary.conditions.items():
        sums = values.sums
        cells = [share(sums["lesions_found"], sums["lesions_reference"])]
        cells += [share(sums[f"found_{size}"], sums[f"lesions_{size}"]) for size in SIZES]
        rows.append([condition, *cells, str(sums["false_positives"])])
    return rows


@dataclass(frozen=True)
class Compared:
    """The paired difference of a run and the first one, in a measure under a condition."""

    run: str
    reference: str
    condition: str
    measure: str
    difference: Numbers  # from `stats.paired_difference`


def compare(runs: Sequence[FinishedRun]) -> list[Compared]:
    """Compares every run with the first, patient by patient, in the measures of `COMPARED`.

    The paper's protocol is left out of two runs that it measures otherwise (`_by_paper`).
    """
    first, *others = runs
    compared = []
    for run in others:
        alike = _by_paper(run) == _by_paper(first)
        measures = [n for n in COMPARED if alike or BY_NAME[n].protocol != "paper"]
        for condition in run.summary.conditions:
            for name in measures:
                ours, reference = (values_by_patient([r], condition, name) for r in (run, first))
                difference = comparison.paired_difference(
                    ours, reference, run.config.evaluation.resamples
                )
                compared.append(Compared(run.name, first.name, condition, name, difference))
    return compared


def _by_paper(run: FinishedRun) -> tuple[str, int]:
    """Returns what the paper's protocol measures of a run, and at which size in pixels.

    A network's probability is thresholded at its own size, and a mask is shrunk to it: the same
    prediction gets another DSC by each, and at each size.
    """
    masks = run.evaluation is not None and run.evaluation.of == "masks"
    return "masks" if masks else "a network", run.config.data.image_size


def comparison_rows(runs: Sequence[FinishedRun]) -> list[list[str]]:
    """Compares every run with the first, patient by patient, under `COMPARISON_HEADER`.

    Intervals are those of the mean difference, p of the Wilcoxon signed-rank test, and the last
    column p by Holm's correction over all rows.
    """
    return compared_rows(
        [
            ([each.run, each.condition, BY_NAME[each.measure].row_header], each.difference)
            for each in compare(runs)
        ]
    )


def not_compared(runs: Sequence[FinishedRun]) -> list[str]:
    """Says what `comparison_rows` leaves out.

    That are runs that share no patient with the first, and the paper's protocol where it does not
    measure both alike.
    """
    first, *others = runs
    said = []
    for run in others:
        shared = {
            condition: values_by_patient([run], condition, "dsc").keys()
            & values_by_patient([first], condition, "dsc").keys()
            for condition in run.summary.conditions
        }
        if alone := [condition for condition, patients in shared.items() if not patients]:
            said.append(
                f"{run.name} is not compared with {first.name} under {', '.join(alone)}: no "
                "patient is in both"
            )
        ours, theirs = _by_paper(run), _by_paper(first)
        if ours != theirs and any(shared.values()):
            each = (f"{what} at {size} × {size} pixels" for what, size in (ours, theirs))
            said.append(
                f"{run.name} is not compared with {first.name} by the paper’s protocol, which "
                f"measures {' and '.join(each)} here"
            )
    return said
