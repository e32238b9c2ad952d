"""What a folder holds that was evaluated and not trained: `evaluation.json`."""

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from crlm_jax.errors import UserError
from crlm_jax.system.files import write_whole


@dataclass(frozen=True)
class Evaluation:
    """Whose predictions were measured, and on whom.

    Args:
      of: a network, masks that were there, or the folds of a cross-validation together.
      source: folder of the run, pattern of the masks, or folders of the folds.
      title: of the report, such as `ct on other.csv`.
      about: what stands beside the title.
      cohort: the cohort file, or `phantom`.
      split: `test`: the run's test patients alone; `all`: every patient of the cohort.
      prefix: what was put before every patient's name.
      phantom: whether network or images are of a phantom.
      notes: what a reader must know before any number.
    """

    of: Literal["run", "masks", "folds"]
    source: str
    title: str
    about: str
    cohort: str
    split: Literal["all", "test"]
    prefix: str
    phantom: bool
    notes: tuple[str, ...]


def write_evaluation(path: Path, evaluation: Evaluation) -> None:
    """Writes `evaluation.json`."""
    write_whole(path, json.dumps(dataclasses.asdict(evaluation), indent=2) + "\n")


def read_evaluation(path: Path) -> Evaluation | None:
    """Reads `evaluation.json`; None: the folder is that of a training.

    Raises:
      UserError: the file is damaged.
    """
    if not path.exists():
        return None
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        return Evaluation(**values | {"notes": tuple(map(str, values["notes"]))})
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        raise UserError(f"{path}: damaged ({reason}); evaluate again into another --out") from error
