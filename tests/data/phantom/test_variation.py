"""Patients of the phantom's version 2: livers, contents and contrasts that differ."""

import dataclasses

import numpy as np
import pytest

from crlm_jax.data.phantom.anatomy import Tissue
from crlm_jax.data.phantom.lesions import LESION_LABEL
from crlm_jax.data.phantom.scanner import CT, DWI, T2WI
from crlm_jax.data.phantom.tumours import STRIDE, Part
from crlm_jax.data.phantom.variation import Extra, draw_case, draw_traits, signals


@pytest.fixture(scope="module")
def case():
    return draw_case(np.random.default_rng(5))


def liver(case, scanner, post=False, **traits):
    """The liver's signal with other traits; the scan's own draws are the same."""
    other = dataclasses.replace(case, traits=dataclasses.replace(case.traits, **traits))
    return float(signals(np.random.default_rng(1), scanner, other, post)[Tissue.LIVER])


def test_fat_takes_hounsfield_units_and_signal(case):
    lean, fat = (liver(case, CT, fat=f, uptake=1.0) for f in (0.0, 0.2))
    assert lean - 1000 == pytest.approx(112, abs=1)
    assert lean - fat == pytest.approx(34, abs=0.5)  # 1.7 HU a per cent
    assert liver(case, T2WI, fat=0.2) < liver(case, T2WI, fat=0.0)
    assert liver(case, CT, post=True, more_fat=0.1) < liver(case, CT, post=False, more_fat=0.1)


def test_iron_darkens_the_liver_on_mri(case):
    for scanner in (DWI, T2WI):
        assert liver(case, scanner, iron=0.6) < 0.6 * liver(case, scanner, iron=1.0)
    assert liver(case, CT, iron=0.6) == liver(case, CT, iron=1.0)


def test_contrasts_of_lesion_and_liver_overlap_between_patients():
    """Some lesions are as dark as other patients' livers, which no common threshold parts."""
    base = draw_case(np.random.default_rng(5))
    livers, rims = [], []
    for seed in range(60):
        rng = np.random.default_rng(seed)
        tumours = [
            dataclasses.replace(t, jitter=rng.standard_normal((2, 3)), kind=kind)
            for t, kind in zip(base.tumours, ["isointense", *["usual"] * 9], strict=False)
        ]
        other = dataclasses.replace(base, traits=draw_traits(rng), tumours=tumours)
        table = signals(rng, T2WI, other, False)
        livers.append(table[Tissue.LIVER])
        rims += [table[LESION_LABEL + STRIDE * i + Part.RIM] for i in range(len(tumours))]
    assert min(rims) < max(livers)
    assert np.median(rims) > np.median(livers)


def test_mucin_shines_on_t2(case):
    table = [
        signals(
            np.random.default_rng(0),
            T2WI,
            dataclasses.replace(case, tumours=[dataclasses.replace(case.tumours[0], kind=kind)]),
            False,
        )[LESION_LABEL + Part.RIM]
        for kind in ("isointense", "usual", "mucinous")
    ]
    assert table[0] < table[1] < table[2]


def test_bowel_gallbladder_and_liver_are_filled_differently():
    found = set()
    for seed in range(6):
        found |= set(np.unique(draw_case(np.random.default_rng(seed)).labels).tolist())
    assert {Extra.FLUID, Extra.PASTE, Extra.SLUDGE, Extra.PERFUSED, Tissue.CONTENT} <= found


def test_scans_of_a_date_share_a_body(case):
    (before, mask), (after, _) = case.before, case.after
    assert (before[mask] >= LESION_LABEL).mean() > 0.9
    unchanged = (before < LESION_LABEL) & (after < LESION_LABEL)
    assert np.array_equal(before[unchanged], after[unchanged])
