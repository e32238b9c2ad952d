"""One sequence over another by the headers: other grids, oblique ones, parts that are missing."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from crlm_jax.config.schema import Data
from crlm_jax.imaging import volumes
from crlm_jax.imaging.channels import lay_over, three_channels
from crlm_jax.imaging.dicom.series import Series
from crlm_jax.imaging.geometry import VolumeError
from crlm_jax.imaging.grey import to_uint8

DATA = Data()
TURN = np.array([[0.9553, -0.2955, 0.0], [0.2955, 0.9553, 0.0], [0.0, 0.0, 1.0]])
TILT = np.array([[1.0, 0.0, 0.0], [0.0, 0.9211, -0.3894], [0.0, 0.3894, 0.9211]])
CENTRE = np.array([3.0, -8.0, 21.0])  # mm, of a ball that all images show


def scan(
    size=(64, 60, 20), spacing=(1.5, 1.5, 5.0), direction=None, middle=(0.0, 0.0, 20.0), name="a"
) -> volumes.Volume:
    """An image around a point of the patient; a smooth ball lies at `CENTRE`, 15 mm wide."""
    direction = np.eye(3) if direction is None else direction
    reach = direction @ ((np.array(size) - 1) / 2 * spacing)
    image = sitk.Image(size, sitk.sitkFloat32)
    image.SetSpacing(spacing)
    image.SetDirection(direction.ravel().tolist())
    image.SetOrigin((np.array(middle) - reach).tolist())
    k, j, i = np.indices(size[::-1])
    points = np.stack([i, j, k], -1) * spacing @ direction.T + image.GetOrigin()
    apart = np.linalg.norm(points - CENTRE, axis=-1)
    voxels = 100 / (1 + np.exp((apart - 15) / 3)) + 20
    drawn = sitk.GetImageFromArray(voxels.astype(np.float32))
    drawn.CopyInformation(image)
    return volumes.from_image(drawn, name)


def laid(other: volumes.Volume, like: volumes.Volume) -> tuple[np.ndarray, list[str]]:
    return lay_over(to_uint8(other, "pre_t2wi", DATA), other, like)


def test_on_its_own_grid_nothing_changes():
    volume = scan()
    grey = to_uint8(volume, "pre_dwi", DATA)
    found, doubts = lay_over(grey, volume, volume)
    np.testing.assert_array_equal(found, grey)
    assert doubts == []


GRIDS = {
    "finer": {"size": (140, 130, 60), "spacing": (0.8, 0.8, 2.0)},
    "coarser": {"size": (50, 50, 14), "spacing": (2.4, 2.4, 8.0)},
    "turned": {"size": (90, 90, 34), "direction": TURN},
    "oblique": {"size": (90, 90, 34), "direction": TILT @ TURN},
    "sagittal": {
        "size": (80, 80, 60), "spacing": (1.4, 1.4, 2.0),
        "direction": np.array([[0.0, 0, 1], [1, 0, 0], [0, -1, 0]]),
    },
}  # fmt: skip


@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize("like", [{}, {"direction": TILT}], ids=["upright", "tilted"])
def test_the_same_place_of_the_patient_lies_under_it(grid, like):
    """The ball lies where the first image itself would show it, whatever the other's grid."""
    first = scan(**like)
    found, doubts = laid(scan(**GRIDS[grid], name="b"), first)
    wanted = to_uint8(first, "pre_dwi", DATA)
    assert found.shape == wanted.shape
    assert doubts == []
    inside = found > 0
    bright = np.average(np.argwhere(inside), axis=0, weights=found[inside].astype(float) ** 4)
    own = np.average(np.argwhere(wanted > 0), axis=0, weights=wanted[wanted > 0].astype(float) ** 4)
    assert np.abs((bright - own) * first.spacing).max() < 0.8  # mm: well below a pixel
    overlap = (found > 100) & (wanted > 100)
    assert 2 * overlap.sum() / ((found > 100).sum() + (wanted > 100).sum()) > 0.9


def test_what_lies_between_two_steps_is_not_skipped():
    """A pattern finer than the first's pixels becomes its mean, not one of its two greys."""
    fine = scan(size=(120, 120, 40), spacing=(0.5, 0.5, 1.0), name="b")
    grey = np.zeros(fine.voxels.shape, np.uint8)
    grey[:, ::2] = 200
    found, _ = lay_over(grey, fine, scan(size=(20, 20, 6), spacing=(2.0, 2.0, 5.0)))
    inner = found[2:-2, 5:-5, 5:-5]
    assert np.abs(inner.astype(int) - 100).max() <= 12


def test_what_another_does_not_show_is_black_and_said():
    first = scan()
    part = scan(size=(64, 60, 10), middle=(0.0, 0.0, 45.0), name="b")
    found, doubts = laid(part, first)
    below = first.geometry.to_patient(np.array([[z, 0, 0] for z in range(20)]))[:, 2] < 15
    assert (found[below] == 0).all()
    assert found[~below].any()
    assert ["less than 90%" in doubt for doubt in doubts] == [True]


def test_images_that_do_not_meet_are_refused():
    far, first = scan(name="b"), scan()
    moved = dataclasses.replace(far.geometry, origin=(0.0, 0.0, 900.0))
    far = dataclasses.replace(far, geometry=moved)
    with pytest.raises(VolumeError, match=r"b: by their headers, it shows no voxel of a; give"):
        laid(far, first)


def test_a_picture_has_no_place_in_a_patient(tmp_path):
    sitk.WriteImage(sitk.GetImageFromArray(np.eye(9, dtype=np.uint8) * 9), str(tmp_path / "p.png"))
    with pytest.raises(VolumeError, match=r"p\.png: a 2D picture has no position"):
        laid(volumes.read_image(tmp_path / "p.png"), scan())


def test_other_frames_of_reference_are_said():
    def of_frame(volume, uid):
        header = type("Header", (), {"get": staticmethod(lambda name: uid)})
        return dataclasses.replace(volume, series=Series((header,), Path("x"), None))

    first, other = scan(), scan(name="b")
    assert laid(of_frame(other, "1.2"), of_frame(first, "1.2"))[1] == []
    (doubt,) = laid(of_frame(other, "1.3"), of_frame(first, "1.2"))[1]
    assert "different frames of reference" in doubt


def test_two_sequences_fill_three_channels():
    one, two, three = np.arange(3 * 8).reshape(3, 2, 2, 2)
    np.testing.assert_array_equal(three_channels([one, two])[..., 2], one)
    np.testing.assert_array_equal(three_channels([one, two, three])[..., 2], three)
