"""The command that evaluates a run on another cohort, and masks of any tool.

python -m crlm_jax.evaluate --run runs/ct --cohort other.csv --out other_hospital
python -m crlm_jax.evaluate --masks 'nnunet/{patient}_{condition}.nii.gz' --cohort cohort.csv \
    --out nnunet_results
"""

import argparse
import dataclasses
import re
from collections.abc import Sequence
from pathlib import Path

from crlm_jax.config.schema import Config, Data
from crlm_jax.data.cohort.cells import parse_label, patient_problem
from crlm_jax.errors import UserError
from crlm_jax.evaluate.evaluating import check_out, evaluate_systems
from crlm_jax.evaluate.masks import check_pattern
from crlm_jax.evaluate.patients import (
    PHANTOM,
    TestCohort,
    Wish,
    choose_conditions,
    read_test_cohort,
)
from crlm_jax.evaluate.rules import OPTIONS, add_rules, read_rules
from crlm_jax.evaluate.systems import Options, System, check_run, of_masks, of_run
from crlm_jax.predict.arguments import check_rules
from crlm_jax.runs.folder import RunFolder
from crlm_jax.runs.taught import read_taught
from crlm_jax.system import parallel
from crlm_jax.system.console import UsageError, console, local_path, print_stderr
from crlm_jax.system.files import locate, own_names
from crlm_jax.training.card import show_results

Told = tuple[str, str, str]  # "run" or "masks", name, folder or pattern


def _run(text: str) -> Told:
    return "run", locate(text).resolve().name, text


def _masks(text: str) -> Told:
    named = re.fullmatch(r"([\w.-]+)=(.+)", text)
    if named:
        return "masks", named[1], named[2]
    folders = [part for part in Path(text).parts[:-1] if re.fullmatch(r"\w[\w .-]*", part)]
    return "masks", folders[-1] if folders else "masks", text


def _make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m crlm_jax.evaluate",
        description="Evaluate a run on another cohort, or masks of any tool, with the tables and "
        "the report of a run. --run and --masks may be given several times; the first is what the "
        "others are compared with, patient by patient.",
    )
    add = parser.add_argument
    add("--run", dest="systems", action="append", type=_run, metavar="RUN",
        help="folder of a run, such as runs/ct, or of runs whose mean is evaluated")  # fmt: skip
    add(
        "--masks",
        dest="systems",
        action="append",
        type=_masks,
        metavar="[NAME=]PATTERN",
        help="masks, such as 'masks/{patient}_{condition}.nii.gz'; also {image}, the name of the "
        "image file, and {name}, as predict names its masks",
    )
    add("--cohort", help="cohort.csv to test, or phantom (default: the run's own)")
    add("--out", type=local_path, required=True, help="folder: new, or empty")
    add("--split", choices=("all", "test"), default="all",
        help="test: only patients whom the run itself tests (default: every patient)")  # fmt: skip
    add(
        "--allow-training-patients",
        action="store_true",
        help="evaluate patients whom the run has learned from too; the report warns of it",
    )
    add(
        "--prefix",
        default="",
        metavar="TEXT",
        help="put before every patient's name, where another hospital has the same names",
    )
    add("--condition", action="append", default=[], metavar="NAME",
        help="evaluate this condition; may be given several times (default: those of the run, or "
        "all)")  # fmt: skip
    add(
        "--label",
        help="what is tumour in --masks: a label, several joined by commas, 'lesions', or a "
        "pattern of segments' names (default: the only label)",
    )
    add("--resample-masks", action="store_true", help="take masks on another grid, resampled")
    add("--register", action="store_true",
        help="align images before and after chemotherapy, so that lesions are paired")  # fmt: skip
    add_rules(add)
    add("--cache", default=Data.cache, help="folder of prepared slices (default: %(default)s)")
    return parser


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """Parses the command line; a usage error ends the program."""
    parser = _make_parser()
    args = parser.parse_args(argv)
    told: list[Told] = args.systems or []
    kinds = {kind for kind, _, _ in told}
    if not told:
        parser.error("give --run or --masks")
    if args.split == "test" and "run" not in kinds:
        parser.error("--split test: takes a run's own test patients; give --run")
    if args.split == "test" and args.prefix:
        parser.error("--split test and --prefix: give one; patients of the run have no prefix")
    if args.cohort is None and "run" not in kinds:
        parser.error("--masks: give the --cohort that the masks are of")
    if problem := args.prefix and patient_problem(args.prefix):
        parser.error(f"--prefix: {problem}")
    check_rules(parser, args)
    if "run" not in kinds and (rules := read_rules(args)):
        parser.error(f"{OPTIONS[next(iter(rules))]}: is of --run; masks are taken as they are")
    if args.label is not None and "masks" not in kinds:
        parser.error("--label: is of --masks; the cohort's own is in its column mask_label")
    return args


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line; returns the exit code."""
    args = _parse(argv)
    check_out(args.out)
    told: list[Told] = args.systems
    rules = read_rules(args)
    configs = {
        text: check_run(locate(text), rules)[0][0] for kind, _, text in told if kind == "run"
    }
    label = _label(args.label, [text for kind, _, text in told if kind == "masks"])
    first = next(iter(configs.values()), None)
    _use_threads(list(configs.values()))
    parallel.use_compile_cache(args.cache)
    name = args.cohort or _own_cohort(first)
    cohort = read_test_cohort(name, args.prefix, args.cache, first.phantom if first else None)
    for doubt in cohort.doubts:
        _warn(doubt)
    wish = Wish(tuple(args.condition), args.split, args.allow_training_patients, args.prefix)
    options = Options(args.cache, args.resample_masks, args.register, rules)
    systems = _make(told, configs, cohort, wish, options, label)
    for system in systems:
        for note in (*system.evaluation.notes, *system.doubts):
            _warn(f"{system.name}: {note}" if len(systems) > 1 else note)
    summaries = evaluate_systems(systems, args.out)
    for system, summary in zip(systems, summaries, strict=True):
        if len(systems) > 1:
            console.print(f"\n{system.name}")
        show_results(summary)
    console.print(f"report: {RunFolder(args.out).report}")
    return 0


def _make(
    told: Sequence[Told], configs: dict[str, Config], cohort: TestCohort, wish: Wish,
    options: Options, label: int | str | None,
) -> list[System]:  # fmt: skip
    """Makes all systems; those of masks take the conditions and the patients of the runs."""
    of_masks_wish, like = wish, next(iter(configs.values()), None)
    if configs and not wish.conditions:
        taken = [
            choose_conditions(cohort, (), config, locate(text))[0]
            for text, config in configs.items()
        ]
        of_masks_wish = dataclasses.replace(
            wish, conditions=tuple(dict.fromkeys(name for each in taken for name in each))
        )
    tested = None
    if wish.split == "test":
        tested = frozenset().union(*(read_taught(locate(text)).test for text in configs))
    systems = []
    names = own_names(name for _, name, _ in told)
    for (kind, _, text), name in zip(told, names, strict=True):
        if kind == "run":
            systems.append(of_run(locate(text), name, cohort, wish, options))
        else:
            chosen = cohort.only(tested) if tested is not None else cohort
            systems.append(
                of_masks(text, name, chosen, of_masks_wish, options, label=label, like=like)
            )
    return systems


def _own_cohort(config: Config | None) -> str:
    """Returns the cohort that a run was trained on, if it is still there."""
    assert config is not None  # `_parse` asks for a cohort where there is no run
    name = config.data.cohort
    if name != PHANTOM and not Path(name).expanduser().exists():
        raise UserError(f"{name}: the run's own cohort is not there; say where it is by --cohort")
    return name


def _label(text: str | None, patterns: Sequence[str]) -> int | str | None:
    for pattern in patterns:
        check_pattern(pattern)
    try:
        return None if text is None else parse_label(text, patterns)
    except ValueError as error:
        raise UsageError(f"--label: {error}") from error


def _use_threads(configs: Sequence[Config]) -> None:
    """Computes with as many threads as the first run was trained with: results depend on them."""
    counts = list(dict.fromkeys(config.system.threads for config in configs))
    if counts:
        parallel.use_threads(counts[0])
    if len(counts) > 1:
        _warn(
            f"the runs were trained on {', '.join(map(str, counts))} threads; all are evaluated on "
            f"{counts[0]}, so that the others' numbers may differ from their own in the last digits"
        )


def _warn(text: str) -> None:
    print_stderr(f"warning: {text}")
