"""Takes a picture of tiles apart: Siemens MOSAIC, and United Imaging's grid (VFRAME).

Such a file holds a whole volume as one picture, whose tiles are the slices, row by row. Siemens
states how many there are, and in which direction they follow each other, in a private header, CSA;
Image Position is that of a slice as large as the picture, about the same centre. The layout is as
the NiBabel project describes it (`doc/source/dicom/siemens_csa.rst` and `dicom_mosaic.rst`). United
Imaging states each slice's position (rordenlab/dcm2niix, `UIH/README.md`).
"""

import contextlib
import math
import struct
from pathlib import Path

import numpy as np
import pydicom

from crlm_jax.imaging.dicom.b_value import image_type, private, stated_b_value
from crlm_jax.imaging.dicom.files import as_volume_error
from crlm_jax.imaging.dicom.frames import Frame, numbers
from crlm_jax.imaging.geometry import VolumeError, check_size

_UIH = "Image Private Header"  # private creator
_MOST_TILES = 4096  # of a picture; scanners write some hundred
_REMEDY = (
    "export the series again with all private elements, or as one image a slice, or convert it to "
    "NIfTI, for example with dcm2niix"
)


def is_tiled(header: pydicom.Dataset) -> bool:
    """Whether a file's picture holds several slices as tiles."""
    return (
        any(word in value for word in ("MOSAIC", "VFRAME") for value in image_type(header))
        or (_whole(private(header, _UIH, 0x0065, 0x50)) or 0) > 1
        or (_siemens_count(header, read_csa(header)) or 0) > 1
    )


def split_tiles(header: pydicom.Dataset) -> list[pydicom.Dataset]:
    """Returns the header of each slice of a tiled picture, in the order of the tiles.

    Raises:
      VolumeError: the header does not say how many slices there are, or where they lie.
    """
    with as_volume_error(header.filename):
        if "MOSAIC" not in image_type(header) and (
            private(header, _UIH, 0x0065, 0x50) is not None or "VFRAME" in image_type(header)
        ):
            return _split_grid(header)
        return _split_mosaic(header)


def _split_mosaic(header: pydicom.Dataset) -> list[pydicom.Dataset]:
    """Takes apart a Siemens MOSAIC."""
    file, csa = header.filename, read_csa(header)
    count, normal = _siemens_count(header, csa), _vector(csa.get("SliceNormalVector"))
    if count is None or normal is None:
        lacks = "how many slices it holds" if count is None else "the order of its slices"
        raise VolumeError(
            f"{file}: a MOSAIC, all slices of a volume in one picture, without the Siemens CSA "
            f"header that says {lacks}; {_REMEDY}"
        )
    side = math.ceil(math.sqrt(count))
    rows, columns = _tile_size(header, count, side, side)
    spacing = _slice_distance(header, csa)
    pixel = numbers(header, "PixelSpacing", 2)
    across, down = np.reshape(numbers(header, "ImageOrientationPatient", 6), (2, 3))
    along = np.cross(across, down)
    if abs(abs(along @ normal) - 1) > 0.05:
        raise VolumeError(
            f"{file}: a MOSAIC whose CSA header has another direction of the slices than its Image "
            f"Orientation; {_REMEDY}"
        )
    # The normal says only which way the slices follow; the planes say the direction itself.
    step = along * np.sign(along @ normal) * spacing
    middle = (side - 1) / 2
    first = numbers(header, "ImagePositionPatient", 3)
    first = first + across * middle * columns * pixel[1] + down * middle * rows * pixel[0]
    b_value = stated_b_value(header)
    if b_value is None and (stated := csa.get("B_value")):
        with contextlib.suppress(ValueError):
            b_value = float(stated[0])
    tiles: list[pydicom.Dataset] = []
    for index in range(count):
        tile = _tile(header, index, side, rows, columns, first + index * step)
        tile.put("SpacingBetweenSlices", spacing)
        if b_value is not None:
            tile.put("DiffusionBValue", b_value)
        tiles.append(tile)
    return tiles


def _split_grid(header: pydicom.Dataset) -> list[pydicom.Dataset]:
    """Takes apart a grid of United Imaging."""
    file = header.filename
    count = _whole(private(header, _UIH, 0x0065, 0x50))
    items = private(header, _UIH, 0x0065, 0x51)
    items = list(items) if isinstance(items, pydicom.Sequence) else []
    if count is None or len(items) != count:
        raise VolumeError(
            f"{file}: a grid (VFRAME), all slices of a volume in one picture, without the private "
            f"elements that say where its slices lie; {_REMEDY}"
        )
    across = math.ceil(math.sqrt(count))
    rows, columns = _tile_size(header, count, math.ceil(count / across), across)
    tiles: list[pydicom.Dataset] = []
    for index, item in enumerate(items):
        item.filename = file
        position = numbers(item, "ImagePositionPatient", 3)
        tiles.append(_tile(header, index, across, rows, columns, position))
    return tiles


def _tile_size(header: pydicom.Dataset, count: int, down: int, across: int) -> tuple[int, int]:
    """Returns the rows and columns of a tile."""
    rows, columns = (int(numbers(header, word, 1)[0]) for word in ("Rows", "Columns"))
    check_size(Path(header.filename), (columns, rows))
    if count > _MOST_TILES or rows % down or columns % across:
        raise VolumeError(
            f"{header.filename}: a picture of {columns} × {rows} pixels cannot hold {count} slices "
            f"as {across} × {down} tiles; {_REMEDY}"
        )
    return rows // down, columns // across


def _tile(
    header: pydicom.Dataset, index: int, across: int, rows: int, columns: int, place: np.ndarray
) -> Frame:
    tile = Frame.of(header, index + 1)
    tile.corner = index // across * rows, index % across * columns
    tile.put("Rows", rows)
    tile.put("Columns", columns)
    tile.put("ImagePositionPatient", [float(f"{value:.9g}") for value in place])
    return tile


def _slice_distance(header: pydicom.Dataset, csa: dict[str, list[str]]) -> float:
    """Returns the distance of the slices in mm; their thickness does not say it."""
    for stated in (header.get("SpacingBetweenSlices"), *csa.get("SpacingBetweenSlices", ())):
        with contextlib.suppress(TypeError, ValueError):
            if math.isfinite(distance := float(stated)) and distance > 0:
                return distance
    raise VolumeError(
        f"{header.filename}: a MOSAIC without the distance of its slices (Spacing Between Slices); "
        f"{_REMEDY}"
    )


def _siemens_count(header: pydicom.Dataset, csa: dict[str, list[str]]) -> int | None:
    """Returns how many slices a MOSAIC holds, or None if it does not say."""
    for stated in (
        private(header, "SIEMENS MR HEADER", 0x0019, 0x0A),
        *csa.get("NumberOfImagesInMosaic", ())[:1],
    ):
        if count := _whole(stated):
            return count
    return None


def _whole(value: object) -> int | None:
    """Returns a positive whole number, or None."""
    if isinstance(value, bytes):  # of an unknown type (UN)
        value = int.from_bytes(value, "little") if len(value) == 2 else value.decode("latin-1")
    try:
        number = float(str(value).strip(" \0"))
    except ValueError:
        return None
    return int(number) if number >= 1 and number == int(min(number, 2**31)) else None


def _vector(values: list[str] | None) -> np.ndarray | None:
    try:
        vector = np.asarray(values, float)
    except (TypeError, ValueError):
        return None
    return vector if vector.shape == (3,) and np.isfinite(vector).all() and vector.any() else None


# The CSA header


_TAG = struct.Struct("<64s i 4s 3i")  # name, multiplicity, type, type's number, items, mark
_ITEM = struct.Struct("<4i")  # the second is the length of the text in bytes


def read_csa(header: pydicom.Dataset) -> dict[str, list[str]]:
    """Returns the elements of Siemens' CSA Image Header Info (0029,xx10) as texts by name.

    Damage ends the list, and a header without CSA has an empty one.
    """
    data = private(header, "SIEMENS CSA HEADER", 0x0029, 0x10)
    if not isinstance(data, bytes):
        return {}
    found: dict[str, list[str]] = {}
    place = 8 if data[:4] == b"SV10" else 0
    try:
        (count,) = struct.unpack_from("<I", data, place)
        place += 8
        for _ in range(min(count, 1024)):
            name, _, _, _, items, _ = _TAG.unpack_from(data, place)
            place += _TAG.size
            texts = []
            for _ in range(items):
                _, length, _, _ = _ITEM.unpack_from(data, place)
                place += _ITEM.size
                if not 0 <= length <= len(data) - place:
                    return found
                texts.append(data[place : place + length].split(b"\0")[0].decode("latin-1").strip())
                place += -(-length // 4) * 4
            found[name.split(b"\0")[0].decode("latin-1")] = [text for text in texts if text]
    except struct.error:
        pass
    return found
