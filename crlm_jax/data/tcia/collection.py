"""Sorts the downloaded DICOM files: patients, their tumour segmentation, and its CT series."""

import collections
import dataclasses
import fnmatch
from collections.abc import Sequence
from pathlib import Path

from tqdm import tqdm

from crlm_jax.errors import UserError
from crlm_jax.imaging.dicom.files import as_volume_error, find_files, identify, read_file
from crlm_jax.imaging.dicom.segmentation import is_segmentation
from crlm_jax.imaging.geometry import VolumeError

TUMOUR = "Tumor*"  # labels of the segments that count
# Segments that only the collection's own segmentations have. The Imaging Data Commons adds to each
# patient one or two segmentations of liver and tumour by a network (doi 10.5281/zenodo.8345959),
# which are no reference.
OWN_SEGMENTS = ("Liver_Remnant", "Hepatic", "Portal")


class ImportFailed(UserError):
    """The import cannot begin; the message names the option or folder, and the remedy."""


@dataclasses.dataclass(frozen=True)
class Segmentation:
    """The header of a segmentation; `series` and `images` are those that it was drawn on."""

    path: Path
    uid: str
    labels: tuple[str, ...]
    series: tuple[str, ...]  # Series Instance UIDs
    images: frozenset[str]  # SOP Instance UIDs

    def has(self, *patterns: str) -> bool:
        """Whether a segment has a label that fits one of the patterns, in upper or lower case."""
        labels = [label.strip().lower() for label in self.labels]
        return any(fnmatch.filter(labels, pattern.lower()) for pattern in patterns)


@dataclasses.dataclass
class PatientFiles:
    """The files of a patient that the import reads, and those that it could not identify."""

    images: dict[str, list[Path]]  # CT series UID to files
    segmentations: list[Path]
    unreadable: list[Path]


def find_patients(folder: Path) -> tuple[dict[str, PatientFiles], list[Path]]:
    """Sorts the DICOM files below a folder by Patient ID, from their headers alone.

    Returns:
      Files by Patient ID; and the files that cannot be read and have no owner. An unreadable file
      whose nearest readable neighbours are of a single patient counts as this patient's.

    Raises:
      ImportFailed: the folder has neither a CT nor a segmentation.
    """
    files = find_files(folder)
    patients: dict[str, PatientFiles] = collections.defaultdict(lambda: PatientFiles({}, [], []))
    within: dict[Path, set[str]] = collections.defaultdict(set)  # patients with files in a folder
    unreadable: list[Path] = []
    instances: set[str] = set()
    for file in tqdm(files, "scanning", unit="file", disable=None):
        try:
            about = identify(file)
        except VolumeError:
            unreadable.append(file)
            continue
        kind = None
        if "CT Image Storage" in about.kind:
            kind = "image"
        elif "Image Storage" not in about.kind and is_segmentation(file):
            kind = "segmentation"
        # A user who downloaded in two ways has some files twice.
        if kind is None or (about.instance and about.instance in instances):
            continue
        instances.add(about.instance)
        for place in file.relative_to(folder).parents:
            within[place].add(about.patient)
        mine = patients[about.patient]
        if kind == "image":
            mine.images.setdefault(about.series, []).append(file)
        else:
            mine.segmentations.append(file)
    if not patients and not unreadable:
        found = f"none of its {len(files)} DICOM files is a CT or a segmentation"
        raise ImportFailed(
            f"--dicom {folder}: {found if files else 'no DICOM file'}; name another folder"
        )
    strays: list[Path] = []
    for file in unreadable:  # its owner is the patient whose files surround it most closely
        around = next((within[p] for p in file.relative_to(folder).parents if p in within), set())
        (patients[next(iter(around))].unreadable if len(around) == 1 else strays).append(file)
    return dict(patients), strays


def unreadable_file(file: Path) -> str:
    """Returns the message for a file that cannot be read."""
    return f"{file}: not a DICOM file, or cut off or damaged; copy it again or take it away"


def find_clinical(folder: Path, given: Path | None) -> Path | None:
    """Finds the collection's clinical table by its name; None: the folder has none.

    Raises:
      ImportFailed: the folder has several and none is `given`, or the given one does not exist.
    """
    if given is not None:
        if not given.is_file():
            raise ImportFailed(f"--clinical {given}: file not found; correct the path")
        return given
    found = [
        file
        for file in sorted(folder.rglob("*"))
        if file.suffix.lower() in (".xlsx", ".xls", ".csv")
        and "clinical" in file.name.lower()
        and not file.name.startswith((".", "~$"))  # hidden, or a spreadsheet's lock
        and file.is_file()
    ]
    if len(found) > 1:
        names = ", ".join(str(file.relative_to(folder)) for file in found)
        raise ImportFailed(f"--dicom {folder}: several clinical tables ({names}); use --clinical")
    return found[0] if found else None


def choose_segmentation(paths: Sequence[Path]) -> tuple[Segmentation, str]:
    """Returns a patient's segmentation of the tumours, and a note that names the others.

    If several have tumour, the one with the collection's other segments (`OWN_SEGMENTS`) is chosen.

    Raises:
      VolumeError: no segmentation has tumour, or several have; or a file cannot be read.
    """
    if not paths:
        raise VolumeError("no segmentation among its files; download them again, with modality SEG")
    found = [_read_header(path) for path in paths]
    chosen = [one for one in found if one.has(TUMOUR)]
    if not chosen:
        labels = ", ".join(dict.fromkeys(repr(label) for one in found for label in one.labels))
        raise VolumeError(
            f"{', '.join(str(one.path) for one in found)}: no segment is labelled {TUMOUR!r} (its "
            f"labels are {labels}); take the patient's own segmentation"
        )
    if len(chosen) > 1:
        chosen = [one for one in chosen if one.has(*OWN_SEGMENTS)] or chosen
    if len(chosen) > 1:
        names = " and ".join(f"{one.path} (series {one.uid})" for one in chosen)
        raise VolumeError(f"{len(chosen)} segmentations with tumour: {names}; keep one of them")
    aside = [one.uid for one in found if one is not chosen[0]]
    return chosen[0], f"left aside: segmentation {', '.join(aside)}" if aside else ""


def _read_header(path: Path) -> Segmentation:
    tags = ["SeriesInstanceUID", "ReferencedSeriesSequence", "SegmentSequence"]
    header = read_file(path, stop_before_pixels=True, tags=tags)
    with as_volume_error(path):
        references = header.get("ReferencedSeriesSequence") or ()
        return Segmentation(
            path,
            str(header.SeriesInstanceUID),
            tuple(str(one.get("SegmentLabel") or "") for one in header.SegmentSequence),
            tuple(str(one.SeriesInstanceUID) for one in references),
            frozenset(
                str(item.ReferencedSOPInstanceUID)
                for one in references
                for item in one.get("ReferencedInstanceSequence") or ()
            ),
        )


def choose_series(segmentation: Segmentation, images: dict[str, list[Path]]) -> str:
    """Returns the UID of the CT series that a segmentation was drawn on.

    Args:
      segmentation: of the patient.
      images: files of the patient's CT series, by UID.

    Raises:
      VolumeError: that series is not among them, or the segmentation fits several.
    """
    if not images:
        raise VolumeError("no CT series among its files; download them again, with modality CT")
    fitting = [uid for uid in images if uid in segmentation.series or not segmentation.series]
    if len(fitting) == 1:
        return fitting[0]
    if fitting:
        raise VolumeError(
            f"{segmentation.path}: may be drawn on any of the series {', '.join(fitting)}; keep "
            "the one that it belongs to"
        )
    raise VolumeError(
        f"{segmentation.path}: drawn on series {', '.join(segmentation.series)}, which is not "
        f"among the patient's ({', '.join(images)}); download it too"
    )
