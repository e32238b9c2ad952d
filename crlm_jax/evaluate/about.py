"""What the card, `evaluation.json` and the report say of an evaluation."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Literal

from crlm_jax.config.schema import Config
from crlm_jax.data.cohort.cases import Case
from crlm_jax.data.slices import Slices
from crlm_jax.evaluate.patients import PHANTOM, TestCohort, Wish
from crlm_jax.imaging.conditions import is_ct
from crlm_jax.predict.scans import Scan, unknown_conditions
from crlm_jax.runs.evaluation import Evaluation
from crlm_jax.runs.results import Card
from crlm_jax.training.card import describe_mask, describe_small_lesions


def unlike_ones(texts: Iterable[str]) -> list[str]:
    """Returns texts in their order, each once."""
    return list(dict.fromkeys(texts))


def unlike(conditions: Sequence[str], trained: Sequence[str]) -> list[str]:
    """Returns a note for each condition that a run was not trained on."""
    scans = [Scan(Path(), "", condition=name) for name in conditions]
    other = {is_ct(name) for name in trained}
    windowed = [
        f"condition {name} is windowed as {'CT' if is_ct(name) else 'MRI'}, but the run was "
        f"trained on {', '.join(trained)}"
        for name in conditions
        if is_ct(name) not in other
    ]
    return [f"{note}." for note in unknown_conditions(scans, trained) + windowed]


def record(
    of: Literal["run", "masks"], source: object, name: str, about: str, cohort: TestCohort,
    wish: Wish, notes: Sequence[str],
) -> Evaluation:  # fmt: skip
    """Returns what `evaluation.json` says.

    Args:
      of: what is measured.
      source: folder of the run, or pattern of the masks.
      name: of the system.
      about: what stands beside the title.
      cohort: that is tested.
      wish: whom to evaluate.
      notes: what a reader must know before any number.
    """
    notes = list(notes)
    if cohort.phantom and cohort.name != PHANTOM:
        notes.append(
            f"{cohort.phantom.strip(' ()')}: the images are digital, not of patients; no number "
            "here holds for patients."
        )
    return Evaluation(
        of=of,
        source=str(source),
        title=f"{name} on {'/'.join(Path(cohort.name).parts[-2:])}",
        about=about,
        cohort=cohort.name,
        split=wish.split,
        prefix=wish.prefix,
        phantom=bool(cohort.phantom),
        notes=tuple(notes),
    )


def about_data(
    cohort: TestCohort,
    config: Config,
    cases: Sequence[Case],
    slices: Slices,
    wish: Wish,
    *,
    network: bool,
) -> Card:
    """Returns the lines of the card about images and patients.

    Args:
      cohort: that is tested.
      config: of the measuring.
      cases: of the cohort that were chosen.
      slices: of the cases.
      wish: whom to evaluate.
      network: whether a network makes the masks; False: they were there.
    """
    index = slices.index("test")
    patients, every = ({case.patient for case in each} for each in (cases, cohort.cases))
    whom = "the run's own test patients" if wish.split == "test" else "every patient"
    left_out = [name for name in cohort.conditions if name not in config.data.conditions]
    without = f"; not evaluated: {', '.join(left_out)}" * bool(left_out)
    renamed = f"; {wish.prefix} stands before their names" * bool(wish.prefix)
    return [
        ("data", f"{cohort.name}{cohort.phantom}: {', '.join(config.data.conditions)}{without}"),
        ("patients", f"{whom}{renamed}: {len(patients)} of {len(every)}, {len(index):,} slices "
                     f"({int(index['tumour'].sum()):,} with tumour)"),
        *describe_small_lesions(config, slices),
        *(describe_mask(config, cases) if network else ()),
    ]  # fmt: skip
