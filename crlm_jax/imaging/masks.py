"""Masks as lesions: what is tumour in a mask, and which lesions its reader drew.

A lesion is what the reader drew as one, where the mask says so: a segment of several, a label of a
map whose labels are lesions, a file of several. Where the mask says only what is tumour, a lesion
is a connected part of it.

Labels of a map are lesions to one reader and organs to the next. A map of several labels is
therefore asked about (`_ask`), never guessed.
"""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from crlm_jax.imaging.dicom import files
from crlm_jax.imaging.dicom.contours import is_contours, read_contours
from crlm_jax.imaging.dicom.segments import read_segments
from crlm_jax.imaging.geometry import NOT_FINITE, Geometry, VolumeError
from crlm_jax.imaging.label_maps import as_label_map, check_lossless
from crlm_jax.imaging.lattice import join, place_regions
from crlm_jax.imaging.regions import Region, components, empty, everywhere, fill, number, scattered
from crlm_jax.imaging.segment_names import EACH_LABEL
from crlm_jax.imaging.slicer import is_slicer_segmentation, read_slicer_segments
from crlm_jax.imaging.volumes import Volume, load, read_voxels

_WHITE = "255"
_LISTED = 8  # the most labels that a message lists


@dataclasses.dataclass(frozen=True, eq=False)
class LesionMask:
    """A mask and its lesions on the axial slices of a grid."""

    voxels: np.ndarray  # (Z, H, W) bool, of any lesion
    lesions: np.ndarray  # (Z, H, W) int32: 0, or the number of a lesion, 1 … n
    regions: tuple[Region, ...]  # the n lesions, whole where they overlap
    geometry: Geometry  # of the image, or of the mask if no image was given
    doubts: tuple[str, ...]  # what the user should know of how it was read, a sentence each
    labels: tuple[str, ...]  # the labels above 0 of a label map; () for other masks


@dataclasses.dataclass(frozen=True)
class _Drawing:
    """What was drawn: one region for each lesion, or else one for all tumour."""

    regions: list[Region]  # by (slice, row, column) in the order of `geometry`
    geometry: Geometry
    each: bool  # a region is a lesion that the reader drew
    parts: bool = False  # a region is a connected part of the tumour
    labels: tuple[str, ...] = ()


def read_mask(
    paths: Path | Sequence[Path],
    label: int | str | None,
    like: Volume,
    doubts: list[str] | None = None,
    *,
    resample: bool = False,
) -> np.ndarray:
    """Reads the mask of an image as bool (Z, H, W).

    Args:
      paths: of the mask, or of the files that make it up; none: a mask without tumour.
      label: what is tumour in a label map: a value, values joined by commas, or "lesions" (any
        value, and each is a lesion); in a file that names its segments a pattern of these names.
        None: the only value, or `Tumor*`. A label map without that value belongs to an image
        without tumour, as every data set of liver and tumour has some. A file without such a
        segment is an error.
      like: the image, on whose lattice the mask lies, see `lattice`. A DICOM-SEG may have fewer
        frames than the image has slices, since each frame has its own position.
      doubts: receives what the user should know of how the mask was read, a sentence each.
      resample: resample a mask that lies on another grid.

    Raises:
      VolumeError: the mask cannot be used, or does not belong to the image; or it has several
        labels and nothing says which are tumour.
    """
    said = [] if doubts is None else doubts
    drawing = _draw(_listed(paths), label, like, said, resample)
    shape = (*like.geometry.size, 1)[:3][::-1]
    mask = like.geometry.to_axial(fill(drawing.regions, shape))
    said += everywhere(mask, cropped=False)
    return mask


def read_organ(
    paths: Path | Sequence[Path],
    names: str,
    like: Volume,
    doubts: list[str],
    *,
    resample: bool = False,
) -> np.ndarray:
    """Reads the mask of an organ, such as the liver with the lesions in it, as bool (Z, H, W).

    In a label map every label is the organ, of which there may be two: the organ and the tumour in
    it. In a file that names its segments the organ is those that fit `names`.

    Args:
      paths: of the mask, or of the files that make it up.
      names: pattern of the organ's segments, such as `Liver*`.
      like: as for `read_mask`.
      doubts: as for `read_mask`.
      resample: as for `read_mask`.

    Raises:
      VolumeError: as for `read_mask`; or the map has more labels or no background, or no voxel, or
        every one, is the organ.
    """
    organ = names.rstrip("*").lower()
    paths, mask = _listed(paths), np.zeros(like.voxels.shape, bool)
    for path in paths:
        named = files.is_dicom(path) or _has_segments(path)
        if not named:
            doubts += _check_organ(path, organ)
        drawing = _draw((path,), names if named else EACH_LABEL, like, doubts, resample)
        shape = (*like.geometry.size, 1)[:3][::-1]
        mask |= like.geometry.to_axial(fill(drawing.regions, shape))
    if not mask.any():
        raise VolumeError(
            f"{paths[0]}: no voxel of it is {organ}, so that nothing would be left; correct the "
            "mask, or leave it out"
        )
    if mask.all():
        raise VolumeError(
            f"{paths[0]}: every voxel of the image is {organ} by it, so that it restricts nothing; "
            "correct the mask, or leave it out"
        )
    doubts += everywhere(mask, cropped=True, what=organ)
    return mask


def _check_organ(path: Path, organ: str) -> list[str]:
    """Checks that a label map can be that of one organ; returns a sentence if it has two labels.

    Raises:
      VolumeError: it has more labels, one below 0, or no background.
    """
    values = np.unique(read_label_map(path)[0])
    labels = values[values != 0]
    if len(labels) == len(values) or (labels < 0).any():
        shown = ", ".join(f"{value:.16g}" for value in values[:_LISTED])
        raise VolumeError(
            f"{path}: a mask has background 0 and labels above it, but this file has the values "
            f"{shown}; write 0 wherever the {organ} is not"
        )
    if len(labels) > 2:
        raise VolumeError(
            f"{path}: has {len(labels)} labels, of which one may be the {organ}; give a "
            f"mask of the {organ} alone (with its tumour, which may be a second label)"
        )
    return [f"both of its labels are taken as {organ}"] if len(labels) == 2 else []


def read_lesions(
    paths: Path | Sequence[Path],
    label: int | str | None,
    like: Volume | None,
    *,
    resample: bool = False,
) -> LesionMask:
    """Reads a mask with its lesions, as its reader drew them or else as connected parts.

    Args:
      paths: as for `read_mask`.
      label: as for `read_mask`.
      like: the image; None: the mask's own grid serves, which DICOM objects do not have.
      resample: as for `read_mask`.

    Raises:
      VolumeError: as for `read_mask`.
    """
    doubts: list[str] = []
    drawing = _draw(_listed(paths), label, like, doubts, resample)
    geometry = drawing.geometry if like is None else like.geometry
    regions = [region.to_axial(geometry) for region in drawing.regions]
    voxels = fill(regions, geometry.axial_size)
    doubts += everywhere(voxels, cropped=like is None)
    if drawing.each:
        doubts += scattered(regions, geometry)
        lesions, regions = number(regions, geometry.axial_size, doubts)
    else:
        if not drawing.parts:
            regions = [part for region in regions for part in components(region)]
        regions.sort(key=lambda region: region.first)  # as `label_lesions` has them
        lesions, regions = number(regions, geometry.axial_size, doubts)
    return LesionMask(voxels, lesions, tuple(regions), geometry, tuple(doubts), drawing.labels)


def _listed(paths: Path | Sequence[Path]) -> tuple[Path, ...]:
    return (Path(paths),) if isinstance(paths, str | Path) else tuple(paths)


def _draw(
    paths: Sequence[Path],
    label: int | str | None,
    like: Volume | None,
    doubts: list[str],
    resample: bool,
) -> _Drawing:
    """Reads the files of a mask, and places what they hold on one grid."""
    drawings = []
    for path in paths:
        of_file: list[str] = []
        drawing = _read_file(path, label, like, of_file, resample)
        if like is not None and drawing.geometry is not like.geometry:
            if resample and not drawing.each and len(paths) == 1:  # each part must survive
                parts = [part for region in drawing.regions for part in components(region)]
                drawing = dataclasses.replace(drawing, regions=parts, parts=True)
            placed = place_regions(
                path, drawing.regions, drawing.geometry, like.geometry, like.path, of_file,
                resample=resample,
            )  # fmt: skip
            drawing = dataclasses.replace(drawing, regions=placed, geometry=like.geometry)
        doubts += of_file if len(paths) == 1 else (f"{path.name}: {text}" for text in of_file)
        drawings.append(drawing)
    if len(drawings) == 1:
        return drawings[0]
    if not drawings:
        assert like is not None  # a mask without a file has no grid of its own
        return _Drawing([], like.geometry, each=False)
    return _join(paths, drawings)


def _join(paths: Sequence[Path], drawings: Sequence[_Drawing]) -> _Drawing:
    """Joins the drawings of several files; all of a file is one lesion if it says nothing else."""
    each, geometry = join(paths[0], [(drawing.regions, drawing.geometry) for drawing in drawings])
    regions = []
    for path, drawing, placed in zip(paths, drawings, each, strict=True):
        if not drawing.each and placed:
            whole = fill(placed, (*geometry.size, 1)[:3][::-1])
            placed = [Region.of(whole, f"the lesion in {path.name}")]
        regions += placed
    return _Drawing(regions, geometry, each=True)


def _read_file(
    path: Path, label: int | str | None, like: Volume | None, doubts: list[str], resample: bool
) -> _Drawing:
    if files.is_dicom(path):
        if like is None:
            kind = "an RTSTRUCT" if is_contours(path) else "a DICOM-SEG"
            raise VolumeError(
                f"{path}: {kind} needs its images; give their folder by --pre-image or --post-image"
            )
        geometry = like.geometry
        if is_contours(path):
            regions = read_contours(path, geometry, like.series, label, doubts)
        else:
            regions, geometry = read_segments(path, geometry, like.series, label, own_grid=resample)
        doubts += empty(regions)
        return _Drawing(regions, geometry, each=len(regions) > 1)
    if _may_have_segments(path):
        image = load(path)
        if is_slicer_segmentation(image):
            regions, geometry = read_slicer_segments(path, image, label, doubts)
            doubts += empty(regions)
            return _Drawing(regions, geometry, each=len(regions) > 1)
    return _draw_labels(path, label, doubts)


def _may_have_segments(path: Path) -> bool:
    return path.name.lower().endswith((".nrrd", ".nhdr"))


def _has_segments(path: Path) -> bool:
    """Whether a file that is not DICOM names its segments."""
    return _may_have_segments(path) and is_slicer_segmentation(load(path))


def read_label_map(path: Path, doubts: list[str] | None = None) -> tuple[np.ndarray, Geometry]:
    """Reads a label map (Z, H, W) in the file's own axis order, and its geometry.

    Args:
      path: of the file.
      doubts: receives what the user should know of how it was read, a sentence each.

    Raises:
      VolumeError: the file cannot be used, or its values are not those of a label map.
    """
    array, geometry, noted = read_voxels(path)
    check_lossless(path)
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        raise VolumeError(f"{path}: {NOT_FINITE}")
    said = [] if doubts is None else doubts
    said += noted
    return as_label_map(path, array, said), geometry


def _draw_labels(path: Path, label: int | str | None, doubts: list[str]) -> _Drawing:
    array, geometry = read_label_map(path, doubts)
    values, counts = np.unique(array[array != 0], return_counts=True)
    labels = tuple(f"{value:.16g}" for value in values)
    text = None if label is None else str(label).strip().lower()
    if text == EACH_LABEL:
        regions = [
            Region.of(array == value, f"label {name}")
            for value, name in zip(values, labels, strict=True)
        ]
        return _Drawing(regions, geometry, each=True, labels=labels)
    if text is None:
        if len(values) > 1:
            raise VolumeError(f"{path}: {_ask(labels, counts.tolist())}")
        tumour = array != 0
    else:
        chosen = _numbers(path, text)
        # Another label may be the liver of an image without tumour; white is that of any drawing.
        if labels == (_WHITE,) and int(_WHITE) not in chosen:
            doubts.append(
                f"its only label is {_WHITE}, but tumour is said to be {text}, so that nothing "
                f"counts; write {_WHITE}, or leave the label out"
            )
        tumour = array == chosen[0] if len(chosen) == 1 else np.isin(array, chosen)
    return _Drawing([Region.of(tumour, "a lesion")], geometry, each=False, labels=labels)


def _numbers(path: Path, text: str) -> list[int]:
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isdecimal() and int(part) > 0 for part in parts):
        raise VolumeError(
            f"{path}: its label must be a whole number, because it names no segments, but {text!r} "
            f"was asked for; write a number, several joined by commas, or '{EACH_LABEL}'"
        )
    return [int(part) for part in parts]


def _ask(labels: Sequence[str], counts: Sequence[int]) -> str:
    """Asks what the labels of a map are, and says how to answer."""
    shown = [
        f"{label} ({n:,} voxels)"
        for label, n in zip(labels[:_LISTED], counts[:_LISTED], strict=True)
    ]
    more = f", … ({len(labels)} labels)" if len(labels) > _LISTED else ""
    return (
        f"has the labels {', '.join(shown)}{more}, which may be lesions or organs; say which are "
        f"tumour by mask_label (recist, evaluate: --label, explain: --mask-label): a number such "
        f"as {labels[-1]}, numbers that are one tumour together such as {labels[0]},{labels[-1]}, "
        f"or '{EACH_LABEL}' if each label is a lesion"
    )
