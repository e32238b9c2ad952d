"""What a segmentation says of a multi-frame source image, and which sources it cannot refer to.

A segmentation refers to an enhanced image by the number of a frame in its file. highdicom finds
that number by position, which several b-values share. So it is given the chosen frames alone, as a
multi-frame image of their own, and their numbers in the file are put in afterwards.
"""

from collections.abc import Sequence

import pydicom

from crlm_jax.imaging.dicom.frames import Frame
from crlm_jax.imaging.dicom.series import Series
from crlm_jax.imaging.geometry import VolumeError

_OF_A_FRAME = ("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "SliceThickness")


def check_sources(series: Series) -> None:
    """Raises VolumeError if no result in DICOM can refer to the slices of a series.

    Those are the tiles of a MOSAIC, and frames of several files, since highdicom takes one
    multi-frame image.
    """
    frames = [header for header in series.headers if isinstance(header, Frame)]
    if not frames:
        return
    reason = None
    if any(frame.corner is not None for frame in frames):
        reason = "a MOSAIC, to whose slices no other DICOM object can refer"
    elif len({header.filename for header in series.headers}) > 1:
        reason = "a volume of several multi-frame files, of which no DICOM can be written"
    if reason:
        raise VolumeError(
            f"{series.path}: {reason}; write the mask as NIfTI (.nii.gz), and no --sr"
        )


def as_source_images(series: Series, sources: list[pydicom.Dataset]) -> list[pydicom.Dataset]:
    """Returns the source images as highdicom takes them.

    Args:
      series: the series.
      sources: of each slice, the elements that a segmentation refers to.

    Returns:
      `sources`, or for the frames of a multi-frame image one image of these frames alone.
    """
    if not isinstance(series.headers[0], Frame):
        return sources
    check_sources(series)
    image, shared = pydicom.Dataset(), pydicom.Dataset()
    image.update(sources[0])
    for keyword in _OF_A_FRAME:
        delattr(image, keyword)
    image.NumberOfFrames = len(sources)
    shared.PixelMeasuresSequence = [_item(sources[0], "PixelSpacing", "SliceThickness")]
    shared.PlaneOrientationSequence = [_item(sources[0], "ImageOrientationPatient")]
    image.SharedFunctionalGroupsSequence = [shared]
    groups = []
    for source in sources:
        group = pydicom.Dataset()
        group.PlanePositionSequence = [_item(source, "ImagePositionPatient")]
        groups.append(group)
    image.PerFrameFunctionalGroupsSequence = groups
    return [image]


def put_frame_numbers(written: pydicom.Dataset, headers: Sequence[pydicom.Dataset]) -> None:
    """Replaces the numbers of frames among the chosen ones by those in the source's file.

    Args:
      written: the segmentation; unchanged if its source is a classic series.
      headers: of the slices of the source.
    """
    for group in written.PerFrameFunctionalGroupsSequence:
        for derivation in group.get("DerivationImageSequence") or ():
            for source in derivation.SourceImageSequence:
                if (number := source.get("ReferencedFrameNumber")) is not None:
                    frame = headers[int(number) - 1]
                    assert isinstance(frame, Frame)
                    source.ReferencedFrameNumber = frame.number


def _item(source: pydicom.Dataset, *keywords: str) -> pydicom.Dataset:
    item = pydicom.Dataset()
    for keyword in keywords:
        item[keyword] = source[keyword]
    return item
