"""Every row of the page "What is read" is tried on an input that is made for it."""

import re
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from pydicom.dataset import Dataset
from pydicom.uid import ComprehensiveSRStorage

from crlm_jax.data.cohort.b_values import b_value_warnings
from crlm_jax.data.cohort.check import check_cohort
from crlm_jax.data.cohort.rows import CohortError, ImageRow
from crlm_jax.errors import UserError
from crlm_jax.imaging.grey import image_doubts, modality_doubt
from crlm_jax.imaging.masks import read_lesions, read_mask, read_organ
from crlm_jax.imaging.volumes import Volume, read_image
from crlm_jax.predict.scans import find_scans
from tests.data.cohort.test_check import ONE, a_mask, write_pair
from tests.imaging import drawings
from tests.imaging import test_bvals as bvals
from tests.imaging import test_label_maps as masks
from tests.imaging import test_lattice as lattice
from tests.imaging import test_odd_grids as grids
from tests.imaging import test_padding as padding
from tests.imaging.dicom import dicoms, enhanced
from tests.imaging.dicom import test_mosaic as mosaics
from tests.imaging.dicom import test_series as classic
from tests.imaging.test_nifti import NRRD, text_header
from tests.predict import test_scans as listed

PAGE = Path(__file__).parents[1] / "docs" / "how-to" / "what-is-read.md"
Try = Callable[[Path], list[str]]  # reads an input made in a folder; returns the warnings
MRI = "pre_dwi"


def image(path: Path, condition: str = MRI) -> tuple[Volume, list[str]]:
    volume = read_image(path)
    doubt = modality_doubt(volume, condition)
    said = [f"looks like another modality than {condition}: {doubt}"] if doubt else []
    return volume, [*volume.doubts, *said]


def nifti(*affine: np.ndarray, **fields) -> Try:
    return lambda folder: image(grids.write_nifti(folder / "a.nii", *affine, **fields))[1]


def sform(x: float, origin: float = 0.0) -> tuple[int, bytes]:
    """The first row of an sform, which goes along x to the right."""
    return 280, np.array([-x, 0, 0, origin], "<f4").tobytes()


def no_spacing(folder: Path) -> list[str]:
    return image(text_header(folder / "a.nrrd", *NRRD))[1]


CM = b'\nspace units: "cm" "cm" "cm"\n\n'


def in_format(ending: str, change: Callable[[bytes], bytes] = bytes) -> Try:
    def read(folder: Path) -> list[str]:
        path = folder / f"a{ending}"
        voxels = sitk.GetImageFromArray(grids.voxels())
        sitk.WriteImage(voxels, str(path), useCompression=ending == ".mha")
        path.write_bytes(change(path.read_bytes()))
        return image(path)[1]

    return read


def cut_picture(folder: Path) -> list[str]:
    path = masks.save(folder / "a.bmp", masks.scan().clip(0, 255).astype(np.uint8))
    path.write_bytes(path.read_bytes()[:-100])
    return image(path)[1]


def dark(folder: Path) -> list[str]:
    voxels = (grids.voxels()[:, :12, :12] / 15).astype(np.uint8)
    sitk.WriteImage(sitk.GetImageFromArray(voxels), str(folder / "a.nii"))
    return image_doubts(read_image(folder / "a.nii"), MRI)


def unpacked(folder: Path) -> list[str]:
    return image(grids.write_nifti(folder / "a.nii").rename(folder / "a.nii.gz"))[1]


def packed(folder: Path) -> list[str]:
    grids.write_nifti(folder / "b.nii")
    sitk.WriteImage(sitk.ReadImage(str(folder / "b.nii")), str(folder / "a.nii.gz"))
    return image((folder / "a.nii.gz").rename(folder / "a.nii"))[1]


def no_voxel(folder: Path) -> list[str]:
    volume = drawings.write_drawings(folder)
    path = drawings.write_contours(folder / "rs.dcm", {"Tumor": []})
    return list(read_lesions(path, None, volume).doubts)


def twice(folder: Path) -> list[str]:
    volume = drawings.write_drawings(folder)
    square = drawings.square
    contours = [square((-20, -20), (-5, -5), 10.0), square((-19.9, -19.9), (-5.1, -5.1), 10.0)]
    path = drawings.write_contours(folder / "rs.dcm", {"Tumor": contours})
    return list(read_lesions(path, None, volume).doubts)


def inverted(folder: Path) -> list[str]:
    volume = drawings.write_drawings(folder)
    mask = sitk.ReadImage(str(folder / "one.nii.gz")) == 0
    sitk.WriteImage(mask, str(folder / "inverted.nii.gz"))
    return list(read_lesions(folder / "inverted.nii.gz", None, volume).doubts)


def liver(*changes: Callable[[sitk.Image], sitk.Image]) -> Try:
    def read(folder: Path) -> list[str]:
        volume = drawings.write_drawings(folder)
        mask = sitk.ReadImage(str(folder / "one.nii.gz")) != 0
        paths = [folder / f"liver{number}.nii.gz" for number in range(len(changes))]
        for path, change in zip(paths, changes, strict=True):
            sitk.WriteImage(change(mask), str(path))
        said: list[str] = []
        read_organ(paths, "Liver*", volume, said)
        return said

    return read


def complex_numbers(folder: Path) -> list[str]:
    voxels = sitk.GetImageFromArray(grids.voxels().astype(np.complex64))
    sitk.WriteImage(voxels, str(folder / "a.nii"))
    return image(folder / "a.nii")[1]


def padded(array: np.ndarray, **elements) -> Try:
    def read(folder: Path) -> list[str]:
        dicoms.write_series(folder, array, modality="MR", change=padding.mark(**elements))
        volume, said = image(folder)
        np.testing.assert_array_equal(volume.padding, array == array[0, 0, 0])
        return said

    return read


def misfit(folder: Path) -> list[str]:
    dicoms.write_series(folder, padding.magnitudes() + 1024)
    return image(folder, "ct")[1]


def mask(array: np.ndarray, ending: str = ".png") -> Try:
    def read(folder: Path) -> list[str]:
        scan = masks.scan()
        if ending == ".nii":
            scan, stored = masks.stack(scan), masks.stack(array)
        else:
            scan, stored = scan.clip(0, 255).astype(np.uint8), np.rint(array).astype(np.uint8)
        of = read_image(masks.save(folder / ("scan.nii" if ending == ".nii" else "scan.png"), scan))
        said: list[str] = []
        assert read_mask(masks.save(folder / f"mask{ending}", stored), None, of, said).any()
        return said

    return read


def image_as_mask(folder: Path) -> list[str]:
    dicoms.write_series(folder / "ct")
    (file,) = dicoms.write_series(folder / "b", dicoms.voxels()[:1], series=dicoms.uid(2))
    read_mask(file, None, read_image(folder / "ct"))
    return []


def drawn(*names: str, count: int, label: str | None = None) -> Try:
    """Reads masks that `names` of `write_drawings` make up; `count` lesions must be found."""

    def read(folder: Path) -> list[str]:
        image = drawings.write_drawings(folder)
        found = read_lesions([folder / name for name in names], label, image)
        assert found.lesions.max() == count
        return list(found.doubts)

    return read


def on_grid(change: Callable[[sitk.Image], sitk.Image], *, resample: bool = False) -> Try:
    def read(folder: Path) -> list[str]:
        scan = lattice.scan(folder)
        path = lattice.save(folder, change(lattice.as_image(lattice.lesions())))
        said: list[str] = []
        assert read_mask(path, None, scan, said, resample=resample).any()
        return said

    return read


def diffusion_nifti(beside: str | None) -> Try:
    def read(folder: Path) -> list[str]:
        path = bvals.write(folder, text=beside)
        if beside is None:
            path.with_name("a.bval").unlink()
        volume, said = image(path)
        np.testing.assert_array_equal(volume.voxels, bvals.magnitudes(1000))
        return said

    return read


def finer(mask: sitk.Image) -> sitk.Image:
    spacing = (0.5, 0.5, 4.0)
    size = (70, 60, 8)
    return sitk.Resample(mask, size, sitk.Transform(), sitk.sitkNearestNeighbor, mask.GetOrigin(),
                         spacing, mask.GetDirection())  # fmt: skip


def slightly_off(mask: sitk.Image) -> sitk.Image:
    mask.SetOrigin(tuple(value + 0.03 for value in mask.GetOrigin()))
    return mask


def outside(mask: sitk.Image) -> sitk.Image:
    return sitk.ConstantPad(mask, (1, 0, 0), (0, 0, 0), 1)


def frames(*volumes: enhanced.Volume) -> Try:
    def read(folder: Path) -> list[str]:
        volume, said = image(enhanced.write_enhanced(folder / "a.dcm", volumes))
        np.testing.assert_array_equal(volume.voxels, magnitudes())
        return said

    return read


def mosaic(**elements) -> Try:
    def read(folder: Path) -> list[str]:
        header = enhanced.make_mosaic(magnitudes(), **elements)
        volume, said = image(dicoms.save(header, folder / "a.dcm"))
        np.testing.assert_array_equal(volume.voxels, magnitudes())
        return said

    return read


def magnitudes() -> np.ndarray:
    return np.abs(dicoms.voxels())


def with_map(groups: Dataset, index: int) -> None:
    enhanced.of_type("DERIVED", "PRIMARY", "DIFFUSION", "ADC")(groups, index)


def series(change: Callable[[int, Dataset], object]) -> Try:
    def read(folder: Path) -> list[str]:
        dicoms.write_series(folder, magnitudes(), modality="MR", change=change)
        return image(folder)[1]

    return read


def rounded(index: int, header: Dataset) -> None:
    header.ImagePositionPatient = [f"{value:.1f}" for value in header.ImagePositionPatient]
    header.PixelSpacing = [0.7 + 1e-7 * index, 0.8]


def different_b_values(folder: Path) -> list[str]:
    images = [(ImageRow("a", MRI, folder, b, row), b) for row, b in ((2, 800.0), (3, 1000.0))]
    return b_value_warnings(folder / "cohort.csv", images)


def with_empty(name: str) -> Try:
    def read(folder: Path) -> list[str]:
        names = [f"{number:03}" for number in range(5)]
        dicoms.write_series(folder, magnitudes()[:5], modality="MR", names=names)
        (folder / name).write_bytes(b"")
        return image(folder)[1]

    return read


def scans(*beside: str, volume: bool) -> Try:
    def read(folder: Path) -> list[str]:
        for name in beside:
            (folder / name).write_bytes(b"")
        if volume:
            grids.write_nifti(folder / "scan.nii")
        else:
            dicoms.write_series(folder / "S1")
        said: list[str] = []
        assert len(find_scans(folder, warn=said.append)) == 1
        return said

    return read


def folder_of(write: Callable[[Path], object], found: int = 1) -> Try:
    def read(folder: Path) -> list[str]:
        write(folder)
        said: list[str] = []
        assert len(find_scans(folder, warn=said.append)) == found
        return said

    return read


def with_masks(folder: Path) -> None:
    grids.write_nifti(folder / "scan.nii")
    drawn = np.zeros((4, 8, 8), np.uint8)
    drawn[1, 2:5, 2:5] = 1
    sitk.WriteImage(sitk.GetImageFromArray(drawn), str(folder / "scan_roi.nii"))


def without_preamble(folder: Path) -> None:
    for file in dicoms.write_series(folder, names=[f"IM{number}" for number in range(6)]):
        file.write_bytes(file.read_bytes()[132:])


def with_report(folder: Path) -> None:
    def change(index, header):
        header.SOPClassUID = header.file_meta.MediaStorageSOPClassUID = ComprehensiveSRStorage

    dicoms.write_series(folder)
    dicoms.write_series(folder, dicoms.voxels()[:1], names=["SR"], change=change)


def two_series(folder: Path) -> None:
    dicoms.write_series(folder, names=[f"a{number}" for number in range(6)])
    dicoms.write_series(folder, series=dicoms.uid(2))


COHORT = "patient,condition,image,mask,tumour\n"


def cohort(
    *rows: str, header: str = COHORT, change: Callable[[str], str] = str, code="utf-8"
) -> Try:
    """Reads a cohort file of these rows and two more, and all its images."""

    def read(folder: Path) -> list[str]:
        for name in ("a", "b", "c"):
            write_pair(folder, name, a_mask(ONE))
        (folder / "copy").mkdir()
        shutil.copy(folder / "b.nii.gz", folder / "copy")
        text = change(COHORT + "".join(f"{row}\n" for row in (*rows, *GOOD)))
        (folder / "cohort.csv").write_bytes(text.encode(code))
        report = check_cohort(folder / "cohort.csv")
        if report.problems:
            raise CohortError("\n".join(report.problems))
        assert len(report.images) == len(rows) + len(GOOD)
        return list(report.warnings)

    return read


def with_set(text: str) -> str:
    header, *rows = text.splitlines()
    sets = ("Train", "test", "train")
    cells = [f"{row},{own}" for row, own in zip(rows, sets, strict=True)]
    return "\n".join([f"{header},Train/Test", *cells])


def with_column(name: str, cell: str) -> Callable[[str], str]:
    def change(text: str) -> str:
        header, *rows = text.splitlines()
        return "\n".join([f"{header},{name}", *(f"{row},{cell}" for row in rows)])

    return change


GOOD = ("b,dwi,b.nii.gz,b_roi.nii.gz,", "c,dwi,c.nii.gz,c_roi.nii.gz,yes")
FORMS = (252, b"\1\0\2\0")  # both codes
NO_SPACING = {"forms": (252, bytes(4)), "pixdim": (88, bytes(4))}
ROWS: dict[str, Try] = {
    "NIfTI unpacked": unpacked,
    "NIfTI packed": packed,
    "NIfTI whose axes": nifti(grids.SLIGHT),
    "NIfTI with sheared": nifti(grids.SHEAR),
    "NIfTI with a spacing": nifti(**NO_SPACING),
    "NIfTI whose sform": nifti(forms=(252, b"\0\0\1\0"), pixdim=(80, np.ones(3, "<f4").tobytes())),
    "NIfTI whose qform and sform point": nifti(forms=FORMS, sform=sform(-1.5)),
    "NIfTI whose qform and sform place": nifti(forms=FORMS, sform=sform(1.5, 30)),
    "NIfTI whose qform and sform codes": nifti(forms=(252, bytes(4))),
    "NIfTI in metres": nifti(units=(123, b"\1")),
    "a spacing below": nifti(pixdim=(80, np.full(3, 1e-4, "<f4").tobytes()), forms=(252, bytes(4))),
    "NRRD or MetaImage": no_spacing,
    "NRRD in another": in_format(".nrrd", lambda data: data.replace(b"\n\n", CM, 1)),
    "a header with its": in_format(".nhdr"),
    "such a header": in_format(".nhdr", lambda data: data.replace(b"file: ", b"file: ../")),
    "compressed MetaImage": in_format(".mha", lambda data: data[:-9] + b"\0" + data[-8:]),
    "a JPEG or BMP": cut_picture,
    "TIFF, VTK": in_format(".tif"),
    "NIfTI of 4 dimensions with": diffusion_nifti("0 50 1000"),
    "NIfTI of 4 dimensions alone": diffusion_nifti(None),
    "NIfTI of complex": complex_numbers,
    "DICOM with Pixel": padded(padding.padded(-32768)[0], value=("SS", -32768)),
    "MR with an unmarked constant": padded(padding.framed(-32768)),
    "DICOM of several frames": frames((magnitudes(), None)),
    "DICOM of several echoes": frames(
        (magnitudes(), enhanced.echo(4.6)), (magnitudes(), enhanced.echo(9.2))
    ),
    "DICOM of magnitude": frames(
        (magnitudes(), None), (magnitudes(), enhanced.of_type("ORIGINAL", "PRIMARY", "PHASE"))
    ),
    "DICOM as a Siemens MOSAIC": mosaic(),
    "DICOM as a MOSAIC without": mosaic(change=mosaics.without("csa")),
    "DICOM with an ADC map": frames(
        (magnitudes(), enhanced.diffusion(1000)), (dicoms.voxels(1), with_map)
    ),
    "an ADC map": series(lambda _, header: setattr(header, "SeriesDescription", "dwi_ADC")),
    "a lone image": series(lambda _, header: setattr(header, "DiffusionBValue", 0.0)),
    "a lone image of a b-value below": series(
        lambda _, header: setattr(header, "DiffusionBValue", 50.0)
    ),
    "images of different": different_b_values,
    "DICOM whose direction cosines are slightly": series(classic.skewed(0.004)),
    "DICOM whose direction cosines are clearly": series(classic.skewed(0.1)),
    "DICOM whose positions": series(rounded),
    "a volume of 8 bits": dark,
    "DICOM other than CT": series(
        lambda _, header: setattr(header, "PhotometricInterpretation", "MONOCHROME1")
    ),
    "a file that is no DICOM": with_empty("005"),
    "an empty file": with_empty("SLICE"),
    "DICOM whose values": misfit,
    "JPEG": mask(255 * masks.disc(), ".jpg"),
    "picture with soft": mask(255 * masks.disc(oversampled=8)),
    "picture with several": mask(127.0 * (masks.disc(15) > 0) + 128 * (masks.disc() > 0)),
    "the scan": mask(masks.scan(), ".nii"),
    "values within": mask((masks.disc() * 0.9999999).astype(np.float32), ".nii"),
    "probability": mask((masks.disc() * 0.93).astype(np.float32), ".nii"),
    "label map with": drawn("labels.nii.gz", count=2),
    "label map, ": drawn("labels.nii.gz", count=2, label="lesions"),
    "DICOM-SEG with": drawn("touching.dcm", count=2),
    "lesions of several segments": drawn("overlapping.dcm", count=2),
    "one segment or label": drawn("scattered.nii.gz", count=2, label="lesions"),
    "several files": drawn("one.nii.gz", "two.nii.gz", count=2),
    "`.seg.nrrd`": drawn("layers.seg.nrrd", count=2),
    "RTSTRUCT": drawn("contours.dcm", count=1),
    "RTSTRUCT whose": drawn("between.dcm", count=1),
    "a segment or ROI": no_voxel,
    "RTSTRUCT with a contour": twice,
    "a mask of more": inverted,
    "a mask of the liver without": liver(lambda mask: mask + 1),
    "a mask of the liver that is all": liver(lambda mask: mask, lambda mask: 1 - mask),
    "a mask of the liver that is exchanged": liver(lambda mask: 1 - mask),
    "mask whose axes": on_grid(lattice.PLACED["flipped"][0]),
    "mask cropped": on_grid(lattice.cropped),
    "mask less": on_grid(slightly_off),
    "mask on a finer": on_grid(finer),
    "such a mask": on_grid(finer, resample=True),
    "mask that marks": on_grid(outside),
    "DICOM image": image_as_mask,
    "hidden files": scans("._scan.nii.gz", volume=True),
    "a DICOMDIR": scans("DICOMDIR", volume=False),
    "pictures beside": scans("logo.png", volume=False),
    "masks beside": folder_of(with_masks),
    "a scan that is only": folder_of(lambda folder: grids.write_nifti(folder / "scan_mask.nii")),
    "DICOM without preamble": folder_of(without_preamble),
    "segmentations, reports": folder_of(with_report),
    "images of a format": scans("a.tif", volume=True),
    "one series whose": folder_of(lambda folder: listed.split_series(folder, "A", "B")),
    "a second copy": folder_of(listed.copied_series),
    "several series": folder_of(two_series),
    "semicolons": cohort(
        change=lambda text: "sep=;\n" + text.replace(",", ";").replace("patient", " PATIENT "),
        code="utf-16",
    ),
    "another encoding": cohort(change=lambda text: text.replace("b,", "Müller,", 1), code="cp1252"),
    "a path of Windows": cohort(r"a,dwi,.\a.nii.gz,.\a_roi.nii.gz,"),
    "a drive or server": cohort(r"a,dwi,D:\x\a.nii.gz,a_roi.nii.gz,"),
    "a variable": cohort("a,dwi,$CRLM_NOT_SET/a.nii.gz,a_roi.nii.gz,"),
    "an empty mask, with": cohort("b,dwi,a.nii.gz,,no"),
    "an empty mask without": cohort("a,dwi,a.nii.gz,,"),
    "a mask with tumour": cohort("a,dwi,a.nii.gz,a_roi.nii.gz,no"),
    "a patient `1.20": cohort("1.20E+11,dwi,a.nii.gz,a_roi.nii.gz,"),
    "a patient `#N/A": cohort("#N/A,dwi,a.nii.gz,a_roi.nii.gz,"),
    "patients that differ": cohort("B,dwi,a.nii.gz,a_roi.nii.gz,"),
    "a column such as": cohort("a,dwi,a.nii.gz,a_roi.nii.gz,", change=with_set),
    "another name of": cohort(change=with_column("label", "1")),
    "other columns": cohort(change=with_column("age", "60")),
    "a condition such as": cohort(change=lambda text: text.replace(",dwi,", ",pre_ct,")),
    "one mask file": cohort("a,dwi,a.nii.gz,b_roi.nii.gz,"),
    "one scan under": cohort("a,dwi,copy/b.nii.gz,a_roi.nii.gz,"),
    "one image under": cohort("b,t2wi,b.nii.gz,b_roi.nii.gz,"),
    "a copy of an": cohort("b,dwi,copy/b.nii.gz,b_roi.nii.gz,"),
}
TABLE = [
    tuple(cell.strip() for cell in re.split(r"(?<!\\)\|", line.strip("|")))
    for line in re.findall(r"^\|.*\|$", PAGE.read_text(encoding="utf-8"), re.MULTILINE)
    if not re.match(r"\| (input|---)", line)
]


@pytest.mark.parametrize("row", TABLE, ids=lambda row: row[0][:30])
def test_a_row_of_the_page_is_so(tmp_path, row):
    title, happens, says, _ = row
    read = ROWS[max((name for name in ROWS if title.startswith(name)), key=len)]
    if happens == "refused":
        with pytest.raises(UserError, match=re.escape(says)):
            read(tmp_path)
        return
    said = read(tmp_path)
    assert len(said) == (happens == "read with a warning"), said
    assert says in " ".join(said)


def test_every_trial_has_its_row():
    assert len(TABLE) == len(ROWS)
