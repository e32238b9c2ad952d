"""Reads the contours of radiotherapy (RTSTRUCT) as regions on the grid of the image.

A contour is a closed polygon in the plane of a slice (CLOSED_PLANAR, PS3.3 C.8.8.6). It counts on
the slice that it lies in. Contours between the slices were drawn on another series, and are
refused: contours are not resampled.
"""

import itertools
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pydicom
from pydicom.uid import RTStructureSetStorage

from crlm_jax.imaging.dicom.segments import check_reference, object_class
from crlm_jax.imaging.dicom.series import Series
from crlm_jax.imaging.geometry import Geometry, VolumeError
from crlm_jax.imaging.headers import check_deflated
from crlm_jax.imaging.polygons import drop_doubles, fill_polygons
from crlm_jax.imaging.regions import Region
from crlm_jax.imaging.segment_names import choose_segments

BETWEEN = 0.1  # of the slice distance: how far a contour may lie off its slice
_PLANAR = ("CLOSED_PLANAR", "CLOSEDPLANAR_XOR", "CLOSED_PLANAR_XOR")


def is_contours(path: Path) -> bool:
    """Whether this is an RTSTRUCT."""
    return object_class(path) == RTStructureSetStorage


def read_contours(
    path: Path, like: Geometry, series: Series | None, label: int | str | None, doubts: list[str]
) -> list[Region]:
    """Reads the ROIs that are tumour.

    Args:
      path: of the RTSTRUCT.
      like: the grid of the image.
      series: the series of the image; None: the references of the RTSTRUCT are not checked.
      label: which ROIs count by their names, as for `segment_names.choose_segments`.
      doubts: receives what the user should know, a sentence each.

    Returns:
      A region for each ROI, in their order, by (slice, row, column) of the image's own order.

    Raises:
      VolumeError: the file is damaged or of another series, or has no such ROI; or a contour does
        not lie in a slice of the image.
    """
    if len(like.size) != 3:
        raise VolumeError(f"{path}: contours lie in a 3D series, but the image is a picture")
    try:
        check_deflated([path])
        header = pydicom.dcmread(path)
        names = {
            int(r.ROINumber): str(r.get("ROIName") or "") for r in header.StructureSetROISequence
        }
        uids, frames = _references(header)
        contours = {
            int(item.ReferencedROINumber): list(_polygons(item))
            for item in header.get("ROIContourSequence") or ()
        }
    except VolumeError:
        raise
    except Exception as error:  # damage causes any kind of error
        raise VolumeError(
            f"{path}: not a readable RTSTRUCT, or cut off or damaged; copy or export it again"
        ) from error
    if series is not None:
        check_reference(path, series, uids, frames)
    regions = []
    for number in choose_segments(path, names, label, kind="ROI"):
        name = f"ROI {names[number]!r}"
        regions.append(_draw(path, contours.get(number, []), like, name, doubts))
    return regions


def _references(header: pydicom.Dataset) -> tuple[list[str], list[str]]:
    """Returns the Series Instance UIDs and the frames of reference that an RTSTRUCT names."""
    uids, frames = [], []
    for frame in header.get("ReferencedFrameOfReferenceSequence") or ():
        frames.append(frame.get("FrameOfReferenceUID"))
        for study in frame.get("RTReferencedStudySequence") or ():
            for series in study.get("RTReferencedSeriesSequence") or ():
                uids.append(series.get("SeriesInstanceUID"))
    for roi in header.StructureSetROISequence:
        frames.append(roi.get("ReferencedFrameOfReferenceUID"))
    if not any(frames):
        frames.append(header.get("FrameOfReferenceUID"))
    return [str(uid) for uid in uids if uid], sorted({str(uid) for uid in frames if uid})


def _polygons(item: pydicom.Dataset) -> Iterator[tuple[str, np.ndarray]]:
    """Yields the contours of an ROI: its type, and its points (N, 3) in mm."""
    for contour in item.get("ContourSequence") or ():
        data = contour.get("ContourData")
        points = np.array([float(value) for value in data] if data is not None else [], float)
        yield str(contour.get("ContourGeometricType") or ""), points.reshape(-1, 3)


def _draw(
    path: Path,
    contours: list[tuple[str, np.ndarray]],
    like: Geometry,
    name: str,
    doubts: list[str],
) -> Region:
    """Returns the region of an ROI; `name` is for messages."""
    drawn, tiny, double = {}, 0, 0
    for z, polygons in sorted(_by_slice(path, contours, like, name).items()):
        drawn[z], lost, left_out = _slice(polygons, like)
        tiny, double = tiny + lost, double + left_out
    if few := sum(0 < len(np.unique(points, axis=0)) < 3 for _, points in contours):
        doubts.append(
            f"{name} has {few} contour{'s' * (few > 1)} of fewer than three points, which enclose "
            "nothing; counted as the pixels that they meet: draw them again"
        )
    if double:
        doubts.append(
            f"{name} has {double} contour{'s' * (double > 1)} drawn twice, one just within the "
            "other; the outer one is taken, without a hole"
        )
    if tiny:
        doubts.append(
            f"{name} has {tiny} contour{'s' * (tiny > 1)} around no pixel's centre; counted as one "
            "pixel each"
        )
    if skipped := _skipped(drawn):
        doubts.append(
            f"{name} has slices without a contour between slices with one ({skipped}); they hold "
            "no tumour: draw them, if the lesion goes through"
        )
    places = [np.insert(at, 0, z, axis=1) for z, at in drawn.items()]
    return Region.at(np.concatenate(places) if places else np.zeros((0, 3), int), name)


def _by_slice(
    path: Path, contours: list[tuple[str, np.ndarray]], like: Geometry, name: str
) -> dict[int, list[np.ndarray]]:
    """Returns the polygons of an ROI in voxels, (N, 2) as (x, y), by the slice that they lie in."""
    to_grid = np.linalg.inv(np.reshape(like.direction, (3, 3)) * like.spacing)  # mm to x, y, z
    margin, last = 0.5 + BETWEEN, np.array(like.size) - 1
    slices: dict[int, list[np.ndarray]] = {}
    for kind, points in contours:
        if kind not in _PLANAR:
            raise VolumeError(
                f"{path}: {name} has a contour of type {kind[:40]!r}; only closed contours in a "
                "plane (CLOSED_PLANAR) enclose a lesion: draw it as such, or choose other ROIs"
            )
        with np.errstate(all="ignore"):
            places = (points - like.origin) @ to_grid.T
        if not np.isfinite(places).all():
            raise VolumeError(f"{path}: {name} has points that are no numbers; export it again")
        if not len(places):
            continue
        if (places < -margin).any() or (places > last + margin).any():
            raise VolumeError(
                f"{path}: {name} has a contour outside the image; give the series that it was "
                "drawn on, whole"
            )
        number = int(np.rint(places[:, 2].mean()))
        if np.abs(places[:, 2] - number).max() > BETWEEN:
            raise VolumeError(
                f"{path}: {name} has a contour that lies in no slice of the image; give the series "
                "that it was drawn on, or convert it to a mask on the image's grid, for example in "
                "3D Slicer"
            )
        slices.setdefault(number, []).append(places[:, :2])
    return slices


def _slice(polygons: list[np.ndarray], like: Geometry) -> tuple[np.ndarray, int, int]:
    """Returns the pixels (N, 2), row and column, of a slice's contours.

    Also returns how many contours are tiny, and how many doubles of others.
    """
    low = np.floor(np.min([p.min(axis=0) for p in polygons], axis=0)).astype(int).clip(0)
    high = np.ceil(np.max([p.max(axis=0) for p in polygons], axis=0)).astype(int)
    high = np.minimum(high, np.array(like.size[:2]) - 1)
    width, height = (high - low + 1).tolist()
    kept, doubles = drop_doubles([p - low for p in polygons], (height, width))
    mask = fill_polygons(kept, (height, width))
    tiny = 0
    for polygon in polygons:
        if not fill_polygons([polygon - low], (height, width)).any():
            column, row = np.rint(polygon.mean(axis=0) - low).astype(int).clip(0, high - low)
            mask[row, column] = True
            tiny += 1
    return np.argwhere(mask) + low[::-1], tiny, doubles


def _skipped(drawn: dict[int, np.ndarray]) -> str:
    """Lists the slices, from 1, between two whose pixels overlap, though they have no contour."""
    found: list[int] = []
    numbers = sorted(drawn)
    for below, above in itertools.pairwise(numbers):
        if above - below in (2, 3):
            pixels = set(map(tuple, drawn[below].tolist()))
            if pixels.intersection(map(tuple, drawn[above].tolist())):
                found += range(below + 1, above)
    shown = ", ".join(str(z + 1) for z in found[:8])
    return shown + ", …" * (len(found) > 8)
