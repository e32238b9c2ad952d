"""Checkpoints of a run: saved in the background, the latest few and the best kept.

The only file that imports orbax. A checkpoint appears whole or not at all: Orbax writes it under
a temporary name and renames it, so a run that is killed finds its last complete one.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
from orbax.checkpoint import v1 as ocp

_METRIC = "validation_dsc"


class CheckpointError(RuntimeError):
    """A checkpoint cannot be read, or is of another network."""


class Checkpoints:
    """The checkpoints in one folder, by step.

    Use as a context manager: leaving it waits for the save in progress.

    Args:
      folder: where they are; made if absent.
      keep: how many of the latest are kept, besides the one with the highest validation DSC.
      saves: whether this process saves; then what an interrupted save left is removed. A reader
        leaves it, since it may be the save in progress of a run that is training.
    """

    def __init__(self, folder: Path, keep: int = 2, *, saves: bool = True):
        policies = ocp.training.preservation_policies
        self._checkpointer = ocp.training.Checkpointer(
            folder.resolve(),
            preservation_policy=policies.AnyPreservationPolicy(
                [
                    policies.LatestN(keep),
                    policies.BestN(
                        get_metric_fn=lambda metrics: metrics[_METRIC],
                        n=1,
                        keep_checkpoints_without_metrics=False,
                    ),
                ]
            ),
            cleanup_tmp_directories=saves and jax.process_index() == 0,
        )

    def __enter__(self) -> "Checkpoints":
        """Returns itself."""
        return self

    def __exit__(self, *_) -> None:
        """Waits for the save in progress."""
        self._checkpointer.close()

    @property
    def latest(self) -> int | None:
        """Step of the newest checkpoint; None where there is none."""
        newest = self._checkpointer.latest
        return None if newest is None else newest.step

    @property
    def best(self) -> int | None:
        """Step of the highest validation DSC (the later of equals); without any, the latest."""
        measured = [
            (c.metrics[_METRIC], c.step) for c in self._checkpointer.checkpoints if c.metrics
        ]
        return max(measured)[1] if measured else self.latest

    def save(self, step: int, parts: Mapping[str, Any], validation_dsc: float | None) -> None:
        """Starts saving named trees of arrays; waits only for an earlier save in progress."""
        metrics = None if validation_dsc is None else {_METRIC: validation_dsc}
        self._checkpointer.save_checkpointables_async(
            step, dict(parts), metrics=metrics, force=True
        )

    def load(self, step: int, like: Mapping[str, Any]) -> dict[str, Any]:
        """Returns the parts that `like` names, placed, shaped and typed as its arrays.

        Raises:
          CheckpointError: naming the folder of the checkpoint and the remedy.
        """
        self._checkpointer.wait()
        abstract = jax.tree.map(
            lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), dict(like)
        )
        try:
            return self._checkpointer.load_checkpointables(step, abstract)
        except Exception as error:  # Orbax and TensorStore raise many kinds
            reason = error.__cause__ or error
            raise CheckpointError(
                f"{self._checkpointer.directory / str(step)}: not a whole checkpoint of this "
                f"network ({reason}); move this folder away to go on from an earlier checkpoint"
            ) from error
