"""Headers that claim impossible sizes, or name files outside their folder."""

import gzip
import struct
import tracemalloc
import zlib
from pathlib import Path

import numpy as np
import pydicom
import pytest
import SimpleITK as sitk
from pydicom.uid import DeflatedExplicitVRLittleEndian

from crlm_jax.imaging import headers, masks, volumes
from crlm_jax.imaging.dicom import segmentation
from crlm_jax.imaging.dicom.files import find_series
from crlm_jax.imaging.geometry import MOST_VOXELS, VolumeError
from tests.imaging.dicom import dicoms

# Sizes


def nifti(path: Path, dims, voxels: bytes = b"", datatype: int = 16) -> Path:
    """A NIfTI whose header says anything."""
    head = bytearray(352)
    struct.pack_into("<i", head, 0, 348)
    struct.pack_into("<8h", head, 40, len(dims), *dims, *[1] * (7 - len(dims)))
    struct.pack_into("<2h", head, 70, datatype, 32)
    struct.pack_into("<8f", head, 76, *[1.0] * 8)
    struct.pack_into("<f", head, 108, 352)
    head[344:348] = b"n+1\0"
    opener = gzip.open if path.name.endswith(".gz") else open
    with opener(path, "wb") as file:
        file.write(bytes(head) + voxels)
    return path


def refused_without_memory(path: Path, message: str) -> None:
    tracemalloc.start()
    with pytest.raises(VolumeError, match=message) as caught:
        volumes.read_image(path)
    assert tracemalloc.get_traced_memory()[1] < 2**26
    tracemalloc.stop()
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz"])
def test_a_nifti_that_claims_to_be_huge(tmp_path, name):
    path = nifti(tmp_path / name, (32767, 32767, 32767), bytes(1000))
    refused_without_memory(path, "its header claims 32767 × 32767 × 32767 voxels, not 1 to")
    path = nifti(tmp_path / name, (1024, 1024, 1024), bytes(1000))
    refused_without_memory(path, "bytes of voxels are missing")


@pytest.mark.parametrize("ending", [".mha", ".nrrd", ".png"])
def test_other_images_that_claim_to_be_huge(tmp_path, ending):
    shape = (6, 7) if ending == ".png" else (3, 6, 7)
    path = tmp_path / f"a{ending}"
    sitk.WriteImage(
        sitk.GetImageFromArray(np.arange(np.prod(shape), dtype="u1").reshape(shape)), str(path)
    )
    content = path.read_bytes()
    if ending == ".png":
        head = b"IHDR" + struct.pack(">2I", 2**17, 2**17) + content[24:29]
        content = content[:12] + head + struct.pack(">I", zlib.crc32(head)) + content[33:]
    else:
        content = content.replace(b"7 6 3", b"99999 99999 99999")
    path.write_bytes(content)
    refused_without_memory(path, "its header claims|not a readable image")


def test_a_dicom_that_claims_to_be_huge(tmp_path):
    def change(index, header):
        header.Rows = header.Columns = 65535

    dicoms.write_series(tmp_path / "ct", change=change)
    refused_without_memory(
        tmp_path / "ct", f"its header claims 65535 × 65535 × 6 .* {MOST_VOXELS:,}"
    )


# Deflated DICOM


def deflate(path: Path, more: int = 0, *, preamble: bool = True) -> int:
    """Deflates a DICOM file, with so many zeros before the pixels; returns its size inflated."""
    header = pydicom.dcmread(path)
    if more:
        header.add_new((0x0009, 0x0010), "LO", "ZEROS")
        header.add_new((0x0009, 0x1000), "OB", bytes(more))
    header.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
    header.save_as(path)
    size = len(pydicom.dcmread(path).buffer.getvalue())
    if not preamble:
        path.write_bytes(path.read_bytes()[132:])
    return size


def zeros_beyond(monkeypatch) -> int:
    """Sets the limit to 1 MiB; returns more zeros than `refused_without_memory` lets pass."""
    monkeypatch.setattr(headers, "_MOST_INFLATED", 2**20)
    return 2**26


def test_a_deflated_series_is_read(tmp_path, monkeypatch):
    files = dicoms.write_series(tmp_path / "ct")
    plain = volumes.read_image(tmp_path / "ct").voxels
    total = sum(deflate(file) for file in files)
    np.testing.assert_array_equal(volumes.read_image(tmp_path / "ct").voxels, plain)
    monkeypatch.setattr(headers, "_MOST_INFLATED", total)
    np.testing.assert_array_equal(volumes.read_image(tmp_path / "ct").voxels, plain)
    # Its files fill the memory together, since pydicom keeps what it has inflated.
    monkeypatch.setattr(headers, "_MOST_INFLATED", total - 1)
    with pytest.raises(VolumeError, match=f"5.dcm: a deflated .* {total - 1:,} bytes with those b"):
        volumes.read_image(tmp_path / "ct")


@pytest.mark.parametrize("preamble", [True, False])
def test_a_deflated_dicom_that_would_fill_the_memory(tmp_path, monkeypatch, preamble):
    file = dicoms.write_series(tmp_path / "ct")[2]
    deflate(file, zeros_beyond(monkeypatch), preamble=preamble)
    assert file.stat().st_size < 2**18
    refused_without_memory(file, "a deflated DICOM file that would fill more than 1,048,576 bytes;")
    with pytest.raises(VolumeError, match=r"002\.dcm: a deflated .* store it uncompressed"):
        volumes.read_image(tmp_path / "ct")
    unreadable = []
    assert len(find_series(tmp_path, unreadable)[dicoms.uid(1)]) == 5
    assert unreadable == [file]


def test_a_deflated_dicom_that_only_itk_takes_for_one(tmp_path, monkeypatch):
    file = dicoms.write_series(tmp_path, names=[f".{number}.png" for number in range(6)])[0]
    zeros = zeros_beyond(monkeypatch)
    assert volumes.read_image(file).voxels.shape == (1, 12, 16)
    deflate(file, zeros)
    refused_without_memory(file, "a deflated DICOM file")


def test_a_deflated_segmentation_that_would_fill_the_memory(tmp_path, monkeypatch):
    sources = dicoms.write_series(tmp_path / "ct")
    path = tmp_path / "seg.dcm"
    dicoms.write_segments(path, sources, {"Tumor_1": np.ones(dicoms.SHAPE, bool)})
    like = volumes.read_image(tmp_path / "ct")
    deflate(path)
    assert segmentation.is_segmentation(path)
    assert masks.read_mask(path, None, like).all()
    deflate(path, zeros_beyond(monkeypatch))
    assert not segmentation.is_segmentation(path)
    with pytest.raises(VolumeError, match=r"seg\.dcm: a deflated DICOM file"):
        masks.read_mask(path, None, like)


def test_a_deflated_dicom_that_is_cut_off(tmp_path, monkeypatch):
    files = dicoms.write_series(tmp_path / "ct")
    deflate(files[0], zeros_beyond(monkeypatch))
    deflate(files[1])
    for file in files[:2]:
        file.write_bytes(file.read_bytes()[:-100])
    refused_without_memory(files[0], "a deflated DICOM file")  # measured up to there
    refused_without_memory(files[1], "not a DICOM file, or cut off or damaged")


# Files that a header names


@pytest.mark.parametrize(
    "name", ["../secret.raw", "/etc/passwd", "a/../../secret.raw", "LIST", "%n"]
)
@pytest.mark.parametrize("ending", [".mha", ".mhd", ".nrrd", ".nhdr", ".NHDR"])
def test_an_image_shows_no_file_from_elsewhere(tmp_path, ending, name):
    (tmp_path / "secret.raw").write_bytes(bytes(range(126)) * 2)
    folder = tmp_path / "scans"
    folder.mkdir()
    path = folder / f"a{ending}"
    if ending.lower() in (".nrrd", ".nhdr"):
        text = "NRRD0004\ntype: short\ndimension: 3\nsizes: 7 6 3\nendian: little\nencoding: raw\n"
        text += f"data file: {name}\n"
    else:
        text = "ObjectType = Image\nNDims = 3\nDimSize = 7 6 3\nElementType = MET_SHORT\n"
        text += f"ElementDataFile = {name}\n"
    path.write_text(text)
    with pytest.raises(VolumeError, match="its voxels lie in other files"):
        volumes.read_image(path)


@pytest.mark.parametrize("name", ["a.mhd", "a.nhdr"])
@pytest.mark.parametrize("compressed", [False, True])
def test_an_image_may_have_its_voxels_beside_it(tmp_path, name, compressed):
    image = sitk.GetImageFromArray(np.arange(126, dtype=np.int16).reshape(3, 6, 7))
    sitk.WriteImage(image, str(tmp_path / name), useCompression=compressed)
    assert volumes.read_image(tmp_path / name).voxels.max() == 125
    (beside,) = headers.data_files(tmp_path / name)
    assert beside.is_file()
    assert headers.data_files(beside) == ()


def test_a_detached_header_is_checked_as_one_with_its_voxels(tmp_path):
    path = tmp_path / "a.nhdr"
    (tmp_path / "a.raw").write_bytes(bytes(range(126)) * 2)
    text = "NRRD0004\ntype: short\ndimension: 3\nsizes: 7 6 3\nendian: little\nencoding: raw\n"
    path.write_text(f"{text}data file: a.raw\n")
    assert "no spacing" in volumes.read_image(path).doubts[0]
    path.write_text(f"{text}spacings: nan nan nan\ndata file: a.raw\n")
    with pytest.raises(VolumeError, match="no number"):
        volumes.read_image(path)


@pytest.mark.parametrize(
    ("unit", "read"), [("mm", True), ("cm", False), ("m", False), ("um", False)]
)
def test_an_nrrd_in_another_unit(tmp_path, unit, read):
    path = tmp_path / "a.nrrd"
    image = sitk.GetImageFromArray(np.arange(126, dtype=np.int16).reshape(3, 6, 7))
    sitk.WriteImage(image, str(path))
    units = " ".join([f'"{unit}"'] * 3).encode()
    path.write_bytes(path.read_bytes().replace(b"\n\n", b"\nspace units: " + units + b"\n\n", 1))
    if read:
        assert volumes.read_image(path).voxels.max() == 125
        return
    with pytest.raises(VolumeError, match=f"lengths are in {unit}"):
        volumes.read_image(path)


@pytest.mark.parametrize("name", ["a.mha", "a.mhd", "a.nrrd", "a.nhdr"])
def test_compressed_voxels_that_are_damaged(tmp_path, name):
    path = tmp_path / name
    voxels = np.random.default_rng(0).integers(0, 1000, (6, 10, 12)).astype(np.int16)
    sitk.WriteImage(sitk.GetImageFromArray(voxels), str(path), useCompression=True)
    file = (*headers.data_files(path), path)[0]
    whole = file.read_bytes()
    np.testing.assert_array_equal(volumes.read_image(path).voxels, voxels)
    for place in range(-900, -1, 90):
        damaged = bytearray(whole)
        damaged[place] ^= 0x10
        file.write_bytes(damaged)
        with pytest.raises(VolumeError, match=r"voxels are cut off or damaged|not a readable"):
            volumes.read_image(path)
    for cut in (2, 100):
        file.write_bytes(whole[:-cut])
        with pytest.raises(VolumeError, match=r"voxels are cut off or damaged|not a readable"):
            volumes.read_image(path)


def test_compressed_voxels_are_inflated_no_further_than_the_header_says(tmp_path):
    path = tmp_path / "a.mha"
    voxels = np.zeros((6, 10, 12), np.int16)
    sitk.WriteImage(sitk.GetImageFromArray(voxels), str(path), useCompression=True)
    head, mark, packed = path.read_bytes().partition(b"LOCAL\n")
    more = zlib.compress(bytes(2**26))
    head = head.replace(f"Size = {len(packed)}".encode(), f"Size = {len(more)}".encode())
    path.write_bytes(head + mark + more)
    refused_without_memory(path, "they are more than its header says|not a readable image")


@pytest.mark.parametrize("name", ["a.vtk", "a.gipl", "a.tif", "a.mnc", "a", "a.seg"])
def test_formats_that_are_not_promised_are_refused(tmp_path, name):
    path = tmp_path / name
    image = sitk.GetImageFromArray(np.arange(126, dtype=np.int16).reshape(3, 6, 7))
    written = path.with_suffix(".vtk" if path.suffix not in (".gipl", ".tif") else path.suffix)
    sitk.WriteImage(image, str(written))
    written.rename(path)
    with pytest.raises(VolumeError, match="not an image by its ending"):
        volumes.read_image(path)


@pytest.mark.parametrize("axes", ["-1", "0", "11", "1000000", "99999999999999999999", "3 3", ""])
def test_a_metaimage_with_axes_that_cannot_be(tmp_path, axes):
    path = tmp_path / "a.mha"
    path.write_text(
        f"ObjectType = Image\nNDims = {axes}\nDimSize = 7 6 3\nElementDataFile = LOCAL\n"
    )
    with pytest.raises(VolumeError, match="not a MetaImage, or damaged"):
        volumes.read_image(path)


@pytest.mark.parametrize("ending", [".jpg", ".jpeg", ".bmp", ".JPG"])
def test_a_picture_that_is_cut_off(tmp_path, ending):
    path = tmp_path / f"a{ending.lower()}"
    voxels = np.random.default_rng(0).integers(0, 255, (64, 80)).astype(np.uint8)
    sitk.WriteImage(sitk.GetImageFromArray(voxels), str(path))
    path = path.rename(tmp_path / f"b{ending}")
    whole = path.read_bytes()
    path.write_bytes(whole + b"more")
    assert volumes.read_image(path).voxels.shape == (1, 64, 80)
    for cut in (1, 100, 1000):
        path.write_bytes(whole[:-cut])
        with pytest.raises(VolumeError, match="the picture is cut off"):
            volumes.read_image(path)
