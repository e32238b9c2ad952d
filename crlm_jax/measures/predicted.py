"""Predicted images, one after the other, as a network or somebody's masks give them.

Whatever predicts, an image is measured by the same code (`evaluate`): it has a prediction at the
size that the network sees, for the paper's protocol, and one at its own resolution.
"""

import abc
import dataclasses
import functools
from collections.abc import Callable, Iterator

import jax
import numpy as np

from crlm_jax.config.schema import Config
from crlm_jax.data import pipeline
from crlm_jax.data.cohort.cases import Split
from crlm_jax.data.cohort.reference import find_outside
from crlm_jax.data.slices import Slices
from crlm_jax.imaging.decision import MaskRule
from crlm_jax.imaging.resize import at_own_size
from crlm_jax.imaging.volumes import Volume
from crlm_jax.system import parallel

# (B, S, S, C) uint8 slices, as in `Slices` -> (B, S, S) float32, probability of tumour
Segment = Callable[[np.ndarray], jax.Array | np.ndarray]


@dataclasses.dataclass(frozen=True)
class OwnSize:
    """What was predicted of an image at its own resolution."""

    prediction: np.ndarray  # (Z, H, W) bool
    probability: np.ndarray | None = None  # (Z, H, W) float32, of tumour; None: not known


@dataclasses.dataclass(frozen=True)
class PredictedImage(abc.ABC):
    """An image's slices as the network sees them; `case` and `image` as `Slices` numbers them."""

    case: int
    image: int
    first: int  # its first record
    found: np.ndarray  # (Z, S, S) bool, the prediction, from which nothing is removed
    reference: np.ndarray  # (Z, S, S) bool
    tumour: np.ndarray  # (Z,) bool, whether a slice was drawn with tumour

    @abc.abstractmethod
    def at_own_size(self, volume: Volume) -> OwnSize:
        """Returns the prediction on the axial slices of the image."""

    def slices(self) -> Iterator[tuple[np.ndarray, np.ndarray, bool]]:
        """Yields prediction and reference (S, S) bool, and whether it was drawn with tumour."""
        yield from zip(self.found, self.reference, self.tumour.tolist(), strict=True)


@dataclasses.dataclass(frozen=True)
class NetworkImage(PredictedImage):
    """An image that a network predicted."""

    probability: np.ndarray  # (Z, S, S) float32, of tumour
    rule: MaskRule
    outside: Callable[[Volume], np.ndarray | None]  # where no lesion can be in the image

    def at_own_size(self, volume: Volume) -> OwnSize:
        """Resizes the probability, and decides what is a lesion."""
        outside = self.outside(volume)
        own = at_own_size(self.probability, volume.voxels.shape[1:], outside)
        return OwnSize(self.rule.decide(own, volume.geometry), own)


@dataclasses.dataclass(frozen=True)
class DrawnImage(PredictedImage):
    """An image whose prediction is a mask that lies ready."""

    read: Callable[[Volume], np.ndarray]  # the mask (Z, H, W) bool on the slices of the image

    def at_own_size(self, volume: Volume) -> OwnSize:
        """Reads the mask as it was drawn."""
        return OwnSize(self.read(volume))


def probabilities(
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


def mask_rule(config: Config) -> MaskRule:
    """Returns how a run makes a mask of a probability."""
    return MaskRule(config.evaluation.threshold, config.evaluation.min_lesion_mm3)


def outside_in(
    config: Config, slices: Slices, case: int, image: int, volume: Volume
) -> np.ndarray | None:
    """Returns where no lesion can be in an image of `slices`, (Z, H, W) bool; None: nowhere."""
    pair, resample = slices.cases[case].images[image], config.data.resample_masks
    return find_outside(pair, volume, config.evaluation.liver, resample=resample)


def own_records(index: np.ndarray) -> np.ndarray:
    """Returns the records of the cases that this process measures, in order."""
    return np.flatnonzero(np.isin(index["case"], parallel.share(np.unique(index["case"]).tolist())))


def network_images(
    config: Config, slices: Slices, split: Split, segment: Segment
) -> Iterator[NetworkImage]:
    """Predicts the images of this process's cases of a split, one after the other."""
    index, rule = slices.index(split), mask_rule(config)
    pending: list[tuple[np.ndarray, np.ndarray]] = []
    stream = probabilities(config, slices, split, segment, own_records(index))
    for record, probability, reference in stream:
        pending.append((probability, reference))
        if _ends_image(index, record):
            first = record + 1 - len(pending)
            predicted, references = (np.stack(each) for each in zip(*pending, strict=True))
            case, number = int(index["case"][record]), int(index["image"][record])
            yield NetworkImage(
                case=case,
                image=number,
                first=first,
                found=predicted > config.evaluation.threshold,
                reference=references,
                tumour=index["tumour"][first : record + 1],
                probability=predicted,
                rule=rule,
                outside=functools.partial(outside_in, config, slices, case, number),
            )
            pending = []


def drawn_images(
    slices: Slices,
    found: Callable[[int, int], np.ndarray],
    read: Callable[[int, int, Volume], np.ndarray],
) -> Iterator[DrawnImage]:
    """Goes through the test images whose predictions are masks.

    Args:
      slices: of the cohort.
      found: returns the mask of image (case, image) at the network's size, (Z, S, S) bool.
      read: returns the mask of image (case, image, its volume), (Z, H, W) bool.
    """
    index, source = slices.index("test"), slices.source("test")
    for case, image in images_of(slices):
        records = np.flatnonzero((index["case"] == case) & (index["image"] == image)).tolist()
        yield DrawnImage(
            case=case,
            image=image,
            first=records[0],
            found=found(case, image),
            reference=np.stack([source[record][1][..., 0] > 0 for record in records]),
            tumour=index["tumour"][records],
            read=functools.partial(read, case, image),
        )


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
