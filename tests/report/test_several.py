"""Several runs in one report: what they are called, and what holds for which of them."""

import dataclasses
import html
import re
import shutil

import pytest

from crlm_jax.config.storage import to_json
from crlm_jax.measures.result_tables import compare, comparison_rows
from crlm_jax.report import page
from crlm_jax.runs.evaluation import Evaluation, write_evaluation
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
    shown = visible(out)
    for text in ("<h3>unet/seed0 ", "<h3>crlm/seed0 ", "Compared with unet/seed0, patient"):
        assert text in shown
    assert "<td>crlm/seed0</td>" in shown
    assert ">seed0" not in shown


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


@pytest.fixture
def pair(finished, tmp_path):
    """Two folders with one run: `one` and `two`."""
    return [shutil.copytree(finished, tmp_path / name) for name in ("one", "two")]


def resize(folder, size: int) -> None:
    config = read_finished(folder).config
    config.data.image_size = size
    RunFolder(folder).config.write_text(to_json(config))


def evaluated(folder, of: str, *notes: str) -> None:
    """Makes a folder that of an evaluation."""
    about = Evaluation(of, "runs/ct", folder.name, "unet", "c.csv", "all", "", False, notes)
    write_evaluation(RunFolder(folder).evaluation, about)


def written(folders) -> str:
    out = page.write_report(folders, folders[0].parent / "both.html").read_text("utf-8")
    return html.unescape(visible(out))


def test_a_warning_says_of_which_run_it_is(pair):
    evaluated(pair[0], "run", "Both are small.")
    evaluated(pair[1], "run", "Measured with threshold = 0.9; the run has 0.5.", "Both are small.")
    shown = written(pair)
    warnings = re.findall(r'<div class="warning" role="note">(.*?)</div>', shown)
    assert warnings[-2:] == [
        "Both are small.",
        "two: Measured with threshold = 0.9; the run has 0.5.",
    ]


def test_runs_of_two_sizes_are_not_compared_by_the_papers_protocol(pair):
    assert "with tumour alone, at 32 × 32 pixels; " in written(pair)
    resize(pair[1], 224)
    shown = written(pair)
    assert "alone, at the size of each network (one 32 × 32, two 224 × 224 pixels); " in shown
    runs = [read_finished(folder) for folder in pair]
    assert {row[2] for row in comparison_rows(runs)} == {"DSC (clinical)", "surface Dice 2 mm"}
    assert {each.measure for each in compare(runs)} == {"dsc", "nsd_2mm"}
    assert (
        "two is not compared with one by the paper’s protocol, which measures a network at "
        "224 × 224 pixels and a network at 32 × 32 pixels here." in shown
    )


def test_masks_are_compared_with_masks_alone_by_the_papers_protocol(pair):
    evaluated(pair[1], "masks")
    said = "two is not compared with one by the paper’s protocol, which measures masks at 32 ×"
    assert said in written(pair)
    evaluated(pair[0], "masks")
    assert "by the paper’s protocol, which" not in written(pair)
    assert "dsc_paper" in {each.measure for each in compare(list(map(read_finished, pair)))}
