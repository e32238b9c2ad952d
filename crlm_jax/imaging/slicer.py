"""Reads the segments of a `.seg.nrrd`, the segmentation file of 3D Slicer.

Its header gives each segment N a name (`SegmentN_Name`), a label value (`SegmentN_LabelValue`) and
the layer that the value is in (`SegmentN_Layer`); segments that overlap lie in several layers, a
fourth axis of the file.
"""

import re
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from crlm_jax.imaging.geometry import Geometry, VolumeError
from crlm_jax.imaging.label_maps import as_label_map
from crlm_jax.imaging.regions import Region
from crlm_jax.imaging.segment_names import choose_segments
from crlm_jax.imaging.volumes import read_geometry

_FIELD = re.compile(r"Segment(\d+)_(?:ID|Name|LabelValue|Layer)")


def is_slicer_segmentation(image: sitk.Image) -> bool:
    """Whether the header of an NRRD file names segments."""
    return any(_FIELD.fullmatch(key) for key in image.GetMetaDataKeys())


def read_slicer_segments(
    path: Path, image: sitk.Image, label: int | str | None, doubts: list[str]
) -> tuple[list[Region], Geometry]:
    """Reads the segments that are tumour.

    Args:
      path: of the file, for messages.
      image: what the file holds.
      label: which segments count, as for `segment_names.choose_segments`.
      doubts: receives what the user should know, a sentence each.

    Returns:
      A region for each segment, in their order, by (slice, row, column), and the geometry.

    Raises:
      VolumeError: there is no such segment, or the header names a layer that the file has not.
    """
    numbers = sorted(
        {int(match[1]) for key in image.GetMetaDataKeys() if (match := _FIELD.fullmatch(key))}
    )
    if image.GetDimension() != 3:
        raise VolumeError(f"{path}: a segmentation of 3D Slicer without three axes; save it again")
    geometry, noted = read_geometry(image, path)
    doubts += noted
    names = {n: _text(image, n, "Name") or _text(image, n, "ID") for n in numbers}
    layers = image.GetNumberOfComponentsPerPixel()
    # Files of old versions have a layer for each segment, and do not say so.
    values = {n: _whole(path, image, n, "LabelValue", 1) for n in numbers}
    layer = {n: _whole(path, image, n, "Layer", n if layers > 1 else 0) for n in numbers}
    chosen = choose_segments(path, names, label, values=values)
    voxels = sitk.GetArrayViewFromImage(image).reshape(*geometry.size[::-1], layers)
    maps: dict[int, np.ndarray] = {}
    regions = []
    for n in chosen:
        if not 0 <= layer[n] < layers:
            raise VolumeError(
                f"{path}: segment {names[n]!r} lies in layer {layer[n]}, but the file has "
                f"{layers}; save it again in 3D Slicer"
            )
        if layer[n] not in maps:
            maps[layer[n]] = as_label_map(path, voxels[..., layer[n]], doubts)
        regions.append(Region.of(maps[layer[n]] == values[n], f"segment {names[n]!r}"))
    return regions, geometry


def _text(image: sitk.Image, number: int, field: str) -> str:
    key = f"Segment{number}_{field}"
    return image.GetMetaData(key).strip() if image.HasMetaDataKey(key) else ""


def _whole(path: Path, image: sitk.Image, number: int, field: str, default: int) -> int:
    text = _text(image, number, field)
    if not text:
        return default
    if not re.fullmatch(r"\d{1,9}", text):
        raise VolumeError(
            f"{path}: its header says Segment{number}_{field} {text[:40]!r}, which is no whole "
            "number; save it again in 3D Slicer"
        )
    return int(text)
