"""UIDs and dates of results: the same result is the same object, another one is another."""

import dataclasses
import datetime

import numpy as np
import pydicom
import pytest
import SimpleITK as sitk

from crlm_jax.imaging.dicom import results
from crlm_jax.imaging.dicom.report import write_report
from crlm_jax.imaging.dicom.rtstruct import write_rtstruct
from crlm_jax.imaging.dicom.segmentation import write_segmentation
from crlm_jax.imaging.lesions import label_lesions, measure_lesions
from crlm_jax.imaging.masks import read_lesions
from crlm_jax.imaging.volumes import read_image
from tests.imaging.dicom.dicoms import write_series
from tests.imaging.dicom.results import ALGORITHM, check, lesions

WHEN = datetime.datetime(2026, 5, 4, 3, 2, 1)


@pytest.fixture(scope="module")
def volume(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ct")
    write_series(folder)
    return read_image(folder)


def write(folder, volume, mask=None, **options):
    """Writes one object of each kind; returns their content."""
    folder.mkdir()
    about = {"algorithm": ALGORITHM, "when": WHEN} | options
    own = lesions() if mask is None else mask
    labels = volume.geometry.to_axial(own)
    write_segmentation(folder / "seg.dcm", own, volume.series, **about)
    write_rtstruct(folder / "rs.dcm", own, volume.series, **about)
    write_report(
        folder / "sr.dcm", labels, measure_lesions(labels, volume.geometry), volume.geometry,
        volume.series, segmented=True, **about,
    )  # fmt: skip
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def uids(folder):
    found = [pydicom.dcmread(path) for path in folder.iterdir()]
    return {str(each.SOPInstanceUID) for each in found} | {
        str(each.SeriesInstanceUID) for each in found
    }


def test_the_same_result_is_the_same_file(tmp_path, volume):
    first, again = (write(tmp_path / name, volume) for name in ("1", "2"))
    assert first == again
    assert len(uids(tmp_path / "1")) == 6
    header = pydicom.dcmread(tmp_path / "1" / "seg.dcm")
    assert (header.ContentDate, header.ContentTime) == ("20260504", "030201")
    assert pydicom.dcmread(tmp_path / "1" / "rs.dcm").StructureSetDate == "20260504"
    write(tmp_path / "now", volume, when=None)  # another date, and still the same object
    assert uids(tmp_path / "now") == uids(tmp_path / "1")
    for name in first:
        check(tmp_path / "1" / name)


def test_a_real_ct_with_its_real_mask(tmp_path, shared):
    folder = shared / "data" / "dicom_seg"
    volume = read_image(folder / "ct")
    mask = sitk.GetArrayFromImage(sitk.ReadImage(str(folder / "liver_seg.nrrd"))) > 0
    numbers, _ = label_lesions(mask)
    for name in write(tmp_path / "out", volume, numbers):
        check(tmp_path / "out" / name)
    for name in ("seg", "rs"):
        found = read_lesions(tmp_path / "out" / f"{name}.dcm", None, volume)
        np.testing.assert_array_equal(volume.geometry.from_axial(found.lesions), numbers)


def test_another_image_run_or_setting_is_another_result(volume):
    series = volume.series
    fewer = dataclasses.replace(series, headers=series.headers[:-1])
    others = [
        (series, ALGORITHM),
        (fewer, ALGORITHM),
        *((series, dataclasses.replace(ALGORITHM, **{field.name: "x"}))
          for field in dataclasses.fields(ALGORITHM)),
    ]  # fmt: skip
    found = {
        uid
        for images, algorithm in others
        for kind in ("SEG", "SR", "RTSTRUCT")
        for uid in (
            results.series_uid(images, algorithm, kind),
            results.instance_uid(images, algorithm, kind),
        )
    }
    assert len(found) == len(others) * 6
    assert all(pydicom.uid.UID(uid).is_valid and len(uid) <= 64 for uid in found)
    backwards = dataclasses.replace(series, headers=series.headers[::-1])
    assert results.instance_uid(backwards, ALGORITHM, "SEG") == results.instance_uid(
        series, ALGORITHM, "SEG"
    )
    assert results.derive_uid("a", "bc") != results.derive_uid("ab", "c")
    assert results.derive_uid("a") == "2.25.39962821453501149028331089723919206205"


def test_a_wrong_mask_is_refused(tmp_path, volume):
    with pytest.raises(ValueError, match="lesion numbers"):
        write_rtstruct(tmp_path / "a.dcm", lesions() * 2, volume.series, algorithm=ALGORITHM)
    with pytest.raises(ValueError, match="shape"):
        write_rtstruct(tmp_path / "a.dcm", np.zeros((1, 2, 3), bool), volume.series,
                       algorithm=ALGORITHM)  # fmt: skip
