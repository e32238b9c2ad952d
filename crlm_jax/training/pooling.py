"""Writes the tables and the report of all folds of a cross-validation into the folder above them.

The folder gets what an evaluation has (`evaluation.json` says so), from the folders of the folds.
"""

import csv
import dataclasses
import hashlib
import io
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from crlm_jax import __version__
from crlm_jax.config.notices import is_phantom, scale_of
from crlm_jax.config.storage import to_json
from crlm_jax.measures.froc import at_shared_thresholds
from crlm_jax.measures.pooled import check_tested_once, pool_cases, pool_summary
from crlm_jax.runs.evaluation import Evaluation, write_evaluation
from crlm_jax.runs.finished import FinishedRun
from crlm_jax.runs.folder import RunFolder, read_begun
from crlm_jax.runs.results import Card, Summary, results_json
from crlm_jax.runs.rows import read_froc, write_froc
from crlm_jax.system.files import in_bucket, write_whole
from crlm_jax.system.text import to_csv

# Lines of a run card that are the same in all folds.
_SHARED = ("config file", "data", "segmenter", "critic", "devices", "training")
# Lines that may be of some folds alone: of what is removed, and of what is to be doubted.
_OWN = ("masks", "small lesions", "doubt")


def write_pooled(folds: Sequence[FinishedRun], folder: RunFolder) -> Summary:
    """Writes everything of all folds, the report last; returns the summary.

    Args:
      folds: finished, in order.
      folder: above theirs.

    Raises:
      UserError: two folds have tested the same patient, or the files of a fold are damaged.
    """
    check_tested_once(folds)
    cases, summary = pool_cases(folds), pool_summary(folds)
    begun = read_begun(folds[0].folder.path)  # without the threshold that this fold chose
    config = dataclasses.replace(begun, data=dataclasses.replace(begun.data, fold=""))
    evaluation = Evaluation(
        of="folds",
        source=", ".join(fold.name for fold in folds),
        title=config.name,
        about=f"{config.method}, {scale_of(config)}, {len(folds)} folds",
        cohort=config.data.cohort,
        split="all",
        prefix="",
        phantom=is_phantom(config),
        # At the head, as of any evaluation: nobody opens the folds' reports to learn them.
        notes=tuple(f"{doubt}." for _, doubt in _lines(folds, ("doubt",))),
    )
    write_evaluation(folder.evaluation, evaluation)  # first: the folder is not that of a run
    write_whole(folder.config, to_json(config))
    write_whole(folder.data, _data_json(folds))
    # The cells stay as the folds have them: a count is no number with decimals.
    _join([fold.folder.cases for fold in folds], folder.cases, ("patient", "condition"))
    _join([fold.folder.lesions for fold in folds], folder.lesions, ("patient", "condition"))
    _join([fold.folder.responses for fold in folds], folder.responses, ("sequence", "patient"))
    _join_probabilities(folds, folder)
    write_whole(folder.results, results_json(summary, _card(folds)))
    if all(files for _, files in cases):  # the viewer shows all cases, or none
        folder.views.mkdir(exist_ok=True)
        for number, (_, files) in enumerate(cases):
            for image, file in enumerate(files):
                _same_file(file, folder.view(number, image))
    from crlm_jax.report import page  # here: a training needs no matplotlib until its end

    page.write_report([folder.path], folder.report)
    return summary


def _card(folds: Sequence[FinishedRun]) -> Card:
    config, shared = folds[0].config, dict(folds[0].card)
    tested = {row.patient for fold in folds for row in fold.rows}
    card = [
        ("experiment", f"{config.name}, {config.method}, {scale_of(config)}, "
                       f"seed {config.train.seed}, crlm_jax {__version__}"),
        *((name, shared[name]) for name in _SHARED if name in shared),
        ("patients", f"{len(tested)}, dealt into {len(folds)} folds (seed "
                     f"{config.data.split_seed}); each tested once, out of fold"),
    ]  # fmt: skip
    for fold in folds:
        patients = {row.patient for row in fold.rows}
        text = (
            f"tests {len(patients)} patients; checkpoint: {dict(fold.card).get('checkpoint', '')}"
        )
        if fold.config.evaluation.choose_threshold:
            text += f"; threshold: {fold.config.evaluation.threshold:g}, which it chose"
        card.append((fold.name, text))
    return [*card, *_lines(folds, _OWN)]


def _lines(folds: Sequence[FinishedRun], names: Sequence[str]) -> Card:
    """Returns lines of the folds' cards: once what all say, else with the folds that say it."""
    every = (line for name in names for fold in folds for line in fold.card if line[0] == name)
    lines = []
    for name, text in dict.fromkeys(every):
        of = [fold.name for fold in folds if (name, text) in fold.card]
        lines.append((name, text if len(of) == len(folds) else f"{', '.join(of)}: {text}"))
    return lines


def _data_json(folds: Sequence[FinishedRun]) -> str:
    """Returns the test patients of all folds together, as a run describes its own."""
    tests = [fold.splits["test"] for fold in folds]
    digests = [json.loads(fold.folder.data.read_text(encoding="utf-8"))["digest"] for fold in folds]
    pooled: dict[str, Any] = {
        "patients": sorted(name for test in tests for name in test["patients"]),
        **{
            count: sum(test[count] for test in tests)
            for count in ("images", "slices", "tumour_slices")
        },
        "prints": sorted(own for test in tests for own in test.get("prints", ())),
    }
    digest = hashlib.sha256("\n".join(digests).encode()).hexdigest()
    return json.dumps({"digest": digest, "test": pooled}, indent=2) + "\n"


def _join(tables: Sequence[Path], out: Path, by: Sequence[str]) -> None:
    """Writes CSV tables as one, its rows in the order of some columns; absent ones are left out."""
    header: list[str] = []
    rows: list[list[str]] = []
    for table in tables:
        if table.exists():
            header, *own = csv.reader(io.StringIO(table.read_text(encoding="utf-8")))
            rows += own
    if header:
        places = [header.index(name) for name in by]
        rows.sort(key=lambda row: [row[place] for place in places])
        write_whole(out, to_csv([header, *rows]))


def _join_probabilities(folds: Sequence[FinishedRun], folder: RunFolder) -> None:
    """Joins what the folds counted by probability, if all did; folds of before did not."""
    if not all(fold.folder.calibration.exists() and fold.folder.froc.exists() for fold in folds):
        return
    _join([fold.folder.calibration for fold in folds], folder.calibration, ("patient", "condition"))
    counted = [read_froc(fold.folder.froc) for fold in folds]
    write_froc(folder.froc, at_shared_thresholds(counted))


def _same_file(source: Path, target: Path) -> None:
    """Gives a file a second name, or copies it where the disk has no such names."""
    target.unlink(missing_ok=True)
    if not in_bucket(target):
        try:
            os.link(source, target)
            return
        except OSError:
            pass
    write_whole(target, source.read_bytes())
