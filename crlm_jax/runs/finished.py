"""A finished run, read from its folder."""

import csv
import dataclasses
import io
import json
from pathlib import Path
from typing import Any

from crlm_jax.config.schema import Config, ConfigError
from crlm_jax.runs.folder import RunFolder, read_run
from crlm_jax.runs.log import read_log


@dataclasses.dataclass(frozen=True)
class FinishedRun:
    """A finished run, read from its folder."""

    folder: RunFolder
    config: Config
    summary: dict[str, Any]  # results.json
    rows: list[dict[str, str]]  # cases.csv
    data: dict[str, Any]  # data.json
    log: list[dict[str, Any]]  # train.jsonl

    @property
    def name(self) -> str:
        return self.folder.name

    def cases(self) -> list[tuple[dict[str, str], list[Path]]]:
        """Returns every row with the viewer's files of its case; empty if the run has none."""
        views = self.folder.find_views()
        return list(zip(self.rows, views.values(), strict=True)) if views else []


def read_finished(path: Path) -> FinishedRun:
    """Reads a finished run.

    Raises:
      ConfigError: the folder holds no run, or one that is not finished.
    """
    config, folder = read_run(path), RunFolder(path)
    for file in (folder.results, folder.cases, folder.data):
        if not file.exists():
            raise ConfigError(
                f"{file}: missing, so this run is not finished; start it again with the same "
                "command, and it goes on"
            )
    summary, data = (
        json.loads(file.read_text(encoding="utf-8")) for file in (folder.results, folder.data)
    )
    if "card" not in summary:
        raise ConfigError(
            f"{folder.results}: of an earlier version of crlm_jax; delete {folder.report.name} in "
            "the run and start it again with the same command, and its cases are measured anew"
        )
    rows = list(csv.DictReader(io.StringIO(folder.cases.read_text(encoding="utf-8"))))
    return FinishedRun(folder, config, summary, rows, data, read_log(folder.log))
