"""Which objects are taken: complete images of a class, modality and kind that can be segmented.

Whatever is refused has a status by which its sender knows whether to try again (DICOM PS3.4 B.2.3
and PS3.7 annex C): A7xx may pass, Axxx otherwise and Cxxx stay.
"""

import re
from collections.abc import Collection
from pathlib import Path

import pydicom
from pydicom.pixels.utils import get_expected_length

CLASSES = {
    "1.2.840.10008.5.1.4.1.1.2": "CT",  # CT Image Storage
    "1.2.840.10008.5.1.4.1.1.2.1": "CT",  # Enhanced CT Image Storage
    "1.2.840.10008.5.1.4.1.1.4": "MR",  # MR Image Storage
    "1.2.840.10008.5.1.4.1.1.4.1": "MR",  # Enhanced MR Image Storage
}
OUT_OF_RESOURCES = 0xA700
NOT_OF_ITS_CLASS = 0xA900
NOT_UNDERSTOOD = 0xC000
LOCALIZER = 0xC010  # of the Cxxx, which name no cause: this and the next are the node's own
NO_RULE = 0xC011

_TAGS = [
    "SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID", "Modality",
    "ImageType", "Rows", "Columns", "SamplesPerPixel", "PhotometricInterpretation", "BitsAllocated",
    "NumberOfFrames", "PixelData",
]  # fmt: skip
_DEFERRED = 4096  # bytes; longer values are measured, not read


class Refused(Exception):
    """An object that is not taken: `status` answers it, the message is the cause in a few words."""

    def __init__(self, status: int, cause: str):
        super().__init__(cause)
        self.status = status


def check_image(path: Path, asked_class: str, asked: str, modalities: Collection[str]) -> str:
    """Checks a received object; returns its Series Instance UID.

    Args:
      path: file of the object, whose pixels are not read.
      asked_class: SOP Class UID that the sender announced.
      asked: SOP Instance UID that the sender announced.
      modalities: that some rule asks for, such as "CT".

    Raises:
      Refused: it is not taken. No message quotes the header.
    """
    try:
        image = pydicom.dcmread(path, specific_tags=_TAGS, defer_size=_DEFERRED)
        found = {name: str(image.get(name) or "").strip() for name in _TAGS[:5]}
        kinds = [str(kind).upper() for kind in image.get("ImageType") or ()]
        whole = _is_whole(image, path.stat().st_size)
    except Exception as error:  # of pydicom, which damage causes
        raise Refused(NOT_UNDERSTOOD, "a damaged object") from error
    if not whole:
        raise Refused(NOT_UNDERSTOOD, "an object that is cut off")
    for name in ("SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID"):
        if not re.fullmatch(r"[0-9.]{1,64}", found[name]):
            raise Refused(NOT_UNDERSTOOD, f"an object without a valid {name}")
    if found["SOPInstanceUID"] != asked:
        raise Refused(NOT_UNDERSTOOD, "an object of another UID than announced")
    if found["SOPClassUID"] != asked_class:
        raise Refused(NOT_OF_ITS_CLASS, "an object of another class than announced")
    if found["Modality"] != CLASSES.get(asked_class):
        raise Refused(NOT_OF_ITS_CLASS, "an object whose modality is not that of its class")
    if found["Modality"] not in modalities:
        raise Refused(NO_RULE, f"{found['Modality']}, which no rule asks for")
    if "LOCALIZER" in kinds:
        raise Refused(LOCALIZER, "a localizer")
    return found["SeriesInstanceUID"]


def _is_whole(image: pydicom.FileDataset, size: int) -> bool:
    """Whether the pixels are there, and as long as the header says."""
    if "PixelData" not in image:
        return False
    pixels = image.get_item("PixelData", keep_deferred=True)
    if image.file_meta.TransferSyntaxUID.is_encapsulated:
        return True  # pydicom found the end of the last fragment
    length, start = getattr(pixels, "length", 0), getattr(pixels, "value_tell", 0)
    return length >= get_expected_length(image) and start + length <= size
