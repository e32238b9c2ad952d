"""What the schema allows is what the code has."""

import inspect
from typing import get_args

import pytest

from crlm_jax.config import checks
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


def test_the_checks_know_the_smallest_slice_of_segan():
    assert f"SegAN needs {segan.MIN_SIDE} or more" in inspect.getsource(checks)
