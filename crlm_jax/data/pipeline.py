"""Prepared slices to batches: shuffle, share among processes, augment, prefetch (Grain).

The content of training step s is a function of (seed, s) alone. Place i of its batch is position
s · batch + i of an endless sequence of records that is shuffled anew every epoch, and the random
numbers of its augmentation are row i of those of (seed, s). So a run that starts at step s
continues exactly what a run from 0 would do, the number of processes and workers changes nothing,
and the batches of all processes, one after another, are the batch of a single process. The same
holds for the places that are kept for slices with tumour: they have an endless sequence of their
own.

This is the only file that imports Grain. Batches are dicts of numpy arrays; slices stay uint8.
"""

import contextlib
import dataclasses
import errno
import functools
import signal
import sys
from collections.abc import Iterator, Sequence
from typing import Protocol

import grain.python as grain
import numpy as np

from crlm_jax.config.schema import Augment
from crlm_jax.data import augment, augment_nnunet
from crlm_jax.data.slices import Pair
from crlm_jax.errors import UserError

Batch = dict[str, np.ndarray]
_IDENTITY = np.array([1, 1, 1, 0, 0, 0], np.float32)

# The third word of a seed names the purpose. Its place is fixed because NumPy zero-pads seeds:
# (a, b, 2) and (a, b, 2, 0) are the same seed.
_SHUFFLE, _PAPER, _SHUFFLE_TUMOUR, _NNUNET = range(4)


class Source(Protocol):
    """Random access to slices, as `slices.SliceSource`."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> Pair: ...


def train_batches(
    source: Source,
    limits: Augment,
    *,
    batch_size: int,
    seed: int,
    start_step: int = 0,
    process: tuple[int, int] = (0, 1),
    workers: int = 0,
    foreground: float = 0.0,
    tumour_steps: int = 0,
    tumour: Sequence[int] | np.ndarray = (),
) -> Iterator[Batch]:
    """Returns this process's share of the endless training batches.

    Args:
      source: the records.
      limits: the augmentation. Where it is not enabled, and with the policy "nnunet", which changes
        the slices here (`augment_nnunet.augment`), the photometric numbers change nothing.
      batch_size: slices in a batch over all processes; a batch may be larger than the set.
      seed: seed of the order and of the augmentation.
      start_step: number of the first step.
      process: index of this process, from 0, and number of processes, which share a batch evenly.
      workers: processes that read and augment; 0: threads of this process.
      foreground: share, 0 to 1, of the places of a batch that are kept for slices with tumour: the
        last ones, all but ``round(batch_size * (1 - foreground))``, as in nnU-Net v2 (PyPI
        nnunetv2 2.8.1), whose own share is 0.33. nnU-Net draws scan and slice with replacement;
        here each of the two sequences gives every record once an epoch.
      tumour_steps: the number of steps, from step 0, all of whose places are kept for slices with
        tumour.
      tumour: indices of the records with tumour; read if places are kept for them.

    Returns:
      An iterator over dicts: `image` uint8 (b, S, S, C) and `mask` uint8 (b, S, S, 1),
      `photometric` float32 (b, 6) as from `augment.photometric`, `record` int32 (b,), the index
      into the source. C is 1, or 3 where slices show three images (`Data.planes`), which are
      augmented alike: then `photometric` changes neither hue nor saturation.

    Raises:
      UserError: `workers` is above 0 and the shared memory of this machine is full.
    """
    mine = _share(batch_size, *process)
    order = _Order(seed, batch_size, foreground, tumour_steps, len(source), np.asarray(tumour))

    def load(step: int) -> Batch:
        places = range(batch_size)[mine]
        records = [order.record(step, place) for place in places]
        pairs = [source[record] for record in records]
        photometric = np.tile(_IDENTITY, (len(places), 1))
        if limits.enabled and limits.policy == "paper":
            pairs, photometric = _paper(pairs, seed, step, batch_size, mine, limits)
        elif limits.enabled:
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
      An iterator over dicts: `image` uint8 (b, S, S, C) and `mask` uint8 (b, S, S, 1), `record`
      int32 (b,), the index into the source, `valid` bool (b,).
    """
    order = np.asarray(range(len(source)) if indices is None else indices, np.int64)

    def load(step: int) -> Batch:
        places = np.arange(step * batch_size, (step + 1) * batch_size)
        records = order[np.minimum(places, len(order) - 1)].tolist()
        pairs = [source[record] for record in records]
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


@dataclasses.dataclass(frozen=True)
class _Order:
    """Which record is at which place of which batch."""

    seed: int
    batch_size: int
    foreground: float  # share of the places that are kept for tumour
    tumour_steps: int  # at the beginning, with every place kept
    length: int  # records
    tumour: np.ndarray  # the records with tumour

    def __post_init__(self) -> None:
        if (self.foreground or self.tumour_steps) and not len(self.tumour):
            raise ValueError(
                f"foreground {self.foreground} and {self.tumour_steps} tumour_steps need the "
                "indices of records with tumour"
            )

    @property
    def free(self) -> int:
        """Places of a batch that may show any record."""
        return round(self.batch_size * (1 - self.foreground))

    def record(self, step: int, place: int) -> int:
        """Returns the record; either sequence goes on where the step before has left it."""
        later = step - self.tumour_steps
        if later < 0:
            return self._with_tumour(step * self.batch_size + place)
        if place < self.free:
            return _record(self.seed, self.length, later * self.free + place)
        used = self.tumour_steps * self.batch_size + later * (self.batch_size - self.free)
        return self._with_tumour(used + place - self.free)

    def _with_tumour(self, position: int) -> int:
        number = _record(self.seed, len(self.tumour), position, _SHUFFLE_TUMOUR)
        return int(self.tumour[number])


def _paper(
    pairs: Sequence[Pair],
    seed: int,
    step: int,
    batch_size: int,
    mine: slice,
    limits: Augment,
) -> tuple[list[Pair], np.ndarray]:
    """Returns the slices turned with their masks, and their photometric numbers."""
    rng = np.random.default_rng((seed, step, _PAPER))
    # Drawn for the whole batch, so that a share of it does not depend on the sharing.
    turns = augment.draw_turns(rng, batch_size)[mine].tolist()
    if pairs[0][0].shape[-1] > 1:  # a hue would change the images of a slice unlike
        limits = dataclasses.replace(limits, hue=0.0, saturation=0.0)
    photometric = augment.photometric(rng, limits, batch_size)[mine]
    turned = [
        (augment.apply_turn(image, turn), augment.apply_turn(mask, turn))
        for (image, mask), turn in zip(pairs, turns, strict=True)
    ]
    return turned, photometric


def _nnunet(pairs: Sequence[Pair], seed: int, step: int, places: Sequence[int]) -> list[Pair]:
    """Augments slices with their masks; `places` are their places in the whole batch."""
    return [
        augment_nnunet.augment(*pair, np.random.default_rng((seed, step, _NNUNET, place)))
        for pair, place in zip(pairs, places, strict=True)
    ]


def _share(batch_size: int, process_index: int, process_count: int) -> slice:
    """Returns the places of a batch that this process fills."""
    if batch_size % process_count:
        raise ValueError(
            f"batch size {batch_size} cannot be shared evenly by {process_count} processes; take a "
            f"multiple of {process_count}"
        )
    share = batch_size // process_count
    return slice(process_index * share, (process_index + 1) * share)


def _batch(records: Sequence[int], pairs: Sequence[Pair]) -> Batch:
    """Copies images and masks into one array each."""
    image, mask = (np.empty((len(records), *own.shape), np.uint8) for own in pairs[0])
    for place, pair in enumerate(pairs):
        image[place], mask[place] = pair
    return {"image": image, "mask": mask, "record": np.array(records, np.int32)}


def _iterate(dataset: grain.MapDataset, workers: int) -> Iterator[Batch]:
    """Iterates with read-ahead; whole batches are the unit of work, which keeps overhead small."""
    # One thread: several would wait for each other's hold of the interpreter.
    options = grain.ReadOptions(num_threads=1, prefetch_buffer_size=4)
    batches = dataset.to_iter_dataset(options)
    if not workers:
        with contextlib.closing(iter(batches)) as iterator:
            yield from iterator
        return
    batches = batches.mp_prefetch(
        grain.MultiprocessingOptions(num_workers=workers, per_worker_buffer_size=2)
    )
    try:
        with contextlib.closing(iter(batches)) as iterator:
            for batch in iterator:
                # Workers hand over shared memory, which must not outlive them.
                yield {name: np.array(value) for name, value in batch.items()}
    except (RuntimeError, OSError) as error:
        if not _is_shared_memory_full(error):
            raise
        raise UserError(
            f"data.workers = {workers}: the shared memory /dev/shm is full; enlarge it (Docker: "
            "--shm-size=2g), or read in threads by --config.data.workers=0"
        ) from error


def _is_shared_memory_full(error: RuntimeError | OSError) -> bool:
    """Whether a worker could not write a batch to /dev/shm, where Grain hands batches over.

    A file that cannot be made there gives ENOSPC. A file that can be made but not filled ends the
    worker by the signal SIGBUS; Grain then tells the worker's exit code.
    """
    if isinstance(error, OSError):
        return error.errno == errno.ENOSPC
    bus_error = getattr(signal, "SIGBUS", None)  # Windows has none
    return bus_error is not None and f"exit code -{int(bus_error)}." in str(error)
