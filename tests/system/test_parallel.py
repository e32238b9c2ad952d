import csv
import os
import random
import re
import signal
import subprocess
import sys
import time
from collections.abc import Collection
from pathlib import Path

import jax
import numpy as np
import pytest

from crlm_jax.config.schema import Config
from crlm_jax.runs.folder import WorkdirError
from crlm_jax.runs.log import SHARES
from crlm_jax.runs.records import check_shared
from crlm_jax.system import parallel
from tests.cohorts import make_cohort, tiny_config
from tests.processes import Run, assert_same_weights, last_step, logged, own_caches

# Of one of two processes. Twenty, with `-k lost`, take eight minutes; the run is longer by them,
# and with its length rounding grows beyond what the other tests allow between one and two.
KILLS = int(os.environ.get("CRLM_JAX_KILLS", "2"))
CONDITIONS = ("pre_dwi", "pre_t2wi")


@pytest.fixture(scope="module")
def cohort(tmp_path_factory) -> Path:
    return make_cohort(tmp_path_factory.mktemp("cohort"), conditions=CONDITIONS)


@pytest.fixture(scope="module")
def config(cohort, tmp_path_factory) -> Config:
    config = tiny_config(cohort, tmp_path_factory.mktemp("cache"), CONDITIONS)
    config.optimizer.learning_rate = 3e-5  # so small that rounding does not grow over the steps
    config.train.epochs, config.train.checkpoint_every = 10 + KILLS, 6
    config.evaluation.attribution_steps = 0
    return config


@pytest.fixture(scope="module")
def one(config, tmp_path_factory) -> Path:
    """The run of a single process, undisturbed."""
    workdir = tmp_path_factory.mktemp("runs") / "one"
    run = Run(config, workdir)
    assert run.end() == [0], run.outputs()
    return workdir


@pytest.fixture(scope="module")
def two(config, tmp_path_factory) -> tuple[Path, list[str]]:
    """The run of two processes with caches of their own, undisturbed, and what each printed."""
    folder = tmp_path_factory.mktemp("two")
    run = Run(config, folder / "run", 2, arguments=own_caches(folder, 2))
    assert run.end() == [0, 0], run.outputs()
    return folder / "run", run.outputs()


LEFT_OUT = ("step", "grad_norm", "data", *SHARES)


def numbers(file: Path) -> list[list[float]]:
    """The cells of a table that are numbers, by row."""

    def number(cell: str) -> float:
        try:
            return float(cell)
        except ValueError:
            return 0.0

    return [list(map(number, row)) for row in csv.reader(file.open(encoding="utf-8"))]


def terms(workdir: Path) -> dict[int, dict[str, float]]:
    """The logged losses and the validation DSC by step.

    Without the norm of the gradient and the shares of the terms, which are there for the reader
    alone and feel rounding more.
    """
    found: dict[int, dict[str, float]] = {}
    for line in logged(workdir):
        numbers = {k: v for k, v in line.items() if k not in LEFT_OUT}
        found.setdefault(line["step"], {}).update(numbers)
    return found


def assert_same_run(
    config: Config,
    one: Path,
    other: Path,
    stops: Collection[int] = (),
) -> None:
    """Parameters, losses, validation and the results of every case, within 1e-5.

    Args:
      config: of both.
      one: undisturbed.
      other: to be compared with it.
      stops: steps at which it was told to stop, if they have a line of their own in its log: the
        line after that is a mean over fewer steps.
    """
    assert_same_weights(config, one, other, 1e-5)
    a, b = terms(one), terms(other)
    assert set(b) == set(a) | set(stops)
    assert any("validation_dsc" in x for x in a.values())
    for step, x in a.items():
        if not any(step - config.train.log_every < stop < step for stop in stops):
            assert b[step] == pytest.approx(x, rel=1e-5, abs=1e-5)
    for name in ("cases.csv", "lesions.csv"):
        assert len(numbers(one / name)) > 2
        np.testing.assert_allclose(numbers(one / name), numbers(other / name), rtol=1e-5, atol=1e-5)
    names = [sorted(path.name for path in (run / "views").iterdir()) for run in (one, other)]
    assert len(names[0]) == 6
    assert names[0] == names[1]


@pytest.mark.slow
def test_two_processes_on_separate_disks_give_the_results_of_one(config, one, two):
    """They train, validate and evaluate; each prepares the slices for itself."""
    workdir, (first, other) = two
    assert_same_run(config, one, workdir)
    assert "report: " in first
    assert not re.search("report: |test patients", other)
    assert all(list((workdir.parent / f"cache_{i}" / "slices").iterdir()) for i in range(2))


@pytest.mark.slow
def test_a_run_goes_on_with_another_number_of_processes_and_devices(config, one, tmp_path):
    """Told to stop, and gone on with: (processes, devices each) 2, 1 → 1, 4 → 4, 1."""
    workdir, reached = tmp_path / "run", 0
    for count, devices in [(2, 1), (1, 4)]:
        run = Run(config, workdir, count, devices)
        assert run.wait_for_step(reached + 2), run.outputs()
        run.stop()
        assert run.end() == [75] * count, run.outputs()
        assert not (workdir / "report.html").exists()
        reached = logged(workdir)[-1]["step"]
    run = Run(config, workdir, 4)
    assert run.end() == [0] * 4, run.outputs()
    stops = {line["step"] for line in logged(workdir)} - {line["step"] for line in logged(one)}
    assert_same_run(config, one, workdir, stops)


@pytest.mark.slow
def test_a_lost_process_is_named_in_time_and_the_run_goes_on(config, two, tmp_path):
    """kill -9 of one of two, again and again; the run ends with the bits of the undisturbed one."""
    workdir, seconds, rng = tmp_path / "run", 10, random.Random(0)
    for kill in range(KILLS):
        run = Run(config, workdir, 2, arguments=[[f"--lost_after={seconds}"]] * 2)
        target = last_step(workdir) + rng.randint(1, 3)
        assert run.wait_for_step(target), run.outputs()
        time.sleep(rng.uniform(0, 0.2))
        lost, left = (1, 0) if kill % 2 == 0 else (0, 1)
        run.processes[lost].kill()
        start = time.monotonic()
        codes = run.end()
        assert time.monotonic() - start < seconds + 10  # and some for a busy machine
        assert codes[lost] == -signal.SIGKILL
        assert codes[left] != 0
        named = {
            0: "the leader task was preempted/died",
            1: r"Task 1 heartbeat timeout|stopped sending heartbeats\):\n1",
        }
        assert re.search(named[lost], run.outputs()[left]), run.outputs()[left]
        assert "Traceback" not in run.outputs()[left]
    again = Run(config, workdir, 2)
    assert again.end() == [0, 0], again.outputs()
    assert_same_weights(config, two[0], workdir, 0)
    assert logged(workdir) == logged(two[0])
    assert (workdir / "cases.csv").read_bytes() == (two[0] / "cases.csv").read_bytes()


@pytest.mark.slow
def test_a_process_with_other_data_is_named(config, cohort, tmp_path):
    other = make_cohort(tmp_path / "other", patients=7, conditions=CONDITIONS)
    arguments = [["--noconfig.data.cache_shared"], [f"--config.data.cohort={other}"]]
    arguments[1] += arguments[0]
    run = Run(config, tmp_path / "run", 2, arguments=arguments)
    start = time.monotonic()
    assert run.end() == [1, 1]
    assert time.monotonic() - start < parallel.LOST_AFTER
    for said in run.outputs():
        assert "process 1 found other images or masks there than process 0" in said
        assert "Traceback" not in said
    assert not (tmp_path / "run").exists()


def test_alone_there_is_nothing_to_gather():
    assert parallel.gather({"a": (1, 2.5)}) == [{"a": [1, 2.5]}]
    assert parallel.share([3, 4, 5]) == [3, 4, 5]


def test_a_folder_that_is_not_shared_is_named(tmp_path, monkeypatch):
    (tmp_path / "a").touch()
    check_shared(tmp_path, ["a"])
    monkeypatch.setattr(parallel, "_FILE_SYSTEM", 0)
    with pytest.raises(WorkdirError, match="process 0 does not see what others wrote"):
        check_shared(tmp_path, ["a", "b"])


def test_the_copies_of_this_processs_devices_are_used_as_they_are():
    eight, two = parallel.make_mesh(8), parallel.make_mesh(jax.devices()[:8])
    tree = jax.device_put({"w": np.arange(6.0)}, parallel.replicated(eight))
    local = parallel.to_local(tree, two)["w"]
    assert local.sharding == parallel.replicated(two)
    pointers = [s.data.unsafe_buffer_pointer() for s in tree["w"].addressable_shards]
    assert [s.data.unsafe_buffer_pointer() for s in local.addressable_shards] == pointers
    np.testing.assert_array_equal(local, np.arange(6.0))


@pytest.mark.slow
def test_the_number_of_threads_decides_the_bits_not_the_cores(tmp_path):
    """Two processes with one number of threads compute the same, on any number of cores."""
    script = tmp_path / "sum.py"
    script.write_text(
        "import sys\n"
        "from crlm_jax.system import parallel\n"
        "parallel.use_threads(int(sys.argv[1]))\n"
        "import jax, numpy as np\n"
        "rng = np.random.default_rng(0)\n"
        "x, w = rng.normal(size=(8, 64, 64, 16)), rng.normal(size=(3, 3, 16, 16))\n"
        "how = dict(window_strides=(1, 1), padding='SAME')\n"
        "how['dimension_numbers'] = ('NHWC', 'HWIO', 'NHWC')\n"
        "conv = lambda w, x: jax.lax.conv_general_dilated(x, w, **how)\n"
        "loss = lambda w, x: (jax.numpy.tanh(conv(w, x)) ** 2).sum()\n"
        "g = jax.jit(jax.grad(loss))(w.astype('f4'), x.astype('f4'))\n"
        "print(np.asarray(g).tobytes().hex())\n"
    )

    def result(threads: int, cores: set[int] | None = None) -> str:
        preexec = (lambda: os.sched_setaffinity(0, cores)) if cores else None
        words = [sys.executable, str(script), str(threads)]
        environment = {k: v for k, v in os.environ.items() if k not in ("NPROC", "XLA_FLAGS")}
        done = subprocess.run(
            words, capture_output=True, text=True, check=True, preexec_fn=preexec, env=environment
        )
        return done.stdout

    assert result(1) != result(2)
    assert result(2) == result(2, {min(os.sched_getaffinity(0))})


def test_a_compile_cache_that_the_environment_names_is_used(tmp_path, monkeypatch):
    used = {}
    monkeypatch.setattr(jax.config, "update", used.__setitem__)
    parallel.use_compile_cache(str(tmp_path))
    assert "jax_compilation_cache_dir" not in used
    monkeypatch.delenv("JAX_COMPILATION_CACHE_DIR")
    parallel.use_compile_cache(str(tmp_path))
    assert used["jax_compilation_cache_dir"] == str(tmp_path / "xla")
