"""The run folder: what it holds, what its files are called, and who may write to it.

`docs/reference/run-folder.md` specifies every file.
"""

import csv
import dataclasses
import io
import json
from collections.abc import Collection
from itertools import groupby
from pathlib import Path
from typing import Any

from crlm_jax.config.schema import Config, ConfigError
from crlm_jax.config.storage import differences, from_json, to_json
from crlm_jax.errors import UserError
from crlm_jax.runs.log import read_log
from crlm_jax.system import parallel
from crlm_jax.system.files import write_whole
from crlm_jax.system.parallel import chosen_numbers


class WorkdirError(UserError):
    """The folder of the run belongs to something else."""


def open_workdir(config: Config, workdir: Path) -> bool:
    """Checks that `workdir` is new or belongs to this experiment; changes nothing.

    Returns:
      Whether the run in it is finished.

    Raises:
      WorkdirError: it holds another experiment (listing the fields that differ) or no run.
    """
    path = workdir / "config.json"
    if not path.exists():
        if workdir.exists() and (not workdir.is_dir() or any(workdir.iterdir())):
            raise WorkdirError(
                f"{workdir} is there and holds no run (no config.json); give another --workdir"
            )
        return False
    changed = differences(from_json(path.read_bytes(), path), config)
    if changed:
        raise WorkdirError(
            f"{workdir} is the run of another experiment ({'; '.join(changed)}); "
            "give another --workdir, or the same configuration to go on"
        )
    return (workdir / "report.html").exists()


def keep_records(config: Config, workdir: Path, data: dict[str, dict], digest: str) -> None:
    """Writes `config.json` and `data.json`, or checks that a run goes on with the same data.

    Raises:
      WorkdirError: the slices are not those that the run was started with, or the processes do not
        share the folder.
    """
    path, text = workdir / "data.json", json.dumps({"digest": digest, **data}, indent=2) + "\n"
    if path.exists() and path.read_text(encoding="utf-8") != text:
        raise WorkdirError(
            f"{path}: the cohort's images, masks or split have changed since this run was started; "
            "give another --workdir"
        )
    if parallel.is_main():
        workdir.mkdir(parents=True, exist_ok=True)
        write_whole(path, text)
        write_whole(workdir / "config.json", to_json(config))
    check_shared(workdir, ["config.json"])


def check_shared(folder: Path, names: Collection[str]) -> None:
    """Raises WorkdirError where a process does not see files that others have written."""
    if blind := chosen_numbers(not seen for seen in parallel.all_see(folder, names)):
        raise WorkdirError(
            f"{folder}: process {blind} does not see what others wrote there; give a --workdir on "
            "a disk that all processes share"
        )


def read_run(run: Path) -> Config:
    """Returns the configuration of a run; the folder is complete in itself.

    Raises:
      ConfigError: the folder holds no run, or one of another version.
    """
    path = run / "config.json"
    if not path.is_file():
        raise ConfigError(
            f"{run}: no run is here (no config.json); name the folder that training wrote, such as "
            "runs/NAME"
        )
    return from_json(path.read_bytes(), path)


@dataclasses.dataclass(frozen=True)
class FinishedRun:
    """A finished run, read from its folder."""

    folder: Path
    config: Config
    summary: dict[str, Any]  # results.json
    rows: list[dict[str, str]]  # cases.csv
    data: dict[str, Any]  # data.json
    log: list[dict[str, Any]]  # train.jsonl

    @property
    def name(self) -> str:
        """Of its folder."""
        return self.folder.resolve().name

    def cases(self) -> list[tuple[dict[str, str], list[Path]]]:
        """Every row with the viewer's files of the case; empty where there are no files."""
        files = sorted((self.folder / "views").glob("*.npz"))
        views = [list(group) for _, group in groupby(files, key=lambda file: file.name[:4])]
        return list(zip(self.rows, views, strict=True)) if views else []


def read_finished(folder: Path) -> FinishedRun:
    """Reads a finished run.

    Raises:
      ConfigError: the folder holds no run, or one that is not finished.
    """
    config = read_run(folder)
    texts = {}
    for name in ("results.json", "cases.csv", "data.json"):
        if not (folder / name).exists():
            raise ConfigError(
                f"{folder / name}: missing, so this run is not finished; start it again with the "
                "same command, and it goes on"
            )
        texts[name] = (folder / name).read_text(encoding="utf-8")
    summary, data = json.loads(texts["results.json"]), json.loads(texts["data.json"])
    rows = list(csv.DictReader(io.StringIO(texts["cases.csv"])))
    if "card" not in summary:
        raise ConfigError(
            f"{folder / 'results.json'}: of an earlier version of crlm_jax; delete report.html in "
            "the run and start it again with the same command, and its cases are measured anew"
        )
    return FinishedRun(folder, config, summary, rows, data, read_log(folder / "train.jsonl"))
