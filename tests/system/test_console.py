"""How commands end: exit codes, and what errors print."""

import os
import subprocess
import sys

import pytest

from crlm_jax.__main__ import COMMANDS
from crlm_jax.__main__ import main as crlm
from crlm_jax.errors import UserError
from crlm_jax.system.console import exit_code, printable
from crlm_jax.system.preemption import EXIT_CODE, Preempted


def raising(error: BaseException):
    def main(argv=None):
        raise error

    return main


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (UserError("a.csv, row 3: correct it"), 1, "error: a.csv, row 3: correct it\n"),
        (UserError("one\ntwo"), 1, "error: one\nerror: two\n"),
        (FileNotFoundError(2, "No such file", "x"), 1, "error: [Errno 2] No such file: 'x'\n"),
        (UserError("\x1b[2J"), 1, "error: \\x1b[2J\n"),
    ],
)  # fmt: skip
def test_an_error_that_a_user_can_mend_is_one_line_and_code_1(error, code, said, capsys):
    assert exit_code(raising(error)) == code
    assert capsys.readouterr().err == said


def test_a_command_that_was_told_to_stop_gives_75(capsys):
    assert exit_code(raising(Preempted("step 3 is saved"))) == EXIT_CODE == 75
    assert "step 3 is saved" in capsys.readouterr().out


def test_a_defect_keeps_its_traceback():
    with pytest.raises(ZeroDivisionError):
        exit_code(raising(ZeroDivisionError()))


def test_what_a_terminal_would_obey_is_written_out():
    assert printable("a\x07\u202eb\n") == "a\\x07\\u202eb\n"


def test_crlm_lists_every_command_with_a_line(capsys):
    assert crlm([]) == 0
    lines = capsys.readouterr().out.splitlines()
    for name, command in COMMANDS.items():
        assert any(line.split() == [name, *command.purpose.split()] for line in lines)
    assert all(len(line) < 80 for line in lines)


def test_crlm_knows_its_commands(capsys):
    assert crlm(["perdict"]) == 2
    assert "did you mean predict?" in capsys.readouterr().err
    assert crlm(["recist", "--pre", "no.nii", "--post", "no.nii"]) == 1
    assert "error: no.nii: file not found" in capsys.readouterr().err
    with pytest.raises(SystemExit, match="2"):
        crlm(["recist", "--pre"])


@pytest.mark.parametrize("platform", ["cuda", "tpu"])
def test_a_platform_that_is_not_there_is_one_line(platform, tmp_path):
    words = ["train", "--config", "ct", "--workdir", str(tmp_path / "run")]
    done = subprocess.run(
        [sys.executable, "-m", "crlm_jax", *words, f"--config.data.cache={tmp_path}"],
        env=os.environ | {"JAX_PLATFORMS": platform}, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 1, done.stderr
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert f"JAX_PLATFORMS={platform}: no such device is usable here" in line
    assert "there is cpu" in line
    assert f"crlm_jax[{platform}]" in line
    assert "Traceback" not in done.stderr
