"""Files beside scans that are no scans: their masks, by name and content both.

A file is left out only if its name and its voxels say that it is a mask. A scan that is called
`liver_roi.nii.gz` has many grey values and stays; a mask that is called `p2.nii.gz` stays too, and
its prediction comes with a warning.
"""

import contextlib
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from crlm_jax.imaging import volumes
from crlm_jax.imaging.geometry import VolumeError
from crlm_jax.imaging.masks import read_label_map
from crlm_jax.imaging.slicer import is_slicer_segmentation

_MASK_WORDS = {
    "mask", "masks", "msk", "seg", "segs", "segm", "segment", "segments", "segmentation",
    "segmentations", "label", "labels", "labelmap", "lbl", "roi", "rois", "gt", "lesion",
    "lesions", "tumor", "tumors", "tumour", "tumours", "annotation", "annotations", "contour",
    "contours", "delineation", "groundtruth", "truth",
}  # fmt: skip
_MASK_ENDS = ("mask", "maske", "masks", "seg", "segmentation", "label", "labels", "labelmap", "roi")
_MAP_WORDS = ("prob", "probs", "probability", "probabilities", "softmax", "heatmap", "uncertainty")
_FEW = 16  # labels of a mask; a scan has many more grey values
_SAMPLE = 200_000  # voxels that tell a mask from a scan at a glance
_TWO_LEVELS = 0.98  # of the pixels of a mask that was saved as JPEG are nearly black or white


def find_masks(files: Sequence[Path], stem: dict[Path, str]) -> dict[Path, str]:
    """Returns the files of a folder that are masks, or maps, of others, with what each is.

    Args:
      files: the images of the folder, any but DICOM.
      stem: the name of each without its ending.
    """
    found, stems = {}, {stem[file].lower() for file in files}
    for file in files:
        beside = _extends(stem[file].lower(), stems)
        words = re.findall(r"[a-z]+", re.sub(r"(?<=[a-z])(?=[A-Z])", " ", stem[file]).lower())
        named = any(word in _MASK_WORDS or word.endswith(_MASK_ENDS) for word in words)
        mapped = any(word in _MAP_WORDS for word in words)
        if (named or mapped or beside) and (what := _content(file, mapped)):
            found[file] = what
    return found


def _extends(name: str, others: set[str]) -> bool:
    """Whether a name is another one with something after it, as `p1_m` is `p1` with `_m`."""
    signs = (place for place, letter in enumerate(name) if not letter.isalnum())
    return any(name[:place] in others for place in signs)


def _content(file: Path, mapped: bool) -> str | None:
    """Says what a file is by its voxels; None: it may be a scan, or cannot be read.

    With `mapped`, its name is that of a map of probabilities.
    """
    if file.name.lower().endswith(".nrrd"):
        with contextlib.suppress(VolumeError):
            if is_slicer_segmentation(volumes.load(file)):
                return "a segmentation"
    try:
        labels, _ = read_label_map(file)
    except VolumeError:
        labels = None
    if labels is not None:
        return "a mask" if _few_values(labels) else None
    is_jpeg = file.name.lower().endswith((".jpg", ".jpeg"))
    if not (mapped or is_jpeg):
        return None
    try:
        voxels = volumes.read_image(file).voxels
    except VolumeError:
        return None
    low, high = voxels.min(), voxels.max()
    if mapped and low >= 0 and high <= 1:
        return "a map of probabilities"
    edge = 0.05 * (high - low)
    share = ((voxels < low + edge) | (voxels > high - edge)).mean()
    return "a mask" if is_jpeg and share > _TWO_LEVELS else None


def looks_like_a_mask(voxels: np.ndarray) -> bool:
    """Whether the voxels of a scan are 0 and one other value, as those of a mask are."""
    return voxels.min() == 0 and _few_values(voxels, 2)


def _few_values(array: np.ndarray, most: int = _FEW) -> bool:
    """Whether voxels have at most so many different values."""
    flat = array.ravel()
    if len(np.unique(flat[:: max(1, flat.size // _SAMPLE)])) > most:
        return False
    return len(np.unique(flat)) <= most
