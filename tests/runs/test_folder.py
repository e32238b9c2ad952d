"""The run folder: the names in it, and what is read back from it."""

import json
import shutil

import pytest
from etils import epath

from crlm_jax.config.schema import Config, ConfigError
from crlm_jax.config.storage import to_json
from crlm_jax.errors import UserError
from crlm_jax.runs.finished import read_finished, values_by_patient
from crlm_jax.runs.folder import RunFolder, WorkdirError, open_workdir, read_run
from tests.finished_runs import make_run


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    return make_run(tmp_path_factory.mktemp("runs") / "half", {"a": (20, 12), "b": (16, 16)})


@pytest.fixture
def run(finished, tmp_path):
    return shutil.copytree(finished, tmp_path / "half")


@pytest.mark.parametrize("kind", [lambda path: path, epath.Path])
def test_a_run_begins_with_its_configuration_and_ends_with_its_report(tmp_path, kind):
    folder = RunFolder(kind(tmp_path / "run"))
    assert folder.name == "run"
    assert (folder.begun, folder.finished) == (False, False)
    folder.path.mkdir()
    folder.config.write_text("{}")
    assert (folder.begun, folder.finished) == (True, False)
    folder.report.write_text("x")
    assert folder.finished
    assert {path.name for path in folder.path.iterdir()} == {"config.json", "report.html"}


def test_views_are_found_by_case_and_image(tmp_path):
    folder = RunFolder(tmp_path)
    assert folder.find_views() == {}
    folder.views.mkdir()
    for case, image in ((12345, 0), (7, 1), (7, 0)):
        folder.view(case, image).touch()
    for name in ("notes.txt", "0007.npz", "a_b.npz"):
        (folder.views / name).touch()
    assert folder.find_views() == {
        7: [folder.view(7, 0), folder.view(7, 1)],
        12345: [folder.view(12345, 0)],
    }


def test_the_listing_names_what_a_run_leaves(run):
    names = {name.rstrip("/") for name in RunFolder(run).listing().split(", ")}
    made_in_training = {"checkpoints", "figures", "report.html"}
    assert names == {path.name for path in run.iterdir()} - {"responses.csv"} | made_in_training


def test_a_folder_of_something_else_is_refused(tmp_path):
    folder = RunFolder(tmp_path)
    assert not open_workdir(Config(), RunFolder(tmp_path / "new"))
    (tmp_path / "thesis.doc").touch()
    with pytest.raises(WorkdirError, match=r"holds no run \(no config\.json\); give another"):
        open_workdir(Config(), folder)
    folder.config.write_text(to_json(Config()))
    assert not open_workdir(Config(), folder)
    folder.report.touch()
    assert open_workdir(Config(), folder)
    other = Config()
    other.train.seed = 7
    with pytest.raises(
        WorkdirError, match=r"another experiment \(train\.seed: 0 → 7\).*as --config\.train\.seed=0"
    ):
        open_workdir(other, folder)


@pytest.mark.parametrize("content", [None, "", "[]", '{"train": {}}', '{"train": {"slices": "x"}}'])
def test_a_longer_run_whose_data_json_is_damaged_is_one_error(tmp_path, content):
    folder, longer = RunFolder(tmp_path), Config()
    folder.config.write_text(to_json(Config()))
    if content is not None:
        folder.data.write_text(content)
    longer.train.epochs += 1
    with pytest.raises(WorkdirError, match=r"data\.json: cannot be read \(.*restore the file"):
        open_workdir(longer, folder)
    folder.data.write_text('{"train": {"slices": 32}}')
    assert not open_workdir(longer, folder)


def test_a_finished_run_is_read_back(run):
    found = read_finished(run)
    assert (found.name, read_run(run)) == ("half", found.config)
    assert [(row.patient, row.condition) for row in found.rows] == [
        ("a", "post_dwi"), ("a", "pre_dwi"), ("b", "post_dwi"), ("b", "pre_dwi"),
    ]  # fmt: skip
    assert found.rows[0].defined("dsc") == pytest.approx(2 / 3, abs=1e-6)
    assert (found.rows[0].slices, found.rows[0].tumour_slices) == (3, 1)
    assert set(found.splits) == {"train", "validation", "test"}
    assert found.card == [("data", "x")]
    assert [line["step"] for line in found.log] == [1, 2]  # the third line is cut off
    assert [len(files) for _, files in found.cases()] == [1, 1, 1, 1]
    results = json.loads(RunFolder(run).results.read_text())
    assert found.summary.to_json() == {k: v for k, v in results.items() if k != "card"}


def test_a_view_that_is_missing_is_noticed(run):
    found = read_finished(run)
    (*_, (_, files)) = found.cases()
    files[0].unlink()
    with pytest.raises(UserError, match=r"views: files of 3 cases, but cases\.csv has 4; move"):
        found.cases()


def test_the_value_of_a_patient_is_the_mean_over_the_runs_that_have_it(run):
    first, second = read_finished(run), read_finished(run)
    second.rows[0].measures["dsc"], second.rows[2].measures["dsc"] = 1.0, None
    values = values_by_patient([first, second], "post_dwi", "dsc")
    assert values == pytest.approx({"a": (2 / 3 + 1) / 2, "b": 2 / 3}, abs=1e-6)


def test_a_damaged_table_or_summary_is_named(run):
    folder = RunFolder(run)
    text = folder.cases.read_text()
    folder.cases.write_text(text.replace("b,pre_dwi,3", "b,pre_dwi,three"))
    with pytest.raises(UserError, match=r"cases\.csv, row 5: not a case .*'three'"):
        read_finished(run)
    folder.cases.write_text(text)
    results = json.loads(folder.results.read_text())
    del results["conditions"]["pre_dwi"]["cases"]
    folder.results.write_text(json.dumps(results))
    with pytest.raises(ConfigError, match=r"results\.json: damaged \(KeyError: 'cases'\)"):
        read_finished(run)
    folder.results.write_text(json.dumps(results)[:-20])
    with pytest.raises(ConfigError, match=r"results\.json: damaged \(JSONDecodeError: "):
        read_finished(run)
