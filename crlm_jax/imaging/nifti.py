"""Detects truncated or non-finite NIfTI files, which ITK silently zero-fills.

ITK's reader fills a truncated file up with zeros, and turns voxels that are NaN or infinite into
zeros. So the raw stream is read to its end before ITK reads the file.
"""

import gzip
import io
import math
import struct
import zlib
from pathlib import Path

import numpy as np

from crlm_jax.imaging.geometry import COMPLEX, NOT_FINITE, VolumeError, check_size, format_point
from crlm_jax.imaging.nifti_forms import check_sides, read_forms

_CUT_OFF = "the file is cut off or damaged ({}); copy or export it again"
_NO_SPACING = (
    "its header says a spacing of 0 mm ({} along the file's axes), so that no volume can be "
    "measured; export it again with the spacing of the scan"
)
_NO_NUMBER = (
    "its header says a spacing that is no number ({} along the file's axes), so that no volume can "
    "be measured; export it again with the spacing of the scan"
)
_NOT_MM = (
    "its header says that lengths are in {}, and a spacing of {}; programs do not agree on what "
    "that is: convert it to mm (xyzt_units 2), or correct the unit"
)
_CONTRADICTS = (
    "its header contradicts itself: a spacing of {} mm by pixdim, but {} mm by the sform; set both "
    "to the spacing of the scan, or convert the scan again, for example with dcm2niix"
)
_UNITS = {1: "metres", 3: "micrometres"}
_APART = 0.01  # of the spacing
_FLOATS = {16: "f4", 64: "f8"}
_BYTES = {  # of a voxel, by datatype code; not every reader looks at the header's own bit count
    2: 1, 4: 2, 8: 4, 16: 4, 32: 8, 64: 8, 128: 3, 256: 1, 512: 2, 768: 4, 1024: 8, 1280: 8,
    2304: 4,
}  # fmt: skip
_GZIP = b"\x1f\x8b"
_COMPLEX = (32, 1792, 2048)  # datatype codes
_FURTHEST = 2**31  # bytes before the voxels, where a file may have extensions


def check_nifti(path: Path) -> None:
    """Reads a NIfTI file to its end to see that it is complete and that every voxel is finite.

    Raises:
      VolumeError: the file is cut off or damaged, a voxel is not finite, or the header is invalid.
    """
    with path.open("rb") as file:
        zipped = file.read(2) == _GZIP  # whatever its name: some programs unpack and keep the name
    if zipped and not path.name.lower().endswith(".gz"):
        raise VolumeError(f"{path}: is compressed (gzip); rename it to {path.name}.gz")
    try:
        with gzip.open(path, "rb") if zipped else path.open("rb") as stream:
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
    """Returns byte order, size, datatype code and the offset of the voxels in bytes.

    The layouts are those of nifti1.h and nifti2.h; both begin with the length of the header.
    """
    lengths = {struct.pack(f"{order}i", n): (order, n) for order in "<>" for n in (348, 540)}
    order, length = lengths.get(head[:4], ("", 0))
    if not length or len(head) < length:
        raise VolumeError(f"{path}: not a NIfTI file, despite its name; export it again as .nii.gz")
    if length == 348:
        steps = struct.unpack_from(f"{order}8f", head, 76)
        dims = struct.unpack_from(f"{order}8h", head, 40)
        (datatype,) = struct.unpack_from(f"{order}h", head, 70)
        (start,) = struct.unpack_from(f"{order}f", head, 108)
    else:
        steps = struct.unpack_from(f"{order}8d", head, 104)
        (datatype,) = struct.unpack_from(f"{order}h", head, 12)
        dims = struct.unpack_from(f"{order}8q", head, 16)
        (start,) = struct.unpack_from(f"{order}q", head, 168)
    if datatype in _COMPLEX:
        raise VolumeError(f"{path}: {COMPLEX}")
    if datatype not in _BYTES or not 1 <= dims[0] <= 7 or not 0 <= start < _FURTHEST:  # also of NaN
        reason = "its header is invalid: {} axes, datatype {}, voxels from byte {:g}"
        reason = reason.format(dims[0], datatype, start)
        raise VolumeError(f"{path}: {_CUT_OFF.format(reason)}")
    size = tuple(max(1, n) for n in dims[1 : 1 + dims[0]])
    if len(size) >= 3 and 0 in steps[1:4]:  # ITK would take 1 mm
        raise VolumeError(f"{path}: {_NO_SPACING.format(format_point(np.array(steps[1:4])))}")
    _check_spacing(path, head, order, length, np.abs(steps[1 : 1 + min(3, len(size))]))
    return order, size, datatype, max(int(start), length)


def _check_spacing(path: Path, head: bytes, order: str, length: int, steps: np.ndarray) -> None:
    """Compares what a header says of the spacing in several fields.

    ITK takes the spacing of `pixdim`, and only the direction of the axes from the sform. Other
    programs take the sform, so that they see another spacing where the two disagree.
    """
    if not np.isfinite(steps).all():  # ITK would take 1 mm
        raise VolumeError(f"{path}: {_NO_NUMBER.format(format_point(steps))}")
    forms = read_forms(head, order, length)
    if unit := _UNITS.get(forms.units & 7):
        raise VolumeError(f"{path}: {_NOT_MM.format(unit, format_point(steps))}")
    if not forms.in_patient:
        return
    lengths = forms.spacing[: len(steps)]
    # Not finite or 0: no direction, which is reported elsewhere, or which ITK does not take.
    if not (np.isfinite(lengths).all() and lengths.all()):
        return
    if (np.abs(lengths - steps) > _APART * steps).any():
        said = _CONTRADICTS.format(format_point(steps), format_point(lengths))
        raise VolumeError(f"{path}: {said}")
    if len(steps) == 3:
        check_sides(path, forms)


def _drain(
    stream: io.BufferedIOBase, length: int, dtype: str | None, order: str
) -> tuple[bool, int]:
    """Reads `length` bytes of voxels and the rest; returns (all finite, bytes missing)."""
    finite, step = True, 1 << 20  # bytes; a multiple of every voxel's size
    while length and (chunk := stream.read(min(step, length))):
        length -= len(chunk)
        if dtype and len(chunk) % np.dtype(dtype).itemsize == 0:
            finite = finite and bool(np.isfinite(np.frombuffer(chunk, order + dtype)).all())
    while stream.read(step):  # gzip compares its checksum only at the end
        pass
    return finite, length
