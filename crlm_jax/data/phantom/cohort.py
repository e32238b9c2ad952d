"""Writes a cohort of phantom patients: NIfTI images and masks, and a `cohort.csv`.

The cohort that a first run uses when nobody has data at hand, and that tests can make in seconds.
It is written the way real data come. `anatomy` has the bodies, `scanner` the protocol and the
physics of the scans. Version 1 has simple lesions (`lesions`) and clean scans. In version 2
patients differ (`variation`), metastases have parts (`tumours`), scans have artefacts
(`acquisition`, `artefacts`), and a second reader draws a mask (`readers`). What a model reaches on
the phantom says that the code works, and nothing about patients.

Same seed, same bytes: patient p draws from SeedSequence([seed, p]), in version 2 from
SeedSequence([seed, p, 2]). So no scan depends on how many workers, patients or conditions there
are.
"""

import dataclasses
import json
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk
from tqdm import tqdm

from crlm_jax.config.checks import PHANTOM_VERSIONS
from crlm_jax.config.schema import Phantom
from crlm_jax.data.cache import cache_folder, writing_to
from crlm_jax.data.phantom.acquisition import scan_case
from crlm_jax.data.phantom.lesions import Blob, draw_patient
from crlm_jax.data.phantom.scanner import PhantomScan, scan
from crlm_jax.data.phantom.variation import draw_case
from crlm_jax.errors import UserError
from crlm_jax.imaging import volumes
from crlm_jax.stats.patient_table import PHANTOM_PREFIXES
from crlm_jax.system.files import whole_folder
from crlm_jax.system.text import to_csv

CONDITIONS = ("pre_dwi", "post_dwi", "pre_t2wi", "post_t2wi", "ct")
# Raise when the images of a seed change, or when a file joins them: from 2 on, version 2 has masks
# of the liver.
_REVISIONS = {1: 3, 2: 2}
_KEYS: dict[int, list[int]] = {1: [], 2: [2]}  # the versions draw from different sequences
_HEADER = ("patient", "condition", "image", "mask", "mask_label", "split")
_LIVER = "liver"  # a further column of version 2, and the ending of its files
_README = """\
These images are a digital phantom. They were computed, they show no patient, and no result on them
says anything about patients.

cohort.csv    one row an image: patient, condition, image, mask (paths relative to the file)
pNNN/         images (int16; MRI in arbitrary units, CT in HU) and masks (uint8; 1 = metastasis)
lesions.json  what was drawn: metastases and benign lesions, centres (mm, LPS) and diameters (mm)
phantom.json  the settings

Made by: python -m crlm_jax.data.phantom --version {version} --patients {patients} --seed {seed}
"""
_SECOND = """
*_mask_reader2.nii.gz is the mask of a second reader, whose borders lie 1 or 2 pixels elsewhere. The
cohort.csv does not name it: it is there to tell how well two readers agree.

*_liver.nii.gz is the mask of the liver with the lesions in it, which the column liver names.
"""
_Scan = Callable[[np.random.Generator, str], PhantomScan]  # of a patient, under a condition


@dataclasses.dataclass(frozen=True)
class _Settings:
    """The content of `phantom.json`."""

    version: int
    revision: int
    patients: int
    conditions: list[str]
    seed: int


def cached_phantom(
    cache: str | Path, patients: int, seed: int, version: int = Phantom.version
) -> Path:
    """Returns the `cohort.csv` of a phantom cohort in the cache (`data.cache`), made if need be.

    Raises:
      UserError: the cache cannot be written.
    """
    root = cache_folder(cache, "phantom")
    revision = _REVISIONS[version]
    folder = root / f"{patients}_patients_seed_{seed}_version_{version}.{revision}"
    if _is_finished(folder, _Settings(version, revision, patients, list(CONDITIONS), seed)):
        return folder / "cohort.csv"
    with writing_to(cache, root):
        return make_phantom(folder, patients=patients, seed=seed, version=version, progress=True)


def make_phantom(
    folder: Path,
    *,
    patients: int = Phantom.patients,
    conditions: Sequence[str] = CONDITIONS,
    seed: int = Phantom.seed,
    version: int = Phantom.version,
    workers: int | None = None,
    progress: bool = False,
) -> Path:
    """Writes a phantom cohort and returns the path of its `cohort.csv`.

    A finished cohort of the same settings in `folder` is returned as it is. The cohort appears
    whole or not at all: it is written beside `folder` and renamed.

    Args:
      folder: folder of the cohort; it must not hold anything else.
      patients: how many, each with an image under every condition.
      conditions: which of `CONDITIONS`.
      seed: seed of the whole cohort, at least 0.
      version: 1, easy images, as up to crlm_jax 0.1.0, or 2, which has much of what makes real ones
        hard. The versions share no patient.
      workers: threads; None: one a processor, up to 8 (each takes about 200 MB).
      progress: show a progress bar, one step a patient.

    Raises:
      UserError: a setting is out of range, or `folder` holds something else, such as a cohort of
        other settings.
    """
    folder = Path(folder)
    wrong = [name for name in conditions if name not in CONDITIONS]
    if wrong or not conditions or len(set(conditions)) < len(conditions):
        raise UserError(
            f"conditions {', '.join(conditions) or 'empty'}: choose from {', '.join(CONDITIONS)}, "
            "each once"
        )
    if patients < 1:
        raise UserError(f"patients {patients}: must be 1 or more")
    if workers is not None and workers < 1:
        raise UserError(f"workers {workers}: must be 1 or more")
    if seed < 0:
        raise UserError(f"seed {seed}: must be 0 or more")
    if version not in PHANTOM_VERSIONS:
        raise UserError(f"version {version}: choose from {', '.join(map(str, PHANTOM_VERSIONS))}")
    settings = _Settings(version, _REVISIONS[version], patients, list(conditions), seed)
    if not _is_finished(folder, settings):
        with whole_folder(folder.absolute(), lambda out: _is_finished(out, settings)) as partial:
            _write_cohort(partial, settings, workers or min(os.cpu_count() or 1, 8), progress)
    return folder / "cohort.csv"


def _is_finished(folder: Path, settings: _Settings) -> bool:
    """Whether `folder` holds this very cohort; False if it is empty or absent.

    Raises:
      UserError: it holds something else.
    """
    if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
        return False
    try:
        found = json.loads((folder / "phantom.json").read_text())
    except (OSError, ValueError):
        found = None
    if found == dataclasses.asdict(settings):
        return True
    content = f"a phantom cohort of other settings ({found})" if found else "other files"
    raise UserError(f"{folder} holds {content}; choose another folder, or move or delete this one")


def _write_cohort(folder: Path, settings: _Settings, workers: int, progress: bool) -> None:
    lesions: dict[str, dict] = {}
    pool = ThreadPoolExecutor(max_workers=max(1, min(workers, settings.patients)))
    try:
        jobs = [
            pool.submit(_write_patient, folder, patient, settings)
            for patient in range(1, settings.patients + 1)
        ]
        for job in tqdm(
            as_completed(jobs), "phantom", len(jobs), unit="patient", disable=not progress
        ):
            lesions.update(job.result())
    finally:
        pool.shutdown(cancel_futures=True)
    lesions = dict(sorted(lesions.items()))  # not as the threads end
    rows = [
        (name, condition, f"{name}/{condition}.nii.gz", f"{name}/{condition}_mask.nii.gz", "", "")
        for name in lesions
        for condition in settings.conditions
    ]
    table: list[tuple[str, ...]] = [_HEADER, *rows]
    if settings.version > 1:
        livers = [row[2].replace(".nii.gz", f"_{_LIVER}.nii.gz") for row in rows]
        table = [(*row, cell) for row, cell in zip(table, [_LIVER, *livers], strict=True)]
    (folder / "cohort.csv").write_bytes(to_csv(table).encode())
    about = dataclasses.asdict(settings)
    readme = _README.format(**about) + (_SECOND if settings.version > 1 else "")
    (folder / "README.txt").write_text(readme, encoding="utf-8")
    for name, content in (("lesions", lesions), ("phantom", about)):
        (folder / f"{name}.json").write_text(json.dumps(content, indent=1) + "\n")


def _write_patient(folder: Path, number: int, settings: _Settings) -> dict[str, dict]:
    """Draws one patient, writes every scan, and returns what was drawn, by the patient's name."""
    name = f"{PHANTOM_PREFIXES[settings.version]}{number:03d}"
    (folder / name).mkdir()
    key = [settings.seed, number, *_KEYS[settings.version]]
    body, *scans = np.random.SeedSequence(key).spawn(1 + len(CONDITIONS))
    take, drawn = _draw(np.random.default_rng(body), settings.version)
    for condition, seed in zip(CONDITIONS, scans, strict=True):
        if condition in settings.conditions:
            _write_scan(folder / name / condition, take(np.random.default_rng(seed), condition))
    return {name: drawn}


def _draw(rng: np.random.Generator, version: int) -> tuple[_Scan, dict]:
    """Draws a patient; returns what scans the patient, and the lesions for `lesions.json`."""
    if version == 1:
        patient = draw_patient(rng)
        told = _describe(patient.metastases, patient.benign)
        return lambda rng, condition: scan(rng, patient, condition), told
    case = draw_case(rng)
    told = _describe([tumour.blob for tumour in case.tumours], case.benign)
    for lesion, tumour in zip(told["metastases"], case.tumours, strict=True):
        lesion |= {
            "kind": tumour.kind,
            "pattern": tumour.pattern,
            "necrotic": tumour.core > 0,
            "calcified": tumour.calcified,
        }
    told["traits"] = {
        name: round(value, 3) for name, value in dataclasses.asdict(case.traits).items()
    }
    return lambda rng, condition: scan_case(rng, case, condition), told


def _write_scan(stem: Path, result: PhantomScan) -> None:
    arrays = [(result.image, ""), (result.mask, "_mask")]
    if result.second is not None:
        arrays.append((result.second, "_mask_reader2"))
    if result.liver is not None:
        arrays.append((result.liver, f"_{_LIVER}"))
    for array, ending in arrays:
        image = sitk.GetImageFromArray(array)
        image.SetSpacing(result.spacing)
        image.SetOrigin(result.origin)
        volumes.write_image(image, Path(f"{stem}{ending}.nii.gz"))


def _describe(metastases: Sequence[Blob], benign: Sequence[Blob]) -> dict[str, Any]:
    """The lesions of a patient for `lesions.json`."""

    def place(blob: Blob) -> dict:
        return {"centre_mm": [round(float(c), 2) for c in blob.centre]}

    return {
        "metastases": [
            place(blob)
            | {
                "pre_mm": round(blob.pre, 2),
                "post_mm": round(blob.post, 2),
                "necrotic": blob.core > 0,
            }
            for blob in metastases
        ],
        "benign": [
            place(blob) | {"kind": blob.kind.name.lower(), "mm": round(blob.pre, 2)}
            for blob in benign
        ],
    }
