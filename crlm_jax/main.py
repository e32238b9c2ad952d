"""Prepares, trains, evaluates and reports one experiment.

    python -m crlm_jax.main --config configs/cross_pre.py
    python -m crlm_jax.main --config configs/ct.py:scale=paper --config.data.cohort=cohort.csv

Intentionally kept short: the loop is in `train.py`.
"""

import difflib
import json
import re
import sys
from pathlib import Path

import jax
from absl import app, flags, logging
from jax.experimental import multihost_utils
from ml_collections import config_flags
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.panel import Panel
from rich.table import Table

from crlm_jax import (
    __version__,
    attribution,
    evaluate,
    parallel,
    preemption,
    report,
    results,
    train,
)
from crlm_jax.checkpoint import CheckpointError
from crlm_jax.config import Config, ConfigError, differences, flatten, from_json, to_json, validate
from crlm_jax.data import phantom, slices
from crlm_jax.data.cohort import CohortError, read_cohort
from crlm_jax.data.volumes import VolumeError
from crlm_jax.files import write_whole
from crlm_jax.log import NonFiniteLoss
from crlm_jax.models.port import WeightsError

_CONFIG = config_flags.DEFINE_config_file(
    "config", None, "File of the experiment, such as configs/cross_pre.py:scale=paper."
)
_WORKDIR = flags.DEFINE_string("workdir", None, "Folder of the run; runs/<config.name> by default.")
_DISTRIBUTED = flags.DEFINE_bool("distributed", False, "One of several processes of one run.")
_COORDINATOR = flags.DEFINE_string("coordinator", "", "host:port of process 0; empty: found.")
_PROCESSES = flags.DEFINE_integer("processes", 0, "How many processes; 0: found.")
_PROCESS = flags.DEFINE_integer("process", -1, "Which process this is; -1: found.")

_USER_ERRORS = (
    ConfigError, CohortError, VolumeError, WeightsError, NonFiniteLoss, CheckpointError, OSError,
    ValueError,
)  # fmt: skip
# A log file has no width of its own; the table of results needs this much.
console = Console(highlight=False, width=None if sys.stdout.isatty() else 120)


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
    """Reads the cohort, or makes the phantom, and cuts it into slices; once for all processes."""
    if not parallel.is_main():
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
    if parallel.is_main():
        multihost_utils.sync_global_devices("prepared")
    return prepared


def describe_data(prepared: slices.Slices) -> dict[str, dict]:
    """Patients, images and slices of each split, for the run card and `data.json`."""
    description = {}
    for split in ("train", "validation", "test"):
        cases = [case for case in prepared.cases if case.split == split]
        index = prepared.index(split)
        description[split] = {
            "patients": sorted({case.patient for case in cases}),
            "images": sum(len(case.images) for case in cases),
            "slices": len(index),
            "tumour_slices": int(index["tumour"].sum()),
        }
    return description


def run_card(
    config: Config, workdir: Path, data: dict[str, dict], state: train.TrainState, steps: int
) -> list[tuple[str, str]]:
    """Says what is about to happen: data, model, critic, devices, steps, files."""

    def count(tree) -> str:
        return f"{sum(x.size for x in jax.tree.leaves(tree)):,}"

    splits = "; ".join(
        f"{name} {len(split['patients'])} patients, {split['slices']:,} slices "
        f"({split['tumour_slices']:,} with tumour)"
        for name, split in data.items()
    )
    critic = "none: no stage is constrained"
    if state.critic is not None:
        stages = ", ".join(map(str, config.loss.stages))
        critic = (
            f"{config.critic.name}, weights {config.critic.weights}, {config.critic.update}; "
            f"stages {stages}; {count(state.critic)} numbers"
        )
    devices = jax.devices()
    return [
        ("experiment", f"{config.name}, {config.method}, {config.scale} scale, "
                       f"seed {config.train.seed}, crlm_jax {__version__}"),
        ("data", f"{config.data.cohort}: {', '.join(config.data.conditions)}"),
        ("split", splits),
        ("segmenter", f"{config.segmenter.name}, widths {config.segmenter.widths}; "
                      f"{count(state.params)} parameters"),
        ("critic", critic),
        ("devices", f"{len(devices)} × {devices[0].device_kind}, "
                    f"{jax.process_count()} process(es), {config.train.precision}"),
        ("training", f"{steps:,} steps of {config.train.batch_size} slices at "
                     f"{config.data.image_size} × {config.data.image_size}; "
                     f"{'Adam' if config.optimizer.name == 'adam' else 'SGD'}, learning rate "
                     f"{config.optimizer.learning_rate:g}, {config.optimizer.schedule}"),
        ("files", f"{workdir}: config.json, data.json, train.jsonl, checkpoints/, cases.csv, "
                  "lesions.csv, results.json, views/, figures/, report.html"),
    ]  # fmt: skip


def show_card(config: Config, card: list[tuple[str, str]]) -> None:
    """Prints the run card."""
    grid = Table.grid(padding=(0, 2))
    for name, text in card:
        grid.add_row(f"[dim]{name}", text)
    console.print(Panel(grid, title="crlm_jax", title_align="left"))
    for warning in report.warnings(config):
        console.print(f"[bold yellow]{warning}")


def show_results(config: Config, summary: dict) -> None:
    """Prints the table of results."""
    phantom_mark = " (PHANTOM)" if summary["data"] == "phantom" else ""
    table = Table(
        title=f"test patients{phantom_mark}: mean (95 % CI)", title_justify="left", box=SIMPLE_HEAD
    )
    for name in report.HEADER:
        table.add_column(name)
    for row in report.result_rows(summary):
        table.add_row(*row)
    console.print(table)


def keep_records(config: Config, workdir: Path, data: dict[str, dict], digest: str) -> None:
    """Writes `config.json` and `data.json`, or checks that a run goes on with the same data.

    Raises:
      WorkdirError: the slices are not those that the run was started with.
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


def run(config: Config, workdir: Path) -> dict | None:
    """Runs one experiment to its report; returns the summary, None if it was finished before."""
    validate(config)
    if open_workdir(config, workdir):
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
    card = run_card(config, workdir, data, state, steps)
    if parallel.is_main():
        show_card(config, card)
    train.fit(config, prepared, workdir, mesh, networks, state)
    graph, variables, step = train.load_best(config, workdir, mesh)
    segment = evaluate.make_segment(graph, mesh, mirror=config.evaluation.mirror)
    attribute = None
    if config.evaluation.attribution_steps:
        attribute = attribution.make_attribute(
            graph, variables, config.evaluation.attribution_steps
        )
    measured = evaluate.evaluate_cases(
        config,
        prepared,
        segment,
        variables,
        mesh,
        views=workdir / "views" if parallel.is_main() else None,
        attribute=attribute,
    )
    summary = results.summarise(config, measured)
    if parallel.is_main():
        why = "the best on the validation patients"
        if not data["validation"]["tumour_slices"]:
            why = "the last: no validation patient has a tumour slice to choose by"
        card.append(("checkpoint", f"step {step}, {why}"))
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
        if _DISTRIBUTED.value:
            parallel.start(_COORDINATOR.value, _PROCESSES.value, _PROCESS.value)
        parallel.use_compile_cache(config.data.cache)
        run(config, Path(_WORKDIR.value or f"runs/{config.name}"))
    except preemption.Preempted as told:
        console.print(str(told))
        sys.exit(preemption.EXIT_CODE)
    except _USER_ERRORS as error:
        if logging.level_debug():
            raise
        sys.exit(f"error: {_root(error)}")


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
