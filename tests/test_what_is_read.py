"""Every row of the page "What is read" is tried on an input that is made for it."""

import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from crlm_jax.imaging.geometry import VolumeError
from crlm_jax.imaging.grey import modality_doubt
from crlm_jax.imaging.masks import read_lesions, read_mask
from crlm_jax.imaging.volumes import Volume, read_image
from crlm_jax.predict.scans import find_scans
from tests.imaging import drawings
from tests.imaging import test_label_maps as masks
from tests.imaging import test_lattice as lattice
from tests.imaging import test_odd_grids as grids
from tests.imaging import test_padding as padding
from tests.imaging.dicom import dicoms

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


def unpacked(folder: Path) -> list[str]:
    return image(grids.write_nifti(folder / "a.nii").rename(folder / "a.nii.gz"))[1]


def packed(folder: Path) -> list[str]:
    grids.write_nifti(folder / "b.nii")
    sitk.WriteImage(sitk.ReadImage(str(folder / "b.nii")), str(folder / "a.nii.gz"))
    return image((folder / "a.nii.gz").rename(folder / "a.nii"))[1]


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


NO_SPACING = {"forms": (252, bytes(4)), "pixdim": (88, bytes(4))}
ROWS: dict[str, Try] = {
    "NIfTI unpacked": unpacked,
    "NIfTI packed": packed,
    "NIfTI whose axes": nifti(grids.SLIGHT),
    "NIfTI with sheared": nifti(grids.SHEAR),
    "NIfTI with a spacing": nifti(**NO_SPACING),
    "NIfTI of complex": complex_numbers,
    "DICOM with Pixel": padded(padding.padded(-32768)[0], value=("SS", -32768)),
    "DICOM of MR": padded(padding.framed(-32768)),
    "DICOM whose": misfit,
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
        with pytest.raises(VolumeError, match=re.escape(says)):
            read(tmp_path)
        return
    said = read(tmp_path)
    assert len(said) == (happens == "read with a warning"), said
    assert says in " ".join(said)


def test_every_trial_has_its_row():
    assert len(TABLE) == len(ROWS)
