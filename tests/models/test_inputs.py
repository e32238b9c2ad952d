import numpy as np

from crlm_jax.config.schema import Augment
from crlm_jax.data.augment import photometric
from crlm_jax.models import packing
from crlm_jax.models.inputs import IMAGENET_MEAN, IMAGENET_STD, critic_input, network_input
from tests.data.test_augment import apply_photometric


def test_the_device_does_what_the_six_numbers_mean():
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (8, 5, 6, 1), dtype=np.uint8)
    six = photometric(rng, Augment(saturation=200.0), len(image))
    wanted = np.stack([apply_photometric(*pair) for pair in zip(image, six, strict=True)])
    seen = np.asarray(network_input(image, six))
    assert seen.shape == (8, 5, 6, 3)
    np.testing.assert_allclose((seen * IMAGENET_STD + IMAGENET_MEAN) * 255, wanted, atol=1e-2)
    assert np.ptp(seen * IMAGENET_STD + IMAGENET_MEAN, axis=-1).max() > 0.1  # coloured


def test_without_them_a_grey_image_stays_grey():
    image = np.arange(0, 250, 10, dtype=np.uint8).reshape(1, 5, 5, 1)
    seen = np.asarray(network_input(image)) * IMAGENET_STD + IMAGENET_MEAN
    np.testing.assert_allclose(seen * 255, np.repeat(image, 3, -1), atol=1e-3)


def test_three_images_are_the_three_channels_packed_or_not():
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (2, 4, 6, 3), dtype=np.uint8)
    six = rng.uniform(0.9, 1.1, (2, 6)).astype(np.float32)
    seen = np.asarray(network_input(image)) * IMAGENET_STD + IMAGENET_MEAN
    np.testing.assert_allclose(seen * 255, image, atol=1e-3)
    same = network_input(np.repeat(image[..., :1], 3, -1), six)
    np.testing.assert_array_equal(same, network_input(image[..., :1], six))
    plain, packed = network_input(image, six), network_input(packing.pack(image), six)
    np.testing.assert_allclose(packing.unpack(packed), plain, rtol=1e-6)
    # The mask of the slice hides the same pixels of all three.
    mask = rng.integers(0, 2, (2, 4, 6, 1)).astype(np.float32)
    hidden = np.asarray(critic_input(plain, mask, "before_normalisation"))
    grey = (hidden * IMAGENET_STD + IMAGENET_MEAN) * (1 - mask)
    np.testing.assert_allclose(grey, 0, atol=1e-6)
    packed = critic_input(packed, packing.pack(mask), "before_normalisation")
    np.testing.assert_allclose(packing.unpack(packed), hidden, rtol=1e-6)
