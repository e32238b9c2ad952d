import json
import re
import shutil

import pytest

from crlm_jax.config.schema import ConfigError
from crlm_jax.config.storage import to_json
from crlm_jax.errors import UserError
from crlm_jax.measures.result_tables import (
    CLINICAL_HEADER,
    clinical_rows,
    comparison_rows,
    result_rows,
    size_rows,
)
from crlm_jax.report import command as report_command
from crlm_jax.report import page
from crlm_jax.runs.finished import read_finished
from crlm_jax.stats.cells import format_mean
from tests.finished_runs import make_run

HOSTILE = "../<script>alert(1)</script>"
SIZES = {"a": (20, 12), "b": (20, 20), "c": (12, 12), HOSTILE: (16, 0)}


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    return make_run(tmp_path_factory.mktemp("runs") / "half", SIZES)


@pytest.fixture
def run(finished, tmp_path):
    return shutil.copytree(finished, tmp_path / "half")


def reconfigure(run, change) -> None:
    config = read_finished(run).config
    change(config)
    (run / "config.json").write_text(to_json(config))


def write(run) -> str:
    return page.write_report([run], run / "report.html").read_text(encoding="utf-8")


def visible(html: str) -> str:
    """The page without scripts and styles."""
    return re.sub(r"<(script|style)\b.*?</\1>", "", html, flags=re.S)


def test_phantom_and_random_weights_stand_at_the_top(run):
    def phantom(config):
        config.data.cohort, config.critic.weights = "phantom", "random"

    reconfigure(run, phantom)
    html = visible(write(run))
    assert html.index("PHANTOM") < html.index("RANDOM CRITIC") < html.index("<table")

    def real(config):
        config.data.cohort, config.critic.weights = "cohort.csv", "imagenet"

    reconfigure(run, real)
    html = visible(write(run))
    assert "PHANTOM" not in html
    assert "RANDOM" not in html


def test_worst_median_and_best_are_shown_with_their_dsc(run):
    html = visible(write(run))
    shown = re.findall(r"<strong>(\w+) · ([\w, ]+) · ([^<]+)</strong>: DSC ([\d.]+)", html)
    assert [(c, role) for c, role, *_ in shown] == [
        ("pre_dwi", "worst"), ("pre_dwi", "median"), ("pre_dwi", "best"),
        ("post_dwi", "worst"), ("post_dwi", "median"), ("post_dwi", "best"),
    ]  # fmt: skip
    values = [float(dsc) for *_, dsc in shown[:3]]
    assert values == sorted(values)


def test_a_patient_name_cannot_write_html_or_leave_the_folder(run):
    html = write(run)
    assert "<script>alert" not in html
    assert "&lt;script&gt;alert(1)" in html
    assert all(re.fullmatch(r"[\w.-]+\.png", p.name) for p in (run / "figures").iterdir())
    assert (run / "figures" / "training.png").exists()
    assert {p.name for p in run.parent.iterdir()} == {"half"}


def test_borders_lesions_and_sizes_are_told(run):
    summary = read_finished(run).summary
    cells = dict(zip(CLINICAL_HEADER, clinical_rows(summary)[0], strict=True))
    assert (cells["condition"], cells["n"]) == ("pre_dwi", "4")
    assert cells["lesion sensitivity"].startswith("1.00")
    assert cells["volume error"] == "−0.50 (−0.50 to −0.50)*"
    means = summary.conditions["pre_dwi"].means
    means["lesion_sensitivity"] = means["lesion_sensitivity"] | {"n": 3}
    cells = dict(zip(CLINICAL_HEADER, clinical_rows(summary)[0], strict=True))
    assert cells["lesion sensitivity"].endswith(", n = 3")  # one has no lesion to be found
    sizes = size_rows(summary)
    assert sizes[0] == ["pre_dwi", "4 of 4 (100%)", "0 of 0", "0 of 0", "4 of 4 (100%)", "0"]
    assert sizes[1][1] == "3 of 3 (100%)"  # one lesion vanished
    html = visible(write(run))
    for text in CLINICAL_HEADER:
        assert text in html


def test_response_of_model_and_reference(run):
    (agreement,) = read_finished(run).summary.responses.values()
    # Half of every lesion's width is predicted, before and after, so that the responses agree.
    assert (agreement.patients, agreement.kappa["kappa"]) == (4, 1.0)
    table = dict(zip(agreement.categories, map(sum, agreement.table), strict=True))
    assert table == {"CR": 1, "PR": 1, "non-CR/non-PD": 0, "SD": 2, "PD": 0, "NE": 0}
    html = visible(write(run))
    assert "Response to chemotherapy, dwi" in html
    assert "By sums of diameters only: no patient’s scans share a frame" in html
    assert "not a medical device" in html
    assert (run / "figures" / "agreement_pre_dwi.png").exists()


def test_the_report_says_whom_kappa_leaves_out(run):
    assert "; the same category in 100 %.</p>" in visible(write(run))
    results = json.loads((run / "results.json").read_text())
    found = results["responses"]["dwi"]
    for name in ("same_category", "not_evaluable_by_reference", "not_evaluable_by_model_alone"):
        del found[name]  # as an older version wrote it
    table = [[0] * 6 for _ in range(6)]
    table[1][1], table[1][5], table[5][5] = 1, 2, 1  # PR and PR, PR and NE, NE and NE
    (run / "results.json").write_text(
        json.dumps(results | {"responses": {"dwi": found | {"table": table, "not_evaluable": 3}}})
    )
    html = visible(write(run))
    assert ", over the 1 whom both can evaluate; the same category in 33 % of the 3 whom" in html
    assert "no lesion: 1 by the reference, and 2 by the model alone, each of which counts" in html


def test_the_report_says_who_has_several_images_and_no_response(run):
    assert "several images" not in visible(write(run))
    results = json.loads((run / "results.json").read_text()) | {"several_images": {"dwi": 2}}
    (run / "results.json").write_text(json.dumps(results))
    said = "dwi: 2 patients with several images of a time point are left out of the response"
    assert said in visible(write(run))
    (run / "results.json").write_text(json.dumps(results | {"responses": {}}))
    html = visible(write(run))
    assert said in html
    assert "No sequence has both time points" not in html


def test_the_report_says_how_lesions_were_paired(run):
    results = json.loads((run / "results.json").read_text())
    paired = {"by position": 2, "by position, registered": 1, "sums only": 1}
    results["responses"]["dwi"] |= {"paired": paired, "doubtful": 1}
    (run / "results.json").write_text(json.dumps(results))
    html = visible(write(run))
    assert "paired by position for 3 of 4 patients: the scans of 2 share a frame" in html
    assert "Of the other 1 only sums of diameters are compared" in html
    assert "1 could not be paired" in html
    for name in ("paired", "doubtful"):  # as an older version wrote it
        del results["responses"]["dwi"][name]
    (run / "results.json").write_text(json.dumps(results))
    assert "By sums of diameters only" in visible(write(run))


def test_several_runs_are_compared_patient_by_patient(run, tmp_path):
    better = make_run(tmp_path / "better", SIZES, found=1.0)
    out = page.write_report([run, better], tmp_path / "both.html")
    html = visible(out.read_text(encoding="utf-8"))
    assert "Compared with half, patient by patient" in html
    rows = comparison_rows([read_finished(run), read_finished(better)])
    assert [row[:3] for row in rows][:2] == [
        ["better", "pre_dwi", "DSC (paper, pooled)"], ["better", "pre_dwi", "DSC (clinical)"],
    ]  # fmt: skip
    # DSC from 2/3 to 1 for every patient; with four, p cannot be less than 2^-3.
    assert rows[0][3:6] == ["4", "0.33 (0.33–0.33)*", "0.125"]
    assert not (tmp_path / "figures").exists()
    same = comparison_rows([read_finished(run), read_finished(run)])
    assert {(row[4][:4], row[5]) for row in same} == {("0.00", "1.000")}


def test_runs_without_a_patient_in_common_are_not_compared_and_that_is_said(run, tmp_path):
    other = make_run(tmp_path / "other", {"x": (16, 16), "y": (20, 12)})
    html = visible(page.write_report([run, other], tmp_path / "both.html").read_text("utf-8"))
    assert "Compared with half" not in html
    assert "other is not compared with half under pre_dwi, post_dwi: no patient is in both." in html
    both = visible(page.write_report([run, run], tmp_path / "both.html").read_text("utf-8"))
    assert "not compared" not in both


def test_a_run_without_views_has_a_report_all_the_same(run):
    shutil.rmtree(run / "views")
    assert "There is no case to show" in write(run)


def test_what_is_no_finished_run_is_refused(run, tmp_path, capsys):
    with pytest.raises(ConfigError, match="no run is here"):
        page.write_report([tmp_path], tmp_path / "x.html")
    (run / "results.json").write_text(json.dumps({"conditions": {}}))
    with pytest.raises(ConfigError, match=r"of an earlier version .* start it again"):
        page.write_report([run], tmp_path / "x.html")
    (run / "cases.csv").unlink()
    with pytest.raises(UserError, match=r"cases\.csv: missing, so this run is not fin"):
        report_command.main([str(run)])
    with pytest.raises(SystemExit):
        report_command.main([str(run), str(run)])
    assert "name the file with --out" in capsys.readouterr().err
    assert not (tmp_path / "x.html").exists()


def test_a_mean_is_written_with_its_interval():
    assert format_mean({"mean": 0.806, "ci_low": 0.7551, "ci_high": 0.85}) == ("0.81 (0.76–0.85)")
    few = {"mean": 0.806, "ci_low": 0.7551, "ci_high": 0.85, "small": True}
    assert format_mean(few) == "0.81 (0.76–0.85)*"
    below = {"mean": -0.5, "ci_low": -0.75, "ci_high": 0.1}
    assert format_mean(below) == "−0.50 (−0.75 to 0.10)"
    assert format_mean({"mean": 0.5, "ci_low": None, "ci_high": None}) == "0.50"
    assert format_mean({"mean": None, "ci_low": None, "ci_high": None}) == "–"


def test_a_table_of_results_has_both_ways_to_pool_and_the_clinical_protocol(tmp_path):
    run = make_run(tmp_path / "pooled", {"a": (16, 8)})
    summary = read_finished(run).summary
    rows = result_rows(summary)
    assert [row[:2] for row in rows] == [
        [condition, protocol]
        for condition in ("pre_dwi", "post_dwi")
        for protocol in ("paper, pooled", "paper, slices", "clinical")
    ]
    html = page.write_report([run], tmp_path / "report.html").read_text(encoding="utf-8")
    for _, protocol, *_ in rows:
        assert f"<td>{protocol}</td>" in html
    assert "The paper does not say which of the two it reports" in html
    assert html.count('<tr class="paper">') == 2
