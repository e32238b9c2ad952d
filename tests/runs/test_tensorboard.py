"""The training log for TensorBoard."""

import importlib.util
import struct
import subprocess
import sys

import jax.numpy as jnp
import numpy as np
import pytest

from crlm_jax.config.schema import Config, ConfigError
from crlm_jax.runs import tensorboard
from crlm_jax.runs.folder import RunFolder
from crlm_jax.runs.log import TrainLog, read_log
from crlm_jax.system.files import locate

needs_writer = pytest.mark.skipif(
    importlib.util.find_spec("tensorboardX") is None, reason="the extra `tensorboard` is absent"
)


def asked() -> Config:
    config = Config()
    config.train.tensorboard = True
    return config


def scalars(folder):
    """Reads (tag, step) -> value out of all event files: records of length, sum, bytes and sum."""
    from tensorboardX.proto.event_pb2 import Event

    found = {}
    for file in sorted(folder.iterdir()):
        content = file.read_bytes()
        while content:
            (size,) = struct.unpack("<Q", content[:8])
            event = Event.FromString(content[12 : 12 + size])
            content = content[16 + size :]
            for value in event.summary.value:
                found[value.tag, event.step] = value.simple_value
    return found


def write(folder, start, steps):
    config = asked()
    with tensorboard.open_board(config, folder, max(start, 0)) as board:
        log = TrainLog(folder.log, start, config, str, board)
        for step in steps:
            log.add(step, {"loss": jnp.float32(step), "dice": jnp.float32(0.5)}, np.array([0]))
            log.flush()
        log.validation(steps[-1], 0.25)
        log.shares(steps[-1], {"dice": 1.0}, {"dice": 0.75})


@needs_writer
def test_the_numbers_are_those_of_the_log(tmp_path):
    folder = RunFolder(tmp_path)
    write(folder, -1, [1, 2])
    found = scalars(folder.board)
    assert (found["train/loss", 1], found["train/loss", 2]) == (1.0, 2.0)
    assert found["validation/dsc", 2] == 0.25
    assert found["gradient_shares/dice", 2] == 0.75
    speeds = [line["slices_per_second"] for line in read_log(folder.log) if "loss" in line]
    assert found["train/slices_per_second", 2] == pytest.approx(speeds[1])
    assert {tag for tag, _ in found} >= {"train/dice", "loss_shares/dice"}
    write(folder, 1, [2, 3])  # goes on from step 1, in a file of its own
    assert scalars(folder.board)["train/loss", 3] == 3.0


def test_nothing_is_written_unless_it_is_asked_for(tmp_path):
    with tensorboard.open_board(Config(), RunFolder(tmp_path), 0) as board:
        assert board is None
    assert not RunFolder(tmp_path).board.exists()
    tensorboard.check_board(Config(), RunFolder(tmp_path))


def test_what_cannot_be_written_is_said_before_the_training(tmp_path, monkeypatch):
    monkeypatch.setattr(tensorboard.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"pip install 'crlm_jax\[tensorboard\]'"):
        tensorboard.check_board(asked(), RunFolder(tmp_path))
    monkeypatch.setattr(tensorboard.importlib.util, "find_spec", lambda name: name)
    monkeypatch.setattr(tensorboard, "in_bucket", lambda path: True)
    with pytest.raises(ConfigError, match="is in a bucket"):
        tensorboard.check_board(asked(), RunFolder(locate(tmp_path)))


FULL = """
import resource, signal, sys
from pathlib import Path

from crlm_jax.config.schema import Config
from crlm_jax.runs import tensorboard
from crlm_jax.runs.folder import RunFolder

signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, resource.RLIM_INFINITY))
config = Config()
config.train.tensorboard = True
try:
    with tensorboard.open_board(config, RunFolder(Path(sys.argv[1])), 0) as board:
        for step in range(1000):
            board({"step": step, "loss": 1.0})
except OSError as error:
    print("said", error.errno)
"""


@needs_writer
def test_a_full_disk_is_an_error_and_no_wait(tmp_path):
    pytest.importorskip("resource", reason="this system has no limit on the size of files")
    words = [sys.executable, "-c", FULL, str(tmp_path)]
    done = subprocess.run(words, capture_output=True, text=True, timeout=60)
    assert done.stdout.startswith("said "), done.stderr


@needs_writer
def test_no_tensorflow_comes_with_it():
    code = "import sys, tensorboardX; print({'tensorflow', 'torch'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
