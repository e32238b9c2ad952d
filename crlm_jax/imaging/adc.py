"""Recognises an ADC map that is given as an image: by its header, its file's name, or its values.

An ADC map shows where water moves, so that a lesion is dark in it and bright in the diffusion
image of which it was computed. A network for the one is of no use for the other.
"""

import contextlib
import json
import re
from pathlib import Path

from crlm_jax.imaging.bvals import only_b_value
from crlm_jax.imaging.dicom.b_value import TRACE_TYPES
from crlm_jax.imaging.dicom.maps import ADC, adc_evidence
from crlm_jax.imaging.volumes import Volume

_LARGEST = 0.02  # mm²/s; water of 37 °C has 0.003, and magnitudes of MRI are in the hundreds
_WEIGHTED = 200  # s/mm²; below it perfusion and T2 decide what is bright
_OF_IMAGES = re.compile(r"(?<![a-z])(dwi|trace|tracew)(?![a-z])", re.IGNORECASE)
_B_VALUE = re.compile(r"(?<![a-z])b[ _=-]?\d+", re.IGNORECASE)
_SOURCE = re.compile(r"[ _.-]*(from|of|by|aus|de)[ _.-]", re.IGNORECASE)
_DIFFUSION = re.compile(r"dwi|diff", re.IGNORECASE)
_WITHOUT = re.compile(r"(?<![a-z])b_?0+(?![0-9])", re.IGNORECASE)


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
    about = _beside(path.parent / f"{stem}.json")
    kinds = about.get("ImageType")
    kinds = [text for text in kinds if isinstance(text, str)] if isinstance(kinds, list) else []
    if TRACE_TYPES.intersection(kind.upper() for kind in kinds):
        return None
    if words and _is_of_map(stem, words[-1]):
        return "its name"
    texts = [*kinds, about.get("SeriesDescription") or about.get("ProtocolName")]
    if any(ADC.search(text) for text in texts if isinstance(text, str)):
        return "the JSON file beside it"
    return None


def _is_of_map(stem: str, word: re.Match[str]) -> bool:
    """Whether a name that has a word for ADC is that of a map.

    The last word counts: `dwi_adc` is the map of a DWI, `adc17_dwi` an image of a patient. A map
    may name its source too (`adc_from_dwi`, `adc_b1000`); a protocol names all that it makes
    (`DWI_ADC_b50_b800`).
    """
    if _SOURCE.match(stem, word.end()):
        return True
    if _OF_IMAGES.search(stem, word.end()):
        return False
    return not (_B_VALUE.search(stem, word.end()) and _OF_IMAGES.search(stem[: word.start()]))


def _beside(path: Path) -> dict[str, object]:
    """Returns the content of a JSON file of dcm2niix; empty if there is none."""
    with contextlib.suppress(OSError, ValueError, RecursionError):
        about = json.loads(path.read_text(encoding="utf-8"))
        if isinstance(about, dict):
            return about
    return {}


def unweighted_doubt(volume: Volume, condition: str) -> str | None:
    """Says that a diffusion image has a low b-value; None: no doubt, or no condition of diffusion.

    Without diffusion weighting the image is one of T2, and with little it is hardly another. A
    condition may ask for it (`pre_dwi_b0`, `pre_dwi_b50`).
    """
    if ADC.search(condition) or not _DIFFUSION.search(condition) or _WITHOUT.search(condition):
        return None
    b_value = only_b_value(volume.path) if volume.series is None else volume.series.b_value
    if b_value is None or b_value >= _WEIGHTED:
        return None
    if b_value and _B_VALUE.search(condition):
        return None
    shows = "hardly shows" if b_value else "does not show"
    return (
        f"its b-value is {b_value:g} s/mm², so that diffusion {shows}; give the image of b = 1000"
    )
