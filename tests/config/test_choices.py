"""What the schema allows is what the code has."""

import sys
from typing import get_args

import pytest
from absl import flags
from ml_collections import config_flags

from crlm_jax.config import checks
from crlm_jax.config import flags as command_line  # noqa: F401  # registers the parser of choices
from crlm_jax.config.schema import field_types
from crlm_jax.method import losses
from crlm_jax.models import listing, resnet, segan


@pytest.mark.parametrize(
    ("field", "table"),
    [
        ("segmenter.name", listing.SEGMENTERS),
        ("critic.name", listing.CRITICS),
        ("loss.dice", losses.DICE),
    ],
)
def test_every_choice_is_in_the_table_of_the_code(field, table):
    assert get_args(field_types()[field]) == tuple(table)


def test_the_checks_know_how_many_stages_a_critic_has():
    stages = {"resnet50": len(resnet.BLOCKS), "segan": len(segan.FACTORS)}
    assert stages == checks.CRITIC_STAGES
    assert set(stages) == set(listing.CRITICS)


def test_a_field_with_choices_is_overridden_from_the_command_line(monkeypatch):
    values = flags.FlagValues()
    config_flags.DEFINE_config_file("experiment", flag_values=values)
    words = ["--experiment.segmenter.name=unet", "--experiment.loss.dice", "squared"]
    monkeypatch.setattr(sys, "argv", ["program", "--experiment=configs/ct.py", *words])
    values(sys.argv)
    config = values.experiment
    assert (config.segmenter.name, config.loss.dice) == ("unet", "squared")
