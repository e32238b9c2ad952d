"""Reliability and expected calibration error, against scikit-learn's numbers."""

import numpy as np
import pytest
from sklearn.calibration import calibration_curve

from crlm_jax.measures.calibration import BINS, EDGES, Reliability, errors_by_case
from crlm_jax.runs.rows import read_calibration, write_calibration


def image(seed: int, shape=(6, 40, 40)) -> tuple[np.ndarray, np.ndarray]:
    """An overconfident probability, most of it near 0, and a reference that it is drawn from."""
    rng = np.random.default_rng(seed)
    truth = rng.beta(0.15, 1.0, shape)
    return (truth**0.6).astype(np.float32), rng.random(shape) < truth


def expected(probability: np.ndarray, reference: np.ndarray) -> float:
    """The error, from scikit-learn's curve and NumPy's counts."""
    share, mean = calibration_curve(reference, probability.astype(float), n_bins=BINS)
    edges = np.linspace(0, 1, BINS + 1)
    counts, _ = np.histogram(probability, edges)
    return float(np.sum(counts[counts > 0] / counts.sum() * np.abs(share - mean)))


def test_the_curve_and_the_error_are_scikit_learns():
    probability, reference = image(0)
    found = Reliability()
    found.add(probability, reference)
    mean, share, voxels = found.curve()
    theirs = calibration_curve(reference.ravel(), probability.ravel().astype(float), n_bins=BINS)
    np.testing.assert_allclose((share, mean), theirs, rtol=1e-9)
    assert voxels.sum() == probability.size
    assert found.error() == pytest.approx(expected(probability.ravel(), reference.ravel()))
    beyond = probability > 0.01
    assert found.error_beyond() == pytest.approx(expected(probability[beyond], reference[beyond]))
    assert found.error_beyond() > 1.2 * found.error()  # the easy voxels flatter
    assert found.unseen() == np.count_nonzero(reference[~beyond]) / np.count_nonzero(reference)


def test_images_and_cases_are_pooled_and_padding_does_not_count(tmp_path):
    whole, first, second = Reliability(), Reliability(), Reliability()
    padding = np.zeros((6, 40, 40), bool)
    padding[:, :10] = True
    for place, seed in ((first, 1), (first, 2), (second, 3)):
        probability, reference = image(seed)
        place.add(probability, reference, padding)
        whole.add(probability[:, 10:], reference[:, 10:])
    rows = [*first.rows("a", "ct"), *second.rows("b", "ct")]
    write_calibration(tmp_path / "calibration.csv", rows)
    read = read_calibration(tmp_path / "calibration.csv")
    pooled = Reliability.pooled(read)
    assert [row.voxels for row in read] == [row.voxels for row in rows]
    np.testing.assert_array_equal(pooled.voxels, whole.voxels)
    np.testing.assert_array_equal(pooled.tumour, whole.tumour)
    assert pooled.error() == pytest.approx(whole.error(), abs=1e-7)
    assert errors_by_case(read) == pytest.approx([first.error_beyond(), second.error_beyond()])


def test_known_voxels():
    """A perfectly sure background, and five voxels of 0.8 of which two are tumour."""
    probability = np.array([0.0] * 95 + [0.8] * 5, np.float32).reshape(4, 5, 5)
    reference = np.zeros((4, 5, 5), bool)
    reference.flat[-2:] = True
    found = Reliability()
    found.add(probability, reference)
    assert found.error() == pytest.approx(0.05 * 0.4)
    assert found.error_beyond() == pytest.approx(0.4)
    assert found.unseen() == 0
    reference.flat[0] = True
    found.add(probability, reference)
    assert found.unseen() == pytest.approx(1 / 5)


def test_a_bin_holds_its_upper_edge_and_nothing_is_lost():
    probability = EDGES.astype(np.float32).reshape(1, 1, -1)
    found = Reliability()
    found.add(probability, np.ones(probability.shape, bool))
    assert found.voxels.sum() == found.tumour.sum() == len(EDGES)
    assert found.voxels[0] == 2  # 0 and 1 %
    assert found.voxels[-1] >= 1  # 1 itself


def test_without_a_voxel_there_is_no_row_and_no_error():
    empty = Reliability()
    assert empty.rows("a", "ct") == []
    assert (empty.error(), empty.error_beyond(), empty.unseen()) == (None, None, None)
    empty.add(np.zeros((1, 2, 2), np.float32), np.zeros((1, 2, 2), bool))
    assert (empty.error(), empty.error_beyond(), empty.unseen()) == (0, None, None)
    assert errors_by_case(empty.rows("a", "ct")) == []
