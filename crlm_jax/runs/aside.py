"""A finished run that goes on keeps what it had found until then."""

from pathlib import Path

from crlm_jax.runs.folder import RunFolder
from crlm_jax.runs.log import read_log


def set_aside(folder: RunFolder) -> Path | None:
    """Moves the results of a finished run into its folder `until_STEP`; None if it is not finished.

    The report goes first, so that a run that is killed on the way is not taken for finished.
    Checkpoints, log and the viewer's files stay.
    """
    if not folder.finished:
        return None
    step = max((line["step"] for line in read_log(folder.log)), default=0)
    aside = folder.path / f"until_{step}"
    aside.mkdir(exist_ok=True)
    for path in (
        folder.report, folder.results, folder.cases, folder.lesions, folder.responses,
        folder.registrations, folder.figures, folder.calibration, folder.froc, folder.threshold,
    ):  # fmt: skip
        if path.is_dir():
            (aside / path.name).mkdir(exist_ok=True)
            for file in path.iterdir():
                file.replace(aside / path.name / file.name)
        elif path.exists():
            path.replace(aside / path.name)
    return aside
