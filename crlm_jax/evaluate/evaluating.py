"""Measures systems, and writes a folder for each, as a run leaves one; compares several."""

from collections.abc import Sequence
from pathlib import Path

from crlm_jax.errors import UserError
from crlm_jax.evaluate.systems import System
from crlm_jax.measures import result_tables as tables
from crlm_jax.report import page
from crlm_jax.runs.evaluation import write_evaluation
from crlm_jax.runs.finished import read_finished
from crlm_jax.runs.folder import RunFolder
from crlm_jax.runs.records import keep_records
from crlm_jax.runs.results import Summary
from crlm_jax.stats.comparison import holm
from crlm_jax.system.console import print_stderr
from crlm_jax.system.files import whole_folder, write_whole
from crlm_jax.system.text import to_csv
from crlm_jax.training.card import show_card
from crlm_jax.training.experiment import describe_data
from crlm_jax.training.measuring import conclude

COMPARISON = "comparison.csv"
_HEADER = (
    "run", "reference", "condition", "measure", "n", "mean_difference", "ci_low", "ci_high", "p",
    "p_holm", "in_one_only",
)  # fmt: skip


def check_out(out: Path) -> None:
    """Raises UserError unless a folder is absent or empty."""
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UserError(f"--out {out}: is there already, and not empty; name a new folder")


def evaluate_systems(systems: Sequence[System], out: Path) -> list[Summary]:
    """Measures systems into a folder that appears when everything is in it.

    One system's files lie in `out` itself. Of several, each has a folder of its name there, and
    `report.html` and `comparison.csv` compare them with the first.

    Args:
      systems: ready to be measured.
      out: absent, or empty.

    Raises:
      UserError: `out` holds something.
    """
    with whole_folder(out, check_out) as folder:
        if len(systems) == 1:
            return [_evaluate(systems[0], RunFolder(folder))]
        summaries = [_evaluate(each, RunFolder(folder / each.name)) for each in systems]
        _compare([folder / each.name for each in systems], folder)
    return summaries


def _evaluate(system: System, folder: RunFolder) -> Summary:
    folder.path.mkdir(exist_ok=True)
    tested = {"test": describe_data(system.slices)["test"]}
    keep_records(system.config, folder, tested, system.slices.digest)
    write_evaluation(folder.evaluation, system.evaluation)
    show_card(system.config, system.card)
    results, how = system.measure(folder)
    card = [*system.card, *how]
    return conclude(system.config, folder, results, card, phantom=system.evaluation.phantom)


def _compare(folders: Sequence[Path], out: Path) -> None:
    page.write_report(folders, out / "report.html")
    found = tables.compare([read_finished(path) for path in folders])
    compared = [each for each in found if each.difference["n"]]
    if not compared:
        print_stderr("warning: no patient is in two of them, so there is nothing to compare")
    adjusted = holm([p for each in compared if (p := each.difference["p"]) is not None])
    rows = []
    for each, p_holm in zip(compared, adjusted, strict=True):
        values = [each.difference[name] for name in ("mean", "ci_low", "ci_high", "p")]
        cells = ["" if value is None else f"{value:.6f}" for value in [*values, p_holm]]
        rows.append(
            [each.run, each.reference, each.condition, each.measure, each.difference["n"], *cells,
             each.difference["dropped"]]
        )  # fmt: skip
    write_whole(out / COMPARISON, to_csv([_HEADER, *rows]))
