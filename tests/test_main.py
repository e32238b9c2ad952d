import csv
import importlib
import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from crlm_jax.config.length import total_steps
from crlm_jax.measures.table import LESION, SURFACE, VOLUME
from crlm_jax.method.checkpoint import Checkpoints
from crlm_jax.runs.folder import WorkdirError
from crlm_jax.runs.log import NonFiniteLoss, read_log
from crlm_jax.training import experiment, loop
from tests.cohorts import make_cohort, tiny_config
from tests.processes import (
    LATER,
    PATIENCE,
    Run,
    assert_same_weights,
    final_state,
    fork,
    last_step,
    logged,
    words,
)

KILLS = int(os.environ.get("CRLM_JAX_KILLS", "4"))  # twenty take a minute and a half
FILES = {
    "config.json", "data.json", "train.jsonl", "checkpoints", "cases.csv", "lesions.csv",
    "calibration.csv", "froc.csv",
    "results.json", "views", "figures", "report.html",
}  # fmt: skip


@pytest.fixture(scope="module")
def cohort(tmp_path_factory) -> Path:
    return make_cohort(tmp_path_factory.mktemp("cohort"), conditions=("pre_dwi", "pre_t2wi"))


@pytest.fixture(scope="module")
def cache(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def finished(cohort, cache, one_device, tmp_path_factory):
    """A whole run on two conditions."""
    workdir = tmp_path_factory.mktemp("runs") / "tiny"
    config = tiny_config(cohort, cache, ("pre_dwi", "pre_t2wi"))
    summary = experiment.run(config, workdir)
    return config, workdir, summary


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_a_run_leaves_every_promised_file(finished):
    _, workdir, _ = finished
    assert {p.name for p in workdir.iterdir()} == FILES


def test_cases_and_results_agree(finished):
    config, workdir, summary = finished
    rows = list(csv.DictReader((workdir / "cases.csv").open()))
    results = json.loads((workdir / "results.json").read_text())
    assert dict(results.pop("card"))["segmenter"].startswith("unetpp")
    assert results == json.loads(json.dumps(summary.to_json()))
    overlap = ["dsc", "iou", "recall", "precision", "f1"]
    paper = [f"{name}_{pooling}" for pooling in ("paper", "slices") for name in overlap]
    clinical = [*SURFACE, *LESION, *VOLUME]
    first = ["patient", "condition", "slices", "tumour_slices"]
    assert list(rows[0]) == [*first, *overlap, *paper, *clinical]
    for condition in config.data.conditions:
        chosen = [row for row in rows if row["condition"] == condition]
        for metric in ("dsc", "precision_paper"):
            values = [float(row[metric]) for row in chosen]
            found = results["conditions"][condition][metric]
            assert set(found) == {"mean", "ci_low", "ci_high", "n", "small"}
            assert found["n"] == len(values) == 3
            assert found["mean"] == pytest.approx(np.mean(values), abs=1e-5)
    data = json.loads((workdir / "data.json").read_text())
    assert {row["patient"] for row in rows} == set(data["test"]["patients"])
    assert not set(data["test"]["patients"]) & set(data["train"]["patients"])
    assert all(int(row["slices"]) == 4 and int(row["tumour_slices"]) == 3 for row in rows)


def test_the_log_has_terms_speed_and_validation(finished):
    config, workdir, _ = finished
    log = read_log(workdir / "train.jsonl")
    steps = [line["step"] for line in log if "loss" in line]
    assert steps == sorted(set(steps))
    for line in log:
        if "loss" in line:
            total = line["bce"] * config.loss.bce_weight + line["dice"] + line["feature"]
            assert line["loss"] == pytest.approx(total, rel=1e-4)
            assert line["slices_per_second"] > 0
    assert any(0 <= line.get("validation_dsc", -1) <= 1 for line in log)


def test_the_report_is_one_file_with_its_warnings_and_overlays(finished):
    _, workdir, summary = finished
    html = (workdir / "report.html").read_text()
    assert "RANDOM CRITIC" in html
    assert "PHANTOM" not in html
    assert not re.search("https?:", html)
    # Training, distribution, agreement and probability of two conditions, three cases of each.
    assert html.count("data:image/png;base64,") == 2 + 2 + 2 + 2 * 3
    assert f"{summary.conditions['pre_dwi'].means['dsc']['mean']:.2f}" in html
    assert len(list((workdir / "figures").glob("pre_dwi_*.png"))) == 3


def test_a_finished_run_says_so_and_changes_nothing(finished, capsys):
    config, workdir, _ = finished
    before = contents(workdir)
    assert experiment.run(config, workdir) is None
    assert "is finished" in capsys.readouterr().out
    assert contents(workdir) == before


def test_the_workdir_of_another_experiment_is_refused(finished, cohort, cache):
    _, workdir, _ = finished
    before = contents(workdir)
    other = tiny_config(cohort, cache, ("pre_dwi", "pre_t2wi"))
    other.optimizer.learning_rate = 0.01
    with pytest.raises(WorkdirError, match=r"optimizer\.learning_rate: 0\.05 → 0\.01"):
        experiment.run(other, workdir)
    assert contents(workdir) == before


def test_a_folder_with_something_else_is_refused(cohort, cache, tmp_path):
    (tmp_path / "thesis.docx").write_text("years of work")
    with pytest.raises(WorkdirError, match=r"no run.*another --workdir"):
        experiment.run(tiny_config(cohort, cache), tmp_path)
    assert contents(tmp_path) == {"thesis.docx": b"years of work"}


def test_a_non_finite_loss_stops_with_step_terms_and_cases(cohort, cache, tmp_path, one_device):
    config = tiny_config(cohort, cache)
    config.optimizer.learning_rate = 1e25
    config.train.checkpoint_every = 1
    config.train.log_every = 1
    with pytest.raises(NonFiniteLoss, match=r"step \d+ \(loss .*bce .*p0\d/pre_dwi z=\d") as error:
        experiment.run(config, tmp_path / "run")
    step = int(str(error.value).split("at step ")[1].split()[0])
    with Checkpoints(tmp_path / "run" / "checkpoints") as checkpoints:
        assert checkpoints.latest == (step - 1 or None)
        assert step > 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["--config.loss.stagess=1"],
            "did you mean loss.stages? the fields beside it are loss",
        ),
        (["--config.train.epochs=many"], "must be: int"),
        (["--config.segmenter.name=vnet"], "segmenter.name = 'vnet': choose one of unet, unetpp,"),
        (["--config.loss.stages=x"], "loss.stages = ('x',): must be a list of int"),
        (["--config.data.cohort=nowhere/cohort.csv"], "nowhere/cohort.csv"),
        (["extra"], "'extra' is not a flag"),
        (["--folds=1"], "two folds or more; leave the flag out"),
        (["--folds=2", "--config.data.fold=1/2"], "--folds 2 and data.fold = '1/2': give one"),
        (["--processes=2"], "--processes requires --distributed"),
        (["--distributed"], "give --coordinator=HOST:PORT, --processes=N and --process=I"),
        (["--config.data.cache=gs://bucket/cache"], "data.cache = 'gs://bucket/cache': mount"),
    ],
)
def test_a_wrong_command_line_is_one_clear_line(arguments, message, tmp_path):
    argv = ["--config", "configs/ct.py", "--workdir", str(tmp_path / "run"), *arguments]
    done = fork(argv, tmp_path / "stdout.txt", errors=tmp_path / "stderr.txt")
    done.join(PATIENCE)
    assert done.exitcode == (2 if "flag" in message or "requires" in message else 1)
    stderr = (tmp_path / "stderr.txt").read_text()
    assert message in stderr
    assert "Traceback" not in stderr
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("arguments", "code", "out", "err"),
    [
        (["--help"], 0, "Try --helpfull", ""),
        (["--config", "ct", "--help"], 0, "Try --helpfull", ""),
        (["--helpfull"], 0, "--workdir", ""),
        (["--workdir", "runs/x"], 2, "", "error: --config is missing, such as --config"),
        (["--config", "ct", "--wrokdir=x"], 2, "", "error: Unknown command line flag 'wrokdir'."),
        (["--config", "ct", "--processes=two"], 2, "", "error: flag --processes=two"),
        (["--config", "no_such"], 1, "", "no_such"),
    ],
)
def test_help_ends_with_0_and_a_wrong_flag_with_2(arguments, code, out, err, tmp_path):
    stdout, stderr = tmp_path / "stdout.txt", tmp_path / "stderr.txt"
    done = fork(arguments, stdout, errors=stderr)
    done.join(PATIENCE)
    assert done.exitcode == code, stderr.read_text()
    assert out in stdout.read_text()
    assert err in stderr.read_text()
    assert "Traceback" not in stderr.read_text()


def test_a_folder_that_cannot_be_written_to_is_found_first(cohort, cache, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("x")
    monkeypatch.setattr(experiment, "prepare", lambda config: pytest.fail("prepared the data"))
    monkeypatch.setattr(experiment, "create_state", lambda *_: pytest.fail("made a network"))
    with pytest.raises(WorkdirError, match=r"file/run: cannot be written to \(Not a dir.*another"):
        experiment.run(tiny_config(cohort, cache), tmp_path / "file" / "run")


def test_doubts_of_the_cohort_are_said_when_training(cohort, cache, tmp_path, capsys):
    config = tiny_config(cohort, cache)
    copy = cohort.with_name("alike.csv")
    copy.write_text(cohort.read_text().replace("p01,", "P-00,"))
    config.data.cohort = str(copy)
    experiment.prepare(config)
    err = capsys.readouterr().err
    assert f"warning: {copy}: 'P-00' (row " in err
    assert "may be one patient; the split may train on what it tests" in err


@pytest.mark.slow
def test_a_second_training_in_one_folder_is_refused(cohort, cache, tmp_path):
    config = tiny_config(cohort, cache)
    config.train.epochs = 400
    workdir = tmp_path / "run"
    first = Run(config, workdir)
    assert first.wait_for_step(1)
    second = fork(words(config, workdir), tmp_path / "stdout.txt", errors=tmp_path / "stderr.txt")
    second.join(PATIENCE)
    assert second.exitcode == 1
    assert (tmp_path / "stderr.txt").read_text().splitlines()[-1] == (
        f"error: {workdir}: another training is writing to this folder; let it end, or give "
        "another --workdir"
    )
    first.stop()
    assert first.end() == [75]
    assert not (workdir / ".lock").exists()


def test_the_module_is_the_command(tmp_path):
    """In a process of its own, its error goes to stderr."""
    start = [sys.executable, "-m", "crlm_jax.main", "--config", "configs/ct.py"]
    done = subprocess.run(
        [*start, "--workdir", str(tmp_path / "run"), "--config.data.cohort=nowhere/cohort.csv"],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1
    assert done.stderr.startswith("error: ")
    assert "nowhere/cohort.csv" in done.stderr
    assert done.stdout == ""
    helped = subprocess.run(
        [sys.executable, "-m", "crlm_jax.main", "--help"], capture_output=True, text=True
    )
    assert helped.returncode == 0
    assert "--workdir: Folder of the run" in helped.stdout


@pytest.mark.slow
def test_a_run_killed_again_and_again_ends_with_the_same_bits(cohort, cache, tmp_path):
    """kill -9 at random moments, start again: the parameters of an undisturbed run."""
    config = tiny_config(cohort, cache)
    config.train.steps, config.train.checkpoint_every = 200, 4
    config.evaluation.attribution_steps = 0
    undisturbed, killed = tmp_path / "undisturbed", tmp_path / "killed"
    output = tmp_path / "output.txt"
    whole = fork(words(config, undisturbed), output)
    whole.join(PATIENCE)
    assert whole.exitcode == 0
    rng, reached = random.Random(0), set()
    for kill in range(KILLS):
        process = fork(words(config, killed), output)
        target = last_step(killed) + rng.randint(1, 8)
        if kill % 4 == 3:  # at any moment, in its start too
            time.sleep(rng.uniform(0, 4))
            target = 0
        end = time.monotonic() + PATIENCE
        while last_step(killed) < target:
            assert process.is_alive(), output.read_text()
            assert time.monotonic() < end
            time.sleep(0.01)
        time.sleep(rng.uniform(0, 0.1))
        process.kill()
        process.join(PATIENCE)
        assert process.exitcode == -signal.SIGKILL
        reached.add(last_step(killed))
    assert len(reached) > KILLS / 2
    last = fork(words(config, killed), output)
    last.join(PATIENCE)
    assert last.exitcode == 0
    assert_same_weights(config, undisturbed, killed, 0)
    assert (undisturbed / "cases.csv").read_bytes() == (killed / "cases.csv").read_bytes()
    assert logged(undisturbed) == logged(killed)
    assert {p.name for p in killed.iterdir()} == {p.name for p in undisturbed.iterdir()} == FILES


def test_what_processes_load_in_advance_is_there():
    """A module that is not there would be left out without a word."""
    for name in LATER:
        importlib.import_module(name)


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_a_run_that_is_told_to_stop_saves_its_step_and_goes_on(
    number, cohort, cache, one_device, tmp_path
):
    config = tiny_config(cohort, cache)
    config.train.epochs, config.train.checkpoint_every = 400, 10**6
    workdir = tmp_path / "run"
    run = Run(config, workdir)
    assert run.wait_for_step(1)
    run.stop(number)
    assert run.end() == [75]
    step = int(re.search(r"step (\d+) of \d+ is saved; start it again", run.outputs()[0])[1])
    assert final_state(config, workdir)[0] == step
    assert not (workdir / "report.html").exists()
    steps = total_steps(config, json.loads((workdir / "data.json").read_text())["train"]["slices"])
    with pytest.MonkeyPatch.context() as patch:  # long enough to be told, too long to finish here
        for module in (experiment, loop):
            patch.setattr(module, "lengths", lambda *_: (step + 2, step + 2))
        assert step + 2 < steps
        experiment.run(config, workdir)
    assert (workdir / "report.html").exists()
    assert [line["step"] for line in read_log(workdir / "train.jsonl")][-1] == step + 2
