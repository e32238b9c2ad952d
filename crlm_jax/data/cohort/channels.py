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
    problems = []
    for patient in sorted({case.patient for case in cases if case.condition in channels}):
        found = {name: images.get((patient, name), ()) for name in channels}
        if missing := [name for name in channels if not found[name]]:
            there = [name for name in channels if found[name]]
            problems.append(
                f"{source}: patient {patient!r} has {', '.join(there)} but no row with "
                f"{', '.join(missing)}, which data.channels asks of every patient; add the image, "
                f"or take the patient's rows with {', '.join(there)} out"
            )
            continue
        for name in channels[1:]:
            if len(found[name]) > 1:
                rows = ", ".join(str(pair.row) for pair in found[name])
                problems.append(
                    f"{source}: patient {patient!r} has {len(found[name])} images of {name} (rows "
                    f"{rows}), and nothing says which of them belongs to that of {channels[0]}; "
                    "keep one of them"
                )
    if problems:
        raise CohortError("\n".join(problems))
    return tuple(_joined(case, images, channels) for case in cases if case.condition == channels[0])


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
