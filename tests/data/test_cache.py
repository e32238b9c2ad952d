"""The cache folder: what cannot be made or written names the field that moves it elsewhere."""

import errno
import tempfile

import pytest

from crlm_jax.data.cache import cache_folder, writing_to
from crlm_jax.data.phantom.cohort import cached_phantom
from crlm_jax.errors import UserError
from tests.data.test_slices import cut, make_cases

REMEDY = r"data\.cache = .*: .*{}\)?; name a folder .* by --config\.data\.cache"


def test_a_folder_is_made_and_its_probe_leaves_nothing(tmp_path):
    folder = cache_folder(tmp_path / "new" / "cache", "slices")
    with writing_to(tmp_path, folder):
        assert list(folder.iterdir()) == []


def test_no_home_folder():
    with pytest.raises(
        UserError, match=REMEDY.format("a home folder, which this user does not have")
    ):
        cache_folder("~no_such_user/cache", "slices")


def test_a_file_in_the_way(tmp_path):
    (tmp_path / "cache").write_text("mine")
    for make in (
        lambda cache: cut(make_cases(tmp_path), cache),
        lambda cache: cached_phantom(cache, 1, 0),
    ):
        with pytest.raises(UserError, match=REMEDY.format("(Not a directory|File exists)")):
            make(tmp_path / "cache")


def test_a_disk_that_is_mounted_read_only(tmp_path, monkeypatch):
    def refuse(**options):
        raise OSError(errno.EROFS, "Read-only file system")

    cases = make_cases(tmp_path)
    made = cut(cases, tmp_path / "cache")
    monkeypatch.setattr(tempfile, "TemporaryFile", refuse)
    assert cut(cases, tmp_path / "cache") == made  # what is prepared can be read
    with pytest.raises(UserError, match=REMEDY.format("Read-only file system")):
        cut(cases, tmp_path / "cache", image_size=13)


@pytest.mark.parametrize(
    "error",
    [OSError(errno.ENOSPC, "what"), RuntimeError("write() failed: No space left on device; at 0")],
)
def test_a_disk_that_is_full(tmp_path, error):
    with (
        pytest.raises(UserError, match=REMEDY.format("No space left on device")),
        writing_to(tmp_path, tmp_path),
    ):
        raise error


def test_an_image_that_could_not_be_written(tmp_path):
    message = REMEDY.format("cannot be written")
    with pytest.raises(UserError, match=message), writing_to(tmp_path, tmp_path):
        raise OSError(f"{tmp_path / 'a.nii.gz'}: cannot be written; see that it has room")


@pytest.mark.parametrize("error", [OSError(errno.EIO, "disk"), RuntimeError("disk")])
def test_other_errors_keep_their_own_message(tmp_path, error):
    with pytest.raises(type(error), match="disk"), writing_to(tmp_path, tmp_path):
        raise error
