"""A run by OpenVINO: its masks are those of XLA, and its translation is kept."""

import dataclasses
import subprocess
import sys

import numpy as np
import pytest
import SimpleITK as sitk

from crlm_jax.config.schema import Data
from crlm_jax.predict import command as predict_command
from crlm_jax.predict import engine, segmenter
from crlm_jax.predict.engine import choice
from crlm_jax.predict.engine.choice import EngineError
from tests.predict.test_segmenter import ball, tiny_run

__all__ = ["tiny_run"]  # a fixture
openvino = pytest.importorskip("openvino", reason="the extra `engine` is not installed")
from crlm_jax.predict.engine import doubt, openvino_model  # noqa: E402

UNITS = "BF16" in openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")


@pytest.fixture(autouse=True)
def predictions_by_either_engine(monkeypatch):
    monkeypatch.setattr(choice, "_is_installed", lambda: True)


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setattr(Data, "cache", str(tmp_path / "cache"))
    return tmp_path / "cache" / "openvino"


@pytest.fixture
def translations(monkeypatch):
    """Counts how often a run is translated."""
    made = []
    translate = openvino_model._translate
    monkeypatch.setattr(
        openvino_model, "_translate", lambda *words: made.append(words) or translate(*words)
    )
    return made


def slices(count: int = 3) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (count, 32, 32, 1)).astype(np.uint8)


@pytest.mark.parametrize("tta", [False, True])
def test_float32_is_xlas_result(tiny_run, cache, monkeypatch, tta):
    monkeypatch.setattr(choice, "_has_bfloat16_units", lambda: False)
    ours, theirs = (segmenter.load(tiny_run, engine=name, tta=tta) for name in ("openvino", "xla"))
    np.testing.assert_allclose(ours.probability(slices()), theirs.probability(slices()), atol=1e-5)
    for field in ("name", "step", "fingerprint", "threshold", "tta"):
        assert getattr(ours, field) == getattr(theirs, field)
    assert (str(ours.engine), str(theirs.engine)) == ("OpenVINO in float32", "XLA in float32")
    assert "no units" in ours.engine.note


@pytest.mark.skipif(not UNITS, reason="this CPU has no units for bfloat16")
def test_bfloat16_is_close_and_its_doubtful_slices_are_exact(tiny_run, cache):
    ours, theirs = (segmenter.load(tiny_run, engine=name) for name in ("openvino", "xla"))
    expected = theirs.probability(slices())
    assert str(ours.engine) == "OpenVINO in bfloat16"
    # Random weights leave every probability near the threshold, or all beyond it.
    exact = [doubt.in_doubt(p, ours.threshold) for p in expected]
    difference = np.abs(ours.probability(slices()) - expected).max((1, 2))
    assert (difference < np.where(exact, 1e-5, 0.02)).all()


def test_a_translation_is_kept_and_a_damaged_or_stale_one_made_anew(tiny_run, cache, translations):
    first = segmenter.load(tiny_run, engine="openvino")
    (folder,) = cache.iterdir()
    assert sorted(file.name for file in folder.iterdir()) == [
        "about.json", "segmenter.bin", "segmenter.xml",
    ]  # fmt: skip
    again = segmenter.load(tiny_run, engine="openvino")
    assert len(translations) == 1
    np.testing.assert_array_equal(again.probability(slices()), first.probability(slices()))

    weights = bytearray((folder / "segmenter.bin").read_bytes())
    weights[len(weights) // 2] ^= 64
    (folder / "segmenter.bin").write_bytes(weights)
    mended = segmenter.load(tiny_run, engine="openvino")
    assert len(translations) == 2
    # A CPU without units for bfloat16 has a note of its own before.
    assert mended.engine.note.endswith(
        f"the translation for OpenVINO in {folder} was damaged, and is made anew"
    )
    np.testing.assert_array_equal(mended.probability(slices()), first.probability(slices()))

    config = (tiny_run / "config.json").read_text()
    (tiny_run / "config.json").write_text(config.replace('"threshold": 0.5', '"threshold": 0.25'))
    other = segmenter.load(tiny_run, engine="openvino")
    (tiny_run / "config.json").write_text(config)
    assert len(translations) == 3
    assert (other.threshold, len(list(cache.iterdir()))) == (0.25, 2)


def test_a_cache_that_cannot_be_written_is_said(tiny_run, tmp_path, monkeypatch):
    (tmp_path / "cache").write_text("a file")
    monkeypatch.setattr(Data, "cache", str(tmp_path / "cache"))
    found = segmenter.load(tiny_run, engine="openvino")
    note = found.engine.note
    assert "translated for OpenVINO each time" in note
    assert f"kept in {tmp_path}/cache/openvino (" in note
    assert note.endswith("); let that folder be written to")
    assert "--out" not in note
    assert found.probability(slices()).shape == (3, 32, 32)


def test_what_is_not_translated_falls_back_to_xla_or_is_an_error(tiny_run, cache, monkeypatch):
    monkeypatch.setattr(choice, "_has_bfloat16_units", lambda: True)
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")
    compute = engine.xla.compute
    monkeypatch.setattr(engine.xla, "compute", lambda *words: compute(*words) + 0.01)
    found = segmenter.load(tiny_run)
    assert found.engine.name == "XLA"
    assert "differs from XLA's by 0.01" in found.engine.note
    with pytest.raises(EngineError, match=r"differs .*give --engine xla"):
        segmenter.load(tiny_run, engine="openvino")
    assert not cache.exists()


def test_the_command_says_which_engine_it_used(tiny_run, cache, tmp_path, capsys):
    sitk.WriteImage(ball()[0], str(tmp_path / "scan.nii.gz"))
    words = f"--run {tiny_run} --image {tmp_path}/scan.nii.gz --out {tmp_path}/m.nii.gz".split()
    precision = "bfloat16" if UNITS else "float32"
    for name, said in (("openvino", f"OpenVINO in {precision}"), ("xla", "XLA in float32")):
        assert predict_command.main([*words, "--engine", name]) == 0
        assert f"computed by {said}" in capsys.readouterr().out


def test_jax_is_loaded_only_to_translate(tiny_run, cache):
    code = (
        "import sys; from crlm_jax.config.schema import Data; "
        f"Data.cache = {str(cache.parent)!r}; from crlm_jax import predict; "
        f"made = predict.load({str(tiny_run)!r}, engine='openvino'); "
        "print(made.engine, {'jax', 'flax', 'orbax', 'matplotlib'} & set(sys.modules))"
    )
    said = [
        subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True
        ).stdout
        for _ in range(2)
    ]
    assert "jax" in said[0]
    assert said[1].strip().endswith("set()")


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([], False),
        ([(slice(2, 6), slice(2, 6), 0.9)], False),  # sure
        ([(slice(2, 6), slice(2, 6), 0.53)], True),  # might vanish
        ([(slice(2, 6), slice(2, 6), 0.48)], True),  # might appear
        ([(slice(2, 6), slice(2, 3), 0.9)], True),  # vanishes between pixels
        ([(slice(2, 6), slice(2, 12), 0.9), (slice(2, 6), slice(6, 8), 0.48)], True),  # may split
        ([(slice(2, 6), slice(2, 12), 0.9), (slice(2, 6), slice(6, 8), 0.1)], False),  # two
    ],
)
def test_a_slice_is_in_doubt_where_a_lesion_hangs_on_the_threshold(values, expected):
    probability = np.full((16, 16), 0.01, np.float32)
    for rows, columns, value in values:
        probability[rows, columns] = value
    assert doubt.in_doubt(probability, 0.5) is expected


def test_an_engine_is_two_words():
    assert str(dataclasses.replace(choice.XLA, precision="bfloat16")) == "XLA in bfloat16"
