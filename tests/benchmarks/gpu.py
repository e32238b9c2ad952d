"""Measures crlm_jax on a machine with one NVIDIA GPU: speed, memory, parity, input, a training.

    bash tests/benchmarks/gpu.sh prepare                  # where there is a network: the wheels
    bash tests/benchmarks/gpu.sh run --out FOLDER         # there, or, where all is installed:
    python -m tests.benchmarks.gpu --out FOLDER [--train]
    python -m tests.benchmarks.gpu --tiny                 # tries the kit, on a CPU too

Parts run in the order of their importance, each in a process of its own, until `--limit` seconds
are over. After each, `gpu.json` in the folder has all that is known by then. It prints a table,
which is `gpu.txt` too; a part that failed, was cut off or had no time left says so in it. What the
parts printed is in `gpu.log`. This file and the table need Python's own library alone.
"""

import argparse
import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from tests.benchmarks.gpu_kit import table
from tests.benchmarks.gpu_kit.options import FULL, TINY, write_json

ROOT = Path(__file__).parents[2]
# Of each kind of part: seconds without which it is not begun, and those after which it is ended.
SECONDS = {
    "machine": (2, 90), "step": (25, 150), "torch": (20, 200), "parity": (25, 120),
    "pipeline": (25, 120), "forms": (25, 150), "largest": (30, 150), "variants": (40, 240),
    "train": (90, 36_000),
}  # fmt: skip
LEAST_TINY = 5  # seconds, of any part but the first
GOODBYE = 5  # seconds that a part has less than its process, to write its rows


def names(tiny: bool) -> list[str]:
    """All parts, the most important first."""
    small, large = (TINY if tiny else FULL).batches
    return [
        "machine", f"step-{small}-float32", f"step-{small}-auto", f"torch-{small}", "parity",
        "pipeline", f"step-{large}-auto", f"step-{large}-float32", f"torch-{large}", "forms",
        "largest-auto", "largest-float32", "variants", "train",
    ]  # fmt: skip


class Stopped(Exception):
    """The kit was told to stop."""


class Kit:
    """What was found so far, and the files that hold it."""

    def __init__(self, args: argparse.Namespace):
        self.args, self.start = args, time.monotonic()
        self.args.out.mkdir(parents=True, exist_ok=True)
        self.args.work.mkdir(parents=True, exist_ok=True)
        self.found: dict[str, Any] = {
            "kit": 1,
            "begun": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
            "limit_seconds": args.limit,
            "tiny": args.tiny,
            "parts": {},
        }

    @property
    def left(self) -> float:
        """Seconds until the limit."""
        return self.start + self.args.limit - time.monotonic()

    def put(self, name: str, status: str, words: str, seconds: float, rows: list) -> None:
        """Keeps what is known of a part."""
        part = {"status": status, "words": words, "seconds": round(seconds, 1), "rows": rows}
        self.found["parts"][name] = part
        self.found["seconds"] = round(time.monotonic() - self.start, 1)
        write_json(self.args.out / "gpu.json", self.found)
        detail = f": {words}" if words else ""
        print(f"{self.found['seconds']:6.1f} s  {name}: {status}{detail}", flush=True)

    def run(self, name: str) -> None:
        """Runs a part, if there is time."""
        least, most = SECONDS[name.partition("-")[0]]
        if self.args.tiny and name != "machine":
            least = LEAST_TINY
        if self.left < least:
            words = f"no time left: {max(0.0, self.left):.0f} s, and it needs some {least}"
            self.put(name, "skipped", words, 0.0, [])
            return
        seconds, begun = min(most, self.left), time.monotonic()
        result = self.args.work / f"{name}.rows.json"
        result.unlink(missing_ok=True)
        with (self.args.out / "gpu.log").open("a") as log:
            print(f"\n==== {name}", file=log, flush=True)
            place = log.tell()
            process = subprocess.Popen(
                self.command(name, result, seconds), cwd=ROOT, env=self.environment(name),
                stdout=log, stderr=subprocess.STDOUT, start_new_session=True,
            )  # fmt: skip
            try:
                status = self.wait(process, seconds)
            except Stopped:
                end(process, patience=20)
                elapsed = time.monotonic() - begun
                self.put(name, "cut off", "told to stop", elapsed, read_rows(result))
                raise
        words = {"cut off": f"after {seconds:.0f} s", "failed": self.last_words(place, process)}
        rows = read_rows(result)
        self.put(name, status, words.get(status, ""), time.monotonic() - begun, rows)

    def wait(self, process: subprocess.Popen, seconds: float) -> str:
        try:
            return "failed" if process.wait(seconds) else "done"
        except subprocess.TimeoutExpired:
            end(process, patience=0)
            return "cut off"

    def last_words(self, place: int, process: subprocess.Popen) -> str:
        """The last line that a part printed, which is an error's if it had one."""
        with (self.args.out / "gpu.log").open(encoding="utf-8", errors="replace") as log:
            log.seek(place)
            lines = [line.strip() for line in log if line.strip()]
        return f"exit code {process.returncode}: {lines[-1][:300] if lines else 'no output'}"

    def command(self, name: str, result: Path, seconds: float) -> list[str]:
        args = self.args
        known = {part: found["rows"] for part, found in self.found["parts"].items()}
        return [
            sys.executable, "-m", "tests.benchmarks.gpu_kit.parts", name, f"--result={result}",
            f"--work={args.work}", f"--seconds={max(1.0, seconds - GOODBYE)}",
            f"--known={json.dumps(known)}", f"--train-precision={args.train_precision}",
            f"--weights={args.weights}", *["--tiny"] * args.tiny,
        ]  # fmt: skip

    def environment(self, name: str) -> dict[str, str]:
        """That of a part: programs are compiled once, and JAX may have nearly all of the card."""
        work = self.args.work
        defaults = {
            "JAX_COMPILATION_CACHE_DIR": str(work / "xla"),
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
            "TORCHINDUCTOR_CACHE_DIR": str(work / "inductor"),
            "XLA_PYTHON_CLIENT_MEM_FRACTION": "0.92",
            "TF_CPP_MIN_LOG_LEVEL": "2",
        }
        found = defaults | dict(os.environ)
        if name.startswith("torch-"):
            found["JAX_PLATFORMS"] = "cpu"  # the card is PyTorch's alone
        return found

    def finish(self) -> None:
        """Prints the table and keeps it."""
        text = table.write(self.found)
        (self.args.out / "gpu.txt").write_text(text + "\n", encoding="utf-8")
        print(f"\n{text}", flush=True)


def end(process: subprocess.Popen, patience: float) -> None:
    """Ends a part and the processes that it started; with patience, it may save first."""
    with contextlib.suppress(ProcessLookupError, subprocess.TimeoutExpired):
        if patience:
            os.killpg(process.pid, signal.SIGTERM)
            process.wait(patience)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def read_rows(path: Path) -> list[dict[str, Any]]:
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else []


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    option = parser.add_argument
    default = Path(os.environ.get("OUT") or "build/gpu/out")
    option("--out", type=Path, default=default, help="folder of gpu.json, gpu.txt and gpu.log")
    option("--work", type=Path, default=Path("build/gpu/work"), help="kept between calls")
    option("--limit", type=float, default=450, help="seconds, of everything")
    option("--train", action="store_true", help="then train, as far as the time allows")
    option("--train-precision", choices=("float32", "bfloat16", "auto"), default="float32")
    option("--weights", default="random", help="of the training's critic: random, or a file")
    option("--parts", nargs="+", metavar="PART", help="only these (machine is always one)")
    option("--tiny", action="store_true", help="small networks and slices, to try the kit")
    args = parser.parse_args()
    args.out, args.work = args.out.absolute(), args.work.absolute()
    known = names(args.tiny)
    if wrong := set(args.parts or ()) - set(known):
        parser.error(f"--parts {' '.join(sorted(wrong))}: choose from {' '.join(known)}")
    chosen = set(args.parts or known) | {"machine"}
    if not args.train and not args.parts:
        chosen.discard("train")
    args.chosen = [name for name in known if name in chosen]
    return args


def main() -> int:
    args = parse()
    kit = Kit(args)

    def stop(number: int, frame: object) -> None:
        raise Stopped

    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, stop)
    code = 0
    try:
        for name in args.chosen:
            kit.run(name)
            rows = kit.found["parts"][name]["rows"]
            if name == "machine" and rows and rows[0]["platform"] != "gpu" and not args.tiny:
                print("JAX finds no GPU here; --tiny tries the kit on a CPU", file=sys.stderr)
                code = 1
                break
    except Stopped:
        kit.found["stopped"] = True
        for name in args.chosen:
            if name not in kit.found["parts"]:
                kit.put(name, "skipped", "told to stop", 0.0, [])
    kit.finish()
    return code


if __name__ == "__main__":
    sys.exit(main())
