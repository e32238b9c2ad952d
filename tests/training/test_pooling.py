"""What the report of a cross-validation has of its folds: thresholds, lines of their cards."""

import html
import json
import re

import pytest

from crlm_jax.report import figures
from crlm_jax.report.probability import sections
from crlm_jax.runs.finished import read_finished
from crlm_jax.runs.folder import RunFolder, read_run
from crlm_jax.runs.threshold import ChosenThreshold, write_threshold
from crlm_jax.training.pooling import write_pooled
from tests.finished_runs import make_run

pytestmark = pytest.mark.usefixtures("blank_pictures")
CONFIGURED, CHOSEN = 0.5, (0.35, 0.65)
MASKS = "lesions below 250 mm³ are removed"
KNOWN = "runs/trunk has learned from patients with the names of 1 that are tested here"


@pytest.fixture(scope="module")
def folds(tmp_path_factory):
    """A folder of two folds, each with a threshold that it chose, and a card as a training's."""
    folder = tmp_path_factory.mktemp("crossed")
    for number, (threshold, patient) in enumerate(zip(CHOSEN, "ab", strict=True), start=1):
        run = RunFolder(folder / f"fold{number}of2")

        def choose(config, threshold=threshold):
            config.evaluation.choose_threshold, config.evaluation.threshold = True, threshold

        make_run(run.path, {patient: (20, 12)}, change=choose)
        begun = json.loads(run.config.read_text())
        begun["evaluation"]["threshold"] = CONFIGURED
        run.config.write_text(json.dumps(begun))
        write_threshold(run.threshold, ChosenThreshold(threshold, 1, 3, {}))
        results = json.loads(run.results.read_text())
        results["card"] += [["masks", MASKS], ["small lesions", f"test {number} in 1 slices"]]
        results["card"] += [["doubt", "all of them doubt this"]]
        results["card"] += [["doubt", KNOWN]] * (number == 2)
        results["several_images"] = {"dwi": number}
        run.results.write_text(json.dumps(results))
    return folder


@pytest.fixture(scope="module")
def pooled(folds):
    members = [read_finished(folds / f"fold{number}of2") for number in (1, 2)]
    write_pooled(members, RunFolder(folds))
    return read_finished(folds)


def test_each_fold_has_its_own_threshold_and_all_together_none(pooled, folds, capsys, monkeypatch):
    assert read_run(folds).evaluation.threshold == CONFIGURED
    assert read_run(folds).evaluation.choose_threshold
    assert not capsys.readouterr().err  # no warning of a threshold that is still to be chosen
    card = dict(pooled.card)
    for number, threshold in enumerate(CHOSEN, start=1):
        assert card[f"fold{number}of2"].endswith(f"; threshold: {threshold}, which it chose")
    ringed = []
    draw = figures.probability

    def spy(curve, points, threshold, mark):
        figure = draw(curve, points, threshold, mark)
        ringed.append(len(figure.axes[2].lines[1].get_xdata()))
        return figure

    monkeypatch.setattr(figures, "probability", spy)
    (text, _) = (each.text for each in sections(pooled, None))
    assert ringed == [0, 0]
    assert text.endswith(
        "Each fold chose its own threshold, so that no point is ringed; at their own: 2 of 2 "
        "lesions found, 0.0 false a case."
    )


def test_what_the_folds_say_of_masks_lesions_and_doubts_is_not_lost(pooled):
    lines = [line for line in pooled.card if line[0] in ("masks", "small lesions", "doubt")]
    assert lines == [
        ("masks", MASKS),
        ("small lesions", "fold1of2: test 1 in 1 slices"),
        ("small lesions", "fold2of2: test 2 in 1 slices"),
        ("doubt", "all of them doubt this"),
        ("doubt", f"fold2of2: {KNOWN}"),
    ]
    page = html.unescape(pooled.folder.report.read_text("utf-8"))
    warnings = re.findall(r'<div class="warning" role="note">(.*?)</div>', page)
    assert warnings[-2:] == ["all of them doubt this.", f"fold2of2: {KNOWN}."]


def test_patients_of_several_images_are_counted_over_all_folds(pooled):
    assert pooled.summary.several_images == {"dwi": 3}
