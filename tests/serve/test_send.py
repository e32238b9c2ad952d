"""Results reach the archive, late rather than never, and once."""

import contextlib
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from crlm_jax.errors import UserError
from crlm_jax.serve import send as send_module
from crlm_jax.serve.send import Archive, NotReached, NotSent, Sender
from crlm_jax.serve.spool import RESULTS, Limits, Spool, short
from tests.imaging.dicom import dicoms
from tests.serve import nodes
from tests.serve.test_node import bright


@pytest.mark.parametrize("text", ["ORTHANC", "A@host", "@host:1", "A@host:0", "A@host:70000"])
def test_an_archive_is_title_host_and_port(text):
    with pytest.raises(UserError, match="TITLE@HOST:PORT"):
        Archive.parse(text)
    assert Archive.parse("PACS 1@[::1]:104") == Archive("PACS 1", "::1", 104)


def test_an_archive_that_is_away_gets_the_result_later(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(send_module, "_LONGEST_WAIT", 0.3)
    archive = nodes.Store()
    archive.close()
    with nodes.running(tmp_path / "spool", archive) as node:
        nodes.send(node.port, dicoms.write_series(tmp_path / "ct", bright()))
        said = []
        nodes.wait(lambda: said.append(capsys.readouterr().err) or "not sent" in "".join(said))
        archive = nodes.Store(archive.port)
        archive.status = 0xA700
        nodes.wait(lambda: said.append(capsys.readouterr().err) or "A700" in "".join(said))
        archive.status = 0
        nodes.wait(lambda: len(archive.got) == 2)
    archive.close()
    assert "cannot be reached; tries again" in "".join(said)


def test_what_the_archive_will_never_take_is_set_aside(tmp_path, capsys):
    archive = nodes.Store()
    archive.status = 0xC123
    spool = tmp_path / "spool"
    with nodes.running(spool, archive) as node:
        nodes.send(node.port, dicoms.write_series(tmp_path / "ct", bright()))
        nodes.wait(lambda: list((spool / "failed").iterdir()))
    archive.close()
    assert "answers C123, which stays so" in capsys.readouterr().err


@contextlib.contextmanager
def sending(
    spool: Spool, monkeypatch, answer: Callable[[str], Exception | None], pause: float = 0.0
) -> Iterator[Counter]:
    """A sender whose archive answers as `answer` says for a result; yields the tries of each."""
    tries: Counter = Counter()

    def send(files, *_):
        (name,) = (file.read_text() for file in files)
        tries[name] += 1
        error = answer(name)
        if error:
            raise error

    monkeypatch.setattr(send_module, "send", send)
    monkeypatch.setattr(send_module, "pause", lambda failures: pause)
    monkeypatch.setattr(send_module, "_LOOK", 0.005)
    sender = Sender(spool, Archive("A", "h", 1), "CRLM")
    sender.start()
    try:
        yield tries
    finally:
        sender.stop()
        sender.join()


@pytest.fixture
def spool(tmp_path):
    made = Spool(tmp_path / "spool", Limits(room=0))
    yield made
    made.close()


def put(spool: Spool, number: int, name: str) -> Path:
    """Adds an answered job, the older the lower its number."""
    job = spool.folder / "queue" / f"202601{number:02d}T000000000000-{number:032x}-{number:032x}"
    (job / RESULTS).mkdir(parents=True)
    (job / RESULTS / "1_seg.dcm").write_text(name)
    spool.put_results(job)
    return job


@pytest.mark.parametrize(
    "error", [NotSent("A@h:1 answers 0110"), OSError("cannot be read"), NotSent("A@h:1 broke off")]
)
def test_a_result_that_is_refused_holds_up_no_other(spool, monkeypatch, capsys, error):
    bad = put(spool, 1, "bad")
    for number in (2, 3, 4):
        put(spool, number, "good")
    refuses = lambda name: error if name == "bad" else None  # noqa: E731
    with sending(spool, monkeypatch, refuses, pause=300) as tries:
        nodes.wait(lambda: len(spool.jobs("done")) == 3)
    assert [job.name for job in spool.jobs("answered")] == [bad.name]
    assert tries == {"bad": 1, "good": 3}, "it waits by itself"
    assert f"not sent: {short(bad)}: {error}; is tried again in 300 s" in capsys.readouterr().err


def test_a_result_that_is_refused_while_others_are_taken_is_set_aside(spool, monkeypatch, capsys):
    bad, tried = put(spool, 1, "bad"), []

    def answer(name: str) -> NotSent | None:
        if name != "bad":
            return None
        tried.append(name)
        if len(tried) > 30:  # before, the archive takes nothing: it may be full
            put(spool, len(tried), f"good {len(tried)}")
        return NotSent("A@h:1 answers 0110")

    with sending(spool, monkeypatch, answer):
        nodes.wait(lambda: spool.jobs("failed"))
    assert [job.name for job in spool.jobs("failed")] == [bad.name]
    assert len(tried) == 30 + 1 + 20
    said = f"failed: {short(bad)}: A@h:1 answers 0110, after 51 tries, while it took others"
    assert said in capsys.readouterr().err


def test_an_archive_that_cannot_be_reached_is_tried_once_a_round(spool, monkeypatch):
    for number in (1, 2, 3):
        put(spool, number, str(number))
    away = lambda name: NotReached("A@h:1 cannot be reached")  # noqa: E731
    with sending(spool, monkeypatch, away) as tries:
        nodes.wait(lambda: tries["1"] > 3)
    assert set(tries) == {"1"}


def test_pauses_grow_to_five_minutes_and_an_archive_may_be_away_for_weeks():
    assert [send_module.pause(failures) for failures in (1, 2, 9, 10_000)] == [2, 4, 300, 300]


def test_a_sender_outlives_a_spool_that_fails(spool, monkeypatch, capsys):
    put(spool, 1, "good")
    jobs, failures = spool.jobs, [OSError("the disk is away"), ValueError("Musterfrau")]

    def failing(state: str) -> list[Path]:
        if failures:
            raise failures.pop(0)
        return jobs(state)

    monkeypatch.setattr(spool, "jobs", failing)
    with sending(spool, monkeypatch, lambda name: None):
        nodes.wait(lambda: jobs("done"))
    said = capsys.readouterr().err
    assert "not sent: the disk is away" in said
    assert "not sent: a defect, ValueError" in said
    assert "Musterfrau" not in said


def test_an_archive_that_takes_none_of_the_classes_is_not_called_away(tmp_path):
    header = dicoms.write_series(tmp_path / "ct", bright())[0]
    archive = nodes.Store()
    try:
        with pytest.raises(NotSent, match="takes no CT Image Storage") as caught:
            send_module.send([header], Archive("ARCHIVE", "127.0.0.1", archive.port), "CRLM")
    finally:
        archive.close()
    assert not isinstance(caught.value, NotReached)
