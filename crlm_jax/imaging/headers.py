"""Validates headers before ITK or pydicom trusts them.

The header of a MetaImage or NRRD may name the file that holds the voxels, anywhere on the disk.
ITK's reader of MetaImages also writes beyond its memory if the number of axes is invalid, and uses
the name of the voxel file as a format string of C's printf.

A DICOM file may be deflated. pydicom and ITK inflate such a file without a limit on its size.
"""

import re
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import BinaryIO

from pydicom.filereader import read_dataset, read_preamble
from pydicom.uid import DeflatedExplicitVRLittleEndian

from crlm_jax.imaging.geometry import MOST_VOXELS, VolumeError

LONGEST_HEADER = 2**20  # bytes
_LONGEST_LINE = 2**12
_NRRD = (".nrrd", ".nhdr")
_TEXT = (".mha", ".mhd", *_NRRD)  # endings of files that begin with a header of text
# The field that names the voxel file, in MetaImage and in NRRD (where a space may divide it).
_FILES = ("elementdatafile", "datafile")

_MOST_INFLATED = 2 * MOST_VOXELS  # bytes: the largest image of 16 bits, as CT and MRI have
_RATIO = 1032  # the greatest that deflate reaches: 258 bytes in two bits (zlib.net/zlib_tech.html)
_CHUNK = 2**16  # bytes read at once; many times as many are inflated at once


def check_deflated(files: Sequence[Path]) -> None:
    """Measures the inflated size of deflated DICOM files without keeping their content.

    Files that are not deflated DICOM are skipped.

    Args:
      files: those that will be in memory at the same time.

    Raises:
      VolumeError: together they are larger than the largest image; the message names the file that
        exceeds the limit.
    """
    # Most slices are so small that they cannot reach the limit: those files are not even opened.
    if sum(path.stat().st_size for path in files) * _RATIO <= _MOST_INFLATED:
        return
    left = _MOST_INFLATED
    for path in files:
        left -= _inflated(path, left)
        if left < 0:
            raise VolumeError(
                f"{path}: a deflated DICOM file that would fill more than {_MOST_INFLATED:,} bytes"
                f"{' with those before it' * (len(files) > 1)}; copy or export it again, or if the "
                "file is right, store it uncompressed (for example with dcmconv +te)"
            )


def _inflated(path: Path, most: int) -> int:
    """Returns the inflated size in bytes, counted to little beyond `most`; 0 if not deflated."""
    with path.open("rb") as file:
        if not _begins_deflated(file):
            return 0
        inflater, size = zlib.decompressobj(-zlib.MAX_WBITS), 0
        try:
            while size <= most and not inflater.eof and (chunk := file.read(_CHUNK)):
                while chunk and size <= most and not inflater.eof:
                    size += len(inflater.decompress(chunk, 16 * _CHUNK))
                    chunk = inflater.unconsumed_tail
        except zlib.error:  # a damaged file, which its reader reports
            pass
    return size


def _begins_deflated(file: BinaryIO) -> bool:
    """Reads, with pydicom's own functions, up to where pydicom would inflate; says if it would."""
    try:
        read_preamble(file, force=True)
        meta = read_dataset(
            file, is_implicit_VR=False, is_little_endian=True, stop_when=_is_beyond(2)
        )
        read_dataset(  # the command group of network messages, which pydicom skips
            file, is_implicit_VR=True, is_little_endian=True, stop_when=_is_beyond(0)
        )
        return meta.get("TransferSyntaxUID") == DeflatedExplicitVRLittleEndian
    except Exception:  # pydicom raises any error for damage, and its caller reports the damage
        return False


def _is_beyond(group: int) -> Callable[[int, str | None, int], bool]:
    return lambda tag, *_: tag >> 16 != group


def check_text_header(path: Path) -> None:
    """Checks the header of a MetaImage or NRRD; any other file is skipped.

    Raises:
      VolumeError: the header is invalid; or the voxels lie in a list of files, or outside the
        image's folder, by which a foreign scan could show any file of this disk.
    """
    ending = path.suffix.lower()
    if ending not in _TEXT:
        return
    fields = text_fields(path)
    _check_spacings(path, dict(fields))
    if unit := re.search(r"\b(k?m|cm|µm|um|in|microns?|inch)\b", _units(fields)):
        raise VolumeError(
            f"{path}: its header says that lengths are in {unit[0]}; ITK would take mm: convert it "
            "to mm, or correct the unit"
        )
    axes = [value for key, value in fields if key == "ndims"]
    if ending not in _NRRD and not (len(axes) == 1 and axes[0] in ("1", "2", "3", "4")):
        raise VolumeError(f"{path}: not a MetaImage, or damaged; copy or export it again")
    for key, value in fields:
        outside = re.search(r"^[/\\]|[:%]|(^|[/\\])\.\.([/\\]|$)", value)
        if key in _FILES and (outside or value.upper().startswith("LIST")):
            raise VolumeError(
                f"{path}: its voxels lie in other files ({value!r}); save it as one .mha or .nii.gz"
            )
        if len(value) > _LONGEST_LINE:
            raise VolumeError(f"{path}: its field {key!r} is too long; export it again")


def _units(fields: Sequence[tuple[str, str]]) -> str:
    return " ".join(value for key, value in fields if key in ("spaceunits", "units")).lower()


def _check_spacings(path: Path, fields: dict[str, str]) -> None:
    """Raises VolumeError if a spacing is no number, for which ITK would take 1 mm.

    An axis of colours or segments has none, and its kind says so.
    """
    kinds = fields.get("kinds", "").lower().split()
    for key in ("spacings", "elementspacing", "elementsize"):
        for axis, text in enumerate(fields.get(key, "").split()):
            in_space = len(kinds) <= axis or kinds[axis] in _SPATIAL
            if in_space and re.fullmatch(r"[+-]?(nan|inf)\S*", text, re.IGNORECASE):
                raise VolumeError(
                    f"{path}: its header says a spacing that is no number ({text}), so that no "
                    "volume can be measured; export it again with the spacing of the scan"
                )


_SPATIAL = ("domain", "space", "none", "???", "time")  # kinds of NRRD axes along which one measures
_SPACINGS = ("spacings", "spacedirections", "elementspacing", "elementsize")


def spacing_doubts(path: Path) -> tuple[str, ...]:
    """Says that a MetaImage or NRRD has no spacing; () for other files."""
    if path.suffix.lower() not in _TEXT or not path.is_file():
        return ()
    if any(key in _SPACINGS for key, _ in text_fields(path)):
        return ()
    return ("its header says no spacing; 1 mm is taken, so that lengths and volumes may be wrong",)


def data_files(path: Path) -> tuple[Path, ...]:
    """Returns the file beside a MetaImage or NRRD that holds its voxels; () if it holds them."""
    if path.suffix.lower() not in _TEXT:
        return ()
    named = [value for key, value in text_fields(path) if key in _FILES]
    return tuple(path.parent / name for name in named if name and name.upper() != "LOCAL")


def text_fields(path: Path) -> list[tuple[str, str]]:
    """Returns the fields of a MetaImage or NRRD as `_read_fields`; [] for other files."""
    if path.suffix.lower() not in _TEXT:
        return []
    with path.open("rb") as file:
        return _read_fields(file.read(LONGEST_HEADER), path.suffix.lower())


def _read_fields(head: bytes, ending: str) -> list[tuple[str, str]]:
    """Returns names (without spaces, in lower case) and values, up to where voxels may begin."""
    fields: list[tuple[str, str]] = []
    for line in re.split(r"\n" if ending in _NRRD else r"[\r\n]", head.decode("latin-1")):
        if ending in _NRRD and line in ("", "\r"):
            break
        name, _, value = re.sub(r"\s*[=:]=?\s*", "\n", line.strip(), count=1).partition("\n")
        fields.append((re.sub(r"\s", "", name).lower(), value))
        if fields[-1][0] == "elementdatafile":
            break
    return fields
