"""Which series is which condition."""

from dataclasses import replace

import pytest

from crlm_jax.imaging.dicom.listing import SeriesFacts
from crlm_jax.serve.rules import RulesError, default_rules, find_rule, modalities, read_rules

FACTS = SeriesFacts("1.2", "Abdomen portal VENOUS", "CT", "axial", "3", 40, 40, ())
RULES = """
[[rule]]
condition = "ct"
description = "portal|venous"
plane = "axial"

[[rule]]
condition = "pre_dwi"
description = "^dwi"
b_value = 800
"""


@pytest.fixture
def rules(tmp_path):
    (tmp_path / "rules.toml").write_text(RULES)
    return read_rules(tmp_path / "rules.toml")


@pytest.mark.parametrize(
    ("change", "condition"),
    [
        ({}, "ct"),
        ({"description": "arterial"}, None),
        ({"plane": "coronal"}, None),
        ({"modality": "MR"}, None),
        ({"modality": "MR", "description": "DWI tra", "b_values": (0.0, 800.0)}, "pre_dwi"),
        ({"modality": "MR", "description": "DWI tra", "b_values": (0.0, 50.0)}, None),
        ({"modality": "MR", "description": "ep2d DWI", "b_values": (0.0, 800.0)}, None),
    ],
)
def test_the_first_rule_that_fits_says_the_condition(rules, change, condition):
    found = find_rule(rules, replace(FACTS, **change))
    assert (found and found.condition) == condition


def test_modalities_are_those_of_the_conditions(rules):
    assert modalities(rules) == {"CT", "MR"}
    assert modalities(rules[:1]) == {"CT"}


def test_a_run_of_one_condition_needs_no_file():
    assert find_rule(default_rules(["ct"]), FACTS).condition == "ct"
    with pytest.raises(RulesError, match="--rules"):
        default_rules(["pre_dwi", "pre_t2wi"])


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[[rule]", "no TOML"),
        ("", r"\[\[rule\]\]"),
        ("rules = 1", "rules is not understood"),
        ("[[rule]]\nplane = 'axial'", "rule 1: condition"),
        ("[[rule]]\ncondition = 'CT 1'", "condition"),
        ("[[rule]]\ncondition = 'ct'\nplanes = 'axial'", "planes is no field"),
        ("[[rule]]\ncondition = 'ct'\nplane = 'oblique'", "axial, coronal, sagittal"),
        ("[[rule]]\ncondition = 'ct'\nmodality = 'PT'", "CT or MR"),
        ("[[rule]]\ncondition = 'ct'\nb_value = 'high'", "write a number"),
        ("[[rule]]\ncondition = 'ct'\nb_value = -1", "at least 0"),
        ("[[rule]]\ncondition = 'ct'\ndescription = '('", "regular expression"),
    ],
)
def test_a_wrong_rule_is_named_with_its_remedy(tmp_path, text, said):
    (tmp_path / "rules.toml").write_text(text)
    with pytest.raises(RulesError, match=said) as error:
        read_rules(tmp_path / "rules.toml")
    assert "rules.toml" in str(error.value)
