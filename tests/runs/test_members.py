"""Which runs an ensemble has, and what keeps two of them from being averaged."""

from pathlib import Path

import pytest

from crlm_jax.config.schema import Config, ConfigError
from crlm_jax.config.storage import to_json
from crlm_jax.runs.members import check_alike, find_members


def make(path: Path, *, finished: bool = True, **fields) -> Path:
    """Writes the configuration of a run; `fields` are of `data`, `threshold` of `evaluation`."""
    config = Config(name=path.name)
    config.evaluation.threshold = fields.pop("threshold", 0.5)
    config.train.seed = fields.pop("seed", 0)
    for name, value in fields.items():
        setattr(config.data, name, value)
    path.mkdir(parents=True)
    (path / "config.json").write_text(to_json(config), encoding="utf-8")
    if finished:
        (path / "report.html").write_text("done")
    return path


def test_runs_are_themselves_and_folders_stand_for_the_runs_in_them(tmp_path):
    one = make(tmp_path / "one", finished=False)  # named by itself, it need not be finished
    inside = [make(tmp_path / "folds" / name) for name in ("b", "a")]
    (tmp_path / "folds" / "notes").mkdir()
    (tmp_path / "folds" / "seed0.error.txt").write_text("x")
    make(tmp_path / "folds" / ".b.partial")
    assert find_members([one, str(tmp_path / "folds")]) == [one, *sorted(inside)]


def test_a_cross_validation_with_results_of_all_folds_stands_for_its_folds(tmp_path):
    whole = make(tmp_path / "folds")
    (whole / "evaluation.json").write_text("{}")
    inside = [make(whole / f"fold{n}of2", fold=f"{n}/2") for n in (1, 2)]
    assert find_members([whole]) == inside


def test_what_is_no_member_is_refused(tmp_path):
    one = make(tmp_path / "one")
    with pytest.raises(ConfigError, match=r"one is given twice.*count double.*leave one"):
        find_members([one, one])
    (tmp_path / "again").symlink_to(one)
    with pytest.raises(ConfigError, match=r"again and .*one are the same"):
        find_members([one, tmp_path / "again"])
    with pytest.raises(ConfigError, match=r"none: no run is here.*none is in the folders in it"):
        find_members([tmp_path / "none"])
    alone = make(tmp_path / "evaluated")
    (alone / "evaluation.json").write_text("{}")
    with pytest.raises(ConfigError, match="holds an evaluation, not a run"):
        find_members([alone])
    make(tmp_path / "study" / "seed0")
    make(tmp_path / "study" / "seed1", finished=False)
    with pytest.raises(ConfigError, match=r"study: seed1 in it is not finished; start it again"):
        find_members([tmp_path / "study"])


def test_a_folder_without_one_of_its_folds_is_refused(tmp_path):
    for fold in (1, 3):
        make(tmp_path / f"seed0_fold{fold}of3", fold=f"{fold}/3")
    with pytest.raises(ConfigError, match=r"fold 2 of 3 \(seed 0\) is not in it"):
        find_members([tmp_path])
    make(tmp_path / "seed0_fold2of3", fold="2/3")
    assert len(find_members([tmp_path])) == 3


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"image_size": 96}, "data.image_size is 224 in .*one and 96 in .*two; leave one"),
        ({"conditions": ("post_dwi",)}, "data.conditions is pre_dwi in .*one and post_dwi in"),
        ({"mr_window": "percentiles"}, "data.mr_window is body in .* and percentiles in"),
        ({"antialias": False}, "data.antialias is True"),
        ({"context": 1}, "data.context is 0 in .*one and 1 in .*two; leave one"),
        ({"threshold": 0.4}, "evaluation.threshold is 0.5 .* and 0.4 .*; give --threshold"),
    ],
)
def test_runs_that_see_an_image_in_different_ways_are_refused(tmp_path, fields, said):
    runs = [make(tmp_path / "one"), make(tmp_path / "two", **fields)]
    with pytest.raises(ConfigError, match=f"one and .*two cannot be averaged: {said}"):
        check_alike(runs)


def test_what_changes_no_picture_may_differ(tmp_path):
    runs = [
        make(tmp_path / "one", conditions=("pre_dwi", "pre_t2wi")),
        make(
            tmp_path / "two", conditions=("pre_t2wi", "pre_dwi"), cohort="other.csv", seed=3,
            fold="2/5", ct_window=(0.0, 100.0), train_slices="all", threshold=0.4,
        ),
    ]  # fmt: skip
    assert [config.train.seed for config in check_alike(runs, ["threshold"])] == [0, 3]
    ct = make(tmp_path / "ct", conditions=("ct",))
    bright = make(tmp_path / "bright", conditions=("ct",), ct_window=(0.0, 100.0))
    with pytest.raises(ConfigError, match=r"data.ct_window is -150.0,250.0 in .*ct and 0.0,100.0"):
        check_alike([ct, bright])
