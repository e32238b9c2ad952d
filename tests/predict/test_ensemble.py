"""Several runs as one: in any order the same mean, one run is itself, and how far they disagree."""

import dataclasses
import itertools
import json

import numpy as np
import pydicom
import pytest
import SimpleITK as sitk

from crlm_jax import predict
from crlm_jax.config.schema import ConfigError
from crlm_jax.config.storage import to_json
from crlm_jax.imaging import volumes
from crlm_jax.method.checkpoint import Checkpoints
from crlm_jax.method.step import create_state
from crlm_jax.predict import command, ensemble, segmenter
from crlm_jax.predict.engine.doubt import Rounded
from crlm_jax.system import parallel
from crlm_jax.system.console import exit_code
from crlm_jax.training.loop import segmenter_part
from tests.cohorts import tiny_config
from tests.predict.test_command import bright_series
from tests.predict.test_segmenter import ball, identity

SEEDS = range(5)


@pytest.fixture(scope="module")
def folds(tmp_path_factory, one_device):
    """A folder of five runs with untrained weights, each of its own seed."""
    folder = tmp_path_factory.mktemp("ensemble") / "runs"
    for seed in SEEDS:
        config = tiny_config(folder / "no cohort is needed", folder / "cache", ("ct",))
        config.train.seed = seed
        _, state = create_state(config, parallel.make_mesh(1))
        run = folder / f"seed{seed}"
        run.mkdir(parents=True)
        (run / "config.json").write_text(to_json(config), encoding="utf-8")
        (run / "report.html").write_text("done")
        with Checkpoints(run / "checkpoints") as checkpoints:
            checkpoints.save(3, segmenter_part(state), None)
    return folder


def slices(segment):
    """A scan as the network sees it."""
    volume = volumes.from_image(ball()[0])
    return segment.slices(segment.grey(volume), volume.geometry)


def call(*words) -> int:
    return exit_code(command.main, list(map(str, words)))


def shifted(number: int, found=None, **options):
    """A segmenter that answers grey levels, shifted by `number` per cent, or whatever it is told.

    Its fingerprint puts it into an order of its own.
    """
    print_of = str((number * 7) % 5)
    network = found or (lambda batch: batch[..., 0].astype(np.float32) / 255 + number / 100)
    return dataclasses.replace(
        identity(**options), name=f"run{number}", fingerprint=print_of * 64, network=network
    )


def test_one_run_is_the_run_bit_for_bit(folds, tmp_path):
    alone = segmenter.load(folds / "seed0")
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "only").symlink_to(folds / "seed0", target_is_directory=True)
    for named in (folds / "seed0", [folds / "seed0"], str(tmp_path / "runs")):
        one = predict.load(named)
        assert type(one) is segmenter.ScanSegmenter
        assert one.fingerprint == alone.fingerprint
        np.testing.assert_array_equal(one.probability(slices(one)), alone.probability(slices(one)))
    same = ensemble.average([alone.probability(slices(alone))])
    np.testing.assert_array_equal(same, alone.probability(slices(alone)))


def test_five_are_the_same_in_any_order_to_the_last_bit(folds):
    names = [folds / f"seed{seed}" for seed in SEEDS]
    five = predict.load(names)
    expected, again = five.probability(slices(five)), predict.load(names[::-1])
    np.testing.assert_array_equal(again.probability(slices(again)), expected)
    assert (again.fingerprint, again.folders) == (five.fingerprint, five.folders)
    each = [member.probability(slices(five)) for member in five.members]
    np.testing.assert_allclose(expected, np.mean(each, axis=0), atol=1e-6)
    assert not np.array_equal(expected, each[0])
    four = ensemble.of_members(five.members[:4], names[:4])
    assert four.fingerprint != five.fingerprint
    assert not np.array_equal(four.probability(slices(five)), expected)


def test_every_permutation_gives_the_same_bits():
    rng = np.random.default_rng(0)
    answers = [rng.random((1, 32, 32), dtype=np.float32) for _ in range(5)]
    members = [shifted(n, lambda batch, n=n: answers[n], batch=1) for n in range(5)]
    picture = np.zeros((1, 32, 32, 1), np.uint8)
    found, sums = set(), set()
    for order in itertools.permutations(range(5)):
        chosen = [members[n] for n in order]
        made = ensemble.of_members(chosen, [f"runs/{n}" for n in order])
        found.add((made.fingerprint, made.probability(picture).tobytes()))
        sums.add(ensemble.average([answers[n] for n in order]).tobytes())
    assert len(found) == 1
    assert len(sums) > 1  # added up as they are named, they would differ


def test_a_threshold_is_applied_to_the_mean():
    low, high = (
        shifted(n, lambda batch, n=n: np.full(batch.shape[:3], 0.2 + n / 2)) for n in (0, 1)
    )
    both = ensemble.of_members([low, high], ["a", "b"])
    picture = np.zeros((3, 32, 32, 1), np.uint8)
    np.testing.assert_allclose(both.probability(picture), 0.45)
    np.testing.assert_allclose(both.each(picture)[0], 0.2)
    assert both.networks == 2


def test_runs_that_cannot_be_averaged_are_refused_before_any_is_loaded(folds, tmp_path, capsys):
    other = tmp_path / "other"
    other.mkdir()
    text = (folds / "seed0" / "config.json").read_text()
    (other / "config.json").write_text(text.replace('"image_size": 32', '"image_size": 64'))
    image = tmp_path / "scan.nii.gz"
    sitk.WriteImage(ball()[0], str(image))
    words = ("--image", image, "--out", tmp_path / "mask.nii.gz")
    assert call("--run", folds / "seed1", other, *words) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert "seed1 and " in line
    assert "other cannot be averaged: data.image_size is 32" in line
    assert call("--run", folds / "seed1", "--uncertainty", tmp_path / "u.nii.gz", *words) == 1
    assert "--uncertainty: seed1 is one run" in capsys.readouterr().err
    assert not (tmp_path / "mask.nii.gz").exists()


def test_the_option_may_be_given_several_times(folds, tmp_path, capsys):
    image = tmp_path / "scan.nii.gz"
    sitk.WriteImage(ball()[0], str(image))
    named = ("--run", folds / "seed0", "--run", folds / "seed1", folds / "seed2")
    assert call(*named, "--image", image, "--out", tmp_path / "mask.nii.gz") == 0
    assert "ensemble of 3" in capsys.readouterr().out


def test_one_network_under_two_names_is_refused(folds, tmp_path):
    copy = tmp_path / "copy"
    copy.mkdir()
    for name in ("config.json", "checkpoints"):
        (copy / name).symlink_to(folds / "seed0" / name)
    with pytest.raises(ConfigError, match=r"seed0 and .*copy are the same|copy and .*seed0 are"):
        predict.load([folds / "seed0", copy])


def test_the_command_writes_mask_uncertainty_and_members(folds, tmp_path, capsys):
    image, out = tmp_path / "scan.nii.gz", tmp_path / "out"
    sitk.WriteImage(ball(direction=np.diag((-1, -1, 1)), shape=(6, 48, 40))[0], str(image))
    for seed in SEEDS:
        words = ("--image", image, "--probability", tmp_path / f"{seed}.nii.gz")
        assert call("--run", folds / f"seed{seed}", *words, "--out", tmp_path / "m.nii.gz") == 0
    assert not list(tmp_path.glob("*ensemble.json"))
    maps = ("--probability", out / "{name}_p.nii.gz", "--uncertainty", out / "{name}_u.nii.gz")
    assert call("--run", folds, "--image", image, "--out", out / "mask.nii.gz", *maps) == 0
    each = np.stack([read(tmp_path / f"{seed}.nii.gz") for seed in SEEDS])
    found = sitk.ReadImage(str(out / "scan_u.nii.gz"))
    assert found.GetPixelID() == sitk.sitkFloat32
    scan = sitk.ReadImage(str(image))
    for about in ("GetSize", "GetSpacing", "GetOrigin", "GetDirection"):
        np.testing.assert_allclose(getattr(found, about)(), getattr(scan, about)(), atol=1e-6)
    np.testing.assert_allclose(read(out / "scan_u.nii.gz"), each.std(axis=0), atol=1e-6)
    assert each.std(axis=0).max() > 0.01
    np.testing.assert_allclose(read(out / "scan_p.nii.gz"), each.mean(axis=0), atol=1e-6)
    np.testing.assert_array_equal(read(out / "mask.nii.gz"), read(out / "scan_p.nii.gz") > 0.5)
    told = json.loads((out / "mask_ensemble.json").read_text())
    assert sorted(each["run"] for each in told["members"]) == sorted(map(str, folds.glob("seed*")))
    assert {each["seed"] for each in told["members"]} == set(SEEDS)
    assert len({each["fingerprint"] for each in told["members"]}) == 5
    assert told["threshold"] == 0.5
    assert "ensemble of 5" in capsys.readouterr().out
    before = read(out / "mask.nii.gz")  # asking for the map changes no voxel
    assert call("--run", folds, "--image", image, "--out", out / "mask.nii.gz") == 0
    np.testing.assert_array_equal(read(out / "mask.nii.gz"), before)


def read(path) -> np.ndarray:
    return sitk.GetArrayFromImage(sitk.ReadImage(str(path)))


def test_a_dicom_segmentation_names_the_ensemble(tmp_path, monkeypatch):
    members = [shifted(n) for n in (0, 1, 2)]
    both = ensemble.of_members(members, ["a", "b", "c"])
    monkeypatch.setattr(command, "load", lambda runs, **options: both)
    series = bright_series(tmp_path / "ct")
    assert call("--run", "a", "b", "c", "--image", series, "--out", tmp_path / "seg.dcm") == 0
    written = pydicom.dcmread(tmp_path / "seg.dcm")
    (about,) = written.SegmentSequence[0].SegmentationAlgorithmIdentificationSequence
    assert about.AlgorithmName == "crlm_jax ensemble of 3 (crlm_gan)"
    assert both.fingerprint in about.AlgorithmParameters
    assert written.DeviceSerialNumber == both.fingerprint
    assert json.loads((tmp_path / "seg_ensemble.json").read_text())["ensemble"] == both.fingerprint


def test_maps_do_not_overwrite_one_another(folds, tmp_path, capsys):
    image, same = tmp_path / "scan.nii.gz", tmp_path / "maps"
    sitk.WriteImage(ball()[0], str(image))
    same.mkdir()
    words = ("--image", image, "--out", tmp_path / "m.nii.gz", "--probability", same)
    assert call("--run", folds, *words, "--uncertainty", same) == 1
    assert "--probability and --uncertainty would write the same file" in capsys.readouterr().err


def rounded(number: int, error: float, calls: list, value: float):
    """A member that is off by `error` in bfloat16, around a lesion of `value`."""

    def answer(shift):
        def network(batch):
            calls.append((number, shift))
            found = np.full(batch.shape[:3], 0.01, np.float32)
            found[:, 8:16, 8:16] = value + shift
            return found

        return network

    return shifted(number, Rounded(answer(error), answer(0), 0.5), batch=1)


def test_what_is_computed_again_is_what_the_mean_leaves_in_doubt():
    picture, calls = np.zeros((2, 32, 32, 1), np.uint8), []
    # Each member is sure of itself, but their mean is not.
    members = [rounded(0, 0.03, calls, 0.9), rounded(1, 0.03, calls, 0.11)]
    torn = ensemble.of_members(members, ["a", "b"])
    np.testing.assert_allclose(torn.probability(picture)[:, 10, 10], 0.505, atol=1e-6)
    assert {shift for _, shift in calls} == {0.03, 0}
    np.testing.assert_array_equal(ensemble.average(torn.each(picture)), torn.probability(picture))
    calls.clear()
    # Both hang on the threshold alone, and their mean does not.
    members = [rounded(0, 0.03, calls, 0.9), rounded(1, 0.03, calls, 0.5)]
    assert (ensemble.of_members(members, ["a", "b"]).probability(picture)[0, 10, 10]) > 0.7
    assert {shift for _, shift in calls} == {0.03}
