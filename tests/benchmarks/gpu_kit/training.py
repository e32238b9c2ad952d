"""A training of the paper's length on one condition of the phantom, by the real command.

It goes on until it is finished or the time is over; then it is told to stop, saves its step and
ends. The same call goes on with it. The phantom has the paper's number of patients with MRI, 111,
of whom 45 are tested. What it reaches says nothing about patients; this is about speed.
"""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from crlm_jax.data.phantom.cohort import make_phantom
from tests.benchmarks.gpu_kit.options import Part

ROOT = Path(__file__).parents[3]
LEAVING = 40  # seconds that a training has to save its step; the first one may still compile


def train(part: Part) -> None:
    """`train`: steps done, loss, slices/s, and the hours that all steps would take."""
    sizes = part.sizes
    part.add(note="making the phantom", seconds=0.0)
    start = time.monotonic()
    table = make_phantom(
        part.work / f"phantom_{sizes.training_patients}",
        patients=sizes.training_patients,
        conditions=("pre_dwi",),
    )
    part.add(note="phantom made", seconds=time.monotonic() - start)
    part.attempt(_train, part, table, precision=part.train_precision, weights=part.weights)


def _train(part: Part, table: Path) -> dict[str, Any]:
    workdir = part.work / f"run_{part.train_precision}"
    output = part.work / f"run_{part.train_precision}.txt"
    begun, start = _last_step(workdir), time.monotonic()
    with output.open("a") as sink:
        training = subprocess.Popen(
            _command(part, table, workdir), cwd=ROOT, stdout=sink, stderr=subprocess.STDOUT
        )
        left = max(1.0, part.left - LEAVING)
        try:
            code = training.wait(left)
        except subprocess.TimeoutExpired:
            training.send_signal(signal.SIGTERM)  # it saves its step; the same command goes on
            try:
                code = training.wait(LEAVING - 5)
            except subprocess.TimeoutExpired:
                training.kill()
                code = training.wait()
    elapsed = time.monotonic() - start
    if not (workdir / "data.json").exists():  # which is there once the data are prepared
        return {"ended": "stopped before its data were ready"} | _failure(code, workdir, output)
    return _outcome(workdir, begun, code, elapsed) | _failure(code, workdir, output)


def _command(part: Part, table: Path, workdir: Path) -> list[str]:
    sizes = part.sizes
    fields = {
        "data.cohort": table,
        "data.cache": part.work,
        "data.test_patients": sizes.tested,
        "data.workers": min(8, max(0, len(os.sched_getaffinity(0)) - 2)),
        "critic.weights": part.weights,
        "train.precision": part.train_precision,
    }
    if part.tiny:
        fields |= {
            "data.image_size": sizes.image,
            "data.workers": 0,
            "segmenter.widths": ",".join(map(str, sizes.widths)),
            "critic.width": sizes.critic,
            "loss.stages": ",".join(map(str, sizes.stages)),
            "train.batch_size": sizes.batches[0],
            "train.steps": sizes.training_steps,
            "train.log_every": 1,
            "evaluation.resamples": 99,
        }
    return [
        sys.executable, "-m", "crlm_jax.main", "--config", "configs/pre_dwi.py:scale=paper",
        f"--workdir={workdir}", *(f"--config.{name}={value}" for name, value in fields.items()),
    ]  # fmt: skip


def _log(workdir: Path) -> list[dict[str, Any]]:
    path = workdir / "train.jsonl"
    lines = path.read_text().splitlines() if path.exists() else []
    return [json.loads(line) for line in lines if line.endswith("}")]


def _last_step(workdir: Path) -> int:
    return max((line["step"] for line in _log(workdir) if "loss" in line), default=0)


def _outcome(workdir: Path, begun: int, code: int, elapsed: float) -> dict[str, Any]:
    """What the run folder tells."""
    log = [line for line in _log(workdir) if "loss" in line and line["step"] > begun]
    config = json.loads((workdir / "config.json").read_text())
    data = json.loads((workdir / "data.json").read_text())
    batch, slices = config["train"]["batch_size"], data["train"]["slices"]
    steps = config["train"]["steps"] or max(1, config["train"]["epochs"] * slices // batch)
    found: dict[str, Any] = {
        "finished": code == 0,
        "of_steps": steps,
        "training_slices": slices,
        "steps": log[-1]["step"] if log else begun,
        "from_step": begun,
        "seconds": elapsed,
    }
    if not log:
        return found
    # The middle one of the windows: the first has the compiling in it.
    speed = sorted(line["slices_per_second"] for line in log)[len(log) // 2]
    validations = [line for line in _log(workdir) if any(key.startswith("dsc") for key in line)]
    return found | {
        "loss": log[-1]["loss"],
        "slices_per_second": speed,
        "hours_for_all_steps": steps * batch / speed / 3600,
        "validation": validations[-1] if validations else None,
        "device_peak_mib": log[-1].get("device_peak_mib"),
    }


def _failure(code: int, workdir: Path, output: Path) -> dict[str, Any]:
    """The words of a training that failed; one that was told to stop ends with 75."""
    if code in (0, 75):
        return {}
    lines = [line for line in output.read_text(errors="replace").splitlines() if line.strip()]
    errors = [line for line in lines if re.match(r"[\w.]*(error|Error|Exception)\b", line)]
    why = (errors or lines or ["no output"])[-1][:300]
    return {"ended": f"exit code {code}: {why}", "run": workdir.name}
