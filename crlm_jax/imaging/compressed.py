"""Detects damage in compressed MetaImages and NRRDs, which ITK reads without their checksums.

zlib and gzip end with a checksum of what they hold. ITK's readers take wrong voxels without a look
at it, so the voxels are inflated before, and not kept.
"""

import re
import zlib
from pathlib import Path
from typing import BinaryIO

from crlm_jax.imaging.geometry import VolumeError
from crlm_jax.imaging.headers import LONGEST_HEADER, data_files, text_fields

_CHUNK = 2**16  # bytes read at once
_INFLATED = 2**22  # bytes inflated at once
_BYTES = 8  # of the largest voxel
_EITHER = 32 + zlib.MAX_WBITS  # zlib or gzip, by their first bytes
_BEGINS = {  # what stands before the voxels in one file
    "metaimage": re.compile(rb"(?m)^\s*ElementDataFile\s*=[^\n]*\n"),
    "nrrd": re.compile(rb"\r?\n\r?\n"),
}


def check_compressed(path: Path, voxels: int) -> None:
    """Inflates the voxels of a compressed MetaImage or NRRD; any other file is skipped.

    Args:
      path: the file, whose header `headers.check_text_header` has accepted.
      voxels: so many its header claims, at most `geometry.MOST_VOXELS`.

    Raises:
      VolumeError: the voxels are cut off or damaged.
    """
    fields = dict(text_fields(path))
    kind = "nrrd" if path.suffix.lower() in (".nrrd", ".nhdr") else "metaimage"
    if kind == "nrrd":
        skips = any(fields.get(name, "0") != "0" for name in ("byteskip", "lineskip"))
        packed = fields.get("encoding", "").lower() in ("gzip", "gz") and not skips
    else:
        packed = fields.get("compresseddata", "").lower() in ("true", "1")
    if not packed:
        return
    beside = data_files(path)
    try:
        with (beside[0] if beside else path).open("rb") as file:
            if not beside:
                found = _BEGINS[kind].search(file.read(LONGEST_HEADER))
                file.seek(found.end() if found else 0)
            wrong = _inflate(file, voxels * _BYTES)
    except OSError as error:
        raise VolumeError(
            f"{path}: the file of its voxels cannot be read ({error.strerror}); copy both files"
        ) from error
    except zlib.error as error:
        raise VolumeError(f"{path}: {_DAMAGED.format(error)}") from error
    if wrong:
        raise VolumeError(f"{path}: {_DAMAGED.format(wrong)}")


def _inflate(file: BinaryIO, most: int) -> str | None:
    """Inflates a stream to its end, but to little beyond `most` bytes; says what is wrong."""
    inflater = zlib.decompressobj(_EITHER)
    size = 0
    for chunk in iter(lambda: file.read(_CHUNK), b""):
        rest = chunk
        while rest:
            size += len(inflater.decompress(rest, _INFLATED))
            if inflater.eof:
                return None
            if size > most:
                return "they are more than its header says"
            rest = inflater.unconsumed_tail
    return "they are cut off"


_DAMAGED = "its compressed voxels are cut off or damaged ({}); copy or export it again"
