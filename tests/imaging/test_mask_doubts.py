"""What is doubtful about a mask: nothing drawn, drawn twice, hardly a mask."""

import numpy as np
import pytest
import SimpleITK as sitk

from crlm_jax.imaging.geometry import VolumeError
from crlm_jax.imaging.masks import read_lesions, read_mask, read_organ
from crlm_jax.imaging.volumes import read_image
from tests.imaging import drawings
from tests.imaging.dicom import dicoms

SHAPE = (6, 24, 32)


@pytest.fixture
def image(tmp_path):
    return drawings.write_drawings(tmp_path)


def box() -> np.ndarray:
    mask = np.zeros(SHAPE, np.uint8)
    mask[1:4, 4:10, 3:12] = 1
    return mask


def save(path, mask: np.ndarray):
    image = sitk.GetImageFromArray(mask)
    image.SetSpacing((1.5, 1.5, 5.0))
    image.SetOrigin((-30.0, -30.0, 0.0))
    sitk.WriteImage(image, str(path))
    return path


def test_a_chosen_segment_with_nothing_in_it(tmp_path, image):
    about = [{"Name": "Tumor", "LabelValue": 3}]
    slicer = drawings.write_slicer(tmp_path / "a.seg.nrrd", [box()], about)
    contours = drawings.write_contours(tmp_path / "rs.dcm", {"Tumor": []})
    for path in (slicer, contours):
        found = read_lesions(path, None, image)
        assert not found.regions
        assert "'Tumor' holds no voxel" in found.doubts[0]


def test_white_where_another_label_is_tumour(tmp_path, image):
    path = save(tmp_path / "m.nii.gz", 255 * box())
    found = read_lesions(path, 1, image)
    assert not found.regions
    assert "its only label is 255, but tumour is said to be 1" in found.doubts[0]
    assert read_lesions(path, 255, image).doubts == ()
    assert read_lesions(save(tmp_path / "m.nii.gz", box()), 2, image).doubts == ()


def test_a_mask_that_is_hardly_one(tmp_path, image):
    for mask in (1 - box(), np.ones(SHAPE, np.uint8)):
        path, doubts = save(tmp_path / "m.nii.gz", mask), []
        read_mask(path, None, image, doubts)
        assert "exchanged" in doubts[0]
        assert "exchanged" in read_lesions(path, None, image).doubts[0]
        assert "exchanged" in read_lesions(path, None, None).doubts[0]
    path = save(tmp_path / "m.nii.gz", box())
    assert read_lesions(path, None, image).doubts == ()
    tight = np.indices((9, 9, 9)) - 4
    ball = ((tight**2).sum(axis=0) <= 20).astype(np.uint8)
    assert read_lesions(save(tmp_path / "m.nii.gz", ball), None, None).doubts == ()


def test_a_contour_drawn_twice_is_no_ring(tmp_path, image):
    outer = drawings.square((-21, -21), (-3, -3), 10.0)
    path = tmp_path / "rs.dcm"
    once = read_mask(drawings.write_contours(path, {"Tumor": [outer]}), None, image)
    for inset in (0.1, 0.5, 0.75):
        inner = drawings.square((-21 + inset, -21 + inset), (-3 - inset, -3 - inset), 10.0)
        for order in ([outer, inner], [inner, outer]):
            drawings.write_contours(path, {"Tumor": order})
            found = read_lesions(path, None, image)
            np.testing.assert_array_equal(found.voxels, once)
            assert "drawn twice" in found.doubts[0]
    hole = drawings.square((-18, -18), (-6, -6), 10.0)
    found = read_lesions(drawings.write_contours(path, {"Tumor": [outer, hole]}), None, image)
    assert found.voxels.sum() < once.sum()
    assert found.doubts == ()


def test_a_contour_of_two_points(tmp_path, image):
    line = [-20.0, -20.0, 10.0, -5.0, -5.0, 10.0]
    path = drawings.write_contours(tmp_path / "rs.dcm", {"Tumor": [line]})
    assert "fewer than three points" in read_lesions(path, None, image).doubts[0]


@pytest.mark.parametrize("name", ["Met [1]", "Tumor, left", "What?"])
def test_a_name_is_no_pattern(tmp_path, image, name):
    about = [
        {"Name": name, "LabelValue": 1, "Layer": 0},
        {"Name": "Met 1", "LabelValue": 1, "Layer": 1},
        {"Name": "Tumor", "LabelValue": 1, "Layer": 1},
        {"Name": "Whats", "LabelValue": 1, "Layer": 1},
    ]
    path = tmp_path / "a.seg.nrrd"
    drawings.write_slicer(path, [box(), np.roll(box(), 12, axis=2)], about)
    found = read_mask(path, name.upper(), image)
    np.testing.assert_array_equal(found, box() > 0)


def test_a_mask_that_is_shifted(tmp_path):
    folder = tmp_path / "ct"
    voxels = np.zeros(SHAPE, np.int16) + np.arange(32, dtype=np.int16)
    dicoms.write_series(folder, voxels, spacing=(5.0, 1.5, 1.5), origin=(-30.0, -30.0, 0.0))
    image = read_image(folder)
    mask = sitk.ReadImage(str(save(tmp_path / "m.nii.gz", box())))
    flipped = sitk.Flip(mask, (True, False, False))
    for each, axes in ((mask, False), (flipped, True)):
        for step, said in ((0, False), (2, True)):
            moved = sitk.Image(each)
            moved.SetOrigin(each.TransformIndexToPhysicalPoint((0, step, 0)))
            sitk.WriteImage(moved, str(tmp_path / "moved.nii.gz"))
            found = read_lesions(tmp_path / "moved.nii.gz", None, image)
            np.testing.assert_array_equal(found.voxels, np.roll(box(), step, axis=1) > 0)
            assert ("moved by (0, 2, 0) voxels" in "".join(found.doubts)) == said
            assert ("flipped" in "".join(found.doubts)) == axes


def test_a_crop_from_the_first_voxel_on(tmp_path, image):
    path = save(tmp_path / "m.nii.gz", box()[:5, :20, :20])
    found = read_lesions(path, None, image, resample=True)
    np.testing.assert_array_equal(found.voxels, box() > 0)
    assert "see that it was cropped" in found.doubts[-1]


def organ(path, mask: np.ndarray, image) -> tuple[np.ndarray, list[str]]:
    doubts: list[str] = []
    return read_organ(save(path, mask), "Liver*", image, doubts), doubts


def test_an_organ_that_is_exchanged_with_what_lies_around_it(tmp_path, image):
    found, doubts = organ(tmp_path / "m.nii.gz", box(), image)
    assert (found.sum(), doubts) == (box().sum(), [])
    (doubt,) = organ(tmp_path / "m.nii.gz", 1 - box(), image)[1]
    assert "as no liver does; see that liver and background are not exchanged" in doubt


@pytest.mark.parametrize("values", [(-1, 1), (1, 2), (-1, 0), (3, 3)])
def test_an_organ_without_background_is_refused(tmp_path, image, values):
    mask = np.where(box(), values[1], values[0]).astype(np.int16)
    shown = ", ".join(map(str, sorted(set(values))))
    with pytest.raises(VolumeError, match=f"has the values {shown}; write 0 wherever the liver"):
        organ(tmp_path / "m.nii.gz", mask, image)


def test_an_organ_that_is_the_whole_image_is_refused(tmp_path, image):
    one, other = save(tmp_path / "a.nii.gz", box()), save(tmp_path / "b.nii.gz", 1 - box())
    with pytest.raises(VolumeError, match="every voxel of the image is liver by it"):
        read_organ([one, other], "Liver*", image, [])
