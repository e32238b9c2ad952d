"""Splits a multi-frame ("enhanced") image into the headers of its frames.

A frame has the elements of the whole image, then those of its functional groups (PS3.3 C.7.6.16):
first the groups that all frames share, then its own. Legacy Converted images keep the vendor's
elements in groups of unassigned attributes, and Philips in private groups; the b-value is looked
for there too.
"""

import contextlib
from collections.abc import Iterator, Sequence

import numpy as np
import pydicom
from pydicom.tag import Tag

from crlm_jax.imaging.dicom.b_value import is_trace, stated_b_value
from crlm_jax.imaging.dicom.files import as_volume_error
from crlm_jax.imaging.dicom.frames import Frame
from crlm_jax.imaging.geometry import VolumeError

_PER_FRAME, _SHARED = "PerFrameFunctionalGroupsSequence", "SharedFunctionalGroupsSequence"
_GROUPS = """
    PixelMeasuresSequence PlaneOrientationSequence PlanePositionSequence FrameContentSequence
    PixelValueTransformationSequence MRImageFrameTypeSequence CTImageFrameTypeSequence
    MRDiffusionSequence MREchoSequence MRModifierSequence MRTimingAndRelatedParametersSequence
    TemporalPositionSequence CardiacSynchronizationSequence RespiratorySynchronizationSequence
"""
_UNASSIGNED = (
    "UnassignedSharedConvertedAttributesSequence",
    "UnassignedPerFrameConvertedAttributesSequence",
)
_PIXELS = 0x7FE0  # group


def split_frames(header: pydicom.Dataset) -> list[pydicom.Dataset]:
    """Returns the header of each frame, in the order of the file; a classic image's is its own.

    Raises:
      VolumeError: the image says nothing of its frames, or its frames are not those that it says.
    """
    file = header.filename
    with as_volume_error(file):
        count = int(header.get("NumberOfFrames") or 1)
        groups = list(header.get(_PER_FRAME) or ())
        shared = list((header.get(_SHARED) or ())[:1])
    if not groups and count == 1:
        return [header]
    if not groups:
        raise VolumeError(
            f"{file}: holds {count} frames without a position each, as of a film; export its "
            "slices as single-frame or enhanced images, or convert them to NIfTI"
        )
    if len(groups) != count:
        raise VolumeError(
            f"{file}: holds {count} frames, but describes {len(groups)}; copy or export it again"
        )
    whole = _readable(header)
    with as_volume_error(file):
        return [
            _frame(whole, [*shared, group], number) for number, group in enumerate(groups, start=1)
        ]


def _readable(header: pydicom.Dataset) -> pydicom.Dataset:
    """Returns the elements of a header that are valid, without pixels and groups of frames."""
    whole = pydicom.Dataset()
    for tag in sorted(header.keys() - {Tag(_PER_FRAME), Tag(_SHARED)}):
        if tag.group != _PIXELS:
            with contextlib.suppress(Exception):  # an invalid value; the reader names what it lacks
                whole[tag] = header[tag]
    whole.filename = header.filename
    return whole


def _frame(whole: pydicom.Dataset, groups: Sequence[pydicom.Dataset], number: int) -> Frame:
    frame = Frame.of(whole, number)
    for group in groups:
        for name in _GROUPS.split():
            for item in (group.get(name) or ())[:1]:
                frame.update(item)
    for group in groups:
        for name in _UNASSIGNED:
            for item in (group.get(name) or ())[:1]:
                for tag in item.keys() - frame.keys():
                    frame[tag] = item[tag]
    if kind := frame.get("FrameType"):
        frame.put("ImageType", kind)
    if frame.get("EffectiveEchoTime") is not None:
        frame.put("EchoTime", frame.EffectiveEchoTime)
    for group in groups:
        for item in _vendor_items(group):
            if stated_b_value(frame) is None and (b := stated_b_value(item)) is not None:
                frame.put("DiffusionBValue", b)
            if "DiffusionDirectionality" not in frame and is_trace(item):
                frame.put("DiffusionDirectionality", "ISOTROPIC")
    return frame


def _vendor_items(group: pydicom.Dataset) -> Iterator[pydicom.Dataset]:
    """Yields a group itself, and the items of its private sequences."""
    yield group
    for tag in list(group.keys()):
        if tag.is_private and (element := group[tag]).VR == "SQ":
            yield from element.value[:1]


def check_complete(name: str, headers: Sequence[pydicom.Dataset]) -> None:
    """Raises VolumeError if a part of a concatenation is missing (PS3.3 C.7.6.16.2.2.4).

    Args:
      name: of the series, for the message.
      headers: of its files.
    """
    parts: dict[str, tuple[set[int], int]] = {}
    for header in headers:
        uid = str(header.get("ConcatenationUID") or "")
        if uid:
            found, total = parts.setdefault(uid, (set(), 0))
            found.add(int(header.get("InConcatenationNumber") or 0))
            parts[uid] = found, max(total, int(header.get("InConcatenationTotalNumber") or 0))
    for found, total in parts.values():
        if len(found) < total:
            raise VolumeError(
                f"{name}: {total - len(found)} of the {total} files of a concatenation are "
                "missing; copy or export the series again, whole"
            )


def check_one_stack(name: str, headers: Sequence[pydicom.Dataset]) -> None:
    """Raises VolumeError if frames are of several stacks that lie in different directions."""
    stacks: dict[str, np.ndarray] = {}
    for header in headers:
        if isinstance(header, Frame) and header.get("StackID"):
            with contextlib.suppress(TypeError, ValueError):  # the reader names what it lacks
                direction = np.asarray(header.get("ImageOrientationPatient"), float)
                stacks.setdefault(str(header.StackID), direction)
    directions = list(stacks.values())
    if any(
        other.shape == directions[0].shape and np.abs(other - directions[0]).max() > 0.1
        for other in directions[1:]
    ):
        raise VolumeError(
            f"{name}: holds {len(stacks)} stacks of slices in different directions, as a localizer "
            "does; export the wanted stack as a series of its own, or convert it to NIfTI, for "
            "example with dcm2niix"
        )
