"""The table of all measures agrees with what is computed and what is shown."""

from crlm_jax.measures.detection import LesionScores
from crlm_jax.measures.overlap import Counts, Volumes, overlap
from crlm_jax.measures.result_tables import CLINICAL_HEADER, COMPARED
from crlm_jax.measures.surfaces import Surfaces
from crlm_jax.measures.table import (
    BY_NAME,
    LESION,
    MEASURES,
    OVERLAP,
    OVERLAP_PAPER,
    OVERLAP_SLICES,
    SURFACE,
    VOLUME,
)


def test_every_computed_value_has_its_line_in_order():
    assert len(BY_NAME) == len(MEASURES)
    assert tuple(overlap(Counts(1, 1, 1))) == OVERLAP
    for names, suffix in ((OVERLAP_PAPER, "_paper"), (OVERLAP_SLICES, "_slices")):
        assert names == tuple(name + suffix for name in OVERLAP)
    assert tuple(Surfaces().values()) == SURFACE
    assert tuple(LesionScores().values()) == LESION
    assert tuple(Volumes().values()) == VOLUME


def test_lengths_and_volumes_have_units_and_shares_have_none():
    for measure in MEASURES:
        assert measure.label
        assert (measure.unit in ("mm", "mm³")) == (
            measure.group in ("surface", "volume")
            and not measure.share
            and measure.name != "volume_error_relative"
        ), measure.name


def test_a_measure_is_called_the_same_everywhere():
    paper, clinical, dice = (BY_NAME[name] for name in COMPARED)
    assert [m.row_header for m in (paper, clinical, dice)] == [
        "DSC (paper, pooled)", "DSC (clinical)", "surface Dice 2 mm",
    ]  # fmt: skip
    assert [m.title for m in (paper, clinical, dice, BY_NAME["hd95"])] == [
        "DSC, paper's protocol, pooled", "DSC, clinical protocol", "surface Dice at 2 mm",
        "HD95 (mm)",
    ]  # fmt: skip
    assert CLINICAL_HEADER == (
        "condition", "n", "HD95 mm", "ASSD mm", "surface Dice 2 mm", "surface Dice 1 voxel",
        "lesion sensitivity", "lesion precision", "false lesions a case", "volume error",
    )  # fmt: skip


def test_more_is_better_of_what_runs_are_compared_by():
    """The report says that a difference above zero speaks for the run."""
    assert {BY_NAME[name].better for name in COMPARED} == {"higher"}
