"""A folder that appears whole or not at all, also beside other processes and after a kill."""

import os
from pathlib import Path

import pytest

from crlm_jax.errors import UserError
from crlm_jax.system.files import clear_partial, whole_folder


def replace(out: Path) -> None:
    """Anything may be replaced."""


def is_whole(out: Path) -> bool:
    return (out / "whole").exists()


def test_new_empty_and_replaced(tmp_path):
    out = tmp_path / "deep" / "out"
    for content in ("one", "two"):
        with whole_folder(out, replace) as folder:
            assert folder.parent == out.parent
            (folder / content).touch()
        assert [path.name for path in out.iterdir()] == [content]
    empty = tmp_path / "empty"
    empty.mkdir()
    with whole_folder(empty, replace) as folder:
        (folder / "whole").touch()
    assert is_whole(empty)
    assert {path.name for path in tmp_path.iterdir()} == {"deep", "empty"}


def test_an_error_leaves_what_was_there(tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    (out / "old").touch()
    with pytest.raises(KeyboardInterrupt), whole_folder(out, replace):
        raise KeyboardInterrupt
    assert [path.name for path in tmp_path.rglob("*")] == ["out", "old"]


def test_a_faster_process_is_believed(tmp_path):
    out = tmp_path / "out"
    with whole_folder(out, is_whole) as slow:
        with whole_folder(out, is_whole) as fast:
            (fast / "whole").write_text("fast")
        (slow / "whole").write_text("slow")
    assert (out / "whole").read_text() == "fast"
    assert list(tmp_path.iterdir()) == [out]


def test_a_folder_that_may_not_be_replaced(tmp_path):
    def refuse(out: Path) -> None:
        if out.exists():
            raise UserError("mine")

    out = tmp_path / "out"
    with pytest.raises(UserError, match="mine"), whole_folder(out, refuse):
        out.mkdir()  # by somebody else, meanwhile
    assert list(tmp_path.iterdir()) == [out]


def test_a_folder_that_cannot_be_made(tmp_path):
    (tmp_path / "file").touch()
    message = r"cannot be made \(Not a directory\); give another --out"
    with pytest.raises(UserError, match=message), whole_folder(tmp_path / "file" / "out", replace):
        pass


def test_folders_of_killed_processes_are_cleared(tmp_path):
    with whole_folder(tmp_path / "out", replace) as folder:
        name = folder.name
    for other in (name, "mine.partial", ".hidden"):
        (tmp_path / other).mkdir()
    clear_partial(tmp_path, 3600)
    assert (tmp_path / name).exists()  # somebody may still be writing to it
    os.utime(tmp_path / name, (0, 0))
    clear_partial(tmp_path, 3600)
    assert {path.name for path in tmp_path.iterdir()} == {"out", "mine.partial", ".hidden"}
