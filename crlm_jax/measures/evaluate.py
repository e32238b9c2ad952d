"""What was predicted of the test cases, measured.

Every case is measured by two protocols. The paper's takes the slices with tumour at the size that
the network sees, pooled (`_paper`) and as the mean over them (`_slices`). The clinical protocol
takes every slice of the volume, at the image's own resolution, in 3D.

With several processes, each measures its own cases on its own devices. The results are gathered,
so that every process holds those of all cases.
"""

import functools
import math
from collections.abc import Callable, Iterable, Iterator
from concurrent import futures
from typing import Literal

import numpy as np

from crlm_jax.config.schema import Config
from crlm_jax.data.cohort.reference import find_outside, read_reference
from crlm_jax.data.cohort.rows import ImagePair
from crlm_jax.data.slices import Slices
from crlm_jax.imaging import volumes
from crlm_jax.imaging.geometry import Geometry
from crlm_jax.imaging.resize import at_own_size
from crlm_jax.measures.case import CaseResult, Measurement
from crlm_jax.measures.case_view import SliceAttribution
from crlm_jax.measures.overlap import Counts, overlap
from crlm_jax.measures.predicted import (
    PredictedImage,
    Segment,
    mask_rule,
    network_images,
    own_records,
    probabilities,
)
from crlm_jax.measures.response import register_cases
from crlm_jax.method.attribution import Attribution
from crlm_jax.runs.folder import RunFolder
from crlm_jax.system import parallel

# (S, S, C) uint8 slice, (S, S) bool region of its prediction -> its score shared out over the slice
Attribute = Callable[[np.ndarray, np.ndarray], Attribution]


def validation_dsc(config: Config, slices: Slices, segment: Segment) -> float | None:
    """Returns the mean DSC of the validation cases by the protocol of `train.select`.

    "paper": their slices with tumour, pooled; a case without one does not count. "clinical": their
    whole volumes, as the test cases are measured.

    None: no validation case counts. `segment` as in `evaluate_cases`.
    """
    measured = _clinical_counts if config.train.select == "clinical" else _paper_counts
    counts = measured(config, slices, segment)
    found = [(case, overlap(c)["dsc"]) for case, c in counts.items()]
    # Sorted by case, so that the sum does not depend on which process measured which case.
    scores = sorted(pair for share in parallel.gather(found) for pair in share)
    return float(np.mean([dsc for _, dsc in scores])) if scores else None


def _paper_counts(config: Config, slices: Slices, segment: Segment) -> dict[int, Counts]:
    """Pools the slices with tumour of each of this process's validation cases."""
    index = slices.index("validation")
    own = own_records(index)
    counts: dict[int, Counts] = {}
    stream = probabilities(config, slices, "validation", segment, own[index["tumour"][own]])
    for record, probability, reference in stream:
        case = counts.setdefault(int(index["case"][record]), Counts())
        case.add_tumour_slice(probability > config.evaluation.threshold, reference)
    return counts


def _clinical_counts(config: Config, slices: Slices, segment: Segment) -> dict[int, Counts]:
    """Pools the volumes of each of this process's validation cases, at their own resolution."""
    counts: dict[int, Counts] = {}
    rule = mask_rule(config)
    for case, probability, mask, geometry in validation_images(config, slices, segment):
        counts.setdefault(case, Counts()).add(rule.decide(probability, geometry), mask)
    return counts


def validation_images(
    config: Config, slices: Slices, segment: Segment
) -> Iterator[tuple[int, np.ndarray, np.ndarray, Geometry]]:
    """Yields the images of this process's validation cases at their own resolution.

    These are the case's number, the probability (Z, H, W) float32, which is 0 where no lesion can
    be, the reference (Z, H, W) bool, and the geometry.
    """
    for image in network_images(config, slices, "validation", segment):
        pair = slices.cases[image.case].images[image.image]
        mask, outside, geometry = _reference(pair, config)
        own = at_own_size(image.probability, mask.shape[1:], outside)
        yield image.case, own, mask, geometry


def _reference(pair: ImagePair, config: Config) -> tuple[np.ndarray, np.ndarray | None, Geometry]:
    """Returns the mask of an image, where no lesion can be, (Z, H, W) bool, and its geometry."""
    geometry, *packed = _packed_reference(pair, config.evaluation.liver, config.data.resample_masks)
    shape = geometry.axial_size

    def whole(bits: np.ndarray) -> np.ndarray:
        return np.unpackbits(bits, count=math.prod(shape)).reshape(shape).astype(bool)

    mask, outside = (None if bits is None else whole(bits) for bits in packed)
    assert mask is not None
    return mask, outside, geometry


@functools.cache
def _packed_reference(
    pair: ImagePair, liver: Literal["none", "column"], resample: bool
) -> tuple[Geometry, np.ndarray, np.ndarray | None]:
    """Reads an image's geometry, its mask, and where no lesion can be, in an eighth of the memory.

    They are asked for at every validation, and reading takes longer than predicting.
    """
    volume = volumes.read_image(pair.image, b_value=pair.b_value)
    mask = read_reference(pair, volume, resample=resample).voxels
    outside = find_outside(pair, volume, liver, resample=resample)
    packed = None if outside is None else np.packbits(outside)
    return volume.geometry, np.packbits(mask), packed


def evaluate_cases(
    config: Config,
    slices: Slices,
    segment: Segment,
    folder: RunFolder | None = None,
    attribute: Attribute | None = None,
) -> list[CaseResult]:
    """Predicts and measures every test case, by both protocols.

    An image is measured while the network is at the next one; two are in memory at a time.

    Args:
      config: the experiment.
      slices: of the cohort.
      segment: `TrainedSegmenter.probability`, on this process's devices.
      folder: of the run, where the viewer's files are written, one an image; None: none are.
      attribute: maps a slice to where the segmenter looked; None: the viewer shows no attribution.
    """
    images = network_images(config, slices, "test", segment)
    return measure_images(config, slices, images, folder, attribute)


def measure_images(
    config: Config,
    slices: Slices,
    images: Iterable[PredictedImage],
    folder: RunFolder | None = None,
    attribute: Attribute | None = None,
) -> list[CaseResult]:
    """Measures predicted images, whoever predicted them, and pools those of a case.

    Args:
      config: the experiment.
      slices: of the cohort.
      images: those of this process's test cases, in the order of `slices`.
      folder: as in `evaluate_cases`.
      attribute: as in `evaluate_cases`.
    """
    if folder is not None:
        folder.views.mkdir(exist_ok=True)
    measured: dict[int, Measurement] = {}
    with futures.ThreadPoolExecutor(1) as measuring:
        last: futures.Future[None] | None = None
        for image in images:
            if last is not None:
                last.result()
            measurement = measured.setdefault(image.case, Measurement(slices.cases[image.case]))
            for found, reference, tumour in image.slices():
                measurement.add_slice(found, reference, tumour=tumour)
            last = measuring.submit(
                measurement.add_image,
                image,
                config,
                _attribute_largest_slice(slices, image, attribute),
                None if folder is None else folder.view(image.case, image.image),
            )
        if last is not None:
            last.result()
    own = [[case, measurement.result().to_json()] for case, measurement in measured.items()]
    everyone = {case: values for share in parallel.gather(own) for case, values in share}
    numbers = sorted(everyone)
    results = [CaseResult.from_json(everyone[case]) for case in numbers]
    if config.evaluation.register:
        results = register_cases([slices.cases[n] for n in numbers], results, folder)
    return results


def _attribute_largest_slice(
    slices: Slices, predicted: PredictedImage, attribute: Attribute | None
) -> SliceAttribution | None:
    """Returns where the segmenter looked in the slice of an image with most predicted tumour."""
    if attribute is None or not predicted.found.any():
        return None
    z = int(predicted.found.sum(axis=(1, 2)).argmax())
    image, _ = slices.source("test")[predicted.first + z]
    return SliceAttribution(z, attribute(image, predicted.found[z]))
