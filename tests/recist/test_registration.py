"""The alignment of two scans: how exact it is, and that it says when it is not to be trusted."""

import dataclasses

import numpy as np
import pytest
import SimpleITK as sitk

from crlm_jax.data.phantom import make_phantom
from crlm_jax.imaging import masks, volumes
from crlm_jax.imaging.geometry import VolumeError
from crlm_jax.recist.matching import locate_lesions
from crlm_jax.recist.prepared import prepare
from crlm_jax.recist.registration import match_registered, register
from tests.recist.bodies import ball
from tests.recist.scans import breathe, motion, move, scan_again


@pytest.fixture(scope="module")
def phantom(tmp_path_factory):
    """Two patients before and after chemotherapy."""
    conditions = ("pre_t2wi", "post_t2wi", "pre_dwi", "post_dwi")
    folder = tmp_path_factory.mktemp("phantom")
    # Version 2's scans are out of register themselves, which would hide the known motion.
    kwargs = {"patients": 2, "seed": 3, "conditions": conditions}
    return make_phantom(folder / "cohort", version=1, **kwargs).parent


def read(folder, patient, condition):
    """The image and its lesions."""
    stem = folder / f"phantom-00{patient}" / condition
    image = sitk.ReadImage(f"{stem}.nii.gz")
    volume = volumes.from_image(image)
    mask = masks.read_mask(f"{stem}_mask.nii.gz", None, volume)
    return image, locate_lesions(mask, volume.geometry)


def moved(bodies, by):
    return [dataclasses.replace(body, points=by(body.points)) for body in bodies]


def ready(image):
    return prepare(volumes.from_image(image))


def error(found, known, points) -> float:
    """The target registration error in mm: how far off the worst point comes to lie."""
    return float(np.linalg.norm(found.motion(known(points)) - points, axis=1).max())


@pytest.mark.parametrize(
    ("sequence", "shift", "degrees"),
    [
        ("t2wi", (12, -9, 13), (5, 4, -7)),  # 20 mm and 9.5°
        ("dwi", (-10, 10, -14), (-6, 5, 5)),
    ],
)
def test_scans_of_two_dates_are_aligned_and_their_lesions_paired(phantom, sequence, shift, degrees):
    before, lesions_before = read(phantom, 1, f"pre_{sequence}")
    after, lesions_after = read(phantom, 1, f"post_{sequence}")
    known = motion(shift, degrees, centre=(-50, 0, 20))
    lesions_after = moved(lesions_after, known)
    found = register(ready(before), ready(move(after, known)), lesions_before, lesions_after)
    assert found.doubts == ()
    assert found.similarity_after > found.similarity_before
    assert found.rotation == pytest.approx(known.degrees, abs=1.0)
    match = match_registered(lesions_before, lesions_after, found)
    assert len(match.pairs) == len(lesions_before) == 4
    assert match.registered
    assert match.new == ()
    # The centres of a phantom's lesions are the same at both dates.
    gaps = [
        np.linalg.norm(
            lesions_before[i].points.mean(axis=0)
            - found.motion(lesions_after[j].points).mean(axis=0)
        )
        for i, j in match.pairs
    ]
    assert max(gaps) < 3.5  # mm; the masks' own voxels are 7 mm deep
    assert np.mean(gaps) < 2.0


def test_the_same_images_give_the_same_bits_whatever_the_threads(phantom):
    before, lesions_before = read(phantom, 2, "pre_dwi")
    after, lesions_after = read(phantom, 2, "post_dwi")
    found, threads = [], sitk.ProcessObject.GetGlobalDefaultNumberOfThreads()
    try:
        for number in (1, 3):
            sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(number)
            found.append(register(ready(before), ready(after), lesions_before, lesions_after))
    finally:
        sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(threads)
    one, three = found
    np.testing.assert_array_equal(one.motion.turn, three.motion.turn)
    np.testing.assert_array_equal(one.motion.shift, three.motion.shift)
    assert one.similarity_after == three.similarity_after


@pytest.mark.parametrize("sequence", ["t2wi", "dwi"])
def test_scans_of_different_patients_are_doubtful(phantom, sequence):
    before, lesions_before = read(phantom, 1, f"pre_{sequence}")
    after, lesions_after = read(phantom, 2, f"post_{sequence}")
    found = register(ready(before), ready(after), lesions_before, lesions_after)
    assert found.doubts
    assert match_registered(lesions_before, lesions_after, found) is None


def test_images_without_anything_in_common_are_doubtful():
    draw = np.random.default_rng(0)
    noise = [sitk.GetImageFromArray(draw.normal(size=(20, 40, 40))) for _ in range(2)]
    for image in noise:
        image.SetSpacing((4.0, 4.0, 4.0))
    found = register(*map(ready, noise), [ball(20, 80, 80, 40)], [ball(20, 80, 80, 40)])
    assert found.doubts


def test_a_lesion_out_of_view_is_not_called_vanished_or_new(phantom):
    image, (first, *_) = read(phantom, 1, "pre_t2wi")
    here = ball(12, *first.points.mean(axis=0))
    low = image[:, :, : image.GetSize()[2] // 2 + 4]  # the slices nearer to the feet
    top = low.TransformIndexToPhysicalPoint((0, 0, low.GetSize()[2] - 1))[2]
    away = ball(12, -60, 0, top + 30)
    found = register(ready(image), ready(low), [here, away], [here])
    assert found.doubts == (
        "lesion 2 of the baseline lies outside the follow-up's image, so that nobody can say "
        "whether it vanished",
    )
    assert match_registered([here, away], [here], found) is None
    found = register(ready(low), ready(image), [here], [here, away])
    assert "lesion 2 of the follow-up" in found.doubts[0]


def test_a_picture_or_two_slices_cannot_be_aligned():
    for image in (sitk.Image(8, 8, sitk.sitkFloat32), sitk.Image(8, 8, 2, sitk.sitkFloat32)):
        array = sitk.GetArrayFromImage(image)
        array.flat[::3] = 5
        with pytest.raises(VolumeError, match="a volume of 3 slices or more"):
            prepare(volumes.from_image(sitk.GetImageFromArray(array)))


def real(folder, name) -> sitk.Image:
    """A real scan, with axes that are the patient's."""
    volume = volumes.read_image(folder / "data" / name)
    image = volumes.to_original_grid(np.maximum(volume.voxels, -1024), volume.geometry)
    image.SetDirection(np.eye(3).ravel().tolist())
    return sitk.Cast(image, sitk.sitkFloat32)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "slices", "noise", "most"),
    [
        ("dicom/crlm_ct/CRLM-CT-1006", 8.0, 15.0, 2.0),
        ("dicom/crc_liver_mr/t2", 6.0, 60.0, 1.0),
        ("ct_volume/image.nii.gz", 5.0, 15.0, 1.0),
    ],
)
def test_real_scans_with_a_known_motion(shared, name, slices, noise, most):
    image = real(shared, name)
    before = ready(image)
    centre = before.centre + np.array([-0.15, -0.05, 0.1]) * np.array(before.body.shape[::-1]) * 4
    lesions = [ball(12, *centre), ball(16, *(centre + np.array([15, -10, -15])))]
    known = motion((12, -9, 13) if "ct_volume" not in name else (6, -5, 7), (5, 4, -7), centre)
    after = ready(scan_again(image, known, slices, noise))
    found = register(before, after, lesions, moved(lesions, known))
    assert found.doubts == ()
    assert error(found, known, np.concatenate([body.points for body in lesions])) < most


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "noise", "most"),
    [("dicom/crlm_ct/CRLM-CT-1006", 15.0, 4.0), ("dicom/crc_liver_mr/t2", 60.0, 2.0)],
)
def test_a_liver_that_another_breath_moved_is_aligned_where_the_lesions_are(
    shared, name, noise, most
):
    image = real(shared, name)
    before = ready(image)
    centre = before.centre + np.array([-60, -20, 10])
    lesions = [ball(12, *centre), ball(16, *(centre + np.array([15, -10, -10])))]
    lain = motion((8, -6, 4), (2, 3, -4), centre)
    breath = np.array([0, 0, 15.0])
    after = ready(scan_again(breathe(image, 15.0, centre), lain, 6.0, noise))

    def known(points):
        return lain(points + breath)

    found = register(before, after, lesions, moved(lesions, known))
    assert found.doubts == ()
    assert found.breath > 6  # the body alone is that far off
    assert error(found, known, np.concatenate([body.points for body in lesions])) < most
