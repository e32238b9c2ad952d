"""How far one threshold a patient gets on the phantom: the measure of how hard a condition is.

    python -m tests.benchmarks.threshold
    python -m tests.benchmarks.threshold --version 1
    python -m tests.benchmarks.threshold --seed 1 --patients 24

For each scan the threshold and its direction are those that give the best DSC with the reference,
among all voxels within 25 mm of a lesion. No method has that knowledge, so that what a threshold
gets is an upper bound of what grey levels alone can give. Beside it stands the DSC of the second
reader's mask with the first's, which only version 2 has.
"""

import argparse
import csv
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import SimpleITK as sitk
from scipy import ndimage

from tests.benchmarks.phantom import phantom_arguments, timed_phantom

NEAR = 25.0  # mm from a lesion


def near_lesions(mask: np.ndarray, spacing: Sequence[float]) -> tuple[slice, ...]:
    """The box (z, y, x) around all lesions that holds what is within 25 mm; spacing in that order.

    Distances need not be computed elsewhere.
    """
    box = []
    for axis, step in enumerate(spacing):
        held = np.flatnonzero(mask.any(tuple(a for a in range(3) if a != axis)))
        margin = int(np.ceil(NEAR / step))
        box.append(slice(max(held[0] - margin, 0), held[-1] + margin + 1))
    return tuple(box)


def best_dsc(image: np.ndarray, mask: np.ndarray, spacing: Sequence[float]) -> float:
    """The best DSC that one threshold reaches, over all thresholds and both directions.

    Args:
      image, mask: (z, y, x).
      spacing: mm, in that order.
    """
    mask = mask > 0
    box = near_lesions(mask, spacing)
    image, mask = image[box], mask[box]
    near = ndimage.distance_transform_edt(~mask, sampling=spacing) <= NEAR
    values, lesion = image[near], mask[near]
    best = 0.0
    for signed in (values, -values.astype(np.int32)):  # lesions are the brighter, the darker
        order = np.argsort(-signed.astype(np.int32), kind="stable")
        hits = np.cumsum(lesion[order])
        taken = np.arange(1, len(order) + 1)
        last = np.append(np.diff(signed[order]) != 0, True)  # equal voxels fall on one side
        best = max(best, float((2 * hits / (taken + lesion.sum()))[last].max()))
    return best


def dsc(a: np.ndarray, b: np.ndarray) -> float:
    """Overlap of two masks."""
    return float(2 * ((a > 0) & (b > 0)).sum() / ((a > 0).sum() + (b > 0).sum()))


def measure(table: Path) -> Mapping[str, tuple[list[float], list[float]]]:
    """By condition, each patient's DSC of the best threshold, and of the second reader if any."""
    found: dict[str, tuple[list[float], list[float]]] = {}
    with table.open() as file:
        for row in csv.DictReader(file):
            mask = sitk.ReadImage(str(table.parent / row["mask"]))
            voxels = sitk.GetArrayFromImage(mask)
            image = sitk.GetArrayFromImage(sitk.ReadImage(str(table.parent / row["image"])))
            threshold, readers = found.setdefault(row["condition"], ([], []))
            threshold.append(best_dsc(image, voxels, mask.GetSpacing()[::-1]))
            second = table.parent / row["mask"].replace("_mask", "_mask_reader2")
            if second.exists():
                other = sitk.GetArrayFromImage(sitk.ReadImage(str(second)))
                readers.append(dsc(voxels, other))
    return found


def show(found: Mapping[str, tuple[list[float], list[float]]]) -> None:
    """Prints means and quartiles."""
    print(
        "condition | threshold: mean DSC | quartiles | least, most | second reader: mean DSC, least"
    )
    for condition, (threshold, readers) in found.items():
        low, high = np.percentile(threshold, [25, 75])
        second = f"{np.mean(readers):.2f}, {min(readers):.2f}" if readers else "none"
        print(
            f"{condition} | {np.mean(threshold):.2f} | {low:.2f} to {high:.2f} | "
            f"{min(threshold):.2f}, {max(threshold):.2f} | {second}"
        )


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(
        description=__doc__.splitlines()[0], parents=[phantom_arguments()]
    )
    with timed_phantom(parser.parse_args()) as table:
        show(measure(table))


if __name__ == "__main__":
    main()
