"""Files beside scans that are no scans: their masks, by name and content both.

A file is left out only if its name and its voxels say that it is a mask. A scan that is called
`liver_roi.nii.gz` has many grey values and stays; a mask that is called `p2.nii.gz` stays too, and
its prediction comes with a warning.
"""

import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from crlm_jax.imaging import volumes
from crlm_jax.imaging.geometry import VolumeError

_MASK_WORDS = {
    "mask", "masks", "msk", "seg", "segs", "segm", "segment", "segments", "segmentation",
    "segmentations", "label", "labels", "labelmap", "lbl", "roi", "rois", "gt", "lesion",
    "lesions", "tumor", "tumors", "tumour", "tumours", "annotation", "annotations", "contour",
    "contours", "delineation", "groundtruth", "truth",
}  # fmt: skip
_MASK_ENDS = ("mask", "masks", "segmentation", "labels", "labelmap")  # as in liverMask
_MAP_WORDS = ("prob", "probs", "probability", "probabilities", "softmax", "heatmap")
_FEW = 16  # labels of a mask; a scan has many more grey values
_SAMPLE = 200_000  # voxels that tell a mask from a scan at a glance
_TWO_LEVELS = 0.98  # of the pixels of a mask that was saved as JPEG are nearly black or white


def find_masks(files: Sequence[Path], stem: dict[Path, str]) -> dict[Path, str]:
    """Returns the files of a folder that are masks, or maps, of others, with what each is.

    Args:
      files: the images of the folder, any but DICOM.
      stem: the name of each without its ending.
    """
    found = {}
    for file in files:
        own = stem[file].lower()
        beside = any(_extends(own, stem[other].lower()) for other in files if other != file)
        words = re.findall(r"[a-z]+", re.sub(r"(?<=[a-z])(?=[A-Z])", " ", stem[file]).lower())
        named = any(word in _MASK_WORDS or word.endswith(_MASK_ENDS) for word in words)
        mapped = any(word in _MAP_WORDS for word in words)
        if (named or mapped or beside) and (what := _content(file, named, mapped)):
            found[file] = what
    return found


def _extends(name: str, other: str) -> bool:
    """Whether a name is another one with something after it, as `p1_m` is `p1` with `_m`."""
    return bool(other) and name.startswith(other) and not name[len(other) :][:1].isalnum()


def _content(file: Path, named: bool, mapped: bool) -> str | None:
    """Says what a file is by its voxels; None: it may be a scan, or cannot be read."""
    if file.name.lower().endswith(".nrrd") and _is_slicer_segmentation(file):
        return "a segmentation"
    try:
        labels, _ = volumes.read_label_map(file)
    except VolumeError:
        labels = None
    if labels is not None:
        return "a mask" if _few_values(labels) else None
    if not (named or mapped):
        return None
    try:
        voxels = volumes.read_image(file).voxels
    except VolumeError:
        return None
    if mapped and voxels.min() >= 0 and voxels.max() <= 1:
        return "a map of probabilities"
    black, white = voxels.min(), voxels.max()
    near = (voxels < black + 0.05 * (white - black)) | (voxels > white - 0.05 * (white - black))
    if named and file.name.lower().endswith((".jpg", ".jpeg")) and near.mean() > _TWO_LEVELS:
        return "a mask"
    return None


def _is_slicer_segmentation(file: Path) -> bool:
    with file.open("rb") as stream:
        return b"\nSegment0_" in stream.read(2**16)


def looks_like_a_mask(voxels: np.ndarray) -> bool:
    """Whether the voxels of a scan are 0 and one other value, as those of a mask are."""
    return voxels.min() == 0 and _few_values(voxels, 2)


def _few_values(array: np.ndarray, most: int = _FEW) -> bool:
    """Whether voxels have at most so many different values."""
    flat = array.ravel()
    if len(np.unique(flat[:: max(1, flat.size // _SAMPLE)])) > most:
        return False
    return len(np.unique(flat)) <= most
