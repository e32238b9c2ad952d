"""What every test shares: eight virtual CPU devices, a compile cache, the order of tests."""

import io
import os
import sys
from pathlib import Path

import pytest
from absl import flags
from PIL import Image

# One for all tests and the commands that they start, so that no program is compiled twice. JAX
# reads it when it is imported.
_CACHE = Path.home() / ".cache" / "crlm_jax" / "test-xla"
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(_CACHE))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
# Most programs run for a moment. LLVM's level 0 and XLA's older emitters compile a training step
# of these sizes in a seventh of the time, and run it in twice of it. What computes for longer, or
# is compared to the last digits, asks for the usual level (`tests.models.parity`).
QUICK = "--xla_backend_optimization_level=0 --xla_cpu_use_fusion_emitters=false"
os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {QUICK}"

import jax  # noqa: E402

# Before any device is touched: the data-parallel tests need eight devices.
jax.config.update("jax_num_cpu_devices", 8)

# Grain's worker processes read absl flags, which pytest never parses.
if not flags.FLAGS.is_parsed():
    flags.FLAGS(sys.argv[:1])

# The files that take minutes, the one with the longest tests first.
LONGEST = (
    "test_step.py", "test_parallel.py", "test_main.py", "test_buckets.py", "test_methods.py",
    "test_gpu_kit.py", "test_study.py",
)  # fmt: skip

FIXTURES = Path(__file__).parent / "fixtures"
SHARED = Path(__file__).parents[1].parent / "shared"


@pytest.fixture(autouse=True)
def predictions_by_xla(monkeypatch):
    """The same engine predicts on every machine, and no translation lands in the user's cache."""
    from crlm_jax.predict.engine import choice

    monkeypatch.setattr(choice, "_is_installed", lambda: False)


@pytest.fixture(scope="module")
def one_device():
    """The run's mesh has one device, as on a laptop."""
    from crlm_jax.system import parallel

    with pytest.MonkeyPatch.context() as patch:
        mesh = parallel.make_mesh(1)
        patch.setattr(parallel, "make_mesh", lambda *_: mesh)
        yield


@pytest.fixture(scope="module")
def blank_pictures():
    """Reports get blank pictures: to draw them takes a third of a short run."""
    from crlm_jax.imaging import overlay

    png = io.BytesIO()
    Image.new("L", (1, 1)).save(png, "PNG")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(overlay, "to_png", lambda figure: png.getvalue())
        yield


@pytest.fixture(scope="session")
def fixtures() -> Path:
    """Folder of the numeric oracles from PyTorch."""
    return FIXTURES


@pytest.fixture(scope="session")
def shared() -> Path:
    """Folder of real images and real ImageNet weights, which the project does not ship."""
    if not SHARED.is_dir():
        pytest.skip("real images and weights (../shared) are not here")
    return SHARED


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest files come first, then those with a slow test, so that none is left for the end.

    A file's tests stay together, since they share what its fixtures prepare.
    """
    slow = {item.path for item in items if item.get_closest_marker("slow")}

    def place(item: pytest.Item) -> int:
        name = item.path.name
        return LONGEST.index(name) if name in LONGEST else len(LONGEST) + (item.path not in slow)

    items.sort(key=place)
