"""DICOM-SEG of multi-frame images: what refers to the frames of the file, and what cannot."""

import numpy as np
import pydicom
import pytest

from crlm_jax.imaging.dicom.results import Algorithm
from crlm_jax.imaging.dicom.segmentation import write_segmentation
from crlm_jax.imaging.dicom.sources import check_sources
from crlm_jax.imaging.masks import read_mask
from crlm_jax.imaging.volumes import read_image
from tests.imaging.dicom import dicoms
from tests.imaging.dicom.dicoms import refuse, save, voxels
from tests.imaging.dicom.enhanced import diffusion, make_mosaic, write_enhanced
from tests.imaging.dicom.test_multiframe import SEVERAL, concatenate


def lesions() -> np.ndarray:
    mask = np.zeros(dicoms.SHAPE, np.uint8)
    mask[1, 2:5, 3:6] = 1
    mask[4, 6:9, 8:12] = 2
    return mask


def write(path, image, mask):
    array = image.geometry.from_axial(mask)
    write_segmentation(path, array, image.series, algorithm=Algorithm("a", "1", "f"))
    return pydicom.dcmread(path)


@pytest.mark.parametrize("interleaved", [False, True])
def test_a_segmentation_refers_to_the_frames_of_the_file(tmp_path, interleaved):
    path = write_enhanced(tmp_path / "a.dcm", SEVERAL, interleaved=interleaved)
    image = read_image(path)
    written = write(tmp_path / "seg.dcm", image, lesions())
    groups = pydicom.dcmread(path).PerFrameFunctionalGroupsSequence
    for frame, z in zip(written.PerFrameFunctionalGroupsSequence, (1, 4), strict=True):
        (source,) = frame.DerivationImageSequence[0].SourceImageSequence
        number = source.ReferencedFrameNumber
        assert number == (3 * z + 3 if interleaved else 12 + z + 1)
        assert groups[number - 1].MRDiffusionSequence[0].DiffusionBValue == 1000
        assert source.ReferencedSOPInstanceUID == image.series.headers[0].SOPInstanceUID
    assert written.PatientName == dicoms.PATIENT["PatientName"]
    np.testing.assert_array_equal(read_mask(tmp_path / "seg.dcm", None, image), lesions() > 0)


def test_ct_and_an_empty_mask(tmp_path):
    path = write_enhanced(tmp_path / "a.dcm", [(voxels(), None)], modality="CT")
    image = read_image(path)
    written = write(tmp_path / "seg.dcm", image, np.zeros(dicoms.SHAPE, bool))
    assert written.NumberOfFrames == dicoms.SHAPE[0]
    assert not read_mask(tmp_path / "seg.dcm", None, image).any()


def test_a_segmentation_drawn_on_an_enhanced_image(tmp_path):
    path = write_enhanced(tmp_path / "a.dcm", [(voxels(b), diffusion(b)) for b in (0, 1000)])
    image = read_image(path)
    positions = [header.ImagePositionPatient for header in image.series.headers]
    dicoms.write_segments(
        tmp_path / "seg.dcm", [path], {"Tumor": lesions() > 0}, positions=positions
    )
    np.testing.assert_array_equal(read_mask(tmp_path / "seg.dcm", None, image), lesions() > 0)


def test_sources_that_no_segmentation_can_refer_to(tmp_path):
    mosaic = read_image(save(make_mosaic(voxels()), tmp_path / "mosaic" / "a.dcm"))
    refuse(lambda: check_sources(mosaic.series), "a MOSAIC", "as NIfTI (.nii.gz)")
    concatenate(tmp_path / "parts")
    parts = read_image(tmp_path / "parts")
    refuse(lambda: check_sources(parts.series), "several multi-frame files", "as NIfTI (.nii.gz)")
    dicoms.write_series(tmp_path / "classic")
    check_sources(read_image(tmp_path / "classic").series)
