"""A trained segmenter over the test cases.

Every case is measured twice. The paper's protocol (`_paper`) pools the slices with tumour at the
size that the network sees. The clinical protocol takes every slice of the volume, at the image's
own resolution, in 3D.

With several processes, each measures its own cases on its own devices. The results are gathered,
so that every process holds those of all cases.
"""

from collections.abc import Callable, Iterator
from concurrent import futures

import jax
import numpy as np

from crlm_jax.config.schema import Config
from crlm_jax.data import pipeline
from crlm_jax.data.cohort.cases import Split
from crlm_jax.data.slices import Slices
from crlm_jax.measures.case import CaseResult, Measurement
from crlm_jax.measures.case_view import SliceAttribution
from crlm_jax.measures.overlap import Counts, overlap
from crlm_jax.measures.response import register_cases
from crlm_jax.runs.folder import RunFolder
from crlm_jax.system import parallel

# (B, S, S, 1) uint8 slices -> (B, S, S) float32, probability of tumour
Segment = Callable[[np.ndarray], jax.Array | np.ndarray]
# (S, S) uint8 slice, (S, S) bool region of its prediction -> (S, S) signed attribution
Attribute = Callable[[np.ndarray, np.ndarray], np.ndarray]


def _probabilities(
    config: Config, slices: Slices, split: Split, segment: Segment, records: np.ndarray
) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
    """Yields (record, probability (S, S) float32, reference (S, S) bool), in order."""
    batches = pipeline.evaluation_batches(
        slices.source(split),
        batch_size=config.evaluation.batch_size // jax.process_count(),
        indices=records,
    )
    for batch in batches:
        probability = jax.device_get(segment(batch["image"]))
        for i in np.flatnonzero(batch["valid"]):
            yield int(batch["record"][i]), probability[i], batch["mask"][i, ..., 0] > 0


def _own_records(index: np.ndarray) -> np.ndarray:
    """Returns the records of the cases that this process measures, in order."""
    return np.flatnonzero(np.isin(index["case"], parallel.share(np.unique(index["case"]).tolist())))


def validation_dsc(config: Config, slices: Slices, segment: Segment) -> float | None:
    """Returns the mean DSC of the validation cases by the paper's protocol.

    None: no validation case has a slice with tumour. `segment` as in `evaluate_cases`.
    """
    index = slices.index("validation")
    own = _own_records(index)
    counts: dict[int, Counts] = {}
    stream = _probabilities(config, slices, "validation", segment, own[index["tumour"][own]])
    for record, probability, reference in stream:
        case = counts.setdefault(int(index["case"][record]), Counts())
        case.add(probability > config.evaluation.threshold, reference)
    found = [(case, overlap(c)["dsc"]) for case, c in counts.items()]
    # Sorted by case, so that the sum does not depend on which process measured which case.
    scores = sorted(pair for share in parallel.gather(found) for pair in share)
    return float(np.mean([dsc for _, dsc in scores])) if scores else None


def evaluate_cases(
    config: Config,
    slices: Slices,
    segment: Segment,
    folder: RunFolder | None = None,
    attribute: Attribute | None = None,
) -> list[CaseResult]:
    """Measures every test case, by both protocols.

    An image is measured while the network is at the next one; two are in memory at a time.

    Args:
      config: the experiment.
      slices: of the cohort.
      segment: `TrainedSegmenter.probability`, on this process's devices.
      folder: of the run, where the viewer's files are written, one an image; None: none are.
      attribute: maps a slice to where the segmenter looked; None: the viewer shows no attribution.
    """
    if folder is not None:
        folder.views.mkdir(exist_ok=True)
    measured: dict[int, Measurement] = {}
    with futures.ThreadPoolExecutor(1) as measuring:
        last: futures.Future[None] | None = None
        for case, image, first, probability in _images(config, slices, segment, measured):
            if last is not None:
                last.result()
            last = measuring.submit(
                measured[case].add_image,
                image,
                probability,
                config.evaluation.threshold,
                config.data.ct_window,
                _attribute_largest_slice(config, slices, first, probability, attribute),
                None if folder is None else folder.view(case, image),
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


def _images(
    config: Config, slices: Slices, segment: Segment, measured: dict[int, Measurement]
) -> Iterator[tuple[int, int, int, np.ndarray]]:
    """Predicts the images of this process's test cases, one after the other.

    Its slices are counted in the case's `Measurement`, which is added to `measured`.

    Yields:
      The numbers of the case and of the image, the image's first record, and the probability
      (Z, S, S) float32.
    """
    index = slices.index("test")
    pending: list[np.ndarray] = []
    stream = _probabilities(config, slices, "test", segment, _own_records(index))
    for record, probability, reference in stream:
        case, image = int(index["case"][record]), int(index["image"][record])
        measurement = measured.setdefault(case, Measurement(slices.cases[case]))
        found = probability > config.evaluation.threshold
        measurement.add_slice(found, reference, tumour=index["tumour"][record])
        pending.append(probability)
        if _ends_image(index, record):
            yield case, image, record + 1 - len(pending), np.stack(pending)
            pending = []


def images_of(slices: Slices) -> list[tuple[int, int]]:
    """Returns the images of the test cases, as numbers (case, image)."""
    pairs = np.unique(slices.index("test")[["case", "image"]])
    return [(int(case), int(image)) for case, image in pairs]


def _ends_image(index: np.ndarray, record: int) -> bool:
    """Whether a record is the last of its image."""
    if record + 1 == len(index):
        return True
    place, following = index[["case", "image"]][record : record + 2]
    return place != following


def _attribute_largest_slice(
    config: Config,
    slices: Slices,
    first: int,
    probability: np.ndarray,
    attribute: Attribute | None,
) -> SliceAttribution | None:
    """Returns where the segmenter looked in the slice of an image with most predicted tumour.

    `first` is the record of its first slice, `probability` (Z, S, S).
    """
    found = probability > config.evaluation.threshold
    if attribute is None or not found.any():
        return None
    z = int(found.sum(axis=(1, 2)).argmax())
    image, _ = slices.source("test")[first + z]
    return SliceAttribution(z, attribute(image[..., 0], found[z]))
