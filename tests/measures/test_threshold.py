"""The choice of a threshold on the validation patients."""

import numpy as np
import pytest

from crlm_jax.measures.overlap import Counts
from crlm_jax.measures.threshold import GRID, choose_threshold, count_each
from tests.finished_runs import prepare, write_volume


def segment(slices):
    return slices[..., 0] / np.float32(255)


@pytest.fixture
def known(tmp_path):
    """Tumour at a probability of 0.6, and beside it a halo of 0.2; at the test patient's, 0.9."""
    rows = []
    for patient, halo, split in (("teach", 50, "train"), ("v", 50, "validation"),
                                 ("w", 50, "validation"), ("t", 230, "test")):  # fmt: skip
        image, mask = np.zeros((3, 32, 32), np.int16), np.zeros((3, 32, 32), np.uint8)
        image[:, 0, 0] = 255
        image[1, 4:24, 4:24], image[1, 8:16, 8:16], mask[1, 8:16, 8:16] = halo, 153, 1
        write_volume(tmp_path / f"{patient}.nii.gz", image)
        write_volume(tmp_path / f"{patient}_mask.nii.gz", mask)
        rows.append(f"{patient},ct,{patient}.nii.gz,{patient}_mask.nii.gz,{split}")
    return prepare(tmp_path, rows, ("ct",))


def test_of_equal_thresholds_the_one_nearest_to_the_configured_is_chosen(known):
    config, slices = known
    best = 2 * 64 / (2 * 64 + 3)  # the bright corners are false
    for own, expected in ((0.5, 0.5), (0.33, 0.33), (0.1, 0.2), (0.99, 0.55)):
        config.evaluation.threshold = own
        chosen = choose_threshold(config, slices, segment, 7)
        assert chosen.threshold == expected
        assert (chosen.step, chosen.cases) == (7, 2)
        assert chosen.dsc[f"{expected:g}"] == pytest.approx(best)
        assert chosen.dsc["0.1"] == pytest.approx(2 * 64 / (400 + 3 + 64))
        assert chosen.dsc["0.8"] == 0
        assert list(map(float, chosen.dsc)) == sorted({*GRID, own})


def test_no_test_patient_is_read(known, monkeypatch):
    config, slices = known
    source = type(slices).source

    def guarded(self, split):
        assert split == "validation"
        return source(self, split)

    monkeypatch.setattr(type(slices), "source", guarded)
    assert choose_threshold(config, slices, segment, 1).cases == 2


def test_counts_are_those_of_the_masks():
    rng = np.random.default_rng(0)
    probability = rng.random((3, 9, 9)).astype(np.float32)
    probability[0, 0, :3] = (0.3, 0.35, 0.95)  # on an edge
    reference = rng.random((3, 9, 9)) < 0.3
    for threshold, found in zip(GRID, count_each(probability, reference, GRID), strict=True):
        expected = Counts()
        expected.add(probability > threshold, reference)
        assert found == expected
