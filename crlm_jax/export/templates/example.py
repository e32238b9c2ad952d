"""Segments a 3D scan (NIfTI, NRRD, MHA) with the exported segmenter, without crlm_jax.

    pip install SimpleITK jax flatbuffers  # for segmenter.stablehlo
    pip install SimpleITK onnxruntime      # for segmenter.onnx
    python example.py scan.nii.gz mask.nii.gz [segmenter.onnx [CONDITION]]

Not a medical device. `preprocessing.json` beside this file says how the segmenter was trained.
"""

import json
import sys
from pathlib import Path

import numpy as np
import SimpleITK as sitk

FOLDER = Path(__file__).resolve().parent
SETTINGS = json.loads((FOLDER / "preprocessing.json").read_text(encoding="utf-8"))
BATCH = 8  # slices at a time


def load(name):
    """Returns the function: image (B, H, W), window (2,) -> probability (B, H, W), float32."""
    model = (FOLDER / name).read_bytes()
    if name.endswith(".onnx"):
        import onnxruntime

        session = onnxruntime.InferenceSession(
            model, providers=onnxruntime.get_available_providers()
        )
        return lambda image, window: session.run(None, {"image": image, "window": window})[0]
    import jax
    from jax import export

    return jax.jit(export.deserialize(bytearray(model)).call)


def find_window(voxels, eight_bit, rule):
    """Returns the values shown as black and white, float32 (2,)."""
    window = (rule["low"], rule["high"])
    if eight_bit:  # windowed at its source
        window = (0, 255)
    elif rule["kind"] == "percentiles":
        window = np.percentile(voxels, window)
        if window[0] == window[1]:
            window = (voxels.min(), voxels.max())
    return np.array(window, np.float32)


def segment(scan, function, condition):
    """Returns the mask of a SimpleITK image, 0 and 1, on the image's own grid."""
    axial = sitk.DICOMOrient(scan, SETTINGS["orientation"])
    voxels = sitk.GetArrayFromImage(axial).astype(np.float32)  # (Z, H, W)
    if not np.isfinite(voxels).all() or voxels.min() == voxels.max():
        sys.exit("error: the scan has voxels that are no number, or no contrast")
    eight_bit = scan.GetPixelID() == sitk.sitkUInt8
    window = find_window(voxels, eight_bit, SETTINGS["windows"][condition])
    probability = np.empty_like(voxels)
    for start in range(0, len(voxels), BATCH):
        start = max(0, min(start, len(voxels) - BATCH))  # all of one size: compiled once
        batch = slice(start, start + BATCH)
        probability[batch] = function(voxels[batch], window)
    mask = sitk.GetImageFromArray((probability > SETTINGS["threshold"]).astype(np.uint8))
    mask.CopyInformation(axial)
    own = sitk.DICOMOrientImageFilter.GetOrientationFromDirectionCosines(scan.GetDirection())
    mask = sitk.DICOMOrient(mask, own)
    mask.CopyInformation(scan)
    return mask


if __name__ == "__main__":
    if not 3 <= len(sys.argv) <= 5:
        sys.exit(__doc__)
    name = sys.argv[3] if len(sys.argv) > 3 else next(iter(SETTINGS["files"]))
    conditions = sys.argv[4:] or SETTINGS["conditions"]
    if any(SETTINGS["windows"][c] != SETTINGS["windows"][conditions[0]] for c in conditions):
        sys.exit(f"error: windowed differently; give one CONDITION of {', '.join(conditions)}")
    print(*SETTINGS["warnings"], sep="\n", file=sys.stderr)
    mask = segment(sitk.ReadImage(sys.argv[1]), load(name), conditions[0])
    sitk.WriteImage(mask, sys.argv[2], useCompression=True)
