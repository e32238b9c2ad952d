"""Damaged images, masks and DICOM; see `tests/fuzzing.py`."""

import shutil
from pathlib import Path

import numpy as np
import pydicom
import pytest
import SimpleITK as sitk
from hypothesis import given
from hypothesis import strategies as st
from pydicom.datadict import dictionary_VR
from pydicom.dataelem import RawDataElement
from pydicom.tag import Tag

from crlm_jax.config.schema import Data
from crlm_jax.imaging import grey, masks, volumes
from crlm_jax.imaging.dicom.files import find_series, is_dicom
from crlm_jax.imaging.geometry import VolumeError
from tests.fuzzing import fuzz, mutated, taken_or_refused
from tests.imaging import drawings
from tests.imaging.dicom import dicoms, enhanced


def make_image(folder: Path, ending: str) -> bytes:
    shape = (6, 7) if ending == ".png" else (3, 6, 7)
    voxels = np.arange(np.prod(shape), dtype=np.uint8 if ending == ".png" else np.int16)
    image = sitk.GetImageFromArray(voxels.reshape(shape))
    if ending != ".png":
        image.SetSpacing((0.7, 0.8, 5.0))
    path = folder / f"valid{ending}"
    sitk.WriteImage(image, str(path))
    content = path.read_bytes()
    path.unlink()
    return content


IMAGES = (".nii", ".nii.gz", ".nrrd", ".mha", ".png")


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    folder = tmp_path_factory.mktemp("images")
    return {ending: make_image(folder, ending) for ending in IMAGES}


def check_image(path: Path) -> None:
    volume = None

    def read():
        nonlocal volume
        volume = volumes.read_image(path)
        grey.to_uint8(volume, "ct", Data())
        grey.modality_doubt(volume, "pre_dwi")

    if taken_or_refused(read, VolumeError, path.parent, str(path)):
        taken_or_refused(
            lambda: masks.read_mask(path, 1, volume), VolumeError, path.parent, str(path)
        )


@pytest.mark.parametrize("ending", IMAGES)
@fuzz(150)
@given(data=st.data())
def test_image_bytes(images, tmp_path, ending, data):
    path = tmp_path / f"scan{ending}"
    path.write_bytes(data.draw(mutated(images[ending])))
    check_image(path)


NUMBERS = st.one_of(
    st.sampled_from([0, 1, 2, 3, 4, 8, 16, 128, 255, 256, 512, 1024, 32767, 65535]),
    st.integers(-(2**15), 2**15 - 1),
)


@fuzz(300)
@given(
    place=st.sampled_from(
        [0, 39, *range(40, 56, 2), 70, 72, 108, 112, 252, 254, 344, *range(76, 108, 4)]
    ),
    value=NUMBERS,
    short=st.booleans(),
)
def test_nifti_header(images, tmp_path, place, value, short):
    data = bytearray(images[".nii"])
    field = np.array(value).astype("<i2").tobytes() if short else np.float32(value).tobytes()
    data[place : place + len(field)] = field
    path = tmp_path / "scan.nii"
    path.write_bytes(bytes(data))
    check_image(path)


TEXT_VALUES = """
    0;1;-1;2;3;4;17;1000000;99999999999999999999;1e999;nan;inf;NaN NaN NaN;1 1 1;0 0 0;-1 -1 -1;
    100000 100000 100000;3 3;3 3 3 3;LOCAL;LIST;/etc/passwd;../x.raw;x.raw;gzip;raw;ascii;bzip2;
    short;MET_SHORT;MET_FLOAT;double;block;True;(1,0,0) (0,1,0) (0,0,1);(0,0,0) (0,0,0) (0,0,0);
    none;;%n;(nan,0,0) (0,1,0) (0,0,1)
"""


@pytest.mark.parametrize("ending", [".nrrd", ".mha"])
@fuzz(200)
@given(
    line=st.integers(0, 30),
    value=st.sampled_from([text.strip() for text in TEXT_VALUES.split(";")]),
)
def test_text_header(images, tmp_path, ending, line, value):
    sign = b": " if ending == ".nrrd" else b" = "
    end = b"\n\n" if ending == ".nrrd" else b"LOCAL\n"
    header, _, voxels = images[ending].partition(end)
    lines = (header + end.rstrip()).split(b"\n")
    line %= len(lines)
    lines[line] = lines[line].partition(sign)[0] + sign + value.encode()
    path = tmp_path / f"scan{ending}"
    path.write_bytes(b"\n".join(lines) + (b"\n\n" if ending == ".nrrd" else b"\n") + voxels)
    check_image(path)


@pytest.fixture(scope="module")
def series(tmp_path_factory):
    def change(index, header):  # the same bytes in every run
        header.SOPInstanceUID = header.file_meta.MediaStorageSOPInstanceUID = dicoms.uid(10 + index)

    folder, array = tmp_path_factory.mktemp("dicom") / "ct", dicoms.voxels()[:3, :5, :6]
    files = dicoms.write_series(folder, array, change=change)
    return [file.read_bytes() for file in files]


def write_series(folder: Path, contents: list[bytes]) -> Path:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    for number, content in enumerate(contents):
        (folder / f"{number}.dcm").write_bytes(content)
    return folder


@fuzz(200)
@given(data=st.data(), number=st.integers(0, 2))
def test_dicom_bytes(series, tmp_path, data, number):
    contents = list(series)
    contents[number] = data.draw(mutated(series[number]))
    check_image(write_series(tmp_path / "ct", contents))


@fuzz(200)
@given(data=st.data(), meta=st.booleans())
def test_dicom_without_preamble(series, tmp_path, data, meta):
    """Files without preamble and ending are found by their first elements, or passed over."""
    folder = write_series(tmp_path / "ct", [])
    for number, content in enumerate(series):
        begin = 132 if meta else content.index(b"\x08\x00\x05\x00CS")
        bare = content[begin:]
        (folder / f"IM{number}").write_bytes(data.draw(mutated(bare)) if number == 1 else bare)
    check_image(folder)
    unreadable: list[Path] = []
    taken_or_refused(lambda: find_series(folder, unreadable, []), VolumeError, folder, str(folder))


@fuzz(100)
@given(content=st.one_of(st.binary(max_size=200), st.text(max_size=99).map(str.encode)))
def test_files_that_are_not_dicom(tmp_path, content):
    (tmp_path / "FILE").write_bytes(content)
    assert not is_dicom(tmp_path / "FILE")


ELEMENTS = """
    Rows Columns BitsAllocated BitsStored HighBit PixelRepresentation SamplesPerPixel PixelSpacing
    ImagePositionPatient ImageOrientationPatient RescaleSlope RescaleIntercept SliceThickness
    SeriesInstanceUID SOPClassUID Modality ImageType NumberOfFrames FrameOfReferenceUID
    PhotometricInterpretation PatientID DiffusionBValue
"""
VALUES = {
    "US": [n.to_bytes(2, "little") for n in (0, 1, 2, 5, 6, 16, 65535)] + [b"", b"\1", b"\5\0\6\0"],
    "DS": [
        b"",
        b"0",
        b"-1",
        b"nan",
        b"inf",
        b"1e400",
        b"a",
        b"1\\2",
        b"1\\2\\3",
        b"0\\0\\0\\0\\0\\0",
    ],
    "IS": [b"", b"0", b"1", b"2", b"-3", b"x", b"1\\2"],
    "FD": [np.float64(x).tobytes() for x in (0, -1, np.nan, np.inf, 1e300)] + [b"", b"12345"],
}
TEXTS = [b"", b" ", b"a\\b", b"../../x", b"\xff\xfe", b"1.2.3", b"x" * 200, b"A\nB", b"LOCALIZER"]


@fuzz(300)
@given(
    keyword=st.sampled_from(ELEMENTS.split()),
    data=st.data(),
    slices=st.sampled_from([1, 3]),
    everywhere=st.booleans(),
    absent=st.booleans(),
)
def test_dicom_header(series, tmp_path, keyword, data, slices, everywhere, absent):
    tag, kind = Tag(keyword), dictionary_VR(keyword)
    value = data.draw(st.sampled_from(VALUES.get(kind, TEXTS)))
    folder = write_series(tmp_path / "ct", series[:slices])
    for file in sorted(folder.iterdir())[: None if everywhere else 1]:
        header = pydicom.dcmread(file)
        header.pop(tag, None)
        if not absent:  # as a raw element, which pydicom writes without a look at its value
            header._dict[tag] = RawDataElement(tag, kind, len(value), value, 0, False, True)
        header.save_as(file)
    check_image(folder)


@pytest.fixture(scope="module")
def segmentation(series, tmp_path_factory):
    folder = tmp_path_factory.mktemp("seg")
    files = sorted(write_series(folder / "ct", series).iterdir())
    mask = np.zeros((3, 5, 6), bool)
    mask[1, 2:4, 2:5] = True

    def change(header):
        header.SOPInstanceUID = header.file_meta.MediaStorageSOPInstanceUID = dicoms.uid(20)
        header.SeriesInstanceUID = dicoms.uid(21)

    path = dicoms.write_segments(folder / "seg.dcm", files, {"Tumor_1": mask}, change=change)
    return volumes.read_image(folder / "ct"), path.read_bytes()


@fuzz(100)
@given(data=st.data())
def test_segmentation_bytes(segmentation, tmp_path, data):
    image, valid = segmentation
    path = tmp_path / "seg.dcm"
    path.write_bytes(data.draw(mutated(valid)))
    read = lambda: masks.read_mask(path, None, image)  # noqa: E731
    taken_or_refused(read, VolumeError, tmp_path, str(path))


@pytest.fixture(scope="module")
def contours(series, tmp_path_factory):
    folder = tmp_path_factory.mktemp("rt")
    write_series(folder / "ct", series)
    image = volumes.read_image(folder / "ct")
    corners = image.geometry.to_patient(np.array([(1, 1, 1), (1, 1, 4), (1, 3, 4), (1, 3, 1)]))
    points = np.ravel(corners).tolist()
    return image, drawings.write_contours(folder / "rs.dcm", {"Tumor": [points]}).read_bytes()


@fuzz(150)
@given(data=st.data())
def test_contour_bytes(contours, tmp_path, data):
    image, valid = contours
    path = tmp_path / "rs.dcm"
    path.write_bytes(data.draw(mutated(valid)))
    read = lambda: masks.read_lesions(path, None, image)  # noqa: E731
    taken_or_refused(read, VolumeError, tmp_path, str(path))


POINTS = st.one_of(
    st.sampled_from(["0", "-1e9", "1e308", "nan", "inf", "", "x", "1e-300", "-20", "30", "-100"]),
    st.floats(-30, 60).map(lambda value: f"{value:.6g}"),
)


@fuzz(150)
@given(values=st.lists(POINTS, max_size=12), kind=st.sampled_from(["CLOSED_PLANAR", "POINT", ""]))
def test_contour_points(contours, tmp_path, values, kind):
    image, valid = contours
    (tmp_path / "valid.dcm").write_bytes(valid)
    header = pydicom.dcmread(tmp_path / "valid.dcm")
    (contour,) = header.ROIContourSequence[0].ContourSequence
    contour.ContourGeometricType = kind
    element = RawDataElement(
        Tag("ContourData"), "DS", 0, "\\".join(values).encode() or None, 0, False, True
    )
    contour[Tag("ContourData")] = element
    path = tmp_path / "rs.dcm"
    try:
        header.save_as(path)
    except Exception:  # pydicom itself does not write it
        return
    (tmp_path / "valid.dcm").unlink()
    read = lambda: masks.read_lesions(path, None, image)  # noqa: E731
    taken_or_refused(read, VolumeError, tmp_path, str(path))


SEGMENTS = [{"Name": "Liver", "LabelValue": 1}, {"Name": "Tumor", "LabelValue": 1, "Layer": 1}]


@pytest.fixture(scope="module")
def slicer(images, tmp_path_factory):
    folder = tmp_path_factory.mktemp("slicer")
    (folder / "scan.nrrd").write_bytes(images[".nrrd"])
    layers = np.zeros((2, 3, 6, 7), np.uint8)
    layers[0, 1:, 2:5], layers[1, 1:, 3:5, 2:6] = 1, 1
    grid = {"spacing": (0.7, 0.8, 5.0), "origin": (0.0, 0.0, 0.0)}
    path = drawings.write_slicer(folder / "a.seg.nrrd", list(layers), SEGMENTS, **grid)
    return volumes.read_image(folder / "scan.nrrd"), path.read_bytes()


@pytest.mark.parametrize("resample", [False, True])
@fuzz(150)
@given(data=st.data())
def test_slicer_bytes(slicer, tmp_path, resample, data):
    image, valid = slicer
    path = tmp_path / "a.seg.nrrd"
    path.write_bytes(data.draw(mutated(valid)))
    read = lambda: masks.read_lesions(path, None, image, resample=resample)  # noqa: E731
    taken_or_refused(read, VolumeError, tmp_path, str(path))


SLICER_VALUES = """
    0;1;-1;2;99999999999;nan;x;1.5;Tumor;*;[;none;(1,0,0);none (0.7,0,0) (0,0.8,0) (0,0,5);
    none (0,0.7,0) (0.8,0,0) (0,0,-5);none (0.7,0,0) (0,0.4,0) (0,0,5);(0.35,0,0);(-0.7,0,5);
    (1e30,0,0);list domain domain domain;domain domain domain domain;unsigned char;double;4;3;raw
"""


@pytest.mark.parametrize("resample", [False, True])
@fuzz(150)
@given(
    line=st.integers(0, 15),
    value=st.sampled_from([text.strip() for text in SLICER_VALUES.split(";")]),
)
def test_slicer_header(slicer, tmp_path, resample, line, value):
    image, valid = slicer
    header, _, voxels = valid.partition(b"\n\n")
    lines = header.split(b"\n")
    line %= len(lines)
    sign = b":=" if b":=" in lines[line] else b": "
    lines[line] = lines[line].partition(sign)[0] + sign + value.encode()
    path = tmp_path / "a.seg.nrrd"
    path.write_bytes(b"\n".join(lines) + b"\n\n" + voxels)
    read = lambda: masks.read_lesions(path, None, image, resample=resample)  # noqa: E731
    taken_or_refused(read, VolumeError, tmp_path, str(path))


MANY = {
    "enhanced": lambda: enhanced.make_enhanced(
        [(dicoms.voxels(b)[:3, :5, :6], enhanced.diffusion(b)) for b in (0, 1000)]
    ),
    "mosaic": lambda: enhanced.make_mosaic(dicoms.voxels()[:3, :5, :6], b=1000),
    "grid": lambda: enhanced.make_grid(dicoms.voxels()[:3, :5, :6]),
}


def of_fixed_name(header: pydicom.Dataset) -> pydicom.Dataset:
    """The same bytes in every run."""
    header.SOPInstanceUID = header.file_meta.MediaStorageSOPInstanceUID = dicoms.uid(30)
    return header


@pytest.fixture(scope="module")
def several(tmp_path_factory):
    folder = tmp_path_factory.mktemp("several")
    return {
        name: dicoms.save(of_fixed_name(make()), folder / name).read_bytes()
        for name, make in MANY.items()
    }


@pytest.mark.parametrize("kind", MANY)
@fuzz(400)
@given(data=st.data())
def test_bytes_of_several_slices_in_one_file(several, tmp_path, kind, data):
    check_image(write_series(tmp_path / "mr", [data.draw(mutated(several[kind]))]))


OF_FRAMES = """
    NumberOfFrames SharedFunctionalGroupsSequence PerFrameFunctionalGroupsSequence PixelSpacing
    PlanePositionSequence PlaneOrientationSequence PixelMeasuresSequence FrameContentSequence
    MRDiffusionSequence PixelValueTransformationSequence ImagePositionPatient StackID
    ImageOrientationPatient DiffusionBValue RescaleSlope ConcatenationUID InConcatenationNumber
    InConcatenationTotalNumber Rows ImageType ConceptCodeSequence DerivationCodeSequence
"""
OTHER_VALUES = {**VALUES, "UL": [b"", b"\0\0\0\0", b"\xff\xff\xff\xff", b"\1\0"]}


def places(header: pydicom.Dataset) -> list[pydicom.Dataset]:
    """A header and the items of its sequences, at any depth."""
    found = [header]
    for element in header:
        if element.VR == "SQ":
            found += [place for item in element.value for place in places(item)]
    return found


@fuzz(300)
@given(keyword=st.sampled_from(OF_FRAMES.split()), data=st.data(), absent=st.booleans())
def test_header_of_frames(several, tmp_path, keyword, data, absent):
    folder = write_series(tmp_path / "mr", [several["enhanced"]])
    header = pydicom.dcmread(folder / "0.dcm")
    tag, kind = Tag(keyword), dictionary_VR(keyword)
    where = [place for place in places(header) if tag in place] or [header]
    place = data.draw(st.sampled_from(where))
    place.pop(tag, None)
    if not absent and kind == "SQ":
        place.add_new(tag, "SQ", data.draw(st.sampled_from([[], [pydicom.Dataset()]])))
    elif not absent:
        value = data.draw(st.sampled_from(OTHER_VALUES.get(kind, TEXTS)))
        place._dict[tag] = RawDataElement(tag, kind, len(value), value, 0, False, True)
    header.save_as(folder / "0.dcm")
    check_image(folder)


@fuzz(400)
@given(data=st.data(), place=st.integers(0, 700), number=NUMBERS)
def test_csa_header(tmp_path, data, place, number):
    header = of_fixed_name(MANY["mosaic"]())
    element = header.private_block(0x0029, "SIEMENS CSA HEADER")[0x10]
    csa = bytearray(element.value)
    if data.draw(st.booleans()):
        csa[place : place + 4] = np.int32(number).tobytes()
    else:
        csa = bytearray(data.draw(mutated(bytes(csa))))
    element.value = bytes(csa)
    folder = write_series(tmp_path / "mr", [])
    header.save_as(folder / "a.dcm", enforce_file_format=True)
    check_image(folder)


@fuzz(150)
@given(data=st.data())
def test_bval_file(tmp_path, data):
    path = tmp_path / "scan.nii"
    stack = [sitk.GetImageFromArray(dicoms.voxels(n)[:3, :5, :6]) for n in range(3)]
    sitk.WriteImage(sitk.JoinSeries(stack), str(path))
    (tmp_path / "scan.bval").write_bytes(data.draw(mutated(b"0 50 1000\n")))
    read = lambda: volumes.read_image(path)  # noqa: E731
    taken_or_refused(read, VolumeError, tmp_path, str(tmp_path / "scan"))


@fuzz(100)
@given(data=st.data())
def test_json_file_beside_an_image(images, tmp_path, data):
    path = tmp_path / "scan.nii"
    path.write_bytes(images[".nii"])
    about = b'{"ImageType": ["DERIVED", "ADC"], "SeriesDescription": "DWI"}'
    (tmp_path / "scan.json").write_bytes(data.draw(mutated(about)))
    doubt = grey.modality_doubt(volumes.read_image(path), "pre_dwi")
    assert doubt in (None, "it is an ADC map by the JSON file beside it")
