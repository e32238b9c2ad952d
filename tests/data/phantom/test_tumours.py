"""Metastases of the phantom's version 2: how they respond, and what they are made of."""

import dataclasses

import numpy as np
import pytest

from crlm_jax.data.phantom.anatomy import Tissue, grid_axes
from crlm_jax.data.phantom.lesions import LESION_LABEL, draw_blob
from crlm_jax.data.phantom.tumours import Part, draw_shapes, draw_tumour, paint_tumour

SHAPE = tuple(len(axis) for axis in grid_axes())


def tumour(**changes):
    rng = np.random.default_rng(3)
    blob = draw_blob(rng, Tissue.METASTASIS, 40.0, True)
    blob = dataclasses.replace(blob, post=30.0)
    drawn = draw_tumour(rng, blob, False)
    same = {"pattern": "rim", "core": 0.6, "calcified": False, "halo": 4.0, "scarred": 0.5}
    return dataclasses.replace(drawn, **same | changes)


def painted(drawn, post=False):
    labels, mask = np.full(SHAPE, Tissue.LIVER, np.uint8), np.zeros(SHAPE, bool)
    paint_tumour(labels, mask, np.ones(SHAPE, bool), drawn, post, LESION_LABEL)
    counts = {part: int((labels == LESION_LABEL + part).sum()) for part in Part}
    return labels, mask, counts


def test_lesions_shrink_vanish_grow_and_appear():
    patients = [draw_shapes(np.random.default_rng(seed)) for seed in range(400)]
    lesions = [blob for blobs in patients for blob in blobs]
    new = [blob for blob in lesions if not blob.pre]
    assert np.mean([any(not b.pre for b in blobs) for blobs in patients]) == pytest.approx(
        0.2, abs=0.06
    )
    assert all(8 <= blob.post <= 16 for blob in new)
    old = [blob for blob in lesions if blob.pre]
    shares = {
        "vanished": np.mean([b.post == 0 for b in old]),
        "smaller": np.mean([0 < b.post <= 0.86 * b.pre for b in old]),
        "larger": np.mean([b.post >= 1.1 * b.pre for b in old]),
    }
    assert 0.02 < shares["vanished"] < 0.2
    assert 0.4 < shares["smaller"] < 0.8
    assert 0.05 < shares["larger"] < 0.25
    assert all(blobs[0].post >= 13 for blobs in patients)  # the largest stays visible
    assert np.median([blobs[0].pre for blobs in patients]) == pytest.approx(36, abs=3)


def test_a_lesion_has_the_parts_it_was_drawn_with():
    labels, mask, counts = painted(tumour())
    assert all(counts[part] for part in (Part.HALO, Part.EDGE, Part.RIM, Part.BODY, Part.CORE))
    assert counts[Part.CALCIUM] == counts[Part.SCAR] == 0
    halo = labels == LESION_LABEL + Part.HALO
    assert (halo & mask).sum() < 0.35 * halo.sum()  # the reader draws the lesion, not its halo
    signal = (labels >= LESION_LABEL) & ~halo
    overlap = 2 * (signal & mask).sum() / (signal.sum() + mask.sum())
    assert 0.85 < overlap < 0.995  # the border wanders about the outline
    assert not painted(tumour(halo=0.0))[2][Part.HALO]
    assert not painted(tumour(pattern="uniform", core=0.0))[2][Part.CORE]
    assert painted(tumour(pattern="variegate", core=0.0))[2][Part.CORE]
    assert painted(tumour(calcified=True))[2][Part.CALCIUM]


def test_chemotherapy_leaves_scars_and_a_living_rim():
    little, much = (painted(tumour(scarred=s), post=True)[2] for s in (0.1, 0.8))
    assert 0 < little[Part.SCAR] < much[Part.SCAR]
    assert much[Part.RIM] + much[Part.EDGE] > 0


def test_a_lesion_that_is_not_there_is_not_drawn():
    drawn = tumour()
    gone = dataclasses.replace(drawn, blob=dataclasses.replace(drawn.blob, post=0.0))
    labels, mask, _ = painted(gone, post=True)
    assert not mask.any()
    assert (labels == Tissue.LIVER).all()


def test_the_same_lesion_is_drawn_in_every_scan_of_a_date():
    assert np.array_equal(painted(tumour())[0], painted(tumour())[0])
