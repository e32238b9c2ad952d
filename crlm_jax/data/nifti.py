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

from crlm_jax.data.geometry import NOT_FINITE, VolumeError

_CUT_OFF = "the file is cut off or damaged ({}); copy or export it again"
_FLOATS = {16: "f4", 64: "f8"}


def check_nifti(path: Path) -> None:
    """Reads a NIfTI file to its end: is all of it there, and is every voxel a number?

    The layout of the header is that of nifti1.h and nifti2.h.
    """
    opener = gzip.open if path.name.lower().endswith(".gz") else open
    try:
        with opener(path, "rb") as stream:
            head = stream.read(544)
            first = head[:4]
            order = next((o for o in "<>" if first == struct.pack(f"{o}i", 348)), None)
            order2 = next((o for o in "<>" if first == struct.pack(f"{o}i", 540)), None)
            if order and len(head) >= 348:
                dims = struct.unpack_from(f"{order}8h", head, 40)
                datatype, bits = struct.unpack_from(f"{order}2h", head, 70)
                start = int(struct.unpack_from(f"{order}f", head, 108)[0])
            elif order2 and len(head) >= 540:
                order = order2
                datatype, bits = struct.unpack_from(f"{order}2h", head, 12)
                dims = struct.unpack_from(f"{order}8q", head, 16)
                start = struct.unpack_from(f"{order}q", head, 168)[0]
            else:
                raise VolumeError(
                    f"{path}: not a NIfTI file, whatever its name says; export it again as .nii.gz"
                )
            length = math.prod(max(1, n) for n in dims[1 : 1 + dims[0]]) * bits // 8
            stream.seek(start)
            finite, missing = _drain(stream, length, _FLOATS.get(datatype), order)
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise VolumeError(f"{path}: {_CUT_OFF.format(str(error).rstrip('.'))}") from error
    if missing:
        reason = f"{missing} of {length} bytes of voxels are missing"
        raise VolumeError(f"{path}: {_CUT_OFF.format(reason)}")
    if not finite:
        raise VolumeError(f"{path}: {NOT_FINITE}")


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
