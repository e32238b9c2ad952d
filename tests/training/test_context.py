"""2.5D: what only the slice above shows is found, by training, prediction, export and the rest."""

import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from crlm_jax.config.schema import ConfigError, Data, validate
from crlm_jax.explain import command as explain_command
from crlm_jax.export import bundle
from crlm_jax.imaging import volumes
from crlm_jax.measures import evaluate
from crlm_jax.method import attribution
from crlm_jax.predict import ensemble, segmenter
from crlm_jax.predict.engine import choice
from crlm_jax.system.console import exit_code
from tests import solvable

DEPTH, STEPS = 7, 100


@pytest.fixture(scope="module")
def cohort(tmp_path_factory) -> Path:
    """The tumour of a slice is the disc that the slice above it shows, at another place."""
    folder = tmp_path_factory.mktemp("above")
    lines = ["patient,condition,image,mask,split"]
    for patient in range(7):
        rng = np.random.default_rng(patient)
        inside = solvable.discs(rng, DEPTH)
        inside[-1] = False  # so that the last slices, which lack one above, have no tumour
        mask = np.concatenate([inside[1:], inside[-1:]])
        solvable.write(folder / f"{patient}.nii.gz", solvable.shown(rng, inside))
        solvable.write(folder / f"{patient}_mask.nii.gz", mask.astype(np.uint8))
        lines.append(
            f"p{patient},pre_dwi,{patient}.nii.gz,{patient}_mask.nii.gz,{solvable.split_of(patient)}"
        )
    (folder / "cohort.csv").write_text("\n".join(lines) + "\n")
    return folder / "cohort.csv"


@pytest.fixture(scope="module")
def solved(cohort, tmp_path_factory, one_device) -> solvable.Solved:
    return solvable.train(tmp_path_factory.mktemp("runs") / "context", cohort, STEPS, context=1)


def test_the_slice_above_is_found_and_without_it_there_is_nothing_to_find(
    solved, cohort, tmp_path, one_device
):
    assert solved.dsc() > 0.9
    assert solvable.train(tmp_path / "plain", cohort, STEPS).dsc() < 0.3


def test_prediction_by_either_engine_finds_it_too(solved, cohort, tmp_path, monkeypatch):
    out = tmp_path / "mask.nii.gz"
    scan, reference = cohort.parent / "6.nii.gz", cohort.parent / "6_mask.nii.gz"
    assert solvable.predict(solved.folder, "--image", scan, "--out", out) == 0
    wanted = solvable.read(reference)
    assert solvable.dsc(solvable.read(out), wanted) > 0.9
    # Without the order of its slices the scan holds nothing that the network knows.
    alone = sitk.ReadImage(str(scan))
    alone.SetSpacing((1.5, 1.5, 20.0))
    mask = sitk.GetArrayFromImage(segmenter.load(solved.folder, engine="xla")(alone)) > 0
    assert (mask & wanted).sum() < 0.5 * wanted.sum()
    pytest.importorskip("openvino", reason="the extra `engine` is not installed")
    monkeypatch.setattr(choice, "_is_installed", lambda: True)
    monkeypatch.setattr(choice, "_has_bfloat16_units", lambda: False)
    monkeypatch.setattr(Data, "cache", str(tmp_path / "cache"))
    ours, theirs = (segmenter.load(solved.folder, engine=e) for e in ("openvino", "xla"))
    assert str(ours.engine) == "OpenVINO in float32"
    volume = volumes.read_image(scan)
    slices = ours.look([volume]).slices
    assert slices.shape == (DEPTH, solvable.SIDE, solvable.SIDE, 3)
    np.testing.assert_allclose(ours.probability(slices), theirs.probability(slices), atol=1e-5)


def test_a_single_slice_is_predicted_with_a_warning(solved, cohort, tmp_path, capsys):
    scan = sitk.ReadImage(str(cohort.parent / "6.nii.gz"))[:, :, 2:3]
    sitk.WriteImage(scan, str(tmp_path / "one.nii.gz"))
    words = ["--image", tmp_path / "one.nii.gz", "--out", tmp_path / "mask.nii.gz"]
    assert solvable.predict(solved.folder, *words) == 0
    assert "single slice has no neighbours" in capsys.readouterr().err


def test_the_exported_example_gives_the_same_mask(solved, cohort, tmp_path):
    description = bundle.export_run(solved.folder, tmp_path / "out", "stablehlo")
    assert "(B, S, S, 3)" in description["input"]
    spec = importlib.util.spec_from_file_location("example", tmp_path / "out" / bundle.EXAMPLE)
    example = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(example)
    network, load = example.load(bundle.STABLEHLO), segmenter.load(solved.folder, engine="xla")
    image = sitk.ReadImage(str(cohort.parent / "6.nii.gz"))
    gap = sitk.GetArrayFromImage(image)
    gap[3] = 0
    missing = sitk.GetImageFromArray(gap)
    missing.CopyInformation(image)
    far = sitk.Image(image)
    far.SetSpacing((1.5, 1.5, 20.0))
    masks = []
    for scan in (image, missing, far):
        found = sitk.GetArrayFromImage(example.segment(scan, network, "pre_dwi"))
        np.testing.assert_array_equal(found, sitk.GetArrayFromImage(load(scan)))
        masks.append(found)
    assert not np.array_equal(masks[0], masks[1])
    assert not np.array_equal(masks[0], masks[2])


def test_attribution_says_that_the_slice_above_counts(solved, cohort, tmp_path):
    words = ["--run", solved.folder, "--image", cohort.parent / "6.nii.gz", "--out", tmp_path / "e"]
    words += ["--steps", 32, "--lesion", 1]
    assert exit_code(explain_command.main, list(map(str, words))) == 0
    about = json.loads((tmp_path / "e" / "explain.json").read_text())
    assert about["images"] == ["slice below", "slice", "slice above"]
    (lesion,) = about["lesions"]
    shares = lesion["share_by_image"]
    assert sum(shares) == pytest.approx(1)
    assert shares[2] > 0.6
    assert lesion["completeness_error"] < 0.05
    assert (tmp_path / "e" / "lesion1_occlusion.nii.gz").exists()


def test_the_report_measures_whole_volumes_and_attributes(solved):
    def attribute(image, region):
        maps.append(attribution.attribute_region(solved.trained, image, region, 4))
        return maps[-1]

    maps: list[attribution.Attribution] = []
    segment = solved.trained.probability
    results = evaluate.evaluate_cases(solved.config, solved.slices, segment, attribute=attribute)
    assert len(results) == len(maps) == 2
    for found in maps:
        assert found.by_image.shape == (solvable.SIDE, solvable.SIDE, 3)
        np.testing.assert_allclose(found.by_image.sum(-1), found.map, atol=1e-4)


def test_it_cannot_be_averaged_with_a_run_of_single_slices(solved, tmp_path):
    plain = tmp_path / "plain"
    plain.mkdir()
    text = (solved.folder / "config.json").read_text()
    (plain / "config.json").write_text(text.replace('"context": 1', '"context": 0'))
    with pytest.raises(ConfigError, match=r"data\.context is 1 in .*context and 0 in .*plain"):
        ensemble.load([solved.folder, plain])


def test_more_slices_than_channels_are_refused(solved):
    config = json.loads((solved.folder / "config.json").read_text())
    assert config["data"]["context"] == 1
    solved.config.data.context = 2
    with pytest.raises(ConfigError, match=r"data\.context = 2: choose from 0, 1"):
        validate(solved.config)
    solved.config.data.context = 1
