"""The members of an ensemble: which runs are meant, and whether they see an image alike.

A folder with a `config.json` is a run. A folder without, or with the out-of-fold results of its
folds, stands for the runs that lie in it. This module loads neither JAX nor a reader of images.
"""

from collections.abc import Collection, Sequence
from pathlib import Path

from crlm_jax.config.folds import parse_fold
from crlm_jax.config.schema import Config, ConfigError, flatten
from crlm_jax.imaging.conditions import is_ct
from crlm_jax.runs.folder import RunFolder, read_run
from crlm_jax.system.files import locate

# Fields of `data` that change neither what a network sees nor what it answers. A field that is not
# listed here has to be the same in all members.
_UNSEEN = frozenset(
    f"data.{name}"
    for name in (
        "cohort", "train_slices", "resample_masks", "test_fraction", "test_patients", "fold",
        "validation_fraction", "split_seed", "cache", "cache_shared", "workers",
    )
)  # fmt: skip


# Fields of `evaluation` that decide what is made of a network's answer, and the options of
# `predict` and `evaluate` that decide instead.
DECIDED = {
    "threshold": "--threshold",
    "min_lesion_mm3": "--min-lesion-mm3",
    "liver": "--liver",
}


def find_members(named: Sequence[str | Path]) -> list[Path]:
    """Returns the runs that are meant by folders of runs, and by folders that hold runs.

    Args:
      named: paths or addresses (`gs://`), as the user gives them.

    Raises:
      ConfigError: a folder holds no run, its runs are not finished or lack a fold, or a run is
        meant twice.
    """
    found: list[Path] = []
    for name in named:
        path = locate(name)
        found += [path] if _is_run(path) else _runs_in(path)
    seen: dict[str, Path] = {}
    for path in found:
        if (other := seen.setdefault(str(path.resolve()), path)) is not path:
            raise twice(other, path)
    return found


def twice(first: Path, second: Path) -> ConfigError:
    """The error of a run that is meant twice."""
    both = f"{first} is given twice" if first == second else f"{second} and {first} are the same"
    return ConfigError(
        f"--run: {both}, so that one network would count double; leave one of them out"
    )


def _is_run(path: Path) -> bool:
    folder = RunFolder(path)
    return folder.begun and not folder.evaluation.exists()


def _runs_in(path: Path) -> list[Path]:
    """Returns the finished runs in a folder that is none itself, by name."""
    inside = sorted(path.iterdir()) if path.is_dir() else []
    runs = [each for each in inside if not each.name.startswith(".") and _is_run(each)]
    if not runs and RunFolder(path).evaluation.exists():
        raise ConfigError(f"{path}: holds an evaluation, not a run; name the run's own folder")
    if not runs:
        raise ConfigError(
            f"{path}: no run is here (no {RunFolder(path).config.name}), and none is in the "
            "folders in it; name the folder that training wrote, such as runs/NAME, or one that "
            "holds such folders"
        )
    if unfinished := [run.name for run in runs if not RunFolder(run).finished]:
        raise ConfigError(
            f"{path}: {', '.join(unfinished)} in it is not finished; start it again, and it goes "
            "on, or name the runs to take one by one"
        )
    if missing := _missing_folds([read_run(run) for run in runs]):
        raise ConfigError(
            f"{path}: {missing} is not in it; start the cross-validation again, and it goes on, "
            "or name the runs to take one by one"
        )
    return runs


def _missing_folds(configs: Sequence[Config]) -> str:
    """Returns which fold is missing where runs are folds of one seed; empty: none."""
    there: dict[tuple[int, int], set[int]] = {}
    for config in configs:
        if fold := parse_fold(config.data.fold):
            there.setdefault((config.train.seed, fold[1]), set()).add(fold[0])
    for (seed, folds), numbers in there.items():
        if missing := sorted(set(range(1, folds + 1)) - numbers):
            return f"fold {', '.join(map(str, missing))} of {folds} (seed {seed})"
    return ""


def check_alike(runs: Sequence[Path], given: Collection[str] = ()) -> list[Config]:
    """Returns the configurations of runs that can be averaged.

    Args:
      runs: their folders.
      given: which of `DECIDED` the user says; the others have to be the same in all runs.

    Raises:
      ConfigError: two runs see an image in different ways; names both, the field and the remedy.
    """
    configs = [read_run(run) for run in runs]
    first = _seen(configs[0], given)
    for run, config in zip(runs[1:], configs[1:], strict=True):
        own = _seen(config, given)
        different = [
            f"{name} is {_text(first[name])} in {runs[0]} and {_text(own[name])} in {run}"
            for name in first
            if first[name] != own[name]
        ]
        if different:
            only = different == [each for each in different if each.startswith("evaluation.")]
            options = [
                DECIDED[name] for name in DECIDED if f"evaluation.{name} is" in str(different)
            ]
            remedy = f"give {' and '.join(options)}"
            if not only:
                remedy = "leave one of the two out, or train it again"
            raise ConfigError(
                f"--run: {runs[0]} and {run} cannot be averaged: {'; '.join(different)}; {remedy}"
            )
    return configs


def _seen(config: Config, given: Collection[str]) -> dict[str, object]:
    """Returns the fields that decide what a network sees, and what is made of its answer."""
    fields = {
        name: value
        for name, value in flatten(config).items()
        if name.startswith("data.") and name not in _UNSEEN
    }
    conditions = config.data.conditions
    fields["data.conditions"] = tuple(sorted(conditions))
    if not any(map(is_ct, conditions)):  # the window of the other modality decides nothing
        fields["data.ct_window"] = None
    if all(map(is_ct, conditions)):
        fields["data.mr_window"] = None
    for name in DECIDED:
        if name not in given:
            fields[f"evaluation.{name}"] = getattr(config.evaluation, name)
    return fields


def _text(value: object) -> str:
    return ",".join(map(str, value)) if isinstance(value, tuple) else str(value)
