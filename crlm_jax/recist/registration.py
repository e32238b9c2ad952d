"""Rigid alignment of a follow-up image with its baseline, so that their lesions can be paired.

Two scans of two dates share no frame: the patient lies elsewhere, and breathes to another depth.
The alignment has three stages.

1. Shifts are tried all over the images: from where the headers put them, and from body on body.
2. The best shifts are refined (mutual information, SimpleITK) to a shift and a turn of the body.
3. The neighbourhood of the lesions is aligned anew, because the liver moves within the body: after
   another breath it lies one or two centimetres away while the spine stays.

The same is done with the roles of both images exchanged. The result is doubtful, and says why, if
both ways disagree, or if the images do not fit clearly better there than one centimetre beside.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from crlm_jax.imaging.geometry import Geometry
from crlm_jax.recist.alignment import (
    OVERLAP,
    Rigid,
    Similarity,
    align_bodies,
    align_near,
    neighbourhood,
)
from crlm_jax.recist.matching import Body, Match, match_lesions, out_of_view
from crlm_jax.recist.prepared import PreparedImage

BESIDE = 10.0  # mm
# Beyond these limits a result is doubtful.
AGREEMENT = 3.0  # mm at the lesions, between both ways
PEAK = 2.0  # similarity, as a multiple of that `BESIDE`
TURN = 15.0  # degrees
BREATH = 40.0  # mm between the alignments of the lesions and of the body
POINTS = 500  # of a lesion, about the most that are looked at


@dataclasses.dataclass(frozen=True)
class Registration:
    """How a follow-up was aligned, and how far to trust it."""

    motion: Rigid  # from the follow-up's coordinates to the baseline's
    shift: float  # mm, how far it moves the middle of the lesions (of the body, without lesions)
    rotation: float  # degrees
    breath: float  # mm, of `shift`: how far the lesions lie from where the body alone puts them
    similarity_before: float  # normalised mutual information near the lesions, 0 for unlike images
    similarity_after: float
    similarity_beside: float  # mean over the six places `BESIDE` mm away
    overlap: float  # share of the smaller body that both images show
    agreement: float  # mm, between both ways, at the worst lesion
    doubts: tuple[str, ...]  # why it is not to be trusted; none: it is

    def to_json(self) -> dict[str, Any]:
        """Returns values that JSON can hold, for another process."""
        motion = {"turn": self.motion.turn.tolist(), "shift": self.motion.shift.tolist()}
        return dict(vars(self)) | {"motion": motion}

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> "Registration":
        """Builds the registration that `to_json` was called on."""
        motion = {name: np.array(each) for name, each in values["motion"].items()}
        return cls(**values | {"motion": Rigid(**motion), "doubts": tuple(values["doubts"])})


def register(
    before: PreparedImage,
    after: PreparedImage,
    lesions_before: Sequence[Body],
    lesions_after: Sequence[Body],
) -> Registration:
    """Aligns a follow-up with its baseline.

    Args:
      before: the baseline's image.
      after: the follow-up's image.
      lesions_before: of the baseline. Lesions say which part of the body must fit best; without one
        in either image the whole body counts.
      lesions_after: of the follow-up, in its own coordinates.
    """
    found = _register(before, after, _points(lesions_before), _points(lesions_after))
    return check_view(found, before.geometry, after.geometry, lesions_before, lesions_after)


def check_view(
    found: Registration,
    before: Geometry,
    after: Geometry,
    lesions_before: Sequence[Body],
    lesions_after: Sequence[Body],
) -> Registration:
    """Returns a registration, doubtful if a lesion lies outside the other image.

    Args:
      found: the registration.
      before: the grid of the baseline's image.
      after: that of the follow-up's image.
      lesions_before: of the baseline.
      lesions_after: of the follow-up, in its own coordinates.
    """
    if found.doubts:  # of a wrong motion no lesion is said
        return found
    # Either list of lesions goes to the other image.
    there = move(lesions_before, found.motion.inverse)
    back = move(lesions_after, found.motion)
    return dataclasses.replace(found, doubts=tuple(out_of_view(there, back, before, after)))


def move(bodies: Sequence[Body], motion: Rigid) -> list[Body]:
    """Returns lesions at their places after a motion."""
    return [dataclasses.replace(body, points=motion(body.points)) for body in bodies]


def match_registered(
    before: Sequence[Body], after: Sequence[Body], found: Registration
) -> Match | None:
    """Matches lesions after a registration; None: it is doubtful."""
    if found.doubts:
        return None
    moved = move(after, found.motion)
    return dataclasses.replace(match_lesions(before, moved), registered=True)


def _points(bodies: Sequence[Body]) -> np.ndarray:
    """Returns points (N, 3) all over the lesions, in mm."""
    every = [body.points[:: -(-len(body.points) // POINTS)] for body in bodies]
    return np.concatenate([np.zeros((0, 3)), *every])


def _register(
    before: PreparedImage,
    after: PreparedImage,
    lesions_before: np.ndarray,
    lesions_after: np.ndarray,
) -> Registration:
    """Aligns by points (N, 3) of the lesions, in mm."""
    there = _align(before, after, lesions_before, lesions_after)
    back = _align(after, before, lesions_after, lesions_before)
    if there is None or back is None:
        return failed("the images do not overlap anywhere with enough in common")
    body, motion = there
    points = np.concatenate([lesions_before, motion.inverse(lesions_after)])
    where = neighbourhood(before, points)
    if not len(points):
        points = before.to_patient(np.argwhere(before.body))
    similarity = Similarity(before, after, where, 1, 0.5)
    fit, _ = similarity(motion)
    beside = float(np.mean([similarity(_moved(motion, each))[0] for each in _BESIDE]))
    _, overlap = Similarity(before, after, before.body, 2, 0.5)(motion)
    middle = points.mean(axis=0, keepdims=True)
    found = Registration(
        motion=motion.inverse,
        shift=float(np.linalg.norm(motion(middle) - middle)),
        rotation=motion.degrees,
        breath=float(np.linalg.norm(motion(middle) - body(middle))),
        similarity_before=similarity(lambda each: each)[0],
        similarity_after=fit,
        similarity_beside=beside,
        overlap=overlap,
        agreement=float(np.linalg.norm(back[1](motion(points)) - points, axis=1).max()),
        doubts=(),
    )
    return dataclasses.replace(found, doubts=_doubts(found))


_BESIDE = np.concatenate([np.eye(3), -np.eye(3)]) * BESIDE


def _moved(motion: Rigid, shift: np.ndarray) -> Rigid:
    return Rigid(motion.turn, motion.shift + shift)


def _align(
    fixed: PreparedImage, moving: PreparedImage, own: np.ndarray, others: np.ndarray
) -> tuple[Rigid, Rigid] | None:
    """Returns the motions of the body and of the lesions from one image to the other; None: none.

    `own` and `others` are the points (N, 3) of each image's lesions.
    """
    body = align_bodies(fixed, moving)
    if body is None:
        return None
    if not len(own) + len(others):
        return body, body
    where = neighbourhood(fixed, np.concatenate([own, body.inverse(others)]))
    near = align_near(fixed, moving, body, where)
    return None if near is None else (body, near)


def failed(why: str) -> Registration:
    """Returns the doubtful registration of images that cannot be aligned."""
    stay = Rigid(np.eye(3), np.zeros(3))
    return Registration(
        stay, shift=0.0, rotation=0.0, breath=0.0, similarity_before=0.0, similarity_after=0.0,
        similarity_beside=0.0, overlap=0.0, agreement=0.0, doubts=(why,),
    )  # fmt: skip


def _doubts(found: Registration) -> tuple[str, ...]:
    """Says why a registration is not to be trusted."""
    doubts = []
    if found.overlap < OVERLAP:
        doubts.append(f"the images have only {found.overlap:.0%} of the smaller body in common")
    if found.agreement > AGREEMENT:
        doubts.append(
            f"aligned the other way round, a lesion comes to lie {found.agreement:.0f} mm away"
        )
    # Scans that lie well from the start fit best on their own voxels, by a hair.
    if found.similarity_after < found.similarity_before and found.shift > AGREEMENT:
        doubts.append("the images fit no better than without it")
    if found.similarity_after < PEAK * found.similarity_beside:
        doubts.append(f"the images fit nearly as well {BESIDE:g} mm beside")
    if found.rotation > TURN:
        doubts.append(f"it turns the patient by {found.rotation:.0f}°")
    if found.breath > BREATH:
        doubts.append(f"it moves the lesions by {found.breath:.0f} mm within the body")
    return tuple(doubts)
