"""What a run prints on the console."""

import math

import pytest

from crlm_jax.config.schema import Config
from crlm_jax.runs.finished import read_finished
from crlm_jax.training.card import describe_attributions, doubt_of_repetition, show_results
from tests.finished_runs import make_run


def test_results_are_unbroken_on_120_columns(tmp_path, capsys):
    show_results(read_finished(make_run(tmp_path / "run", {"a": (16, 8)})).summary)
    lines = capsys.readouterr().out.splitlines()
    assert sum("paper, slices" in line for line in lines) == 2
    assert max(len(line) for line in lines) <= 120
    assert not any(line.split() and line.split()[0].startswith("(") for line in lines)  # unbroken


def test_the_card_says_how_many_attributions_add_up_and_warns_of_the_others(capsys):
    assert describe_attributions([]) == []
    ((name, text),) = describe_attributions([0.001, 0.0099])
    assert name == "attribution"
    assert text.startswith("2 of 2 maps sum to their score less the baseline's within 1 %")
    assert capsys.readouterr().err == ""
    ((_, text),) = describe_attributions([0.001, 0.25, math.inf])
    assert text.startswith("1 of 3 maps")
    assert text.endswith("greatest completeness error infinite")
    assert "warning: attribution: 1 of 3 maps" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("foreground", "first", "slices", "tumour", "said"),
    [
        (0.0, 0.0, 8, 1, None),
        (0.0, 0.0, 7, 7, "train.batch_size = 8 gives 8 places of a batch to slices, and only 7"),
        (1 / 3, 0.0, 20, 3, None),
        (1 / 3, 0.0, 20, 2, "train.foreground = 0.333333 gives 3 places of a batch to slices with"),
        (1 / 3, 0.5, 20, 8, None),
        (1 / 3, 0.5, 20, 7, "train.tumour_first = 0.5 gives 8 places of a batch to slices with"),
    ],
)
def test_a_batch_that_shows_a_slice_twice_is_warned_of(foreground, first, slices, tumour, said):
    config = Config()
    config.train.batch_size, config.train.foreground = 8, foreground
    config.train.tumour_first = first
    data = {"slices": slices, "tumour_slices": tumour}
    doubts = doubt_of_repetition(config, data, planned=100)
    assert len(doubts) == (said is not None)
    assert not doubts or doubts[0].startswith(said)
