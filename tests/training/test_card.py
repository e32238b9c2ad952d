"""What a run prints on the console."""

from crlm_jax.runs.finished import read_finished
from crlm_jax.training.card import show_results
from tests.finished_runs import make_run


def test_results_are_unbroken_on_120_columns(tmp_path, capsys):
    show_results(read_finished(make_run(tmp_path / "run", {"a": (16, 8)})).summary)
    lines = capsys.readouterr().out.splitlines()
    assert sum("paper, slices" in line for line in lines) == 2
    assert max(len(line) for line in lines) <= 120
    assert not any(line.split() and line.split()[0].startswith("(") for line in lines)  # unbroken
