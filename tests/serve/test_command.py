"""The command line of the node: what it refuses before it listens."""

import json

import pytest

from crlm_jax.serve import command
from crlm_jax.system.console import exit_code
from tests.predict.test_segmenter import tiny_run

__all__ = ["tiny_run"]
GIVEN = ["--run", "runs/ct", "--spool", "spool", "--send-to", "A@127.0.0.1:104"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--threshold", "1"], "--threshold 1"),
        (["--quiet", "-1"], "--quiet"),
        (["--quiet", "nan"], "--quiet"),
        (["--queue", "0"], "--queue"),
        (["--ae", "A TITLE THAT IS TOO LONG"], "16 characters"),
        (["--allow", "CT1,Ä"], "'Ä'"),
        (["--tls-cert", "cert.pem"], "belong together"),
        (["--send-tls"], "need --tls-cert"),
    ],
)
def test_a_wrong_option_is_a_usage_error(capsys, words, said):
    with pytest.raises(SystemExit) as ended:
        command.main([*GIVEN, *words])
    assert ended.value.code == 2
    assert said in capsys.readouterr().err


def test_titles_are_split_at_commas():
    assert command._parse([*GIVEN, "--allow", "CT 1, PACS,"]).allowed == ["CT 1", "PACS"]


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["--send-to", "ARCHIVE"], 1, "TITLE@HOST:PORT"),
        (["--rules", "rules.toml"], 1, "rules.toml"),
        (["--tls-cert", "no.pem", "--tls-key", "no.pem"], 2, "no.pem"),
        (["--run", "none"], 1, "none"),
    ],
)
def test_what_cannot_be_used_is_an_error_before_the_node_listens(
    tmp_path, monkeypatch, capsys, tiny_run, words, code, said
):
    monkeypatch.chdir(tmp_path)
    given = ["--run", str(tiny_run), *GIVEN[2:]] if "--run" not in words else GIVEN[2:]
    assert exit_code(command.main, [*given, *words]) == code
    said_all = capsys.readouterr().err
    assert said in said_all
    assert "error: " in said_all
    assert not (tmp_path / "spool").exists()


def test_a_run_that_sees_several_series_together_is_refused(tmp_path, tiny_run, capsys):
    (tmp_path / "checkpoints").symlink_to(tiny_run / "checkpoints")
    config = json.loads((tiny_run / "config.json").read_text())
    config["data"]["channels"] = ["pre_dwi", "pre_t2wi"]
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert exit_code(command.main, ["--run", str(tmp_path), *GIVEN[2:]]) == 1
    assert "one series at a time" in capsys.readouterr().err


def test_a_missing_package_is_named_with_its_extra(monkeypatch, capsys):
    monkeypatch.setattr(command.importlib.util, "find_spec", lambda name: None)
    assert exit_code(command.main, GIVEN) == 1
    assert "crlm_jax[pacs]" in capsys.readouterr().err
