"""The phantom cohort: seconds to make it, how its lesions stand out, a picture of a patient.

python -m tests.benchmarks.phantom                              # 24 patients, five conditions
python -m tests.benchmarks.phantom --version 1
python -m tests.benchmarks.phantom --patients 9 --picture docs/images/phantom.png --patient 9

`tests.benchmarks.threshold` says how hard each condition is.
"""

import argparse
import contextlib
import csv
import io
import os
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import SimpleITK as sitk
from scipy import ndimage

from crlm_jax.config.schema import Phantom
from crlm_jax.data.phantom.cohort import CONDITIONS, make_phantom
from crlm_jax.stats.patient_table import PHANTOM_PREFIXES


def read(path: Path) -> np.ndarray:
    """Voxels (z, y, x) of an image file."""
    return sitk.GetArrayFromImage(sitk.ReadImage(str(path)))


def contrast_to_noise(image: np.ndarray, mask: np.ndarray, pixel: float) -> float:
    """Lesions against a ring of tissue 4 to 12 mm around them, over the ring's robust deviation."""
    held = mask.any((1, 2))
    image, mask = image[held], mask[held] > 0
    away = ndimage.distance_transform_edt(~mask, sampling=(1e3, pixel, pixel))  # within the slice
    ring = image[(away > 4.0) & (away < 12.0)].astype(float)
    middle = np.median(ring)
    noise = 1.4826 * np.median(np.abs(ring - middle))
    return abs(float(image[mask].mean() - middle)) / noise


def measure(table: Path) -> None:
    """Print contrast to noise, lesion volume and tumour slices, medians over patients."""
    found: dict[str, list[tuple[float, float, int]]] = {}
    with table.open() as file:
        for row in csv.DictReader(file):
            mask = sitk.ReadImage(str(table.parent / row["mask"]))
            voxels = sitk.GetArrayFromImage(mask)
            cnr = contrast_to_noise(read(table.parent / row["image"]), voxels, mask.GetSpacing()[0])
            volume = voxels.sum() * np.prod(mask.GetSpacing()) / 1000
            slices = int(voxels.any((1, 2)).sum())
            found.setdefault(row["condition"], []).append((cnr, volume, slices))
    print(f"{'condition':10} {'CNR':>5} {'(quartiles)':>12} {'tumour mL':>10} {'slices':>7}")
    for condition, values in found.items():
        cnr, volume, slices = np.array(values).T
        low, high = np.percentile(cnr, [25, 75])
        quartiles = f"{low:.1f}-{high:.1f}"
        print(
            f"{condition:10} {np.median(cnr):5.1f} {quartiles:>12} {np.median(volume):10.1f}"
            f" {slices.mean():7.1f}"
        )


def picture(table: Path, patient: str, out: Path, columns: int = 6) -> None:
    """Five conditions of a patient, some slices each, lesions outlined in green."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt
    from PIL import Image

    figure, axes = plt.subplots(5, columns, figsize=(columns * 1.75, 5 * 1.36), facecolor="black")
    reference = sitk.ReadImage(str(table.parent / patient / "pre_t2wi_mask.nii.gz"))
    tumour = np.flatnonzero(sitk.GetArrayFromImage(reference).any((1, 2)))
    heights = reference.GetOrigin()[2] + 7.0 * np.linspace(tumour[0], tumour[-1], columns)
    for row, condition in zip(axes, CONDITIONS, strict=True):
        image = sitk.ReadImage(str(table.parent / patient / f"{condition}.nii.gz"))
        voxels = sitk.GetArrayFromImage(image)
        mask = read(table.parent / patient / f"{condition}_mask.nii.gz")
        window = (-90, 230) if condition == "ct" else (0, np.percentile(voxels, 99.2))
        rim, side = voxels.shape[1] // 7, voxels.shape[1] // 40
        for axis, height in zip(row, heights, strict=True):
            k = int(np.clip(round((height - image.GetOrigin()[2]) / image.GetSpacing()[2]), 0, 99))
            k = min(k, len(voxels) - 1)
            crop = np.s_[k, rim:-rim, side:-side]
            axis.imshow(voxels[crop], cmap="gray", vmin=window[0], vmax=window[1])
            if mask[crop].any():
                axis.contour(mask[crop], [0.5], colors="lime", linewidths=0.8)
            axis.axis("off")
        row[0].set_title(f"{patient} {condition}", color="white", fontsize=7, loc="left", pad=2)
    figure.subplots_adjust(0, 0, 1, 0.975, 0.01, 0.09)
    buffer = io.BytesIO()
    figure.savefig(buffer, dpi=105, facecolor="black")
    # 40 greys and a few greens are plenty, at a third of the bytes.
    palette = Image.new("P", (1, 1))
    shades = np.linspace(0, 255, 40).round().astype(int)
    colours = [(g, g, g) for g in shades] + [(g // 4, g, g // 4) for g in shades[8::4]]
    palette.putpalette([int(value) for colour in colours for value in colour])
    sheet = Image.open(buffer).convert("RGB").quantize(palette=palette, dither=Image.Dither.NONE)
    sheet.save(out, optimize=True)
    print(f"{out}: {out.stat().st_size / 1000:.0f} kB")


def phantom_arguments() -> argparse.ArgumentParser:
    """The options that say which phantom is made."""
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument("--patients", type=int, default=24)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--version", type=int, default=Phantom.version)
    parser.add_argument("--workers", type=int, default=None)
    parser.add_argument("--conditions", nargs="+", default=CONDITIONS, choices=CONDITIONS)
    return parser


@contextlib.contextmanager
def timed_phantom(args: argparse.Namespace) -> Iterator[Path]:
    """Makes the phantom of `phantom_arguments` and gives its table; prints what it took."""
    with tempfile.TemporaryDirectory() as folder:
        start, before = time.perf_counter(), os.times()
        table = make_phantom(
            Path(folder) / "cohort",
            patients=args.patients,
            seed=args.seed,
            version=args.version,
            workers=args.workers,
            conditions=args.conditions,
        )
        seconds, after = time.perf_counter() - start, os.times()
        cpu = after.user + after.system - before.user - before.system
        print(
            f"version {args.version}, seed {args.seed}, {args.patients} patients x "
            f"{len(args.conditions)} conditions: {seconds:.1f} s, {cpu:.1f} s of processor time"
        )
        yield table


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(
        description=__doc__.splitlines()[0], parents=[phantom_arguments()]
    )
    parser.add_argument("--picture", type=Path, help="write a contact sheet of one patient here")
    parser.add_argument("--patient", type=int, default=9, help="number of the picture's patient")
    args = parser.parse_args()
    with timed_phantom(args) as table:
        measure(table)
        if args.picture:
            name = f"{PHANTOM_PREFIXES[args.version]}{args.patient:03d}"
            picture(table, name, args.picture)


if __name__ == "__main__":
    main()
