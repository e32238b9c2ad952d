"""Prepares, trains, evaluates and reports one experiment.

    python -m crlm_jax.main --config configs/cross_pre.py
    python -m crlm_jax.main --config configs/ct.py:scale=paper --config.data.cohort=cohort.csv

Intentionally kept short: the loop is in `train.py`.
"""

import difflib
import json
import re
import sys
import traceback
from collections.abc import Collection, Iterable
from pathlib import Path

import jax
from absl import app, flags, logging
from jax.experimental import multihost_utils
from jax.sharding import Mesh
from ml_collections import config_flags

from crlm_jax import attribution, evaluate, parallel, preemption, report, results, train
from crlm_jax.case_results import CaseResult
from crlm_jax.checkpoint import CheckpointError
from crlm_jax.config import Config, ConfigError, differences, flatten, from_json, to_json, validate
from crlm_jax.data import phantom, slices
from crlm_jax.data.cohort import CohortError, read_cohort
from crlm_jax.data.volumes import VolumeError
from crlm_jax.files import locate, write_whole
from crlm_jax.log import NonFiniteLoss
from crlm_jax.models.port import WeightsError
from crlm_jax.run_card import console, describe_data, describe_run, show_card, show_results

_CONFIG = config_flags.DEFINE_config_file(
    "config", None, "File of the experiment, such as configs/cross_pre.py:scale=paper."
)
_WORKDIR = flags.DEFINE_string(
    "workdir", None, "Folder of the run, also at gs://; runs/<config.name> by default."
)
_DISTRIBUTED = flags.DEFINE_bool("distributed", False, "One of several processes of one run.")
_COORDINATOR = flags.DEFINE_string("coordinator", "", "host:port of process 0; empty: found.")
_PROCESSES = flags.DEFINE_integer("processes", 0, "How many processes; 0: found.")
_PROCESS = flags.DEFINE_integer("process", -1, "Which process this is; -1: found.")
_LOST_AFTER = flags.DEFINE_integer(
    "lost_after", parallel.LOST_AFTER, "Seconds of silence after which a process counts as lost.", 1
)
_PROFILE = flags.DEFINE_integer(
    "profile", 0, "Steps of the training to trace into profile/, for xprof; 0: none.", 0
)

_USER_ERRORS = (
    ConfigError, CohortError, VolumeError, WeightsError, NonFiniteLoss, CheckpointError, OSError,
    ValueError,
)  # fmt: skip


class WorkdirError(ValueError):
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


def prepare(config: Config) -> slices.Slices:
    """Reads the cohort, or makes the phantom, and cuts it into slices.

    Where the processes share the cache the main one does it for all; else all do it at once.

    Raises:
      ValueError: the slices of another process are not those of the main one.
    """
    wait = config.data.cache_shared
    if wait and not parallel.is_main():
        multihost_utils.sync_global_devices("prepared")
    cache = Path(config.data.cache).expanduser()
    if config.data.cohort == "phantom":
        patients, seed = config.phantom.patients, config.phantom.seed
        folder = cache / "phantom" / f"{patients}_patients_seed_{seed}_v{phantom.VERSION}"
        cohort = phantom.make_phantom(folder, patients=patients, seed=seed, progress=True)
    else:
        cohort = Path(config.data.cohort).expanduser()
    cases = read_cohort(
        cohort,
        conditions=config.data.conditions,
        test_fraction=config.data.test_fraction,
        validation_fraction=config.data.validation_fraction,
        seed=config.data.split_seed,
    )
    prepared = slices.prepare(
        cases,
        size=config.data.image_size,
        ct_window=config.data.ct_window,
        train_slices=config.data.train_slices,
        cache=cache,
    )
    if wait and parallel.is_main():
        multihost_utils.sync_global_devices("prepared")
    digests = parallel.gather(prepared.digest)
    if others := _numbers(digest != digests[0] for digest in digests):
        raise ValueError(
            f"data.cohort = {config.data.cohort!r}: process {others} found "
            "other images or masks there than process 0; copy the cohort again"
        )
    return prepared


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
    if blind := _numbers(not seen for seen in parallel.all_see(folder, names)):
        raise WorkdirError(
            f"{folder}: process {blind} does not see what others wrote there; give a --workdir on "
            "a disk that all processes share"
        )


def _numbers(chosen: Iterable[bool]) -> str:
    """The numbers of the chosen processes; empty: none is."""
    return ", ".join(str(number) for number, here in enumerate(chosen) if here)


def measure(
    config: Config, prepared: slices.Slices, workdir: Path, mesh: Mesh
) -> tuple[list[CaseResult], int]:
    """Evaluates the best checkpoint; returns the test cases' results and the checkpoint's step."""
    graph, variables, step = train.load_best(config, workdir, mesh)
    own = parallel.make_mesh(jax.local_devices())
    variables = parallel.to_local(variables, own)
    attribute = None
    if steps := config.evaluation.attribution_steps:
        attribute = attribution.make_attribute(graph, variables, steps)
    measured = evaluate.evaluate_cases(
        config,
        prepared,
        evaluate.make_segment(graph, own, mirror=config.evaluation.mirror),
        variables,
        own,
        views=workdir / "views",
        attribute=attribute,
    )
    check_shared(workdir / "views", evaluate.view_names(prepared))
    return measured, step


def run(config: Config, workdir: str | Path, profile: int = 0) -> dict | None:
    """Runs one experiment to its report; traces `profile` of its training steps.

    `workdir` is a folder, or the address of one in a bucket (`gs://`).

    Returns:
      The summary; None if the run was finished before, and in all processes but the main one.
    """
    validate(config)
    workdir = locate(workdir)
    if open_workdir(config, workdir):
        if parallel.is_main():
            console.print(f"{workdir} is finished: see {workdir / 'report.html'}")
        return None
    mesh = parallel.make_mesh()
    parallel.check_batch_size(config.train.batch_size, mesh, "train.batch_size")
    parallel.check_batch_size(config.evaluation.batch_size, mesh, "evaluation.batch_size")
    networks, state = train.create_state(config, mesh)
    prepared = prepare(config)
    data = describe_data(prepared)
    keep_records(config, workdir, data, prepared.digest)
    steps = train.total_steps(config, data["train"]["slices"])
    card = describe_run(config, workdir, data, state, steps)
    if parallel.is_main():
        show_card(config, card)
    train.fit(config, prepared, workdir, mesh, networks, state, profile)
    measured, step = measure(config, prepared, workdir, mesh)
    if not parallel.is_main():
        return None
    why = "the best on the validation patients"
    if not data["validation"]["tumour_slices"]:
        why = "the last: no validation patient has a tumour slice to choose by"
    card.append(("checkpoint", f"step {step}, {why}"))
    summary = results.summarise(config, measured)
    results.write_results(workdir, measured, summary, card)
    path = report.write_report([workdir], workdir / "report.html")
    show_results(config, summary)
    console.print(f"report: {path}")
    return summary


def flagged_config() -> Config:
    """Returns the configuration that the flags give.

    Raises:
      ConfigError: `--config` is missing.
    """
    config = _CONFIG.value
    if config is None:
        raise ConfigError("--config is missing, such as --config configs/cross_pre.py")
    # The flag library splits numbers at commas, as in loss.stages=1,2, but not words.
    config.data.conditions = tuple(",".join(config.data.conditions).split(","))
    return config


def main(argv: list[str]) -> None:
    """Entry point after the flags are parsed."""
    if len(argv) > 1:
        sys.exit(f"error: {argv[1]!r} is not a flag; fields are set as --config.field=value")
    try:
        config = flagged_config()
        preemption.exit_when_told()
        given = [f for f in (_COORDINATOR, _PROCESSES, _PROCESS) if f.value != f.default]
        if given and not _DISTRIBUTED.value:
            raise ValueError(f"--{given[0].name} is of several processes: give --distributed too")
        if _DISTRIBUTED.value:
            parallel.start(_COORDINATOR.value, _PROCESSES.value, _PROCESS.value, _LOST_AFTER.value)
        parallel.use_compile_cache(config.data.cache)
        run(config, _WORKDIR.value or f"runs/{config.name}", _PROFILE.value)
    except preemption.Preempted as told:
        console.print(str(told))
        sys.exit(preemption.EXIT_CODE)
    except Exception as error:
        known = isinstance(error, _USER_ERRORS) or parallel.is_cut_off(error)
        if known and not logging.level_debug():
            parallel.leave(f"error: {_root(error)}", error, _LOST_AFTER.value)
        traceback.print_exc()
        parallel.leave(1, error, _LOST_AFTER.value)


def _root(error: BaseException) -> BaseException:
    """The first cause: a failing config file is wrapped several times by the flag library."""
    while isinstance(error, (OSError, flags.Error)) and (error.__cause__ or error.__context__):
        error = error.__cause__ or error.__context__
    return error


def _check_names(argv: list[str]) -> None:
    """Raises ConfigError where an override names no field; lists the right ones."""
    fields = list(flatten(Config()))
    for arg in argv:
        match = re.match(r"--?config\.([\w.]+)", arg)
        if match and match[1] not in fields:
            name = match[1]
            group = [f for f in fields if f.startswith(name.rpartition(".")[0] + ".")]
            near = difflib.get_close_matches(name, fields, n=1)
            hint = f"did you mean {near[0]}? " if near else ""
            raise ConfigError(
                f"--config.{name}: there is no such field; {hint}"
                f"the fields {'beside it ' if group else ''}are {', '.join(group or fields)}"
            )


def parse_flags(argv: list[str]) -> list[str]:
    """Parses the flags; a wrong field of the config is one line that lists the right ones."""
    try:
        _check_names(argv)
        return flags.FLAGS(argv)
    except flags.IllegalFlagValueError as error:
        fields = flatten(Config())
        name = re.match(r"flag --config\.([\w.]+)", str(error))
        kind = type(fields[name[1]]).__name__ if name and name[1] in fields else ""
        sys.exit(f"error: {_root(error)}" if not kind else f"error: {error} (must be: {kind})")
    except (ConfigError, OSError, flags.Error) as error:
        sys.exit(f"error: {_root(error)}")


if __name__ == "__main__":
    logging.set_verbosity(logging.WARNING)
    app.run(main, flags_parser=parse_flags)
