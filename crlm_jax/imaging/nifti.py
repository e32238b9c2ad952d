"""What ITK lets pass without a word in a NIfTI file.

Its reader fills a truncated file up with zeros and turns voxels that are NaN or infinite into
zeros, so the raw stream is read to its end beforehand.
"""

import gzip
import math
import struct
import zlib
from pathlib import Path
from typing import BinaryIO

import numpy as np

from crlm_jax.imaging.geometry import NOT_FINITE, VolumeError, check_size

_CUT_OFF = "the file is cut off or damaged ({}); copy or export it again"
_FLOATS = {16: "f4", 64: "f8"}
_BYTES = {  # of a voxel, by its datatype; what the header itself says of bits is not read by all
    2: 1, 4: 2, 8: 4, 16: 4, 32: 8, 64: 8, 128: 3, 256: 1, 512: 2, 768: 4, 1024: 8, 1280: 8,
    2304: 4,
}  # fmt: skip
_FURTHEST = 2**31  # bytes before the voxels: extensions may stand there


def check_nifti(path: Path) -> None:
    """Reads a NIfTI file to its end: is all of it there, and is every voxel a number?

    Raises:
      VolumeError: it is not, or the header claims what cannot be.
    """
    opener = gzip.open if path.name.lower().endswith(".gz") else open
    try:
        with opener(path, "rb") as stream:
            order, size, datatype, start = _read_header(path, stream.read(544))
            check_size(path, size)
            length = math.prod(size) * _BYTES[datatype]
            stream.seek(start)
            finite, missing = _drain(stream, length, _FLOATS.get(datatype), order)
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise VolumeError(f"{path}: {_CUT_OFF.format(str(error).rstrip('.'))}") from error
    if missing:
        reason = f"{missing} of {length} bytes of voxels are missing"
        raise VolumeError(f"{path}: {_CUT_OFF.format(reason)}")
    if not finite:
        raise VolumeError(f"{path}: {NOT_FINITE}")


def _read_header(path: Path, head: bytes) -> tuple[str, tuple[int, ...], int, int]:
    """Returns byte order, size, datatype and where the voxels begin.

    The layout is that of nifti1.h and nifti2.h.
    """
    first = head[:4]
    order = next((o for o in "<>" if first == struct.pack(f"{o}i", 348)), None)
    order2 = next((o for o in "<>" if first == struct.pack(f"{o}i", 540)), None)
    if order and len(head) >= 348:
        dims = struct.unpack_from(f"{order}8h", head, 40)
        (datatype,) = struct.unpack_from(f"{order}h", head, 70)
        (start,) = struct.unpack_from(f"{order}f", head, 108)
    elif order2 and len(head) >= 540:
        (datatype,) = struct.unpack_from(f"{order2}h", head, 12)
        dims = struct.unpack_from(f"{order2}8q", head, 16)
        (start,) = struct.unpack_from(f"{order2}q", head, 168)
    else:
        raise VolumeError(
            f"{path}: not a NIfTI file, whatever its name says; export it again as .nii.gz"
        )
    if datatype not in _BYTES or not 1 <= dims[0] <= 7 or not 0 <= start < _FURTHEST:  # nor NaN
        reason = "its header cannot be: {} axes, datatype {}, voxels from byte {:g}"
        reason = reason.format(dims[0], datatype, start)
        raise VolumeError(f"{path}: {_CUT_OFF.format(reason)}")
    size = tuple(max(1, n) for n in dims[1 : 1 + dims[0]])
    return order or order2, size, datatype, max(int(start), 348 if order else 540)


def _drain(stream: BinaryIO, length: int, dtype: str | None, order: str) -> tuple[bool, int]:
    """Reads the voxels and whatever follows them; returns (all finite, bytes missing)."""
    finite, step = True, 1 << 20  # bytes; a multiple of every voxel's size
    while length and (chunk := stream.read(min(step, length))):
        length -= len(chunk)
        if dtype and len(chunk) % np.dtype(dtype).itemsize == 0:
            finite = finite and bool(np.isfinite(np.frombuffer(chunk, order + dtype)).all())
    while stream.read(step):  # to the end: only there gzip's checksum is compared
        pass
    return finite, length
