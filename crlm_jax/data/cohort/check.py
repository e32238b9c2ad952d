"""The content of a cohort and its problems, found by reading every image and every mask.

Training meets the same problems, but later; this check is for the day on which the cohort is put
together. A lesion is one that the mask's reader drew apart, or else a connected part of the mask in
3D; voxels that share a corner are connected (26-connected). A picture (PNG) has no spacing, so its
lesions have no volume. A lesion that shows in several pictures of a patient counts once in each.
"""

import collections
import dataclasses
import hashlib
import re
import statistics
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text
from tqdm import tqdm

from crlm_jax.config.schema import Data
from crlm_jax.data.cohort.alike import (
    SAME_VOXELS,
    alike_warnings,
    shared_mask_warnings,
    shared_scan_warnings,
)
from crlm_jax.data.cohort.b_values import b_value_of, b_value_warnings
from crlm_jax.data.cohort.cases import Split, read_cohort
from crlm_jax.data.cohort.reference import liver_doubts, read_reference
from crlm_jax.data.cohort.rows import CohortError, Row, read_rows
from crlm_jax.imaging import grey
from crlm_jax.imaging.geometry import VolumeError
from crlm_jax.imaging.mask_files import name_masks
from crlm_jax.imaging.resize import resize_mask
from crlm_jax.imaging.volumes import Volume, read_image
from crlm_jax.stats.patient_table import phantom_mark


@dataclasses.dataclass(frozen=True)
class ImageCheck:
    """The measurements of one image and its mask.

    `volumes` of the lesions in mm³, `spacing` (z, y, x) in mm; a 2D image has neither. `warnings`
    begin with the file that looks wrong. `prints` tell the image from others: by its voxels, and by
    the UID of its DICOM series.
    """

    row: Row
    slices: int
    tumour_slices: int
    too_small: int  # lesions of slices that are smaller than a pixel of the network
    too_small_slices: int
    lesions: int
    volumes: tuple[float, ...]
    spacing: tuple[float, float, float] | None
    warnings: tuple[str, ...]
    labels: tuple[str, ...] = ()  # of the mask, if it is a label map
    prints: dict[str, str] = dataclasses.field(default_factory=dict)
    b_value: float | None = None


@dataclasses.dataclass(frozen=True)
class Report:
    """The result of a check; a cohort with `problems` cannot be trained on.

    Each problem and each warning is one line. `split` is by patient; `drawn` tells whether it is
    drawn, because the file has none.
    """

    path: Path
    problems: tuple[str, ...]
    warnings: tuple[str, ...] = ()
    images: tuple[ImageCheck, ...] = ()
    split: dict[str, Split] = dataclasses.field(default_factory=dict)
    drawn: bool = False


def check_cohort(
    path: str | Path, *, data: Data | None = None, workers: int = 2, progress: bool = False
) -> Report:
    """Reads a whole cohort; reports its content, all problems, and what looks wrong.

    Args:
      path: the cohort file.
      data: how an experiment will cut it into slices; None: as by default.
      workers: images that are read at once, each in memory as a whole.
      progress: show a progress bar on stderr if stderr is a terminal, one step an image.
    """
    path, data = Path(path), Data() if data is None else data
    of_file: list[str] = []
    try:
        rows, problems = read_rows(path, of_file)
    except CohortError as error:
        return Report(path, tuple(str(error).splitlines()))
    images: list[ImageCheck] = []
    for row, result in _check_images(rows, data, workers, progress):
        if isinstance(result, ImageCheck):
            images.append(result)
        else:
            problems.append(f"{path}, row {row.row}: {result}")
    if images and not problems and not any(image.tumour_slices for image in images):
        problems.append(f"{path}: no image holds tumour; correct the masks or mask_label")
    split: dict[str, Split] = {}
    if not problems:
        try:
            cases = read_cohort(path, conditions=sorted({row.condition for row in rows}))
            split = {case.patient: case.split for case in cases}
        except CohortError as error:
            problems += str(error).splitlines()
    warnings = of_file + alike_warnings(path, rows) + shared_mask_warnings(path, rows)
    of_rows = [image.row for image in images]
    warnings += shared_scan_warnings(path, of_rows, [image.prints for image in images])
    # Only if all rows could be read is it known which images a patient lacks.
    warnings += [] if problems else _case_warnings(path, images, split)
    warnings += _label_warnings(path, images) + _image_warnings(path, images)
    warnings += b_value_warnings(path, [(image.row, image.b_value) for image in images])
    warnings += _size_warnings(path, images, data)
    drawn = not any(row.split for row in rows)
    return Report(path, tuple(problems), tuple(warnings), tuple(images), split, drawn)


def _check_images(
    rows: Sequence[Row], data: Data, workers: int, progress: bool
) -> Iterable[tuple[Row, ImageCheck | str]]:
    """Yields every row with its check, or with its problem, in the order of the file."""
    pool = ThreadPoolExecutor(workers)
    try:
        # A worker returns a few numbers only, so each worker has at most one volume in memory.
        results = zip(rows, pool.map(lambda row: _try_image(row, data), rows), strict=True)
        silent = None if progress else True  # None: a bar in a terminal, none in a log file
        yield from tqdm(results, "checking", len(rows), unit="image", disable=silent)
    finally:
        pool.shutdown(cancel_futures=True)


def _try_image(row: Row, data: Data) -> ImageCheck | str:
    try:
        return _check_image(row, data)
    except (VolumeError, OSError) as error:
        return str(error)


def _check_image(row: Row, data: Data) -> ImageCheck:
    pair = row.pair
    volume = read_image(pair.image, b_value=pair.b_value)
    mask = read_reference(pair, volume, resample=data.resample_masks)
    sizes = [int(region.inside.sum()) for region in mask.regions]
    flat = len(volume.geometry.size) == 2
    voxel = float(np.prod(volume.spacing))
    of_image = grey.image_doubts(volume, row.condition)
    if doubt := grey.clipping_doubt(volume, mask.voxels, row.condition, data):
        of_image.append(doubt)
    _, too_small = resize_mask(mask.voxels, data.image_size)
    warnings = [f"{row.image}: {doubt}" for doubt in of_image]
    warnings += (f"{name_masks(row.masks)}: {doubt}" for doubt in mask.doubts)
    of_liver = liver_doubts(pair, volume, mask.voxels, resample=data.resample_masks)
    warnings += (f"{name_masks(row.liver)}: {doubt}" for doubt in of_liver)
    return ImageCheck(
        row,
        slices=len(mask.voxels),
        tumour_slices=int(mask.voxels.any(axis=(1, 2)).sum()),
        too_small=int(too_small.sum()),
        too_small_slices=int(np.count_nonzero(too_small)),
        lesions=len(sizes),
        volumes=() if flat else tuple(size * voxel for size in sizes),
        spacing=None if flat else volume.spacing,
        warnings=tuple(warnings),
        labels=mask.labels,
        prints=_prints(volume),
        b_value=b_value_of(row, volume),
    )


def _prints(volume: Volume) -> dict[str, str]:
    """Returns what tells an image from others, whatever its file is called."""
    digest = hashlib.blake2b(repr(volume.voxels.shape).encode(), digest_size=16)
    digest.update(np.ascontiguousarray(volume.voxels).data)
    found = {SAME_VOXELS: digest.hexdigest()}
    if volume.series is not None:
        found["are one DICOM series by their UID"] = volume.series.uid
    return found


def _case_warnings(
    path: Path, images: Sequence[ImageCheck], split: Mapping[str, Split]
) -> list[str]:
    """Finds cases without tumour, and conditions under which a patient or a split has no image."""
    tumour: dict[tuple[str, str], int] = collections.Counter()
    for image in images:
        tumour[image.row.patient, image.row.condition] += image.tumour_slices
    patients, conditions = (sorted(set(names)) for names in zip(*tumour, strict=True))
    warnings = []
    for condition in conditions:
        without = [p for p in patients if tumour.get((p, condition)) == 0]
        absent = [p for p in patients if (p, condition) not in tumour]
        if without:
            warnings.append(
                f"{path}: condition {condition}: no tumour in any image of {_some(without)}; right "
                "for a patient without one (such a case scores 1 if nothing is predicted, else 0)"
            )
        if absent:
            warnings.append(
                f"{path}: condition {condition}: {len(absent)} of {len(patients)} patients have no "
                f"image under it: {_some(absent)}"
            )
        for side in ("train", "test"):
            if not any(split[p] == side for p in patients if p not in absent):
                warnings.append(
                    f"{path}: condition {condition}: no {side} patient has an image under it; it "
                    "cannot be an experiment by itself"
                )
    return warnings


def _label_warnings(path: Path, images: Sequence[ImageCheck]) -> list[str]:
    """Finds masks without a `mask_label` whose label is not tumour elsewhere, such as the liver."""
    asked = [image.row.mask_label for image in images if isinstance(image.row.mask_label, int)]
    given = {str(label) for label in asked}
    other = [
        str(image.row.row)
        for image in images
        if image.row.mask_label is None and image.labels and given.isdisjoint(image.labels)
    ]
    if not (given and other):
        return []
    return [
        f"{path}: column 'mask_label' is empty in rows {_some(other)}, so that their only label "
        f"counts as tumour; elsewhere tumour is {', '.join(sorted(given))}: write it there too, if "
        "the label is that of an organ"
    ]


def _image_warnings(path: Path, images: Sequence[ImageCheck]) -> list[str]:
    """Returns the warnings of single images; more than `_ALIKE` that differ in numbers are one."""
    alike: dict[str, list[tuple[int, str]]] = {}
    for image in images:
        for warning in image.warnings:
            _, _, text = warning.partition(": ")
            alike.setdefault(_NUMBER.sub("0", text), []).append((image.row.row, warning))
    warnings = []
    for found in alike.values():
        if len(found) <= _ALIKE:
            warnings += [f"{path}, row {row}: {warning}" for row, warning in found]
            continue
        rows = _some([str(row) for row, _ in found])
        warnings.append(f"{path}: {len(found):,} like warnings, rows {rows}; first: {found[0][1]}")
    return warnings


def _size_warnings(path: Path, images: Sequence[ImageCheck], data: Data) -> list[str]:
    """Says how many lesions are smaller than a pixel at the network's size."""
    lesions = sum(image.too_small for image in images)
    if not lesions:
        return []
    slices = sum(image.too_small_slices for image in images)
    rows = _some([str(image.row.row) for image in images if image.too_small])
    return [
        f"{path}: at {data.image_size} × {data.image_size} pixels {lesions:,} lesions in "
        f"{slices:,} slices (rows {rows}) are smaller than a pixel; each counts as one pixel, in "
        "training and in the paper's protocol; a larger data.image_size shows them better"
    ]


_ALIKE = 5
_NUMBER = re.compile(r"-?\d[\d.,]*(?:e[+-]?\d+)?")


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:8]) + (f", … ({len(names)} in all)" if len(names) > 8 else "")


def summary_table(report: Report) -> Table:
    """The cohort by condition and as a whole, to be printed by `rich`."""
    mark = phantom_mark(report.split)
    table = Table(
        title=Text(f"{report.path.name}{mark}: medians (range)"),
        title_justify="left",
        box=SIMPLE_HEAD,
    )
    for name in HEADER:
        table.add_column(name, justify="left" if name == "condition" else "right")
    for row in summary_rows(report):
        table.add_row(*row)
    return table


HEADER = (
    "condition", "patients", "train/test", "images", "slices", "with tumour", "lesions",
    "lesion mm³", "z mm", "in-plane mm",
)  # fmt: skip


def summary_rows(report: Report) -> list[tuple[str, ...]]:
    """The cells below `HEADER`: a row for each condition, then one for all of them together."""
    groups: dict[str, list[ImageCheck]] = {}
    for image in sorted(report.images, key=lambda image: image.row.condition):
        groups.setdefault(image.row.condition, []).append(image)
    if len(groups) > 1:
        groups["in all"] = list(report.images)
    rows: list[tuple[str, ...]] = []
    for name, images in groups.items():
        patients = {image.row.patient for image in images}
        tests = sum(report.split.get(patient) == "test" for patient in patients)
        spacings = [image.spacing for image in images if image.spacing]
        rows.append(
            (
                name,
                f"{len(patients):,}",
                f"{len(patients) - tests}/{tests}",
                f"{len(images):,}",
                f"{sum(image.slices for image in images):,}",
                f"{sum(image.tumour_slices for image in images):,}",
                f"{sum(image.lesions for image in images):,}",
                _range([volume for image in images for volume in image.volumes], ",.0f"),
                _range([z for z, _, _ in spacings], ".3g"),
                _range([edge for _, *plane in spacings for edge in plane], ".3g"),
            )
        )
    return rows


def _range(values: Sequence[float], style: str) -> str:
    """Median and range; the median alone if all values are written alike."""
    if not values:
        return "–"
    middle, low, high = (
        format(value, style) for value in (statistics.median(values), min(values), max(values))
    )
    return middle if low == high else f"{middle} ({low}–{high})"


def split_line(report: Report) -> str:
    """Tells how many patients are trained on and tested, and where the split comes from."""
    count = collections.Counter(report.split.values())
    how = "as in the file"
    if report.drawn:
        how = (
            f"drawn at training (seed {Data.split_seed}, {100 * Data.test_fraction:g} % to test, "
            "unless data.test_patients or data.fold is given)"
        )
    return (
        f"split {how}: {count['train'] + count['validation']} train (of whom "
        f"{count['validation']} are kept to validate), {count['test']} test"
    )
