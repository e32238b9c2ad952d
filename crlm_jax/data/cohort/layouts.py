"""Images and their masks found in other projects' layouts.

The layouts are nnU-Net's raw data set (its documentation/dataset_format.md, versions 1 and 2), a
task of the Medical Segmentation Decathlon (Antonelli et al. 2022) and that of CRLM-GAN's released
code. No file is opened but `dataset.json`, and none is written. What a folder does not tell must be
given as an option and is never guessed: above all which label is tumour, and which slices are of
the same patient.
"""

import collections
import difflib
import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from crlm_jax.data.cohort.patterns import Entry, Found, files, one_condition, what_is_there
from crlm_jax.data.cohort.rows import CohortError


def from_nnunet(
    folder: Path,
    *,
    conditions: Sequence[str],
    channels: Sequence[str] = (),
    label: str | None = None,
    patient_pattern: str | None = None,
) -> Found:
    """Reads nnU-Net's raw layout; if labelsTs has files, imagesTs is the test split.

    Args:
      folder: holds dataset.json, imagesTr and labelsTr.
      conditions: a condition for each channel taken.
      channels: numbers of the channels to take; empty: all.
      label: name or number of the label that is tumour; None: the only one.
      patient_pattern: regular expression that finds the patient in a case's name.

    Raises:
      CohortError: the folder has another layout, or an option is missing or wrong.
    """
    path, about = _dataset_json(folder)
    names = about.get("channel_names", about.get("modality"))  # version 2, version 1
    if not isinstance(names, dict) or not names:
        raise CohortError(f"{path}: no 'channel_names'; give the folder of a raw nnU-Net data set")
    listed = ", ".join(f"{number} {name}" for number, name in names.items())
    taken = list(channels) or list(names)
    if wrong := [number for number in taken if number not in names]:
        raise CohortError(f"--channel {wrong[0]}: the channels in {path} are: {listed}")
    if len(conditions) != len(taken):
        raise CohortError(
            f"{len(taken)} channels and {len(conditions)} conditions; the channels in {path} are: "
            f"{listed}; give --condition once for each, or choose by --channel N --condition NAME"
        )
    mask_label = _choose_label(path, about.get("labels"), label)
    ending = about.get("file_ending", ".nii.gz")
    has_tests = bool(files(folder / "labelsTs"))
    cases = list(_nnunet_cases(folder, "Tr", ending, "train" * has_tests))
    cases += _nnunet_cases(folder, "Ts", ending, "test") if has_tests else []
    patients, notes = _patients([case for case, *_ in cases], patient_pattern, "case")
    entries, unpaired = [], []
    for case, split, of_case, mask in cases:
        for number, condition in zip(taken, conditions, strict=True):
            image = of_case.get(number)
            if image and mask:
                entries.append(Entry(patients[case], condition, image, mask, mask_label, split))
            elif image or mask:
                lacks = "image without mask" if image else f"mask without image of channel {number}"
                unpaired.append(f"{image or mask}: {lacks}")
    left = 0 if has_tests else len(files(folder / "imagesTs"))
    notes += [f"{left} files in imagesTs have no masks (labelsTs) and were left out"] * bool(left)
    return Found(tuple(entries), tuple(unpaired), tuple(notes))


def _nnunet_cases(
    folder: Path, kind: str, ending: str, split: str
) -> Iterator[tuple[str, str, dict[str, Path], Path | None]]:
    """Yields (case, split, image of each channel, mask) of imagesTr and labelsTr, or of Ts."""
    images: dict[str, dict[str, Path]] = collections.defaultdict(dict)
    for file in files(folder / f"images{kind}"):
        if match := re.fullmatch(rf"(.+)_(\d{{4}}){re.escape(ending)}", file.name):
            images[match[1]][str(int(match[2]))] = file
    labels = files(folder / f"labels{kind}")
    masks = {f.name.removesuffix(ending): f for f in labels if f.name.endswith(ending)}
    if not images:
        pattern = folder / f"images{kind}" / f"CASE_0000{ending}"
        raise CohortError(f"no file is named as {pattern}; {what_is_there(str(pattern))}")
    for case in sorted(images.keys() | masks.keys()):
        yield case, split, images[case], masks.get(case)


def from_decathlon(
    folder: Path,
    *,
    conditions: Sequence[str],
    label: str | None = None,
    patient_pattern: str | None = None,
) -> Found:
    """Reads a task of the Medical Segmentation Decathlon: the training cases of its dataset.json.

    Arguments and errors are those of `from_nnunet`, but `conditions` is a single one.
    """
    path, about = _dataset_json(folder)
    training = about.get("training")
    whole = isinstance(training, list) and all(
        isinstance(item, dict) and all(isinstance(item.get(k), str) for k in ("image", "label"))
        for item in training
    )
    if not training or not whole:
        raise CohortError(
            f"{path}: no list 'training' of image and label; give the folder of a Decathlon task, "
            "or --nnunet for nnU-Net's layout"
        )
    names = about.get("modality")
    if isinstance(names, dict) and len(names) > 1:
        raise CohortError(
            f"{path}: {len(names)} channels in one 4D image ({', '.join(map(str, names.values()))})"
            "; save the channel to be segmented as 3D volumes and build with --images and --masks"
        )
    condition = one_condition(conditions, "a Decathlon task does not tell it")
    mask_label = _choose_label(path, about.get("labels"), label)
    pairs = [(folder / item["image"], folder / item["label"]) for item in training]
    patients, notes = _patients([_stem(image) for image, _ in pairs], patient_pattern, "case")
    entries, unpaired = [], []
    for image, mask in pairs:
        absent = [file for file in (image, mask) if not file.is_file()]
        unpaired += [f"{file}: named in dataset.json, not found" for file in absent]
        if not absent:
            entries.append(Entry(patients[_stem(image)], condition, image, mask, mask_label))
    if tests := len(about.get("test") or ()):
        notes.append(f"{tests} images under 'test' have no masks and were left out")
    return Found(tuple(entries), tuple(unpaired), tuple(notes))


def from_released(
    folder: Path,
    *,
    conditions: Sequence[str],
    patient_pattern: str | None = None,
    one_slice_per_patient: bool = False,
) -> Found:
    """Reads the released code's layout: pictures in ``images/``, masks in ``masks/0/``.

    A mask has the name of its picture. The slices of a patient become the images of one case, so
    that the split keeps them together.

    Args:
      folder: holds images/ and masks/.
      conditions: the one condition of all slices.
      patient_pattern: regular expression over a whole name without its ending, with a group
        ``(?P<patient>…)``.
      one_slice_per_patient: every slice is another patient's; otherwise that is an error.

    Raises:
      CohortError: the names do not tell the patients, or a folder has no files.
    """
    condition = one_condition(conditions, "the released layout does not tell it")
    images, masks = _by_stem(folder / "images"), _by_stem(folder / "masks" / "0")
    if not images or not masks:
        pattern = folder / ("masks/0" if images else "images") / "NAME.png"
        raise CohortError(f"no file is named as {pattern}; {what_is_there(str(pattern))}")
    names = sorted(images)
    if not patient_pattern and not one_slice_per_patient:
        raise CohortError(
            "which slices are of the same patient? The files are named, for example, "
            f"{', '.join(names[:3])}; name the part that is the patient, such as "
            r"--patient-pattern '(?P<patient>[^_]+)_\d+'"
        )
    patients, notes = _patients(names, patient_pattern, "slice")
    if len(names) > 3 and len(set(patients.values())) == len(names) and not one_slice_per_patient:
        examples = ", ".join(f"{name} → {patients[name]}" for name in names[:3])
        raise CohortError(
            f"--patient-pattern makes each of {len(names)} slices another patient ({examples}): "
            "the split would tear patients apart; correct it, or add --one-slice-per-patient"
        )
    paired = sorted(images.keys() & masks.keys())
    entries = [Entry(patients[name], condition, images[name], masks[name]) for name in paired]
    unpaired = [f"{images[n]}: image without mask" for n in names if n not in masks]
    unpaired += [f"{masks[n]}: mask without image" for n in sorted(masks) if n not in images]
    return Found(tuple(entries), tuple(unpaired), tuple(notes))


def _patients(
    names: Sequence[str], pattern: str | None, what: str
) -> tuple[dict[str, str], list[str]]:
    """Returns the patient of each case or slice; without a pattern its own name, and a note."""
    if not pattern:
        note = (
            f"EACH {what.upper()} IS TAKEN FOR A PATIENT OF ITS OWN ({names[0]}, …); if a patient "
            f"has several, name the patient in a {what}'s name by --patient-pattern"
        )
        return dict(zip(names, names, strict=True)), [note]
    try:
        regex = re.compile(pattern)
    except re.error as error:
        raise CohortError(
            f"--patient-pattern {pattern!r}: no regular expression ({error})"
        ) from error
    if "patient" not in regex.groupindex:
        raise CohortError(f"--patient-pattern {pattern!r}: no group (?P<patient>…) in it; add it")
    matches = {name: match for name in names if (match := regex.fullmatch(name))}
    if wrong := [name for name in names if name not in matches or not matches[name]["patient"]]:
        raise CohortError(
            f"--patient-pattern {pattern!r} does not fit {len(wrong)} of {len(names)} names, for "
            f"example {', '.join(wrong[:3])}; it has to fit the whole name without its ending"
        )
    return {name: match["patient"] for name, match in matches.items()}, []


def _dataset_json(folder: Path) -> tuple[Path, dict[str, Any]]:
    path = folder / "dataset.json"
    if not path.is_file():
        raise CohortError(f"{path}: file not found; {what_is_there(str(path))}")
    try:
        about = json.loads(path.read_text(encoding="utf-8-sig"))
    except ValueError as error:
        raise CohortError(f"{path}: not readable as JSON ({error}); correct it") from error
    if not isinstance(about, dict):
        raise CohortError(f"{path}: not a JSON object; correct it")
    return path, about


def _choose_label(path: Path, labels: Any, label: str | None) -> str:
    """Returns the cell `mask_label`; dataset.json maps names to numbers or numbers to names."""
    numbers: dict[str, set[int]] = {}
    try:
        for key, value in labels.items():
            if isinstance(value, str):  # version 1 and the Decathlon: {"2": "tumour"}
                key, value = value, int(key)
            numbers[key] = set(map(int, value if isinstance(value, list) else [value])) - {0}
    except (AttributeError, TypeError, ValueError) as error:
        raise CohortError(f"{path}: 'labels' is not a map of names and numbers") from error
    every = set().union(*numbers.values())
    choice = {name: ids for name, ids in numbers.items() if ids and name.lower() != "ignore"}
    listed = ", ".join(f"{'+'.join(map(str, sorted(i)))} {name}" for name, i in choice.items())
    if label is None:
        if len(choice) != 1:
            raise CohortError(f"which label is tumour? {path} has: {listed}; add --label")
        ids = next(iter(choice.values()))
    elif label.isdecimal() and int(label) in every:
        ids = {int(label)}
    else:
        close = difflib.get_close_matches(label.lower(), [n.lower() for n in choice], n=1)
        match = [name for name in choice if name.lower() == label.lower()]
        if not match:
            hint = f" (did you mean '{close[0]}'?)" if close else ""
            raise CohortError(f"--label {label!r}{hint}: the labels of {path} are: {listed}")
        ids = choice[match[0]]
    return ",".join(map(str, sorted(ids)))


def _stem(path: Path) -> str:
    return path.name.removesuffix(".gz").rpartition(".")[0]


def _by_stem(folder: Path) -> dict[str, Path]:
    found: dict[str, Path] = {}
    for file in files(folder):
        other = found.setdefault(_stem(file), file)
        if other != file:
            raise CohortError(f"{other} and {file} differ in their endings only; remove one")
    return found
