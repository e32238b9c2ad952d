"""One training at a time in a run folder, on this machine."""

import os
import signal
import subprocess
import sys

import pytest

from crlm_jax.runs.folder import RunFolder, WorkdirError, open_workdir
from crlm_jax.runs.lock import BusyError, only_training
from crlm_jax.system import parallel
from tests.cohorts import tiny_config

HOLD = """
import sys, time
from pathlib import Path
from crlm_jax.runs.folder import RunFolder
from crlm_jax.runs.lock import only_training
with only_training(RunFolder(Path(sys.argv[1]))):
    print("held", flush=True)
    time.sleep(600)
"""


@pytest.fixture
def folder(tmp_path):
    return RunFolder(tmp_path / "runs" / "one")


@pytest.fixture
def holder(folder):
    """Another process that holds the lock."""
    words = [sys.executable, "-c", HOLD, str(folder.path)]
    process = subprocess.Popen(words, stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.communicate()


def test_another_process_is_refused_until_this_one_ends(folder, holder):
    for _ in range(2):
        with pytest.raises(BusyError, match="another training is writing"), only_training(folder):
            pass
    assert folder.lock.exists()


def test_a_killed_process_leaves_no_lock(folder, holder):
    os.kill(holder.pid, signal.SIGKILL)
    holder.wait()
    assert folder.lock.exists()  # the file stays, the lock does not
    assert not open_workdir(tiny_config(folder.path, folder.path), folder)
    with only_training(folder):
        folder.config.write_text("{}")
    assert [path.name for path in folder.path.iterdir()] == ["config.json"]


def test_the_lock_is_free_again_after_an_error(folder):
    for _ in range(2):
        with pytest.raises(ZeroDivisionError), only_training(folder):
            raise ZeroDivisionError
    assert not folder.path.parent.exists()  # it was made for the run, which left nothing


def test_other_processes_of_the_run_do_not_lock(folder, holder, monkeypatch):
    monkeypatch.setattr(parallel, "is_main", lambda: False)
    with only_training(folder):
        pass
    assert folder.lock.exists()


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write")
def test_a_folder_without_permission(folder):
    folder.path.parent.mkdir()
    folder.path.parent.chmod(0o500)
    with pytest.raises(WorkdirError, match=r"\(Permission denied\)"), only_training(folder):
        pass


def test_a_folder_below_a_file(folder):
    folder.path.parent.write_text("x")
    said = r"one: cannot be written to \(Not a directory\); give another --workdir"
    with pytest.raises(WorkdirError, match=said), only_training(folder):
        pass
