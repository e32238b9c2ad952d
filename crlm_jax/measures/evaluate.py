"""A trained segmenter over the test cases.

Every case is measured twice. The paper's protocol (`_paper`) pools the slices with tumour at the
size that the network sees. The clinical protocol takes every slice of the volume, at the image's
own resolution, in 3D.

Each of several processes takes cases of its own, on its own devices; what they measured is
gathered, so that all of them hold the results of every case.
"""

from collections.abc import Callable, Iterator
from concurrent import futures

import jax
import numpy as np
from flax import nnx
from jax.sharding import Mesh

from crlm_jax.config.schema import Config
from crlm_jax.data import pipeline
from crlm_jax.data.slices import Slices
from crlm_jax.measures import overlap
from crlm_jax.measures.case import Attribution, CaseResult, Measurement
from crlm_jax.method.segment import Segment
from crlm_jax.runs.folder import RunFolder
from crlm_jax.system import parallel

# (S, S) uint8 slice, (S, S) bool region of its prediction -> (S, S) signed attribution
Attribute = Callable[[np.ndarray, np.ndarray], np.ndarray]


def _probabilities(
    config: Config,
    slices: Slices,
    split: str,
    segment: Segment,
    variables: dict[str, nnx.State],
    mesh: Mesh,
    indices: np.ndarray,
) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
    """Yields (record, probability (S, S) float32, reference (S, S) bool), in order."""
    batches = pipeline.evaluation_batches(
        slices.source(split),
        batch_size=config.evaluation.batch_size // jax.process_count(),
        indices=indices,
    )
    for batch in batches:
        image = jax.device_put(batch["image"], parallel.split_by_batch(mesh))
        probability = jax.device_get(segment(variables, image))
        for i in np.flatnonzero(batch["valid"]):
            yield int(batch["record"][i]), probability[i], batch["mask"][i, ..., 0] > 0


def _own_records(index: np.ndarray) -> np.ndarray:
    """The records of the cases that are this process's share, in order."""
    return np.flatnonzero(np.isin(index["case"], parallel.share(np.unique(index["case"]))))


def validation_dsc(
    config: Config,
    slices: Slices,
    segment: Segment,
    variables: dict[str, nnx.State],
    mesh: Mesh,
) -> float | None:
    """Mean DSC of the validation cases by the paper's protocol; None: no slice has tumour.

    `segment`, `variables` and `mesh` as in `evaluate_cases`.
    """
    index = slices.index("validation")
    own = _own_records(index)
    counts: dict[int, overlap.Counts] = {}
    stream = _probabilities(
        config, slices, "validation", segment, variables, mesh, own[index["tumour"][own]]
    )
    for record, probability, reference in stream:
        case = counts.setdefault(int(index["case"][record]), overlap.Counts())
        case.add(probability > config.evaluation.threshold, reference)
    found = {case: overlap.overlap(c)["dsc"] for case, c in counts.items()}
    # By case, so that the sum does not depend on who measured which.
    scores = sorted(pair for share in parallel.gather(list(found.items())) for pair in share)
    return float(np.mean([dsc for _, dsc in scores])) if scores else None


def evaluate_cases(
    config: Config,
    slices: Slices,
    segment: Segment,
    variables: dict[str, nnx.State],
    mesh: Mesh,
    folder: RunFolder | None = None,
    attribute: Attribute | None = None,
) -> list[CaseResult]:
    """Measures every test case, by both protocols.

    An image is measured while the network is at the next one; two are in memory at a time.

    Args:
      config: the experiment.
      slices: of the cohort.
      segment: from `make_segment`; with `variables` and `mesh`, of this process's devices.
      variables: `params` and `batch_stats`.
      mesh: of this process's devices.
      folder: of the run, where the viewer's files are written, one an image; None: none are.
      attribute: tells where the segmenter looked in a slice; None: no attribution is shown.
    """
    index = slices.index("test")
    own = _own_records(index)
    measured: dict[int, Measurement] = {}
    pending: list[np.ndarray] = []
    if folder is not None:
        folder.views.mkdir(exist_ok=True)
    with futures.ThreadPoolExecutor(1) as measuring:
        last: futures.Future | None = None
        stream = _probabilities(config, slices, "test", segment, variables, mesh, own)
        for record, probability, reference in stream:
            case, image = int(index["case"][record]), int(index["image"][record])
            about = measured.setdefault(case, Measurement(slices.cases[case]))
            found = probability > config.evaluation.threshold
            about.add_slice(found, reference, tumour=index["tumour"][record])
            pending.append(probability)
            if not _ends_image(index, record):
                continue
            volume, first = np.stack(pending), record + 1 - len(pending)
            pending = []
            if last is not None:
                last.result()
            last = measuring.submit(
                about.measure,
                image,
                volume,
                config.evaluation.threshold,
                config.data.ct_window,
                _attribute_largest_slice(slices, first, volume, config, attribute),
                None if folder is None else folder.view(case, image),
            )
        if last is not None:
            last.result()
    own_results = [[case, about.result().to_json()] for case, about in measured.items()]
    everyone = {case: values for share in parallel.gather(own_results) for case, values in share}
    return [CaseResult.from_json(everyone[case]) for case in sorted(everyone)]


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
    slices: Slices, first: int, volume: np.ndarray, config: Config, attribute: Attribute | None
) -> Attribution | None:
    """Where the segmenter looked in the slice of a volume with most predicted tumour."""
    found = volume > config.evaluation.threshold
    if attribute is None or not found.any():
        return None
    z = int(found.sum(axis=(1, 2)).argmax())
    image, _ = slices.source("test").pixels(first + z)
    return Attribution(z, attribute(image[..., 0], found[z]))
