"""The sequences of a patient that a network sees together: which images belong to each other."""

import dataclasses
from collections.abc import Mapping, Sequence

from crlm_jax.data.cohort.cases import Case
from crlm_jax.data.cohort.rows import CohortError, ImagePair, ImageRow


def with_channels(
    source: object, cases: Sequence[Case], channels: Sequence[str]
) -> tuple[Case, ...]:
    """Returns the cases of the first channel, their images with those of the others beside them.

    Args:
      source: the cohort, for messages.
      cases: of all channels' conditions; those of other conditions are left out.
      channels: the conditions, one a channel.

    Raises:
      CohortError: naming every patient who lacks a sequence, or has several images of it.
    """
    images = {(case.patient, case.condition): case.images for case in cases}
    patients = sorted({case.patient for case in cases if case.condition in channels})
    rows = {
        patient: {
            name: [f"row {pair.row}" for pair in images.get((patient, name), ())]
            for name in channels
        }
        for patient in patients
    }
    if problems := incomplete(source, rows, channels):
        raise CohortError("\n".join(problems))
    return tuple(_joined(case, images, channels) for case in cases if case.condition == channels[0])


def incomplete(
    source: object, found: Mapping[str, Mapping[str, Sequence[str]]], channels: Sequence[str]
) -> list[str]:
    """Says, a sentence each, which patients lack a sequence or have one too often.

    Args:
      source: the cohort, for messages.
      found: by patient, then by channel: where each of the images is written, such as "row 3".
      channels: the conditions, one a channel. There may be several images of the first, each with
        the same others beside it.
    """
    problems = []
    for patient, images in found.items():
        there = ", ".join(name for name in channels if images[name])
        if missing := [name for name in channels if not images[name]]:
            problems.append(
                f"{source}: patient {patient!r} has {there} but no row with {', '.join(missing)}, "
                "which data.channels asks of every patient; add the image, or take the patient's "
                f"rows with {there} out"
            )
            continue
        problems += [
            f"{source}: patient {patient!r} has {len(images[name])} images of {name} "
            f"({', '.join(images[name])}), and nothing says which of them belongs to that of "
            f"{channels[0]}; keep one of them"
            for name in channels[1:]
            if len(images[name]) > 1
        ]
    return problems


def _joined(
    case: Case,
    images: Mapping[tuple[str, str], Sequence[ImagePair]],
    channels: Sequence[str],
) -> Case:
    others = tuple(
        ImageRow(case.patient, name, pair.image, pair.b_value, pair.row)
        for name in channels[1:]
        for pair in images[case.patient, name]
    )
    pairs = tuple(dataclasses.replace(pair, others=others) for pair in case.images)
    return dataclasses.replace(case, images=pairs)
