"""Several runs in one report: what they are called, and what holds for which of them."""

import dataclasses
import shutil

import pytest

from crlm_jax.report import page
from crlm_jax.runs.finished import name_apart, read_finished
from crlm_jax.runs.folder import RunFolder
from tests.finished_runs import make_run
from tests.report.test_page import visible

pytestmark = pytest.mark.usefixtures("blank_pictures")


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    return make_run(tmp_path_factory.mktemp("runs") / "half", {"a": (20, 12), "b": (12, 12)})


def test_runs_whose_folders_have_one_name_are_told_apart_everywhere(
    finished, tmp_path, monkeypatch
):
    """As those of a study are: all are called `seed0`."""
    folders = [tmp_path / name / "seed0" for name in ("unet", "crlm")]
    for folder in folders:
        shutil.copytree(finished, folder)
    drawn = {}
    distributions = page.figures.distributions

    def draw(groups, mark):
        drawn.update(groups)
        return distributions(groups, mark)

    monkeypatch.setattr(page.figures, "distributions", draw)
    out = page.write_report(folders, tmp_path / "both.html").read_text("utf-8")
    assert {name: len(rows) for name, rows in drawn.items()} == {
        "unet/seed0 pre_dwi": 2, "unet/seed0 post_dwi": 2,
        "crlm/seed0 pre_dwi": 2, "crlm/seed0 post_dwi": 2,
    }  # fmt: skip
    assert out.count('"title":"unet/seed0 ') == out.count('"title":"crlm/seed0 ') == 4
    html = visible(out)
    for text in ("<h3>unet/seed0 ", "<h3>crlm/seed0 ", "Compared with unet/seed0, patient"):
        assert text in html
    assert "<td>crlm/seed0</td>" in html
    assert ">seed0" not in html


def test_a_run_is_called_by_the_shortest_end_of_its_path_that_tells_all_apart(finished, tmp_path):
    def names(*folders):
        run = read_finished(finished)
        placed = (RunFolder(tmp_path / folder) for folder in folders)
        runs = [dataclasses.replace(run, folder=folder) for folder in placed]
        return [each.name for each in name_apart(runs)]

    assert names("x/one") == ["one"]
    assert names("x/one", "y/two") == ["one", "two"]
    assert names("a/u/seed0", "a/c/seed0", "b/c/seed1") == ["u/seed0", "c/seed0", "c/seed1"]
    assert names("a/c/seed0", "b/c/seed0") == ["a/c/seed0", "b/c/seed0"]
    assert names("x/one", "x/one", "x/two") == ["one", "one (2)", "two"]
