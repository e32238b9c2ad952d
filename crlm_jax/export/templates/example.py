"""Segments a 3D scan (NIfTI, NRRD, MHA) with the exported segmenter, without crlm_jax.

    pip install SimpleITK jax flatbuffers  # for segmenter.stablehlo
    pip install SimpleITK onnxruntime      # for segmenter.onnx
    python example.py scan.nii.gz mask.nii.gz [segmenter.onnx [CONDITION]]
    python example.py dwi.nii.gz mask.nii.gz --others t2.nii.gz  # where it sees both together

Not a medical device. `preprocessing.json` beside this file describes every step and says how the
segmenter was trained.
"""

import argparse
import gzip
import json
import math
import os
import struct
import sys
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import SimpleITK as sitk

FOLDER = Path(__file__).resolve().parent
SETTINGS = json.loads((FOLDER / "preprocessing.json").read_text(encoding="utf-8"))
BATCH = 8  # slices at a time
ENDINGS = (".nii.gz", ".nii", ".nrrd", ".mha")  # of a mask

Network = Callable[[np.ndarray], np.ndarray]


def load(name: str) -> Network:
    """Returns the network: grey levels 0 … 255 float32, as of `look` -> probability (B, S, S)."""
    model = (FOLDER / name).read_bytes()
    if name.endswith(".onnx"):
        import onnxruntime

        session = onnxruntime.InferenceSession(
            model, providers=onnxruntime.get_available_providers()
        )
        return lambda grey: session.run(["probability"], {"grey": grey})[0]
    import jax
    from jax import export

    call = jax.jit(export.deserialize(bytearray(model)).call)
    return lambda grey: np.asarray(call(grey))


def is_whole(path: Path) -> bool:
    """Whether a NIfTI-1 or NRRD file is complete; SimpleITK may fill up others with zeros."""
    if not path.name.lower().endswith((".nii", ".nii.gz", ".nrrd")):
        return True
    try:
        content = path.read_bytes()
        if content[:4] == b"NRRD":
            head, _, voxels = content.partition(b"\n\n")
            if b"encoding: gzip" in head and voxels:  # without voxels, they lie in another file
                gzip.decompress(voxels)
            return True
        if content[:2] == b"\x1f\x8b":
            content = gzip.decompress(content)
        order = next((o for o in "<>" if content[:4] == struct.pack(f"{o}i", 348)), "")
        if not order:  # NIfTI-2, or no NIfTI
            return True
        axes, *sizes = struct.unpack_from(f"{order}8h", content, 40)
        (bits,) = struct.unpack_from(f"{order}h", content, 72)
        (start,) = struct.unpack_from(f"{order}f", content, 108)
    except (EOFError, gzip.BadGzipFile, struct.error, zlib.error):
        return False
    return len(content) >= start + math.prod(max(n, 1) for n in sizes[:axes]) * bits // 8


def find_padding(voxels: np.ndarray) -> np.ndarray | None:
    """Returns which voxels (Z, H, W) fill up the array and were not measured; None: none."""
    rows, columns = (max(1, size // 64) for size in voxels.shape[1:])
    least, greatest = float(voxels.min()), float(voxels.max())
    for value in (greatest, least) if least < -4096 else (greatest,):
        full = voxels[[0, -1]] == value
        corners = [
            [full[:, y, x].all() for x in (slice(None, columns), slice(-columns, None))]
            for y in (slice(None, rows), slice(-rows, None))
        ]
        if not any(all(edge) for edge in (*corners, *zip(*corners, strict=True))):
            continue
        padding = voxels == value
        others = voxels[~padding]
        if not others.size:
            return None
        low, high = float(others.min()), float(others.max())
        if low < high and max(low - value, value - high) > high - low:
            return padding
    return None


def find_window(voxels: np.ndarray, eight_bit: bool, rule: dict) -> tuple[float, float]:
    """Returns the values that are shown as black and white."""
    if eight_bit:  # windowed at its source
        return 0.0, 255.0
    if rule["kind"] == "fixed":
        return rule["low"], rule["high"]
    low, high = np.percentile(voxels, (rule["low"], rule["high"]))
    if rule["kind"] == "body":
        body = voxels[voxels > voxels.mean(dtype=np.float64)]
        high = low
        if body.size:
            zero = min(low, 0.0)
            high = zero + rule["headroom"] * (np.percentile(body, rule["high"]) - zero)
    if not low < high:
        low, high = voxels.min(), voxels.max()
    return float(low), float(high)


def to_grey(voxels: np.ndarray, window: tuple[float, float]) -> np.ndarray:
    """Maps voxels to whole grey levels 0 … 255, float32."""
    low, high = window
    return np.rint(np.clip((voxels - np.float32(low)) * np.float32(255 / (high - low)), 0, 255))


def neighbours(old: int, new: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The two old pixels on either side of every new one, and the weight of the second."""
    centre = np.clip((np.arange(new) + 0.5) * old / new - 0.5, 0, old - 1)
    first = np.minimum(centre.astype(int), max(old - 2, 0))
    return first, np.minimum(first + 1, old - 1), (centre - first).astype(np.float32)


def triangle(old: int, new: int) -> tuple[np.ndarray, np.ndarray]:
    """The old pixels that a new, larger one averages, and their weights: (new, taps) each."""
    scale = old / new
    centre = (np.arange(new)[:, None] + 0.5) * scale - 0.5
    index = np.ceil(centre - scale).astype(int) + np.arange(int(2 * scale) + 1)
    weights = np.maximum(0.0, 1 - np.abs(index - centre) / scale)
    weights[(index < 0) | (index >= old)] = 0
    weights /= weights.sum(axis=1, keepdims=True)
    return np.clip(index, 0, old - 1), weights.astype(np.float32)


def resize_rows(slices: np.ndarray, new: int, antialias: bool) -> np.ndarray:
    """Resamples the rows of (B, H, W) float32."""
    old = slices.shape[1]
    if antialias and new < old:
        index, weights = triangle(old, new)
        return sum(slices[:, i] * w[:, None] for i, w in zip(index.T, weights.T, strict=True))
    before, after, weight = neighbours(old, new)
    return slices[:, before] + (slices[:, after] - slices[:, before]) * weight[:, None]


def resize(slices: np.ndarray, rows: int, columns: int, antialias: bool) -> np.ndarray:
    """Resamples every slice of (B, H, W) float32: (B, rows, columns) float32."""
    lines = resize_rows(slices, rows, antialias).swapaxes(1, 2)
    return resize_rows(lines, columns, antialias).swapaxes(1, 2)


def shrink(
    voxels: np.ndarray, window: tuple[float, float], padding: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Returns grey levels (Z, S, S) of slices (Z, H, W), and which slices have several (Z,)."""
    side = SETTINGS["image_size"]
    slices, shows = np.empty((len(voxels), side, side), np.float32), np.empty(len(voxels), bool)
    for z in range(len(voxels)):
        grey = to_grey(voxels[z : z + 1], window)
        if padding is not None:
            grey[padding[z : z + 1]] = 0
        slices[z] = np.rint(resize(grey, side, side, SETTINGS["antialias"]))[0]
        shows[z] = grey.min() < grey.max()
    return slices, shows


def with_neighbours(slices: np.ndarray, shows: np.ndarray, distance: float) -> np.ndarray:
    """Puts the slices below and above, `distance` mm away, beside each: (Z, S, S, 3)."""
    near, number = distance <= SETTINGS["context"]["furthest_mm"], np.arange(len(slices))
    seen = []
    for step in (-1, 0, 1):
        beside = np.clip(number + step, 0, len(number) - 1)
        seen.append(slices[np.where(shows[beside] & near, beside, number)])
    return np.stack(seen, axis=-1)


def without_small(mask: np.ndarray, voxel: float) -> np.ndarray:
    """Returns the mask (Z, H, W) without lesions smaller than the run keeps; `voxel` in mm³."""
    least = SETTINGS["min_lesion_mm3"]
    if not least:
        return mask
    labels = sitk.ConnectedComponent(sitk.GetImageFromArray(mask), True)  # corners connect
    labels = sitk.GetArrayFromImage(labels)
    large = np.bincount(labels.ravel()) * voxel >= least
    large[0] = False
    return large[labels].astype(np.uint8)


def lay_over(grey: sitk.Image, like: sitk.Image) -> np.ndarray:
    """Resamples grey levels onto the grid of another scan of the patient: (Z, H, W) float32."""
    axes, others = (np.reshape(scan.GetDirection(), (3, 3)) for scan in (grey, like))
    steps = np.array(like.GetSpacing())[np.abs(axes.T @ others).argmax(axis=1)]
    voxel = np.array(grey.GetSpacing())
    variances = (np.maximum(steps**2 - voxel**2, 0) / (8 * np.log(2))).tolist()
    if any(variances):
        grey = sitk.DiscreteGaussian(grey, variances, 64)
    laid = sitk.Resample(grey, like, sitk.Transform(), sitk.sitkLinear, 0.0, sitk.sitkFloat32)
    return np.rint(sitk.GetArrayFromImage(laid)).clip(0, 255)


def read_axial(scan: sitk.Image) -> tuple[sitk.Image, np.ndarray, np.ndarray | None]:
    """Returns a 3D scan as axial slices, their voxels (Z, H, W) float32, and its padding."""
    if scan.GetDimension() != 3 or scan.GetNumberOfComponentsPerPixel() != 1:
        sys.exit("error: the scan is not one grey 3D volume; export it as one")
    axial = sitk.DICOMOrient(scan, SETTINGS["orientation"])
    voxels = sitk.GetArrayFromImage(axial).astype(np.float32)
    if not np.isfinite(voxels).all() or voxels.min() == voxels.max():
        sys.exit("error: the scan has NaN or infinite voxels, or no contrast; export it again")
    eight_bit = scan.GetPixelID() == sitk.sitkUInt8
    return axial, voxels, None if eight_bit else find_padding(voxels)


def window_of(
    scan: sitk.Image, voxels: np.ndarray, padding: np.ndarray | None, condition: str
) -> tuple[float, float]:
    """Returns the values of a scan that are shown as black and white; padding does not count."""
    if padding is not None:
        voxels = voxels[~padding]
    return find_window(voxels, scan.GetPixelID() == sitk.sitkUInt8, SETTINGS["windows"][condition])


def look(scan: sitk.Image, others: list[sitk.Image], condition: str) -> np.ndarray:
    """Returns what the network sees of each axial slice: float32 (Z, S, S) or (Z, S, S, 3)."""
    axial, voxels, padding = read_axial(scan)
    slices, shows = shrink(voxels, window_of(scan, voxels, padding, condition), padding)
    if SETTINGS["context"]:
        return with_neighbours(slices, shows, axial.GetSpacing()[2])
    if not SETTINGS["channels"]:
        return slices
    seen = [slices]
    for other, name in zip(others, SETTINGS["channels"][1:], strict=True):
        beside, levels, padding = read_axial(other)
        shown = to_grey(levels, window_of(other, levels, padding, name))
        if padding is not None:
            shown[padding] = 0
        grey = sitk.GetImageFromArray(shown)
        grey.CopyInformation(beside)
        laid = lay_over(grey, axial)
        seen.append(shrink(laid, (0.0, 255.0))[0])
    return np.stack([*seen, slices][:3], axis=-1)


def segment(
    scan: sitk.Image, network: Network, condition: str, others: list[sitk.Image] | None = None
) -> sitk.Image:
    """Returns the mask of a 3D scan, 0 and 1, on the scan's own grid."""
    slices = look(scan, others or [], condition)
    axial, voxels, padding = read_axial(scan)
    mask, (height, width) = np.empty(voxels.shape, np.uint8), voxels.shape[1:]
    for start in range(0, len(voxels), BATCH):
        start = max(0, min(start, len(voxels) - BATCH))  # all of one size: compiled once
        batch = slice(start, start + BATCH)
        probability = resize(network(slices[batch]), height, width, antialias=False)
        mask[batch] = probability > SETTINGS["threshold"]
    if padding is not None:
        mask[padding] = 0
    image = sitk.GetImageFromArray(without_small(mask, math.prod(axial.GetSpacing())))
    image.CopyInformation(axial)
    own = sitk.DICOMOrientImageFilter.GetOrientationFromDirectionCosines(scan.GetDirection())
    image = sitk.DICOMOrient(image, own)
    image.CopyInformation(scan)
    return image


def read(path: Path) -> sitk.Image:
    """Reads a scan; an error is one line, and ends the program."""
    try:
        if path.is_file() and not is_whole(path):
            sys.exit(f"error: {path}: the file is cut off or damaged; copy it again")
        return sitk.ReadImage(str(path))
    except RuntimeError:
        sys.exit(f"error: {path}: not an image that can be read; correct the path")


def write(mask: sitk.Image, out: Path) -> None:
    """Writes a mask under a temporary name beside `out`, then renames it: whole or not at all."""
    temporary = out.with_name(f".{os.getpid()}.{out.name}")
    try:
        sitk.WriteImage(mask, str(temporary), useCompression=True)
        # SimpleITK does not report a full disk.
        if not is_whole(temporary) or not np.array_equal(
            sitk.GetArrayFromImage(sitk.ReadImage(str(temporary))), sitk.GetArrayFromImage(mask)
        ):
            raise OSError(f"{out}: cannot be written; see that its folder has room")
        os.replace(temporary, out)
    finally:
        temporary.unlink(missing_ok=True)


def main() -> None:
    """Runs the command line; an error is one line, and ends the program with code 1."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    networks = [name for name in SETTINGS["files"] if name.endswith((".stablehlo", ".onnx"))]
    parser.add_argument("scan", type=Path, help="one 3D volume")
    parser.add_argument("mask", type=Path, help=f"to write: {', '.join(ENDINGS)}")
    parser.add_argument("network", nargs="?", default=networks[0], choices=networks)
    parser.add_argument("condition", nargs="?", choices=SETTINGS["conditions"])
    names = SETTINGS["channels"][1:]
    parser.add_argument(
        "--others",
        nargs="+",
        type=Path,
        default=[],
        metavar="SCAN",
        help=f"of the same patient: {', '.join(names) or 'none'}",
    )
    args = parser.parse_args()
    if len(args.others) != len(names):
        parser.error(f"give --others {' '.join(names)}" if names else "there are no --others")
    if not args.mask.name.lower().endswith(ENDINGS):
        parser.error(f"{args.mask}: a mask ends with one of {', '.join(ENDINGS)}")
    if args.mask.resolve() in {path.resolve() for path in (args.scan, *args.others)}:
        parser.error(f"{args.mask}: the mask would replace a scan; name another file")
    windows = SETTINGS["windows"]
    conditions = [args.condition] if args.condition else SETTINGS["conditions"]
    if any(windows[name] != windows[conditions[0]] for name in conditions):
        sys.exit(f"error: windowed differently; give one CONDITION of {', '.join(conditions)}")
    for warning in SETTINGS["warnings"]:
        print(f"warning: {warning}", file=sys.stderr)
    scan, *others = map(read, [args.scan, *args.others])
    try:
        network = load(args.network)
    except ImportError as error:
        sys.exit(f"error: {error}; the first lines of this file say what to install")
    mask = segment(scan, network, conditions[0], others)
    try:
        write(mask, args.mask)
    except (OSError, RuntimeError):
        sys.exit(f"error: {args.mask}: cannot be written; see that its folder exists and has room")


if __name__ == "__main__":
    main()
