"""A finished run, or a finished evaluation, read from its folder."""

import dataclasses
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Any

import numpy as np

from crlm_jax.config.notices import marks, scale_of, warnings
from crlm_jax.config.schema import Config, ConfigError
from crlm_jax.errors import UserError
from crlm_jax.runs.evaluation import Evaluation, read_evaluation
from crlm_jax.runs.folder import RunFolder, read_run
from crlm_jax.runs.log import read_log
from crlm_jax.runs.results import Card, Summary
from crlm_jax.runs.rows import CaseRow, read_cases


@dataclass(frozen=True)
class FinishedRun:
    """A finished run, read from its folder."""

    folder: RunFolder
    config: Config
    summary: Summary
    card: Card
    rows: list[CaseRow]
    splits: dict[str, dict[str, Any]]  # patients and slices by split
    log: list[dict[str, Any]]  # one for each line of the training log
    evaluation: Evaluation | None = None  # None: the network was trained in this folder
    called: str = ""  # its name beside other runs (`name_apart`); empty: that of its folder

    @property
    def name(self) -> str:
        return self.called or self.folder.name

    @property
    def title(self) -> str:
        return self.evaluation.title if self.evaluation else self.config.name

    @property
    def about(self) -> str:
        """What a heading says of the run beside its name."""
        if self.evaluation:
            return self.evaluation.about
        return f"{self.config.method}, {scale_of(self.config)}"

    @property
    def warnings(self) -> list[str]:
        """The sentences that stand before any number of the run."""
        return [*warnings(self.config), *(self.evaluation.notes if self.evaluation else ())]

    @property
    def marks(self) -> list[str]:
        """The words that stand on every picture of the run."""
        if self.evaluation and self.evaluation.phantom:
            return ["phantom"]
        return marks(self.config)

    def cases(self) -> list[tuple[CaseRow, list[Path]]]:
        """Returns every row with the viewer's files of its case; empty if the run has none.

        Raises:
          UserError: there are files, but not of every case.
        """
        views = self.folder.find_views()
        if views and len(views) != len(self.rows):
            raise UserError(
                f"{self.folder.views}: files of {len(views)} cases, but {self.folder.cases.name} "
                f"has {len(self.rows)}; move the folder away, and the report is written without "
                "its viewer"
            )
        return list(zip(self.rows, views.values(), strict=True)) if views else []


def read_finished(path: Path) -> FinishedRun:
    """Reads a finished run.

    Raises:
      ConfigError: the folder holds no run, or one that is not finished.
      UserError: its table of cases is damaged.
    """
    config, folder = read_run(path), RunFolder(path)
    for file in (folder.results, folder.cases, folder.data):
        if not file.exists():
            raise ConfigError(
                f"{file}: missing, so this run is not finished; start it again with the same "
                "command, and it goes on"
            )
    results, data = _read_json(folder.results), _read_json(folder.data)
    if "card" not in results:
        raise ConfigError(
            f"{folder.results}: of an earlier version of crlm_jax; delete {folder.report.name} in "
            "the run and start it again with the same command, and its cases are measured anew"
        )
    try:
        summary = Summary.from_json(results)
    except (KeyError, TypeError) as error:
        raise _damaged(folder.results, error) from error
    return FinishedRun(
        folder=folder,
        config=config,
        summary=summary,
        card=[(name, text) for name, text in results["card"]],
        rows=read_cases(folder.cases),
        splits=_splits(data),
        log=read_log(folder.log),
        evaluation=read_evaluation(folder.evaluation),
    )


def name_apart(runs: Sequence[FinishedRun]) -> list[FinishedRun]:
    """Gives runs that are shown together names that differ.

    A name is the end of a folder's path, such as `unet/seed0`, with as many parts for all as tell
    all apart. A folder that is there twice is numbered.
    """
    parts = [run.folder.path.resolve().parts for run in runs]
    lengths = range(1, max(map(len, parts), default=1) + 1)
    tails = ([PurePath(*each[-n:]).as_posix() for each in parts] for n in lengths)
    names = next(each for each in tails if len(set(each)) == len(set(parts)))
    times = [names[: i + 1].count(name) for i, name in enumerate(names)]
    return [
        dataclasses.replace(run, called=name if time == 1 else f"{name} ({time})")
        for run, name, time in zip(runs, names, times, strict=True)
    ]


def read_splits(folder: RunFolder) -> dict[str, dict[str, Any]]:
    """Returns patients and slices of a run by split; the run need not be finished.

    Raises:
      ConfigError: the folder does not say them.
    """
    if not folder.data.exists():
        raise ConfigError(
            f"{folder.data}: missing, so that nobody knows whom this run was trained on; restore "
            "the file from a copy"
        )
    splits = _splits(_read_json(folder.data))
    try:
        for split in splits.values():
            list(split["patients"])
    except (KeyError, TypeError) as error:
        raise _damaged(folder.data, error) from error
    return splits


def _splits(data: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {name: split for name, split in data.items() if name not in ("digest", "names")}


def names_are_withheld(folder: RunFolder) -> bool:
    """Whether a run was shared with numbers in place of its patients' names."""
    return "names" in _read_json(folder.data)


def _read_json(file: Path) -> dict[str, Any]:
    try:
        values = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:  # no JSON, or no UTF-8
        raise _damaged(file, error) from error
    return values


def _damaged(file: Path, error: Exception) -> ConfigError:
    reason = " ".join(f"{type(error).__name__}: {error}".split())
    return ConfigError(
        f"{file}: damaged ({reason}); restore the file from a copy, or train again in another "
        "--workdir"
    )


def values_by_patient(
    runs: Sequence[FinishedRun], condition: str, measure: str
) -> dict[str, float]:
    """Returns a measure of each patient under a condition: its mean over the runs that have it.

    Args:
      runs: of one system, such as its seeds.
      condition: of the cases.
      measure: name of the measure.
    """
    values: dict[str, list[float]] = {}
    for run in runs:
        for row in run.rows:
            if row.condition == condition and (value := row.measures.get(measure)) is not None:
                values.setdefault(row.patient, []).append(value)
    return {patient: float(np.mean(each)) for patient, each in values.items()}
