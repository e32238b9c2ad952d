"""The node: threads receive and send; the one that runs it segments a series at a time.

Everything that it owes is in the spool, so that it may be stopped or killed at any point.
"""

import time
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path

from crlm_jax.errors import UserError
from crlm_jax.imaging.dicom.files import identify, series_facts
from crlm_jax.imaging.dicom.listing import SeriesFacts
from crlm_jax.serve.disk import sync
from crlm_jax.serve.journal import quiet_libraries, say
from crlm_jax.serve.receive import Listening, Receiver
from crlm_jax.serve.rules import Rule, find_rule, modalities
from crlm_jax.serve.send import Archive, Sender
from crlm_jax.serve.spool import RESULTS, Spool, hashed, short
from crlm_jax.serve.work import Answer, AnswerError

_LOOK = 0.2  # seconds between two looks for something to do
_TRIES, _MOST_TRIES = "tries", 5  # file of a job: a byte for each time that it was begun
_CLEAN = 60.0  # seconds between two looks for what is old


class Node:
    """A DICOM node that listens from the start; `run` makes it answer, `close` ends it.

    Args:
      spool: its queue.
      listening: where and for whom it listens.
      archive: that gets the results.
      rules: which series is which condition.
    """

    def __init__(self, spool: Spool, listening: Listening, archive: Archive, rules: Sequence[Rule]):
        quiet_libraries()
        self._spool, self._rules = spool, rules
        self._receiver = Receiver(listening, spool, modalities(rules))
        self._sender = Sender(spool, archive, listening.title)
        self._sender.start()
        self._cleaned = 0.0

    @property
    def port(self) -> int:
        return self._receiver.port

    def run(self, answer: Answer, stopped: Callable[[float], bool]) -> None:
        """Answers series until it is stopped.

        Args:
          answer: segments one.
          stopped: waits so many seconds, less if the node is to stop, which it then returns.
        """
        self._spool.maker = hashed(f"{answer.maker}\n{[*self._rules]}")
        while True:
            self._receiver.reap()
            self._spool.collect()
            if time.monotonic() - self._cleaned > _CLEAN:
                self._spool.clean()
                self._cleaned = time.monotonic()
            waiting = self._spool.jobs("queue")
            if waiting:
                self._do(waiting[0], answer)
            if stopped(0 if waiting else _LOOK):
                return

    def close(self) -> None:
        """Ends the threads; what waits in the spool waits for the next node."""
        self._sender.stop()
        self._receiver.close()
        self._spool.close()

    def _do(self, job: Path, answer: Answer) -> None:
        """Answers one series; nothing that is wrong with it stops the node."""
        try:
            _count_try(job)
            facts = self._facts(job)
            rule = find_rule(self._rules, facts)
            if rule is None:
                say(f"left alone: {short(job)}, which fits no rule: {_about(facts)}")
                self._spool.move(job, "done")
                return
            (job / RESULTS).mkdir(mode=0o700, exist_ok=True)
            said = answer(
                job, facts.uid, rule, job / RESULTS,
                warn=lambda text: say(f"doubt: {short(job)}: {self._without_path(text, job)}"),
            )  # fmt: skip
            self._spool.put_results(job)
            say(f"answered: {short(job)}, series {facts.uid}, as {rule.condition}: {said}")
        except (UserError, MemoryError, OSError) as error:
            what = self._without_path(str(error) or type(error).__name__, job)
            say(f"failed: {short(job)}: {what}")
            self._spool.move(job, "failed")
        except Exception as error:  # a defect; its message may quote a header, its place does not
            place = " < ".join(
                f"{Path(frame.filename).name}:{frame.lineno}"
                for frame in reversed(traceback.extract_tb(error.__traceback__)[-4:])
            )
            say(f"failed: {short(job)}: a defect of the program, {type(error).__name__} at {place}")
            self._spool.move(job, "failed")
        finally:
            for state in ("queue", "answered", "done", "failed"):
                (self._spool.folder / state / job.name / _TRIES).unlink(missing_ok=True)

    @staticmethod
    def _facts(job: Path) -> SeriesFacts:
        files = sorted(job.glob("*.dcm"))
        found = [identify(file) for file in files]
        if len({each.patient for each in found}) > 1:
            raise AnswerError("its images are of several patients; have its sender correct that")
        return series_facts(found[0].series, files, len(files))

    @staticmethod
    def _without_path(text: str, job: Path) -> str:
        return text.replace(f"{job}: ", "").replace(f"{job}/", "").replace(str(job), "the series")


def _count_try(job: Path) -> None:
    """Notes on the disk that a job is tried, in case that it ends the process.

    Raises:
      AnswerError: it did so too often.
    """
    path = job / _TRIES
    with path.open("ab") as file:
        file.write(b".")
    sync(path)
    if path.stat().st_size > _MOST_TRIES:
        raise AnswerError(f"the node was killed {_MOST_TRIES} times while it worked on this series")


def _about(facts: SeriesFacts) -> str:
    """Describes a series without its description, into which some sites type names."""
    b_values = ", ".join(f"{value:g}" for value in facts.b_values)
    parts = [facts.modality, facts.plane or "no plane", f"{facts.images} images",
             f"b {b_values}" * bool(b_values), f"series {facts.uid}"]  # fmt: skip
    return ", ".join(part for part in parts if part)
