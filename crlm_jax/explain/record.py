"""What `explain.json` says of a run, a scan and the methods, before there are maps."""

from typing import Any

from crlm_jax.config.notices import warnings
from crlm_jax.config.schema import Data
from crlm_jax.explain.scan import ExplainedScan
from crlm_jax.imaging.context import SHOWN
from crlm_jax.method.attribution import MOST_DOUBLINGS, TOLERANCE


def describe(explained: ExplainedScan, steps: int) -> dict[str, Any]:
    """Returns `explain.json` with the run, the scan and the methods, still without maps."""
    segmenter, (patch, stride) = explained.segmenter, explained.patch
    return {
        "scan": explained.scan,
        "condition": explained.condition,
        "run": segmenter.name,
        "method": segmenter.config.method,
        "step": segmenter.step,
        "threshold": segmenter.threshold,
        "warnings": warnings(segmenter.config),
        "image_size": segmenter.config.data.image_size,
        "images": _names_of_images(segmenter.config.data),
        "score": "sum of the logits over the lesion's pixels at image_size",
        "integrated_gradients": f"logits a pixel at image_size, interpolated to the scan's grid; "
        f"all slices of the lesion; baseline: the slice under a Gaussian of image_size / 8 pixels; "
        f"trapezoidal rule of {steps} to {steps * 2**MOST_DOUBLINGS} steps, until the error of "
        f"the sum is at most {TOLERANCE}",
        "occlusion": "logits lost, mean over the patches of a pixel; the slice in which the lesion "
        f"is longest; patches of {patch} pixels every {stride}, filled with the slice's mean",
        "stages": None,
        "stages_note": None,
        "lesions": [],
    }


def _names_of_images(data: Data) -> list[str] | None:
    """Names what the three channels hold; None: one slice."""
    if data.channels:
        return [*data.channels, data.channels[0]][:3]
    return list(SHOWN) if data.context else None
