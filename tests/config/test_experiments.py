"""Experiment files are found by path or by name."""

from pathlib import Path

import pytest

from crlm_jax.config import experiments
from crlm_jax.config.schema import ConfigError


def test_a_file_is_found_by_path_and_by_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    own = tmp_path / "mine.py"
    own.write_text("")
    assert experiments.find("--config", str(own)) == own
    project = experiments.project_folder()
    for name in ("ct", "ct.py", "configs/ct.py"):
        assert experiments.find("--config", name) == project / "ct.py"
    with pytest.raises(ConfigError, match=r"--config nosuch: no such file, nor .*cross_pre"):
        experiments.find("--config", "nosuch")


@pytest.mark.parametrize("name", ["config.json", "cohort.csv", "config"])
def test_a_file_that_is_not_python_is_one_error(tmp_path, name):
    file = Path(tmp_path / name)
    file.write_text("{}")
    with pytest.raises(ConfigError, match=rf"{name}: is no experiment's file.*ends in \.py.*ct"):
        experiments.find("--config", str(file))
