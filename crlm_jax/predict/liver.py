"""The liver of a scan, outside which nothing is marked: a mask, or what another run segments.

`--liver` names a file, a run that was trained for the liver, or says whether the masks of the
cohort's column `liver` count; without it the run says so (`evaluation.liver`).
"""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np

from crlm_jax.config.notices import within_livers
from crlm_jax.data.cohort.reference import read_liver
from crlm_jax.errors import UserError
from crlm_jax.imaging.decision import grow, largest_part, outside_of
from crlm_jax.imaging.volumes import Volume
from crlm_jax.predict.engine.choice import Asked
from crlm_jax.predict.scans import Scan, other_modality
from crlm_jax.predict.segmenter import ScanSegmenter, load
from crlm_jax.runs.folder import RunFolder
from crlm_jax.system.files import locate

if TYPE_CHECKING:
    import jax

# mm, by which the liver that a run has segmented is grown: its border cuts off lesions at the
# surface, and misses some that are as dark as what lies beside the liver.
MARGIN = 5.0
_COLUMN, _NONE = "column", "none"


@dataclasses.dataclass(frozen=True)
class LiverOf:
    """A run that segments the liver of each scan first."""

    segmenter: ScanSegmenter
    run: str  # as it was named
    found: list[bool] = dataclasses.field(default_factory=list)  # whether, scan by scan

    def slices(self, volume: Volume, condition: str) -> np.ndarray:
        """Returns the slices of a scan as the run sees them, (Z, S, S, C) uint8."""
        return self.segmenter.look([volume], condition).slices

    def find(self, slices: np.ndarray, volume: Volume) -> np.ndarray | None:
        """Returns where no lesion can be, (Z, H, W) bool: outside the largest part, and `MARGIN`.

        None if no liver is found.

        Args:
          slices: from `slices`.
          volume: the scan; its voxels are not read.
        """
        segmenter = self.segmenter
        probability = segmenter.probability(slices)
        mask = segmenter.rule.decide(probability, volume.geometry, volume.padding)
        self.found.append(bool(mask.any()))
        if not self.found[-1]:
            return None
        liver = grow(largest_part(mask), MARGIN, volume.geometry)
        return outside_of(volume.padding, liver)

    def decides(self, lesions: ScanSegmenter) -> list[str]:
        """Returns what results say of the run beside their own, from which UIDs are derived."""
        own, engine = self.segmenter, self.segmenter.engine
        other = f" in {engine.name} {engine.precision}" * (str(engine) != str(lesions.engine))
        return [f"in liver by {own.fingerprint}{other}"]

    def doubt(self, condition: str) -> list[str]:
        """Says if a condition is of another modality than those of the run."""
        own = self.segmenter.config.data.conditions
        return other_modality(condition, own, "the liver's run")


@dataclasses.dataclass(frozen=True)
class Restriction:
    """How predictions are restricted to the liver.

    Args:
      scans: each with the files of its liver's mask, if that counts.
      run: segments the liver instead; None: no run does.
      asked: a line that says what is used.
    """

    scans: list[Scan]
    run: LiverOf | None
    asked: str

    @property
    def about(self) -> str:
        """Says what was used, once the scans are predicted."""
        if self.run is None:
            return self.asked
        found, scans = sum(self.run.found), len(self.run.found)
        if not found:
            return f"not restricted to the liver: {self.run.run} finds none"
        rest = "; in the others it finds no liver, and they are not restricted" * (found < scans)
        return f"{self.asked}: {found} of {scans} scans{rest}"


def decided_by(asked: str | None) -> Literal["none", "column"] | None:
    """Returns whether `--liver` says that the column counts; None: the run says so."""
    if asked is None:
        return None
    return "column" if asked == _COLUMN else "none"


def restrict(
    scans: Sequence[Scan],
    asked: str | None,
    segmenter: ScanSegmenter,
    *,
    engine: Asked = "auto",
    device: "jax.Device | None" = None,
) -> Restriction:
    """Decides which livers restrict the predictions.

    Args:
      scans: from `find_scans`, those of a cohort with the masks of its column.
      asked: the path of a mask, with `{name}` for several scans; of a run; "column", "none"; None:
        as the run of the segmenter says.
      segmenter: of the lesions.
      engine: what computes a run that segments the liver, as for `load`.
      device: to compute the run on; None: JAX's first.

    Raises:
      UserError: no mask and no run is there, one mask is given for several scans, or the liver's
        run sees several sequences together.
    """
    asked = segmenter.liver if asked is None else asked
    there = sum(bool(scan.liver) for scan in scans)
    if asked == _COLUMN:
        return Restriction([*scans], None, within_livers(there, len(scans), "scan"))
    without = [dataclasses.replace(scan, liver=()) for scan in scans]
    if asked == _NONE:
        unused = f" ({there} scans have a mask of it, which --liver column takes)" * bool(there)
        return Restriction(without, None, f"not restricted to the liver{unused}")
    path = locate(asked)
    if RunFolder(path).begun:
        run = LiverOf(load(path, tta=False, engine=engine, device=device), asked)
        if channels := run.segmenter.config.data.channels:
            raise UserError(
                f"--liver {asked}: that run sees {', '.join(channels)} of a patient together, and "
                "a run for the liver sees one image; give one trained without data.channels"
            )
        about = f"restricted to the liver that {asked} segments, and {MARGIN:g} mm around it"
        return Restriction(without, run, about)
    return Restriction(
        _with_files(without, asked), None, f"restricted to the liver mask of {asked}"
    )


def outside_by_run(
    scan: Scan, segmenter: ScanSegmenter, volume: Volume, *, resample: bool
) -> tuple[np.ndarray | None, list[str]]:
    """Returns where no lesion of a scan can be, (Z, H, W) bool or None: nowhere; and doubts.

    That is as the run of the segmenter says (`evaluation.liver`).

    Raises:
      VolumeError: the mask of the liver cannot be used.
    """
    found = restrict([scan], None, segmenter)
    paths, doubts = found.scans[0].liver, list[str]()
    if segmenter.liver == _COLUMN and not paths:
        doubts.append(f"{found.about}, although the run is by its evaluation.liver")
    inside = read_liver(paths, volume, resample=resample, doubts=doubts) if paths else None
    return outside_of(volume.padding, inside), doubts


def _with_files(scans: Sequence[Scan], asked: str) -> list[Scan]:
    if len(scans) > 1 and "{name}" not in asked:
        raise UserError(
            f"--liver {asked}: one mask for {len(scans)} scans; write {{name}} where the names of "
            "the scans stand, give a run, or a cohort.csv with the column liver"
        )
    found = []
    for scan in scans:
        path = Path(asked.replace("{name}", scan.name)).expanduser()
        if not path.is_file():
            raise UserError(
                f"--liver {path}: no mask and no run is there; give the file of a mask, the folder "
                f"of a run, '{_COLUMN}' or '{_NONE}'"
            )
        found.append(dataclasses.replace(scan, liver=(path,)))
    return found
