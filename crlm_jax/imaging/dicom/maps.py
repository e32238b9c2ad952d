"""Tells maps that are computed of diffusion images (ADC, FA) from the images, by their headers."""

import re

import pydicom

from crlm_jax.imaging.dicom.b_value import image_type, is_trace, stated_b_value

# As a word of its own, where digits and underscores end words too: `ep2d_diff_b50_800_ADC`.
# Letters may be before (`dADC`, `isoADC`) or after (`ADCmap`), but `broadcast` is no map.
ADC = re.compile(
    r"(?<![A-Z])(?:[DES]|ISO)?ADC(?:S|MAPS?)?(?![A-Z])"
    r"|(?-i:(?<=[a-z])ADC(?:maps?|Maps?)?(?![a-zA-Z]))"
    r"|APPARENT[ ._-]*DIFF|(?<![A-Z])DIFF(?:USION)?[ ._-]*COEF"
    r"|COEFF?ICIENT[ _-]+(?:DE|OF)[ _-]+DIFF"
    r"|(?<![A-Z])AVG?[ ._-]*DC(?![A-Z])",
    re.IGNORECASE,
)
_UNIT = re.compile(r"MM\s*\^?\s*[2²]\s*/\s*S", re.IGNORECASE)  # b-values are in s/mm²
_ADC_CODE = "113041"  # DCM, apparent diffusion coefficient
_OTHER_MAPS = {"FA", "TENSOR", "EXP", "COLFA"}  # values of Image Type beside DIFFUSION
_KINDS = {  # values of Image Type, and of Complex Image Component
    "PHASE": "phase",
    "P": "phase",
    "PHASE MAP": "phase",
    "PHASE_MAP": "phase",
    "REAL": "real part",
    "R": "real part",
    "IMAGINARY": "imaginary part",
    "I": "imaginary part",
    "FIELD_MAP": "field map",
    "FIELD MAP": "field map",
    "B0_MAP": "field map",
    "B0 MAP": "field map",
    "VELOCITY MAP": "velocity map",
    "VELOCITY": "velocity map",
}


def is_map(header: pydicom.Dataset) -> bool:
    """Whether an image says of itself that it is a map of diffusion, not a diffusion image."""
    values = image_type(header)
    if any(ADC.search(value) for value in values) or _has_code(header):
        return True
    return "DIFFUSION" in values and bool(_OTHER_MAPS.intersection(values))


def adc_evidence(header: pydicom.Dataset) -> str | None:
    """Says which element of a header calls its image an ADC map; None: no element does.

    The description of a series may speak of the whole examination, so that it does not count
    where the image calls itself a trace.
    """
    if any(ADC.search(value) for value in image_type(header)):
        return "Image Type"
    if _has_code(header):
        return "derivation"
    if is_trace(header):
        return None
    for keyword, words in (("SeriesDescription", "description"), ("RescaleType", "Rescale Type")):
        text = str(header.get(keyword) or "")
        if ADC.search(text) or _UNIT.search(text):
            return words
    # One protocol may make the images and the map; the images state a b-value.
    if not stated_b_value(header) and ADC.search(str(header.get("ProtocolName") or "")):
        return "Protocol Name"
    return None


def kind_of_value(header: pydicom.Dataset) -> str:
    """Names what the values of an image are: `magnitude`, `phase`, `field map`, …."""
    values = image_type(header)
    for value in (*reversed(values), str(header.get("ComplexImageComponent") or "").upper()):
        if value in _KINDS:
            return _KINDS[value]
    return "magnitude"


def _has_code(header: pydicom.Dataset) -> bool:
    """Whether the code of a derivation or quantity is that of the ADC."""
    for keyword in ("DerivationCodeSequence", "QuantityDefinitionSequence"):
        for item in header.get(keyword) or ():
            codes = [item, *(item.get("ConceptCodeSequence") or ())]
            if any(str(code.get("CodeValue") or "") == _ADC_CODE for code in codes):
                return True
    return False
