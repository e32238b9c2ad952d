"""Reads the segments of a DICOM segmentation (DICOM-SEG), each by itself.

Frames are placed voxel by voxel, by their own position and orientation: a segmentation may be
cropped, hold only the slices with tumour, or run in the opposite direction. highdicom's
`get_volume` is not used, because it requires an even stack of frames, and the frames of scattered
lesions are not one.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import lazy_loader
import numpy as np
import pydicom

from crlm_jax.imaging.dicom.files import identify, is_dicom, read_file
from crlm_jax.imaging.dicom.series import OFF_GRID, Series
from crlm_jax.imaging.geometry import (
    RESAMPLES,
    Geometry,
    VolumeError,
    check_size,
    format_point,
)
from crlm_jax.imaging.headers import check_deflated
from crlm_jax.imaging.regions import Region
from crlm_jax.imaging.segment_names import choose_segments

if TYPE_CHECKING:
    import highdicom as hd
else:
    hd = lazy_loader.load("highdicom")  # half a second, and most commands need none of it

FRACTION = 0.5  # least occupancy or probability at which a voxel of a FRACTIONAL segment counts
_SAME_PLANE = 1e-2  # mm, between frames of one plane
_FRAME_GROUPS = """
    PlanePositionSequence PlaneOrientationSequence PixelMeasuresSequence
    SegmentIdentificationSequence
"""


def object_class(path: Path) -> str:
    """Returns the SOP class of a DICOM file; empty if the file is another or is damaged."""
    if not path.is_file() or not is_dicom(path):
        return ""
    try:
        header = read_file(path, stop_before_pixels=True, tags=["SOPClassUID"])
        return str(header.get("SOPClassUID") or header.file_meta.get("MediaStorageSOPClassUID"))
    except Exception:  # damage causes any kind of error; who reads the file reports it
        return ""


class _OffGrid(VolumeError):
    """A frame that does not lie on a grid."""


def read_segments(
    path: Path,
    like: Geometry,
    series: Series | None,
    label: int | str | None = None,
    *,
    own_grid: bool = False,
) -> tuple[list[Region], Geometry]:
    """Reads the segments that are tumour.

    Args:
      path: of the segmentation (BINARY, FRACTIONAL or LABELMAP).
      like: the grid of the image.
      series: the series of the image; None: the segmentation's references are not checked.
      label: which segments count, as for `segment_names.choose_segments`.
      own_grid: take a segmentation that is not on the image's grid, on a grid of its own.

    Returns:
      A region for each segment, in their order, by (slice, row, column) of the order of a grid, and
      that grid: `like`, or that of the segmentation. In a FRACTIONAL segment voxels with at least
      `FRACTION` count.

    Raises:
      VolumeError: the file is no segmentation of this series, has no such segment, or has frames
        that are not on the grid.
    """
    segmentation = _open(path)
    if series is not None:
        check_reference(path, series, *_references(segmentation))
    names = _labels(segmentation)
    chosen = choose_segments(path, names, label)
    grid = like
    try:
        try:
            places = _find_voxels(path, segmentation, chosen, grid)
        except _OffGrid:
            if not own_grid:
                raise
            grid = _grid_of(path, segmentation, chosen)
            places = _find_voxels(path, segmentation, chosen, grid)
    except VolumeError:
        raise
    except Exception as error:  # pixels or headers that break the standard
        raise VolumeError(_UNREADABLE.format(path)) from error
    regions = [Region.at(places[number], f"segment {names[number]!r}") for number in chosen]
    return regions, grid


def _find_voxels(
    path: Path, segmentation: "hd.seg.Segmentation", chosen: list[int], grid: Geometry
) -> dict[int, np.ndarray]:
    """Returns the voxels (N, 3) of a grid that each segment marks: slice, row, column."""
    places = {number: [np.zeros((0, 3), int)] for number in chosen}
    for number, frame, marked in _frames(segmentation, chosen):
        places[number].append(_place(path, frame, marked, grid))
    return {number: np.concatenate(found) for number, found in places.items()}


def _grid_of(path: Path, segmentation: "hd.seg.Segmentation", chosen: list[int]) -> Geometry:
    """Returns the grid of a segmentation whose frames are a stack, possibly with gaps."""
    frames = [frame for _, frame, _ in _frames(segmentation, chosen)]
    across, down = np.reshape(np.asarray(frames[0].ImageOrientationPatient, float), (2, 3))
    normal = np.cross(across, down)
    height, width = np.asarray(frames[0].PixelSpacing, float).tolist()
    positions = np.array([np.asarray(frame.ImagePositionPatient, float) for frame in frames])
    heights = np.sort(positions @ normal)
    gaps = np.diff(heights)[np.diff(heights) > _SAME_PLANE]
    thickness = frames[0].get("SpacingBetweenSlices") or frames[0].get("SliceThickness") or 1
    step = float(gaps.min() if len(gaps) else thickness)
    number = int(np.rint((heights[-1] - heights[0]) / step)) + 1
    size = (int(segmentation.Columns), int(segmentation.Rows), number)
    check_size(path, size)
    lowest = positions[int((positions @ normal).argmin())]
    axes = np.stack([across, down, normal], axis=1)
    return Geometry(
        size, (width, height, step), tuple(lowest.tolist()), tuple(axes.ravel().tolist())
    )


_UNREADABLE = (
    "{}: not a readable DICOM segmentation, or cut off or damaged; copy or export it again"
)


def _open(path: Path) -> "hd.seg.Segmentation":
    if not path.is_file():
        raise VolumeError(f"{path}: file not found; correct the path")
    check_deflated([path])
    try:
        file = identify(path)
        # Where no series is named, the kind may be cut off too.
        if "Segmentation" in file.kind or not file.series or file.kind[:1].isdigit():
            return hd.seg.segread(path)
    except Exception as error:  # damage causes any kind of error
        raise VolumeError(_UNREADABLE.format(path)) from error
    raise VolumeError(f"{path}: {file.kind}, not a segmentation; give the DICOM-SEG of the image")


def _labels(segmentation: "hd.seg.Segmentation") -> dict[int, str]:
    """Returns labels by segment number, without the background 0 that a LABELMAP may have."""
    return {
        int(segment.SegmentNumber): str(segment.get("SegmentLabel") or "")
        for segment in segmentation.SegmentSequence
        if int(segment.SegmentNumber) != 0
    }


def _references(segmentation: pydicom.Dataset) -> tuple[list[str], list[str]]:
    """Returns the Series Instance UIDs and the frames of reference that a segmentation names."""
    series = segmentation.get("ReferencedSeriesSequence") or ()
    frame = segmentation.get("FrameOfReferenceUID")
    return [str(item.get("SeriesInstanceUID")) for item in series], [str(frame)] if frame else []


def check_reference(path: Path, series: Series, uids: list[str], frames: list[str]) -> None:
    """Raises VolumeError if a mask refers to other images than those of the series.

    Args:
      path: of the mask.
      series: of the image.
      uids: Series Instance UIDs that the mask names; none: not checked.
      frames: its frames of reference; none: not checked.
    """
    remedy = "give the mask of this series, or the series that it was drawn on"
    if uids and series.uid not in uids:
        raise VolumeError(
            f"{path}: a segmentation of series {', '.join(uids)}, not of {series.uid}; {remedy}"
        )
    ours = series.headers[0].get("FrameOfReferenceUID")
    if frames and ours and str(ours) not in frames:
        raise VolumeError(
            f"{path}: its frame of reference {', '.join(frames)} is not that of series "
            f"{series.uid} ({ours}); {remedy}"
        )


def _frames(
    segmentation: "hd.seg.Segmentation", chosen: list[int]
) -> Iterator[tuple[int, pydicom.Dataset, np.ndarray]]:
    """Yields each frame of each chosen segment: its number, header, and voxels (H, W) bool."""
    shared = segmentation.SharedFunctionalGroupsSequence[0]
    kind = segmentation.SegmentationType
    groups = segmentation.get("PerFrameFunctionalGroupsSequence") or [pydicom.Dataset()]
    for number, group in enumerate(groups, start=1):
        frame = pydicom.Dataset()
        for source in (shared, group):
            for name in _FRAME_GROUPS.split():
                if source.get(name):
                    frame.update(source[name].value[0])
        if kind == "LABELMAP":
            stored = segmentation.get_stored_frame(number)
            for segment in chosen:
                yield segment, frame, stored == segment
        elif (segment := int(frame.ReferencedSegmentNumber)) in chosen:
            full = int(segmentation.MaximumFractionalValue) if kind == "FRACTIONAL" else 1
            yield segment, frame, segmentation.get_stored_frame(number) >= FRACTION * full


def _place(path: Path, frame: pydicom.Dataset, marked: np.ndarray, like: Geometry) -> np.ndarray:
    """Returns the voxels (N, 3) of the grid `like` that a frame marks: slice, row, column."""
    to_grid = np.linalg.inv(np.reshape(like.direction, (3, 3)) * like.spacing)  # mm to x, y, z
    position = np.asarray(frame.ImagePositionPatient, float)
    across, down = np.reshape(np.asarray(frame.ImageOrientationPatient, float), (2, 3))
    height, width = np.asarray(frame.PixelSpacing, float)
    start = to_grid @ (position - like.origin)
    # One pixel along a row, and one along a column, must each be one voxel along one axis.
    steps = np.stack([to_grid @ across * width, to_grid @ down * height])
    whole = np.rint(steps)
    drift = np.abs(steps - whole) * (np.array(marked.shape[::-1])[:, None] - 1)
    if (
        np.abs(start - np.rint(start)).max() > OFF_GRID
        or drift.max() > OFF_GRID
        or not np.array_equal(np.abs(whole) @ np.abs(whole).T, np.eye(2))
    ):
        raise _OffGrid(
            f"{path}: the frame at {format_point(position)} mm does not lie on the grid of the "
            "image; export the segmentation on the image's own grid, without resampling, or "
            f"resample it ({RESAMPLES})"
        )
    rows, columns = np.nonzero(marked)
    voxels = np.rint(start) + columns[:, None] * whole[0] + rows[:, None] * whole[1]
    voxels = voxels.astype(int)
    if (voxels < 0).any() or (voxels >= like.size).any():
        raise VolumeError(
            f"{path}: the frame at {format_point(position)} mm marks voxels outside the image; "
            "give the segmentation of this image, or export the whole series"
        )
    return voxels[:, ::-1]
