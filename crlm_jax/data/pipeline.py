"""Prepared slices to batches: shuffle, share among processes, augment, prefetch (Grain).

What is in training step s is a function of (seed, s) alone: place i of its batch is position
s · batch + i of an endless sequence of records that is shuffled anew every epoch, and the random
numbers of its augmentation are row i of those of (seed, s). So a run that starts at step s
continues exactly what a run from 0 would do, the number of processes and workers changes nothing,
and the batches of all processes, one after another, are the batch of a single one. The same holds
where some places are kept for slices with tumour: these have an endless sequence of their own.

The only file that imports Grain. Batches are dicts of numpy arrays; slices stay uint8.
"""

import contextlib
import functools
import sys
from collections.abc import Iterator, Sequence
from typing import Protocol

import grain.python as grain
import numpy as np

from crlm_jax.data import augment as data_augment
from crlm_jax.data import augment_nnunet

Batch = dict[str, np.ndarray]
Pair = tuple[np.ndarray, np.ndarray]
POLICIES = ("paper", "nnunet")  # `augment.py`, `augment_nnunet.py`
_IDENTITY = np.array([1, 1, 1, 0, 0, 0], np.float32)

# What random numbers are for: always the third word of their seed, since NumPy pads a seed with
# zeros, and so takes (a, b, 2) and (a, b, 2, 0) for the same.
_SHUFFLE, _PAPER, _SHUFFLE_TUMOUR, _NNUNET = range(4)


class Source(Protocol):
    """What is needed of prepared slices (see `slices.SliceSource`)."""

    def __len__(self) -> int:
        """Returns the number of records."""

    def pixels(self, index: int) -> Pair:
        """Returns image and mask of a record, both uint8 (S, S, 1)."""


def train_batches(
    source: Source,
    *,
    batch_size: int,
    seed: int,
    start_step: int = 0,
    process_index: int = 0,
    process_count: int = 1,
    workers: int = 0,
    foreground: float = 0.0,
    tumour: Sequence[int] | np.ndarray = (),
    augment: bool = True,
    policy: str = "paper",
    hue: float = 20.0,
    saturation: float = 30.0,
    brightness: float = 0.2,
    contrast: float = 0.2,
) -> Iterator[Batch]:
    """Returns this process's share of the endless training batches.

    Args:
      source: the records.
      batch_size: slices in a batch over all processes; a batch may be larger than the set.
      seed: of order and augmentation.
      start_step: number of the first step to give.
      process_index: of this process, from 0.
      process_count: how many there are; they share a batch evenly.
      workers: processes that read and augment; 0: threads of this process.
      foreground: share, 0 to 1, of the places of a batch that are kept for slices with tumour: the
        last ones, all but ``round(batch_size * (1 - foreground))``, as in nnU-Net v2 (PyPI
        nnunetv2 2.8.1), whose own share is 0.33. nnU-Net draws scan and slice with replacement;
        here each of the two sequences gives every record once an epoch.
      tumour: indices of the records with tumour; needed where `foreground` is above 0.
      augment: False gives the slices as they are (and photometric numbers that change nothing).
      policy: one of `POLICIES`. "nnunet" augments as `augment_nnunet.augmented`, wholly here: its
        photometric numbers change nothing, and the four limits below are those of "paper" alone.
      hue: ± half-degrees, of 180.
      saturation: ± grey levels, of 255.
      brightness: ± of 255 grey levels.
      contrast: ± of 1.

    Returns:
      An iterator over dicts: `image` and `mask` uint8 (b, S, S, 1), `photometric` float32 (b, 6)
      as from `augment.photometric`, `record` int32 (b,), the index into the source.
    """
    mine = _share(batch_size, process_index, process_count)
    if not len(source):
        raise ValueError("the training set holds no slices")
    if policy not in POLICIES:
        raise ValueError(f"augmentation policy {policy!r} is not one of {', '.join(POLICIES)}")
    tumour = _indices(tumour, len(source))
    free = _free_places(batch_size, foreground, tumour)
    limits = {"hue": hue, "saturation": saturation, "brightness": brightness, "contrast": contrast}

    def load(step: int) -> Batch:
        places = range(batch_size)[mine]
        records = _records(seed, step, places, batch_size, free, len(source), tumour)
        pairs = [source.pixels(record) for record in records]
        photometric = np.tile(_IDENTITY, (len(places), 1))
        if augment and policy == "paper":
            pairs, photometric = _paper(pairs, seed, step, batch_size, mine, limits)
        elif augment:
            pairs = _nnunet(pairs, seed, step, places)
        return _batch(records, pairs) | {"photometric": photometric}

    steps = grain.MapDataset.range(start_step, sys.maxsize)
    return _iterate(steps.map(load), workers)


def evaluation_batches(
    source: Source, *, batch_size: int, indices: Sequence[int] | np.ndarray | None = None
) -> Iterator[Batch]:
    """Returns all records (or those of `indices`), once and in order.

    The places beyond the last record repeat it and have `valid` False.

    Returns:
      An iterator over dicts: `image` and `mask` uint8 (b, S, S, 1), `record` int32 (b,), the index
      into the source, `valid` bool (b,).
    """
    order = _indices(range(len(source)) if indices is None else indices, len(source))

    def load(step: int) -> Batch:
        places = np.arange(step * batch_size, (step + 1) * batch_size)
        records = order[np.minimum(places, len(order) - 1)].tolist()
        pairs = [source.pixels(record) for record in records]
        return _batch(records, pairs) | {"valid": places < len(order)}

    steps = grain.MapDataset.range(-(-len(order) // batch_size))
    return _iterate(steps.map(load), workers=0)


@functools.lru_cache(maxsize=8)
def _permutation(length: int, seed: int, epoch: int, purpose: int) -> np.ndarray:
    return np.random.default_rng((seed, epoch, purpose)).permutation(length)


def _record(seed: int, length: int, position: int, purpose: int = _SHUFFLE) -> int:
    """Returns the record at a position of an endless sequence that is shuffled anew every epoch.

    Grain's own `shuffle` walks a cipher of at least 2^16 places until it meets one that exists:
    0.2 ms a slice where the set has 150 slices, 3 ms where it has 10.
    """
    epoch, place = divmod(position, length)
    return int(_permutation(length, seed, epoch, purpose)[place])


def _records(
    seed: int,
    step: int,
    places: Sequence[int],
    batch_size: int,
    free: int,
    length: int,
    tumour: np.ndarray,
) -> list[int]:
    """Returns the records at some places of a batch, of which the first `free` may be any."""
    kept = batch_size - free

    def at(place: int) -> int:
        if place < free:
            return _record(seed, length, step * free + place)
        position = step * kept + place - free
        return int(tumour[_record(seed, len(tumour), position, _SHUFFLE_TUMOUR)])

    return [at(place) for place in places]


def _paper(
    pairs: Sequence[Pair],
    seed: int,
    step: int,
    batch_size: int,
    mine: slice,
    limits: dict[str, float],
) -> tuple[list[Pair], np.ndarray]:
    """Turns slices with their masks; returns the photometric numbers too."""
    rng = np.random.default_rng((seed, step, _PAPER))
    # Drawn for the whole batch, so that a share of it does not depend on the sharing.
    turns = data_augment.draw_turn(rng, batch_size)[mine].tolist()
    photometric = data_augment.photometric(rng, **limits, size=batch_size)[mine]
    turned = [
        (data_augment.turned(image, turn), data_augment.turned(mask, turn))
        for (image, mask), turn in zip(pairs, turns, strict=True)
    ]
    return turned, photometric


def _nnunet(pairs: Sequence[Pair], seed: int, step: int, places: Sequence[int]) -> list[Pair]:
    """Augments slices with their masks; `places` are theirs in the batch of all processes."""
    return [
        augment_nnunet.augmented(*pair, np.random.default_rng((seed, step, _NNUNET, place)))
        for pair, place in zip(pairs, places, strict=True)
    ]


def _indices(indices: Sequence[int] | np.ndarray, length: int) -> np.ndarray:
    """Checks a list of records."""
    indices = np.asarray(indices)
    wrong = indices.ndim != 1 or indices.dtype == bool  # a table's column would become 0s and 1s
    if wrong or ((indices < 0) | (indices >= length)).any():
        raise ValueError(f"indices are not a list of records between 0 and {length - 1}")
    return indices.astype(np.int64)


def _free_places(batch_size: int, foreground: float, tumour: np.ndarray) -> int:
    """Returns how many places of a batch are not kept for slices with tumour."""
    if not 0 <= foreground <= 1:
        raise ValueError(f"foreground {foreground} is not a share between 0 and 1")
    if foreground and not len(tumour):
        raise ValueError(
            f"foreground {foreground} keeps places of a batch for slices with tumour, but no "
            "records with tumour were given"
        )
    return round(batch_size * (1 - foreground))


def _share(batch_size: int, process_index: int, process_count: int) -> slice:
    """Returns which places of a batch are this process's."""
    if batch_size < 1 or batch_size % process_count:
        raise ValueError(
            f"batch size {batch_size} cannot be shared evenly by {process_count} processes; take a "
            f"multiple of {process_count}"
        )
    if not 0 <= process_index < process_count:
        raise ValueError(f"process {process_index} of {process_count}")
    share = batch_size // process_count
    return slice(process_index * share, (process_index + 1) * share)


def _batch(records: Sequence[int], pairs: Sequence[Pair]) -> Batch:
    """Copies images and masks into one array each."""
    shape = (len(records), *pairs[0][0].shape)
    image, mask = np.empty(shape, np.uint8), np.empty(shape, np.uint8)
    for place, pair in enumerate(pairs):
        image[place], mask[place] = pair
    return {"image": image, "mask": mask, "record": np.array(records, np.int32)}


def _iterate(dataset: grain.MapDataset, workers: int) -> Iterator[Batch]:
    """Iterates with read-ahead; whole batches are the unit of work, which keeps overhead small."""
    # One thread: several would wait for each other's hold of the interpreter.
    options = grain.ReadOptions(num_threads=1, prefetch_buffer_size=4)
    batches = dataset.to_iter_dataset(options)
    if workers:
        batches = batches.mp_prefetch(
            grain.MultiprocessingOptions(num_workers=workers, per_worker_buffer_size=2)
        )
    with contextlib.closing(iter(batches)) as iterator:
        for batch in iterator:
            # Workers hand over shared memory, which must not outlive them.
            yield {name: np.array(value) for name, value in batch.items()} if workers else batch
