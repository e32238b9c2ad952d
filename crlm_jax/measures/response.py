"""The responses to chemotherapy of the test patients, by the masks of each reader.

Lesions of two time points are paired where their scans share a frame (one DICOM frame of reference)
or were registered. Elsewhere only sums are compared. That holds for the phantom too: its scans are
up to 8 mm of breath apart, and 4 of 80 pairs of them had a lesion that was called new.
"""

import dataclasses
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from crlm_jax.data.cohort.cases import Case
from crlm_jax.imaging import volumes
from crlm_jax.imaging.geometry import VolumeError
from crlm_jax.measures.case import CaseResult
from crlm_jax.measures.view import READERS
from crlm_jax.recist import rules
from crlm_jax.recist.matching import Match, match_lesions, out_of_view
from crlm_jax.recist.prepared import PreparedImage, prepare
from crlm_jax.recist.registration import (
    Registration,
    check_view,
    failed,
    match_registered,
    register,
)
from crlm_jax.recist.rules import Response
from crlm_jax.runs.folder import RunFolder
from crlm_jax.system import parallel
from crlm_jax.system.console import print_stderr
from crlm_jax.system.files import own_names


class PatientResponse(NamedTuple):
    """A patient's response by one reader's masks, and why lesions were not paired."""

    response: Response
    doubts: tuple[str, ...]


# By sequence (such as `dwi`, of `pre_dwi` and `post_dwi`), patient and reader.
Responses = dict[str, dict[str, dict[str, PatientResponse]]]


class _Pair(NamedTuple):
    """The two time points of a patient in one sequence, as numbers of their results."""

    patient: str
    sequence: str
    before: int
    after: int


def _pairs(results: Sequence[CaseResult]) -> list[_Pair]:
    """Returns the patients with both time points, one image each, in the order of the results.

    A case of several images is left out: a lesion that two images show would count twice.
    """
    return [pair for pair in _both_points(results) if _one_each(results, pair)]


def count_several_images(results: Sequence[CaseResult]) -> dict[str, int]:
    """Counts by sequence the patients whom `find_responses` leaves out for several images.

    They have both time points, and more than one image of one.
    """
    several = (pair for pair in _both_points(results) if not _one_each(results, pair))
    return dict(Counter(pair.sequence for pair in several))


def _both_points(results: Sequence[CaseResult]) -> list[_Pair]:
    """Returns the patients with both time points, in the order of the results."""
    numbers = {
        (result.row.patient, result.row.condition): number for number, result in enumerate(results)
    }
    pairs = []
    for (patient, condition), before in numbers.items():
        found = re.fullmatch(r"pre_(.+)", condition)
        if found and (after := numbers.get((patient, f"post_{found[1]}"))) is not None:
            pairs.append(_Pair(patient, found[1], before, after))
    return pairs


def _one_each(results: Sequence[CaseResult], pair: _Pair) -> bool:
    """Whether one image shows each time point."""
    return all(len(results[n].points["reference"]) == 1 for n in (pair.before, pair.after))


def find_responses(results: Sequence[CaseResult]) -> Responses:
    """Compares the two time points of every patient that has both, by each reader's masks."""
    found: Responses = {}
    for pair in _pairs(results):
        before, after = results[pair.before], results[pair.after]
        readers = found.setdefault(pair.sequence, {}).setdefault(pair.patient, {})
        for who in READERS:
            match, doubts = _match(before, after, who)
            response = rules.compare(before.points[who][0], after.points[who][0], match)
            readers[who] = PatientResponse(response, doubts)
    return found


def _share_frame(before: CaseResult, after: CaseResult) -> bool:
    return before.frame is not None and before.frame == after.frame


def _match(before: CaseResult, after: CaseResult, who: str) -> tuple[Match | None, tuple[str, ...]]:
    """Returns which of a reader's lesions are the same, and why that is not known."""
    if who not in before.places or not (after.registration or _share_frame(before, after)):
        return None, ()
    places = before.places[who], after.places[who]
    lesions = places[0].bodies(), places[1].bodies()
    views = places[0].geometry, places[1].geometry
    if after.registration is not None:
        registration = check_view(after.registration, *views, *lesions)
        return match_registered(*lesions, registration), registration.doubts
    if any(len(view.size) < 3 for view in views):  # a picture has no place in a patient
        return None, ()
    if unseen := out_of_view(*lesions, *views):
        return None, tuple(unseen)
    return match_lesions(*lesions), ()


def register_cases(
    cases: Sequence[Case], results: list[CaseResult], folder: RunFolder | None
) -> list[CaseResult]:
    """Aligns the scans of the patients with both time points.

    The reference's lesions say which part of the body must fit best. Each process aligns its share.

    Args:
      cases: of the results, in their order.
      results: of all cases, in all processes.
      folder: of the run, where the pictures are written; None: none are.

    Returns:
      The results, with a `registration` in those of the follow-ups.
    """
    pairs = _pairs(results)
    names = own_names(f"{pair.patient}_{pair.sequence}" for pair in pairs)
    if folder is not None and pairs:
        folder.registrations.mkdir(exist_ok=True)
    own = []
    for number in parallel.share(list(range(len(pairs)))):
        pair = pairs[number]
        picture = None if folder is None else folder.registrations / f"{names[number]}.png"
        ends = [(cases[case], results[case]) for case in (pair.before, pair.after)]
        found = _register(ends, picture)
        if found.doubts:
            print_stderr(
                f"warning: {pair.patient}, {pair.sequence}: the registration is doubtful "
                f"({'; '.join(found.doubts)}); only sums of diameters are compared"
            )
        own.append([pair.after, found.to_json()])
    everyone = {case: values for share in parallel.gather(own) for case, values in share}
    return [
        dataclasses.replace(result, registration=Registration.from_json(everyone[number]))
        if number in everyone
        else result
        for number, result in enumerate(results)
    ]


def _register(ends: Sequence[tuple[Case, CaseResult]], picture: Path | None) -> Registration:
    """Aligns the scans of two cases; what cannot be aligned is doubtful, and no error.

    A run is not lost for one scan after all of its training.
    """
    try:
        before, after = (_prepare(case) for case, _ in ends)
    except VolumeError as error:
        return failed(str(error))
    lesions_before, lesions_after = (result.places["reference"].bodies() for _, result in ends)
    found = register(before, after, lesions_before, lesions_after)
    if picture is not None:
        from crlm_jax.recist.picture import Aligned, write_registrations

        aligned = Aligned(after, lesions_after, found)
        write_registrations(picture, before, lesions_before, [aligned])
    return found


def _prepare(case: Case) -> PreparedImage:
    (pair,) = case.images
    return prepare(volumes.read_image(pair.image, b_value=pair.b_value))
