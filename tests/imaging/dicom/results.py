"""Results for tests: lesions of awkward shapes, and programs that check DICOM."""

import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

from crlm_jax.imaging.dicom.results import Algorithm
from tests.imaging.dicom.dicoms import SHAPE

ALGORITHM = Algorithm("crlm_jax unetpp", "1.2.3", "0123abcd" * 8, "threshold 0.5")


def lesions() -> np.ndarray:
    """Three lesions (slices, rows, columns): a box; a ring around an island; one of two parts."""
    mask = np.zeros(SHAPE, np.int32)
    mask[1:3, 2:5, 1:7] = 1
    mask[4, 0:9, 0:9] = 2
    mask[4, 2:7, 2:7] = 0
    mask[4, 4, 4] = 2
    mask[3:5, 10:12, 12:16] = 3
    mask[4, 9, 11] = 3
    return mask


def check(path: Path) -> None:
    """Asserts that `dciodvfy` finds no error; skips where it is absent."""
    if shutil.which("dciodvfy") is None:
        pytest.skip("dciodvfy (Debian: dicom3tools) is not here")
    done = subprocess.run(["dciodvfy", "-new", str(path)], capture_output=True, text=True)
    said = (done.stdout + done.stderr).splitlines()
    assert said
    assert [line for line in said if line.startswith("Error")] == []
