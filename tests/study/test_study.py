"""Studies: what is run, what happens when a run fails or is killed, and the tables."""

import copy
import csv
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from configs.studies import clinical, critic, forks, paper, stages
from crlm_jax.config.schema import Config, ConfigError, flatten, validate
from crlm_jax.config.storage import to_json
from crlm_jax.errors import UserError
from crlm_jax.runs.folder import RunFolder, read_begun
from crlm_jax.study import command as study_command
from crlm_jax.study import lesion_tables
from crlm_jax.study import page as study_page
from crlm_jax.study import runs as study_runs
from crlm_jax.study import seeds as study_seeds
from crlm_jax.study import tables as study_tables
from crlm_jax.training import experiment
from tests.cohorts import make_cohort
from tests.finished_runs import make_run

SIZES = {"a": (20, 12), "b": (20, 20), "c": (12, 12)}
STUDY = '''
from crlm_jax.config import Config

def get_study(arg=None):
    """`arg`: names, separated by spaces."""
    return [(name, Config()) for name in (arg or "x/one/seed0 x/two/seed0 x/two/seed1").split()]
'''
# What stands for a run's process: finishes, fails or is killed by what its index is.
STUB = """
import os, pathlib, shutil, signal, sys
index = int(sys.argv[-1])
name = ["one/seed0", "two/seed0", "two/seed1"][index]
folder = pathlib.Path(sys.argv[1]) / "x" / name
if index == 1 and not os.environ.get("MENDED"):
    if os.environ.get("KILL"):
        os.kill(os.getpid(), signal.SIGKILL)
    folder.parent.mkdir(parents=True, exist_ok=True)
    folder.with_name("seed0.error.txt").write_text("Traceback\\nValueError: too dark\\n")
    sys.exit(1)
folder.mkdir(parents=True)
shutil.copy(pathlib.Path(sys.argv[1]).parent / "config.json", folder)
(folder / "report.html").write_text("done")
folder.with_name(folder.name + ".error.txt").unlink(missing_ok=True)
"""


@pytest.fixture
def runs(tmp_path):
    (tmp_path / "s.py").write_text(STUDY)
    return study_runs.load_study(str(tmp_path / "s.py"), tmp_path / "runs")


@pytest.fixture
def stub(tmp_path):
    (tmp_path / "stub.py").write_text(STUB)
    (tmp_path / "config.json").write_text(to_json(Config()))
    return [sys.executable, str(tmp_path / "stub.py"), str(tmp_path / "runs")]


@pytest.mark.parametrize("kill", ["", "1"])
def test_a_failed_run_does_not_stop_the_others_and_is_run_again(runs, stub, monkeypatch, kill):
    monkeypatch.setenv("KILL", kill)
    assert study_runs.run_all(runs, stub) == 1
    reason = "failed: killed by signal 9" if kill else "failed: ValueError: too dark"
    assert [run.state for run in runs] == ["finished", reason, "finished"]
    before = runs[0].folder.path.stat().st_mtime_ns
    monkeypatch.setenv("MENDED", "1")
    assert study_runs.run_all(runs, stub) == 0
    assert {run.state for run in runs} == {"finished"}
    assert runs[0].folder.path.stat().st_mtime_ns == before  # finished ones are left alone


def test_an_error_is_kept_until_the_run_succeeds(runs, monkeypatch, capsys):
    def fails(config, folder):
        raise ValueError("too dark")

    monkeypatch.setattr(experiment, "run", fails)
    with pytest.raises(ValueError, match="too dark"):
        study_runs.run_one(runs[0])
    assert runs[0].state == "failed: ValueError: too dark"
    study_command.show(runs)
    assert "too dark" in capsys.readouterr().out
    monkeypatch.setattr(experiment, "run", lambda config, folder: None)
    study_runs.run_one(runs[0])
    assert runs[0].state == "waiting"


def test_wrong_studies_are_refused(tmp_path, capsys):
    file = tmp_path / "s.py"
    for text, part in (
        ("x = 1", "has no get_study"),
        ("def get_study(arg): return []", "has no run"),
        (STUDY.replace("x/one/seed0 ", "../one/seed0 "), "'../one/seed0' is not named"),
        (STUDY.replace("x/two/seed0 ", "x/one/seed0 "), "two runs are named x/one/seed0"),
    ):
        file.write_text(text)
        with pytest.raises(ConfigError, match=part):
            study_runs.load_study(str(file), tmp_path)
    with pytest.raises(UserError, match=r"none\.py: no such file"):
        study_command.main(["--study", str(tmp_path / "none.py"), "--workdir", str(tmp_path)])
    file.write_text(STUDY)
    with pytest.raises(UserError, match="the runs are 0 to 2"):
        study_command.main(["--study", str(file), "--workdir", str(tmp_path), "--index", "3"])
    with pytest.raises(ConfigError, match="the keys are scale, seeds, folds, cohort, condition"):
        stages.get_study("sedes=2")
    with pytest.raises(ConfigError, match="a whole number from 1 on"):
        stages.get_study("seeds=none")


def test_the_stage_study_has_every_subset_under_every_seed():
    found = stages.get_study("seeds=2,scale=paper,cohort=c.csv,condition=ct")
    assert len(found) == 32
    assert found[0][0] == "ct/unetpp/seed0"
    subsets = {config.loss.stages for _, config in found}
    assert len(subsets) == 16
    assert {config.train.seed for _, config in found} == {0, 1}
    assert {config.data.cohort for _, config in found} == {"c.csv"}
    assert {config.scale for _, config in found} == {"paper"}
    named = study_tables.stage_subsets(name.split("/")[1] for name, _ in found)
    assert set(named) == {frozenset(stages) for stages in subsets}


def test_the_critic_study_changes_one_thing_at_a_time():
    found = dict(critic.get_study("seeds=1,scale=paper"))
    reference = found.pop("pre_dwi/crlm_gan/seed0")
    assert reference.critic.weights == "imagenet"
    assert set(found) == {
        f"pre_dwi/{system}/seed0"
        for system in ("adversarial", "concatenated", "released", "random_weights")
    }
    laptop = dict(critic.get_study("seeds=1"))
    assert "pre_dwi/random_weights/seed0" not in laptop  # the laptop's are random anyhow


def test_the_paper_study_has_its_six_methods_under_its_seven_experiments():
    found = paper.get_study("seeds=2,scale=paper,cohort=mri.csv,ct_cohort=ct.csv,vit=vit.npz")
    assert len(found) == 2 * 7 * 6
    configs = {name: validate(config) for name, config in found}
    assert found[0][0] == "pre_dwi/crlm_gan/seed0"
    assert configs["cross_pre/unet/seed0"].data.conditions == ("pre_dwi", "pre_t2wi")
    assert configs["ct/segan/seed1"].data.cohort == "ct.csv"
    assert configs["post_dwi/segan/seed1"].data.cohort == "mri.csv"
    assert configs["ct/transunet/seed0"].transunet.weights == "vit.npz"
    some = paper.get_study("seeds=1,experiments=ct+cross_pre,methods=crlm_gan+unet")
    assert [name for name, _ in some] == [
        "ct/crlm_gan/seed0", "ct/unet/seed0", "cross_pre/crlm_gan/seed0", "cross_pre/unet/seed0",
    ]  # fmt: skip
    with pytest.raises(ConfigError, match=r"experiments=mri: 'mri' is none of all, single, cross"):
        paper.get_study("experiments=mri")


def runs_of(folder: Path, found: dict[str, float | None]) -> list[study_runs.StudyRun]:
    """Makes finished runs by name, with the share of each lesion that is found; None: waiting."""
    runs = []
    for name, share in found.items():
        if share is not None:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            make_run(folder / name, SIZES, share)
            (folder / name / "report.html").write_text("done")
        runs.append(study_run(folder, name))
    return runs


def study_run(folder: Path, name: str) -> study_runs.StudyRun:
    """Makes a run of a study whose configuration is that of its folder, if it has one."""
    begun = RunFolder(folder / name).begun
    config = read_begun(folder / name) if begun else Config()
    return study_runs.StudyRun(name, config, RunFolder(folder / name))


def collected(runs):
    found, left_out = study_seeds.collect(runs)
    assert not left_out
    return found


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """Two seeds of UNet++ (half found), one of each stage, none of both stages."""
    folder = tmp_path_factory.mktemp("study")
    names = {
        "x/unetpp/seed0": 0.5, "x/unetpp/seed1": 0.5, "x/stages_1/seed0": 1.0,
        "x/stages_2/seed0": 0.5, "x/stages_12/seed0": None,
    }  # fmt: skip
    return folder, runs_of(folder, names)


def test_a_finished_run_of_another_experiment_is_none_of_the_study(tmp_path):
    runs = runs_of(tmp_path, {"x/unet/seed0": 0.5, "x/unetpp/seed0": 1.0})
    other = copy.deepcopy(runs[1].config)
    other.train.steps, other.train.precision, other.name = 999, "auto", "renamed"
    runs[1] = study_runs.StudyRun(runs[1].name, other, runs[1].folder)
    assert runs[1].state == "of another experiment: train.steps: 0 → 999"
    found, _ = study_seeds.collect(runs)
    assert [system for system, seeds in found["x"].items() if seeds] == ["unet"]
    text = study_page.write_tables(runs, tmp_path).with_suffix(".md").read_text()
    assert "- x/unetpp/seed0: of another experiment: train.steps: 0 → 999" in text
    assert {row["system"] for row in csv.DictReader((tmp_path / "cases.csv").open())} == {"unet"}


def test_a_run_that_goes_on_from_one_of_the_study_may_be_moved_with_it(tmp_path):
    (run,) = runs_of(tmp_path, {"x/unet/seed0": 0.5})
    config = copy.deepcopy(run.config)
    config.train.init = "/elsewhere/runs/x/trunk/seed0"
    run.folder.config.write_text(to_json(config))
    config.train.init = "runs/x/trunk/seed0"
    assert study_runs.StudyRun(run.name, config, run.folder).state == "finished"
    config.train.init = "runs/x/trunk/seed1"
    assert "train.init" in study_runs.StudyRun(run.name, config, run.folder).state


def test_nothing_takes_the_place_of_a_reference_that_has_not_finished(tmp_path):
    runs = runs_of(tmp_path, {"x/unet/seed0": None, "x/segan/seed0": 0.5, "x/nnunet/seed0": 1.0})
    found = collected(runs)
    rows = [dict(zip(study_tables.PAIRED, r, strict=True)) for r in study_tables.paired_rows(found)]
    assert {row["system"] for row in rows} == {"segan", "nnunet"}
    assert {(row["compared with"], row["runs"], row["difference in DSC"]) for row in rows} == {
        ("unet", "0", "–")
    }
    lesions = [
        dict(zip(lesion_tables.LESIONS, row, strict=True))
        for row in lesion_tables.lesion_rows(found)
    ]
    assert {row["system"] for row in lesions} == {"segan", "nnunet"}
    assert {row["difference"] for row in lesions} == {"–"}
    study_page.write_tables(runs, tmp_path)
    assert {path.name for path in (tmp_path / "figures").iterdir()} == {"contours.png"}


def test_a_threshold_that_one_run_alone_has_makes_no_point_of_the_curve(tmp_path):
    runs = runs_of(tmp_path, {"x/unet/seed0": 0.5, "x/unet/seed1": 0.0})
    before = lesion_tables.curve_rows(collected(runs))
    froc = tmp_path / "x/unet/seed0/froc.csv"
    header, *lines = froc.read_text().splitlines()
    own = [",".join([*line.split(",")[:2], "0.35", *line.split(",")[3:]]) for line in lines[:1]]
    froc.write_text("\n".join([header, *lines, *own]) + "\n")
    assert lesion_tables.curve_rows(collected(runs)) == before


def test_systems_without_a_common_patient_have_a_row_that_says_so(tmp_path):
    runs = runs_of(tmp_path, {"x/unet/seed0": 0.5, "x/unetpp/seed0": 0.5, "x/segan/seed1": 0.5})
    cases = tmp_path / "x/unetpp/seed0/cases.csv"
    header, *lines = cases.read_text().splitlines()
    cases.write_text("\n".join([header, *("other-" + line for line in lines)]) + "\n")
    rows = study_tables.paired_rows(collected(runs))
    rows = [dict(zip(study_tables.PAIRED, row, strict=True)) for row in rows]
    shown = {(row["system"], row["runs"], row["n"], row["difference in DSC"]) for row in rows}
    assert shown == {("unetpp", "1", "0", "–"), ("segan", "0", "0", "–")}
    assert {(row["SD of runs"], row["p"], row["p (Holm)"]) for row in rows} == {("–", "–", "–")}


def test_tables_of_what_has_finished(finished):
    folder, runs = finished
    path = study_page.write_tables(runs, folder)
    html, text = path.read_text(), (folder / "tables.md").read_text()
    assert "4 of 5 runs have finished" in html
    assert "- x/stages_12/seed0: waiting" in text
    found = collected(runs)
    rows = [dict(zip(study_tables.HEADER, r, strict=True)) for r in study_tables.result_rows(found)]
    first = rows[0]
    assert (first["system"], first["condition"], first["seeds"]) == ("unetpp", "pre_dwi", "2")
    assert first["DSC"] == "0.67"  # two runs have no interval
    assert first["DSC of the seeds"] == "0.67, 0.67"
    paired = study_tables.paired_rows(found)
    by_system = {
        (row[1], row[3], row[4]): dict(zip(study_tables.PAIRED, row, strict=True)) for row in paired
    }
    row = by_system["stages_1", "pre_dwi", "paper"]
    assert (row["runs"], row["difference in DSC"]) == ("1", "0.333")
    assert (row["p"], row["p (Holm)"], row["SD of runs"]) == ("–", "–", "–")
    assert by_system["stages_2", "pre_dwi", "clinical"]["difference in DSC"] == "0.000"
    lines = list(csv.reader((folder / "tables.csv").open(newline="")))
    assert list(study_tables.HEADER) in lines
    cases = list(csv.DictReader((folder / "cases.csv").open(newline="")))
    own = list(csv.DictReader((folder / "x/stages_2/seed0/cases.csv").open(newline="")))
    whose = {"experiment": "x", "system": "stages_2", "seed": "seed0", "run": "seed0"}
    assert [case for case in cases if case["system"] == "stages_2"] == [whose | row for row in own]
    assert len(cases) == 4 * len(own)
    assert {p.name for p in (folder / "figures").iterdir()} == {
        "stages_x_pre_dwi.png", "stages_x_post_dwi.png", "contours.png",
        "differences_x_pre_dwi.png", "differences_x_post_dwi.png",
    }  # fmt: skip


def test_lesions_of_the_systems_are_counted_and_compared(finished):
    _, runs = finished
    rows = [
        dict(zip(lesion_tables.LESIONS, row, strict=True))
        for row in lesion_tables.lesion_rows(collected(runs))
    ]
    by_system = {(row["system"], row["condition"]): row for row in rows}
    first = by_system["unetpp", "pre_dwi"]
    assert (first["runs"], first["n"], first["false lesions a case"]) == ("2", "3", "0.0")
    assert first["share of the first's"] == first["difference"] == "–"
    assert first["lesions found"] == "6 / 6 (100%)"  # of two runs
    other = by_system["stages_1", "pre_dwi"]
    assert (other["difference"], other["p"]) == ("0.0", "–")  # one run has no interval
    assert other["lesions found"] == "3 / 3 (100%)"
    sizes = [other[f"found {text}"] for text in ("< 10 mm", "10–20 mm", "> 20 mm")]
    assert sizes == ["–", "–", "3 / 3 (100%)"]
    curves = lesion_tables.curve_rows(collected(runs))
    assert curves[0] == ["x", "unetpp", "pre_dwi", "100%", "100%", "100%", "100%"]
    assert len(curves) == 6


def test_a_share_of_false_lesions_is_of_the_same_runs():
    ours = {"seed0": {"a": 1.0, "b": 2.0}, "seed1": {"a": 5.0, "b": 5.0}}
    first = {"seed0": {"a": 4.0, "b": 5.0}}
    assert lesion_tables._compared(ours, first) == ["33%", "−3.0", "–"]
    assert lesion_tables._compared(ours, {}) == ["–"] * 3
    fewer = {"seed0": {"a": 4.0}}
    assert lesion_tables._compared(fewer, {"seed0": {"a": 4.0, "b": 4.0}}) == ["100%", "0.0", "–"]


def test_the_clinical_study_trains_both_recipes_equally_long():
    found = dict(clinical.get_study("seeds=2"))
    assert list(found) == [
        f"recipes/{arm}/seed{seed}" for seed in (0, 1) for arm in ("paper", "clinical")
    ]
    paper_, own = found["recipes/paper/seed1"], found["recipes/clinical/seed1"]
    assert (paper_.recipe, own.recipe) == ("paper", "clinical")
    for config in (paper_, own):
        assert (config.train.steps, config.train.seed, config.train.batch_size) == (448, 1, 8)
    parts = dict(clinical.get_study("seeds=1,arms=parts"))
    flat = {name: flatten(validate(config)) for name, config in parts.items()}
    whole = flat.pop("recipes/clinical/seed0")
    papers = flat.pop("recipes/paper/seed0")
    removal = flat.pop("recipes/paper_removal/seed0")
    assert {k for k in papers if papers[k] != removal[k]} == {
        "evaluation.min_lesion_mm3", "evaluation.liver"
    }  # fmt: skip
    changed = [{k for k in whole if whole[k] != each[k]} for each in flat.values()]
    assert all(changed)
    assert sum(map(len, changed)) == len(set().union(*changed))  # each field in one arm
    recipe = {k for k in whole if whole[k] != flatten(paper_)[k]} - {"recipe", "train.seed"}
    assert recipe == set().union(*changed)  # and none is forgotten


def test_the_papers_numbers_stand_beside_ours_only_where_the_data_are_its_own(tmp_path):
    runs = runs_of(tmp_path, {"pre_dwi/crlm_gan/seed0": 1.0, "pre_dwi/unet/seed0": 0.5})
    study_page.write_tables(runs, tmp_path)
    assert "CRLM-GAN, the paper's" not in (tmp_path / "tables.md").read_text()
    study_page.write_tables(runs, tmp_path, paper=True)
    rows = [
        line for line in (tmp_path / "tables.md").read_text().splitlines() if "paper's |" in line
    ]
    assert rows == [
        "| pre_dwi | CRLM-GAN, the paper's | pre_dwi | – | 45 | 0.81 (0.76–0.85) | 0.70 | 0.83 | "
        "0.82 | 0.82 | – |"
    ]
    runs[1].config.data.cohort = "phantom"
    with pytest.raises(ConfigError, match="--paper-data: pre_dwi/unet/seed0 is on the phantom"):
        study_page.write_tables(runs, tmp_path, paper=True)


def test_the_effect_of_a_stage_is_the_mean_over_the_pairs_that_differ_by_it(finished):
    _, runs = finished
    rows = study_tables.effect_rows(collected(runs))
    rows = [dict(zip(study_tables.EFFECTS, row, strict=True)) for row in rows]
    effects = {
        (row["condition"], row["stage"]): row["difference in DSC"]
        for row in rows
        if row["protocol"] == "paper"
    }
    # The runs of both stages are missing, so each stage has one pair: with it alone, and without.
    assert effects["pre_dwi", "1"] == "0.333"
    assert effects["pre_dwi", "2"] == "0.000"


def test_five_runs_have_an_interval_over_runs_and_patients(tmp_path):
    """Runs are paired by seed; what varies from run to run widens the interval."""
    shares = {f"x/unetpp/seed{seed}": 0.5 for seed in range(5)}
    shares |= {f"x/stages_1/seed{i}": x for i, x in enumerate((0.5, 0.6, 0.5, 0.7, 0.5))}
    runs = runs_of(tmp_path, shares)
    found = collected(runs)
    row = dict(zip(study_tables.PAIRED, study_tables.paired_rows(found)[0], strict=True))
    assert (row["runs"], row["n"]) == ("5", "3")
    low, high = (
        row["difference in DSC"].partition("(")[2].rstrip(")").replace("−", "-").split(" to ")
    )
    assert float(low) < 0 < float(high)  # two of five runs differ: not enough
    assert 0.05 < float(row["p"]) < 1
    assert float(row["SD of runs"]) > 0.05
    effect = dict(zip(study_tables.EFFECTS, study_tables.effect_rows(found)[0], strict=True))
    assert effect["difference in DSC"] == row["difference in DSC"]
    html = study_page.write_tables(runs, tmp_path).read_text()
    assert "unit as well as the patient" in html


def test_runs_without_stages_have_a_picture_of_their_differences(tmp_path):
    shares = {"x/one/seed0": 0.5, "x/one/seed1": 0.5, "x/two/seed0": 0.6, "x/two/seed1": 0.5}
    runs = runs_of(tmp_path, shares)
    each, whole = study_tables.run_differences(collected(runs)["x"], "pre_dwi")["two"]
    assert each[0] > 0.05
    assert each[1] == 0
    assert whole["mean"] == pytest.approx(np.mean(each))
    study_page.write_tables(runs, tmp_path)
    assert (tmp_path / "figures" / "differences_x_pre_dwi.png").is_file()


def test_a_fork_study_trains_comparators_from_scratch_alone():
    found = dict(forks.get_study("seeds=1,arms=unetpp,size=64,steps=50,scratch=unetpp+segan+unet"))
    assert list(found)[2:] == ["scratch/unetpp/seed0", "scratch/unet/seed0", "scratch/segan/seed0"]
    reference, unet, segan = list(found.values())[2:]
    assert (unet.segmenter.name, segan.critic.name) == ("unet", "segan")
    for config in (unet, segan):
        assert config.data == reference.data
        assert (config.train, config.system) == (reference.train, reference.system)
    with pytest.raises(ConfigError, match="arms=unet: 'unet' is none of"):
        forks.get_study("arms=unet")


def test_the_fork_study_forks_every_trunk(tmp_path):
    names = [name for name, _ in forks.get_study("seeds=2,arms=unetpp+stages_12")]
    assert names == [
        "trunk/unetpp/seed0", "forks/unetpp/seed0", "forks/stages_12/seed0",
        "trunk/unetpp/seed1", "forks/unetpp/seed1", "forks/stages_12/seed1",
        "scratch/unetpp/seed0", "scratch/stages_12/seed0",
        "scratch/unetpp/seed1", "scratch/stages_12/seed1",
    ]  # fmt: skip
    file = Path(__file__).parents[2] / "configs" / "studies" / "forks.py"
    runs = study_runs.load_study(f"{file}:seeds=1,trunk=30,steps=10", tmp_path / "runs")
    by_name = {run.name: run.config for run in runs}
    for name, config in by_name.items():
        is_arm = name.startswith("forks/")
        assert config.train.init == (str(tmp_path / "runs/trunk/unetpp/seed0") if is_arm else "")
        assert config.train.steps == (30 if name.startswith("trunk/") else 40)
        assert config.train.checkpoint_every == config.train.steps  # the last is what is tested
        assert config.system.threads == 2
    arms = [config for name, config in by_name.items() if name.startswith("forks/")]
    assert len({config.train.seed for config in arms}) == 1  # so that the order of data is one
    assert by_name["forks/scaled_12/seed0"].loss.feature_weight == 100
    with pytest.raises(ConfigError, match="trunk=x"):
        forks.get_study("trunk=x")


@pytest.mark.parametrize(
    ("argument", "words"),
    [
        ("weights=nosuch.safetensors", "weights=nosuch.safetensors: there is no such file"),
        ("condition=", "condition has no value"),
        ("condition=pre_dwi+", "join conditions by one"),
        ("folds", "folds has no value"),
        ("label=a/b", "label=a/b: letters, digits"),
    ],
)
def test_a_wrong_argument_of_the_fork_study_is_told_before_any_training(argument, words):
    with pytest.raises(ConfigError, match=re.escape(words)):
        forks.get_study(argument)


def test_every_study_has_folds_by_patient(tmp_path):
    found = dict(stages.get_study("seeds=2,folds=3,scale=paper"))
    assert len(found) == 16 * 2 * 3
    config = found["pre_dwi/stages_12/seed1_fold2of3"]
    assert (config.data.fold, config.data.test_patients, config.train.seed) == ("2/3", 0, 1)
    for study in (stages, critic, paper, forks):
        assert all(validate(c).data.fold for _, c in study.get_study("seeds=1,folds=2"))
        assert not any(c.data.fold for _, c in study.get_study("seeds=1"))
    for text, part in (("folds=1", "two folds or more"), ("folds=x", "a whole number")):
        with pytest.raises(ConfigError, match=part):
            stages.get_study(text)
    (tmp_path / "s.py").write_text(STUDY)
    with pytest.raises(ConfigError, match=r"has data.fold = '', but its name says '1/2'"):
        study_runs.load_study(f"{tmp_path / 's.py'}:x/one/seed0_fold1of2", tmp_path)
    with pytest.raises(ConfigError, match="is not named experiment/system/seedN or"):
        study_runs.load_study(f"{tmp_path / 's.py'}:x/one/seed0_fold0of2", tmp_path)


def test_the_trunk_of_a_fold_is_forked_within_its_fold():
    text = "seeds=1,folds=2,arms=stages_12,scratch=none,label=dwi,condition=pre_dwi+pre_t2wi"
    found = dict(forks.get_study(text))
    assert list(found) == [
        "dwi_trunk/unetpp/seed0_fold1of2", "dwi_forks/stages_12/seed0_fold1of2",
        "dwi_trunk/unetpp/seed0_fold2of2", "dwi_forks/stages_12/seed0_fold2of2",
    ]  # fmt: skip
    for name, config in found.items():
        assert config.data.conditions == ("pre_dwi", "pre_t2wi")
        assert config.data.fold == f"{name[-4]}/2"
        assert config.name == "dwi_forks"
        if name.startswith("dwi_forks/"):
            assert config.train.init == name.replace("forks/stages_12", "trunk/unetpp")


FOLDS = ({"a": (20, 12), "b": (20, 20)}, {"c": (12, 12), "d": (16, 12)})


def fold_runs(folder: Path, shares: dict[str, tuple[float, ...]], skip: str = ""):
    """Makes finished runs of two folds; the share found of each lesion by system, seed by seed."""
    runs = []
    for system, by_seed in shares.items():
        for seed, share in enumerate(by_seed):
            for fold, sizes in enumerate(FOLDS, start=1):
                name = f"x/{system}/seed{seed}_fold{fold}of2"
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                if name != skip:
                    make_run(folder / name, sizes, share)
                    (folder / name / "report.html").write_text("done")
                runs.append(study_run(folder, name))
    return runs


def test_the_folds_of_a_seed_are_one_run_that_tests_every_patient_once(tmp_path):
    runs = fold_runs(tmp_path, {"one": (0.5, 0.5), "two": (0.5, 1.0)})
    (systems,) = collected(runs).values()
    assert [seed.name for seed in systems["two"]] == ["seed0", "seed1"]
    assert set(systems["two"][1].values("pre_dwi", "dsc")) == {"a", "b", "c", "d"}
    rows = [dict(zip(study_tables.PAIRED, r, strict=True)) for r in
            study_tables.paired_rows({"x": systems})]  # fmt: skip
    row = next(r for r in rows if (r["condition"], r["protocol"]) == ("pre_dwi", "paper"))
    # Four runs of either system, but two units; one differs by a third, the other not at all.
    assert (row["runs"], row["n"], row["difference in DSC"]) == ("2", "4", "0.167")
    assert row["p"] == "–"
    shown = study_page.median_case(systems, "pre_dwi")
    assert [system for system, _ in shown] == ["one", "two"]
    study_page.write_tables(runs, tmp_path)
    assert "Left out" not in (tmp_path / "tables.md").read_text()


def test_a_seed_with_a_missing_or_a_wrong_fold_is_left_out_and_said_to_be(tmp_path):
    runs = fold_runs(tmp_path, {"one": (0.5, 0.5)}, skip="x/one/seed1_fold2of2")
    found, left_out = study_seeds.collect(runs)
    assert [seed.name for seed in found["x"]["one"]] == ["seed0"]
    assert left_out == ["x/one/seed1 is left out: fold 2 of 2 has not finished"]
    html = study_page.write_tables(runs, tmp_path).read_text()
    for text in (html, (tmp_path / "tables.md").read_text()):
        assert left_out[0] in text
    first, second = runs[:2]
    make_run(runs[3].folder.path, FOLDS[0])
    (runs[3].folder.path / "report.html").write_text("done")
    other = study_run(tmp_path, "x/one/seed1_fold2of2")
    _, left_out = study_seeds.collect([runs[2], other])
    assert "both seed1_fold1of2 and seed1_fold2of2 tested the patient" in left_out[0]
    _, left_out = study_seeds.collect([runs[0]])
    assert left_out == ["x/one/seed0 is left out: fold 2 of 2 has not finished"]
    renamed = study_runs.StudyRun("x/one/seed0_fold2of3", second.config, second.folder)
    assert "not folds of one number" in study_seeds.collect([first, renamed])[1][0]


def test_contours_show_the_median_case_of_the_reference_under_every_system(finished):
    _, runs = finished
    systems = collected(runs)["x"]
    shown = study_page.median_case(systems, "pre_dwi")
    assert [system for system, _ in shown] == ["unetpp", "stages_1", "stages_2"]
    assert len({view.title for _, view in shown}) == 1
    masks = [
        next(layer.voxels for layer in view.layers if layer.kind == "prediction")
        for _, view in shown
    ]
    assert masks[1].sum() == 2 * masks[0].sum()
    np.testing.assert_array_equal(masks[0], masks[2])


def test_the_command_lists_a_real_study(capsys):
    file = Path(__file__).parents[2] / "configs" / "studies" / "stages.py"
    study_command.main(["--study", f"{file}:seeds=1", "--workdir", "runs/none", "--list"])
    out = capsys.readouterr().out
    assert "pre_dwi/stages_1234/seed0" in out
    assert "0 of 16 finished" in out


REAL = '''
from pathlib import Path
from tests.cohorts import tiny_config

def get_study(arg=None):
    """Three tiny runs, of which the second has no cohort; `arg` is the folder of all."""
    folder, runs = Path(arg), []
    for seed, cohort in enumerate(("cohort.csv", "nowhere.csv", "cohort.csv")):
        config = tiny_config(folder / cohort, folder / "cache")
        config.train.seed, config.evaluation.attribution_steps = seed, 0
        config.train.batch_size, config.loss.stages = 4, ()
        runs.append((f"x/unetpp/seed{seed}", config))
    return runs
'''


@pytest.mark.slow
def test_a_real_study_that_is_killed_goes_on_and_lists_what_failed(tmp_path):
    make_cohort(tmp_path)
    (tmp_path / "real.py").write_text(REAL)
    file, workdir = f"{tmp_path / 'real.py'}:{tmp_path}", tmp_path / "runs"
    command = [sys.executable, "-m", "crlm_jax.study", "--study", file, "--workdir", str(workdir)]
    first, failed, last = (workdir / "x" / "unetpp" / f"seed{i}" for i in range(3))
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, start_new_session=True)
    deadline = time.time() + 300
    while not (last / "config.json").exists():
        assert process.poll() is None
        assert time.time() < deadline
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    done = {path: path.stat().st_mtime_ns for path in first.rglob("*")}
    assert (first / "report.html") in done
    assert not (last / "report.html").exists()

    again = subprocess.run(command, capture_output=True, text=True)
    assert again.returncode == 1
    assert "1 of 3 runs failed" in again.stderr
    assert {path: path.stat().st_mtime_ns for path in first.rglob("*")} == done
    assert (last / "report.html").exists()
    assert "nowhere.csv" in failed.with_name("seed1.error.txt").read_text()
    listed = subprocess.run([*command, "--list"], capture_output=True, text=True).stdout
    assert "2 of 3 finished" in listed
    assert "failed: CohortError" in listed
