"""nnU-Net's augmentation: how often, how much, and what stays, against definitions written here."""

import dataclasses
import math

import numpy as np
import pytest
from scipy import ndimage

from crlm_jax.data import augment_nnunet

SIDE = 64


def scene(seed: int = 0, side: int = SIDE) -> tuple[np.ndarray, np.ndarray]:
    """A smooth slice well within 0 to 255, and a mask of its bright parts."""
    rough = np.random.default_rng(seed).standard_normal((side, side))
    smooth = ndimage.gaussian_filter(rough, 3)
    image = np.rint(120 + 20 * (smooth - smooth.mean()) / smooth.std()).astype(np.uint8)
    return image[..., None], (image > 130).astype(np.uint8)[..., None]


def changed(image, mask, seed: int = 0, **changes) -> tuple[np.ndarray, np.ndarray]:
    return augment_nnunet.apply_changes(
        image, mask, augment_nnunet.Changes(**changes), np.random.default_rng(seed)
    )


def levels(seed: int = 0) -> np.ndarray:
    """A float32 slice of mean 0 and deviation 1."""
    image = scene(seed)[0][..., 0].astype(np.float32)
    return (image - image.mean()) / image.std()


@pytest.fixture(scope="module")
def draws() -> list[augment_nnunet.Changes]:
    rng = np.random.default_rng(0)
    return [augment_nnunet.draw(rng) for _ in range(20000)]


# The sample's probability times the channel's, and the limits, as nnU-Net's trainer sets them.
@pytest.mark.parametrize(
    ("name", "probability", "low", "high"),
    [
        ("angle", 0.2, -math.pi, math.pi),
        ("scale", 0.2, 0.7, 1.4),
        ("noise", 0.1, 0.0, 0.1),
        ("brightness", 0.15, 0.75, 1.25),
        ("contrast", 0.15, 0.75, 1.25),
        ("resolution", 0.25 * 0.5, 0.5, 1.0),
        ("gamma_inverted", 0.1, 0.7, 1.5),
        ("gamma", 0.3, 0.7, 1.5),
    ],
)
def test_how_often_and_how_much(draws, name, probability, low, high):
    values = np.array([getattr(draw, name) for draw in draws])
    done = values[values != getattr(augment_nnunet.Changes(), name)]
    spread = math.sqrt(probability * (1 - probability) / len(values))
    assert abs(len(done) / len(values) - probability) < 4 * spread
    assert low <= done.min() < low + 0.02 * (high - low)
    assert high - 0.02 * (high - low) < done.max() <= high
    # A factor is below 1 as often as above, whatever its limits; all else is uniform.
    middle = 1 if name.startswith(("gamma", "brightness", "contrast")) else (low + high) / 2
    assert abs((done < middle).mean() - 0.5) < 4 * 0.5 / math.sqrt(len(done))


def test_blur_has_a_deviation_for_each_axis(draws):
    values = np.array([draw.blur for draw in draws])
    done = values[values.any(axis=1)]
    assert abs(len(done) / len(values) - 0.1) < 4 * math.sqrt(0.1 * 0.9 / len(values))
    assert done.min() >= 0.5
    assert done.max() <= 1
    assert abs(np.corrcoef(done.T)[0, 1]) < 0.1


def test_mirroring_of_each_axis_by_itself(draws):
    mirror = np.array([draw.mirror for draw in draws])
    kinds = np.bincount(mirror @ (1, 2), minlength=4) / len(draws)
    np.testing.assert_allclose(kinds, 0.25, atol=4 * math.sqrt(0.25 * 0.75 / len(draws)))


def test_changes_are_drawn_apart_from_each_other(draws):
    names = [
        field.name for field in dataclasses.fields(augment_nnunet.Changes) if field.name != "mirror"
    ]
    neutral = augment_nnunet.Changes()
    done = np.array(
        [[getattr(draw, name) != getattr(neutral, name) for name in names] for draw in draws]
    )
    together = np.corrcoef(done.T) - np.eye(len(names))
    assert np.abs(together).max() < 4 / math.sqrt(len(draws))


def test_nothing_drawn_nothing_changed():
    for pixels, out in zip(scene(), changed(*scene()), strict=True):
        np.testing.assert_array_equal(out, pixels)


def test_augmented_is_a_function_of_its_arguments():
    image, mask = scene()
    kept = image.copy(), mask.copy()
    images = set()
    for seed in range(60):
        out = augment_nnunet.augment(image, mask, np.random.default_rng(seed))
        for pixels in out:
            assert pixels.shape == image.shape
            assert pixels.dtype == np.uint8
        assert set(np.unique(out[1])) <= {0, 1}
        again = augment_nnunet.augment(image, mask, np.random.default_rng(seed))
        np.testing.assert_array_equal(out, again)
        images.add(out[0].tobytes())
    np.testing.assert_array_equal((image, mask), kept)
    assert len(images) > 50


@pytest.mark.parametrize("grey", [0, 77, 255])
def test_a_slice_of_one_grey_level_stays(grey):
    image = np.full((SIDE, SIDE, 1), grey, np.uint8)
    mask = scene()[1]
    every = {"angle": 1.0, "scale": 1.3, "noise": 0.1, "blur": (1.0, 1.0), "brightness": 1.2}
    every |= {"contrast": 0.8, "resolution": 0.5, "gamma_inverted": 1.4, "gamma": 0.7}
    with np.errstate(all="raise"):
        np.testing.assert_array_equal(changed(image, mask, **every)[0], image)


def test_quarter_turns_are_exact():
    image, mask = scene()
    for quarters in (1, 2, 3):
        out = changed(image, mask, angle=quarters * math.pi / 2)
        np.testing.assert_array_equal(out[0], np.rot90(image, -quarters))
        np.testing.assert_array_equal(out[1], np.rot90(mask, -quarters))


@pytest.mark.parametrize(("angle", "scale"), [(0.5, 1.0), (-2.0, 1.4), (0.0, 0.7), (3.0, 0.83)])
def test_turned_and_scaled_as_scipy_does(angle, scale):
    x, mask = levels(), scene()[1][..., 0]
    matrix = scale * np.array(
        ((math.cos(angle), -math.sin(angle)), (math.sin(angle), math.cos(angle)))
    )
    centre = np.full(2, (SIDE - 1) / 2)
    options = {"offset": centre - matrix @ centre, "order": 1, "mode": "grid-constant"}
    moved, moved_mask = augment_nnunet.rotate_and_scale(x, mask, angle, scale)
    np.testing.assert_allclose(moved, ndimage.affine_transform(x, matrix, **options), atol=1e-5)
    share = ndimage.affine_transform(mask.astype(np.float64), matrix, **options)
    np.testing.assert_array_equal(moved_mask, share > 0.5)


@pytest.mark.parametrize("scale", [0.7, 1.0, 1.4])
def test_mask_goes_with_the_image_and_its_area_with_the_scale(scale):
    rows, columns = np.indices((SIDE, SIDE))
    disc = ((rows - 24) ** 2 + (columns - 36) ** 2 < 10**2).astype(np.uint8)[..., None]
    image, mask = changed(100 + 100 * disc, disc, angle=0.7, scale=scale, mirror=(True, False))
    assert mask.sum() == pytest.approx(disc.sum() / scale**2, rel=0.05)
    # Half-way between the levels is where the label changes; rounding may tip a pixel.
    assert ((image > 150) != mask).sum() <= 2
    distance = np.hypot(*(np.argwhere(mask[..., 0]).mean(axis=0) - (SIDE - 1) / 2))
    before = np.hypot(*(np.argwhere(disc[..., 0]).mean(axis=0) - (SIDE - 1) / 2))
    assert distance == pytest.approx(before / scale, rel=0.02)


def test_what_is_left_empty_is_the_mean_grey_and_no_tumour():
    image, _ = scene()
    out, mask = changed(image, np.ones_like(image), angle=math.pi / 4)
    corners = np.ix_([0, -1], [0, -1])
    np.testing.assert_array_equal(out[corners], np.rint(image.mean()))
    np.testing.assert_array_equal(mask[corners], 0)
    assert mask.mean() == pytest.approx(8 * (math.sqrt(2) - 1) / 4, abs=0.01)  # an octagon


def test_mirroring_flips_both():
    image, mask = scene()
    for vertical in (False, True):
        for horizontal in (False, True):
            out = changed(image, mask, mirror=(vertical, horizontal))
            for found, pixels in zip(out, (image, mask), strict=True):
                expected = np.flipud(pixels) if vertical else pixels
                expected = np.fliplr(expected) if horizontal else expected
                np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("grey_levels", [10, 40])
def test_noise_is_in_deviations_of_the_slice(grey_levels):
    rng = np.random.default_rng(0)
    image = np.rint(rng.normal(128, grey_levels, (256, 256, 1)).clip(0, 255)).astype(np.uint8)
    added = changed(image, image, noise=0.1)[0].astype(float) - image
    expected = math.hypot(0.1 * image.std(), math.sqrt(1 / 12))  # and that of rounding
    assert added.std() == pytest.approx(expected, rel=0.05)
    assert abs(added.mean()) < 0.05


def test_only_turns_scales_and_mirroring_reach_the_mask():
    image, mask = scene()
    every = {"noise": 0.1, "blur": (1.0, 0.6), "brightness": 1.2, "contrast": 0.8}
    every |= {"resolution": 0.5, "gamma_inverted": 1.4, "gamma": 0.7}
    for name, value in every.items():
        out = changed(image, mask, **{name: value})
        assert (out[0] != image).any(), name
        np.testing.assert_array_equal(out[1], mask)


def test_brightness_multiplies_about_the_mean_of_the_slice():
    image, mask = scene()
    expected = (image - image.mean()) * 1.2 + image.mean()
    np.testing.assert_allclose(changed(image, mask, brightness=1.2)[0], expected, atol=0.51)


def test_grey_levels_are_clipped():
    image = np.array([[0, 255], [0, 255]], np.uint8)[..., None]
    np.testing.assert_array_equal(changed(image, image, brightness=1.25)[0], image)


def test_blur_is_gaussian_along_each_axis():
    point = np.zeros((21, 21), np.float32)
    point[10, 10] = 1
    out = augment_nnunet.blur(point, (0.5, 1.0))
    for axis, (deviation, radius) in enumerate([(0.5, 1), (1.0, 3)]):
        places = np.arange(-radius, radius + 1)
        kernel = np.exp(-(places**2) / (2 * deviation**2))
        expected = np.pad(kernel / kernel.sum(), 10 - radius)
        np.testing.assert_allclose(out.sum(axis=1 - axis), expected, atol=1e-6)
    np.testing.assert_allclose(
        augment_nnunet.blur(np.ones((9, 9), np.float32), (1, 1)), 1, rtol=1e-6
    )


def test_contrast_keeps_the_range():
    x = levels() + 3
    out = augment_nnunet.change_contrast(x, 1.25)
    assert out.min() == x.min()
    assert out.max() == x.max()
    inside = (out > x.min()) & (out < x.max())
    np.testing.assert_allclose((out - x.mean())[inside], 1.25 * (x - x.mean())[inside], atol=1e-5)
    np.testing.assert_allclose(
        augment_nnunet.change_contrast(x, 0.75), 0.75 * (x - x.mean()) + x.mean(), atol=1e-5
    )


@pytest.mark.parametrize("inverted", [False, True])
@pytest.mark.parametrize("gamma", [0.7, 1.5])
def test_gamma_keeps_mean_and_deviation(gamma, inverted):
    x = levels()
    out = (
        -augment_nnunet.correct_gamma(-x, gamma)
        if inverted
        else augment_nnunet.correct_gamma(x, gamma)
    )
    assert out.mean() == pytest.approx(x.mean(), abs=1e-5)
    assert out.std() == pytest.approx(x.std(), abs=1e-5)
    shares = (x - x.min()) / np.ptp(x)
    expected = 1 - (1 - shares) ** gamma if inverted else shares**gamma
    # Up to a gain and an offset.
    np.testing.assert_allclose(
        (out - out.mean()) / out.std(),
        (expected - expected.mean()) / expected.std(),
        atol=1e-4,
    )


def test_low_resolution_takes_the_nearest_and_joins_them_by_lines():
    # Of 4 pixels with centres 0.5 … 3.5 the coarse two, centres 1 and 3, take pixels 1 and 3.
    x = np.tile(np.array([5, 10, 6, 30], np.float32), (4, 1))
    out = augment_nnunet.lower_resolution(x, 0.5)
    np.testing.assert_allclose(out, np.tile([10, 15, 25, 30], (4, 1)))
    np.testing.assert_allclose(augment_nnunet.lower_resolution(x.T, 0.5), out.T)


@pytest.mark.parametrize("scale", [0.5, 0.61, 0.9, 1.0])
def test_low_resolution_leaves_a_ramp_where_it_is(scale):
    ramp = np.broadcast_to(np.arange(SIDE, dtype=np.float32), (SIDE, SIDE))
    out = augment_nnunet.lower_resolution(ramp, scale)
    assert out.shape == ramp.shape
    assert np.abs(out - ramp).max() <= (0 if scale == 1 else 1.5)
    assert (out != ramp).any() == (scale < 1)


def test_the_images_of_a_slice_share_their_change():
    """Three times the same image stays so, and a difference of grey levels scales as one image."""
    image, mask = scene()
    changes = {"angle": 0.4, "scale": 1.1, "blur": (0.6, 0.8), "brightness": 1.2, "contrast": 0.8,
               "resolution": 0.7, "gamma": 1.3, "mirror": (True, False)}  # fmt: skip
    alone, own = changed(image, mask, **changes)
    three, same = changed(np.repeat(image, 3, -1), mask, **changes)
    np.testing.assert_array_equal(three, np.repeat(alone, 3, -1))
    np.testing.assert_array_equal(same, own)
    darker = np.concatenate([image, image - 20, image], axis=-1)
    bright, _ = changed(darker, mask, brightness=1.25)
    apart = bright[..., 0].astype(int) - bright[..., 1]
    assert np.abs(apart - 25).max() <= 1
