"""A refit: a run again, on its training and validation patients together.

How long to train is what validation chose in that run, so that nobody has to be kept for it now.
The learning rate falls as it did there, and the test patients are the same.
"""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from crlm_jax.config.length import total_steps
from crlm_jax.config.schema import Config, ConfigError
from crlm_jax.config.storage import differences
from crlm_jax.method.checkpoint import Checkpoints
from crlm_jax.runs.finished import read_finished
from crlm_jax.runs.folder import RunFolder, read_begun
from crlm_jax.system.files import locate


@dataclass(frozen=True)
class Refit:
    """What a refit takes over from the run that it does again."""

    steps: int  # that validation chose there
    schedule: int  # updates of that run in all, by which the learning rate falls
    splits: Mapping[str, Mapping[str, Any]]  # patients and slices of that run by split
    threshold: float  # of the mask, which that run may have chosen

    def check_patients(self, data: Mapping[str, Mapping[str, Any]]) -> None:
        """Checks that a refit has the patients of the run, described as in `data.json`.

        Raises:
          ConfigError: others are trained on or tested, or they have other images.
        """
        for split, parts in (("train", ("train", "validation")), ("test", ("test",))):
            now, before = data[split], [self.splits[part] for part in parts]
            same = now["patients"] == sorted(p for part in before for p in part["patients"])
            for count in ("images", "tumour_slices"):
                same = same and now[count] == sum(part[count] for part in before)
            if not same:
                raise ConfigError(
                    "train.refit: the cohort has other patients or images to "
                    f"{'test' if split == 'test' else 'train on'} than that run had; train it "
                    "again on this cohort first"
                )


def read_refit(config: Config) -> Refit | None:
    """Reads the run that `train.refit` names; None where it names none.

    Raises:
      ConfigError: no finished run is there, it is of another experiment, or its validation chose
        nothing.
    """
    if not config.train.refit:
        return None
    named = f"train.refit = {config.train.refit!r}"
    folder = RunFolder(locate(config.train.refit))
    run = read_finished(folder.path)
    if not folder.finished:
        raise ConfigError(f"{named}: that run is not finished; start it again, and it goes on")
    if run.config.train.refit:
        raise ConfigError(f"{named}: that run is a refit itself; name the run that it was made of")
    again = dataclasses.replace(config, train=dataclasses.replace(config.train, refit=""))
    if changed := differences(read_begun(folder.path), again):
        raise ConfigError(
            f"{named}: that run is of another experiment ({'; '.join(changed)}); give the same "
            "configuration"
        )
    with Checkpoints(folder.checkpoints, run.config.train.keep, saves=False) as saved:
        steps = saved.chosen
    if steps is None:
        raise ConfigError(
            f"{named}: that run had no validation patient with tumour, so its validation chose no "
            "number of steps; give it some by data.validation_fraction"
        )
    return Refit(
        steps,
        total_steps(run.config, run.splits["train"]["slices"]),
        run.splits,
        run.config.evaluation.threshold,
    )


def lengths(config: Config, slices: int, refit: Refit | None) -> tuple[int, int]:
    """Returns the updates of a training, and those by which the learning rate falls.

    Args:
      config: the experiment.
      slices: to train on.
      refit: the run that is done again.
    """
    if refit is not None:
        return refit.steps, refit.schedule
    steps = total_steps(config, slices)
    return steps, steps
