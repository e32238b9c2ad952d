import dataclasses
import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from configs import common
from crlm_jax.config import flags
from crlm_jax.config.schema import Config, ConfigError, field_types, flatten, validate
from crlm_jax.config.storage import differences, from_json, overrides, to_json

# Fields that 0.1.0 did not have, and what it did.
YOUNGER = {
    "data.antialias": False,
    "data.mr_window": "percentiles",
    "data.resample_masks": False,
    "data.context": 0,
    "data.channels": (),
    "data.test_patients": 0,
    "data.fold": "",
    "phantom.version": 1,
    "loss.feature_weight": 1.0,
    "loss.mask_applied": "after_normalisation",
    "evaluation.register": False,
    "evaluation.choose_threshold": False,
    "evaluation.min_lesion_mm3": 0.0,
    "evaluation.liver": "none",
    "optimizer.warmup": 0.0,
    "train.tumour_first": 0.0,
    "train.init": "",
    "train.select": "paper",
    "train.refit": "",
    "train.ema": 0.0,
    "train.patience": 0,
    "train.tensorboard": False,
    "system.threads": 0,
}
EXPERIMENTS = sorted(
    p.stem for p in Path("configs").glob("*.py") if p.stem not in ("common", "methods")
)


def load(name: str, arg: str | None = None) -> Config:
    spec = importlib.util.spec_from_file_location(name, f"configs/{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.get_config(arg)


def test_the_seven_experiments_are_there():
    assert EXPERIMENTS == [
        "cross_post", "cross_pre", "ct", "post_dwi", "post_t2wi", "pre_dwi", "pre_t2wi",
    ]  # fmt: skip


@pytest.mark.parametrize("name", EXPERIMENTS)
@pytest.mark.parametrize("scale", common.SCALES)
@pytest.mark.parametrize("method", common.METHODS)
def test_every_experiment_is_valid_at_every_scale_and_method(name, scale, method):
    config = validate(load(name, f"scale={scale},method={method}"))
    assert (config.name, config.scale, config.method) == (name, scale, method)


def test_paper_scale_has_the_papers_hyper_parameters():
    config = flatten(load("cross_pre", "scale=paper"))
    paper = {
        "data.image_size": 224,
        "data.test_fraction": 0.4,
        "data.train_slices": "tumour",
        "segmenter.name": "unetpp",
        "segmenter.widths": (32, 64, 128, 256, 512),
        "critic.weights": "imagenet",
        "critic.update": "frozen",
        "loss.bce_weight": 1.0,
        "loss.stages": (1, 2, 3, 4),
        "loss.mask_with": "probability",
        "loss.feature_gradient": True,
        "loss.fusion": "per_stage",
        "optimizer.learning_rate": 1e-3,
        "optimizer.momentum": 0.9,
        "optimizer.weight_decay": 1e-4,
        "train.batch_size": 16,
        "train.epochs": 200,
    }
    assert {name: config[name] for name in paper} == paper


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_the_papers_scale_tests_as_many_patients_as_the_paper(name):
    assert load(name, "scale=paper").data.test_patients == (78 if name == "ct" else 45)
    assert load(name).data.test_patients == 0
    other = common.get_config("x", ("pre_dce",), "scale=paper")  # the paper has no such condition
    assert other.data.test_patients == 0


def test_a_fold_and_a_number_of_test_patients_exclude_each_other():
    config = load("ct", "scale=paper")
    config.data.fold = "2/5"
    with pytest.raises(ConfigError, match=r"'2/5' and data\.test_patients = 78 .*test_patients=0"):
        validate(config)
    config.data.test_patients = 0
    assert validate(config).data.fold == "2/5"


def test_only_the_method_separates_crlm_gan_from_unetpp():
    changed = differences(load("ct"), load("ct", "method=unetpp"))
    assert [line.split(":")[0] for line in changed] == ["method", "loss.stages"]


@pytest.mark.parametrize(
    ("arg", "words"),
    [
        ("scale=huge", "laptop, paper"),
        ("size=3", "scale, method, recipe"),
        ("method=x", "crlm_gan"),
    ],
)
def test_a_wrong_config_argument_lists_the_right_ones(arg, words):
    with pytest.raises(ConfigError, match=words):
        load("ct", arg)


@pytest.mark.parametrize(
    ("field", "value", "words"),
    [
        ("loss.stages", (1, 1), "different stages"),
        ("loss.stages", ("a",), "list of int"),
        ("loss.fusion", "sum", "per_stage, concatenated"),
        ("train.epochs", 0, "above 0"),
        ("train.epochs", 1.5, "type int"),
        ("optimizer.learning_rate", float("nan"), "finite"),
        ("data.image_size", 100, "multiple of 16"),
        ("data.ct_window", (250.0, -150.0), "lower first"),
        ("data.test_fraction", 1.0, r"\[0, 1\)"),
        ("data.test_patients", -1, "0 or more"),
        ("data.fold", "2", "the second of five"),
        ("data.fold", "0/5", "the second of five"),
        ("data.fold", "6/5", "the second of five"),
        ("data.fold", "1/1", "the second of five"),
        ("data.fold", "2/5 ", "the second of five"),
        ("train.select", "best", "paper, clinical"),
        ("data.conditions", (), "one or more"),
        ("evaluation.threshold", 1.0, r"\(0, 1\)"),
        ("train.seed", -1, r"\[0, 4294967295\]"),
        ("train.seed", 2**32, r"\[0, 4294967295\]"),
        ("data.split_seed", -1, "0 or more"),
        ("phantom.seed", -1, "0 or more"),
        ("data.workers", -1, "0 or more"),
        ("optimizer.momentum", 1.0, r"\[0, 1\)"),
        ("optimizer.momentum", -0.5, r"\[0, 1\)"),
        ("optimizer.weight_decay", -1.0, "0 or more"),
        ("loss.bce_weight", -1.0, "0 or more"),
        ("loss.dice_weight", -5.0, "0 or more"),
        ("augment.hue", -5.0, r"\[0, 180\]"),
        ("augment.saturation", 256.0, r"\[0, 255\]"),
        ("augment.brightness", 7.0, r"\[0, 1\]"),
        ("augment.contrast", -0.2, r"\[0, 1\]"),
    ],
)
def test_a_wrong_value_is_named_with_the_remedy(field, value, words):
    config = Config()
    group, name = field.split(".")
    setattr(getattr(config, group), name, value)
    with pytest.raises(ConfigError, match=words) as error:
        validate(config)
    assert field in str(error.value)


def test_a_loss_of_nothing_is_an_error():
    config = Config()
    config.loss.bce_weight = config.loss.dice_weight = 0.0
    assert validate(config) is config  # the feature distance is left
    for change in ({"feature_weight": 0.0}, {"stages": ()}, {"feature_gradient": False}):
        own = dataclasses.replace(config, loss=dataclasses.replace(config.loss, **change))
        with pytest.raises(ConfigError, match=r"loss\.dice_weight = 0.*: nothing would be learned"):
            validate(own)
    for limit in ({"seed": 2**32 - 1}, {"seed": 0}):
        assert validate(Config(train=dataclasses.replace(Config().train, **limit)))


def test_the_clinical_recipe_is_asked_for_beside_scale_and_method():
    paper, clinical = (load("cross_pre", arg) for arg in (None, "recipe=clinical"))
    assert load("cross_pre", "recipe=paper") == paper
    assert (clinical.recipe, clinical.data.train_slices) == ("clinical", "all")
    assert (paper.train.tumour_first, clinical.train.tumour_first) == (0, 0.5)
    assert (clinical.optimizer.schedule, clinical.evaluation.liver) == ("cosine", "column")
    assert clinical.segmenter == paper.segmenter
    assert from_json(to_json(clinical), "x") == validate(clinical)
    old = json.loads(to_json(paper))
    del old["recipe"]
    assert from_json(json.dumps(old), "x").recipe == "paper"


def test_json_round_trip():
    config = load("cross_pre", "scale=paper,method=unet")
    assert from_json(to_json(config), "x") == config


def test_a_field_that_an_old_run_lacks_is_as_it_was_then(fixtures):
    """A new field with another effect than before is listed with its old value."""
    text = (fixtures / "made_by_0_1_0" / "run" / "config.json").read_text()
    written = json.loads(text)
    names = {f"{group}.{name}" for group, v in written.items() if isinstance(v, dict) for name in v}
    younger = {name for name in flatten(Config()) if "." in name} - names
    assert younger == set(YOUNGER)
    read = flatten(from_json(text, "config.json"))
    assert {name: read[name] for name in younger} == YOUNGER
    for name in younger:  # a run of today keeps its own
        group, field = name.split(".")
        config = Config()
        setattr(getattr(config, group), field, read[name])
        assert flatten(from_json(to_json(config), "x"))[name] == read[name]
        assert flatten(from_json(to_json(Config()), "x"))[name] == flatten(Config())[name]


def test_a_config_of_another_version_is_refused():
    text = json.loads(to_json(Config()))
    text["loss"]["magic"] = 1
    with pytest.raises(ConfigError, match=r"run/config\.json.*loss\.magic"):
        from_json(json.dumps(text), "run/config.json")


def test_how_a_run_is_carried_out_is_not_the_experiment():
    moved = Config()
    moved.data = dataclasses.replace(moved.data, cache="/elsewhere", workers=3)
    assert differences(Config(), moved) == []


def test_every_field_says_its_type():
    assert set(field_types()) == set(flatten(Config()))


def test_an_experiments_file_that_stops_is_heard(tmp_path):
    """Its words and its exit code are its own; only help ends with 0."""
    file = tmp_path / "own.py"
    file.write_text("def get_config(arg=None):\n    raise SystemExit('my own words')\n")
    words = [sys.executable, "-m", "crlm_jax.main", "--config", str(file)]
    done = subprocess.run(words, capture_output=True, text=True)
    assert done.returncode == 1
    assert "my own words" in done.stderr


def test_overrides_make_one_experiment_of_another():
    begun = Config()
    begun.loss.stages, begun.data.conditions = (1, 2), ("pre_dwi", "pre_t2wi")
    begun.data.cohort, begun.train.ema = "a b.csv", 0.5
    begun.critic.weights = "random"
    assert overrides(begun, Config()) == [
        "'--config.data.cohort=a b.csv'",
        "--config.data.conditions=pre_dwi,pre_t2wi",
        "--config.critic.weights=random",
        "--config.loss.stages=1,2",
        "--config.train.ema=0.5",
    ]
    begun.loss.stages = ()
    assert "'--config.loss.stages=()'" in overrides(begun, Config())


def test_words_of_a_list_are_split_at_commas(monkeypatch):
    """The flag library hands them over as one."""
    config = Config()
    config.data.conditions, config.data.channels = ("a,b",), ("a,c",)
    monkeypatch.setattr(flags, "_CONFIG", SimpleNamespace(value=config))
    given = flags.flagged_config()
    assert (given.data.conditions, given.data.channels) == (("a", "b"), ("a", "c"))
    config.data.channels = ()
    assert flags.flagged_config().data.channels == ()
