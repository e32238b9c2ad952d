"""What readers believe of a header, and must not.

The header of a MetaImage or NRRD may name the file that holds the voxels, wherever on the disk it
lies. And ITK's reader of MetaImages writes beyond its memory where the number of axes cannot be,
and takes the name of the file for a format of C's printf.

A DICOM file may say that it is deflated; pydicom and ITK then inflate it, to whatever size.
"""

import re
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import BinaryIO

from pydicom.filereader import read_dataset, read_preamble
from pydicom.uid import DeflatedExplicitVRLittleEndian

from crlm_jax.imaging.geometry import MOST_VOXELS, VolumeError

_LONGEST = 2**20  # bytes of a header
_LONGEST_LINE = 2**12
_FILES = ("elementdatafile", "datafile")  # MetaImage's field and NRRD's, which may be two words

_MOST_INFLATED = 2 * MOST_VOXELS  # bytes: the largest image, of 16 bits as in CT and MRI
_RATIO = 1032  # deflate's greatest: 258 bytes by two bits (zlib.net/zlib_tech.html)
_CHUNK = 2**16  # bytes read at once, and many times as many inflated


def check_deflated(files: Sequence[Path]) -> None:
    """Measures what deflated DICOM files hold, without holding it; passes over all others.

    Args:
      files: those that are in memory together.

    Raises:
      VolumeError: they hold more than the largest image; the file with which they do is named.
    """
    # Files as small as most slices are, one by one, cannot hold so much: they are not even opened.
    if sum(path.stat().st_size for path in files) * _RATIO <= _MOST_INFLATED:
        return
    left = _MOST_INFLATED
    for path in files:
        left -= _inflated(path, left)
        if left < 0:
            raise VolumeError(
                f"{path}: a deflated DICOM file that would fill more than {_MOST_INFLATED:,} bytes"
                f"{' with those before it' * (len(files) > 1)}; copy or export it again, or if it "
                "is right, store it uncompressed (for example with dcmconv +te)"
            )


def _inflated(path: Path, most: int) -> int:
    """Counts the bytes in a deflated DICOM file, to somewhat beyond `most`; of another it is 0."""
    with path.open("rb") as file:
        if not _begins_deflated(file):
            return 0
        inflater, size = zlib.decompressobj(-zlib.MAX_WBITS), 0
        try:
            while size <= most and not inflater.eof and (chunk := file.read(_CHUNK)):
                while chunk and size <= most and not inflater.eof:
                    size += len(inflater.decompress(chunk, 16 * _CHUNK))
                    chunk = inflater.unconsumed_tail
        except zlib.error:  # damaged, which its reader will say
            pass
    return size


def _begins_deflated(file: BinaryIO) -> bool:
    """Reads up to where pydicom begins to inflate, with its own functions; False: it will not."""
    try:
        read_preamble(file, force=True)
        meta = read_dataset(
            file, is_implicit_VR=False, is_little_endian=True, stop_when=_is_beyond(2)
        )
        read_dataset(  # a command, of messages in a network; it is passed over
            file, is_implicit_VR=True, is_little_endian=True, stop_when=_is_beyond(0)
        )
        return meta.get("TransferSyntaxUID") == DeflatedExplicitVRLittleEndian
    except Exception:  # pydicom raises what it likes, and its caller will say that it is damaged
        return False


def _is_beyond(group: int) -> Callable[..., bool]:
    return lambda tag, *_: tag >> 16 != group


def check_text_header(path: Path) -> None:
    """Reads the header of a MetaImage or NRRD; passes over any other file.

    Raises:
      VolumeError: the voxels lie outside the image's folder (a scan from elsewhere could so show
        what lies anywhere on this disk) or in a list of files; or it is no header.
    """
    ending = path.suffix.lower()
    if ending not in (".mha", ".mhd", ".nrrd"):
        return
    with path.open("rb") as file:
        fields = _read_fields(file.read(_LONGEST), ending)
    axes = [value for key, value in fields if key == "ndims"]
    if ending != ".nrrd" and not (len(axes) == 1 and axes[0] in ("1", "2", "3", "4")):
        raise VolumeError(f"{path}: no MetaImage, or a damaged one; copy or export it again")
    for key, value in fields:
        outside = re.search(r"^[/\\]|[:%]|(^|[/\\])\.\.([/\\]|$)", value)
        if key in _FILES and (outside or value.upper().startswith("LIST")):
            raise VolumeError(
                f"{path}: its voxels lie in other files ({value!r}); save it as one .mha or .nii.gz"
            )
        if len(value) > _LONGEST_LINE:
            raise VolumeError(f"{path}: its field {key!r} is too long; export it again")


def _read_fields(head: bytes, ending: str) -> list[tuple[str, str]]:
    """Returns names (without spaces, in lower case) and values, up to where voxels may begin."""
    fields = []
    for line in re.split(r"\n" if ending == ".nrrd" else r"[\r\n]", head.decode("latin-1")):
        if ending == ".nrrd" and line in ("", "\r"):
            break
        name, _, value = re.sub(r"\s*[=:]=?\s*", "\n", line.strip(), count=1).partition("\n")
        fields.append((re.sub(r"\s", "", name).lower(), value))
        if fields[-1][0] == "elementdatafile":
            break
    return fields
