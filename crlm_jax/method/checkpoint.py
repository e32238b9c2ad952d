"""Checkpoints of a run: saved in the background, the latest few and the best kept.

The only file that imports orbax. A checkpoint appears whole or not at all: Orbax writes it under
a temporary name and renames it, or marks it as complete in a bucket. A run that was killed resumes
from its last complete checkpoint.
"""

import itertools
import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
from etils import epath
from jax.experimental import multihost_utils
from orbax.checkpoint import v1 as ocp
from orbax.checkpoint.path import step as steps

from crlm_jax import __version__
from crlm_jax.config.selection import METRICS
from crlm_jax.errors import UserError
from crlm_jax.system.files import in_bucket

SCHEMA = 1  # to be raised when the content of a checkpoint changes
NO_CHECKPOINT = (  # after the name of a folder, in messages
    "no complete checkpoint; train the run first, or name one of the runs where the folder is that "
    "of folds or of an evaluation"
)
_NAMES = tuple(METRICS.values())  # of what a checkpoint may have been measured by


class CheckpointError(UserError):
    """A checkpoint cannot be read, or is of another network."""


class NewerCheckpoint(CheckpointError):
    """A checkpoint is whole, but a newer version of crlm_jax wrote it."""


class Checkpoints:
    """The checkpoints in one folder, by step.

    Use as a context manager: leaving it waits for the save in progress.

    Args:
      folder: of the checkpoints, on a disk or in a bucket; made if absent.
      keep: how many of the latest are kept, besides the one with the highest validation DSC.
      saves: whether this process saves; then the remains of an interrupted save are removed. A
        reader leaves them, since they may be the save in progress of a run that is training.
    """

    def __init__(self, folder: Path, keep: int = 2, *, saves: bool = True):
        # Orbax reads the times and metrics of all checkpoints, so one broken file would stop it.
        broken = {
            int(checkpoint.name): CheckpointError(f"{file}: not a whole file of this version")
            for checkpoint in folder.glob("*")
            # Other names belong to a save in progress, or to one that was interrupted.
            if checkpoint.name.isdecimal() and (file := _broken_file(checkpoint))
        }
        if saves:
            _move_out(folder, broken)
        elif broken:
            raise next(iter(broken.values()))
        policies = ocp.training.preservation_policies
        self._checkpointer = ocp.training.Checkpointer(
            folder if in_bucket(folder) else folder.resolve(),
            preservation_policy=policies.AnyPreservationPolicy(
                [
                    policies.LatestN(keep),
                    policies.BestN(
                        get_metric_fn=_score,
                        n=1,
                        keep_checkpoints_without_metrics=False,
                    ),
                ]
            ),
            cleanup_tmp_directories=saves and jax.process_index() == 0,
        )

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """Waits for the save in progress.

        If an exception is already propagating, a save error is ignored.
        """
        try:
            self._checkpointer.close()
        except Exception as error:
            if kind is None:
                raise self._unsaved(error) from error

    @property
    def latest(self) -> int | None:
        """Step of the newest checkpoint; None where there is none."""
        newest = self._checkpointer.latest
        return None if newest is None else newest.step

    @property
    def best(self) -> int | None:
        """Step of the highest validation DSC (the later of equals); without a DSC, the latest."""
        return self.latest if self.chosen is None else self.chosen

    @property
    def chosen(self) -> int | None:
        """Step of the highest validation DSC (the later of equals); None without a DSC."""
        measured = [
            (_score(c.metrics), c.step) for c in self._checkpointer.checkpoints if c.metrics
        ]
        return max(measured)[1] if measured else None

    def save(
        self,
        step: int,
        parts: Mapping[str, Any],
        validation_dsc: float | None,
        metric: str = METRICS["paper"],
        *,
        again: bool = False,
    ) -> None:
        """Starts saving named trees of arrays; waits only for an earlier save in progress.

        The DSC is kept under the name `metric`; None: there is none. With `again`, the step may be
        there, and is replaced.

        Raises:
          CheckpointError: the disk is full, or the earlier save failed.
        """
        metrics = None if validation_dsc is None else {metric: validation_dsc}
        try:
            self._checkpointer.save_checkpointables_async(
                step,
                dict(parts),
                metrics=metrics,
                force=True,
                overwrite=again,
                custom_metadata={"schema": SCHEMA, "crlm_jax": __version__},
            )
        except Exception as error:  # Orbax and TensorStore raise many kinds
            raise self._unsaved(error) from error

    def _unsaved(self, error: Exception) -> CheckpointError:
        return CheckpointError(
            f"{self._checkpointer.directory}: a checkpoint could not be saved "
            f"({_one_line(error)}); the earlier ones are whole. Make room on the disk and start "
            "the run again"
        )

    def resume(self, like: Mapping[str, Any]) -> tuple[int, dict[str, Any]] | None:
        """Loads the newest checkpoint that can be read; None where there is none at all.

        Newer ones that cannot be read are moved to `unreadable_STEP` beside the folder. Otherwise
        they would count as the latest, or as the best, again.

        Returns:
          Its step, and the parts that `like` names.

        Raises:
          CheckpointError: there are checkpoints, but none can be read; nothing is moved then.
          NewerCheckpoint: the first that can be read is of a newer version; nothing is moved then.
        """
        unreadable: dict[int, CheckpointError] = {}
        for step in sorted((c.step for c in self._checkpointer.checkpoints), reverse=True):
            try:
                parts = self.load(step, like)
            except NewerCheckpoint:
                raise
            except CheckpointError as error:
                unreadable[step] = error
                continue
            _move_out(self._checkpointer.directory, unreadable)
            self._checkpointer.reload()
            return step, parts
        if unreadable:
            raise next(iter(unreadable.values()))
        return None

    def load(self, step: int, like: Mapping[str, Any]) -> dict[str, Any]:
        """Returns the parts that `like` names, with the sharding, shapes and types of its arrays.

        Raises:
          CheckpointError: the checkpoint cannot be read, or is of another network.
          NewerCheckpoint: a newer version of crlm_jax wrote the checkpoint.
        """
        self._checkpointer.wait()
        abstract = jax.tree.map(
            lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), dict(like)
        )
        try:
            self._check_schema(step)
            return self._checkpointer.load_checkpointables(step, abstract)
        except NewerCheckpoint:
            raise
        except Exception as error:  # Orbax and TensorStore raise many kinds
            reason = error.__cause__ or error
            raise CheckpointError(
                f"{self._checkpointer.directory / str(step)}: not a whole checkpoint of this "
                f"network ({_one_line(reason)}); give another --workdir, or move the folder away"
            ) from error

    def _check_schema(self, step: int) -> None:
        about = self._checkpointer.checkpointables_metadata(step).custom_metadata
        if about and about["schema"] > SCHEMA:  # the earliest checkpoints have no schema
            raise NewerCheckpoint(
                f"{self._checkpointer.directory / str(step)}: written by crlm_jax "
                f"{about['crlm_jax']} in a form that crlm_jax {__version__} cannot read; update "
                "crlm_jax, or give another --workdir"
            )


def _score(metrics: Mapping[str, Any]) -> float:
    """Returns the validation DSC of a checkpoint, by whichever protocol it was measured.

    Raises:
      KeyError: it has none.
    """
    found = [metrics[name] for name in _NAMES if name in metrics]
    if not found:
        raise KeyError(", ".join(_NAMES))
    return found[0]


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())


def _broken_file(checkpoint: Path) -> Path | None:
    """Returns a checkpoint's file that Orbax could not read; None: times and metrics are whole.

    A checkpoint without these files is whole too.
    """
    metrics = checkpoint / "metrics" / "metrics"
    try:
        if metrics.exists() and not isinstance(
            _score(json.loads(metrics.read_text(encoding="utf-8"))), float
        ):
            return metrics
    except (OSError, ValueError, KeyError, TypeError):
        return metrics
    try:
        str(steps.Metadata(int(checkpoint.name), epath.Path(checkpoint)).commit_timestamp)
    except Exception:  # Orbax raises many kinds: a wrong type, a year that is none
        return checkpoint / "_CHECKPOINT_METADATA"
    return None


def _move_out(folder: Path, unreadable: Mapping[int, CheckpointError]) -> None:
    """Moves checkpoints out of the folder, with a warning; nothing is deleted.

    All processes of a run call this. The first barrier makes sure that all have read the folder
    before the main one changes it.
    """
    multihost_utils.sync_global_devices("looked at checkpoints")
    if jax.process_index() == 0:
        for step, error in unreadable.items():
            target = _free(folder.parent / f"unreadable_{step}")
            logging.warning("%s; it was moved to %s, and an earlier one is used", error, target)
            (folder / str(step)).rename(target)
    multihost_utils.sync_global_devices("moved unreadable checkpoints")


def _free(path: Path) -> Path:
    """Returns the path, or, if it exists, the first of path_1, path_2 … that does not."""
    names = (path.with_name(f"{path.name}_{i}" if i else path.name) for i in itertools.count())
    return next(name for name in names if not name.exists())
