"""Masks on the image's lattice are placed; other grids are refused, or resampled if asked for."""

from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from crlm_jax.imaging.geometry import VolumeError
from crlm_jax.imaging.masks import read_lesions, read_mask
from crlm_jax.imaging.volumes import Volume, read_image

SHAPE = (8, 40, 48)
SPACING = (0.8, 0.8, 4.0)
ORIGIN = (-30.0, -20.0, 55.0)
OBLIQUE = sitk.Euler3DTransform((0.0, 0.0, 0.0), 0.2, -0.3, 0.1).GetMatrix()


def lesions(*extra: tuple[slice, ...]) -> np.ndarray:
    mask = np.zeros(SHAPE, np.uint8)
    mask[2:5, 10:18, 12:22] = 1
    mask[5:6, 25:28, 30:41] = 1
    for box in extra:
        mask[box] = 1
    return mask


def as_image(array: np.ndarray, spacing=SPACING, origin=ORIGIN, direction=None) -> sitk.Image:
    image = sitk.GetImageFromArray(array)
    image.SetSpacing(spacing)
    image.SetOrigin(origin)
    image.SetDirection(direction or OBLIQUE)
    return image


def scan(folder: Path, **grid) -> Volume:
    voxels = np.random.default_rng(0).integers(0, 900, grid.pop("shape", SHAPE)).astype(np.int16)
    sitk.WriteImage(as_image(voxels, **grid), str(folder / "scan.nrrd"))
    return read_image(folder / "scan.nrrd")


def save(folder: Path, image: sitk.Image) -> Path:
    sitk.WriteImage(image, str(folder / "mask.nrrd"))
    return folder / "mask.nrrd"


def cropped(image: sitk.Image) -> sitk.Image:
    return image[10:45, 8:30, 1:7]


PLACED = {
    "flipped": (lambda image: sitk.Flip(image, (True, False, True)), "axes flipped or permuted"),
    "permuted": (lambda image: sitk.PermuteAxes(image, (2, 0, 1)), "axes flipped or permuted"),
    "cropped": (cropped, "cropped, or larger"),
    "larger": (lambda image: sitk.ConstantPad(image, (3, 0, 1), (0, 5, 2)), "cropped, or larger"),
    "all": (
        lambda image: sitk.Flip(sitk.PermuteAxes(cropped(image), (1, 2, 0)), (False, True, True)),
        "axes flipped or permuted, cropped",
    ),
}


@pytest.mark.parametrize("name", PLACED)
def test_a_mask_on_the_lattice_is_placed_with_a_note(tmp_path, name):
    change, said = PLACED[name]
    volume, mask = scan(tmp_path), as_image(lesions())
    expected = read_mask(save(tmp_path, mask), None, volume)
    np.testing.assert_array_equal(expected, volume.geometry.to_axial(lesions() > 0))
    doubts = []
    found = read_mask(save(tmp_path, change(mask)), None, volume, doubts)
    np.testing.assert_array_equal(found, expected)
    (doubt,) = doubts
    assert doubt.startswith("placed on the image's grid")
    assert said in doubt


@pytest.mark.parametrize(
    ("spacing", "origin", "off"),
    [
        (SPACING, (-30.07, -20, 55.0), "0.0"),
        ((0.8, 0.8, 4.0 * 1.004), ORIGIN, "0.028"),
        ((0.8 * (1 + 1e-7), 0.8, 4.0), ORIGIN, None),
        (SPACING, (-30.0, -20.0004, 55.0), None),
    ],
)
def test_less_than_a_tenth_of_a_voxel_is_placed(tmp_path, spacing, origin, off):
    volume, doubts = scan(tmp_path), []
    path = save(tmp_path, as_image(lesions(), spacing, origin))
    np.testing.assert_array_equal(
        read_mask(path, None, volume, doubts), volume.geometry.to_axial(lesions() > 0)
    )
    assert len(doubts) == (off is not None)
    if off:
        assert f"up to {off}" in doubts[0]
        assert "of a voxel off" in doubts[0]


@pytest.mark.parametrize(
    ("grid", "said"),
    [
        ({"spacing": (0.4, 0.4, 4.0)}, "differ in spacing"),
        ({"origin": (-29.6, -20.0, 55.0)}, "differ in origin"),
        ({"spacing": (0.82, 0.8, 4.0)}, "differ in spacing"),
        ({"direction": (1, 0, 0, 0, 1, 0, 0, 0, 1)}, "differ in direction"),
        ({"spacing": (0.8, 0.8, 8.0)}, "differ in spacing"),
    ],
)
def test_another_grid_is_refused_by_an_error_that_names_the_option(tmp_path, grid, said):
    path = save(tmp_path, as_image(lesions(), **grid))
    with pytest.raises(VolumeError, match=rf"{said} .*--resample-masks does it"):
        read_mask(path, None, scan(tmp_path))


def test_what_resampling_would_not_mend_does_not_name_the_option(tmp_path):
    far = save(tmp_path, as_image(lesions(), spacing=(1.7, 1.7, 5), origin=(900, 0, 0)))
    with pytest.raises(VolumeError, match="do not cover the same place by their headers") as caught:
        read_mask(far, None, scan(tmp_path))
    assert "resample-masks" not in str(caught.value)
    sitk.WriteImage(sitk.GetImageFromArray(lesions()[2]), str(tmp_path / "flat.nrrd"))
    for resample in (False, True):
        with pytest.raises(VolumeError, match=r"flat\.nrrd and the image .*2D.*a volume") as caught:
            read_mask(tmp_path / "flat.nrrd", None, scan(tmp_path), resample=resample)
        assert "resample-masks" not in str(caught.value)


def test_marks_outside_the_image_are_never_dropped(tmp_path):
    mask = sitk.ConstantPad(as_image(lesions()), (3, 0, 0), (0, 0, 0), 1)
    for resample in (False, True):
        with pytest.raises(VolumeError, match=r"mask\.nrrd and the image .* outside the image"):
            read_mask(save(tmp_path, mask), None, scan(tmp_path), resample=resample)


@pytest.mark.parametrize("origin", [(0.0, 0.0, 0.0), ORIGIN])
def test_a_size_that_no_header_explains_is_refused(tmp_path, origin):
    plain = {"origin": (0.0, 0.0, 0.0), "direction": (1, 0, 0, 0, 1, 0, 0, 0, 1)}
    volume = scan(tmp_path, **plain | {"origin": origin})
    short = save(tmp_path, as_image(lesions()[:6], **plain))
    said = "do not cover the same place by their headers" if any(origin) else "differ in size"
    with pytest.raises(VolumeError, match=said):
        read_mask(short, None, volume)
    halved = save(tmp_path, as_image(lesions()[:, ::2, ::2], **plain | {"origin": origin}))
    with pytest.raises(VolumeError, match="differ in size"):
        read_mask(halved, None, volume)
    picture = tmp_path / "scan.png"
    sitk.WriteImage(sitk.GetImageFromArray(volume.voxels[0].astype(np.uint8)), str(picture))
    sitk.WriteImage(sitk.GetImageFromArray(lesions()[2, :30] * 255), str(tmp_path / "m.png"))
    for resample in (False, True):
        with pytest.raises(VolumeError, match=r"m\.png and the image .* differ in size"):
            read_mask(tmp_path / "m.png", None, read_image(picture), resample=resample)


# Resampled


def smooth(spacing, origin=ORIGIN, size=None) -> np.ndarray:
    """A ball of 12 mm and one of 5 mm, drawn on a grid whose centre is that of the image."""
    size = size or np.round(np.multiply(SHAPE[::-1], SPACING) / spacing).astype(int)[::-1]
    z, y, x = np.indices(size) + 0.5
    at = np.stack([x * spacing[0], y * spacing[1], z * spacing[2]])
    found = np.zeros(size, np.uint8)
    for centre, diameter in (((14, 12, 16), 12), ((30, 22, 22), 5)):
        distance = np.linalg.norm(at - np.reshape(centre, (3, 1, 1, 1)), axis=0)
        found[distance <= diameter / 2] = 1
    return found


def shifted(spacing) -> tuple[float, ...]:
    """The origin at which a grid of this spacing covers what the image covers."""
    half = (np.array(spacing) - SPACING) / 2
    return tuple((np.array(ORIGIN) + np.reshape(OBLIQUE, (3, 3)) @ half).tolist())


@pytest.mark.parametrize(
    "spacing", [(0.4, 0.4, 1.0), (0.2, 0.2, 4.0), (0.5, 0.65, 1.3), (1.6, 1.6, 4.0), (0.8, 0.8, 1)]
)
def test_a_resampled_mask_keeps_place_and_volume(tmp_path, spacing):
    volume = scan(tmp_path)
    path = save(tmp_path, as_image(smooth(spacing), spacing, shifted(spacing)))
    found = read_lesions(path, None, volume, resample=True)
    own = read_lesions(path, None, None)
    assert len(found.regions) == len(own.regions) == 2
    assert "resampled from " in found.doubts[0]
    voxel = np.prod(spacing) / np.prod(SPACING)
    for ours, theirs in zip(found.regions, own.regions, strict=True):
        assert ours.inside.sum() == pytest.approx(theirs.inside.sum() * voxel, rel=0.2, abs=6)
        places = [
            grid.to_patient(np.argwhere(region.inside) + region.start).mean(axis=0)
            for region, grid in ((ours, found.geometry), (theirs, own.geometry))
        ]
        assert np.linalg.norm(places[0] - places[1]) < 1.0


def test_a_shift_of_half_a_voxel_neither_grows_nor_shrinks(tmp_path):
    volume = scan(tmp_path, direction=(1, 0, 0, 0, 1, 0, 0, 0, 1))
    shift = (ORIGIN[0] + 0.4, *ORIGIN[1:])
    path = save(tmp_path, as_image(lesions(), SPACING, shift, (1, 0, 0, 0, 1, 0, 0, 0, 1)))
    found = read_mask(path, None, volume, resample=True)
    assert found.sum() == lesions().sum()


def test_what_is_smaller_than_a_voxel_stays_and_touching_lesions_leave_no_gap(tmp_path):
    fine = np.zeros((8, 160, 192), np.uint8)
    fine[2, 50, 60] = 1  # a 16th of a voxel of the image
    fine[4, 41:59, 40:61] = 2
    fine[4, 41:59, 61:80] = 3
    spacing = (0.2, 0.2, 4.0)
    volume = scan(tmp_path)
    path = save(tmp_path, as_image(fine, spacing, shifted(spacing)))
    found = read_lesions(path, "lesions", volume, resample=True)
    assert found.regions[0].inside.sum() == 1
    assert len(found.regions) == 3
    assert any("1 lesion would vanish" in doubt for doubt in found.doubts)
    together = read_mask(path, "2,3", volume, resample=True)
    np.testing.assert_array_equal(found.lesions >= 2, together)


def test_a_mask_on_the_lattice_is_not_resampled(tmp_path):
    volume, doubts = scan(tmp_path), []
    path = save(tmp_path, cropped(as_image(lesions())))
    found = read_mask(path, None, volume, doubts, resample=True)
    np.testing.assert_array_equal(found, volume.geometry.to_axial(lesions() > 0))
    assert "resampled" not in doubts[0]
