"""Cuts a cohort into slices, once: a cohort that was prepared before is found in the cache."""

import hashlib
import json
import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from crlm_jax.config.schema import Data
from crlm_jax.data.cache import cache_folder, writing_to
from crlm_jax.data.cohort.cases import Case
from crlm_jax.data.cohort.rows import CohortError
from crlm_jax.data.slice_builder import LiverSlices
from crlm_jax.data.slices import INDEX_DTYPE, INDEX_FILE, PRINT_DTYPE, Slices
from crlm_jax.imaging.bvals import find_bvals
from crlm_jax.imaging.dicom import files
from crlm_jax.imaging.headers import data_files
from crlm_jax.system.files import clear_partial, whole_folder

_SCHEMA = 6  # raise it when the content of records changes: older slices are then not used
_STALE_SECONDS = 24 * 3600


def prepare(cases: Sequence[Case], data: Data, *, workers: int = 2) -> Slices:
    """Cuts the images of the cases into slices, or finds the slices in the cache.

    The slices are kept in ``cache/slices/<fingerprint>``. That folder appears by one renaming when
    it is complete: a process that is killed leaves nothing that looks finished. If several
    processes prepare the same slices at once, one keeps its work and the others use it.

    Args:
      cases: as from `read_cohort`.
      data: `cache` and what the builder reads.
      workers: images that are read at once, each in memory as a whole.

    Raises:
      CohortError: naming the row and the file of every image or mask that cannot be used.
      UserError: the cache cannot be written.
    """
    cases = tuple(cases)
    fingerprint = _fingerprint(cases, data)
    root = cache_folder(data.cache, "slices")
    slices = Slices(cases, root / fingerprint, fingerprint, data.image_size, data.planes)
    if _is_finished(slices.folder):
        return slices
    with writing_to(data.cache, root):
        clear_partial(root, _STALE_SECONDS)
        with whole_folder(slices.folder, _is_finished) as folder:
            builder = LiverSlices(cases=cases, data=data, workers=workers, data_dir=folder)
            builder.download_and_prepare()
            shutil.rmtree(folder / "downloads", ignore_errors=True)  # empty
            np.savez(
                folder / INDEX_FILE,
                digest=np.array(builder.digest.hexdigest()),
                prints=np.array(builder.prints, PRINT_DTYPE),
                doubtful=np.array([case for case, _ in builder.doubts], np.int32),
                doubts=np.array([text for _, text in builder.doubts], np.str_),
                train=np.array(builder.tables["train"], INDEX_DTYPE),
                validation=np.array(builder.tables["validation"], INDEX_DTYPE),
                test=np.array(builder.tables["test"], INDEX_DTYPE),
            )
    return slices


def _is_finished(folder: Path) -> bool:
    return (folder / INDEX_FILE).is_file()


def _fingerprint(cases: Sequence[Case], data: Data) -> str:
    """SHA-256 over all that the records depend on; files count by path, size and time of change."""
    window = [float(limit) for limit in data.ct_window]
    content: list = [
        _SCHEMA, data.image_size, data.antialias, window, data.mr_window, data.train_slices,
        data.resample_masks,
    ]  # fmt: skip
    if data.context:
        content.append(f"context {data.context}")
    if data.channels:
        content.append(f"channels {' '.join(data.channels)}")
    problems = []
    for case in cases:
        content.append([case.patient, case.condition, case.split])
        for pair in case.images:
            content += [pair.mask_label, pair.b_value]
            if pair.tumour is not None:  # the masks are checked against it
                content.append(f"tumour {pair.tumour}")
            content += [other.b_value for other in pair.others]
            for path in (pair.image, *pair.masks, *(other.image for other in pair.others)):
                try:
                    for file in _files(path):
                        stat = file.stat()
                        content.append([str(file.resolve()), stat.st_size, stat.st_mtime_ns])
                except OSError:
                    problems.append(
                        f"cohort row {pair.row}: {path}: file not found; correct the path"
                    )
    if problems:
        raise CohortError("\n".join(problems))
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()


def _files(path: Path) -> list[Path]:
    """The files of an image or mask: all of a DICOM folder, and what lies beside one file.

    Those are the `.bval` file of a NIfTI, and the voxels of a MetaImage or NRRD.
    """
    if path.is_dir() or files.is_dicom(path):
        return sorted(path.iterdir() if path.is_dir() else path.parent.iterdir())
    beside = find_bvals(path)
    # What is not there is an error of its reader, who knows why.
    voxels = [file for file in data_files(path) if file.is_file()]
    return [path, *([] if beside is None else [beside]), *voxels]
