"""Images and masks from disk and back: orientation, windows, and what is refused."""

import gzip
import itertools
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from crlm_jax.config.schema import Data
from crlm_jax.imaging.geometry import VolumeError
from crlm_jax.imaging.grey import to_uint8
from crlm_jax.imaging.masks import read_mask
from crlm_jax.imaging.volumes import read_image, to_original_grid, write_image

SHAPE = (12, 20, 16)  # z, y, x


def scan(seed: int = 0, shape=SHAPE, dtype=np.int16) -> np.ndarray:
    return np.random.default_rng(seed).integers(-200, 300, shape).astype(dtype)


def save(path: Path, array: np.ndarray, *, spacing=None, origin=None, direction=None) -> Path:
    image = sitk.GetImageFromArray(array, isVector=False)
    if spacing:
        image.SetSpacing(spacing)
    if origin:
        image.SetOrigin(origin)
    if direction is not None:
        image.SetDirection(np.ravel(direction).tolist())
    sitk.WriteImage(image, str(path))
    return path


def rotation(axis: int, degrees: float) -> np.ndarray:
    cosine, sine = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    matrix = np.eye(3)
    a, b = [i for i in range(3) if i != axis]
    matrix[a, a] = matrix[b, b] = cosine
    matrix[a, b], matrix[b, a] = -sine, sine
    return matrix


def refuse(call, *parts: str, files: Path) -> None:
    """Asserts that a call fails with all of these parts in its message, and changes no file."""
    before = {file: file.read_bytes() for file in files.iterdir()}
    with pytest.raises(VolumeError) as caught:
        call()
    for part in parts:
        assert part in str(caught.value)
    assert before == {file: file.read_bytes() for file in files.iterdir()}


# Reading and writing back


@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz", "a.nrrd", "a.mha"])
def test_formats(tmp_path, name):
    path = save(tmp_path / name, scan(), spacing=(0.7, 0.8, 5.0), origin=(3.0, -4.0, 10.0))
    volume = read_image(path)
    np.testing.assert_array_equal(volume.voxels, scan())
    assert volume.voxels.dtype == np.float32
    assert volume.spacing == pytest.approx((5.0, 0.8, 0.7))
    assert volume.path == path
    assert not volume.eight_bit


DIRECTIONS = [
    np.eye(3)[list(axes)] * signs
    for axes in itertools.permutations(range(3))
    for signs in itertools.product((1, -1), repeat=3)
]


@pytest.mark.parametrize("direction", DIRECTIONS)
def test_any_turned_or_flipped_scan_becomes_axial_and_goes_back(tmp_path, direction):
    path = save(tmp_path / "a.nrrd", scan(), spacing=(0.5, 0.7, 5.0), direction=direction)
    original = sitk.ReadImage(str(path))
    volume = read_image(path)
    expected = sitk.DICOMOrient(original, "LPS")
    np.testing.assert_array_equal(volume.voxels, sitk.GetArrayFromImage(expected))
    assert volume.spacing == pytest.approx(expected.GetSpacing()[::-1])

    back = to_original_grid(volume.voxels > 50, volume.geometry)
    np.testing.assert_array_equal(sitk.GetArrayFromImage(back), scan() > 50)
    for get in ("GetSize", "GetSpacing", "GetOrigin", "GetDirection"):
        assert getattr(back, get)() == getattr(original, get)()


@pytest.mark.parametrize("degrees", [-40, -10, 15, 44, 80])
@pytest.mark.parametrize("axis", [0, 1, 2])
def test_oblique_scan_takes_the_nearest_axes(tmp_path, axis, degrees):
    direction = rotation(axis, degrees) @ np.diag([1, -1, -1])
    path = save(tmp_path / "a.nrrd", scan(), direction=direction)
    volume = read_image(path)
    expected = sitk.DICOMOrient(sitk.ReadImage(str(path)), "LPS")
    np.testing.assert_array_equal(volume.voxels, sitk.GetArrayFromImage(expected))
    back = to_original_grid(volume.voxels, volume.geometry)
    np.testing.assert_array_equal(sitk.GetArrayFromImage(back), scan())
    assert back.GetDirection() == pytest.approx(direction.ravel())


def test_mask_written_back_opens_on_the_scan(tmp_path):
    direction = rotation(0, 20)
    path = save(
        tmp_path / "a.nii.gz",
        scan(),
        spacing=(0.7, 0.8, 5.0),
        origin=(9, 8, 7),
        direction=direction,
    )
    volume = read_image(path)
    mask = volume.voxels > 200
    sitk.WriteImage(to_original_grid(mask, volume.geometry), str(tmp_path / "mask.nii.gz"))
    np.testing.assert_array_equal(read_mask(tmp_path / "mask.nii.gz", None, volume), mask)


def test_original_grid_wants_the_images_shape(tmp_path):
    volume = read_image(save(tmp_path / "a.nrrd", scan()))
    with pytest.raises(ValueError, match="shape"):
        to_original_grid(np.zeros((12, 16, 20), bool), volume.geometry)


def test_picture(tmp_path):
    grey = scan(shape=(20, 16), dtype=np.uint8)
    volume = read_image(save(tmp_path / "a.png", grey))
    np.testing.assert_array_equal(volume.voxels, grey[None])
    assert volume.spacing == (1.0, 1.0, 1.0)
    assert volume.eight_bit
    back = to_original_grid(grey[None] > 9, volume.geometry)
    assert back.GetSize() == (16, 20)
    np.testing.assert_array_equal(sitk.GetArrayFromImage(back), grey > 9)


@pytest.mark.parametrize("channels", [3, 4])
def test_grey_picture_saved_in_colour(tmp_path, channels):
    grey = scan(shape=(20, 16), dtype=np.uint8)
    colour = np.repeat(grey[..., None], channels, axis=-1)
    if channels == 4:
        colour[..., 3] = 255
    sitk.WriteImage(sitk.GetImageFromArray(colour, isVector=True), str(tmp_path / "a.png"))
    np.testing.assert_array_equal(read_image(tmp_path / "a.png").voxels, grey[None])


@pytest.mark.parametrize("name", ["a.nii.gz", "A.B.NII.GZ", "a.nii", "a.%n.mha", "a.nrrd"])
def test_a_written_image_is_there_whole(tmp_path, name):
    path = tmp_path / name
    path.write_bytes(b"an earlier file")
    write_image(sitk.GetImageFromArray(scan()), path)
    assert [file.name for file in tmp_path.iterdir()] == [name]
    np.testing.assert_array_equal(read_image(path).voxels, scan())


def test_an_image_that_cannot_be_written_leaves_no_file(tmp_path):
    image = sitk.GetImageFromArray(scan())
    for name in ("a.mhd", "a.txt", "a.png"):
        with pytest.raises(VolumeError, match="choose"):
            write_image(image, tmp_path / name)
    with pytest.raises(OSError, match=r"none/a\.nii: cannot be written; see that the folder"):
        write_image(image, tmp_path / "none" / "a.nii")
    kept = tmp_path / "kept.png"
    kept.write_bytes(b"an earlier file")
    with pytest.raises(OSError, match=r"kept\.png: cannot be written"):
        write_image(sitk.GetImageFromArray(scan(dtype=np.float32)[0]), kept)  # no PNG of floats
    assert kept.read_bytes() == b"an earlier file"
    assert list(tmp_path.iterdir()) == [kept]


def test_one_time_point_in_four_dimensions(tmp_path):
    path = save(tmp_path / "a.nii.gz", scan()[None])
    np.testing.assert_array_equal(read_image(path).voxels, scan())


def test_mask_labels(tmp_path):
    labels = np.random.default_rng(1).integers(0, 3, SHAPE).astype(np.uint8)
    volume = read_image(save(tmp_path / "image.nrrd", scan()))
    path = save(tmp_path / "mask.nrrd", labels)
    np.testing.assert_array_equal(read_mask(path, "1,2", volume), labels > 0)
    np.testing.assert_array_equal(read_mask(path, 2, volume), labels == 2)
    assert read_mask(path, 2, volume).dtype == bool
    as_float = save(tmp_path / "float.nrrd", labels.astype(np.float32))
    np.testing.assert_array_equal(read_mask(as_float, 1, volume), labels == 1)


def test_mask_without_tumour(tmp_path):
    volume = read_image(save(tmp_path / "image.nrrd", scan()))
    path = save(tmp_path / "mask.nrrd", np.zeros(SHAPE, np.uint8))
    assert not read_mask(path, 2, volume).any()
    assert not read_mask(path, None, volume).any()


def test_picture_masks_of_0_and_255(tmp_path):
    volume = read_image(save(tmp_path / "image.png", scan(shape=(20, 16), dtype=np.uint8)))
    mask = scan(1, (20, 16)) > 0
    path = save(tmp_path / "mask.png", mask.astype(np.uint8) * 255)
    np.testing.assert_array_equal(read_mask(path, None, volume), mask[None])


def test_geometry_within_the_tolerance(tmp_path):
    volume = read_image(save(tmp_path / "image.nrrd", scan(), spacing=(0.7, 0.7, 5)))
    path = save(
        tmp_path / "mask.nrrd",
        np.ones(SHAPE, np.uint8),
        spacing=(0.7 * (1 + 5e-4), 0.7, 5),
        origin=(3e-4, 0, 0),
        direction=rotation(2, 0.02),
    )
    assert read_mask(path, None, volume).all()


# What is refused


def test_absent_and_foreign_files(tmp_path):
    refuse(
        lambda: read_image(tmp_path / "none.nii.gz"),
        "none.nii.gz: file not found; correct the path",
        files=tmp_path,
    )
    for name in ("text.nii.gz", "text.nii", "text.nrrd", "text.png", "text"):
        (tmp_path / name).write_text("hello " * 200)
        refuse(lambda name=name: read_image(tmp_path / name), name, "again", files=tmp_path)
    (tmp_path / "a.hdr").write_bytes(b"0")
    refuse(lambda: read_image(tmp_path / "a.hdr"), "a.hdr", "convert it to .nii.gz", files=tmp_path)


@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz", "a.nrrd", "a.mha", "a.png"])
@pytest.mark.parametrize("share", [0.3, 0.9, 0.995])
def test_files_cut_off(tmp_path, name, share):
    array = scan(shape=(64, 64), dtype=np.uint8) if name == "a.png" else scan()
    path = save(tmp_path / name, array)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(len(whole) * share)])
    refuse(lambda: read_image(path), str(path), "cut off", "copy", files=tmp_path)


def test_damage_that_only_the_checksum_shows(tmp_path):
    path = save(tmp_path / "a.nii", scan())
    whole = gzip.compress(path.read_bytes())
    damaged = tmp_path / "b.nii.gz"
    damaged.write_bytes(whole[:-8] + b"\0\0\0\0" + whole[-4:])
    refuse(lambda: read_image(damaged), str(damaged), "damaged", "copy", files=tmp_path)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz", "a.nrrd", "a.mha"])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_voxels_that_are_no_numbers(tmp_path, name, value, dtype):
    array = scan(dtype=dtype)
    array[-1, -1, -1] = value
    path = save(tmp_path / name, array)
    refuse(lambda: read_image(path), str(path), "NaN or infinite; replace them", files=tmp_path)
    image = save(tmp_path / "image.nrrd", scan())
    refuse(lambda: read_mask(path, None, read_image(image)), str(path), "NaN", files=tmp_path)


def test_four_dimensions(tmp_path):
    path = save(tmp_path / "a.nii.gz", np.stack([scan(), scan(1)]))
    refuse(
        lambda: read_image(path),
        f"{path}: has 4 dimensions (16 × 20 × 12 × 2); save the one 3D volume",
        files=tmp_path,
    )


@pytest.mark.parametrize("channels", [3, 4])
def test_colour(tmp_path, channels):
    colour = scan(shape=(20, 16, channels), dtype=np.uint8)
    sitk.WriteImage(sitk.GetImageFromArray(colour, isVector=True), str(tmp_path / "a.png"))
    refuse(
        lambda: read_image(tmp_path / "a.png"),
        "a.png: a colour image",
        "grey image",
        files=tmp_path,
    )


def test_constant_image(tmp_path):
    path = save(tmp_path / "a.nrrd", np.full(SHAPE, 7, np.int16))
    refuse(lambda: read_image(path), f"{path}: every voxel is 7", "leave it out", files=tmp_path)


def test_mask_of_another_size(tmp_path):
    image = save(tmp_path / "image.nrrd", scan())
    mask = save(tmp_path / "mask.nrrd", np.ones((11, 20, 16), np.uint8))
    refuse(
        lambda: read_mask(mask, None, read_image(image)),
        f"the mask {mask} and the image {image} differ in size (16 × 20 × 11 and 16 × 20 × 12",
        "resample the mask",
        files=tmp_path,
    )


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("spacing", {"spacing": (0.7, 0.72, 5)}),
        ("origin", {"spacing": (0.7, 0.7, 5), "origin": (0, 0.1, 0)}),
        ("direction", {"spacing": (0.7, 0.7, 5), "direction": rotation(0, 2)}),
    ],
)
def test_mask_of_another_geometry(tmp_path, name, change):
    image = save(tmp_path / "image.nrrd", scan(), spacing=(0.7, 0.7, 5))
    mask = save(tmp_path / "mask.nrrd", np.ones(SHAPE, np.uint8), **change)
    refuse(
        lambda: read_mask(mask, None, read_image(image)),
        str(mask),
        str(image),
        f"differ in {name} (",
        "resample the mask",
        files=tmp_path,
    )


def test_mask_that_was_smoothed(tmp_path):
    image = save(tmp_path / "image.nrrd", scan())
    mask = save(tmp_path / "mask.nrrd", np.linspace(0, 1, scan().size, dtype="f4").reshape(SHAPE))
    refuse(
        lambda: read_mask(mask, None, read_image(image)),
        f"{mask}: a mask holds whole numbers",
        "export it as a label map",
        files=tmp_path,
    )


def test_mask_without_the_label_is_an_image_without_tumour(tmp_path):
    image = save(tmp_path / "image.nrrd", scan())
    mask = save(tmp_path / "mask.nrrd", np.ones(SHAPE, np.uint8))  # liver alone
    found = read_mask(mask, 2, read_image(image))
    assert found.shape == SHAPE
    assert not found.any()


def test_real_ct(shared):
    folder = shared / "data" / "ct_volume"
    volume = read_image(folder / "image.nii.gz")
    tumour = read_mask(folder / "labels.nii.gz", 2, volume)
    liver = read_mask(folder / "labels.nii.gz", 1, volume)
    grey = to_uint8(volume, "ct", Data())
    assert volume.voxels.shape == tumour.shape == (128, 128, 128)
    assert grey[tumour].mean() < grey[liver].mean()  # metastases are darker in the portal phase
