"""The images of one patient that a run sees together: named one by one, or in a cohort file."""

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path

from crlm_jax.data.cohort.channels import incomplete
from crlm_jax.errors import UserError
from crlm_jax.imaging.bvals import find_bvals
from crlm_jax.imaging.dicom.files import is_dicom
from crlm_jax.imaging.geometry import VolumeError
from crlm_jax.predict.scans import Scan, find_scans, list_scans
from crlm_jax.system.text import listed


def is_cohort(images: Sequence[Path]) -> bool:
    """Whether the scans are those of a cohort file."""
    return len(images) == 1 and images[0].name.lower().endswith(".csv")


def find_named(
    images: Sequence[Path],
    *,
    series: str | None = None,
    b_value: float | None = None,
    warn: Callable[[str], object] = lambda text: None,
) -> list[Scan]:
    """Lists the scans of `--image`: those that one path stands for, or one of several images.

    Args:
      images: one path, as for `find_scans`; or several, each of one scan, in the order of
        `data.channels`.
      series: as for `find_scans`; with one path alone.
      b_value: s/mm²; of several images it is for those that may have b-values.
      warn: as for `find_scans`.

    Raises:
      VolumeError: one of several paths is not one scan.
      UserError: `series` with several images.
    """
    if len(images) == 1:
        return find_scans(images[0], series=series, b_value=b_value, warn=warn)
    if series is not None:
        raise UserError(
            "--series: chooses out of one folder, but several images are given; give the folder or "
            "a file of each series"
        )
    found = []
    for path in images:
        weighted = is_dicom(path) or find_bvals(path) is not None
        scans = find_scans(path, b_value=b_value if weighted else None, warn=warn)
        if len(scans) != 1 or is_cohort([path]):
            listed = "\n".join(list_scans(scans))
            raise VolumeError(
                f"{path}: {len(scans)} scans; each of several images has to be one scan:\n{listed}"
            )
        found += scans
    return [dataclasses.replace(found[0], others=tuple(found[1:]))]


def join_patients(
    source: Path,
    scans: Sequence[Scan],
    channels: Sequence[str],
    warn: Callable[[str], object] = lambda text: None,
) -> list[Scan]:
    """Puts the scans of a cohort file together that a run sees together, by patient.

    Args:
      source: the file, for messages.
      scans: one a row.
      channels: their conditions in order, as `data.channels`. Rows with others are left out.
      warn: called with a line about the patients who have rows with others alone.

    Raises:
      UserError: naming every patient who lacks a condition, or has several scans of it.
    """
    patients: dict[str, dict[str, list[Scan]]] = {}
    for scan in scans:
        if scan.condition is not None and scan.condition in channels:
            own = patients.setdefault(scan.patient, {name: [] for name in channels})
            own[scan.condition].append(scan)
    problems = incomplete(
        source,
        {
            patient: {name: [str(scan.path) for scan in found] for name, found in own.items()}
            for patient, own in patients.items()
        },
        channels,
    )
    if not patients:
        problems = [f"{source}: has no row with {', '.join(channels)}, which the run sees"]
    if problems:
        raise UserError("\n".join(problems))
    if without := sorted({scan.patient for scan in scans} - set(patients)):
        warn(
            f"{source}: left out {len(without)} patient(s) without {', '.join(channels)}, which "
            f"the run sees: {listed(without, 8)}"
        )
    rest = [scan for scan in scans if scan.condition not in channels]
    kept = tuple(path for scan in rest for path in (scan.path, *scan.kept, *scan.liver))
    return [
        dataclasses.replace(
            scan, others=tuple(own[name][0] for name in channels[1:]), kept=scan.kept + kept
        )
        for own in patients.values()
        for scan in own[channels[0]]
    ]
