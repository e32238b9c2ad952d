"""The public CT collection Colorectal-Liver-Metastases of TCIA, from DICOM to a cohort.

    python -m crlm_jax.data.tcia --dicom DIR --out DIR             # what was downloaded before
    python -m crlm_jax.data.tcia --dicom DIR --out DIR --download  # from the Imaging Data Commons

197 patients, each with one portal-venous CT and one DICOM-SEG (Liver, Liver_Remnant, Hepatic,
Portal, Tumor_1 …); doi 10.7937/QXK2-QG03, CC BY 4.0; described in Simpson et al., Scientific Data
11:172 (2024), doi 10.1038/s41597-024-02981-2.

Every patient becomes a folder that appears whole or not at all, with the image, the mask of all
tumours and what the import found; `cohort.csv` and `import_log.csv` are made of those folders, so
that a run that was stopped loses nothing but the patient at hand. One patient's voxels are in
memory at a time. Of the patient, nothing is written but the Patient ID.
"""

import collections
import contextlib
import csv
import dataclasses
import hashlib
import json
import os
import shutil
import tempfile
import uuid
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from urllib.parse import quote

import numpy as np
import SimpleITK as sitk
from tqdm import tqdm

from crlm_jax.data.cohort.rows import REQUIRED, patient_problem
from crlm_jax.data.tcia import collection
from crlm_jax.data.tcia.collection import Files, ImportFailed, blame
from crlm_jax.imaging import volumes
from crlm_jax.imaging.geometry import VolumeError
from crlm_jax.imaging.lesions import label_lesions
from crlm_jax.system.console import print_stderr
from crlm_jax.system.files import DEVICE, write_whole
from crlm_jax.system.text import to_csv

COHORT, LOG = "cohort.csv", "import_log.csv"
_RECORD = "import.json"
_PARTIAL = ".partial-"
_LONG = 80  # characters of a file's name before its ending


@dataclasses.dataclass(frozen=True)
class Record:
    """A row of the log; texts, empty where it does not apply."""

    patient: str
    status: str  # taken, refused
    reason: str  # why refused; for one taken, what was left aside
    slices: str = ""
    tumour_slices: str = ""
    lesions: str = ""  # connected parts of the mask, also by a corner
    spacing_mm: str = ""  # along a row, down a column, between slices
    image_series: str = ""  # Series Instance UID
    segmentation_series: str = ""


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What a run did: Patient IDs, or for `refused` their records (patient "": nobody's file)."""

    taken: tuple[str, ...]
    skipped: tuple[str, ...]
    refused: tuple[Record, ...]
    clinical: Path | None


def import_collection(dicom: Path, out: Path, *, clinical: Path | None = None) -> Outcome:
    """Turns the collection's DICOM files into NIfTI images, tumour masks and a `cohort.csv`.

    Images are in HU (int16 where they are whole numbers, else float32), masks 0 and 1 (uint8), both
    on the grid of the CT series that the segmentation was drawn on. A patient who is whole in `out`
    is skipped; one who was refused is tried again. What is wrong with one patient's files is
    logged and stops nobody else.

    Args:
      dicom: a folder; its tree and the names in it are of no account.
      out: the folder of the cohort, made if need be.
      clinical: the table to copy beside the cohort; None: the one in `dicom`, if there is one.

    Raises:
      ImportFailed: a folder or the clinical table is not as it must be; nothing was written.
      OSError: a file cannot be written; what was finished before is in the cohort.
    """
    dicom, out = Path(dicom), Path(out)
    if not dicom.is_dir():
        raise ImportFailed(f"--dicom {dicom}: no such folder; correct the path, or --download")
    if out.resolve().is_relative_to(dicom.resolve()):
        raise ImportFailed(f"--out {out}: lies in --dicom {dicom}; name a folder outside it")
    table = collection.find_clinical(dicom, clinical)
    if table and table.name in (COHORT, LOG):
        raise ImportFailed(f"--clinical {table}: has a name of the cohort's own files; rename it")
    patients, strays = collection.find_patients(dicom)
    cohort = _Cohort(out)
    cohort.begin(patients, table)
    taken, skipped = [], [patient for patient in sorted(patients) if patient in cohort.done]
    for patient in skipped:
        strays += patients[patient].unreadable
    refused = [Record("", "refused", blame(file.relative_to(dicom))) for file in strays]
    for record in refused:
        cohort.refuse(record)
    names = collections.Counter(patient.casefold() for patient in {*patients, *cohort.done})
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


# One patient


def _import_patient(patient: str, files: Files, cohort: "_Cohort") -> None:
    """Reads and writes one patient. VolumeError says why not."""
    if files.unreadable:
        more = f" (and {len(files.unreadable) - 1} more)" * (len(files.unreadable) > 1)
        raise VolumeError(blame(files.unreadable[0]) + more)
    segmentation, note = collection.choose_segmentation(files.segmentations)
    series = collection.choose_series(segmentation, files.images)
    with _in_one_folder(files.images[series]) as folder:
        image = volumes.read_image(folder, series=series)
    present = {str(header.SOPInstanceUID) for header in image.series.headers}
    # Where none is known, the UIDs were changed on the way, and say nothing.
    if (absent := segmentation.images - present) and segmentation.images & present:
        raise VolumeError(
            f"{segmentation.path}: drawn on {len(absent)} images that are not among the "
            f"{len(present)} of series {series}; copy or download the series again, whole"
        )
    mask = volumes.read_mask(segmentation.path, None, image)
    if not mask.any():
        raise VolumeError(f"{segmentation.path}: its tumour segments mark no voxel")
    record = Record(
        patient,
        "taken",
        note,
        str(len(mask)),
        str(np.count_nonzero(mask.any(axis=(1, 2)))),
        str(label_lesions(mask)[1]),
        " x ".join(f"{size:.6g}" for size in image.geometry.spacing),
        series,
        segmentation.uid,
    )
    cohort.take(
        record,
        volumes.to_original_grid(_whole_numbers(image.voxels), image.geometry),
        volumes.to_original_grid(mask, image.geometry),
    )


def _whole_numbers(voxels: np.ndarray) -> np.ndarray:
    """As int16 where that changes nothing."""
    limits = np.iinfo(np.int16)
    if limits.min <= voxels.min() and voxels.max() <= limits.max:
        short = voxels.astype(np.int16)
        if all(np.array_equal(a, b) for a, b in zip(short, voxels, strict=True)):
            return short
    return voxels


@contextlib.contextmanager
def _in_one_folder(files: Sequence[Path]) -> Iterator[Path]:
    """Gives a folder with links to these files alone; errors name the files that were linked.

    A series may be scattered, and share its folder with all other patients', which a reader of
    folders would go through again for each.
    """
    with tempfile.TemporaryDirectory(prefix="crlm_jax_") as name:
        folder, links = Path(name), {}
        for number, file in enumerate(files):
            link = folder / file.name
            if link in links:
                link = folder / f"{number}_{file.name}"
            try:
                link.symlink_to(file.resolve())
            except OSError:  # where links need a right that users do not have
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


# The cohort on disk


class _Cohort:
    """The cohort's folder: what is whole in it (`done`), its log, and how a patient comes in."""

    def __init__(self, out: Path):
        self.out = out
        try:
            out.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=out):
                pass
        except OSError as error:
            raise ImportFailed(f"--out {out}: cannot be written ({error.strerror})") from error
        if (out / COHORT).exists() and not (out / LOG).exists():
            raise ImportFailed(f"--out {out}: holds another {COHORT}; name another folder")
        for partial in out.glob(f"{_PARTIAL}*"):  # of a run that was killed
            shutil.rmtree(partial)
        self._refused = _read_refused(out / LOG)
        self.done: dict[str, Record] = {}
        for path in sorted(out.glob(f"*/{_RECORD}")):
            record = _read_record(path)
            if record and all((out / name).is_file() for name in self._files(record.patient)):
                self.done[record.patient] = record

    def _files(self, patient: str) -> tuple[str, str, str]:
        """Names of a patient's image, mask and record below `out`; of no other patient too."""
        name = quote(patient, safe="")  # letters, digits and _.-~%
        if name.startswith(".") or DEVICE.fullmatch(name):
            name = f"%{ord(name[0]):02X}{name[1:]}"
        if name.endswith("."):  # Windows would drop it
            name = f"{name[:-1]}%2E"
        if len(name) > _LONG:
            name = f"{name[:_LONG]}~{hashlib.sha256(patient.encode()).hexdigest()[:16]}"
        return f"{name}/{name}_ct.nii.gz", f"{name}/{name}_tumour.nii.gz", f"{name}/{_RECORD}"

    def begin(self, patients: Iterable[str], table: Path | None) -> None:
        """Drops what was refused before of patients who are to be tried, or were nobody's."""
        self._refused = [old for old in self._refused if old.patient not in {"", *patients}]
        if table:
            write_whole(self.out / table.name, table.read_bytes())
        self._save()

    def refuse(self, record: Record) -> None:
        """Logs it."""
        self._refused.append(record)
        self._save()

    def take(self, record: Record, image: sitk.Image, mask: sitk.Image) -> None:
        """Writes a patient's files, all or none, and lists the patient."""
        files = [self.out / name for name in self._files(record.patient)]
        folder = files[0].parent
        if folder.exists() and not files[-1].is_file():
            raise VolumeError(f"{folder}: is there already, not from this command; move it away")
        partial = self.out / f"{_PARTIAL}{uuid.uuid4().hex}"
        partial.mkdir()
        try:
            volumes.write_image(image, partial / files[0].name)
            volumes.write_image(mask, partial / files[1].name)
            write_whole(partial / _RECORD, json.dumps(dataclasses.asdict(record), indent=1))
            if folder.exists():  # a file of it was taken away
                shutil.rmtree(folder)
            partial.rename(folder)
        finally:
            shutil.rmtree(partial, ignore_errors=True)
        self.done[record.patient] = record
        self._save()

    def _save(self) -> None:
        done = [self.done[patient] for patient in sorted(self.done)]
        everyone = sorted([*done, *self._refused], key=lambda record: record.patient)
        head = [field.name for field in dataclasses.fields(Record)]
        write_whole(self.out / LOG, to_csv([head, *map(dataclasses.astuple, everyone)]))
        rows = [(one.patient, "ct", *self._files(one.patient)[:2]) for one in done]
        write_whole(self.out / COHORT, to_csv([REQUIRED, *rows]))


def _read_record(path: Path) -> Record | None:
    """Reads what `take` wrote; None where it is not that."""
    try:
        return Record(**json.loads(path.read_text()))
    except (ValueError, TypeError):
        return None


def _read_refused(path: Path) -> list[Record]:
    """The patients that earlier runs refused, so that a part of the collection may come at once."""
    if not path.is_file():
        return []
    with path.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    try:
        return [Record(**row) for row in rows if row.get("status") == "refused"]
    except TypeError as error:  # other columns
        raise ImportFailed(f"{path}: not this command's log; name another --out") from error
