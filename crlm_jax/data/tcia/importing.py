"""Imports the public CT collection Colorectal-Liver-Metastases of TCIA, from DICOM to a cohort.

197 patients, each with one portal-venous CT and one DICOM-SEG (Liver, Liver_Remnant, Hepatic,
Portal, Tumor_1 …); doi 10.7937/QXK2-QG03, CC BY 4.0; described in Simpson et al., Scientific Data
11:172 (2024), doi 10.1038/s41597-024-02981-2.

The voxels of one patient at a time are in memory. `folder` describes the files that are written.
"""

import collections
import contextlib
import dataclasses
import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from tqdm import tqdm

from crlm_jax.data.cohort.cells import patient_problem
from crlm_jax.data.tcia import collection
from crlm_jax.data.tcia.collection import ImportFailed, PatientFiles, unreadable_file
from crlm_jax.data.tcia.folder import COHORT, LOG, ImportFolder, Record
from crlm_jax.imaging import volumes
from crlm_jax.imaging.geometry import VolumeError
from crlm_jax.imaging.masks import read_lesions
from crlm_jax.imaging.segment_names import EACH_LABEL
from crlm_jax.system.console import print_stderr


@dataclasses.dataclass(frozen=True)
class Outcome:
    """The result of an import: Patient IDs, and records of those who were refused.

    In `refused`, patient is empty for files without an owner. `skipped` were imported before.
    """

    taken: tuple[str, ...]
    skipped: tuple[str, ...]
    refused: tuple[Record, ...]
    clinical: Path | None


def import_collection(dicom: Path, out: Path, *, clinical: Path | None = None) -> Outcome:
    """Turns the collection's DICOM files into NIfTI images, tumour masks and a `cohort.csv`.

    Images are in HU (int16 where they are whole numbers, else float32), masks 0 and 1 (uint8), both
    on the grid of the CT series that the segmentation was drawn on. A patient who is whole in `out`
    is skipped; one who was refused before is tried again. A problem with one patient's files is
    logged, and the import goes on with the next patient.

    Args:
      dicom: a folder; its subfolders and file names do not matter.
      out: the folder of the cohort, made if need be.
      clinical: the table to copy beside the cohort; None: the one in `dicom`, if there is one.

    Raises:
      ImportFailed: a folder or the clinical table cannot be used; nothing was written.
      OSError: a file cannot be written; patients who were finished before are in the cohort.
    """
    dicom, out = Path(dicom), Path(out)
    if not dicom.is_dir():
        raise ImportFailed(f"--dicom {dicom}: no such folder; correct the path, or add --download")
    if out.resolve().is_relative_to(dicom.resolve()):
        raise ImportFailed(f"--out {out}: lies in --dicom {dicom}; name a folder outside it")
    table = collection.find_clinical(dicom, clinical)
    if table and table.name in (COHORT, LOG):
        raise ImportFailed(f"--clinical {table}: has a name of the cohort's own files; rename it")
    patients, strays = collection.find_patients(dicom)
    cohort = ImportFolder(out)
    cohort.begin(patients, table)
    skipped = [patient for patient in sorted(patients) if patient in cohort.done]
    for patient in skipped:
        strays += patients[patient].unreadable
    refused = [Record("", "refused", unreadable_file(file.relative_to(dicom))) for file in strays]
    for record in refused:
        cohort.refuse(record)
    names = collections.Counter(patient.casefold() for patient in {*patients, *cohort.done})
    taken = []
    wanted = [patient for patient in sorted(patients) if patient not in cohort.done]
    for patient in tqdm(wanted, "importing", unit="patient", disable=None):
        try:
            if not patient:
                raise VolumeError("its files have no Patient ID; export them with one")
            if problem := patient_problem(patient):
                raise VolumeError(f"its Patient ID {problem}")
            if names[patient.casefold()] > 1:
                raise VolumeError("its ID and another differ in upper and lower case only")
            _import_patient(patient, patients[patient], cohort)
            taken.append(patient)
        except VolumeError as error:
            reason = str(error).replace(f"{dicom}{os.sep}", "")
            named = "" if patient_problem(patient) else patient  # the log is a CSV file too
            refused.append(Record(named, "refused", reason))
            cohort.refuse(refused[-1])
            print_stderr(f"refused: {named or 'a patient'}: {reason}")
    return Outcome(tuple(taken), tuple(skipped), tuple(refused), table)


def _import_patient(patient: str, files: PatientFiles, cohort: ImportFolder) -> None:
    """Reads and writes one patient, or raises VolumeError, which says why that is impossible."""
    if files.unreadable:
        more = f" (and {len(files.unreadable) - 1} more)" * (len(files.unreadable) > 1)
        raise VolumeError(unreadable_file(files.unreadable[0]) + more)
    segmentation, note = collection.choose_segmentation(files.segmentations)
    series = collection.choose_series(segmentation, files.images)
    with _linked_folder(files.images[series]) as folder:
        image = volumes.read_image(folder, series=series)
    headers = image.series.headers if image.series else ()
    present = {str(header.SOPInstanceUID) for header in headers}
    # If none of the UIDs is present, they were changed on the way and say nothing.
    if (absent := segmentation.images - present) and segmentation.images & present:
        raise VolumeError(
            f"{segmentation.path}: drawn on {len(absent)} images that are not among the "
            f"{len(present)} of series {series}; copy or download the series again, whole"
        )
    drawn = read_lesions(segmentation.path, None, image)
    mask = drawn.voxels
    if not mask.any():
        raise VolumeError(f"{segmentation.path}: its tumour segments mark no voxel")
    record = Record(
        patient,
        status="taken",
        reason=note,
        slices=str(len(mask)),
        tumour_slices=str(np.count_nonzero(mask.any(axis=(1, 2)))),
        lesions=str(len(drawn.regions)),
        mask_label=EACH_LABEL,
        spacing_mm=" x ".join(f"{size:.6g}" for size in image.geometry.spacing),
        image_series=series,
        segmentation_series=segmentation.uid,
    )
    kind = np.uint8 if len(drawn.regions) < 256 else np.uint16
    cohort.take(
        record,
        volumes.to_original_grid(_whole_numbers(image.voxels), image.geometry),
        volumes.to_original_grid(drawn.lesions.astype(kind), image.geometry),
    )


def _whole_numbers(voxels: np.ndarray) -> np.ndarray:
    """Returns the voxels as int16 if that changes no value."""
    limits = np.iinfo(np.int16)
    if limits.min <= voxels.min() and voxels.max() <= limits.max:
        short = voxels.astype(np.int16)
        if all(np.array_equal(a, b) for a, b in zip(short, voxels, strict=True)):
            return short
    return voxels


@contextlib.contextmanager
def _linked_folder(files: Sequence[Path]) -> Iterator[Path]:
    """Yields a folder that has links to these files only; errors name the files themselves.

    The files of a series may be scattered, and may share a folder with those of all other patients,
    which would then be searched anew for each series.
    """
    with tempfile.TemporaryDirectory(prefix="crlm_jax_") as name:
        folder, links = Path(name), {}
        for number, file in enumerate(files):
            link = folder / file.name
            if link in links:
                link = folder / f"{number}_{file.name}"
            try:
                link.symlink_to(file.resolve())
            except OSError:  # Windows lets not every user make links
                shutil.copyfile(file, link)
            links[link] = file
        try:
            yield folder
        except VolumeError as error:
            text = str(error)
            for link in sorted(links, key=lambda link: -len(link.name)):
                text = text.replace(str(link), str(links[link]))
            text = text.replace(name, os.path.commonpath([file.parent for file in files]))
            raise VolumeError(text) from error
