"""A hundred series by four senders at once, while the node is killed three times.

    apt-get install orthanc
    pip install -e ".[pacs]"
    python -m tests.benchmarks.serve

The node is the command with a run of random weights, UNet++ of the laptop preset, and its archive
is Orthanc. Each sender sends its series one after the other, an association each, and repeats one
until every image of it was taken. The node is killed by SIGKILL twice while the series come, once
while it answers, and started again at once. Then Orthanc must have one segmentation and one report
of each series. Printed are the throughput, the memory, and the share of
the time in which no network computed.
"""

import argparse
import dataclasses
import os
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pynetdicom
from flax import nnx
from scipy import ndimage

from configs import ct
from crlm_jax.config.storage import to_json
from crlm_jax.imaging import volumes
from crlm_jax.imaging.grey import to_uint8
from crlm_jax.imaging.resize import resize
from crlm_jax.method.checkpoint import Checkpoints
from crlm_jax.method.step import create_state
from crlm_jax.models import inputs
from crlm_jax.serve.journal import quiet_libraries
from crlm_jax.system import parallel
from crlm_jax.training.loop import segmenter_part
from tests.imaging.dicom import dicoms
from tests.serve import nodes
from tests.serve.orthanc import _PLACES, Orthanc

KILLS = (("open", 0.3), ("open", 0.7), ("done", 0.4))  # when so many of the series came this far
STATES = ("open", "queue", "answered", "done")
MOST_GIB = 2.0  # of the node
QUIET, INTERRUPTED = 2.0, 45.0  # seconds
SECRETS = ("Musterfrau", "19610203", "A-99")


def make_run(run: Path, scan: Path) -> None:
    """Writes a run whose network marks 2 % of the scan's middle slice."""
    config = ct.get_config("scale=laptop")
    config.loss.stages, config.train.precision = (), "float32"
    config.data.cache = str(run.parent / "cache")
    networks, state = create_state(config, parallel.make_mesh(1))
    module = nnx.merge(networks.segmenter_eval, state.params, state.batch_stats)
    grey = to_uint8(volumes.read_image(scan), "ct", config.data)
    middle = resize(grey, config.data.image_size)[len(grey) // 2][None, ..., None]
    module.final.bias[...] -= np.quantile(module(inputs.network_input(middle))[0], 0.98)
    state = dataclasses.replace(state, params=nnx.state(module, nnx.Param))
    run.mkdir(parents=True)
    (run / "config.json").write_text(to_json(config), encoding="utf-8")
    with Checkpoints(run / "checkpoints") as checkpoints:
        checkpoints.save(1, segmenter_part(state), None)


def make_series(folder: Path, count: int, slices: int, size: int) -> list[list[Path]]:
    """Writes CT series of soft noise with a bright block each."""
    found = []
    for number in range(count):
        rng = np.random.default_rng(number)
        noise = ndimage.gaussian_filter(rng.normal(0, 1, (slices, size, size)), (1, 4, 4))
        array = (1064 + 60 * noise / noise.std()).astype(np.int16)  # soft, as in a liver
        low = size // 4 + number % 40
        array[slices // 4 : slices // 2, low : low + 30, low : low + 30] += 90
        found.append(
            dicoms.write_series(folder / str(number), array, series=dicoms.uid(number),
                                spacing=(2.5, 0.8, 0.8))
        )  # fmt: skip
    return found


class Killed:
    """The command, started again whenever it was killed; keeps its highest memory in GiB."""

    def __init__(self, words: list[str], log: Path):
        self._words, self._log, self.kills, self.gib = words, log.open("w"), 0, 0.0
        self._start()

    def _start(self) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "crlm_jax.serve", *self._words],
            stdout=self._log, stderr=self._log,
        )  # fmt: skip

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()
        self.kills += 1
        self._start()

    def look(self) -> None:
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        found = re.search(r"VmHWM:\s+(\d+) kB", status)
        self.gib = max(self.gib, int(found[1]) / 2**20 if found else 0)

    def end(self) -> int:
        self.process.terminate()
        try:
            return self.process.wait(60)
        finally:
            self.process.kill()


def deliver(port: int, own: list[list[Path]], tries: Counter) -> None:
    for number, files in own:
        while True:
            tries[number] += 1
            if nodes.send(port, files) == [0] * len(files):
                break
            time.sleep(1)


def answered(archive: Orthanc) -> dict[str, Counter]:
    """How many results of each kind Orthanc has, by the series that they refer to."""
    found = {}
    for modality in ("SEG", "SR"):
        found[modality] = Counter()
        for each in archive.find(modality):
            about = each if modality == "SEG" else each.CurrentRequestedProcedureEvidenceSequence[0]
            uids = {s.SeriesInstanceUID for s in about.ReferencedSeriesSequence}
            # A report also refers to the segmentation, whose UID the node derived.
            found[modality].update(uid for uid in uids if not uid.startswith("2.25."))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--series", type=int, default=100)
    parser.add_argument("--slices", type=int, default=16)
    parser.add_argument("--size", type=int, default=256)
    args = parser.parse_args()
    quiet_libraries()
    work = Path(tempfile.mkdtemp(prefix="crlm_serve_"))
    series = make_series(work / "ct", args.series, args.slices, args.size)
    make_run(work / "run", work / "ct" / "0")
    (work / "orthanc").mkdir()
    archive = Orthanc(shutil.which("Orthanc", path=_PLACES), work / "orthanc")
    spool, port = work / "spool", archive.node_port
    node = Killed(
        ["--run", str(work / "run"), "--send-to", f"ORTHANC@127.0.0.1:{archive.port}", "--spool",
         str(spool), "--port", str(port), "--quiet", str(QUIET), "--interrupted", str(INTERRUPTED),
         "--engine", "xla", "--min-lesion-mm3", "1000"],
        work / "log",
    )  # fmt: skip
    try:
        nodes.wait(lambda: "listens on" in (work / "log").read_text(), 300)
        tries: Counter = Counter()
        start = time.perf_counter()
        numbered = list(enumerate(series))
        senders = [
            threading.Thread(target=deliver, args=(port, numbered[n::4], tries)) for n in range(4)
        ]
        for sender in senders:
            sender.start()
        done, sent = 0, 0.0
        while done < args.series:
            time.sleep(0.2)
            node.look()
            counts = [len(list(spool.glob(f"{state}/*"))) for state in STATES]
            done = counts[-1]
            if node.kills < len(KILLS):
                state, share = KILLS[node.kills]
                if sum(counts[STATES.index(state) :]) >= share * args.series:
                    node.kill()
            if not sent and not any(sender.is_alive() for sender in senders):
                sent = time.perf_counter() - start
            assert node.process.poll() is None, "the node ended"
            assert time.perf_counter() - start < 3600
        whole = time.perf_counter() - start
        assert node.end() == 75
        report(args, whole, sent or whole, node, tries, (work / "log").read_text())
        found = answered(archive)
    finally:
        node.process.kill()
        archive.close()
    expected = Counter({dicoms.uid(number): 1 for number in range(args.series)})
    assert found == {"SEG": expected, "SR": expected}, found
    print(f"Orthanc has one SEG and one SR of each of the {args.series} series")
    shutil.rmtree(work)


def report(
    args: argparse.Namespace, whole: float, sent: float, node: Killed, tries: Counter, log: str
) -> None:
    assert not any(secret in log for secret in SECRETS)
    assert node.kills == len(KILLS)
    jobs = [
        (float(a), float(b))
        for a, b in re.findall(r"lesion\(s\), ([\d.]+) s, network ([\d.]+)", log)
    ]
    work, network = (sum(column) for column in zip(*jobs, strict=True))
    print(
        f"{args.series} series of {args.slices} × {args.size} × {args.size}, "
        f"{os.cpu_count()} cores, pynetdicom {pynetdicom.__version__}\n"
        f"four senders: all taken after {sent:.0f} s, all answered after {whole:.0f} s, "
        f"{60 * args.series / whole:.1f} series a minute\n"
        f"kills {node.kills}, series that were sent again {sum(n > 1 for n in tries.values())}, "
        f"jobs that were computed {len(jobs)}\n"
        f"job {work / len(jobs):.2f} s, of which network {network / len(jobs):.2f} s; outside the "
        f"network {1 - network / work:.0%} of the jobs, {1 - network / whole:.0%} of the whole\n"
        f"highest memory of the node {node.gib:.2f} GiB"
    )
    assert node.gib < MOST_GIB


if __name__ == "__main__":
    main()
