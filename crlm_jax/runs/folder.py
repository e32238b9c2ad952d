"""The run folder: what it holds, what its files are called, and whose experiment is in it.

`RunFolder` is the only place that names a run's files. `docs/reference/run-folder.md` says what is
in each of them. This module loads neither JAX nor a reader of images.
"""

import json
import re
from dataclasses import dataclass
from pathlib import Path

from crlm_jax.config import length
from crlm_jax.config.schema import Config, ConfigError
from crlm_jax.config.storage import differences, from_json, overrides
from crlm_jax.errors import UserError
from crlm_jax.runs.threshold import with_chosen_threshold

_VIEW = re.compile(r"(\d+)_(\d+)\.npz")  # of `RunFolder.view`


@dataclass(frozen=True)
class RunFolder:
    """The paths of a run, on a disk or in a bucket.

    A checkpoint that cannot be read is moved to `unreadable_STEP` beside `checkpoints`
    (`method.checkpoint`).

    Args:
      path: the folder, as `system.files.locate` returns it.
    """

    path: Path

    @property
    def config(self) -> Path:
        """The configuration, as JSON. The run has begun once this file exists."""
        return self.path / "config.json"

    @property
    def data(self) -> Path:
        """The patients and slices of each split, and the digest of the images and masks."""
        return self.path / "data.json"

    @property
    def evaluation(self) -> Path:
        """What was evaluated, as JSON; absent where a network was trained in the folder."""
        return self.path / "evaluation.json"

    @property
    def log(self) -> Path:
        """Losses, speed, memory and validation DSC, one JSON object a line."""
        return self.path / "train.jsonl"

    @property
    def board(self) -> Path:
        """Folder of TensorBoard's files; absent without `train.tensorboard`."""
        return self.path / "tensorboard"

    @property
    def checkpoints(self) -> Path:
        """Folder of the checkpoints, named by their steps."""
        return self.path / "checkpoints"

    @property
    def profile(self) -> Path:
        """Folder of the traces of `--profile`."""
        return self.path / "profile"

    @property
    def cases(self) -> Path:
        """The measures of each test case, one row a case."""
        return self.path / "cases.csv"

    @property
    def lesions(self) -> Path:
        """Each lesion of the reference and of the prediction, one row a lesion."""
        return self.path / "lesions.csv"

    @property
    def responses(self) -> Path:
        """The responses to chemotherapy; absent if no patient has both time points."""
        return self.path / "responses.csv"

    @property
    def calibration(self) -> Path:
        """Voxels of each test case by bins of probability; absent where masks were evaluated."""
        return self.path / "calibration.csv"

    @property
    def froc(self) -> Path:
        """Lesions of each test case by thresholds; absent where masks were evaluated."""
        return self.path / "froc.csv"

    @property
    def threshold(self) -> Path:
        """The threshold chosen on validation patients; absent unless that was asked for."""
        return self.path / "threshold.json"

    @property
    def registrations(self) -> Path:
        """Folder of a picture a registration; absent without `evaluation.register`."""
        return self.path / "registrations"

    @property
    def channels(self) -> Path:
        """How sequences lie over each other, as PNG; absent without `data.channels`."""
        return self.path / "channels.png"

    @property
    def results(self) -> Path:
        """The means of all measures by condition, and the run card, as JSON."""
        return self.path / "results.json"

    @property
    def views(self) -> Path:
        """Folder of what the report's viewer shows, one file an image."""
        return self.path / "views"

    @property
    def figures(self) -> Path:
        """Folder of the report's figures, as PNG."""
        return self.path / "figures"

    @property
    def report(self) -> Path:
        """The report. It is written last: the run is finished once this file exists."""
        return self.path / "report.html"

    @property
    def lock(self) -> Path:
        """What the one process that trains in the folder locks (`runs.lock`)."""
        return self.path / ".lock"

    @property
    def name(self) -> str:
        """The name of the folder."""
        return self.path.resolve().name

    @property
    def begun(self) -> bool:
        return self.config.exists()

    @property
    def finished(self) -> bool:
        return self.report.exists()

    def view(self, case: int, image: int) -> Path:
        """Returns the viewer's file of an image: `views/CASE_IMAGE.npz`.

        Args:
          case: number of the case in the cohort, from 0.
          image: number of the image within the case, from 0.
        """
        return self.views / f"{case:04d}_{image:03d}.npz"

    def find_views(self) -> dict[int, list[Path]]:
        """Returns the viewer's files by the number of the case, in order; empty without any."""
        named = [(_VIEW.fullmatch(file.name), file) for file in self.views.glob("*.npz")]
        numbered = [(int(name[1]), int(name[2]), file) for name, file in named if name]
        found: dict[int, list[Path]] = {}
        for case, _, file in sorted(numbered, key=lambda view: view[:2]):
            found.setdefault(case, []).append(file)
        return found

    def listing(self) -> str:
        """Returns the names of what every run leaves, in the order in which it is written."""
        paths = (
            self.config, self.data, self.log, self.checkpoints, self.cases, self.lesions,
            self.calibration, self.froc, self.results, self.views, self.figures, self.report,
        )  # fmt: skip
        return ", ".join(path.name if path.suffix else f"{path.name}/" for path in paths)


class WorkdirError(UserError):
    """The folder of the run belongs to something else."""


def open_workdir(config: Config, folder: RunFolder, *, of_folds: bool = False) -> bool:
    """Checks that a folder is new or belongs to this experiment; changes nothing.

    The experiment may be longer than the run in the folder (`train.steps`, `train.epochs`).

    Args:
      config: the experiment.
      folder: of the run.
      of_folds: it is a fold of a cross-validation, whose weights another one cannot begin from,
        since they have seen patients whom its folds test.

    Returns:
      Whether the run in it is finished, and no longer one is asked for.

    Raises:
      WorkdirError: it holds another experiment (listing the fields that differ) or no run.
    """
    path = folder.path
    if not folder.begun:
        if path.exists() and (not path.is_dir() or any(p != folder.lock for p in path.iterdir())):
            raise WorkdirError(
                f"{path} exists and holds no run (no {folder.config.name}); give another --workdir"
            )
        return False
    if folder.evaluation.exists():
        raise WorkdirError(
            f"{path} holds an evaluation, or the folds of a cross-validation (which --folds goes "
            "on with); give another --workdir"
        )
    begun = from_json(folder.config.read_bytes(), folder.config)
    changed = differences(begun, config)
    if changed and _goes_on(begun, config, folder, of_folds):
        return False
    if changed:
        raise WorkdirError(
            f"{path} is the run of another experiment ({'; '.join(changed)}); give another "
            "--workdir, or the same configuration to go on, as "
            f"{' '.join(overrides(begun, config))}"
        )
    return folder.finished


def _goes_on(begun: Config, config: Config, folder: RunFolder, of_folds: bool) -> bool:
    """Whether an experiment is that of a run but for its length, and is not over before it.

    Raises:
      WorkdirError: the training is planned for its length.
    """
    if differences(begun, config, besides=length.FIELDS):
        return False
    planned = length.planned_by(begun)
    if planned and differences(begun, config, besides=(length.PATIENCE,)):
        with_weights = f", and to begin there with these weights, --config.train.init={folder.path}"
        raise WorkdirError(
            f"{folder.path} is of {'; '.join(differences(begun, config))}, and its course "
            f"({', '.join(planned)}) is planned for that length; give another --workdir"
            + ("" if of_folds else with_weights)
        )
    try:
        slices = int(json.loads(folder.data.read_bytes())["train"]["slices"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        raise WorkdirError(
            f"{folder.data}: cannot be read ({reason}), and a longer training needs it; restore "
            "the file from a copy, or give another --workdir"
        ) from error
    return length.total_steps(config, slices) >= length.total_steps(begun, slices)


def read_run(path: Path) -> Config:
    """Returns the configuration of the run in a folder, with the threshold that the run chose.

    An evaluation has none to choose, and the folds of a cross-validation have one each.

    Raises:
      ConfigError: the folder holds no run, or one of another version.
    """
    config, folder = read_begun(path), RunFolder(path)
    if folder.evaluation.exists():
        return config
    return with_chosen_threshold(config, folder.threshold)


def read_begun(path: Path) -> Config:
    """Returns the configuration that the run in a folder was begun with, as `config.json` has it.

    Raises:
      ConfigError: as of `read_run`.
    """
    file = RunFolder(path).config
    if not file.is_file():
        raise ConfigError(
            f"{path}: no run is here (no {file.name}); name the folder that training wrote, such "
            "as runs/NAME"
        )
    return from_json(file.read_bytes(), file)
