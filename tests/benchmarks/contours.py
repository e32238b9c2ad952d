"""Compares contours on a real CT as crlm_jax, plastimatch and rt-utils fill them.

    python tests/benchmarks/contours.py ../shared/data/dicom/crlm_ct/CRLM-CT-1006

Lesions are made up from seed 0, with holes and several parts. plastimatch is Debian's; rt-utils is
asked where it is installed (pip install rt-utils).
"""

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import SimpleITK as sitk
from scipy import ndimage

from crlm_jax.imaging.dicom.results import Algorithm
from crlm_jax.imaging.dicom.rtstruct import write_rtstruct
from crlm_jax.imaging.lesions import label_lesions
from crlm_jax.imaging.masks import read_lesions
from crlm_jax.imaging.volumes import read_image


def make_lesions(shape: tuple[int, ...], seed: int = 0) -> np.ndarray:
    """Labels (slices, rows, columns): blobs with holes; in one slice, rings around an island."""
    random = np.random.default_rng(seed)
    mask = ndimage.gaussian_filter(random.standard_normal(shape), (1.5, 5, 5))
    mask = mask > np.quantile(mask, 0.97)
    mask &= ndimage.gaussian_filter(random.standard_normal(shape), (0, 1, 1)) > -0.18
    mask = ndimage.binary_opening(mask, np.ones((1, 2, 2)))
    mask[:, 200:230, 200:230] = False
    for z, size in ((True, 15), (False, 13), (True, 5), (False, 2)):
        mask[10, 215 - size : 215 + size, 215 - size : 215 + size] = z
    labels, _ = label_lesions(mask)
    sizes = np.bincount(labels.ravel())
    kept = {*np.argsort(-sizes[1:])[:40] + 1, *np.unique(labels[10, 200:230, 200:230])}
    labels[~np.isin(labels, list(kept))] = 0
    return np.searchsorted(np.unique(labels), labels).astype(np.int32)


def say(name: str, differs: int, missing: int) -> None:
    print(f"{name}: {differs} voxels differ, of which {missing} are missing")


def by_plastimatch(path: Path, series: Path, labels: np.ndarray, out: Path) -> None:
    words = ["plastimatch", "convert", "--input", path, "--referenced-ct", series,
             "--output-prefix", out, "--prefix-format", "nrrd"]  # fmt: skip
    subprocess.run([str(word) for word in words], check=True, capture_output=True)
    differs = missing = 0
    for number in range(1, labels.max() + 1):
        theirs = sitk.GetArrayFromImage(sitk.ReadImage(str(out / f"Tumor_{number}.nrrd"))) > 0
        differs += np.count_nonzero(theirs != (labels == number))
        missing += np.count_nonzero(~theirs & (labels == number))
    say("plastimatch", differs, missing)


def by_rt_utils(path: Path, series: Path, labels: np.ndarray) -> None:
    try:
        from rt_utils import RTStructBuilder
    except ImportError:
        print("rt-utils is not installed")
        return
    read = RTStructBuilder.create_from(str(series), str(path))
    differs = missing = far = 0
    for name in read.get_roi_names():
        theirs = np.moveaxis(read.get_roi_mask_by_name(name), 2, 0)
        ours = labels == int(name.removeprefix("Tumor_"))
        differs += np.count_nonzero(theirs != ours)
        missing += np.count_nonzero(~theirs & ours)
        far += np.count_nonzero(theirs & ~ndimage.binary_dilation(ours, np.ones((1, 3, 3))))
    say("rt-utils", differs, missing)
    print(f"rt-utils: {far} of them are not beside the edge")


def main() -> None:
    series = Path(sys.argv[1])
    volume = read_image(series)
    labels = make_lesions(volume.voxels.shape)
    print(f"{labels.max()} lesions, {np.count_nonzero(labels)} voxels")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "rs.dcm"
        own = volume.geometry.from_axial(labels)
        write_rtstruct(path, own, volume.series, algorithm=Algorithm("benchmark", "1", "none"))
        back = read_lesions(path, None, volume).lesions
        say(
            "crlm_jax",
            np.count_nonzero(back != labels),
            np.count_nonzero((back == 0) & (labels > 0)),
        )
        if shutil.which("plastimatch"):
            by_plastimatch(path, series, own, Path(folder) / "out")
        by_rt_utils(path, series, own)


if __name__ == "__main__":
    main()
