"""What a run prints on the console: its card before it starts, its results at the end."""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
from flax import nnx
from rich.box import SIMPLE_HEAD
from rich.panel import Panel
from rich.table import Table

from crlm_jax import __version__
from crlm_jax.config.length import tumour_steps
from crlm_jax.config.notices import is_phantom, scale_of, warnings, within_livers
from crlm_jax.config.schema import Config
from crlm_jax.config.selection import LABELS, metric_name
from crlm_jax.data.cohort.cases import SPLITS, Case
from crlm_jax.data.slices import Slices
from crlm_jax.measures.result_tables import HEADER, result_rows
from crlm_jax.measures.table import BY_NAME
from crlm_jax.method.attribution import TOLERANCE, error_text
from crlm_jax.method.step import TrainState
from crlm_jax.runs.folder import RunFolder
from crlm_jax.runs.log import SHARES
from crlm_jax.runs.results import Summary
from crlm_jax.system import parallel
from crlm_jax.system.console import console, print_stderr


def describe_run(
    config: Config,
    folder: RunFolder,
    data: Mapping[str, Mapping[str, Any]],
    state: TrainState,
    steps: int,
    planned: int,
) -> list[tuple[str, str]]:
    """Returns the lines of the run card, as pairs (name, text).

    Args:
      config: the experiment.
      folder: of the run.
      data: patients and slices by split, from `describe_data`.
      state: before the training.
      steps: of the whole training.
      planned: by which its course is planned, from `lengths`.
    """

    def count(tree: nnx.State) -> str:
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
    devices, warmup = jax.devices(), config.optimizer.warmup
    tumour_alone = tumour_steps(config, planned)
    return [
        ("experiment", f"{config.name}, {config.method}, {scale_of(config)}, "
                       f"seed {config.train.seed}, crlm_jax {__version__}"),
        ("data", f"{_describe_cohort(config)}: {', '.join(config.data.conditions)}"),
        ("split", splits),
        ("segmenter", f"{config.segmenter.name}, widths {config.segmenter.widths}; "
                      f"{count(state.params)} parameters"),
        ("critic", critic),
        ("devices", f"{len(devices)} × {devices[0].device_kind}, "
                    f"{jax.process_count()} process(es), {parallel.threads()} threads, "
                    f"{config.train.precision}"),
        ("training", f"{steps:,} steps of {config.train.batch_size} slices at "
                     f"{config.data.image_size} × {config.data.image_size}"
                     f"{_describe_planes(config)}; "
                     f"{'Adam' if config.optimizer.name == 'adam' else 'SGD'}, learning rate "
                     f"{config.optimizer.learning_rate:g}, {config.optimizer.schedule}"
                     + f" after a warm-up of {warmup:.0%}" * bool(warmup)
                     + f"; up to step {tumour_alone:,} on slices with tumour alone"
                     * bool(tumour_alone)),
        ("files", f"{folder.path}: {folder.listing()}"),
    ]  # fmt: skip


def _describe_planes(config: Config) -> str:
    if config.data.channels:
        return f", {', '.join(config.data.channels)} together"
    return ", with the slices below and above" if config.data.context else ""


def _describe_cohort(config: Config) -> str:
    if is_phantom(config):
        return f"phantom, version {config.phantom.version}, seed {config.phantom.seed}"
    return config.data.cohort


def describe_split(cases: Sequence[Case], config: Config) -> str:
    """Says where test and validation patients come from."""
    data, column = config.data, "as the cohort's column split says"
    tested = column
    if any(case.drawn for case in cases if case.split == "test"):
        number = f"{data.test_patients or f'{data.test_fraction:.0%}'} of the patients, drawn"
        if data.fold:
            number = f"fold {data.fold} of the patients"
        tested = f"{number} (seed {data.split_seed})"
    validation = [case for case in cases if case.split == "validation"]
    validated = column
    if config.train.refit:
        validated = (
            "nobody; those who validated in "
            f"{config.train.refit} are trained on, for as many steps as they chose there"
        )
    elif not validation:
        validated = "nobody"
    elif any(case.drawn for case in validation):
        validated = f"{data.validation_fraction:.0%} of the training patients, taken out of them"
    return f"test: {tested}; validation: {validated}"


def describe_choice(config: Config, log: Sequence[Mapping[str, Any]]) -> str:
    """Says why the checkpoint that is tested was chosen; `log` are the lines of the log."""
    if config.train.refit:
        return f"the last: a refit of {config.train.refit} validates on nobody"
    name = metric_name(config)
    if not any(name in line for line in log):
        return "the last: no validation patient has a tumour slice to choose by"
    return f"the best on the validation patients: mean DSC of {LABELS[name]}"


def describe_early_end(
    config: Config, log: Sequence[Mapping[str, Any]], steps: int
) -> list[tuple[str, str]]:
    """Returns the card's line of a training that `train.patience` ended before its steps."""
    last = max(line["step"] for line in log)
    if last >= steps:
        return []
    text = f"at step {last:,} of {steps:,}: no better validation DSC in {config.train.patience}"
    return [("ended early", f"{text} validations in a row")]


def describe_mask(config: Config, cases: Sequence[Case]) -> list[tuple[str, str]]:
    """Returns the card's line of what is removed from the masks of the test cases; none: nothing.

    Args:
      config: of the measuring.
      cases: of the cohort.
    """
    evaluation, said = config.evaluation, []
    if evaluation.min_lesion_mm3:
        said.append(f"lesions below {evaluation.min_lesion_mm3:g} mm³ are removed")
    if evaluation.liver == "column":
        tested = [pair for case in cases if case.split == "test" for pair in case.images]
        there = sum(bool(pair.liver) for pair in tested)
        said.append(within_livers(there, len(tested), "test image"))
    return [("masks", "; ".join(said))] if said else []


def describe_small_lesions(config: Config, slices: Slices) -> list[tuple[str, str]]:
    """Returns the card's line about lesions that are smaller than a pixel; none if all are larger.

    A lesion counts once in each slice.
    """
    found = []
    for split in SPLITS:
        too_small = slices.index(split)["too_small"]
        if lesions := int(too_small.sum()):
            found.append(f"{split} {lesions:,} in {np.count_nonzero(too_small):,} slices")
    if not found:
        return []
    fate = "lost, and counted as missed in a slice without another"
    if config.data.antialias:
        fate = "one pixel each"
    return [("small lesions", f"below a pixel of the network, {fate}: {'; '.join(found)}")]


def doubt_of_repetition(config: Config, data: Mapping[str, Any], planned: int) -> list[str]:
    """Says if a batch shows slices more than once, since too few are trained on.

    Args:
      config: the experiment.
      data: of the training split, from `describe_data`.
      planned: updates by which the training's course is planned, from `lengths`.
    """
    train = config.train
    kept = train.batch_size - round(train.batch_size * (1 - train.foreground))
    first = train.batch_size if tumour_steps(config, planned) else 0
    slices, tumour = (data["slices"], "slices"), (data["tumour_slices"], "slices with tumour")
    for name, places, (there, what) in (
        ("batch_size", train.batch_size, slices),
        ("tumour_first", first, tumour),
        ("foreground", kept, tumour),
    ):
        if places > there:
            return [
                f"train.{name} = {getattr(train, name):g} gives {places} places of a batch to "
                f"{what}, and only {there} are trained on: a batch shows some of them more than "
                "once, and the network may learn them by heart"
            ]
    return []


def describe_terms(log: Sequence[Mapping[str, Any]]) -> list[tuple[str, str]]:
    """Returns the card's lines of what each term brings to loss and gradient, first and last.

    `log` are the lines of the training log.
    """
    found = [line for line in log if SHARES[0] in line]
    lines = []
    for line in found[:1] + found[1:][-1:]:
        loss, gradient = (
            ", ".join(f"{name} {share:.0%}" for name, share in line[key].items()) for key in SHARES
        )
        lines.append((f"terms, step {line['step']}", f"loss: {loss}; gradient's norm: {gradient}"))
    return lines


def describe_attributions(errors: Sequence[float]) -> list[tuple[str, str]]:
    """Returns the card's line of how far the viewer's attributions add up; none if there are none.

    Those that fall short are warned of too.

    Args:
      errors: of completeness, one for each map.
    """
    if not errors:
        return []
    short = sum(error > TOLERANCE for error in errors)
    text = (
        f"{len(errors) - short} of {len(errors)} maps sum to their score less the baseline's "
        f"within {error_text(TOLERANCE)}; greatest completeness error {error_text(max(errors))}"
    )
    if short:
        print_stderr(
            f"warning: attribution: {text}; the viewer marks the others NOT COMPLETE, and more "
            "evaluation.attribution_steps may mend them"
        )
    return [("attribution", text)]


def show_card(config: Config, card: list[tuple[str, str]]) -> None:
    """Prints the run card."""
    grid = Table.grid(padding=(0, 2))
    for name, text in card:
        grid.add_row(f"[dim]{name}", text)
    console.print(Panel(grid, title="crlm_jax", title_align="left"))
    for warning in warnings(config):
        console.print(f"[bold yellow]{warning}")


def show_results(summary: Summary) -> None:
    """Prints the table of results, without F1, which would make it too wide."""
    phantom_mark = " (PHANTOM)" if summary.data == "phantom" else ""
    table = Table(
        title=f"test patients{phantom_mark}: mean (95 % CI)", title_justify="left", box=SIMPLE_HEAD
    )
    shown = [i for i, name in enumerate(HEADER) if name != BY_NAME["f1"].header]
    for i in shown:
        table.add_column(HEADER[i])
    for row in result_rows(summary):
        table.add_row(*(row[i] for i in shown))
    console.print(table)
    console.print(
        "paper: slices with tumour, pooled, or their mean (slices); clinical: whole volumes. "
        "F1 of a case or slice equals DSC."
    )
