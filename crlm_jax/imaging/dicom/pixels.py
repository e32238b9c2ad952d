"""Decodes the pixels of slices, each file once, in the modality's unit."""

import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pydicom
from pydicom.pixels.decoders.base import get_decoder
from pydicom.uid import UID, ExplicitVRLittleEndian, ImplicitVRLittleEndian

from crlm_jax.imaging.dicom.files import as_volume_error, read_file
from crlm_jax.imaging.dicom.frames import Frame
from crlm_jax.imaging.dicom.padding import marked_padding
from crlm_jax.imaging.geometry import VolumeError


def read_pixels(
    headers: Sequence[pydicom.Dataset],
) -> Iterator[tuple[np.ndarray, np.ndarray | None]]:
    """Yields each slice, (rows, columns) in the modality's unit, and which pixels are padding.

    Raises:
      VolumeError: the pixels are cut off or damaged, or no installed package decodes them.
    """
    for name, same in itertools.groupby(headers, key=lambda header: str(header.filename)):
        path, slices = Path(name), list(same)
        image, coded = _open(path)
        try:
            for header, stored in zip(slices, _stored(image, slices), strict=True):
                if stored.shape != (header.Rows, header.Columns):
                    raise ValueError(f"decoded to {stored.shape}")
                slope, intercept = header.get("RescaleSlope"), header.get("RescaleIntercept")
                rescaled = stored * float(1 if slope is None else slope) + float(intercept or 0)
                yield rescaled, marked_padding(header, stored)
        except Exception as error:  # each decoder raises errors of its own
            syntax = image.file_meta.TransferSyntaxUID
            other = f", or not decodable ({syntax.name}: store it uncompressed)" if coded else ""
            raise VolumeError(
                f"{path}: its pixels are cut off or damaged{other}; copy or export it again"
            ) from error


def _open(path: Path) -> tuple[pydicom.FileDataset, bool]:
    """Returns a file with its pixels still coded, and whether they are compressed."""
    image = read_file(path)
    with as_volume_error(path):
        syntax = image.file_meta.get("TransferSyntaxUID")
        if syntax is None:  # a file without the meta header
            syntax = ImplicitVRLittleEndian if image.is_implicit_VR else ExplicitVRLittleEndian
            image.file_meta.TransferSyntaxUID = syntax
        coded = syntax.is_compressed
    if coded and not _can_decode(syntax):
        raise VolumeError(
            f"{path}: no decoder for its transfer syntax {syntax} ({syntax.name}); "
            f"{_install_remedy(syntax)}store the series uncompressed (for example with gdcmconv "
            "--raw)"
        )
    return image, coded


def _stored(image: pydicom.FileDataset, slices: Sequence[pydicom.Dataset]) -> Iterator[np.ndarray]:
    """Yields the stored values of slices of one file, in their order."""
    frames = [header for header in slices if isinstance(header, Frame)]
    if not frames or frames[0].corner is not None:
        picture = image.pixel_array
        if not frames:
            yield picture
        for tile in frames:
            row, column = tile.corner or (0, 0)
            yield picture[row : row + tile.Rows, column : column + tile.Columns]
        return
    decoder = get_decoder(image.file_meta.TransferSyntaxUID)
    for stored, _ in decoder.iter_array(image, indices=[frame.number - 1 for frame in frames]):
        yield stored


def _install_remedy(syntax: UID) -> str:
    """Names the package that decodes a syntax; all of them are permissively licensed."""
    if syntax.name.startswith("High-Throughput JPEG 2000"):
        return "pip install pylibjpeg pylibjpeg-openjpeg, or "
    return "pip install python-gdcm, or " if "JPEG" in syntax.name else ""


def _can_decode(syntax: UID) -> bool:
    try:
        return get_decoder(syntax).is_available
    except NotImplementedError:
        return False
