"""Keeps the compiler's report of a step in `data.cache`, so that a stopped plan goes on.

The TPU compiler needs some ten minutes for the paper's step. A report is used again only for the
same configuration, chips and batch, by the same compiler and the same code of this package.
"""

import contextlib
import hashlib
import importlib.metadata
import json
import os
from dataclasses import asdict
from pathlib import Path
from typing import Any

import crlm_jax
from crlm_jax.config.schema import Config
from crlm_jax.data.cache import cache_folder, writing_to
from crlm_jax.plan.compiling import estimate, in_subprocess
from crlm_jax.plan.rows import Memory, Refusal, StepReport, Traffic
from crlm_jax.system.files import write_whole

COMPILERS = ("jax", "jaxlib", "libtpu", "jax-cuda13-plugin")
_CODE = ("config", "method", "models", "plan", "system")  # what a report depends on
_FLAGS = ("XLA_FLAGS", "LIBTPU_INIT_ARGS")


def reported(config: Config, name: str, batch: int) -> StepReport | Refusal:
    """Returns the kept report of a step, or compiles the step and keeps its report.

    Args:
      config: of the training.
      name: of the topology.
      batch: slices, on all chips together.

    Raises:
      UserError: the topology or the cache cannot be used.
    """
    file = cache_folder(config.data.cache, "plans") / f"{_print(config, name, batch)}.json"
    with contextlib.suppress(OSError, ValueError, TypeError, KeyError):  # absent or damaged
        return _from_json(json.loads(file.read_text(encoding="utf-8")))
    report = in_subprocess(estimate, config, name, batch)
    with writing_to(config.data.cache, file.parent):
        write_whole(file, json.dumps(asdict(report)))
    return report


def versions(packages: tuple[str, ...]) -> dict[str, str]:
    """Returns the versions of those of the packages that are installed."""
    found = {}
    for package in packages:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[package] = importlib.metadata.version(package)
    return found


def _from_json(values: dict[str, Any]) -> StepReport | Refusal:
    if "reason" in values:
        return Refusal(**values)
    traffic = {kind: Traffic(**one) for kind, one in values["collectives"].items()}
    memory = Memory(**values["memory_bytes"])
    return StepReport(**values | {"memory_bytes": memory, "collectives": traffic})


def _print(config: Config, name: str, batch: int) -> str:
    """Returns a digest of all that a report depends on."""
    asked = asdict(config)
    del asked["data"]["cache"]
    flags = {flag: os.environ.get(flag) for flag in _FLAGS}
    whole = json.dumps([asked, name, batch, versions(COMPILERS), flags], default=str)
    digest, package = hashlib.sha256(whole.encode()), Path(crlm_jax.__file__).parent
    for part in _CODE:
        for module in sorted((package / part).rglob("*.py")):
            digest.update(module.read_bytes())
    return digest.hexdigest()[:32]
