"""Headers of single slices: how a message names them, and their numbers.

A classic image has its slice in a file of its own. A `Frame` is a slice that shares its file with
others: a frame of a multi-frame ("enhanced") image, or a tile of a Siemens MOSAIC. It has the
elements of a classic image, so that one reader serves all three.
"""

from pathlib import Path

import numpy as np
import pydicom
from pydicom.datadict import dictionary_description
from pydicom.tag import Tag

from crlm_jax.imaging.geometry import VolumeError


class Frame(pydicom.Dataset):
    """The header of one slice of a file with several: that of the file, with the slice's own place.

    `filename` is that of the file, and `number` that of the slice in it, from 1. `corner` is the
    first row and column of a tile in the stored picture; None: the slice is a frame of the file.
    """

    filename: str
    number: int
    corner: tuple[int, int] | None = None

    @classmethod
    def of(cls, header: pydicom.Dataset, number: int) -> "Frame":
        """Returns a frame with the elements of a header; changes to it leave the header alone."""
        frame = cls()
        frame.update(header)
        frame.filename, frame.number = str(header.filename), number
        return frame

    def put(self, keyword: str, value: object) -> None:
        """Sets an element without a change of the headers that share its old value."""
        self.add_new(Tag(keyword), pydicom.datadict.dictionary_VR(keyword), value)


def name_of(header: pydicom.Dataset) -> str:
    """Names a slice in a message, such as `7.dcm`, or `1.dcm, frame 3`."""
    file = Path(header.filename).name
    return f"{file}, frame {header.number}" if isinstance(header, Frame) else file


def numbers(header: pydicom.Dataset, keyword: str, count: int) -> np.ndarray:
    """Returns an element as `count` finite numbers.

    Raises:
      VolumeError: the element is absent, or holds anything else.
    """
    try:
        found = np.atleast_1d(np.asarray(header.get(keyword), float))  # None becomes NaN
    except Exception:  # pydicom converts the value only here, and raises any error
        found = np.array([])
    if len(found) != count or not np.isfinite(found).all():
        where = f" (frame {header.number})" if isinstance(header, Frame) else ""
        raise VolumeError(
            f"{header.filename}: has no valid {dictionary_description(keyword)} {Tag(keyword)}"
            f"{where}; copy it again, or export the original images"
        )
    return found
