"""Downloads TCIA's CT collection from the Imaging Data Commons, which mirrors it.

The package `idc-index` (extra `tcia`) carries the index of the Commons, so that size and licence
are known before anything is fetched. It fetches with s5cmd, without an account. The segmentations
that the Commons added by a network (doi 10.5281/zenodo.8345959) are not fetched.
"""

import collections
import dataclasses
import importlib
import logging
import re
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

from crlm_jax.data.tcia.collection import ImportFailed

COLLECTION = "colorectal_liver_metastases"  # its name in the Imaging Data Commons
CITATION = """\
Simpson AL, Peoples J, Creasy JM, et al. Preoperative CT and Survival Data for Patients Undergoing
Resection of Colorectal Liver Metastases (Colorectal-Liver-Metastases). The Cancer Imaging Archive,
2023. https://doi.org/10.7937/QXK2-QG03
Simpson AL, Peoples J, Creasy JM, et al. Preoperative CT and survival data for patients undergoing
resection of colorectal liver metastases. Scientific Data 11:172, 2024.
https://doi.org/10.1038/s41597-024-02981-2"""
# Where idc-index puts a series below the folder; `IndexedSeries.folder` says the same.
_TEMPLATE = "%PatientID/%Modality_%SeriesInstanceUID"
# The fields of `IndexedSeries` in order, without the added segmentations. Duckdb reads the index in
# a second, idc-index's client in 30.
_SERIES = """
    SELECT PatientID, Modality, SeriesInstanceUID, instanceCount, series_size_MB,
        license_short_name
    FROM read_parquet($file)
    WHERE collection_id = $collection AND analysis_result_id IS NULL
    ORDER BY PatientID, Modality
"""


@dataclasses.dataclass(frozen=True)
class IndexedSeries:
    """A series of the collection, as the index of the Imaging Data Commons has it."""

    patient: str
    modality: str
    uid: str
    files: int
    megabytes: float  # 10⁶ bytes
    licence: str

    @property
    def folder(self) -> Path:
        """The folder of its files, below that of the download."""
        return Path(self.patient, f"{self.modality}_{self.uid}")


def download(folder: Path, *, yes: bool = False) -> bool:
    """Describes the collection, asks, and fetches the series that are not in the folder yet.

    Args:
      folder: made if need be; each series gets a folder below that of its patient.
      yes: do not ask.

    Returns:
      Whether the folder has the whole collection; False: the answer was no.

    Raises:
      ImportFailed: idc-index is not installed, nobody can be asked, the disk has not enough room,
        or a series did not arrive whole.
    """
    series = list_series()
    if not series:
        raise ImportFailed(f"this idc-index does not know {COLLECTION}: pip install -U idc-index")
    _check_names(series)
    print(describe(series))
    needed = _missing(folder, series)
    if not needed:
        print(f"{folder}: all of it is here already")
        return True
    if not _confirm_download(folder, needed, yes):
        return False
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ImportFailed(
            f"--dicom {folder}: cannot be written ({error.strerror}); name another folder"
        ) from error
    logging.getLogger("idc_index").setLevel(logging.ERROR)
    client = importlib.import_module("idc_index").IDCClient()  # an extra, and without types
    client.download_from_selection(
        downloadDir=str(folder),
        seriesInstanceUID=[one.uid for one in needed],
        dirTemplate=_TEMPLATE,
        use_s5cmd_sync=True,  # keeps files that have their full size
    )
    # idc-index logs a failure and returns normally.
    if absent := _missing(folder, series):
        raise ImportFailed(
            f"--dicom {folder}: {len(absent)} of {len(series)} series did not arrive whole; check "
            "the network and run the same command again, which continues from here"
        )
    return True


def _check_names(series: Sequence[IndexedSeries]) -> None:
    """Raises ImportFailed if a name of the index would put a file outside the folder."""
    for one in series:
        for name in (one.patient, one.modality, one.uid):
            if not re.fullmatch(r"\w[\w.-]*", name, re.ASCII):
                raise ImportFailed(
                    f"idc-index: {name!r} of series {one.uid!r} cannot be the name of a folder; "
                    "pip install -U --force-reinstall idc-index-data"
                )


def list_series() -> list[IndexedSeries]:
    """Reads the collection's series from the index that comes with idc-index, without network.

    Raises:
      ImportFailed: idc-index is not installed.
    """
    try:
        import duckdb
        import idc_index  # noqa: F401  only to learn early that it is there
        import idc_index_data
    except ImportError as error:
        raise ImportFailed(
            "--download needs the package idc-index: pip install 'crlm_jax[tcia]'"
        ) from error
    asked = {"file": str(idc_index_data.IDC_INDEX_PARQUET_FILEPATH), "collection": COLLECTION}
    with duckdb.connect() as database:
        return [IndexedSeries(*row) for row in database.execute(_SERIES, asked).fetchall()]


def describe(series: Sequence[IndexedSeries]) -> str:
    """Tells size, licence and citation of the collection, from its series in the index."""
    kinds = collections.Counter(one.modality for one in series)
    licences = sorted({one.licence for one in series})
    return (
        f"Colorectal-Liver-Metastases: {len({one.patient for one in series})} patients, "
        f"{len(series)} series ({', '.join(f'{n} {kind}' for kind, n in sorted(kinds.items()))}), "
        f"{sum(one.files for one in series)} files, {_gigabytes(series):.1f} GB\n"
        f"Licence: {', '.join(licences)}; cite:\n{CITATION}"
    )


def _gigabytes(series: Sequence[IndexedSeries]) -> float:
    return sum(one.megabytes for one in series) / 1000


def _missing(folder: Path, series: Sequence[IndexedSeries]) -> list[IndexedSeries]:
    """The series that lack files or bytes."""
    absent = []
    for one in series:
        sizes = [file.stat().st_size for file in (folder / one.folder).glob("*.dcm")]
        # The index rounds sizes.
        whole = sum(sizes) > 0.999 * 1e6 * one.megabytes - 1e4
        if len(sizes) < one.files or not whole:
            absent.append(one)
    return absent


def _confirm_download(folder: Path, needed: Sequence[IndexedSeries], yes: bool) -> bool:
    """Asks whether to download, unless `yes`; returns the answer.

    Raises:
      ImportFailed: the disk has not enough room, or nobody can be asked.
    """
    place = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
    free, size = shutil.disk_usage(place).free / 1e9, _gigabytes(needed)
    if free < size:
        raise ImportFailed(
            f"--dicom {folder}: {size:.1f} GB to download, but {free:.1f} GB free; name a folder "
            "on another disk"
        )
    if yes:
        return True
    if not sys.stdin.isatty():
        raise ImportFailed("no terminal to ask whether to download; add --yes")
    try:
        answer = input(f"Download {len(needed)} series ({size:.1f} GB) to {folder}? [y/N] ")
    except EOFError:
        answer = ""
    return answer.strip().lower() in ("y", "yes")
