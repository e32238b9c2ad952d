import numpy as np
import pytest

from crlm_jax.metrics import OVERLAP, Counts, overlap


def test_known_overlap():
    counts = Counts()
    counts.add(np.array([1, 1, 1, 0], bool), np.array([0, 1, 1, 1], bool))
    counts.add(np.array([1, 0], bool), np.array([0, 0], bool))
    # Pooled: TP 2, FP 2, FN 1.
    assert overlap(counts) == pytest.approx(
        {"dsc": 4 / 7, "iou": 2 / 5, "recall": 2 / 3, "precision": 1 / 2, "f1": 4 / 7}
    )


@pytest.mark.parametrize(
    ("counts", "value"),
    [(Counts(), 1.0), (Counts(0, 5, 0), 0.0), (Counts(0, 0, 5), 0.0), (Counts(0, 3, 4), 0.0)],
)
def test_empty_masks_have_a_stated_result(counts, value):
    assert overlap(counts) == dict.fromkeys(OVERLAP, value)


def test_agrees_with_recorded_tools(shared):
    """MedPy's Dice and Jaccard wherever no mask is empty."""
    recorded = np.load(shared / "fixtures" / "metrics.npz")
    shape = tuple(recorded["ref_shape"])
    reference = np.unpackbits(recorded["ref"], axis=1)[:, : np.prod(shape[1:])].reshape(shape)
    prediction = recorded["prob"] > 0.5
    checked = 0
    for i in range(len(reference)):
        if not prediction[i].any() or not reference[i].any():
            continue
        counts = Counts()
        counts.add(prediction[i], reference[i] > 0)
        values = overlap(counts)
        for name, tool in [("dsc", "dc"), ("iou", "jc"), ("recall", "recall"),
                           ("precision", "precision")]:  # fmt: skip
            assert values[name] == pytest.approx(float(recorded[f"medpy_{tool}"][i]), rel=1e-6)
        checked += 1
    assert checked == 5
