"""RTSTRUCT: contours onto the slices of the image."""

import numpy as np
import pytest

from crlm_jax.imaging.masks import read_lesions, read_mask
from crlm_jax.imaging.volumes import read_image
from tests.imaging.dicom.dicoms import (
    ORIGIN,
    SHAPE,
    SPACING,
    refuse,
    rotation,
    uid,
    write_series,
)  # fmt: skip
from tests.imaging.drawings import write_contours


@pytest.fixture
def image(tmp_path):
    write_series(tmp_path / "ct")
    return read_image(tmp_path / "ct")


def to_mm(points: np.ndarray, axes: np.ndarray | None = None) -> list[float]:
    """Points (N, 3) by (column, row, slice) as ContourData."""
    axes = np.eye(3) if axes is None else axes
    return (np.array(points, float) * SPACING[::-1] @ axes + ORIGIN).ravel().tolist()


def outline(low: tuple[float, float], high: tuple[float, float], z: float, axes=None):
    """A rectangle from (column, row) to (column, row), in voxels."""
    (a, b), (c, d) = low, high
    return to_mm(np.array([(a, b, z), (c, b, z), (c, d, z), (a, d, z)]), axes)


def mask(*boxes: tuple[slice, slice, slice]) -> np.ndarray:
    found = np.zeros(SHAPE, bool)
    for box in boxes:
        found[box] = True
    return found


def test_rois_are_lesions_by_name(tmp_path, image):
    path = write_contours(
        tmp_path / "rs.dcm",
        {
            "GTV 1": [outline((1.6, 2.5), (6.4, 7.5), z) for z in (1, 2)],
            "Liver": [outline((0, 0), (15, 11), z) for z in range(6)],
            "gtv 2": [outline((6.6, 2.5), (9.4, 7.5), 2)],
        },
    )
    one, two = mask(np.s_[1:3, 3:8, 2:7]), mask(np.s_[2:3, 3:8, 7:10])
    found = read_lesions(path, "GTV*", image)
    np.testing.assert_array_equal(found.lesions, image.geometry.to_axial(one + 2 * two))
    assert found.doubts == ()
    np.testing.assert_array_equal(read_mask(path, "gtv 2", image), image.geometry.to_axial(two))
    assert read_mask(path, "liver", image).all()
    refuse(
        lambda: read_mask(path, None, image),
        f"{path}: no ROI is labelled 'Tumor*'; its labels are 'GTV 1', 'Liver', 'gtv 2'",
    )
    refuse(lambda: read_lesions(path, "GTV*", None), "an RTSTRUCT needs its images")


def test_one_roi_is_split_and_its_holes_stay_open(tmp_path, image):
    tumour = [
        outline((1.5, 1.5), (8.5, 8.5), 1),
        outline((3.5, 3.5), (6.5, 6.5), 1),
        outline((11.5, 1.5), (13.5, 3.5), 1),
    ]
    found = read_lesions(write_contours(tmp_path / "rs.dcm", {"Tumour": tumour}), None, image)
    expected = mask(np.s_[1:2, 2:9, 2:9]) & ~mask(np.s_[1:2, 4:7, 4:7])
    expected = expected + 2 * mask(np.s_[1:2, 2:4, 12:14])
    np.testing.assert_array_equal(found.lesions, image.geometry.to_axial(expected))


def test_an_oblique_series_and_one_from_head_to_feet(tmp_path):
    for number, axes in enumerate((rotation(25), np.diag((1, 1, -1)))):
        folder = tmp_path / str(number)
        write_series(folder, axes=axes)
        volume = read_image(folder)
        contour = outline((2.5, 1.5), (6.5, 5.5), 4, axes)
        found = read_mask(write_contours(tmp_path / "rs.dcm", {"Tumor": [contour]}), None, volume)
        own = volume.geometry.from_axial(found)
        expected = mask(np.s_[4:5, 2:6, 3:7])
        if np.linalg.det(axes) < 0:
            expected = expected[::-1]
        np.testing.assert_array_equal(own, expected)


def test_what_is_lost_or_left_out_is_said(tmp_path, image):
    rois = {"Tumor": [outline((3.2, 3.2), (3.4, 3.4), 0)]}
    found = read_lesions(write_contours(tmp_path / "rs.dcm", rois), None, image)
    np.testing.assert_array_equal(found.voxels, image.geometry.to_axial(mask(np.s_[:1, 3:4, 3:4])))
    assert "1 contour around no pixel's centre" in found.doubts[0]
    rois = {"Tumor": [outline((3.5, 3.5), (6.5, 6.5), z) for z in (1, 3, 4)]}
    found = read_lesions(write_contours(tmp_path / "rs.dcm", rois), None, image)
    assert found.voxels.sum() == 27
    (doubt,) = found.doubts
    assert "slices without a contour between slices with one (3)" in doubt


def test_what_is_refused(tmp_path, image):
    path = tmp_path / "rs.dcm"
    square = outline((2.5, 2.5), (6.5, 6.5), 1)

    def tried(*parts: str, contours=(square,), **fields):
        write_contours(path, {"Tumor": contours}, **fields)
        refuse(lambda: read_mask(path, None, image), f"{path}: ", *parts)

    tried("in no slice of the image", contours=[outline((2, 2), (6, 6), 1.5)])
    tried("in no slice", contours=[to_mm([(2, 2, 1), (6, 2, 1), (6, 6, 2), (2, 6, 2)])])
    tried("in no slice", contours=[to_mm([(2, 2, 0), (2, 6, 0), (2, 6, 4), (2, 2, 4)])])
    tried("outside the image", contours=[outline((2, 2), (6, 6), 9)])
    tried("outside the image", contours=[outline((12, 2), (19, 6), 1)])
    tried("outside the image", contours=[outline((-9, 2), (6, 6), 1)])
    tried("type 'POINT'", kind="POINT")
    tried(f"series {uid(8)}, not of {uid(1)}", series=uid(8))
    tried("frame of reference 1.2.3", frame="1.2.3", series=None)
    write_contours(path, {"Tumor": [square]}, frame=None)
    assert read_mask(path, None, image).sum() == 16
    path.write_bytes(path.read_bytes()[:-90])
    refuse(lambda: read_mask(path, None, image), f"{path}: not a readable RTSTRUCT, or cut off")


def test_an_empty_roi_is_no_tumour(tmp_path, image):
    assert not read_mask(write_contours(tmp_path / "rs.dcm", {"Tumor": []}), None, image).any()
