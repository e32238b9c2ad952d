"""Siemens MOSAIC and United Imaging's grid: all slices of a volume as tiles of one picture."""

import numpy as np
import pytest

from crlm_jax.imaging.dicom.mosaic import read_csa
from crlm_jax.imaging.dicom.series import read_series
from crlm_jax.imaging.volumes import read_image
from tests.imaging.dicom.dicoms import ORIGIN, SHAPE, SPACING, refuse, rotation, save, voxels
from tests.imaging.dicom.enhanced import assert_same, by_dcm2niix, csa, make_grid, make_mosaic


@pytest.mark.parametrize("slices", [2, 4, 6, 9])
@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("degrees", [0, 20, 75])
def test_it_is_the_volume_of_dcm2niix(tmp_path, slices, reverse, degrees):
    array = voxels(shape=(slices, 12, 16))
    save(make_mosaic(array, reverse=reverse, axes=rotation(degrees)), tmp_path / "in" / "a.dcm")
    image = read_image(tmp_path / "in")
    np.testing.assert_array_equal(
        np.sort(image.voxels, axis=None), np.sort(array.astype(np.float32), axis=None)
    )
    (theirs,) = by_dcm2niix(tmp_path / "in", tmp_path / "out").values()
    assert_same(image, theirs)


@pytest.mark.parametrize("reverse", [False, True])
def test_order_and_place(tmp_path, reverse):
    path = save(make_mosaic(voxels(), reverse=reverse), tmp_path / "a.dcm")
    array, geometry, series = read_series(path)
    np.testing.assert_array_equal(array, voxels()[:: -1 if reverse else 1])
    first = ORIGIN[2] - (SPACING[0] * (SHAPE[0] - 1) if reverse else 0)
    np.testing.assert_allclose(geometry.origin, (*ORIGIN[:2], first), atol=1e-5)
    np.testing.assert_allclose(geometry.spacing, SPACING[::-1])
    assert len(series.headers) == SHAPE[0]


def test_one_picture_a_b_value(tmp_path):
    for number, b in enumerate((0, 50, 1000)):
        save(make_mosaic(voxels(b), b=b, number=number), tmp_path / f"{b}.dcm")
    array, _, series = read_series(tmp_path)
    np.testing.assert_array_equal(array, voxels(1000))
    assert series.b_value == 1000
    np.testing.assert_array_equal(read_series(tmp_path, b_value=50)[0], voxels(50))


def test_b_value_of_csa(tmp_path):
    for b in (0, 1000):

        def change(header, b=b):
            header.private_block(0x0029, "SIEMENS CSA HEADER")[0x10].value = csa(
                SliceNormalVector=[0, 0, 1], B_value=[b]
            )

        save(make_mosaic(voxels(b), change=change), tmp_path / f"{b}.dcm")
    np.testing.assert_array_equal(read_series(tmp_path)[0], voxels(1000))


def without(*which):
    def change(header):
        if "type" in which:
            header.ImageType = ["ORIGINAL", "PRIMARY", "M"]
        if "count" in which:
            del header.private_block(0x0019, "SIEMENS MR HEADER")[0x0A]
        if "csa" in which:
            del header.private_block(0x0029, "SIEMENS CSA HEADER")[0x10]
        if "distance" in which:
            del header.SpacingBetweenSlices

    return change


@pytest.mark.parametrize("lack", [("type",), ("count",), ("type", "count")])
def test_a_mosaic_is_recognised_by_any_of_its_marks(tmp_path, lack):
    path = save(make_mosaic(voxels(), change=without(*lack)), tmp_path / "a.dcm")
    np.testing.assert_array_equal(read_series(path)[0], voxels())


@pytest.mark.parametrize(
    ("lack", "said"),
    [
        (("csa",), "says the order of its slices"),
        (("csa", "type"), "says the order of its slices"),
        (("csa", "count"), "says how many slices it holds"),
        (("distance",), "without the distance of its slices"),
    ],
)
def test_a_mosaic_that_does_not_say_enough(tmp_path, lack, said):
    path = save(make_mosaic(voxels(), change=without(*lack)), tmp_path / "a.dcm")
    refuse(lambda: read_series(path), f"{path}: a MOSAIC", said, "private elements", "dcm2niix")


def test_tiles_that_do_not_fit(tmp_path):
    def change(header):
        header.private_block(0x0019, "SIEMENS MR HEADER")[0x0A].value = 36 * 49

    path = save(make_mosaic(voxels(), change=change), tmp_path / "a.dcm")
    refuse(
        lambda: read_series(path), f"{path}: a picture of 48 × 36 pixels cannot hold 1764 slices"
    )


def test_a_normal_that_is_not_the_planes(tmp_path):
    def change(header):
        header.private_block(0x0029, "SIEMENS CSA HEADER")[0x10].value = csa(
            SliceNormalVector=[1, 0, 0]
        )

    path = save(make_mosaic(voxels(), change=change), tmp_path / "a.dcm")
    refuse(lambda: read_series(path), "another direction of the slices", "dcm2niix")


def test_a_grid_of_united_imaging(tmp_path):
    path = save(make_grid(voxels()), tmp_path / "a.dcm")
    array, geometry, series = read_series(path)
    np.testing.assert_array_equal(array, voxels())
    assert (geometry.origin, geometry.spacing, series.b_value) == (ORIGIN, SPACING[::-1], 800.0)


def test_a_grid_without_positions(tmp_path):
    header = make_grid(voxels())
    del header.private_block(0x0065, "Image Private Header")[0x51]
    path = save(header, tmp_path / "a.dcm")
    refuse(lambda: read_series(path), f"{path}: a grid (VFRAME)", "dcm2niix")


@pytest.mark.parametrize("share", [0.0, 0.01, 0.1, 0.3, 0.6, 0.99])
def test_a_csa_header_that_is_cut_off(tmp_path, share):
    header = make_mosaic(voxels())
    element = header.private_block(0x0029, "SIEMENS CSA HEADER")[0x10]
    element.value = element.value[: int(len(element.value) * share)]
    assert set(read_csa(header)) <= {"NumberOfImagesInMosaic", "SliceNormalVector"}
