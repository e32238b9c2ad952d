"""The folder that an import writes: a folder for each patient, `cohort.csv` and `import_log.csv`.

A patient's folder appears whole or not at all, with the image, the mask of all tumours (a label
map in which each is a lesion) and the record of the import. `cohort.csv` and `import_log.csv` are
made of those records, so that a run that was stopped loses only the patient that it was at. Nothing
about a patient is written but the Patient ID.
"""

import csv
import dataclasses
import hashlib
import json
from collections.abc import Iterable
from pathlib import Path
from urllib.parse import quote

import SimpleITK as sitk

from crlm_jax.data.cohort.cells import REQUIRED
from crlm_jax.data.tcia.collection import ImportFailed
from crlm_jax.imaging import volumes
from crlm_jax.imaging.geometry import VolumeError
from crlm_jax.system.files import DEVICE, clear_partial, make_writable, whole_folder, write_whole
from crlm_jax.system.text import to_csv

COHORT, LOG = "cohort.csv", "import_log.csv"
_RECORD = "import.json"
_LONG = 80  # characters of a file's name before its ending


@dataclasses.dataclass(frozen=True)
class Record:
    """A row of the log, as texts; a field that does not apply is empty.

    `patient` is empty for files without an owner.
    """

    patient: str
    status: str  # taken, refused
    reason: str  # why the patient was refused; or what was left aside of a patient who was taken
    slices: str = ""
    tumour_slices: str = ""
    lesions: str = ""  # as they were drawn: segments, or connected parts of the only one
    spacing_mm: str = ""  # along a row, down a column, between slices
    image_series: str = ""  # Series Instance UID
    segmentation_series: str = ""
    mask_label: str = ""  # of the mask in `cohort.csv`; empty in imports of 0.1.0: one label, 1


class ImportFolder:
    """The folder of the cohort; `done` has the records of the patients who are whole in it.

    Raises:
      ImportFailed: the folder cannot be written, or holds a cohort that no import wrote.
    """

    def __init__(self, out: Path):
        self._out = out
        try:
            make_writable(out)
        except OSError as error:
            raise ImportFailed(
                f"--out {out}: cannot be written ({error.strerror}); name another folder"
            ) from error
        if (out / COHORT).exists() and not (out / LOG).exists():
            raise ImportFailed(f"--out {out}: holds another {COHORT}; name another folder")
        clear_partial(out)
        self._refused = _read_refused(out / LOG)
        self.done: dict[str, Record] = {}
        for path in sorted(out.glob(f"*/{_RECORD}")):
            record = _read_record(path)
            if record and all((out / name).is_file() for name in self._files(record.patient)):
                self.done[record.patient] = record

    def begin(self, patients: Iterable[str], table: Path | None) -> None:
        """Copies the clinical table, and drops earlier refusals that this run decides anew.

        Those are the refusals of `patients` and of files without an owner.
        """
        self._refused = [old for old in self._refused if old.patient not in {"", *patients}]
        if table:
            write_whole(self._out / table.name, table.read_bytes())
        self._save()

    def refuse(self, record: Record) -> None:
        """Adds a refused patient to the log."""
        self._refused.append(record)
        self._save()

    def take(self, record: Record, image: sitk.Image, mask: sitk.Image) -> None:
        """Writes a patient's folder and adds the patient to the log and to `cohort.csv`.

        Raises:
          VolumeError: the folder exists and is not of an import.
        """
        image_file, mask_file, record_file = (
            self._out / name for name in self._files(record.patient)
        )

        def check(folder: Path) -> None:
            if folder.exists() and not (folder / record_file.name).is_file():
                raise VolumeError(f"{folder}: is not a folder of this command; move it away")

        with whole_folder(image_file.parent, check) as folder:
            volumes.write_image(image, folder / image_file.name)
            volumes.write_image(mask, folder / mask_file.name)
            text = json.dumps(dataclasses.asdict(record), indent=1)
            write_whole(folder / record_file.name, text)
        self.done[record.patient] = record
        self._save()

    def _files(self, patient: str) -> tuple[str, str, str]:
        """Returns the names below the folder of a patient's own image, mask and record."""
        name = quote(patient, safe="")  # letters, digits and _.-~%
        if name.startswith(".") or DEVICE.fullmatch(name):
            name = f"%{ord(name[0]):02X}{name[1:]}"
        if name.endswith("."):  # Windows would drop it
            name = f"{name[:-1]}%2E"
        if len(name) > _LONG:
            name = f"{name[:_LONG]}~{hashlib.sha256(patient.encode()).hexdigest()[:16]}"
        return f"{name}/{name}_ct.nii.gz", f"{name}/{name}_tumour.nii.gz", f"{name}/{_RECORD}"

    def _save(self) -> None:
        done = [self.done[patient] for patient in sorted(self.done)]
        everyone = sorted([*done, *self._refused], key=lambda record: record.patient)
        head = [field.name for field in dataclasses.fields(Record)]
        write_whole(self._out / LOG, to_csv([head, *map(dataclasses.astuple, everyone)]))
        rows = [(one.patient, "ct", *self._files(one.patient)[:2], one.mask_label) for one in done]
        write_whole(self._out / COHORT, to_csv([(*REQUIRED, "mask_label"), *rows]))


def _read_record(path: Path) -> Record | None:
    """Reads the record of a patient's folder; None: the file is something else."""
    try:
        return Record(**json.loads(path.read_text()))
    except (ValueError, TypeError):
        return None


def _read_refused(path: Path) -> list[Record]:
    """Reads the patients that earlier runs refused; those runs may have been given others."""
    if not path.is_file():
        return []
    with path.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    try:
        return [Record(**row) for row in rows if row.get("status") == "refused"]
    except TypeError as error:  # other columns
        raise ImportFailed(f"{path}: is not this command's log; name another --out") from error
