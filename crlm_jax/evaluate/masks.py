"""Masks that lie ready, of whatever tool: found by a pattern, checked, and read as predictions.

A pattern such as ``masks/{patient}_{condition}.nii.gz`` names the file of every image. The masks
are read as those of a cohort are, by the same code.
"""

import dataclasses
import re
from collections import deque
from collections.abc import Mapping, Sequence
from concurrent import futures
from pathlib import Path

import numpy as np
from tqdm import tqdm

from crlm_jax.config.schema import Data
from crlm_jax.data.cohort.cases import Case
from crlm_jax.data.cohort.rows import ImagePair
from crlm_jax.errors import UserError
from crlm_jax.evaluate.patients import TestCohort
from crlm_jax.imaging import volumes
from crlm_jax.imaging.geometry import VolumeError
from crlm_jax.imaging.mask_files import split_masks
from crlm_jax.imaging.masks import read_mask
from crlm_jax.imaging.resize import resize_mask
from crlm_jax.imaging.volumes import Volume
from crlm_jax.predict.scans import ending

_OPTION = "--masks"
_OF_PATIENT = ("patient", "name", "image")  # one of them tells patients apart
_FIELDS = (*_OF_PATIENT, "condition")
_SHOWN = 20  # doubts that are printed

Images = Mapping[tuple[int, int], tuple[Path, ...]]  # files by (case, image of the case)


def check_pattern(pattern: str) -> None:
    """Raises UserError if a pattern does not say which patient a file is of."""
    fields = re.findall(r"\{([^{}]*)\}", pattern)
    known = ", ".join(f"{{{name}}}" for name in _FIELDS)
    if unknown := [name for name in fields if name not in _FIELDS]:
        raise UserError(
            f"{_OPTION} {pattern!r}: {{{unknown[0]}}} is nothing that a pattern can have; there "
            f"are {known}"
        )
    if not set(fields) & set(_OF_PATIENT):
        raise UserError(
            f"{_OPTION} {pattern!r}: has no {{patient}}, so that every patient would have the same "
            "mask; write it where the file names have the patient, as in "
            "'masks/{patient}_{condition}.nii.gz'"
        )


def find_files(pattern: str, cohort: TestCohort, cases: Sequence[Case]) -> Images:
    """Returns the files of every image's mask.

    Args:
      pattern: a path with `{patient}`, `{condition}`, `{image}` (the image file's name without its
        ending) or `{name}` (as `predict` names the mask of an image of a cohort). It may have
        several files joined by ``|``, and ``*``.
      cohort: whose file names the patients.
      cases: of the evaluation.

    Raises:
      UserError: listing every image without a file, or two images with one file.
    """
    check_pattern(pattern)
    found: dict[tuple[int, int], tuple[Path, ...]] = {}
    missing: list[str] = []
    first: dict[Path, str] = {}
    for number, case in enumerate(cases):
        for index, pair in enumerate(case.images):
            text = _fill(pattern, cohort, case, pair)
            about = f"{case.patient}, {case.condition} (row {pair.row})"
            files = split_masks(text)
            missing += [f"{about}: {file} is not there" for file in files if not file.is_file()]
            for file in files:
                if (other := first.setdefault(file.resolve(), about)) != about:
                    raise UserError(
                        f"{_OPTION} {pattern!r}: {file} would be the mask of {other} and of "
                        f"{about}; write {{condition}}, {{image}} or {{name}} into the pattern"
                    )
            found[number, index] = files
    if missing:
        head = f"{_OPTION} {pattern!r}: {len(missing)} file(s) missing; add them, or correct it:"
        raise UserError("\n".join([head, *missing]))
    return found


def _fill(pattern: str, cohort: TestCohort, case: Case, pair: ImagePair) -> str:
    image = pair.image.name
    values = {
        "patient": cohort.own_name(case),
        "condition": case.condition,
        "image": image[: len(image) - len(ending(pair.image))],
        "name": cohort.images[pair.row],
    }
    text = re.sub(r"\{([^{}]*)\}", lambda field: values[field[1]], pattern)
    return str(Path(text).expanduser())


@dataclasses.dataclass(frozen=True)
class GivenMasks:
    """The masks of every image, all of which can be read."""

    cases: tuple[Case, ...]
    files: Images
    label: int | str | None  # what is tumour in them, as in a cohort's column `mask_label`
    data: Data  # image size, and whether masks on other grids are resampled
    packed: dict[tuple[int, int], tuple[tuple[int, ...], np.ndarray]]  # at the network's size
    doubts: tuple[str, ...]

    def found(self, case: int, image: int) -> np.ndarray:
        """Returns the mask of an image at the network's size, (Z, S, S) bool."""
        shape, bits = self.packed[case, image]
        return np.unpackbits(bits, count=int(np.prod(shape))).reshape(shape).astype(bool)

    def read(self, case: int, image: int, volume: Volume) -> np.ndarray:
        """Reads the mask of an image, (Z, H, W) bool on its axial slices."""
        resample = self.data.resample_masks
        return read_mask(self.files[case, image], self.label, volume, resample=resample)


def read_masks(
    files: Images, cases: tuple[Case, ...], label: int | str | None, data: Data
) -> GivenMasks:
    """Reads all masks once, so that one error lists all that cannot be used.

    Args:
      files: from `find_files`.
      cases: of the evaluation.
      label: what is tumour in the masks, as in a cohort's column `mask_label`.
      data: the size of the paper's protocol, and whether masks on other grids are resampled.

    Raises:
      UserError: naming the patient and the file of every mask that cannot be used.
    """
    problems: list[str] = []
    doubts: list[str] = []
    packed = {}

    def read(place: tuple[int, int]) -> tuple[np.ndarray, list[str]]:
        case, image = place
        pair, said = cases[case].images[image], list[str]()
        volume = volumes.read_image(pair.image, b_value=pair.b_value)
        mask = read_mask(files[place], label, volume, said, resample=data.resample_masks)
        return resize_mask(mask, data.image_size, antialias=data.antialias)[0], said

    with (
        futures.ThreadPoolExecutor(2) as pool,
        tqdm(total=len(files), desc="reading masks", unit="image", disable=None) as bar,
    ):
        ahead: deque = deque()  # two images in memory, however many there are
        left = deque(files)
        while left or ahead:
            while left and len(ahead) < 2:
                place = left.popleft()
                ahead.append((place, pool.submit(read, place)))
            place, result = ahead.popleft()
            about = f"{cases[place[0]].patient}, {cases[place[0]].condition}"
            try:
                small, said = result.result()
                packed[place] = small.shape, np.packbits(small.astype(bool))
                doubts += [f"{about}: {files[place][0]}: {text}" for text in said]
            except VolumeError as error:
                problems.append(f"{about}: {error}")
            bar.update()
    if problems:
        head = f"{_OPTION}: {len(problems)} mask(s) cannot be used:"
        raise UserError("\n".join([head, *problems]))
    more = [f"{len(doubts) - _SHOWN} more masks with doubts"] * (len(doubts) > _SHOWN)
    return GivenMasks(cases, files, label, data, packed, (*doubts[:_SHOWN], *more))


def own_references(files: Images, cases: Sequence[Case]) -> list[str]:
    """Returns a note if masks that are to be judged are the references themselves."""
    same = sum(
        {file.resolve() for file in own}
        <= {mask.resolve() for mask in cases[case].images[image].masks}
        for (case, image), own in files.items()
    )
    if not same:
        return []
    return [f"{same} of the {len(files)} masks are the cohort's own, and agree with themselves."]
