"""An exported segmenter gives what the package gives, without the package."""

import dataclasses
import functools
import hashlib
import importlib.util
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
import SimpleITK as sitk

from crlm_jax.config.schema import Config, ConfigError, Data
from crlm_jax.config.storage import to_json
from crlm_jax.errors import UserError
from crlm_jax.export import bundle, to_onnx
from crlm_jax.export import command as export_command
from crlm_jax.imaging import masks, volumes
from crlm_jax.imaging import resize as imaging_resize
from crlm_jax.imaging.decision import MaskRule
from crlm_jax.imaging.geometry import Geometry
from crlm_jax.imaging.grey import find_window, to_uint8
from crlm_jax.method.checkpoint import Checkpoints
from crlm_jax.method.segment import load_best
from crlm_jax.method.step import create_state
from crlm_jax.predict.segmenter import load
from crlm_jax.runs.folder import RunFolder, read_run
from crlm_jax.system import parallel
from crlm_jax.training.loop import segmenter_part
from tests.cohorts import tiny_config
from tests.predict.test_segmenter import identity

FINAL_BIAS = 4.2
needs_onnx = pytest.mark.skipif(
    any(importlib.util.find_spec(name) is None for name in ("onnx", "onnxruntime", "jax2onnx")),
    reason="the extra `export` is not installed",
)


def make_run(folder: Path, conditions=("pre_dwi",), precision="float32") -> Path:
    """A run whose weights and statistics were moved, so that every layer shows in the result."""
    config = tiny_config(folder / "cohort.csv", folder / "cache", conditions)
    config.segmenter.widths = (4, 8, 16)  # FINAL_BIAS is these networks'
    config.loss.stages, config.train.precision = (), precision
    config.data.ct_window = (-100.0, 200.0)
    _, state = create_state(config, parallel.make_mesh(1))
    rng = np.random.default_rng(1)

    def moved(path, x):
        x, name = np.asarray(x), jax.tree_util.keystr(path)
        noise = rng.uniform(-0.5, 0.5, x.shape).astype(np.float32)
        if x.ndim == 4:  # a gain that keeps the spread from layer to layer
            return x * 2.4
        if "final" in name:  # probabilities on either side of the threshold
            return np.full_like(x, FINAL_BIAS)
        return x * (1 + noise) + (noise / 2 if "bias" in name or "mean" in name else 0)

    parts = jax.tree_util.tree_map_with_path(moved, segmenter_part(state))
    parts = jax.device_put(parts, parallel.replicated(parallel.make_mesh(1)))
    folder.mkdir()
    (folder / "config.json").write_text(to_json(config), encoding="utf-8")
    with Checkpoints(folder / "checkpoints") as checkpoints:
        checkpoints.save(7, parts, None)
    return folder


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    return make_run(tmp_path_factory.mktemp("runs") / "tiny")


@pytest.fixture(scope="module")
def exported(run, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("exports") / "stablehlo"
    bundle.export_run(run, out, "stablehlo")
    return out


@pytest.fixture(scope="module")
def exported_onnx(run, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("exports") / "both"
    bundle.export_run(run, out)
    return out


def load_stablehlo(folder: Path):
    return jax.jit(jax.export.deserialize(bytearray((folder / bundle.STABLEHLO).read_bytes())).call)


def load_onnx(folder: Path):
    import onnxruntime

    session = onnxruntime.InferenceSession(folder / bundle.ONNX)
    return lambda grey: session.run(["probability"], {"grey": grey})[0]


@functools.cache
def segmenter(run: Path, precision: str):
    config = read_run(run)
    config.train.precision = precision
    return load_best(config, RunFolder(run).checkpoints, parallel.make_mesh(1))


def by_the_package(run: Path, grey: np.ndarray, precision="float32") -> np.ndarray:
    """The probability (B, S, S) by the path of evaluation and prediction."""
    return np.asarray(segmenter(run, precision).probability(grey[..., None].astype(np.uint8)))


def raw(shape: tuple[int, int, int]) -> np.ndarray:
    """Slices of soft blobs with noise, in no unit."""
    rng = np.random.default_rng(shape)
    blobs = imaging_resize.resize(
        rng.uniform(0, 200, (shape[0], 4, 4)).astype(np.float32), shape[1:]
    )
    return blobs + rng.normal(0, 15, shape).astype(np.float32)


def grey_levels(count: int) -> np.ndarray:
    """Slices (count, 32, 32) as the network takes them."""
    return np.rint(np.clip(raw((count, 32, 32)) * 255 / 200, 0, 255))


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


@pytest.mark.parametrize("count", [1, 3])
def test_stablehlo_is_the_packages_network(run, exported, count):
    grey = grey_levels(count)
    found = load_stablehlo(exported)(grey)
    assert found.shape == (count, 32, 32)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, by_the_package(run, grey), atol=1e-5, rtol=0)


def test_the_moved_weights_give_maps_worth_comparing(run):
    expected = by_the_package(run, grey_levels(3))
    assert expected.std() > 0.05
    assert expected.min() < 0.4 < 0.6 < expected.max()


def test_stablehlo_runs_on_every_platform_with_any_number_of_slices(exported):
    loaded = jax.export.deserialize(bytearray((exported / bundle.STABLEHLO).read_bytes()))
    assert loaded.platforms == ("cpu", "cuda", "tpu")
    assert [str(aval.shape) for aval in loaded.in_avals] == ["(B, 32, 32)"]
    assert [str(aval.shape) for aval in loaded.out_avals] == ["(B, 32, 32)"]


@pytest.fixture(scope="module")
def example(exported):
    """The written example as a module."""
    spec = importlib.util.spec_from_file_location("exported_example", exported / bundle.EXAMPLE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(("old", "new"), [(7, 32), (32, 7), (512, 224), (224, 511), (1, 3), (5, 5)])
def test_the_example_resamples_as_the_package_does(example, old, new):
    rng = np.random.default_rng(old)
    grey = rng.integers(0, 256, (2, old, old + 1)).astype(np.uint8)
    found = np.rint(example.resize(grey.astype(np.float32), new, new, antialias=True))
    np.testing.assert_array_equal(found, imaging_resize.resize(grey, new))
    probability = rng.uniform(0, 1, (2, old, old + 1)).astype(np.float32)
    found = example.resize(probability, new, new + 2, antialias=False)
    np.testing.assert_array_equal(
        found, imaging_resize.resize(probability, (new, new + 2), antialias=False)
    )


@pytest.mark.parametrize("eight_bit", [False, True])
def test_the_example_windows_as_the_package_does(example, eight_bit):
    voxels = np.rint(raw((3, 40, 50))).clip(0, 255)
    volume = volumes.Volume(voxels, None, eight_bit, Path("raw"))
    rules = {
        "ct": {"kind": "fixed", "low": 20, "high": 180},
        "pre_dwi": {"kind": "percentiles", "low": 0.5, "high": 99.5},
        "post_dwi": {"kind": "body", "low": 0.5, "high": 99, "headroom": 1.5},
    }
    for condition, rule in rules.items():
        window = example.find_window(voxels, eight_bit, rule)
        mr_window = "body" if rule["kind"] == "body" else "percentiles"
        data = Data(ct_window=(20.0, 180.0), mr_window=mr_window)
        expected = to_uint8(volume, condition, data)
        np.testing.assert_array_equal(example.to_grey(voxels, window), expected)


@pytest.fixture
def example_of(tmp_path):
    """Writes the example with the settings of a configuration; returns the example as a module."""

    def make(config: Config):
        settings = bundle.describe(config, "run", 1, {bundle.STABLEHLO: b""})
        (tmp_path / bundle.PREPROCESSING).write_text(json.dumps(settings))
        template = Path(bundle.__file__).parent / "templates" / bundle.EXAMPLE
        spec = importlib.util.spec_from_file_location(
            "example_of", shutil.copy(template, tmp_path / bundle.EXAMPLE)
        )
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module

    return make


@pytest.mark.parametrize("value", [-9999, 32000, -300])  # -300 may be a voxel
@pytest.mark.parametrize("channels", [(), ("pre_dwi", "pre_t2wi")])
def test_the_example_leaves_padding_out_as_predict_does(tmp_path, example_of, value, channels):
    config = Config()
    config.data.conditions, config.data.image_size = ("pre_dwi",), 32
    config.data.channels = channels
    example = example_of(config)
    voxels = np.random.default_rng(0).integers(0, 300, (8, 64, 64)).astype(np.int16)
    voxels[:, 20:40, 20:40] += 400
    voxels[:, :, :6] = value  # of a registration
    scan = sitk.GetImageFromArray(voxels)
    sitk.WriteImage(scan, str(tmp_path / "scan.nii.gz"))
    images = [scan] * max(1, len(channels))
    predict = dataclasses.replace(
        identity(conditions=("pre_dwi",)), config=config,
        network=lambda batch: batch.mean(axis=-1, dtype=np.float32) / 255,
    )  # fmt: skip
    network = lambda grey: grey.reshape(*grey.shape[:3], -1).mean(axis=-1) / 255  # noqa: E731
    expected = sitk.GetArrayFromImage(predict(images))
    assert 0 < expected[..., 6:].mean() < 0.5
    _, axial, padding = example.read_axial(scan)
    own = volumes.from_image(scan).padding
    assert (padding is None) == (own is None) == (value == -300)
    np.testing.assert_array_equal(padding, own)
    window = example.window_of(scan, axial, padding, "pre_dwi")
    assert window == find_window(volumes.from_image(scan), "pre_dwi", config.data)
    found = example.segment(scan, network, "pre_dwi", images[1:])
    np.testing.assert_array_equal(sitk.GetArrayFromImage(found), expected)


def test_the_example_never_replaces_a_scan(exported, tmp_path):
    scan = tmp_path / "scan.nii.gz"
    write_oblique_scan(scan)
    before = contents(tmp_path)
    for mask in (scan, tmp_path / "none" / ".." / "scan.nii.gz"):
        done = run_example(exported, ("crlm_jax",), scan, mask)
        assert done.returncode == 2
        assert "the mask would replace a scan; name another file" in done.stderr
    assert contents(tmp_path) == before


@needs_onnx
@pytest.mark.parametrize("count", [1, 3])
def test_onnx_is_the_packages_network(run, exported_onnx, count):
    grey = grey_levels(count)
    found = load_onnx(exported_onnx)(grey)
    assert found.shape == (count, 32, 32)
    np.testing.assert_allclose(found, by_the_package(run, grey), atol=1e-4, rtol=0)


@needs_onnx
def test_onnx_takes_grey_levels_of_any_number_of_slices(exported_onnx):
    import onnx

    graph = onnx.load(exported_onnx / bundle.ONNX).graph
    shapes = [
        (
            value.name,
            [side.dim_value or side.dim_param for side in value.type.tensor_type.shape.dim],
        )
        for value in (*graph.input, *graph.output)
    ]
    assert shapes == [("grey", ["B", 32, 32]), ("probability", ["B", 32, 32])]


@needs_onnx
def test_onnx_carries_its_warnings(exported_onnx):
    import onnx

    model = onnx.load(exported_onnx / bundle.ONNX)
    notes = {entry.key: entry.value for entry in model.metadata_props}
    assert notes == {"run": "tiny", "step": "7", "conditions": "pre_dwi", "warnings": ""}


@needs_onnx
def test_a_bfloat16_run_stays_so_in_stablehlo_and_is_float32_in_onnx(tmp_path):
    run, out = make_run(tmp_path / "run", precision="bfloat16"), tmp_path / "out"
    bundle.export_run(run, out)
    grey = grey_levels(1)
    rounded = by_the_package(run, grey, precision="bfloat16")
    exact = by_the_package(run, grey, precision="float32")
    assert np.abs(rounded - exact).max() > 1e-3
    np.testing.assert_allclose(load_stablehlo(out)(grey), rounded, atol=1e-5, rtol=0)
    np.testing.assert_allclose(load_onnx(out)(grey), exact, atol=1e-4, rtol=0)
    description = json.loads((out / bundle.PREPROCESSING).read_text())
    assert description["precision"] == {bundle.STABLEHLO: "bfloat16", bundle.ONNX: "float32"}


def test_preprocessing_says_what_a_user_must_know(tmp_path):
    run = make_run(tmp_path / "mixed", ("ct", "pre_dwi"))
    config = read_run(run)
    config.data.cohort, config.loss.stages = "phantom", (1,)
    (run / "config.json").write_text(to_json(config), encoding="utf-8")
    before = contents(run)
    bundle.export_run(run, tmp_path / "out", "stablehlo")
    assert contents(run) == before
    found = json.loads((tmp_path / "out" / bundle.PREPROCESSING).read_text())
    assert found["windows"]["ct"] == {"kind": "fixed", "unit": "HU", "low": -100, "high": 200}
    assert found["windows"]["pre_dwi"]["kind"] == "body"
    assert found["windows"]["pre_dwi"]["headroom"] == 1.5
    assert found["antialias"] is True
    assert (found["run"], found["step"], found["threshold"]) == ("mixed", 7, 0.5)
    assert found["image_size"] == 32
    assert [warning.split(":")[0] for warning in found["warnings"]] == ["PHANTOM", "RANDOM CRITIC"]
    assert set(found["files"]) == {bundle.STABLEHLO, bundle.EXAMPLE}
    for name, digest in found["files"].items():
        assert hashlib.sha256((tmp_path / "out" / name).read_bytes()).hexdigest() == digest
    assert "linear" in found["resampling"]
    assert "rounded" in found["resampling_note"]
    assert "255" in found["grey_levels"]
    assert "(B, S, S)" in found["input"]
    assert "(B, S, S)" in found["output"]
    done = run_example(tmp_path / "out", ("crlm_jax",), "scan.nii.gz", "mask.nii.gz")
    assert done.returncode == 1
    assert "give one CONDITION of ct, pre_dwi" in done.stderr


def run_example(out: Path, without: tuple[str, ...], *arguments) -> subprocess.CompletedProcess:
    """Runs the written example in a process that cannot import some packages."""
    program = (
        "import runpy, sys\n"
        "class Absent:\n"
        "    def find_spec(self, name, *_):\n"
        f"        if name.partition('.')[0] in {without!r}:\n"
        "            raise ModuleNotFoundError(name)\n"
        "sys.meta_path.insert(0, Absent())\n"
        "sys.argv = sys.argv[1:]\n"
        "runpy.run_path(sys.argv[0], run_name='__main__')\n"
    )
    command = [sys.executable, "-I", "-c", program, str(out / bundle.EXAMPLE), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120)


def test_the_examples_errors_are_one_line_and_leave_no_file(exported, tmp_path):
    scan, folder = tmp_path / "scan.nii.gz", tmp_path / "masks"
    write_oblique_scan(scan)
    (tmp_path / "text.nii.gz").write_text("text")
    flat = sitk.GetImageFromArray(np.zeros((4, 8, 8), np.int16))
    sitk.WriteImage(flat, str(tmp_path / "flat.nii.gz"))
    sitk.WriteImage(flat[:, :, 0], str(tmp_path / "slice.nii.gz"))
    folder.mkdir()
    for image, mask, part in (
        ("none.nii.gz", "masks/m.nii.gz", "none.nii.gz: not an image that can be read"),
        ("text.nii.gz", "masks/m.nii.gz", "text.nii.gz: not an image that can be read"),
        ("flat.nii.gz", "masks/m.nii.gz", "no contrast"),
        ("slice.nii.gz", "masks/m.nii.gz", "3D"),
        ("scan.nii.gz", "none/m.nii.gz", "cannot be written"),
    ):
        done = run_example(exported, ("crlm_jax",), tmp_path / image, tmp_path / mask)
        assert done.returncode == 1
        (line,) = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
        assert part in line
        assert "Traceback" not in done.stderr
        assert not list(folder.iterdir())
    done = run_example(exported, ("crlm_jax",), scan, folder / "m.txt")
    assert done.returncode == 2
    assert "m.txt: a mask ends with one of .nii.gz" in done.stderr
    done = run_example(exported, ("jax",), scan, folder / "m.nii.gz")
    assert done.returncode == 1
    assert "say what to install" in done.stderr


def write_oblique_scan(path: Path) -> None:
    """A scan of 11 axial slices, stored sagittal, flipped and turned by 10°."""
    image = sitk.GetImageFromArray(raw((40, 11, 36)).astype(np.int16))
    cosine, sine = np.cos(np.radians(10)), np.sin(np.radians(10))
    turn = np.array([[1, 0, 0], [0, cosine, -sine], [0, sine, cosine]])
    columns = turn @ np.array([[0, 0, -1], [1, 0, 0], [0, -1, 0]])
    image.SetDirection(columns.ravel().tolist())
    image.SetSpacing((1.1, 5.0, 1.3))
    image.SetOrigin((30.0, -80.0, 400.0))
    sitk.WriteImage(image, str(path))


@pytest.mark.parametrize(
    ("name", "without"),
    [
        (bundle.STABLEHLO, ("crlm_jax", "flax", "onnx", "onnxruntime")),
        pytest.param(bundle.ONNX, ("crlm_jax", "flax", "jax", "onnx"), marks=needs_onnx),
    ],
)
def test_the_example_segments_a_scan_without_the_package(run, request, tmp_path, name, without):
    out = request.getfixturevalue("exported" if name == bundle.STABLEHLO else "exported_onnx")
    scan, mask = tmp_path / "scan.nii.gz", tmp_path / "mask.nii.gz"
    write_oblique_scan(scan)
    done = run_example(out, without, scan, mask, name)
    assert done.returncode == 0, done.stderr
    assert [path.name for path in tmp_path.iterdir() if path.name[0] == "."] == []
    # The masks of `predict`: the same voxels, but where the probability is within ONNX Runtime's
    # tolerance of the threshold, and rounding decides.
    predict, volume = load(run), volumes.read_image(scan)
    assert volume.voxels.shape[0] == 11
    found = masks.read_mask(mask, None, volume)  # raises where the grids differ
    probability = predict.probability(predict.look([volume]).slices)
    expected = predict.finish(probability, volume.geometry).mask
    probability = imaging_resize.resize(probability, volume.voxels.shape[1:], antialias=False)
    assert 0.05 < found.mean() < 0.95
    assert ((found == expected) | (np.abs(probability - 0.5) < to_onnx.TOLERANCE)).all()


def test_the_example_removes_the_lesions_that_the_run_does(exported, tmp_path):
    out = Path(shutil.copytree(exported, tmp_path / "out"))
    settings = json.loads((out / bundle.PREPROCESSING).read_text())
    assert (settings["min_lesion_mm3"], settings["liver"]) == (0.0, "none")
    (out / bundle.PREPROCESSING).write_text(json.dumps(settings | {"min_lesion_mm3": 20.0}))
    spec = importlib.util.spec_from_file_location("exported_example", out / bundle.EXAMPLE)
    example = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(example)
    mask = np.random.default_rng(0).random((3, 20, 20)) > 0.85
    geometry = Geometry((20, 20, 3), (1.0, 2.0, 3.0), (0.0,) * 3, (1.0, 0, 0, 0, 1, 0, 0, 0, 1))
    expected = MaskRule(0.5, 20.0).decide(mask.astype(np.float32), geometry)
    found = example.without_small(mask.astype(np.uint8), 6.0)
    np.testing.assert_array_equal(found > 0, expected)
    assert 0 < expected.sum() < mask.sum()


@pytest.mark.parametrize("ending", [".nii", ".nii.gz"])
def test_the_example_refuses_a_truncated_scan(exported, tmp_path, ending):
    scan, mask = tmp_path / f"scan{ending}", tmp_path / "mask.nii.gz"
    write_oblique_scan(scan)
    os.truncate(scan, scan.stat().st_size * 2 // 3)  # SimpleITK would fill it up with zeros
    done = run_example(exported, "onnxruntime", scan, mask, bundle.STABLEHLO)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith(f"error: {scan}: the file is cut off")
    assert not mask.exists()


def test_a_second_export_replaces_the_first(run, exported, tmp_path):
    out = Path(shutil.copytree(exported, tmp_path / "out"))
    (out / bundle.ONNX).write_bytes(b"of an earlier step")
    bundle.export_run(run, out, "stablehlo")
    assert set(contents(out)) == {bundle.STABLEHLO, bundle.PREPROCESSING, bundle.EXAMPLE}
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def fails(capsys, *arguments) -> str:
    """Runs the command, which must end with one line of error; returns it."""
    with pytest.raises((UserError, OSError)) as stop:
        export_command.main([str(argument) for argument in arguments])
    message = str(stop.value)
    assert "\n" not in message
    return message


@pytest.mark.parametrize("names", [("thesis.docx",), ("example.py",), ("preprocessing.json", "x")])
def test_a_folder_with_something_else_is_refused(run, tmp_path, capsys, names):
    for name in names:
        (tmp_path / name).write_text("mine")
    before = contents(tmp_path)
    message = fails(capsys, "--run", run, "--out", tmp_path, "--format", "stablehlo")
    assert str(tmp_path) in message
    assert "another --out" in message
    assert contents(tmp_path) == before


def test_a_run_that_is_not_there_is_one_line(tmp_path, capsys):
    message = fails(
        capsys, "--run", tmp_path / "no", "--out", tmp_path / "o", "--format", "stablehlo"
    )
    assert str(tmp_path / "no") in message
    assert "config.json" in message
    assert not list(tmp_path.iterdir())


def test_a_run_without_a_checkpoint_is_one_line(run, tmp_path, capsys):
    young = tmp_path / "young"
    young.mkdir()
    (young / "config.json").write_bytes((run / "config.json").read_bytes())
    message = fails(capsys, "--run", young, "--out", tmp_path / "o", "--format", "stablehlo")
    assert str(young) in message
    assert "train the run first" in message
    assert set(contents(tmp_path)) == {"young/config.json"}
    assert [path.name for path in young.iterdir()] == ["config.json"]


def test_missing_packages_are_named_with_the_two_ways_out(run, tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "jax2onnx", None)
    message = fails(capsys, "--run", run, "--out", tmp_path / "out")
    assert "pip install 'crlm_jax[export]'" in message
    assert "--format stablehlo" in message
    assert not list(tmp_path.iterdir())


@needs_onnx
@pytest.mark.parametrize("wrong", [2e-4, np.nan])
def test_an_onnx_result_that_differs_is_refused(run, tmp_path, monkeypatch, wrong):
    import onnxruntime

    honest = onnxruntime.InferenceSession.run

    def perturbed(self, *arguments):
        (probability,) = honest(self, *arguments)
        probability[0, 3, 5] += wrong
        return [probability]

    monkeypatch.setattr(onnxruntime.InferenceSession, "run", perturbed)
    with pytest.raises(to_onnx.ExportError, match="nothing was written"):
        bundle.export_run(run, tmp_path / "out", "onnx")
    assert not list(tmp_path.iterdir())


def test_a_disk_that_fills_up_leaves_the_earlier_export(run, exported, tmp_path, monkeypatch):
    out = Path(shutil.copytree(exported, tmp_path / "out"))
    before = contents(tmp_path)
    write = Path.write_bytes

    def full(self, data):
        if self.name == bundle.PREPROCESSING:
            raise OSError(28, "No space left on device")
        return write(self, data)

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(OSError, match="No space left"):
        bundle.export_run(run, out, "stablehlo")
    assert contents(tmp_path) == before
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_the_command_prints_what_it_wrote(run, tmp_path, capsys):
    (tmp_path / "out").mkdir()  # empty
    export_command.main(
        ["--run", str(run), "--out", str(tmp_path / "out"), "--format", "stablehlo"]
    )
    written = capsys.readouterr().out.split()
    assert {Path(line).name for line in written} == set(contents(tmp_path / "out"))


def test_a_config_of_another_version_is_refused(tmp_path, capsys):
    (tmp_path / "config.json").write_text('{"unknown": 1}')
    with pytest.raises(ConfigError):
        bundle.export_run(tmp_path, tmp_path / "out", "stablehlo")
