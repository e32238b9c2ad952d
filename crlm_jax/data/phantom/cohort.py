"""A digital phantom cohort: patients with liver metastases, scanned as DWI, T2WI and CT.

The cohort that a first run uses when nobody has data at hand, and that tests can make in seconds.
It is written the way real data come: NIfTI images and masks, and a `cohort.csv`. The protocol is
the paper's (Xia et al., Cancer Imaging 2025); `phantom_anatomy.py` has the bodies,
`phantom_lesions.py` what grows in them, `phantom_scan.py` the physics. What a model reaches on it
says that the code works, and nothing about patients.

    python -m crlm_jax.data.phantom --out DIR --patients 24 --seed 0

Same seed, same bytes: patient p draws from SeedSequence([seed, p]) alone, so no scan depends on how
many workers, patients or conditions there are.
"""

from __future__ import annotations

import csv
import json
import os
import shutil
import uuid
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path

import numpy as np
import SimpleITK as sitk
from tqdm import tqdm

from crlm_jax.data.phantom.lesions import Patient, draw_patient
from crlm_jax.data.phantom.scanner import Scan, scan
from crlm_jax.errors import UserError

CONDITIONS = ("pre_dwi", "post_dwi", "pre_t2wi", "post_t2wi", "ct")
VERSION = 3  # raise when the images of a seed change
_HEADER = ("patient", "condition", "image", "mask", "mask_label", "split")
_README = """\
These images are a digital phantom. They were computed, they show no patient, and no result on them
says anything about patients.

cohort.csv    one row an image: patient, condition, image, mask (paths relative to the file)
pNNN/         images (int16; MRI in arbitrary units, CT in HU) and masks (uint8; 1 = metastasis)
lesions.json  what was drawn: metastases and benign lesions, centres (mm, LPS) and diameters (mm)
phantom.json  the settings

Made by: python -m crlm_jax.data.phantom --patients {patients} --seed {seed}
"""


def make_phantom(
    folder: Path,
    *,
    patients: int = 24,
    conditions: Sequence[str] = CONDITIONS,
    seed: int = 0,
    workers: int | None = None,
    progress: bool = False,
) -> Path:
    """Write a phantom cohort and return the path of its `cohort.csv`.

    A finished cohort of the same settings in `folder` is returned as it is. The cohort appears
    whole or not at all: it is written beside `folder` and renamed.

    Args:
      folder: where the cohort goes; must not hold anything else.
      patients: how many, each with an image under every condition.
      conditions: which of `CONDITIONS`.
      seed: of the whole cohort; an int of at least 0.
      workers: threads; None: one a processor, up to 8 (each takes about 200 MB).
      progress: show a progress bar, one step a patient.

    Raises:
      FileExistsError: `folder` holds something else, such as a cohort of other settings.
    """
    folder = Path(folder)
    conditions = list(conditions)
    wrong = [name for name in conditions if name not in CONDITIONS]
    if wrong or not conditions or len(set(conditions)) < len(conditions):
        raise UserError(f"conditions {conditions}: choose from {', '.join(CONDITIONS)}, each once")
    if patients < 1 or seed < 0:
        raise UserError(
            f"patients={patients}, seed={seed}: need at least 1 patient and a seed >= 0"
        )
    settings = {
        "version": VERSION,
        "patients": int(patients),
        "conditions": conditions,
        "seed": int(seed),
    }
    if _finished(folder, settings):
        return folder / "cohort.csv"

    part = folder.absolute().with_name(f".{folder.name}.partial-{uuid.uuid4().hex[:8]}")
    part.mkdir(parents=True)
    try:
        _write_cohort(part, settings, workers or min(os.cpu_count() or 1, 8), progress)
        if folder.is_dir():
            folder.rmdir()  # empty, or `_finished` had raised
        part.rename(folder)
    except OSError:
        if not _finished(folder, settings):  # unless another process was faster with the same
            raise
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return folder / "cohort.csv"


def _finished(folder: Path, settings: dict) -> bool:
    """Whether `folder` holds this very cohort; False if it is empty or absent."""
    if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
        return False
    try:
        found = json.loads((folder / "phantom.json").read_text())
    except (OSError, ValueError):
        found = None
    if found == settings:
        return True
    what = f"a phantom cohort of other settings ({found})" if found else "other files"
    raise FileExistsError(
        f"{folder} holds {what}, not the cohort asked for ({settings}): "
        "choose another folder, or move or delete this one"
    )


def _write_cohort(folder: Path, settings: dict, workers: int, progress: bool) -> None:
    patients, conditions = settings["patients"], settings["conditions"]
    lesions: dict[str, dict] = {}
    pool = ThreadPoolExecutor(max_workers=max(1, min(workers, patients)))
    try:
        jobs = [
            pool.submit(_write_patient, folder, patient, conditions, settings["seed"])
            for patient in range(1, patients + 1)
        ]
        for job in tqdm(
            as_completed(jobs), "phantom", patients, unit="patient", disable=not progress
        ):
            lesions.update(job.result())
    finally:
        pool.shutdown(cancel_futures=True)
    names = [_name(patient) for patient in range(1, patients + 1)]
    with (folder / "cohort.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(_HEADER)
        for name in names:
            for condition in conditions:
                stem = f"{name}/{condition}"
                writer.writerow((name, condition, f"{stem}.nii.gz", f"{stem}_mask.nii.gz", "", ""))
    (folder / "README.txt").write_text(_README.format(**settings))
    ordered = {name: lesions[name] for name in names}
    (folder / "lesions.json").write_text(json.dumps(ordered, indent=1) + "\n")
    (folder / "phantom.json").write_text(json.dumps(settings, indent=1) + "\n")


def _name(patient: int) -> str:
    """A patient's name says phantom wherever it turns up: tables, file names, pictures."""
    return f"phantom-{patient:03d}"


def _write_patient(folder: Path, patient: int, conditions: Sequence[str], seed: int) -> dict:
    """Draw one patient, write every scan, and return what was drawn."""
    name = _name(patient)
    (folder / name).mkdir()
    body, *scans = np.random.SeedSequence([seed, patient]).spawn(1 + len(CONDITIONS))
    drawn = draw_patient(np.random.default_rng(body))
    for condition, source in zip(CONDITIONS, scans, strict=True):
        if condition in conditions:
            result = scan(np.random.default_rng(source), drawn, condition)
            _write_scan(folder / name / condition, result)
    return {name: _describe(drawn)}


def _write_scan(stem: Path, result: Scan) -> None:
    for array, ending in ((result.image, ""), (result.mask, "_mask")):
        image = sitk.GetImageFromArray(array)
        image.SetSpacing(result.spacing)
        image.SetOrigin(result.origin)
        sitk.WriteImage(image, f"{stem}{ending}.nii.gz", useCompression=True)


def _describe(drawn: Patient) -> dict:
    """The lesions of a patient for `lesions.json`."""

    def place(blob) -> dict:
        return {"centre_mm": [round(float(c), 2) for c in blob.centre]}

    return {
        "metastases": [
            place(blob)
            | {
                "pre_mm": round(blob.pre, 2),
                "post_mm": round(blob.post, 2),
                "necrotic": blob.core > 0,
            }
            for blob in drawn.metastases
        ],
        "benign": [
            place(blob) | {"kind": blob.kind.name.lower(), "mm": round(blob.pre, 2)}
            for blob in drawn.benign
        ],
    }
