"""A run to hand on: usable, and without names and paths."""

import json
import shutil

import numpy as np
import pytest

from crlm_jax.errors import UserError
from crlm_jax.evaluate.patients import read_test_cohort
from crlm_jax.export import command
from crlm_jax.export.share import MODEL_CARD, share_run
from crlm_jax.predict import segmenter
from crlm_jax.runs.finished import read_splits
from crlm_jax.runs.folder import RunFolder
from crlm_jax.runs.taught import doubts_of_test, read_taught
from crlm_jax.training import experiment
from tests.cohorts import make_cohort, tiny_config

pytestmark = pytest.mark.usefixtures("blank_pictures", "one_device")


@pytest.fixture(scope="module")
def run(one_device, tmp_path_factory):
    """A finished run on a cohort whose folder and critic have telling names."""
    folder = tmp_path_factory.mktemp("Muenster-Klinik")
    config = tiny_config(make_cohort(folder / "cohort"), folder / "cache")
    config.train.steps = 2
    experiment.run(config, folder / "run")
    return folder / "run"


@pytest.fixture(scope="module")
def shared(run, tmp_path_factory):
    return share_run(run, tmp_path_factory.mktemp("to") / "shared")


def test_no_file_has_a_patients_name_or_a_path(run, shared):
    names = {name for own in read_splits(RunFolder(run)).values() for name in own["patients"]}
    assert names
    # Names of a few letters may stand in any binary file by accident; as JSON they do not.
    telling = ["Muenster-Klinik", str(run.parent.parent), *(f'"{name}"' for name in names)]
    for file in shared.rglob("*"):
        content = file.read_bytes() if file.is_file() else b""
        assert not [text for text in telling if text.encode() in content], file
    assert not list(shared.rglob("*.png"))
    assert {path.name for path in shared.iterdir()} == {
        MODEL_CARD, "config.json", "data.json", "train.jsonl", "checkpoints",
    }  # fmt: skip
    splits = read_splits(RunFolder(run)), read_splits(RunFolder(shared))
    for split in ("train", "validation", "test"):
        before, after = (own[split] for own in splits)
        assert len(after["patients"]) == len(before["patients"])
        assert after["prints"] == before["prints"]


def test_it_predicts_as_the_run_does(run, shared):
    slices = np.random.default_rng(0).integers(0, 256, (2, 32, 32, 1), np.uint8)
    before, after = (segmenter.load(folder, engine="xla") for folder in (run, shared))
    np.testing.assert_array_equal(before.probability(slices), after.probability(slices))
    assert before.threshold == after.threshold


def test_the_card_has_the_runs_results(run, shared):
    text = (shared / MODEL_CARD).read_text(encoding="utf-8")
    means = json.loads((run / "results.json").read_text())["conditions"]["pre_dwi"]["dsc_paper"]
    assert f"| pre_dwi | paper, pooled | {means['n']} | {means['mean']:.2f} (" in text
    assert "RANDOM CRITIC" in text
    assert "no medical device" in text
    assert "| train | 2 |" in text


def test_who_gets_it_is_told_what_it_has_learned_from(run, shared):
    taught = read_taught(shared)
    assert "shared without its patients' names" in " ".join(taught.doubts)
    assert taught.prints == read_taught(run).prints
    own = read_splits(RunFolder(run))
    with pytest.raises(UserError, match="has learned from"):  # its image, under any name
        doubts_of_test(shared, {"prints": own["train"]["prints"], "patients": ["x"]})
    cohort = read_test_cohort(str(run.parent / "cohort" / "cohort.csv"))
    assert not taught.training & {case.patient for case in cohort.cases}


def test_a_training_goes_on_from_it(run, shared, tmp_path):
    config = tiny_config(run.parent / "cohort" / "cohort.csv", run.parent / "cache")
    config.train.steps, config.train.init = 3, str(shared)
    assert experiment.run(config, tmp_path / "next") is not None


def test_an_edited_card_is_not_lost(run, tmp_path):
    card = share_run(run, tmp_path / "out") / "MODEL_CARD.md"
    share_run(run, tmp_path / "out")  # nothing was changed, and nothing is lost
    card.write_text(card.read_text() + "Licence: CC BY 4.0\n")
    with pytest.raises(UserError, match=r"MODEL_CARD\.md: was edited"):
        share_run(run, tmp_path / "out")
    assert card.read_text().endswith("Licence: CC BY 4.0\n")
    card.write_bytes("Klinik Münster\n".encode("cp1252"))  # as some editors save
    with pytest.raises(UserError, match=r"MODEL_CARD\.md: was edited"):
        share_run(run, tmp_path / "out")


def test_what_cannot_be_shared_is_one_error(run, tmp_path, capsys):
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter.tex").touch()
    with pytest.raises(UserError, match="something else"):
        share_run(run, tmp_path / "thesis")
    unfinished = tmp_path / "unfinished"
    shutil.copytree(run, unfinished)
    (unfinished / "report.html").unlink()
    with pytest.raises(UserError, match="not finished"):
        share_run(unfinished, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    with pytest.raises(SystemExit):
        command.main(["--run", str(run), "--out", str(tmp_path / "o"), "--share", "--format=onnx"])
    assert "--share and --format: give one" in capsys.readouterr().err
    assert command.main(["--run", str(run), "--out", str(tmp_path / "o"), "--share"]) == 0
    assert capsys.readouterr().out.strip().endswith("MODEL_CARD.md")
