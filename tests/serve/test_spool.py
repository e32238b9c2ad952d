"""The queue on disk: what is safe when, which series are complete, and what survives a kill."""

import os
from pathlib import Path

import pytest

from crlm_jax.errors import UserError
from crlm_jax.serve import spool as spool_module
from crlm_jax.serve.spool import RESULTS, Full, Limits, Spool

LIMITS = Limits(series=3, room=0, quiet=10.0, interrupted=100.0, keep=3600.0)


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def spool(tmp_path, clock):
    made = Spool(tmp_path / "spool", LIMITS, clock)
    yield made
    made.close()


def restarted(spool: Spool, clock: Clock) -> Spool:
    """The spool of a process that starts after the first one was killed."""
    spool.close()
    return Spool(spool.folder, LIMITS, clock)


def put(
    spool: Spool, series: str, *images: str, association: int | None = None, header: str = ""
) -> int:
    association = association or spool.begin()
    for image in images:
        with spool.partial(4) as path:
            path.write_bytes(f"{image}{header}".encode())
            spool.take(path, series, image, association)
    return association


def arrive(spool: Spool, clock: Clock, series: str, *images: str, header: str = "") -> None:
    """Sends images, and waits until their series is complete."""
    spool.end(put(spool, series, *images, header=header), released=True)
    clock.now += LIMITS.quiet
    spool.collect()


def images(job: Path) -> set[str]:
    return {path.read_text() for path in job.glob("*.dcm")}


def answer(spool: Spool) -> Path:
    """Answers the oldest job, as the node does; returns its folder."""
    job = spool.jobs("queue")[0]
    (job / RESULTS).mkdir()
    (job / RESULTS / "1.dcm").write_text("seg")
    spool.put_results(job)
    return spool.move(spool.folder / "answered" / job.name, "done")


def test_an_image_is_on_the_disk_before_it_is_promised(spool, monkeypatch):
    done = []
    fsync, replace = os.fsync, os.replace

    def note(descriptor):
        done.append(os.readlink(f"/proc/self/fd/{descriptor}").removeprefix(str(spool.folder)))
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", note)
    monkeypatch.setattr(os, "replace", lambda a, b: (done.append("renamed"), replace(a, b)))
    put(spool, "1.2.3", "1.2.3.4")
    file, parent, renamed, folder = done
    assert file.startswith("/partial/")
    assert (parent, renamed) == ("/open", "renamed")
    assert folder == f"/open/{spool_module.hashed('1.2.3')}"
    assert not any("1.2.3" in str(path) for path in spool.folder.rglob("*"))


def test_a_series_is_complete_when_it_was_quiet_after_the_release(spool, clock):
    association = put(spool, "A", "1", "2")
    clock.now = 50
    spool.collect()
    assert spool.jobs("queue") == [], "its association is open"
    spool.end(association, released=True)
    clock.now += 9.9
    spool.collect()
    assert spool.jobs("queue") == []
    clock.now += 0.1
    spool.collect()
    (job,) = spool.jobs("queue")
    assert images(job) == {"1", "2"}
    assert list((spool.folder / "open").iterdir()) == []


@pytest.mark.parametrize("killed", [False, True])
def test_what_was_broken_off_waits_for_an_association_that_begins_later(spool, clock, killed):
    early = spool.begin()
    broken = put(spool, "A", "1")
    put(spool, "A", "2", association=early)
    spool.end(broken, released=False)
    spool.end(early, released=True)
    if killed:
        spool = restarted(spool, clock)
    clock.now = 1000
    spool.collect()
    assert spool.jobs("queue") == [], "it may lack images"
    arrive(spool, clock, "A", "3")
    (job,) = spool.jobs("queue")
    assert images(job) == {"1", "2", "3"}
    spool.close()


def test_what_a_kill_interrupted_waits_longer_for_its_sender(spool, clock):
    put(spool, "A", "1")
    left = spool.folder / "partial" / "half"
    left.touch()
    spool = restarted(spool, clock)
    assert not left.exists()
    clock.now = 99
    spool.collect()
    assert spool.jobs("queue") == []
    clock.now = 100
    spool.collect()
    assert len(spool.jobs("queue")) == 1
    spool.close()


def test_a_kill_after_the_release_costs_no_waiting(spool, clock):
    spool.end(put(spool, "A", "1"), released=True)
    spool = restarted(spool, clock)
    clock.now = 10
    spool.collect()
    assert len(spool.jobs("queue")) == 1
    spool.close()


def test_images_that_come_late_make_a_new_job_of_all(spool, clock, capsys):
    arrive(spool, clock, "A", "1", "2")
    first = answer(spool)
    arrive(spool, clock, "A", "3")
    (job,) = spool.jobs("queue")
    assert images(job) == {"1", "2", "3"}
    assert job.name != first.name
    assert "1 of them after 1 answer" in capsys.readouterr().err


def test_a_series_that_comes_again_is_sent_again_and_not_computed(spool, clock):
    arrive(spool, clock, "A", "1", "2")
    arrive(spool, clock, "A", "1", "2")
    assert len(spool.jobs("queue")) == 1
    first = answer(spool)
    arrive(spool, clock, "A", "2", "1")
    assert spool.jobs("queue") == []
    (again,) = spool.jobs("answered")
    assert again.name == first.name


@pytest.mark.parametrize("answered", [True, False])
def test_images_that_were_corrected_under_their_uids_are_computed(spool, clock, capsys, answered):
    arrive(spool, clock, "A", "1", "2")
    if answered:
        answer(spool)
    arrive(spool, clock, "A", "1", "2", header=" corrected")
    (job,) = spool.jobs("queue")
    assert images(job) == {"1 corrected", "2 corrected"}
    assert "2 with another content under the same UID" in capsys.readouterr().err
    answer(spool)
    arrive(spool, clock, "A", "2", header=" corrected")
    assert spool.jobs("queue") == [], "it is the same again"
    assert [path.name for path in spool.jobs("answered")] == [job.name]
    arrive(spool, clock, "A", "3", header=" corrected")
    (job,) = spool.jobs("queue")
    assert images(job) == {"1 corrected", "2 corrected", "3 corrected"}


@pytest.mark.parametrize("noted", [True, False])
def test_a_series_that_comes_again_under_other_settings_is_computed_again(
    spool, clock, capsys, noted
):
    spool.maker = "threshold 0.5"
    arrive(spool, clock, "A", "1", "2")
    job = answer(spool)
    if noted:
        spool = restarted(spool, clock)
        spool.maker = "threshold 0.9"
    else:  # by an older version
        (job / "maker").unlink()
        spool = restarted(spool, clock)
    arrive(spool, clock, "A", "1", "2")
    (again,) = spool.jobs("queue")
    assert again.name == job.name
    assert not (again / RESULTS).exists(), "the other settings may write other files"
    said = f"result {'is' if noted else 'may be'} of another run, setting or rule, and is computed"
    assert said in capsys.readouterr().err
    answer(spool)
    arrive(spool, clock, "A", "1", "2")
    assert len(spool.jobs("answered")) == 1, "its settings are those of now"
    spool.close()


@pytest.mark.parametrize("state", ["done", "failed"])
def test_a_result_of_other_settings_that_waits_is_sent_before_it_is_computed_again(
    spool, clock, state
):
    spool.maker = "threshold 0.5"
    arrive(spool, clock, "A", "1")
    job = spool.jobs("queue")[0]
    (job / RESULTS).mkdir()
    spool.put_results(job)
    spool.maker = "threshold 0.9"
    arrive(spool, clock, "A", "1")
    (waiting,) = spool.jobs("answered")
    assert spool.jobs("queue") == [], "it is perhaps just being sent"
    spool = restarted(spool, clock)
    spool.settle(waiting, state)
    (again,) = spool.jobs("queue")
    (again / RESULTS).mkdir()
    spool.put_results(again)
    spool.settle(spool.jobs("answered")[0], state)
    assert len(spool.jobs(state)) == 1
    spool.close()


def test_a_job_that_is_tried_again_keeps_no_result_that_was_refused(spool, clock):
    arrive(spool, clock, "A", "1")
    spool.move(answer(spool), "failed")
    arrive(spool, clock, "A", "1")
    (job,) = spool.jobs("queue")
    assert not (job / RESULTS).exists()


def test_a_job_that_was_not_begun_is_replaced_by_the_larger_one(spool, clock):
    arrive(spool, clock, "A", "1")
    arrive(spool, clock, "A", "2")
    (job,) = spool.jobs("queue")
    assert images(job) == {"1", "2"}


def test_a_job_that_failed_is_tried_again_when_its_series_comes_again(spool, clock):
    arrive(spool, clock, "A", "1")
    spool.move(spool.jobs("queue")[0], "failed")
    arrive(spool, clock, "A", "1")
    assert len(spool.jobs("queue")) == 1
    assert spool.jobs("failed") == []


def test_results_of_a_job_that_did_not_end_are_removed(spool, clock):
    arrive(spool, clock, "A", "1")
    (spool.jobs("queue")[0] / RESULTS).mkdir()
    spool = restarted(spool, clock)
    assert not (spool.jobs("queue")[0] / RESULTS).exists()
    spool.close()


def test_a_full_queue_takes_no_further_series(spool, clock):
    arrive(spool, clock, "A", "1")
    put(spool, "B", "1")
    association = put(spool, "C", "1")
    with pytest.raises(Full, match="queue"):
        put(spool, "D", "1")
    put(spool, "C", "2", association=association)
    assert list((spool.folder / "partial").iterdir()) == []


def test_a_full_disk_takes_no_image(tmp_path):
    spool = Spool(tmp_path, Limits(room=1 << 60))
    with pytest.raises(Full, match="disk"):
        put(spool, "A", "1")
    spool.close()


def test_what_was_kept_long_enough_is_removed(spool, clock):
    arrive(spool, clock, "A", "1")
    old = answer(spool)
    arrive(spool, clock, "B", "1")
    answer(spool)
    spool.end(put(spool, "C", "1"), released=False)
    broken = spool.folder / "open" / spool_module.hashed("C")
    for path in (old, broken):
        os.utime(path, (0, 0))
    spool.clean()
    assert not old.exists()
    assert not broken.exists()
    assert len(spool.jobs("done")) == 1
    put(spool, "C", "1")  # the folder is made anew


def test_a_second_node_cannot_have_the_same_spool(spool):
    with pytest.raises(UserError, match="another node"):
        Spool(spool.folder)
