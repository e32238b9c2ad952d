"""A run to hand on: what is needed to use it and to go on with it, without names and paths.

The folder is a run folder with the best checkpoint alone. It has no pictures, no table by case, and
in place of patients' names numbers that lead back to nobody. The prints of the images stay: whoever
evaluates the run can then tell whether it has learned from an image, and nobody can make an image
out of a print.
"""

import dataclasses
import json
import shutil
from pathlib import Path, PurePath
from typing import Any

from crlm_jax.config.notices import is_phantom
from crlm_jax.config.schema import Config, Data
from crlm_jax.config.storage import to_json
from crlm_jax.data.cohort.cases import SPLITS
from crlm_jax.errors import UserError
from crlm_jax.export.model_card import model_card
from crlm_jax.method.checkpoint import NO_CHECKPOINT, Checkpoints
from crlm_jax.runs.finished import read_finished, read_splits
from crlm_jax.runs.folder import RunFolder, read_begun
from crlm_jax.system.files import check_folder, in_bucket, locate, whole_folder

MODEL_CARD, WITHHELD = "MODEL_CARD.md", "withheld"


def share_run(run: str | Path, out: Path) -> Path:
    """Writes a run to hand on; the folder appears whole or not at all.

    Args:
      run: folder of a finished run; nothing in it is changed.
      out: new, empty, or such a folder, which is replaced unless its model card was edited.

    Returns:
      The folder.

    Raises:
      ConfigError: the folder holds no run.
      UserError: the run is not finished, lies in a bucket, or `out` holds something else, or a
        model card with other words.
    """
    source, out = RunFolder(locate(run)), out.resolve()
    _check_out(out)
    if in_bucket(source.path):
        raise UserError(f"{source.path}: copy the run to a disk first, to share it")
    begun, finished = read_begun(source.path), read_finished(source.path)
    if not source.finished:
        raise UserError(f"{source.path}: the run is not finished; start it again, and it goes on")
    with Checkpoints(source.checkpoints, begun.train.keep, saves=False) as saved:
        best = saved.best
    if best is None:
        raise UserError(f"{source.path}: {NO_CHECKPOINT}")
    card = model_card(pathless(finished.config), finished, best)
    _check_card(out / MODEL_CARD, card)
    with whole_folder(out, _check_out) as folder:
        shared = RunFolder(folder)
        shutil.copytree(source.checkpoints / str(best), shared.checkpoints / str(best))
        for marker in shared.checkpoints.rglob("commit_success.txt"):
            marker.write_text("complete\n")  # Orbax wrote the path into it
        for path in (source.log, source.threshold):
            if path.exists():
                shutil.copyfile(path, folder / path.name)
        shared.data.write_text(_nameless(source), encoding="utf-8")
        shared.config.write_text(to_json(pathless(begun)), encoding="utf-8")
        (folder / MODEL_CARD).write_text(card, encoding="utf-8")
    return out


def _check_out(out: Path) -> None:
    check_folder(
        out,
        r"MODEL_CARD\.md|config\.json|data\.json|threshold\.json|train\.jsonl|checkpoints",
        MODEL_CARD,
    )


def _check_card(path: Path, card: str) -> None:
    """Raises UserError if a card is there that says something else: its words are not lost."""
    if path.exists() and path.read_bytes() != card.encode():
        raise UserError(
            f"{path}: was edited, or is of another state of the run, and would be replaced; move "
            "it away, or give another --out"
        )


def pathless(config: Config) -> Config:
    """Returns the configuration without folders: of a path, the last part stays."""
    config = dataclasses.replace(
        config,
        data=dataclasses.replace(config.data, cache=Data.cache),
        critic=dataclasses.replace(config.critic, weights=_last(config.critic.weights)),
        transunet=dataclasses.replace(config.transunet, weights=_last(config.transunet.weights)),
        train=dataclasses.replace(
            config.train, init=_last(config.train.init), refit=_last(config.train.refit)
        ),
    )
    if not is_phantom(config):
        config.data.cohort = WITHHELD
    return config


def _last(path: str) -> str:
    return PurePath(path.replace("\\", "/")).name


def _nameless(source: RunFolder) -> str:
    """Returns `data.json` with a number in place of each patient's name."""
    splits: dict[str, Any] = dict(read_splits(source))
    number = 0
    for split in SPLITS:
        own = dict(splits.get(split, {}))
        own["patients"] = [f"{WITHHELD} {number + i + 1}" for i in range(len(own["patients"]))]
        number += len(own["patients"])
        splits[split] = own
    digest = json.loads(source.data.read_text(encoding="utf-8"))["digest"]
    return json.dumps({"digest": digest, "names": WITHHELD, **splits}, indent=2) + "\n"
