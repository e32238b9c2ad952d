"""The rules of RECIST 1.1: target lesions, their sums, and the response at each follow-up.

Rules and section numbers are those of Eisenhauer et al., "New response evaluation criteria in solid
tumours: revised RECIST guideline (version 1.1)", Eur J Cancer 45:228, 2009, for the liver alone:

- Measurable lesions (3.1): longest diameter ≥ 10 mm and ≥ 2 × slice thickness. RECIST asks for
  twice the slice thickness only beyond 5 mm; up to 5 mm both rules are the same. The slice spacing
  stands for a thickness that is not known, since most image formats do not state it.
- Target lesions (4.2): the two largest measurable lesions at baseline, the most that RECIST allows
  in one organ.
- Sum of the targets at follow-up (4.3.2): diameters as measured, however small, and 0 for a lesion
  that vanished. The fragments of a lesion that split count together. Lesions that merged count as
  the one lesion that they became.
- With targets (4.4, table 1): CR: no lesion is left, target or not. PD: the sum is ≥ 20 % and
  ≥ 5 mm larger than the smallest sum so far, which may be the baseline's, or there is a new lesion.
  PR: the sum is ≥ 30 % smaller than the baseline's; also −100 % while a non-target lesion is left.
  SD: none of these. PD comes before PR.
- With lesions at baseline, none of which is measurable (4.4, table 2): CR: no lesion is left. PD:
  there is a new lesion. Non-CR/non-PD: neither. There is no PR and no SD.
- Without any lesion at baseline: PD if there is one now, otherwise NE (not evaluable).
- A lesion after a complete response is PD, also where one was before (appendix with frequently
  asked questions: a lesion that disappears and reappears). After PR or SD a lesion that reappears
  in its old place only adds to the sum.

Three judgements are left to a reader: whether a new lesion is unequivocal (here any new lesion
counts), whether non-target lesions progress unequivocally (here that never counts), and disease
outside the masks.
"""

import dataclasses
import math
from collections.abc import Sequence

import numpy as np

from crlm_jax.imaging.geometry import Geometry
from crlm_jax.imaging.lesions import Lesion, label_lesions, measure_lesions
from crlm_jax.recist.matching import Match

TARGET_CATEGORIES = ("CR", "PR", "SD", "PD")  # with target lesions, from best to worst
NON_TARGET = "non-CR/non-PD"  # without them: lesions are left, and none is new
NOT_EVALUABLE = "NE"  # no lesion at all
CATEGORIES = ("CR", "PR", NON_TARGET, "SD", "PD", NOT_EVALUABLE)
# How lesions were paired: the scans share a frame; they were aligned; they were not.
PAIRED = BY_FRAME, BY_REGISTRATION, UNPAIRED = (
    "by position", "by position, registered", "sums only"
)  # fmt: skip
MEASURABLE = 10.0  # mm, the least diameter of a measurable lesion
SLICES = 2  # slice thicknesses, the least diameter of a measurable lesion
TARGETS = 2  # the most target lesions in one organ
SMALLER, LARGER, LARGER_BY = 0.30, 0.20, 5.0  # PR: share; PD: share, and mm as well
TOLERANCE = 1e-4  # mm by which a limit may be missed; float32 spacings have errors of 1e-7


@dataclasses.dataclass(frozen=True)
class TimePoint:
    """The lesions of a patient's liver in one scan; slice spacing and thickness in mm."""

    lesions: tuple[Lesion, ...]
    slice_spacing: float
    slice_thickness: float | None = None  # None: not known

    @property
    def measurable_by(self) -> str:
        """What decides which lesions are measurable: "slice thickness" or "slice spacing"."""
        return "slice spacing" if self.slice_thickness is None else "slice thickness"

    @property
    def measurable_from(self) -> float:
        """The least diameter of a measurable lesion, in mm (3.1)."""
        slices = self.slice_spacing if self.slice_thickness is None else self.slice_thickness
        return max(MEASURABLE, SLICES * slices)

    @property
    def patient_volume(self) -> float:
        """Volume of all lesions together, in mm³."""
        return math.fsum(lesion.volume for lesion in self.lesions)


@dataclasses.dataclass(frozen=True)
class Response:
    """How a follow-up compares with its baseline; lesions are indices into their time point's list.

    Sums of diameters are in mm, volumes of all lesions in mm³. Percentages are relative to the
    baseline, and None if the baseline is 0.
    """

    category: str  # one of CATEGORIES
    baseline_sum: float
    follow_up_sum: float
    change_mm: float
    change_percent: float | None
    smallest_sum: float  # of the baseline and the earlier follow-ups
    change_from_smallest_mm: float
    change_from_smallest_percent: float | None  # None if the smallest sum is 0
    volume_baseline: float
    volume_follow_up: float
    volume_change_percent: float | None
    paired: str  # one of PAIRED
    targets: tuple[int, ...]  # at baseline
    counted: tuple[int, ...]  # at follow-up: the lesions in the sum
    pairs: tuple[tuple[int, int], ...]  # (baseline, follow-up), one to one
    fragments: tuple[tuple[int, int], ...]  # further follow-up lesions of a paired baseline lesion
    new: tuple[int, ...]  # at follow-up; "sums only" knows them if the baseline has no lesion
    notes: tuple[str, ...]  # for the reader; they number lesions from 1


def measure_time_point(
    mask: np.ndarray, geometry: Geometry, slice_thickness: float | None = None
) -> TimePoint:
    """Measures the lesions of a mask.

    Args:
      mask: bool (Z, H, W).
      geometry: the grid of the mask, in mm.
      slice_thickness: of the image, in mm; None: not known.
    """
    if mask.shape != geometry.axial_size:
        raise ValueError(f"a mask of {mask.shape} on a grid of {geometry.axial_size} voxels")
    labels, _ = label_lesions(mask)
    lesions = tuple(measure_lesions(labels, geometry))
    return TimePoint(lesions, geometry.axial_spacing[0], slice_thickness)


def is_measurable(lesion: Lesion, point: TimePoint) -> bool:
    """Whether a lesion of a time point is long enough to be measured, within `TOLERANCE` (3.1)."""
    return lesion.diameter >= point.measurable_from - TOLERANCE


def choose_targets(point: TimePoint) -> list[int]:
    """Returns the indices of the two largest measurable lesions, largest first (4.2).

    RECIST also asks that targets can be measured repeatedly, which a reader must judge.
    """
    return [i for i in largest_first(point) if is_measurable(point.lesions[i], point)][:TARGETS]


def sum_of_diameters(point: TimePoint) -> float:
    """Returns the sum of the longest diameters of a time point's own targets, in mm (4.2)."""
    return _sum(point, choose_targets(point))


def compare(
    baseline: TimePoint, follow_up: TimePoint, match: Match | None, earlier: Sequence[Response] = ()
) -> Response:
    """Compares a follow-up with its baseline by the rules at the top of this module.

    With a match, the sum at follow-up is that of the lesions that were targets, and new lesions are
    known. Without one only sums are compared. The follow-up's sum is that of its largest lesions,
    of any size, as many as there were targets. Unless a target split, this sum is never less than
    what is left of the targets. New lesions cannot be recognised.

    Args:
      baseline: before chemotherapy.
      follow_up: after chemotherapy.
      match: which lesions are the same, by `matching.match_lesions`; None if the scans do not share
        patient coordinates.
      earlier: the responses at the earlier follow-ups of the same baseline.
    """
    chosen = choose_targets(baseline)
    found = match or Match()
    if not baseline.lesions:
        found = Match(new=tuple(range(len(follow_up.lesions))))
    counted = _counted(chosen, follow_up, match)
    before, after = _sum(baseline, chosen), _sum(follow_up, counted)
    smallest = min([before, *(response.follow_up_sum for response in earlier)])
    if chosen:
        without_new = _category(before, smallest, after, lesions_left=bool(follow_up.lesions))
    else:
        without_new = _category_without_targets(baseline, follow_up)
    reappeared = bool(follow_up.lesions) and any(response.category == "CR" for response in earlier)
    category = "PD" if found.new or reappeared else without_new
    notes = _pairing_notes(match, baseline, follow_up)
    notes += [] if chosen else [_no_target_note(baseline)]
    notes += _response_notes(category, without_new, (before, smallest, after))
    if found.new:
        notes.append(_new_lesions_note(found, follow_up, without_new))
    if reappeared:
        notes.append(
            "a lesion after a complete response is progression; check that the response was one, "
            "since a lesion may be there and not be seen"
        )
    return Response(
        category=category,
        baseline_sum=before,
        follow_up_sum=after,
        change_mm=after - before,
        change_percent=_percent(before, after),
        smallest_sum=smallest,
        change_from_smallest_mm=after - smallest,
        change_from_smallest_percent=_percent(smallest, after),
        volume_baseline=baseline.patient_volume,
        volume_follow_up=follow_up.patient_volume,
        volume_change_percent=_percent(baseline.patient_volume, follow_up.patient_volume),
        paired=_how_paired(match),
        targets=tuple(chosen),
        counted=tuple(counted),
        pairs=found.pairs,
        fragments=found.fragments,
        new=found.new,
        notes=tuple(notes),
    )


def _how_paired(match: Match | None) -> str:
    if match is None:
        return UNPAIRED
    return BY_REGISTRATION if match.registered else BY_FRAME


def _counted(chosen: list[int], follow_up: TimePoint, match: Match | None) -> list[int]:
    """Returns the lesions in the follow-up's sum, where `chosen` are the targets at baseline."""
    if match is None:
        return largest_first(follow_up)[: len(chosen)]
    same = match.pairs + match.fragments + match.merged
    return sorted({after for i, after in same if i in chosen})


def has_progressed(smallest: float, after: float) -> bool:
    """Whether a sum in mm is a progression from the smallest one, within `TOLERANCE` (4.3.1)."""
    return after >= max(smallest * (1 + LARGER), smallest + LARGER_BY) - TOLERANCE


def _category(before: float, smallest: float, after: float, *, lesions_left: bool) -> str:
    """Returns the response by sums in mm; limits hold within `TOLERANCE` (4.3.1)."""
    if not lesions_left:
        return "CR"
    if has_progressed(smallest, after):
        return "PD"
    if after <= before * (1 - SMALLER) + TOLERANCE:
        return "PR"
    return "SD"


def _category_without_targets(baseline: TimePoint, follow_up: TimePoint) -> str:
    """Returns the response by old lesions that are not measurable (4.4, table 2)."""
    if not baseline.lesions:
        return NOT_EVALUABLE
    return NON_TARGET if follow_up.lesions else "CR"


def largest_first(point: TimePoint) -> list[int]:
    """Returns the indices of the lesions by falling diameter, and by falling volume if equal."""
    sizes = [(-round(lesion.diameter, 4), -lesion.volume) for lesion in point.lesions]
    return sorted(range(len(sizes)), key=sizes.__getitem__)


def _sum(point: TimePoint, chosen: list[int]) -> float:
    return math.fsum(point.lesions[i].diameter for i in chosen)


def _percent(before: float, after: float) -> float | None:
    return 100 * (after - before) / before if before else None


def _no_target_note(baseline: TimePoint) -> str:
    if not baseline.lesions:
        return "no lesion at baseline: not evaluable unless a lesion is new"
    return "no lesion is measurable at baseline: the response is that of non-target lesions"


def _response_notes(category: str, without_new: str, sums: tuple[float, float, float]) -> list[str]:
    """`sums` are those of the baseline, the smallest so far, and that of the follow-up, in mm."""
    before, smallest, after = sums
    if without_new == "PD" and smallest < before:
        return [f"the smallest sum so far was {smallest:.1f} mm; PD is relative to it"]
    if category == "PR" and not after:
        return ["all targets vanished, but a non-target lesion is left: PR, not CR"]
    return []


def _new_lesions_note(found: Match, follow_up: TimePoint, without_new: str) -> str:
    sizes = [f"{i + 1} ({follow_up.lesions[i].diameter:.1f} mm)" for i in found.new]
    return (
        f"new at follow-up: lesion {', '.join(sizes)}; without it, {without_new}; check that "
        "it is unequivocal"
    )


def _pairing_notes(match: Match | None, baseline: TimePoint, follow_up: TimePoint) -> list[str]:
    if not baseline.lesions:
        return []
    if match is None:
        return ["the scans share no frame: new lesions cannot be told from old ones"]
    if follow_up.lesions and not match.pairs:
        check = (
            "see the registration's picture"
            if match.registered
            else ("check that the scans truly share a frame")
        )
        return [f"no lesion lies where one was: {check}"]
    split, merged = "lesion {} split, into lesion {} too", "lesion {} merged into lesion {}"
    said = [(split, *pair) for pair in match.fragments] + [(merged, *p) for p in match.merged]
    return [text.format(i + 1, j + 1) + " of the follow-up" for text, i, j in said]
