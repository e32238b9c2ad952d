"""The b-values of a NIfTI file, in a `.bval` file beside it, as dcm2niix and FSL write it.

It has one number (s/mm²) for each volume of the 4D image, separated by white space.
"""

import math
import re
from pathlib import Path

import SimpleITK as sitk

from crlm_jax.imaging.dicom.diffusion import SAY_WHICH, pick_b_value
from crlm_jax.imaging.geometry import VolumeError

_NIFTI = re.compile(r"\.nii(\.gz)?$", re.IGNORECASE)
_MOST_BYTES = 1 << 20  # of a .bval file


def find_bvals(path: Path) -> Path | None:
    """Returns the `.bval` file beside a NIfTI file; None if there is none."""
    if not _NIFTI.search(path.name):
        return None
    beside = path.with_name(_NIFTI.sub(".bval", path.name))
    return beside if beside.is_file() else None


def only_b_value(path: Path) -> float | None:
    """Returns the b-value (s/mm²) of a NIfTI file that has one; None if it has several, or none."""
    beside = find_bvals(path)
    try:
        known = set(_read(beside)) if beside else set()
    except (VolumeError, OSError):  # of a 3D image the file is of no use otherwise
        return None
    return known.pop() if len(known) == 1 else None


def take_volume(image: sitk.Image, path: Path, b_value: float | None) -> sitk.Image:
    """Returns the volume of a diffusion series that has the wanted b-value.

    An image without a `.bval` file is returned as it is, and so is a 3D image if no b-value is
    asked for.

    Args:
      image: as it was read.
      path: of the file that it was read from.
      b_value: in s/mm²; None: 1000 if the file has several.

    Raises:
      VolumeError: the `.bval` file has not one number a volume; or not exactly one volume has the
        b-value; or a b-value is asked for, and nothing says which volume has it.
    """
    beside = find_bvals(path)
    several = image.GetDimension() == 4
    if beside is None:
        if b_value is None:
            return image
        raise VolumeError(
            f"{path}: not DICOM, and no .bval file beside it says b-values, so it has no b-value "
            "to choose; leave the b-value out"
        )
    if image.GetDimension() not in (3, 4) or (b_value is None and not several):
        return image
    index = _choose(path, beside, image.GetSize()[3] if several else 1, b_value)
    if not several:
        return image
    volume = image[..., index]
    for key in image.GetMetaDataKeys():  # which ITK's extraction leaves behind
        volume.SetMetaData(key, image.GetMetaData(key))
    return volume


def _choose(path: Path, beside: Path, volumes: int, b_value: float | None) -> int:
    """Returns the index of the volume with the wanted b-value.

    The rule is that for DICOM: 1000 s/mm², or the only one; b-values are compared as whole numbers.
    """
    known = _read(beside)
    if len(known) != volumes:
        raise VolumeError(
            f"{beside}: has {len(known)} b-values, but {path.name} has {volumes} volumes; give the "
            "files of one conversion"
        )
    if len(set(known)) == 1:
        b = known[0]
        if b_value is not None and round(b_value) != b:
            raise VolumeError(
                f"{path}: has a b-value of {b:g} s/mm² by {beside.name}, not {b_value:g}; "
                f"{SAY_WHICH} {b:g}, or give the image that has the other"
            )
    else:
        b = pick_b_value(str(path), known, b_value, of=beside.name)
    found = [index for index, stated in enumerate(known) if stated == b]
    if len(found) > 1:
        raise VolumeError(
            f"{path}: {len(found)} volumes have the b-value {b:g} s/mm² ({beside.name}), as for "
            "several diffusion directions; save the trace, or the wanted volume, as its own file"
        )
    return found[0]


def _read(path: Path) -> list[float]:
    """Returns the b-values of a file, each rounded to a whole number."""
    try:
        with path.open("rb") as file:
            text = file.read(_MOST_BYTES).decode("ascii")
        found = [float(word) for word in text.replace(",", " ").split()]
    except ValueError:
        found = []
    if not found or not all(math.isfinite(b) and b >= 0 for b in found):
        raise VolumeError(
            f"{path}: not a list of b-values (numbers of 0 or more, one a volume); write it again"
        )
    return [float(round(b)) for b in found]
