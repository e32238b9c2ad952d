"""What a report says of the probability and of its threshold."""

import html
import re

import numpy as np
import pytest

from crlm_jax.measures.calibration import Reliability
from crlm_jax.measures.froc import FrocPoint, Sweep, points
from crlm_jax.report import figures, page
from crlm_jax.report.probability import sections
from crlm_jax.runs.finished import read_finished
from crlm_jax.runs.rows import read_calibration, read_froc, write_calibration, write_froc
from tests.finished_runs import make_run


@pytest.fixture
def run(tmp_path):
    return make_run(tmp_path / "half", {"a": (20, 12), "b": (20, 20)})


def test_every_condition_has_its_figure_and_numbers(run, tmp_path):
    shown = sections(read_finished(run), tmp_path)
    assert [each.condition for each in shown] == ["pre_dwi", "post_dwi"]
    assert {file.name for file in tmp_path.glob("*.png")} == {
        "probability_pre_dwi.png", "probability_post_dwi.png",
    }  # fmt: skip
    # Half of each lesion has a probability of 1, and all else 0, but for what is between pixels.
    text = shown[0].text
    rows = [r for r in read_calibration(run / "calibration.csv") if r.condition == "pre_dwi"]
    pooled = Reliability.pooled(rows)
    assert 0.45 <= pooled.unseen() <= 0.5
    assert f"calibration error {pooled.error():.2g} over all voxels, " in text
    assert f", {pooled.error_beyond():.2g} over those above a probability of 1 % (mean" in text
    assert f" {100 * pooled.unseen():.1f} % of the tumour’s voxels lie at 1 % or below" in text
    assert text.endswith("At the run’s threshold, 0.5: 2 of 2 lesions found, 0.0 false a case.")
    assert all(each.image.startswith("data:image/png;base64,") for each in shown)


def test_the_report_has_the_section_and_one_of_before_has_not(run):
    path = page.write_report([run], run / "report.html")
    written = html.unescape(path.read_text())
    assert "Probability and threshold</h2>" in written
    assert "0.5: 2 of 2 lesions found" in written
    assert (run / "figures" / "probability_post_dwi.png").exists()
    for name in ("calibration.csv", "froc.csv"):
        (run / name).unlink()
    written = page.write_report([run], run / "report.html").read_text()
    assert "Probability and threshold" not in written
    assert not re.search('href="#probability"', written)


def test_the_threshold_of_the_run_is_found_among_rounded_ones(run):
    found = read_finished(run)
    write_froc(run / "froc.csv", [
        row if row.threshold != 0.5 else type(row)(**vars(row) | {"threshold": 1 / 3})
        for row in read_froc(run / "froc.csv")
    ])  # fmt: skip
    assert "run’s threshold" not in sections(found, None)[0].text
    found.config.evaluation.threshold = 1 / 3
    assert "At the run’s threshold, 0.333333: 2 of 2" in sections(found, None)[0].text


def test_images_without_tumour_and_without_a_doubt(run):
    empty, sweep = Reliability(), Sweep()
    empty.add(np.zeros((2, 8, 8), np.float32), np.zeros((2, 8, 8), bool))
    sweep.add(np.zeros((2, 8, 8), np.float32), np.zeros((2, 8, 8), np.int32), 0, 0.5)
    write_calibration(run / "calibration.csv", empty.rows("a", "pre_dwi"))
    write_froc(run / "froc.csv", sweep.rows("a", "pre_dwi"))
    (shown,) = sections(read_finished(run), None)
    assert "no voxel is above a probability of 1 %" in shown.text
    assert "0 of 0 lesions found" in shown.text


def test_the_figure_draws_the_points(run):
    curve = points([row for row in read_froc(run / "froc.csv") if row.condition == "pre_dwi"])
    mean, share = np.array([0.1, 0.9]), np.array([0.05, 0.7])
    figure = figures.probability((mean, share, np.array([90, 10])), curve, 0.5, "phantom")
    reliability, counts, froc = figure.axes
    np.testing.assert_array_equal(reliability.lines[1].get_ydata(), share)
    assert [bar.get_height() for bar in counts.patches] == [90, 10]
    np.testing.assert_array_equal(
        froc.lines[0].get_xdata(), [point.false_positives for point in curve]
    )
    assert froc.lines[1].get_markersize() > froc.lines[0].get_markersize()  # the run's, ringed
    assert figure.get_suptitle() == "phantom"
    for absent in (0.55, None):  # no other point is called the run's
        froc = figures.probability((mean, share, np.array([90, 10])), curve, absent).axes[2]
        assert not len(froc.lines[1].get_xdata())


def test_the_froc_axis_is_read_by_twos():
    """It is linear up to 1 and logarithmic beyond."""
    curve = [FrocPoint(0.01, 1.0, 7.07), FrocPoint(0.5, 0.5, 2.1), FrocPoint(0.99, 0.0, 0.0)]
    reliability = tuple(np.array([0.5]) for _ in range(3))
    axes = figures.probability(reliability, curve, 0.5, "phantom").axes[2]
    axes.figure.canvas.draw()
    assert [text.get_text() for text in axes.get_xticklabels()] == ["0", "0.5", "1", "2", "4", "8"]
    assert not axes.xaxis.get_minorticklocs().size
