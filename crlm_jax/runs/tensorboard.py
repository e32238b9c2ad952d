"""The training log as TensorBoard reads it, beside `train.jsonl`.

The only file that imports tensorboardX, which brings no TensorFlow.
"""

import contextlib
import importlib.util
from collections.abc import Iterator, Mapping
from typing import Any

from crlm_jax.config.schema import Config, ConfigError
from crlm_jax.runs.folder import RunFolder
from crlm_jax.runs.log import Listener
from crlm_jax.system import parallel
from crlm_jax.system.files import in_bucket


def check_board(config: Config, folder: RunFolder) -> None:
    """Checks that TensorBoard's files can be written, if they are asked for.

    Raises:
      ConfigError: tensorboardX is not installed, or the run is in a bucket.
    """
    if not config.train.tensorboard:
        return
    if importlib.util.find_spec("tensorboardX") is None:
        raise ConfigError(
            "train.tensorboard: needs tensorboardX; pip install 'crlm_jax[tensorboard]'"
        )
    if in_bucket(folder.path):
        raise ConfigError(
            f"train.tensorboard: {folder.path} is in a bucket, and TensorBoard's files are written "
            "to a disk; leave it out, or give a --workdir on a disk"
        )


@contextlib.contextmanager
def open_board(config: Config, folder: RunFolder, start: int) -> Iterator[Listener | None]:
    """Yields what takes each line of the log; None if TensorBoard is not asked for.

    Args:
      config: the experiment.
      folder: of the run.
      start: the step that training goes on from; TensorBoard hides what was written after it.
    """
    if not config.train.tensorboard or not parallel.is_main():
        yield None
        return
    from tensorboardX import SummaryWriter

    with SummaryWriter(str(folder.board), purge_step=start + 1) as writer:

        def add(line: Mapping[str, Any]) -> None:
            for tag, value in _scalars(line).items():
                writer.add_scalar(tag, value, line["step"])
            writer.flush()

        yield add


def _scalars(line: Mapping[str, Any]) -> dict[str, float]:
    """Returns the numbers of a line of the log under TensorBoard's tags, such as train/loss."""
    found: dict[str, float] = {}
    for name, value in line.items():
        if isinstance(value, Mapping):
            found |= {f"{name}/{part}": number for part, number in value.items()}
        elif name.startswith("validation"):
            found[f"validation/{name.removeprefix('validation_')}"] = value
        elif name != "step" and not isinstance(value, str):
            found[f"train/{name}"] = value
    return found
