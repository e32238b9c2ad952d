"""Response to chemotherapy by RECIST 1.1, from the lesions of two masks.

    python -m crlm_jax.recist --pre pre_mask.nii.gz --post post_mask.nii.gz
    python -m crlm_jax.recist --pre pre.dcm --pre-image dicom/pre --post post.dcm \\
        --post-image dicom/post --out response.json

Rules and section numbers are those of Eisenhauer et al., "New response evaluation criteria in solid
tumours: revised RECIST guideline (version 1.1)", Eur J Cancer 45:228, 2009, for the liver alone:

- Measurable (3.1): longest diameter ≥ 10 mm and ≥ 2 × slice spacing. RECIST asks twice the slice
  thickness beyond 5 mm; up to 5 mm both are the same rule. Slice spacing is what an image states.
- Targets (4.2): the two largest measurable lesions at baseline, the most that an organ may have.
- Their sum at follow-up (4.3.2): what is measured, however small; 0 for one that vanished; where
  one split, its fragments together; where two merged, the one that they became.
- CR: no lesion is left, target or not. PD: the sum is ≥ 20 % and ≥ 5 mm larger, or there is a new
  lesion. PR: the sum is ≥ 30 % smaller; also −100 % while a non-target lesion is left (4.4, table
  1). SD: else. NE: nothing was measurable at baseline, whatever is new since. With two time points
  the baseline is the smallest sum before the follow-up.

What takes a reader is left to one: whether a new lesion is unequivocal (any counts here), whether
non-target lesions unequivocally progress (never counted here), and disease outside the masks.
"""

import dataclasses
import math

import numpy as np

from crlm_jax.imaging.geometry import Geometry
from crlm_jax.imaging.lesions import Lesion, label_lesions, measure_lesions
from crlm_jax.recist import matching

CATEGORIES = ("CR", "PR", "SD", "PD")  # and "NE", not evaluable
MEASURABLE = 10.0  # mm
SLICES = 2  # spacings of slices that a measurable lesion is long
TARGETS = 2  # at most, in one organ
SMALLER, LARGER, LARGER_BY = 0.30, 0.20, 5.0  # PR; PD: both the share and the mm
TOLERANCE = 1e-4  # mm by which a limit may be missed; float32 spacings are off by 1e-7 of a length
DISCLAIMER = "A measurement on masks, not a diagnosis; crlm_jax is not a medical device."


@dataclasses.dataclass(frozen=True)
class TimePoint:
    """The lesions of a patient's liver in one scan; `slice_spacing` in mm."""

    lesions: tuple[Lesion, ...]
    slice_spacing: float

    @property
    def patient_volume(self) -> float:
        """Volume of all lesions together, in mm³."""
        return math.fsum(lesion.volume for lesion in self.lesions)


@dataclasses.dataclass(frozen=True)
class Response:
    """How a follow-up compares with its baseline. Lesions are indices into their time point's.

    Sums are in mm, volumes (of all lesions) in mm³, and % are of the baseline, None where it is 0.
    """

    category: str  # of CATEGORIES, or "NE"
    baseline_sum: float
    follow_up_sum: float
    change_mm: float
    change_percent: float | None
    volume_baseline: float
    volume_follow_up: float
    volume_change_percent: float | None
    paired: str  # "by position" or "sums only"
    targets: tuple[int, ...]  # at baseline
    counted: tuple[int, ...]  # at follow-up: the lesions that make up its sum
    pairs: tuple[tuple[int, int], ...]  # (baseline, follow-up), one to one
    fragments: tuple[tuple[int, int], ...]  # more follow-up lesions of a paired baseline lesion
    new: tuple[int, ...]  # at follow-up; always empty for "sums only", which cannot tell
    notes: tuple[str, ...]  # what a reader should know; they number lesions from 1


def time_point(mask: np.ndarray, geometry: Geometry) -> TimePoint:
    """Measures the lesions of a mask, bool (Z, H, W), on the grid of `geometry` (mm)."""
    if mask.shape != geometry.axial_size:
        raise ValueError(f"a mask of {mask.shape} on a grid of {geometry.axial_size} voxels")
    labels, _ = label_lesions(mask)
    return TimePoint(tuple(measure_lesions(labels, geometry)), geometry.axial_spacing[0])


def measurable(lesion: Lesion, slice_spacing: float) -> bool:
    """Is the diameter ≥ 10 mm and ≥ 2 × `slice_spacing` (mm), to `TOLERANCE`? RECIST 1.1, 3.1."""
    return lesion.diameter >= max(MEASURABLE, SLICES * slice_spacing) - TOLERANCE


def targets(point: TimePoint) -> list[int]:
    """Returns the indices of the two largest measurable lesions, largest first (RECIST 1.1, 4.2).

    That they can be measured again and again, which it asks as well, is for a reader to judge.
    """
    largest = by_size(point)
    return [i for i in largest if measurable(point.lesions[i], point.slice_spacing)][:TARGETS]


def sum_of_diameters(point: TimePoint) -> float:
    """Sum of the longest diameters of a time point's own targets, in mm (RECIST 1.1, 4.2)."""
    return _sum(point, targets(point))


def compare(baseline: TimePoint, follow_up: TimePoint, *, same_frame: bool) -> Response:
    """Says how the lesions responded between two time points: see the module's rules.

    With a shared frame, lesions are paired one to one by position, as `lesions.match` says.

    Without one, only sums are compared: the follow-up's is that of its largest lesions, of any
    size, as many as there were targets. Unless a target split, that is never less than what is
    left of the targets. New lesions cannot be told.

    Args:
      baseline: before chemotherapy.
      follow_up: after it.
      same_frame: whether both scans' patient coordinates are the same, as of one examination, or
        after registration.
    """
    chosen = targets(baseline)
    found = matching.Match((), (), (), ())
    if same_frame:
        found = matching.match(baseline.lesions, follow_up.lesions)
        same = found.pairs + found.fragments + found.merged
        counted = sorted({after for i, after in same if i in chosen})
        notes = _pairing_notes(found, baseline, follow_up)
    else:
        counted = by_size(follow_up)[: len(chosen)]
        notes = ["the scans share no frame: new lesions cannot be told from old ones"]
    before, after = _sum(baseline, chosen), _sum(follow_up, counted)
    by_sums = _category(before, after, lesions_left=bool(follow_up.lesions))
    category = "PD" if found.new and by_sums != "NE" else by_sums
    if not chosen:
        notes.append("no lesion is measurable at baseline: not evaluable by diameters")
    if found.new:
        sizes = [f"{i + 1} ({follow_up.lesions[i].diameter:.1f} mm)" for i in found.new]
        notes.append(
            f"new at follow-up: lesion {', '.join(sizes)}; by the sum alone, {by_sums}; see that "
            "it is unequivocal"
        )
    elif category == "PR" and not after:
        notes.append("all targets vanished, but a non-target lesion is left: PR, not CR")
    volumes_of = baseline.patient_volume, follow_up.patient_volume
    return Response(
        category, before, after, after - before, _percent(before, after),
        *volumes_of, _percent(*volumes_of), "by position" if same_frame else "sums only",
        tuple(chosen), tuple(counted), found.pairs, found.fragments, found.new, tuple(notes),
    )  # fmt: skip


def _category(before: float, after: float, *, lesions_left: bool) -> str:
    """The response by sums in mm; a limit is reached to within `TOLERANCE` (RECIST 1.1, 4.3.1)."""
    if not before:
        return "NE"
    if not lesions_left:
        return "CR"
    if after <= before * (1 - SMALLER) + TOLERANCE:
        return "PR"
    if after >= max(before * (1 + LARGER), before + LARGER_BY) - TOLERANCE:
        return "PD"
    return "SD"


def by_size(point: TimePoint) -> list[int]:
    """Indices of the lesions, the longest first; of equally long ones, the more voluminous."""
    sizes = [(-round(lesion.diameter, 4), -lesion.volume) for lesion in point.lesions]
    return sorted(range(len(sizes)), key=sizes.__getitem__)


def _sum(point: TimePoint, chosen: list[int]) -> float:
    return math.fsum(point.lesions[i].diameter for i in chosen)


def _percent(before: float, after: float) -> float | None:
    return 100 * (after - before) / before if before else None


def _pairing_notes(found: matching.Match, baseline: TimePoint, follow_up: TimePoint) -> list[str]:
    if baseline.lesions and follow_up.lesions and not found.pairs:
        return ["no lesion lies where one was: see that the scans truly share a frame"]
    split, merged = "lesion {} split, into lesion {} too", "lesion {} merged into lesion {}"
    said = [(split, *pair) for pair in found.fragments] + [(merged, *p) for p in found.merged]
    return [text.format(i + 1, j + 1) + " of the follow-up" for text, i, j in said]
