"""Runs that go on from another run, averaged weights, and the shares of the loss's terms."""

import dataclasses
import functools
import json

import jax
import numpy as np
import pytest

from crlm_jax.config.schema import ConfigError
from crlm_jax.data.slices import Slices
from crlm_jax.method.checkpoint import Checkpoints
from crlm_jax.method.segment import load_best
from crlm_jax.method.shares import make_shares
from crlm_jax.method.step import create_state, make_train_step
from crlm_jax.runs.folder import RunFolder
from crlm_jax.runs.log import read_log
from crlm_jax.system import parallel
from crlm_jax.training import experiment
from crlm_jax.training.card import describe_terms
from crlm_jax.training.loop import Experiment, checkpoint_parts, fit
from tests.cohorts import make_cohort, tiny_config
from tests.method.test_step import make_batch, small_config
from tests.models import parity

pytestmark = pytest.mark.usefixtures("blank_pictures", "one_device")


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    folder = tmp_path_factory.mktemp("forks")
    config = tiny_config(make_cohort(folder / "cohort"), folder / "cache")
    return config, experiment.prepare(config)


def trained(prepared, folder, steps: int, **changes) -> tuple[RunFolder, dict]:
    """Trains, and returns the run's folder and the parts of its newest checkpoint."""
    config, slices = prepared
    config = dataclasses.replace(config, train=dataclasses.replace(config.train, steps=steps))
    for name, value in changes.items():
        group, field = name.split("__")
        own = dataclasses.replace(getattr(config, group), **{field: value})
        config = dataclasses.replace(config, **{group: own})
    mesh = parallel.make_mesh(1)
    networks, state = create_state(config, mesh)
    run = RunFolder(folder)
    run.path.mkdir(parents=True, exist_ok=True)
    run.config.write_text(json.dumps(dataclasses.asdict(config)))
    fit(Experiment(config, slices, run, mesh), networks, state)
    _, like = create_state(config, mesh)
    with Checkpoints(run.checkpoints, saves=False) as saved:
        return run, saved.load(saved.latest, checkpoint_parts(like))


def assert_same(a, b):
    assert jax.tree.structure(a) == jax.tree.structure(b)
    jax.tree.map(np.testing.assert_array_equal, a, b)


def test_an_arm_like_its_trunk_is_the_trunk_trained_on(prepared, tmp_path):
    """Weights, statistics, momentum and the order of the data go on, bit for bit."""
    trunk, _ = trained(prepared, tmp_path / "trunk", 3)
    before = {p: p.read_bytes() for p in trunk.path.rglob("*") if p.is_file()}
    arm, forked = trained(prepared, tmp_path / "arm", 6, train__init=str(trunk.path))
    assert {p: p.read_bytes() for p in trunk.path.rglob("*") if p.is_file()} == before
    _, straight = trained(prepared, tmp_path / "straight", 6)
    assert_same(forked, straight)
    assert min(line["step"] for line in read_log(arm.log)) == 3


def test_arms_differ_by_their_loss_alone_and_resume(prepared, tmp_path):
    trunk, _ = trained(prepared, tmp_path / "trunk", 3, loss__stages=())
    init = str(trunk.path)
    _, plain = trained(prepared, tmp_path / "plain", 4, train__init=init, loss__stages=())
    _, arm = trained(prepared, tmp_path / "arm", 4, train__init=init)
    first, second = (x["segmenter"]["params"] for x in (plain, arm))
    different = jax.tree.map(lambda a, b: float(np.abs(a - b).max()), first, second)
    assert 0 < max(jax.tree.leaves(different)) < 0.1
    # A run that was begun goes on from its own checkpoint, not from the trunk's.
    _, longer = trained(prepared, tmp_path / "arm", 5, train__init=init)
    _, once = trained(prepared, tmp_path / "once", 5, train__init=init)
    assert_same(longer, once)


def test_what_cannot_be_taken_over_is_one_error(prepared, tmp_path):
    with pytest.raises(ConfigError, match="no run is there yet; train it first"):
        trained(prepared, tmp_path / "a", 4, train__init=str(tmp_path / "none"))
    run, _ = trained(prepared, tmp_path / "trunk", 3)
    with pytest.raises(ConfigError, match=r"train\.steps"):
        trained(prepared, tmp_path / "b", 3, train__init=str(run.path))


def test_the_average_is_what_is_evaluated(prepared, tmp_path, monkeypatch):
    # Two programs, which give the same bits as a user's are compiled.
    monkeypatch.setattr(jax, "jit", functools.partial(jax.jit, compiler_options=parity.USUAL))
    run, parts = trained(prepared, tmp_path / "run", 6, train__ema=0.5)
    raw = trained(prepared, tmp_path / "raw", 6)[1]
    assert_same(parts["training"]["params"], raw["segmenter"]["params"])
    averaged = parts["segmenter"]["params"]
    gaps = jax.tree.map(
        lambda a, b: float(np.abs(a - b).max()), averaged, raw["segmenter"]["params"]
    )
    assert max(jax.tree.leaves(gaps)) > 1e-4
    config = dataclasses.replace(prepared[0], train=dataclasses.replace(prepared[0].train, ema=0.5))
    best = load_best(config, run.checkpoints, parallel.make_mesh(1))
    assert best.step in (3, 6)
    if best.step == 6:
        assert_same(best.variables["params"], averaged)
    # An arm with an average from a trunk without one, and the other way.
    trained(prepared, tmp_path / "on", 7, train__ema=0.5, train__init=str(tmp_path / "raw"))
    trained(prepared, tmp_path / "off", 7, train__init=str(run.path))


def test_the_average_is_that_of_the_weights():
    """For the first updates their plain mean, then the exponential one."""
    config = small_config(train__ema=0.75)
    mesh = parallel.make_mesh(1)
    networks, state = create_state(config, mesh)
    step = make_train_step(config, networks, mesh, steps=8)
    batch = {k: parallel.to_global({"x": v}, mesh)["x"] for k, v in make_batch().items()}
    expected = None
    for count in range(6):
        state, _ = step(state, batch)
        now = jax.tree.map(lambda x: np.array(x, np.float64), state.params)
        share = max(0.25, 1 / (count + 1))
        expected = (
            now
            if expected is None
            else jax.tree.map(lambda old, new, s=share: old + s * (new - old), expected, now)
        )
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5),
        state.average["params"],
        expected,
    )


def test_shares_are_those_of_the_gradient(prepared):
    config = small_config(loss__stages=(1, 2), loss__feature_weight=3.0)
    mesh = parallel.make_mesh(1)
    networks, state = create_state(config, mesh)
    batch = {k: parallel.to_global({"x": v}, mesh)["x"] for k, v in make_batch().items()}
    found = make_shares(config, networks, mesh)(state, batch)
    assert list(found.loss) == list(found.gradient) == ["bce", "dice", "stage 1", "stage 2"]
    for shares in (found.loss, found.gradient):
        assert sum(shares.values()) == pytest.approx(1)
        assert min(shares.values()) > 0
    _, terms = make_train_step(config, networks, mesh, steps=2)(state, batch)
    total = float(terms["loss"])
    assert found.loss["bce"] == pytest.approx(float(terms["bce"]) / total, rel=1e-4)
    feature = found.loss["stage 1"] + found.loss["stage 2"]
    assert feature == pytest.approx(3 * float(terms["feature"]) / total, rel=1e-4)


def test_the_card_shows_the_first_and_the_last_shares(prepared, tmp_path):
    run, _ = trained(prepared, tmp_path / "run", 6)
    lines = describe_terms(read_log(run.log))
    assert [name for name, _ in lines] == ["terms, step 0", "terms, step 6"]
    assert "stage 1" in lines[0][1]
    assert "gradient's norm: bce" in lines[1][1]
    assert isinstance(prepared[1], Slices)


def test_without_a_gradient_the_feature_loss_has_no_share_of_it():
    config = small_config(loss__feature_gradient=False, loss__fusion="concatenated")
    mesh = parallel.make_mesh(1)
    networks, state = create_state(config, mesh)
    batch = {k: parallel.to_global({"x": v}, mesh)["x"] for k, v in make_batch().items()}
    found = make_shares(config, networks, mesh)(state, batch)
    assert found.gradient["stage 1"] == 0
    assert found.loss["stage 1"] > 0
