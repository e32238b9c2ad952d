"""Recognises an ADC map that is given as an image: by its header, its file's name, or its values.

An ADC map shows where water moves, so that a lesion is dark in it and bright in the diffusion
image of which it was computed. A network for the one is of no use for the other.
"""

import contextlib
import json
import re
from pathlib import Path

from crlm_jax.imaging.dicom.maps import ADC, adc_evidence
from crlm_jax.imaging.volumes import Volume

_LARGEST = 0.02  # mm²/s; water of 37 °C has 0.003, and magnitudes of MRI are in the hundreds
_OF_IMAGES = re.compile(r"(?<![a-z])(dwi|trace|tracew|b\d+)(?![a-z])", re.IGNORECASE)


def adc_doubt(volume: Volume, condition: str) -> str | None:
    """Says why an image seems to be an ADC map; None: no doubt, or the condition is of ADC maps.

    DICOM says it in its header. Of another format its name may say it (`scan_ADC.nii.gz`, as
    dcm2niix calls it), the JSON file of dcm2niix beside it, or values in mm²/s.
    """
    if ADC.search(condition):
        return None
    if volume.series is not None:
        said = next(filter(None, map(adc_evidence, volume.series.headers)), None)
        if said:
            return f"it is an ADC map by its {said}"
    elif said := _named(volume.path):
        return f"it is an ADC map by {said}"
    if not volume.eight_bit and volume.measured.size:
        low, high = float(volume.measured.min()), float(volume.measured.max())
        if low >= -_LARGEST and 0 < high <= _LARGEST:
            return f"its largest value is {high:.2g}, as of an ADC map in mm²/s"
    return None


def _named(path: Path) -> str | None:
    """Says what beside the voxels calls a file an ADC map."""
    stem = re.sub(r"(\.nii)?\.[a-z]+$", "", path.name, flags=re.IGNORECASE)
    words = list(ADC.finditer(stem))
    # The last word counts: `dwi_adc` is the map of a DWI, `adc17_dwi` an image of a patient.
    if words and not _OF_IMAGES.search(stem, words[-1].end()):
        return "its name"
    with contextlib.suppress(OSError, ValueError, RecursionError):
        about = json.loads((path.parent / f"{stem}.json").read_text(encoding="utf-8"))
        if isinstance(about, dict):
            kinds = about.get("ImageType")
            texts = [*(kinds if isinstance(kinds, list) else ()), about.get("SeriesDescription")]
            if any(ADC.search(text) for text in texts if isinstance(text, str)):
                return "the JSON file beside it"
    return None
