"""What ITK believes of a MetaImage's or NRRD's header, and must not.

The header may name the file that holds the voxels, wherever on the disk it lies. And the reader of
MetaImages writes beyond its memory where the number of axes cannot be, and takes the name of the
file for a format of C's printf.
"""

import re
from pathlib import Path

from crlm_jax.data.geometry import VolumeError

_LONGEST = 2**20  # bytes of a header
_LONGEST_LINE = 2**12
_FILES = ("elementdatafile", "datafile")  # MetaImage's field and NRRD's, which may be two words


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
