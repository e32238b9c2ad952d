"""Nodes, archives and senders for tests, all on loopback; run as a program, a node to be killed.

python -m tests.serve.nodes SPOOL PORT ARCHIVE QUIET
"""

import contextlib
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pydicom
import pynetdicom
from pynetdicom import evt

from crlm_jax.config.schema import Config
from crlm_jax.predict.segmenter import ScanSegmenter
from crlm_jax.serve.node import Node
from crlm_jax.serve.receive import Listening
from crlm_jax.serve.rules import Rule
from crlm_jax.serve.send import Archive
from crlm_jax.serve.spool import Limits, Spool
from crlm_jax.serve.work import Answer, answer_with

SEG, SR = "1.2.840.10008.5.1.4.1.1.66.4", "1.2.840.10008.5.1.4.1.1.88.33"
CT, MR, ECHO = "1.2.840.10008.5.1.4.1.1.2", "1.2.840.10008.5.1.4.1.1.4", "1.2.840.10008.1.1"
QUICK = Limits(quiet=0.3, interrupted=0.6, room=0)
PATIENCE = 60  # seconds, for anything to happen


def threshold(**options) -> ScanSegmenter:
    """A segmenter whose probability is the grey level; JAX is not loaded for it."""
    config = Config()
    config.data.image_size, config.data.conditions = 32, ("ct",)
    about = {"tta": False, "threshold": 0.5, "min_lesion_mm3": 0.0, "batch": 8} | options
    network = lambda batch: batch[..., 0].astype(np.float32) / 255  # noqa: E731
    return ScanSegmenter(config, "threshold", 7, "f" * 64, network=network, **about)


class Store:
    """An archive that keeps what it gets; `status` is what it answers."""

    def __init__(self, port: int = 0):
        self.got: list[pydicom.Dataset] = []
        self.status = 0x0000
        entity = pynetdicom.AE("ARCHIVE")
        for uid in (SEG, SR):
            entity.add_supported_context(uid)
        self._server = entity.start_server(
            ("127.0.0.1", port), block=False, evt_handlers=[(evt.EVT_C_STORE, self._take)]
        )
        self.port = self._server.server_address[1]

    def _take(self, event: evt.Event) -> int:
        if self.status == 0:
            self.got.append(event.dataset)
        return self.status

    def close(self) -> None:
        self._server.shutdown()

    def kinds(self) -> dict[str, set[str]]:
        """The UIDs of the results of each class."""
        return {k: {o.SOPInstanceUID for o in self.got if o.SOPClassUID == k} for k in (SEG, SR)}


@contextlib.contextmanager
def running(
    spool: Path,
    archive: Store,
    *,
    limits: Limits = QUICK,
    rules: Sequence[Rule] = (Rule("ct"),),
    answer: Answer | None = None,
    **listening,
) -> Iterator[Node]:
    """A node that answers in a thread of this process."""
    node = Node(Spool(spool, limits), Listening("CRLM", port=0, **listening),
                Archive("ARCHIVE", "127.0.0.1", archive.port), rules)  # fmt: skip
    stop = threading.Event()
    answer = answer or answer_with(threshold())
    if not hasattr(answer, "maker"):  # a function of a test
        answer.maker = "test"
    thread = threading.Thread(target=node.run, args=(answer, stop.wait))
    thread.start()
    try:
        yield node
    finally:
        stop.set()
        thread.join()
        node.close()


def associate(port: int, title: str = "PACS", called: str = "CRLM", **options):
    entity = pynetdicom.AE(title)
    entity.connection_timeout = entity.acse_timeout = entity.dimse_timeout = 3
    for uid in (CT, MR, ECHO):
        entity.add_requested_context(uid)
    return entity.associate("127.0.0.1", port, ae_title=called, **options)


def send(port: int, files: Sequence[Path | pydicom.Dataset], *, release: bool = True) -> list[int]:
    """Sends files in one association; returns the status of each, -1: none."""
    association = associate(port)
    if not association.is_established:
        return [-1]
    found = []
    for file in files:
        try:
            found.append(association.send_c_store(file).get("Status", -1))
        except RuntimeError:  # the association was lost
            found.append(-1)
            break
    if association.is_established:
        association.release() if release else association.abort()
    return found


def wait(true: Callable[[], object], seconds: float = PATIENCE) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.05)


def main(spool: str, port: str, archive: str, quiet: str) -> None:
    limits = Limits(quiet=float(quiet), interrupted=20 * float(quiet), room=0)
    node = Node(Spool(Path(spool), limits), Listening("CRLM", port=int(port)),
                Archive("ARCHIVE", "127.0.0.1", int(archive)), [Rule("ct")])  # fmt: skip
    node.run(answer_with(threshold()), threading.Event().wait)


if __name__ == "__main__":
    main(*sys.argv[1:])
