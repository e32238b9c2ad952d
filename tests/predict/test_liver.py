"""Predictions that are restricted to the liver: by masks, by the cohort's column, by a run."""

import dataclasses
import json

import numpy as np
import pydicom
import pytest
import SimpleITK as sitk

from crlm_jax.errors import UserError
from crlm_jax.imaging.geometry import VolumeError
from crlm_jax.predict import liver as predict_liver
from crlm_jax.predict.engine.choice import Engine
from crlm_jax.predict.ensemble import of_members
from crlm_jax.predict.liver import restrict
from crlm_jax.predict.scans import Scan
from crlm_jax.predict.segmenter import ScanSegmenter
from tests.predict.test_command import bright_series, mask_of, rows, run, scan_file
from tests.predict.test_segmenter import ball, identity

__all__ = ["run"]  # a fixture


def half(path, image, *, shift=0.0) -> np.ndarray:
    """Writes a liver of the left half of an image; returns it, (Z, H, W) bool."""
    inside = np.zeros(sitk.GetArrayViewFromImage(image).shape, bool)
    inside[..., :9] = True
    mask = sitk.GetImageFromArray(inside.astype(np.uint8))
    mask.CopyInformation(image)
    mask.SetOrigin([x + shift for x in image.GetOrigin()])
    sitk.WriteImage(mask, str(path))
    return inside


@pytest.mark.parametrize("ending", [".nii.gz", ".nrrd"])
def test_a_mask_restricts_mask_lesions_and_probability(tmp_path, run, capsys, ending):
    scan, liver = scan_file(tmp_path / "scan.nii.gz"), tmp_path / f"liver{ending}"
    image, ball_inside = ball()
    inside = half(liver, image)
    assert run(
        "--image", scan, "--out", tmp_path / "m.nii.gz", "--probability", tmp_path / "p.nii.gz",
        "--liver", liver,
    ) == 0  # fmt: skip
    np.testing.assert_array_equal(mask_of(tmp_path / "m.nii.gz"), ball_inside & inside)
    assert not mask_of(tmp_path / "p.nii.gz")[~inside].any()
    (row,) = rows(tmp_path / "m_lesions.csv")
    assert float(row["volume_mm3"]) == pytest.approx((ball_inside & inside).sum() * 3.6, abs=0.05)
    assert f"restricted to the liver mask of {liver}" in capsys.readouterr().out


def test_a_mask_of_another_grid_is_one_error(tmp_path, run, capsys):
    scan, liver = scan_file(tmp_path / "scan.nii.gz"), tmp_path / "liver.nii.gz"
    half(liver, ball()[0], shift=0.4)
    assert run("--image", scan, "--out", tmp_path / "m.nii.gz", "--liver", liver) == 1
    (line,) = [x for x in capsys.readouterr().err.splitlines() if "liver mask: " in x]
    assert "--resample-masks" in line
    assert not (tmp_path / "m.nii.gz").exists()


def test_the_remedy_of_another_grid_works(tmp_path, run, capsys):
    """The option that the error names takes the mask, and says so."""
    scan, liver = scan_file(tmp_path / "scan.nii.gz"), tmp_path / "liver.nii.gz"
    image, ball_inside = ball()
    inside = half(liver, image, shift=0.4)
    arguments = ["--image", scan, "--out", tmp_path / "m.nii.gz", "--liver", liver]
    assert run(*arguments, "--resample-masks") == 0
    found = mask_of(tmp_path / "m.nii.gz")
    assert found.any()
    assert not found[..., 11:].any()
    assert (found & ~ball_inside).sum() == 0
    assert (found != (ball_inside & inside)).sum() < 0.2 * found.sum()
    assert "resampled" in capsys.readouterr().err


def test_an_option_for_livers_without_one_is_said(tmp_path, run, capsys):
    scan = scan_file(tmp_path / "scan.nii.gz")
    assert run("--image", scan, "--out", tmp_path / "m.nii.gz", "--resample-masks") == 0
    assert "--resample-masks changes nothing: no mask of a liver is used" in capsys.readouterr().err


def test_the_column_restricts_the_scans_that_have_a_mask(tmp_path, run, capsys):
    image, found = ball()
    for name in "ab":
        scan_file(tmp_path / f"{name}.nii.gz")
    inside = half(tmp_path / "a_liver.nii.gz", image)
    (tmp_path / "cohort.csv").write_text(
        "patient,condition,image,liver\na,ct,a.nii.gz,a_liver.nii.gz\nb,ct,b.nii.gz,\n"
    )
    words = ["--image", tmp_path / "cohort.csv", "--out", tmp_path / "out"]
    said = {}
    for asked in ("column", "none", None):
        assert run(*words, *(["--liver", asked] if asked else [])) == 0
        said[asked] = capsys.readouterr().out
        expected = found & inside if asked == "column" else found
        np.testing.assert_array_equal(mask_of(tmp_path / "out/a_ct.nii.gz"), expected)
        np.testing.assert_array_equal(mask_of(tmp_path / "out/b_ct.nii.gz"), found)
    assert "column liver: 1 of 2 scans; 1 is not" in said["column"]
    assert said["none"] == said[None]
    assert "not restricted to the liver (1 scans have a mask of it" in said[None]
    # The run's own rule counts where the option is not given.
    assert run(*words, segmenter=identity(liver="column")) == 0
    np.testing.assert_array_equal(mask_of(tmp_path / "out/a_ct.nii.gz"), found & inside)


def test_a_run_segments_the_liver_first(tmp_path, run, capsys, monkeypatch):
    scan, other = scan_file(tmp_path / "scan.nii.gz"), tmp_path / "liver_run"
    other.mkdir()
    (other / "config.json").write_text("{}")
    _, found = ball()

    def network(batch):  # the liver of all slices: their upper rows, and a part for itself
        out = np.zeros(batch.shape[:3], np.float32)
        out[:, :20], out[:, 30] = 1, 1
        return out

    of_liver = dataclasses.replace(identity(), network=network)
    monkeypatch.setattr(predict_liver, "load", lambda run, **options: of_liver)
    decided, made_by = [], ScanSegmenter.made_by

    def remember(self, *, one_segment, beside=()):
        decided.append(list(beside))
        return made_by(self, one_segment=one_segment, beside=beside)

    monkeypatch.setattr(ScanSegmenter, "made_by", remember)
    words = ["--image", scan, "--out", tmp_path / "m.nii.gz", "--liver", other]
    assert run(*words) == 0
    rows_left = np.flatnonzero(mask_of(tmp_path / "m.nii.gz").any(axis=(0, 2)))
    assert found.any(axis=(0, 2))[:27].sum() == 13  # rows 14 to 26 of 1.2 mm
    assert rows_left.tolist() == list(range(14, 24))  # up to row 19, and 5 mm more
    text = f"restricted to the liver that {other} segments, and 5 mm around it: 1 of 1 scans"
    assert text in capsys.readouterr().out
    assert decided.pop() == [f"in liver by {of_liver.fingerprint}"]
    # A run that finds no liver restricts nothing, and says so, in the results too.
    nothing = dataclasses.replace(of_liver, network=lambda batch: np.zeros(batch.shape[:3], "f4"))
    monkeypatch.setattr(predict_liver, "load", lambda run, **options: nothing)
    assert run(*words) == 0
    np.testing.assert_array_equal(mask_of(tmp_path / "m.nii.gz"), found)
    said = capsys.readouterr()
    assert "finds no liver, so that the prediction is not restricted" in said.err
    assert f"not restricted to the liver: {other} finds none" in said.out
    assert decided.pop() == []


def test_the_livers_run_is_computed_and_announced_as_the_other(tmp_path, run, capsys, monkeypatch):
    scan, other = bright_series(tmp_path / "ct"), tmp_path / "liver_run"
    other.mkdir()
    (other / "config.json").write_text("{}")
    asked, uids = [], []
    made = identity(network=lambda batch: np.ones(batch.shape[:3], np.float32))
    own = made.config
    own.data.cohort = "somewhere"
    for engine, cohort in (
        (Engine("XLA", note="of the liver's engine"), "phantom"),
        (Engine("OpenVINO", "bfloat16"), "somewhere"),
    ):
        data = dataclasses.replace(own.data, cohort=cohort)
        config = dataclasses.replace(own, data=data)
        of_liver = dataclasses.replace(made, config=config, engine=engine)
        monkeypatch.setattr(
            predict_liver, "load",
            lambda run, of_liver=of_liver, **options: asked.append(options) or of_liver,
        )  # fmt: skip
        words = ["--image", scan, "--out", tmp_path / "seg.dcm", "--liver", other]
        assert run(*words, "--engine", "xla", "--device", "cpu", segmenter=made) == 0
        uids.append(pydicom.dcmread(tmp_path / "seg.dcm").SOPInstanceUID)
        said = capsys.readouterr().err
        phantom = f"PHANTOM: the liver's run {other} was trained on digital images; its livers are"
        assert (phantom in said) == (cohort == "phantom")
        assert ("note: of the liver's engine" in said) == (cohort == "phantom")
    assert all((o["engine"], o["device"].platform) == ("xla", "cpu") for o in asked)
    assert uids[0] != uids[1]


def test_a_run_that_sees_several_images_is_no_run_for_the_liver(tmp_path, monkeypatch):
    (tmp_path / "config.json").write_text("{}")
    segmenter = identity()
    data = dataclasses.replace(segmenter.config.data, channels=("pre_dwi", "pre_t2wi"))
    two = dataclasses.replace(segmenter, config=dataclasses.replace(segmenter.config, data=data))
    monkeypatch.setattr(predict_liver, "load", lambda run, **options: two)
    with pytest.raises(UserError, match=r"trained without data\.channels"):
        restrict([Scan(tmp_path / "a", "a")], str(tmp_path), segmenter)


def test_a_liver_that_cannot_be_meant_is_an_error(tmp_path):
    scans = [Scan(tmp_path / "a", "a"), Scan(tmp_path / "b", "b")]
    (tmp_path / "b_liver.nii.gz").touch()
    with pytest.raises(UserError, match=r"one mask for 2 scans; write \{name\}"):
        restrict(scans, str(tmp_path / "b_liver.nii.gz"), identity())
    with pytest.raises(UserError, match=r"a_liver.*: no mask and no run is there"):
        restrict(scans, str(tmp_path / "{name}_liver.nii.gz"), identity())
    found = restrict(scans[1:], str(tmp_path / "{name}_liver.nii.gz"), identity())
    assert found.scans[0].liver == (tmp_path / "b_liver.nii.gz",)


def test_an_ensemble_writes_down_what_restricts_it(tmp_path):
    members = [identity(), dataclasses.replace(identity(), fingerprint="e" * 64)]
    record = json.loads(of_members(members, [tmp_path, tmp_path]).record("restricted to it"))
    assert record["liver"] == "restricted to it"


def test_a_function_takes_a_liver_too():
    image, found = ball()
    mask = np.zeros(found.shape, np.uint8)
    mask[..., :9] = 1
    liver = sitk.GetImageFromArray(mask)
    liver.CopyInformation(image)
    left = sitk.GetArrayFromImage(identity()(image, liver=liver)) > 0
    np.testing.assert_array_equal(left, found & (mask > 0))
    liver.SetOrigin((0.0, 0.0, 0.0))
    with pytest.raises(VolumeError, match="the liver mask and the image differ in origin"):
        identity()(image, liver=liver)
