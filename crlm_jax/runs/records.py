"""What a run records of its experiment before it trains: `config.json` and `data.json`."""

import dataclasses
import json
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from crlm_jax.config.precision import with_precision
from crlm_jax.config.schema import Config, System
from crlm_jax.config.storage import from_json, to_json
from crlm_jax.runs.folder import RunFolder, WorkdirError
from crlm_jax.system import parallel
from crlm_jax.system.console import print_stderr
from crlm_jax.system.files import write_whole
from crlm_jax.system.parallel import chosen_numbers


def check_records(folder: RunFolder, data: Mapping[str, Mapping[str, Any]], digest: str) -> None:
    """Checks that a run goes on with the data that it was started with; changes nothing.

    Args:
      folder: of the run.
      data: patients and slices by split.
      digest: of the images and masks.

    Raises:
      WorkdirError: the slices are others.
    """
    allowed = _data_json(digest, data), _before(digest, data)
    if folder.data.exists() and folder.data.read_text(encoding="utf-8") not in allowed:
        raise WorkdirError(
            f"{folder.data}: the cohort's images, masks or split have changed since this run was "
            "started; give another --workdir"
        )


def keep_records(
    config: Config, folder: RunFolder, data: Mapping[str, Mapping[str, Any]], digest: str
) -> None:
    """Writes `config.json` and `data.json`.

    Args:
      config: the experiment.
      folder: of the run.
      data: patients and slices by split.
      digest: of the images and masks.

    Raises:
      WorkdirError: the slices are not those that the run was started with, or the processes do not
        share the folder.
    """
    check_records(folder, data, digest)
    if parallel.is_main():
        folder.path.mkdir(parents=True, exist_ok=True)
        write_whole(folder.data, _data_json(digest, data))
        write_whole(folder.config, to_json(config))
    check_shared(folder.path, [folder.config.name])


def _data_json(digest: str, data: Mapping[str, Mapping[str, Any]]) -> str:
    return json.dumps({"digest": digest, **data}, indent=2) + "\n"


def _before(digest: str, data: Mapping[str, Mapping[str, Any]]) -> str:
    """Returns the text that runs had before `prints` was in it; the digest covers the images."""
    without = {
        split: {name: value for name, value in about.items() if name != "prints"}
        for split, about in data.items()
    }
    return _data_json(digest, without)


def with_own_precision(config: Config, folder: RunFolder, platform: str) -> Config:
    """Returns the config with the precision that `train.precision = "auto"` stands for.

    A run that was begun goes on with the precision that it was begun with, on whatever platform.

    Args:
      config: of the experiment.
      folder: of the run.
      platform: that computes: `cpu`, `gpu` or `tpu`.
    """
    if config.train.precision == "auto" and folder.begun:
        begun = from_json(folder.config.read_bytes(), folder.config).train.precision
        return dataclasses.replace(config, train=dataclasses.replace(config.train, precision=begun))
    return with_precision(config, platform)


def with_threads(config: Config, folder: RunFolder, platform: str) -> Config:
    """Returns the config with the number of threads that the CPU computes with, to be recorded.

    A run that was begun with another number, and goes on, is a warning: its numbers will be others
    than those of a run with one number throughout.

    Args:
      config: of the experiment.
      folder: of the run.
      platform: that computes, such as `cpu`; on others the threads decide nothing.
    """
    if platform != "cpu":
        return config
    count = parallel.threads()
    begun = from_json(folder.config.read_bytes(), folder.config) if folder.begun else config
    if begun.system.threads not in (0, count) and parallel.is_main():
        print_stderr(
            f"warning: {folder.path} was begun on {begun.system.threads} threads and goes on with "
            f"{count}, so that it repeats no other run; set --config.system.threads="
            f"{begun.system.threads}"
        )
    return dataclasses.replace(config, system=System(threads=count))


def check_shared(folder: Path, names: Collection[str]) -> None:
    """Raises WorkdirError if a process does not see files that others wrote into a folder."""
    if blind := chosen_numbers(not seen for seen in parallel.all_see(folder, names)):
        raise WorkdirError(
            f"{folder}: process {blind} does not see what others wrote there; give a --workdir on "
            "a disk that all processes share"
        )
