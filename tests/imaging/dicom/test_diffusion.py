"""The b-value of a diffusion series: how each vendor states it, and which images are chosen."""

import struct
from pathlib import Path

import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset

from crlm_jax.imaging.dicom.series import read_series
from tests.imaging.dicom.dicoms import SHAPE, refuse, uid, voxels, write_series


def standard(header: Dataset, b: int) -> None:
    header.DiffusionBValue = float(b)


def ge(header: Dataset, b: int) -> None:
    header.private_block(0x0043, "GEMS_PARM_01", create=True).add_new(0x39, "IS", [b, 8, 0, 0])


def ge_biased(header: Dataset, b: int) -> None:
    ge(header, b + 1_000_000_000)


def ge_bytes(header: Dataset, b: int) -> None:
    text = f"{b}\\8\\0\\0".encode()
    header.private_block(0x0043, "GEMS_PARM_01", create=True).add_new(0x39, "UN", text)


def siemens(header: Dataset, b: int) -> None:
    header.private_block(0x0019, "SIEMENS MR HEADER", create=True).add_new(0x0C, "IS", b)


def siemens_bytes(header: Dataset, b: int) -> None:
    header.private_block(0x0019, "OTHER", create=True).add_new(0x0C, "LO", "77")
    block = header.private_block(0x0019, "SIEMENS MR HEADER", create=True)
    block.add_new(0x0C, "UN", f"{b} ".encode())


def philips(header: Dataset, b: int) -> None:
    header.private_block(0x2001, "Philips Imaging DD 001", create=True).add_new(3, "FL", float(b))


def philips_bytes(header: Dataset, b: int) -> None:
    block = header.private_block(0x2001, "Philips Imaging DD 001", create=True)
    block.add_new(3, "UN", struct.pack("<f", b))


def uih(header: Dataset, b: int) -> None:
    header.private_block(0x0065, "Image Private Header", create=True).add_new(9, "FD", float(b))


def uih_bytes(header: Dataset, b: int) -> None:
    block = header.private_block(0x0065, "Image Private Header", create=True)
    block.add_new(9, "UN", struct.pack("<d", b))


VENDORS = [standard, ge, ge_biased, ge_bytes, siemens, siemens_bytes, philips, philips_bytes]
VENDORS += [uih, uih_bytes]


def write_diffusion(folder: Path, state, b_values=(0, 50, 1000), change=None) -> None:
    """One series with an image of each b-value at each position; the array of b has seed b."""
    for b in b_values:

        def tell(index, header, b=b):
            state(header, b)
            if change:
                change(index, header, b)

        write_series(
            folder,
            voxels(b),
            modality="MR",
            names=[f"{index}-{b}" for index in range(SHAPE[0])],
            change=tell,
        )


@pytest.mark.parametrize("state", VENDORS)
def test_b_1000_of_several(tmp_path, state):
    write_diffusion(tmp_path, state)
    array, geometry, series = read_series(tmp_path)
    np.testing.assert_array_equal(array, voxels(1000))
    assert series.b_value == 1000.0
    assert geometry.size == SHAPE[::-1]
    array, _, series = read_series(tmp_path, b_value=50)
    np.testing.assert_array_equal(array, voxels(50))
    assert series.b_value == 50.0
    assert [Path(header.filename).name for header in series.headers][:2] == ["0-50", "1-50"]


@pytest.mark.parametrize("state", [siemens, ge, philips, uih])
def test_private_values_of_a_file_with_implicit_types(tmp_path, state):
    def implicit(index, header, b):
        header.file_meta.TransferSyntaxUID = pydicom.uid.ImplicitVRLittleEndian

    write_diffusion(tmp_path, state, change=implicit)
    np.testing.assert_array_equal(read_series(tmp_path)[0], voxels(1000))


def test_private_elements_of_another_creator_are_not_b_values(tmp_path):
    def foreign(header, b):
        header.private_block(0x0019, "SOMEBODY", create=True).add_new(0x0C, "IS", b)

    write_diffusion(tmp_path, foreign)
    refuse(
        lambda: read_series(tmp_path),
        "several images at one position",
        "that no b-value distinguishes",
    )


def test_b_value_that_is_not_there(tmp_path):
    write_diffusion(tmp_path, siemens, (0, 50, 800))
    refuse(
        lambda: read_series(tmp_path),
        f"{tmp_path}: series {uid(1)}: no image has a b-value of 1000 s/mm²",
        "the series has 0, 50, 800",
        "--b-value",
        "column b_value",
    )
    refuse(lambda: read_series(tmp_path, b_value=400), "b-value of 400 s/mm²;", "0, 50, 800")


def test_b_value_that_lacks_a_slice(tmp_path):
    write_diffusion(tmp_path, siemens)
    (tmp_path / "5-1000").unlink()  # at the edge: the rest is an even stack
    refuse(
        lambda: read_series(tmp_path),
        "the b-value 1000 s/mm² lacks 1 of the 6 slices",
        "--b-value",
    )


def test_series_of_one_b_value(tmp_path):
    write_diffusion(tmp_path, philips, (800,))
    for asked in (None, 800):
        array, _, series = read_series(tmp_path, b_value=asked)
        np.testing.assert_array_equal(array, voxels(800))
        assert series.b_value == 800.0
    refuse(
        lambda: read_series(tmp_path, b_value=1000),
        f"series {uid(1)}: states a b-value of 800 s/mm², not 1000; choose it with --b-value",
    )


def test_series_that_states_no_b_value_is_taken_as_it_is(tmp_path):
    write_series(tmp_path, modality="MR")
    array, _, series = read_series(tmp_path, b_value=1000)
    np.testing.assert_array_equal(array, voxels())
    assert series.b_value is None


def test_map_beside_the_diffusion_images(tmp_path):
    write_diffusion(tmp_path, lambda header, b: siemens(header, b) if b else None, (0, 1000))
    np.testing.assert_array_equal(read_series(tmp_path)[0], voxels(1000))


@pytest.mark.parametrize(
    "kind",
    [
        ["DERIVED", "PRIMARY", "DIFFUSION", "ADC"],
        ["DERIVED", "SECONDARY", "ADC"],
        ["DERIVED", "SECONDARY", "ADC_UNSPECIFIED"],
        ["ORIGINAL", "PRIMARY", "EADC", "SE", "EADC"],
        ["DERIVED", "PRIMARY", "DIFFUSION", "FA", "ND"],
    ],
)
@pytest.mark.parametrize("stated", [0, 1000])
def test_map_that_states_a_b_value_is_left_out(tmp_path, kind, stated):
    def state(header, b):
        siemens(header, stated if b == 9 else b)
        if b == 9:
            header.ImageType = kind

    write_diffusion(tmp_path, state, (0, 50, 1000, 9))
    for asked in (0, 50, 1000):
        np.testing.assert_array_equal(read_series(tmp_path, b_value=asked)[0], voxels(asked))


def test_phase_beside_the_magnitude(tmp_path):
    def state(header, b):
        header.ImageType = ["ORIGINAL", "PRIMARY", "P" if b else "M", "ND"]

    write_diffusion(tmp_path, state, (0, 1))
    array, _, series = read_series(tmp_path)
    np.testing.assert_array_equal(array, voxels(0))
    assert "(phase) are left out" in series.doubts[0]


def as_trace(header: Dataset) -> None:
    header.ImageType = ["DERIVED", "PRIMARY", "DIFFUSION", "TRACEW", "ND"]


def as_isotropic(header: Dataset) -> None:
    header.DiffusionDirectionality = "ISOTROPIC"


def as_philips_isotropic(header: Dataset) -> None:
    block = header.private_block(0x2001, "Philips Imaging DD 001", create=True)
    block.add_new(0x04, "CS", "I")


@pytest.mark.parametrize("mark", [as_trace, as_isotropic, as_philips_isotropic])
def test_trace_among_the_directions(tmp_path, mark):
    def state(header, b):
        siemens(header, min(b, 1000))
        if b == 1003:
            mark(header)

    write_diffusion(tmp_path, state, (0, 1000, 1001, 1002, 1003))
    np.testing.assert_array_equal(read_series(tmp_path)[0], voxels(1003))


def test_directions_without_a_trace(tmp_path):
    write_diffusion(tmp_path, lambda header, b: ge(header, min(b, 1000)), (0, 1000, 1001))
    refuse(
        lambda: read_series(tmp_path),
        f"series {uid(1)}: several images of b-value 1000 s/mm² at one position (0-1000 and 0-10",
        "--series UID",
    )
