import numpy as np

from crlm_jax.config.schema import Augment
from crlm_jax.data.augment import photometric
from crlm_jax.models.inputs import IMAGENET_MEAN, IMAGENET_STD, network_input
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
