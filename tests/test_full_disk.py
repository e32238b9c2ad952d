"""A disk that is full: every writer says so, and leaves nothing under the final name.

A limit on the size of files (RLIMIT_FSIZE) stands for the full disk; SimpleITK does not report it.
"""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.imaging.dicom import dicoms

pytest.importorskip("resource", reason="this system has no limit on the size of files")
WRITERS = """
import importlib.util, json, resource, signal, sys
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from crlm_jax.data.phantom import make_phantom
from crlm_jax.export import bundle
from crlm_jax.imaging.dicom.results import Algorithm
from crlm_jax.imaging.dicom.rtstruct import write_rtstruct
from crlm_jax.imaging.dicom.segmentation import write_segmentation
from crlm_jax.imaging.dicom.series import read_series
from crlm_jax.imaging.volumes import write_image
from crlm_jax.system.files import write_whole

out = Path(sys.argv[1])
noise = np.random.default_rng(0).integers(0, 255, (3, 300, 300), np.uint8)
series = read_series(Path(sys.argv[2]))[2]
example = Path(bundle.__file__).parent / "templates" / "example.py"
(out.parent / "preprocessing.json").write_text("{}")
(out.parent / "example.py").write_bytes(example.read_bytes())
spec = importlib.util.spec_from_file_location("example", out.parent / "example.py")
exported = importlib.util.module_from_spec(spec)
spec.loader.exec_module(exported)

signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
said = {}


def limit(size):
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))


def attempt(name, write):
    try:
        write()
        said[name] = "written"
    except (OSError, RuntimeError) as error:
        said[name] = str(error)


# A mask of zeros alone, cut off in the middle and by one byte: what ITK fills up is then right.
for ending in (".nii", ".nii.gz", ".nrrd", ".mha", ".png"):
    shape = (4096, 512) if ending == ".png" else (9, 512, 512)
    empty = sitk.GetImageFromArray(np.zeros(shape, np.uint8))
    for kind, write in (("mask", write_image), ("export", exported.write)):
        path = out / f"{kind}_empty{ending}"
        limit(resource.RLIM_INFINITY)
        write(empty, path)
        size = path.stat().st_size
        path.unlink()
        for most in (size // 2, size - 1):
            limit(most)
            attempt(f"{path.name} {most - size}", lambda: write(empty, path))
limit(4096)
for ending in (".nii", ".nii.gz", ".nrrd", ".mha"):
    for kind, array in (("uint8", noise), ("float32", noise.astype(np.float32))):
        image, path = sitk.GetImageFromArray(array), out / f"{kind}{ending}"
        attempt(path.name, lambda: write_image(image, path))
    path = out / f"example{ending}"
    attempt(path.name, lambda: exported.write(sitk.GetImageFromArray(noise), path))
attempt("slice.png", lambda: write_image(sitk.GetImageFromArray(noise[0]), out / "slice.png"))
whole = np.ones((6, 12, 16), bool)
about = {"algorithm": Algorithm("a", "1", "f")}
attempt("seg.dcm", lambda: write_segmentation(out / "seg.dcm", whole, series, **about))
attempt("rs.dcm", lambda: write_rtstruct(out / "rs.dcm", whole, series, **about))
attempt("text", lambda: write_whole(out / "text", "x" * 10_000))
attempt("phantom", lambda: make_phantom(out / "phantom", patients=1, conditions=["ct"], workers=1))
sys.stdout.write(json.dumps(said))
"""


def test_no_writer_leaves_a_truncated_file(tmp_path):
    dicoms.write_series(tmp_path / "series", dicoms.voxels())
    out = tmp_path / "out"
    out.mkdir()
    done = subprocess.run(
        [sys.executable, "-c", WRITERS, str(out), str(tmp_path / "series")],
        capture_output=True, text=True, cwd=Path(__file__).parents[1],
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    assert len(said) == 16 + 21
    assert "written" not in said.values(), said
    assert list(out.iterdir()) == []
