"""Run folders and checkpoints of version 0.1.0, from before the packages, are still read.

`tests/fixtures/made_by_0_1_0` has a finished run of a tiny UNet++, a scan, and what 0.1.0 predicted
on it (one thread).
"""

import shutil

import jax
import numpy as np
import pytest
import SimpleITK as sitk

from crlm_jax import predict
from crlm_jax.config.schema import Config
from crlm_jax.imaging import volumes
from crlm_jax.measures.result_tables import result_rows
from crlm_jax.measures.table import SHORT
from crlm_jax.method.checkpoint import Checkpoints
from crlm_jax.method.step import create_state
from crlm_jax.report.page import write_report
from crlm_jax.runs.finished import read_finished
from crlm_jax.runs.folder import RunFolder, open_workdir, read_run
from crlm_jax.system import parallel
from crlm_jax.training.loop import checkpoint_parts


@pytest.fixture
def old(fixtures, tmp_path):
    """A copy: Orbax may write beside what it reads."""
    return shutil.copytree(fixtures / "made_by_0_1_0", tmp_path / "old")


def test_it_predicts_as_it_did(old):
    segment = predict.load(old / "run")
    scan = sitk.ReadImage(str(old / "scan.nii.gz"))
    volume = volumes.from_image(scan)
    probability = segment.probability(segment.slices(segment.grey(volume), volume.geometry))
    np.testing.assert_allclose(probability, np.load(old / "probability.npy"), atol=1e-4)
    expected = sitk.GetArrayFromImage(sitk.ReadImage(str(old / "mask.nii.gz")))
    assert expected.sum() == 86
    np.testing.assert_array_equal(sitk.GetArrayFromImage(segment(scan)), expected)


def test_its_training_goes_on_from_its_checkpoint(old):
    config = read_run(old / "run")
    _, state = create_state(config, parallel.make_mesh(1))
    with Checkpoints(old / "run" / "checkpoints") as checkpoints:
        step, parts = checkpoints.resume(checkpoint_parts(state))
    assert step == 90
    momentum = jax.tree.leaves(parts["training"]["opt_state"])
    assert max(float(np.abs(leaf).max()) for leaf in momentum) > 0


def test_its_configuration_and_results_are_read(old):
    config = read_run(old / "run")
    assert isinstance(config, Config)
    assert config.segmenter.widths == (4, 8)
    assert not open_workdir(config, RunFolder(old / "run"))  # the report is not there
    assert [row.patient for row in read_finished(old / "run").rows] == ["p00", "p02"]
    html = write_report([old / "run"], old / "report.html").read_text(encoding="utf-8")
    assert "p00" in html


def test_it_has_no_mean_over_slices_and_its_report_does_without(old):
    run = read_finished(old / "run")
    assert "dsc_slices" not in run.rows[0].measures
    protocols = [row[1] for row in result_rows(run.summary)]
    assert protocols == [SHORT["paper"], SHORT["clinical"]] * len(run.summary.conditions)
    assert run.config.train.select == "paper"
