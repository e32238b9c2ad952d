import re

import numpy as np
import pytest

from crlm_jax import report
from crlm_jax.config import Config
from crlm_jax.data.cohort import Case
from crlm_jax.evaluate import CaseResult, KeySlice, summarise
from crlm_jax.metrics import Counts


def make_result(patient: str, both: int) -> CaseResult:
    mask = np.zeros((40, 30), bool)
    mask[10:20, 10:20] = True
    counts = Counts(both, 10 - both, 10 - both)
    return CaseResult(
        case=Case(patient, "pre_dwi", (), "test"),
        slices=3,
        tumour_slices=1,
        clinical=counts,
        paper=counts,
        key_slice=KeySlice(np.zeros((40, 30), np.uint8), mask, ~mask, 1, (1.0, 2.0)),
    )


@pytest.fixture
def config() -> Config:
    config = Config()
    config.evaluation.resamples = 99
    return config


def write(config, results, workdir) -> str:
    (workdir / "train.jsonl").write_text('{"step": 1, "loss": 1.0}\n{"step": 2, "lo')
    summary = summarise(config, results)
    path = report.write_report(config, workdir, [("data", "x")], results, summary)
    return path.read_text(encoding="utf-8")


def test_phantom_and_random_weights_stand_at_the_top(config, tmp_path):
    config.critic.weights = "random"
    html = write(config, [make_result("a", 5)], tmp_path)
    assert html.index("PHANTOM") < html.index("RANDOM CRITIC") < html.index("<table")
    config.data.cohort, config.critic.weights = "cohort.csv", "imagenet"
    html = write(config, [make_result("a", 5)], tmp_path)
    assert "PHANTOM" not in html
    assert "RANDOM" not in html


def test_worst_median_and_best_are_shown_with_their_dsc(config, tmp_path):
    html = write(config, [make_result(p, n) for p, n in zip("abcd", (9, 1, 5, 7), strict=True)],
                 tmp_path)  # fmt: skip
    shown = re.findall(r"<strong>pre_dwi · (\w+) · (\w)</strong>: DSC ([\d.]+)", html)
    assert shown == [("worst", "b", "0.10"), ("median", "c", "0.50"), ("best", "a", "0.90")]


def test_a_patient_name_cannot_write_html_or_leave_the_folder(config, tmp_path):
    html = write(config, [make_result("../<script>x", 5)], tmp_path)
    assert "<script>" not in html
    assert "&lt;script&gt;" in html
    assert {p.name for p in (tmp_path / "figures").iterdir()} == {
        "training.png",
        "pre_dwi_..__script_x.png",
    }


def test_a_mean_is_written_with_its_interval():
    assert report.format_mean({"mean": 0.806, "ci_low": 0.7551, "ci_high": 0.85}) == (
        "0.81 (0.76–0.85)"
    )
    assert report.format_mean({"mean": 0.5, "ci_low": None, "ci_high": None}) == "0.50"
    assert report.format_mean({"mean": None, "ci_low": None, "ci_high": None}) == "–"
