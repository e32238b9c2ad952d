"""Lesions as their reader drew them: labels, segments, files; and what is asked about."""

from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from crlm_jax.imaging.geometry import VolumeError
from crlm_jax.imaging.lesions import label_lesions, measure_lesions
from crlm_jax.imaging.mask_files import name_masks, split_masks
from crlm_jax.imaging.masks import read_lesions, read_mask
from crlm_jax.imaging.regions import fill
from crlm_jax.imaging.volumes import Volume, read_image
from tests.imaging.dicom import dicoms
from tests.imaging.drawings import write_slicer

SHAPE = (6, 24, 32)
SPACING, ORIGIN = (1.5, 1.5, 5.0), (-30.0, -30.0, 0.0)
ONE = np.s_[1:4, 4:10, 3:12]
TWO = np.s_[1:4, 4:10, 12:20]  # touches ONE
THREE = np.s_[4:6, 18:22, 20:30]


def boxes(*values: tuple[tuple[slice, ...], int]) -> np.ndarray:
    array = np.zeros(SHAPE, np.uint8)
    for box, value in values:
        array[box] = value
    return array


def save(path: Path, array: np.ndarray, origin=ORIGIN) -> Path:
    image = sitk.GetImageFromArray(array)
    image.SetSpacing(SPACING)
    image.SetOrigin(origin)
    path.parent.mkdir(exist_ok=True)
    sitk.WriteImage(image, str(path))
    return path


@pytest.fixture
def volume(tmp_path) -> Volume:
    voxels = np.random.default_rng(0).integers(0, 900, SHAPE).astype(np.int16)
    return read_image(save(tmp_path / "image.nii.gz", voxels))


def sizes(found) -> list[int]:
    """Voxels of the lesions, which must be those of the numbers and of the mask."""
    counted = np.bincount(found.lesions.ravel(), minlength=1)[1:].tolist()
    np.testing.assert_array_equal(found.lesions > 0, found.voxels)
    np.testing.assert_array_equal(fill(found.regions, found.voxels.shape), found.voxels)
    return counted


# Label maps


def test_one_label_is_split_into_its_connected_parts_as_ever(tmp_path, volume):
    for value in (1, 255):
        array = boxes((ONE, value), (TWO, value), (THREE, value))
        path = save(tmp_path / "mask.nii.gz", array)
        found = read_lesions(path, None, volume)
        labels, count = label_lesions(volume.geometry.to_axial(array > 0))
        assert count == 2
        np.testing.assert_array_equal(found.lesions, labels)
        assert found.doubts == ()
        np.testing.assert_array_equal(read_mask(path, None, volume), labels > 0)


def test_labels_are_asked_about(tmp_path, volume):
    path = save(tmp_path / "mask.nii.gz", boxes((ONE, 1), (THREE, 2)))
    for read in (read_mask, read_lesions):
        with pytest.raises(VolumeError) as caught:
            read(path, None, volume)
        said = str(caught.value)
        assert said.startswith(f"{path}: has the labels 1 (162 voxels), 2 (80 voxels)")
        for part in ("lesions or organs", "mask_label", "--label", "such as 2", "1,2", "'lesions'"):
            assert part in said
    many = boxes()
    many.flat[:80:2] = range(40)
    with pytest.raises(VolumeError, match=r"8 \(1 voxels\), … \(39 labels\)"):
        read_lesions(save(path, many), None, volume)


def test_labels_that_are_lesions_stay_apart(tmp_path, volume):
    path = save(tmp_path / "mask.nii.gz", boxes((ONE, 7), (TWO, 3), (THREE, 9)))
    found = read_lesions(path, "Lesions", volume)
    assert sizes(found) == [144, 162, 80]  # by label
    assert found.doubts == ()
    assert read_lesions(path, "3,7", volume).lesions.max() == 1  # one tumour
    assert sizes(read_lesions(path, 9, volume)) == [80]
    assert sizes(read_lesions(path, 5, volume)) == []
    assert read_lesions(path, 5, volume).labels == ("3", "7", "9")


@pytest.mark.parametrize("label", ["tumour", "1.5", "0", "-1", "1,", ""])
def test_a_label_that_is_no_number_is_an_error(tmp_path, volume, label):
    path = save(tmp_path / "mask.nii.gz", boxes((ONE, 1)))
    with pytest.raises(VolumeError, match=r"mask\.nii\.gz: its label must be a whole number"):
        read_mask(path, label, volume)


def test_a_label_in_parts_far_apart_is_one_lesion_with_a_word(tmp_path, volume):
    near = np.s_[1:4, 15:17, 3:12]  # 6 rows of 1.5 mm from ONE
    path = save(tmp_path / "mask.nii.gz", boxes((ONE, 1), (near, 1), (TWO, 2)))
    found = read_lesions(path, "lesions", volume)
    assert sizes(found) == [216, 144]
    assert found.doubts == ()
    found = read_lesions(save(path, boxes((ONE, 1), (np.s_[5:, 22:, 30:], 1))), "lesions", volume)
    assert "label 1 is drawn in 2 parts more than 10 mm apart" in found.doubts[0]


# Segments


@pytest.fixture
def series(tmp_path):
    array = np.zeros((6, 24, 32), np.int16) + np.arange(32, dtype=np.int16)
    files = dicoms.write_series(tmp_path / "ct", array, spacing=(5.0, 1.5, 1.5), origin=ORIGIN)
    return read_image(tmp_path / "ct"), files


def segments(path: Path, files, names: dict[str, tuple], kind="BINARY") -> Path:
    masks = {name: boxes(*((box, 1) for box in parts)) > 0 for name, parts in names.items()}
    return dicoms.write_segments(path, files, masks, kind=kind)


@pytest.mark.parametrize("kind", ["BINARY", "FRACTIONAL", "LABELMAP"])
def test_each_segment_is_a_lesion(tmp_path, series, kind):
    image, files = series
    names = {"Tumor 1": (ONE,), "Liver": (THREE,), "tumour 2": (TWO,)}
    path = segments(tmp_path / "seg.dcm", files, names, kind)
    found = read_lesions(path, None, image)
    assert sizes(found) == [162, 144]
    lesions = measure_lesions(found.lesions, image.geometry)
    assert [round(lesion.diameter, 1) for lesion in lesions] == [15.4, 14.2]
    np.testing.assert_array_equal(read_mask(path, None, image), found.voxels)
    assert sizes(read_lesions(path, "tumor*", image)) == [162]
    assert len(sizes(read_lesions(path, "lesions", image))) == 3


def test_segments_that_overlap_lose_no_lesion(tmp_path, series):
    image, files = series
    wide = np.s_[1:4, 4:10, 3:14]
    names = {"Tumor": (wide,), "Tumor b": (TWO,), "Tumor c": (np.s_[2:3, 5:6, 5:6],)}
    found = read_lesions(segments(tmp_path / "seg.dcm", files, names), None, image)
    assert sizes(found) == [161, 144, 1]
    assert [int(region.inside.sum()) for region in found.regions] == [198, 144, 1]
    assert "overlap in 37 voxels" in found.doubts[0]


def test_one_segment_with_all_the_tumour_is_split(tmp_path, series):
    image, files = series
    names = {"Tumor": (ONE, THREE), "Liver": (TWO,)}
    assert sizes(read_lesions(segments(tmp_path / "s.dcm", files, names), None, image)) == [162, 80]
    names = {"Lesion": (ONE, np.s_[5:, 22:, 30:]), "Lesion ": (TWO,), "lesion": ()}
    found = read_lesions(segments(tmp_path / "t.dcm", files, names), "lesion*", image)
    assert sizes(found) == [166, 144]
    assert "segment 'lesion' holds no voxel" in found.doubts[0]
    assert "segment 'Lesion' is drawn in 2 parts" in found.doubts[1]


def test_a_dicom_mask_needs_its_image(tmp_path, series):
    _, files = series
    path = segments(tmp_path / "seg.dcm", files, {"Tumor": (ONE,)})
    with pytest.raises(VolumeError, match=r"seg\.dcm: a DICOM-SEG needs its images"):
        read_lesions(path, None, None)


# Segments of 3D Slicer

NAMED = ({"Name": "Liver", "LabelValue": 1, "Layer": 0}, {"Name": "Tumor", "LabelValue": 1})


def test_overlapping_layers_are_chosen_by_name(tmp_path, volume):
    layers = boxes((np.s_[:, :, :], 1)), boxes((ONE, 1), (THREE, 2))
    about = [NAMED[0], NAMED[1] | {"Layer": 1}, {"Name": "Cyst", "LabelValue": 2, "Layer": 1}]
    path = write_slicer(tmp_path / "two.seg.nrrd", layers, about)
    assert sizes(read_lesions(path, None, volume)) == [162]
    assert sizes(read_lesions(path, "cy*, Tumor", volume)) == [162, 80]
    assert sizes(read_lesions(path, 2, volume)) == [80]
    with pytest.raises(VolumeError, match=r"several segments have '1'; its labels are 'Liver', 'T"):
        read_lesions(path, 1, volume)
    with pytest.raises(VolumeError, match=r"no segment is labelled 'met\*'; its labels are 'Liver"):
        read_lesions(path, "met*", volume)
    wrong = write_slicer(tmp_path / "w.seg.nrrd", layers, [NAMED[1] | {"Layer": 5}])
    with pytest.raises(VolumeError, match=r"segment 'Tumor' lies in layer 5, but the file has 2"):
        read_lesions(wrong, None, volume)
    wrong = write_slicer(tmp_path / "w.seg.nrrd", layers, [NAMED[1] | {"LabelValue": "x"}])
    with pytest.raises(VolumeError, match=r"Segment0_LabelValue 'x', which is no whole number"):
        read_lesions(wrong, None, volume)


def test_one_layer_is_chosen_by_name_or_value(tmp_path, volume):
    layer = boxes((np.s_[:, :, :], 1), (ONE, 2), (TWO, 3))
    about = [NAMED[0], NAMED[1] | {"LabelValue": 2}, {"Name": "Tumor 2", "LabelValue": 3}]
    path = write_slicer(tmp_path / "one.seg.nrrd", [layer], about)
    assert sizes(read_lesions(path, None, volume)) == [162, 144]
    assert sizes(read_lesions(path, "Tumor", volume)) == [162]
    assert sizes(read_lesions(path, 3, volume)) == [144]


def test_segments_without_names_of_their_own(tmp_path, volume):
    plain = [{"ID": "Segment_1", "Name": "Segment_1"}]
    path = write_slicer(tmp_path / "a.nrrd", [boxes((ONE, 1), (THREE, 1))], plain)
    assert sizes(read_lesions(path, None, volume)) == [162, 80]
    old = [{"ID": "Segment_1"}, {"ID": "Segment_2"}]  # a layer each, which old versions do not say
    path = write_slicer(tmp_path / "b.nrrd", [boxes((ONE, 1)), boxes((TWO, 1))], old)
    with pytest.raises(VolumeError, match=r"its labels are 'Segment_1', 'Segment_2': choose"):
        read_lesions(path, None, volume)
    assert sizes(read_lesions(path, "lesions", volume)) == [162, 144]
    path = write_slicer(tmp_path / "c.nrrd", [boxes((ONE, 1))], [{"Name": "Liver"}])
    with pytest.raises(VolumeError, match=r"no segment is labelled 'Tumor\*'; its labels are 'Li"):
        read_lesions(path, None, volume)


def test_a_cropped_segmentation_is_placed(tmp_path, volume):
    small = np.ones((3, 6, 9), np.uint8)
    origin = tuple(np.array(ORIGIN) + np.multiply((3, 4, 1), SPACING))
    path = write_slicer(tmp_path / "t.seg.nrrd", [small], [NAMED[1]], origin=origin)
    found = read_lesions(path, None, volume)
    np.testing.assert_array_equal(found.voxels, boxes((ONE, 1)) > 0)
    assert "cropped" in found.doubts[0]


# Several files


def test_each_file_is_a_lesion(tmp_path, volume):
    paths = [
        save(tmp_path / "a.nii.gz", boxes((ONE, 1))),
        save(tmp_path / "b.mha", boxes((TWO, 5))),
    ]
    paths.append(save(tmp_path / "c.nrrd", boxes((THREE, 1), (np.s_[0, 0, 0], 1))))
    found = read_lesions(paths, None, volume)
    assert sizes(found) == [162, 144, 81]
    (doubt,) = found.doubts
    assert doubt.startswith("the lesion in c.nrrd is drawn in 2 parts")
    np.testing.assert_array_equal(read_mask(paths, None, volume), found.voxels)
    empty = save(tmp_path / "empty.nii.gz", boxes())
    assert sizes(read_lesions([*paths[:2], empty], None, volume)) == [162, 144]
    assert sizes(read_lesions([empty], None, volume)) == []
    assert not read_mask([], None, volume).any()
    assert sizes(read_lesions((), None, volume)) == []


def test_every_file_is_asked_about_its_labels_and_placed(tmp_path, volume):
    one = save(tmp_path / "a.nii.gz", boxes((ONE, 1))[1:, 4:, 3:],
               tuple(np.array(ORIGIN) + np.multiply((3, 4, 1), SPACING)))  # fmt: skip
    maps = save(tmp_path / "b.nii.gz", boxes((TWO, 1), (THREE, 2)))
    with pytest.raises(VolumeError, match=r"b\.nii\.gz: has the labels 1 \(144 voxels\), 2"):
        read_lesions([one, maps], None, volume)
    found = read_lesions([one, maps], "lesions", volume)
    assert sizes(found) == [162, 144, 80]
    assert found.doubts[0].startswith("a.nii.gz: placed on the image's grid")
    for order in ([one, maps], [maps, one]):
        alone = read_lesions(order, "lesions", None)
        assert sorted(sizes(alone)) == [80, 144, 162]
        box = [label.tolist() for label in np.nonzero(alone.lesions.any(axis=(1, 2)))]
        assert box == [[1, 2, 3, 4, 5]]
    corner = save(tmp_path / "c.nii.gz", boxes((np.s_[:1, :1, :1], 1))[:2, :3, :4])
    far = save(tmp_path / "d.nii.gz", np.ones((1, 2, 3), np.uint8),
               tuple(np.array(ORIGIN) + np.multiply((6, 5, 3), SPACING)))  # fmt: skip
    joined = read_lesions([far, corner], None, None)
    assert joined.voxels.shape == (4, 7, 9)
    assert np.argwhere(joined.lesions == 2).tolist() == [[0, 0, 0]]
    assert np.argwhere(joined.lesions == 1)[0].tolist() == [3, 5, 6]
    assert joined.geometry.origin == pytest.approx(ORIGIN)
    off = save(tmp_path / "e.nii.gz", boxes((ONE, 1)), (0.7, 0.7, 0.7))
    with pytest.raises(VolumeError, match=r"the mask .*d\.nii\.gz and another of the same image"):
        read_lesions([far, off], None, None)


def test_files_of_a_mask_are_joined_or_fit_a_pattern(tmp_path, monkeypatch):
    folder = tmp_path / "p[1]"
    folder.mkdir()
    for name in ("les1.nii.gz", "les2.nii.gz", "._les1.nii.gz", "image.nii.gz", "odd|name*.nii"):
        (folder / name).touch()
    one, two = folder / "les1.nii.gz", folder / "les2.nii.gz"
    assert split_masks("les1.nii.gz", folder) == (one,)
    assert split_masks("les2.nii.gz | les1.nii.gz", folder) == (two, one)
    assert split_masks("les*.nii.gz", folder) == (one, two)
    assert split_masks("les2.nii.gz|les?.nii.gz", folder) == (two, one)
    assert split_masks("odd|name*.nii", folder) == (folder / "odd|name*.nii",)
    assert split_masks("none*.nii|les1.nii.gz", folder) == (folder / "none*.nii", one)
    monkeypatch.chdir(folder)
    assert split_masks("les*.gz") == (Path("les1.nii.gz"), Path("les2.nii.gz"))
    (tmp_path / "les.nii").touch()
    assert split_masks(f"{tmp_path}/les*", Path("elsewhere")) == (tmp_path / "les.nii",)
    assert name_masks((one, two)) == f"{one} (and 1 more)"


@pytest.mark.parametrize("shift", [0.0, 1.1])
def test_a_segmentation_on_a_finer_grid_is_resampled_if_asked_for(tmp_path, series, shift):
    image, files = series
    fine = {
        name: (boxes((box, 1)) > 0).repeat(2, 0).repeat(2, 1).repeat(2, 2)
        for name, box in (("Tumor 1", ONE), ("Tumor 2", TWO))
    }
    positions = [
        (ORIGIN[0] - 0.375, ORIGIN[1] - 0.375, ORIGIN[2] - 1.25 + 2.5 * z + shift)
        for z in range(12)
    ]
    path = dicoms.write_segments(
        tmp_path / "fine.dcm", files, fine, positions=positions, spacing=(2.5, 0.75, 0.75)
    )
    with pytest.raises(VolumeError, match=r"does not lie on the grid .*--resample-masks does it"):
        read_lesions(path, None, image)
    found = read_lesions(path, None, image, resample=True)
    assert "resampled from 0.75 × 0.75 × 2.5 mm" in found.doubts[0]
    np.testing.assert_array_equal(found.lesions, boxes((ONE, 1), (TWO, 2)))
    same = segments(tmp_path / "same.dcm", files, {"Tumor 1": (ONE,), "Tumor 2": (TWO,)})
    assert read_lesions(same, None, image, resample=True).doubts == ()
