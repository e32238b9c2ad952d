"""Where a NIfTI header says that the image lies: its qform and its sform, and whether they agree.

Programs do not agree on which of the two counts. ITK takes the sform if its code is 1, and else the
qform; nibabel takes the sform always. So a header whose two forms differ is two images.
"""

import dataclasses
import gzip
import struct
from pathlib import Path

import numpy as np

from crlm_jax.imaging.geometry import VolumeError

_ATLAS = (3, 4)  # sform codes: Talairach, MNI
_SCANNER = 1  # the sform code with which ITK takes the sform
_SAME_AXIS = 0.5  # least cosine between axes that point the same way: within 60°
_NEAR = 0.5  # of the smallest spacing: how far the two may place a corner apart without a word
_GZIP = b"\x1f\x8b"
_SIDES = (
    "its header contradicts itself: by its qform and its sform the axes point different ways ({} "
    "and {}), so that left and right, or head and feet, may be exchanged; convert the scan again, "
    "for example with dcm2niix, or set the code of the wrong one to 0"
)
_PLACES = (
    "its header contradicts itself: its qform and its sform place it up to {:.3g} mm apart; the {} "
    "is taken, and other programs may take the other: set both alike, or convert the scan again"
)
_NEITHER = (
    "its header does not say how it lies in the patient (qform and sform codes are 0); left and "
    "right, or head and feet, may be exchanged: convert the scan again, for example with dcm2niix"
)


@dataclasses.dataclass(frozen=True)
class Forms:
    """The forms of a header, as voxels to mm (RAS); `qform` and `sform` are their codes."""

    qform: int
    sform: int
    units: int
    size: tuple[int, int, int]
    steps: np.ndarray  # (3,) spacing by pixdim, mm
    by_qform: np.ndarray  # (3, 4)
    by_sform: np.ndarray  # (3, 4)

    @property
    def spacing(self) -> np.ndarray:
        """The spacing along the axes by the sform, (3,) mm."""
        return np.linalg.norm(self.by_sform[:, :3], axis=0)

    @property
    def in_patient(self) -> bool:
        """Whether the sform says where the patient lay, not where an atlas would have it.

        To an atlas it may stretch the image; the qform then says where the patient lay.
        """
        return self.sform > 0 and not (self.sform in _ATLAS and self.qform > 0)


def read_forms(head: bytes, order: str, length: int) -> Forms:
    """Reads the forms from the first bytes of a file, in the layouts of nifti1.h and nifti2.h.

    Args:
      head: at least `length` bytes.
      order: "<" or ">".
      length: of the header: 348, or 540 in NIfTI-2.
    """

    def unpack(kind: str, offset: int) -> tuple:
        return struct.unpack_from(f"{order}{kind}", head, offset)

    if length == 348:
        (qform, sform), units, real = unpack("2h", 252), head[123], "f"
        places, size, steps = (256, 268, 280), unpack("8h", 40), unpack("8f", 76)
    else:
        (qform, sform), (units,), real = unpack("2i", 344), unpack("i", 500), "d"
        places, size, steps = (352, 376, 400), unpack("8q", 16), unpack("8d", 104)
    turn, origin = (np.array(unpack(f"3{real}", place), float) for place in places[:2])
    rows = np.reshape(unpack(f"12{real}", places[2]), (3, 4)).astype(float)
    spacing = np.abs(np.array(steps[1:4], float))
    with np.errstate(invalid="ignore", over="ignore"):  # of damaged headers; see `_comparable`
        axes = _rotation(turn) * spacing
    if steps[0] < 0:
        axes[:, 2] *= -1
    x, y, z = (max(1, size[axis]) if axis <= size[0] else 1 for axis in (1, 2, 3))
    by_qform = np.column_stack([axes, origin])
    return Forms(qform, sform, units, (x, y, z), spacing, by_qform, rows)


def _rotation(turn: np.ndarray) -> np.ndarray:
    """Returns the rotation (3, 3) of a quaternion whose first part is implied."""
    length = float(np.linalg.norm(turn))
    b, c, d = turn / max(1.0, length)  # of half a turn, rounding may leave more than 1
    a = np.sqrt(max(0.0, 1 - length * length))
    return np.array(
        [
            [a * a + b * b - c * c - d * d, 2 * (b * c - a * d), 2 * (b * d + a * c)],
            [2 * (b * c + a * d), a * a + c * c - b * b - d * d, 2 * (c * d - a * b)],
            [2 * (b * d - a * c), 2 * (c * d + a * b), a * a + d * d - b * b - c * c],
        ]
    )


def check_sides(path: Path, forms: Forms) -> None:
    """Raises VolumeError if the axes point different ways by the qform and by the sform."""
    if not _comparable(forms):
        return
    axes = [np.asarray(form[:, :3]) for form in (forms.by_qform, forms.by_sform)]
    first, second = (own / np.linalg.norm(own, axis=0) for own in axes)
    if (np.sum(first * second, axis=0) < _SAME_AXIS).any():
        raise VolumeError(f"{path}: {_SIDES.format(_letters(first), _letters(second))}")


def _letters(axes: np.ndarray) -> str:
    """Names where axes (3, 3) point, such as LPS: to the left, to the back, to the head."""
    largest = np.abs(axes).argmax(axis=0)
    return "".join("LPI"[row] if axes[row, i] < 0 else "RAS"[row] for i, row in enumerate(largest))


def _comparable(forms: Forms) -> bool:
    """Whether both forms say where the patient lay. What is no number is reported elsewhere."""
    numbers = np.concatenate([forms.by_qform, forms.by_sform])
    with np.errstate(invalid="ignore", over="ignore"):
        able = np.isfinite(numbers).all() and forms.spacing.all() and forms.steps.all()
    return bool(able) and forms.qform > 0 and forms.in_patient


def form_doubts(path: Path) -> tuple[str, ...]:
    """Says that a NIfTI places its image nowhere, or in two places; () for other files."""
    if not path.name.lower().endswith((".nii", ".nii.gz")) or not path.is_file():
        return ()
    with path.open("rb") as file:
        zipped = file.read(2) == _GZIP
    with gzip.open(path, "rb") if zipped else path.open("rb") as stream:
        head = stream.read(544)
    lengths = {struct.pack(f"{order}i", n): (order, n) for order in "<>" for n in (348, 540)}
    forms = read_forms(head, *lengths[head[:4]])
    if forms.qform <= 0 and forms.sform <= 0:
        return (_NEITHER,)
    if not _comparable(forms):
        return ()
    ends = [(0, count - 1) for count in forms.size]
    corners = np.stack([*np.meshgrid(*ends, indexing="ij"), np.ones((2, 2, 2))]).reshape(4, 8)
    apart = np.linalg.norm((forms.by_qform - forms.by_sform) @ corners, axis=0).max()
    if apart <= _NEAR * forms.steps.min():
        return ()
    return (_PLACES.format(apart, "sform" if forms.sform == _SCANNER else "qform"),)
