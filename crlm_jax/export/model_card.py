"""The model card of a run: what it is, what it was trained on, how it did, what it is not for.

After Mitchell et al., Model Cards for Model Reporting (FAT* 2019).
"""

from collections.abc import Iterator

from crlm_jax import __version__
from crlm_jax.config.notices import warnings
from crlm_jax.config.schema import Config
from crlm_jax.imaging.conditions import is_ct
from crlm_jax.measures.result_tables import CLINICAL_HEADER, HEADER, clinical_rows, result_rows
from crlm_jax.runs.finished import FinishedRun
from crlm_jax.system.text import to_markdown

_NOT_FOR = """\
- It is no medical device. No diagnosis, treatment or report may rest on it alone.
- Other scanners, sequences, field strengths and contrast phases than those of its training, other
  tumours, other organs, children: nothing is known.
- The results above hold for the test patients of one cohort. Measure it on your own patients first
  (`python -m crlm_jax.evaluate`)."""


def model_card(config: Config, run: FinishedRun, step: int) -> str:
    """Returns the card as Markdown.

    Args:
      config: of the run, without paths.
      run: with its results.
      step: of the checkpoint that is handed on.
    """
    return "\n\n".join(_parts(config, run, step)) + "\n"


def _parts(config: Config, run: FinishedRun, step: int) -> Iterator[str]:
    yield f"# {config.name}: {config.method}"
    yield from (f"**{warning}**" for warning in warnings(config))
    yield (
        "A network that marks colorectal liver metastases on "
        f"{', '.join(config.data.conditions)}. {config.segmenter.name}, widths "
        f"{', '.join(map(str, config.segmenter.widths))}, slices of {config.data.image_size} × "
        f"{config.data.image_size} pixels{_images(config)}, checkpoint of step {step:,}, threshold "
        f"{config.evaluation.threshold:g}{_removed(config)}; crlm_jax {__version__}."
    )
    yield "## Data"
    names = ("patients", "slices", "of them with tumour")
    yield to_markdown(
        ("split", *names),
        [
            (name, str(len(own["patients"])), f"{own['slices']:,}", f"{own['tumour_slices']:,}")
            for name, own in run.splits.items()
        ],
    )
    yield f"Seed of the split {config.data.split_seed}, of the training {config.train.seed}. "\
        + f"{_window(config)} The prints of the images in `data.json` show whether an image was "\
        "among them; names of patients are withheld."  # fmt: skip
    yield "## Results on the test patients"
    yield (
        "Means with 95 % intervals over the patients, for this one training: how much other "
        "trainings would differ is not in them."
    )
    yield to_markdown(HEADER, result_rows(run.summary))
    yield to_markdown(CLINICAL_HEADER, clinical_rows(run.summary))
    yield (
        "Paper's protocol: slices with tumour alone, at the network's size. Clinical: whole scans, "
        "at their own resolution. A `*` marks fewer than 20 patients."
    )
    yield f"## What it is not for\n\n{_NOT_FOR}"


def _removed(config: Config) -> str:
    least, parts = config.evaluation.min_lesion_mm3, []
    if least:
        parts.append(f"lesions below {least:g} mm³")
    if config.evaluation.liver == "column":
        parts.append("what lies outside a mask of the liver, where one is given")
    return f"; removed are {' and '.join(parts)}" * bool(parts)


def _images(config: Config) -> str:
    if config.data.channels:
        return f", each of {' and '.join(config.data.channels)} together"
    return ", each with the slices below and above" if config.data.context else ""


def _window(config: Config) -> str:
    kinds = {is_ct(condition) for condition in config.data.conditions}
    parts = []
    if True in kinds:
        low, high = config.data.ct_window
        parts.append(f"CT is shown from {low:g} to {high:g} HU.")
    if False in kinds:
        parts.append(f"MRI has the window `{config.data.mr_window}`.")
    return " ".join(parts)
