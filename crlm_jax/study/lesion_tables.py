"""The lesions of a study's systems: false ones a case, found ones by size, and both by threshold.

Sums are over all cases of all runs; differences are those of `crossed_difference`, with runs and
patients both random.
"""

from collections.abc import Iterable, Mapping, Sequence

from crlm_jax.measures import froc
from crlm_jax.measures.table import SIZES
from crlm_jax.runs.rows import FrocRow, read_froc
from crlm_jax.stats.cells import format_mean, format_p
from crlm_jax.stats.crossed import crossed_difference
from crlm_jax.study.seeds import SeedResult, Systems
from crlm_jax.study.tables import conditions_of, mean_of, values_by_run

LESIONS = (
    "experiment", "system", "condition", "runs", "n", "false lesions a case",
    "share of the first's", "difference", "p", "lesions found",
    *(f"found {text}" for text in SIZES.values()),
)  # fmt: skip
_MOST = (1, 2, 4, 8)  # false lesions a case
CURVES = ("experiment", "system", "condition", *(f"at {n} false a case" for n in _MOST))


def lesion_rows(found: Mapping[str, Systems]) -> list[list[str]]:
    """Returns the lesions of every system, under `LESIONS`.

    A system is compared with the first of its experiment, run by run; p is not corrected.
    """
    rows = []
    for experiment, systems in found.items():
        for condition in conditions_of(systems):
            reference: dict[str, dict[str, float]] | None = None  # until the first system is done
            for system, seeds in systems.items():
                values = values_by_run(seeds, condition, "false_positives")
                if values:
                    mean = mean_of(values)
                    cells = [experiment, system, condition, str(mean["runs"]), str(mean["n"])]
                    cells.append(format_mean(mean, digits=1))
                    compared = _compared(values, reference or {})
                    rows.append([*cells, *compared, *_shares(seeds, condition)])
                reference = values if reference is None else reference
    return rows


def _compared(
    ours: Mapping[str, Mapping[str, float]], first: Mapping[str, Mapping[str, float]]
) -> list[str]:
    """Returns our share of the first system's false lesions, the difference and its p."""
    both = [run for run in ours if run in first]
    difference = crossed_difference([ours[run] for run in both], [first[run] for run in both])
    if not difference["n"]:
        return ["–"] * 3
    patients = set.intersection(*(set(each[run]) for each in (ours, first) for run in both))
    totals = [sum(values[run][p] for run in both for p in patients) for values in (ours, first)]
    share = f"{totals[0] / totals[1]:.0%}" if totals[1] else "–"
    p = difference["p"]
    return [share, format_mean(difference, digits=1), "–" if p is None else format_p(p)]


def _shares(seeds: Sequence[SeedResult], condition: str) -> list[str]:
    """Returns how many lesions are found, all and by diameter, as `12 / 30 (40 %)`."""
    rows = [row for seed in seeds for row in seed.rows if row.condition == condition]

    def share(found: str, of: str) -> str:
        one, all_ = (int(sum(row.measures.get(name) or 0 for row in rows)) for name in (found, of))
        return f"{one} / {all_} ({one / all_:.0%})" if all_ else "–"

    pairs = [("lesions_found", "lesions_reference")]
    pairs += [(f"found_{size}", f"lesions_{size}") for size in SIZES]
    return [share(*pair) for pair in pairs]


def curve_rows(found: Mapping[str, Systems]) -> list[list[str]]:
    """Returns the best share of lesions found with at most so many false ones, under `CURVES`.

    Best over the thresholds that all runs have in `froc.csv`, of the cases of all runs together. It
    is chosen with the reference, which nobody has beforehand: it tells systems apart, not what one
    would reach.
    """
    rows = []
    for experiment, systems in found.items():
        for condition in conditions_of(systems):
            for system, seeds in systems.items():
                points = froc.points(_curve(seeds, condition))
                if points:
                    cells = [_best(points, most) for most in _MOST]
                    rows.append([experiment, system, condition, *cells])
    return rows


def _curve(seeds: Iterable[SeedResult], condition: str) -> list[FrocRow]:
    return froc.at_shared_thresholds(
        [
            [row for row in read_froc(run.folder.froc) if row.condition == condition]
            for seed in seeds
            for run in seed.runs
        ]
    )


def _best(points: Iterable[froc.FrocPoint], most: float) -> str:
    reached = [p.sensitivity or 0.0 for p in points if p.false_positives <= most]
    return f"{max(reached):.0%}" if reached else "–"
