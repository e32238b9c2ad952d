"""Batches as a function of (seed, step) alone, for any number of processes and workers."""

import dataclasses
import errno
import importlib.util
import itertools
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest

from crlm_jax.config.schema import Augment
from crlm_jax.data import augment, augment_nnunet
from crlm_jax.data.cohort.cases import Case
from crlm_jax.data.pipeline import evaluation_batches, train_batches
from crlm_jax.errors import UserError
from tests.data.test_slices import cut, make_pair

SIZE = 16
LENGTH = 22
TUMOUR = [0, 3, 4, 9, 17]  # any records will do: the pipeline does not look
NNUNET = {"policy": "nnunet", "foreground": 0.33, "tumour": TUMOUR}


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pipeline")
    cases = [
        Case("a", "ct", (make_pair(folder, "a", 2, depth=15, tumour=15),), "train"),
        Case("b", "ct", (make_pair(folder, "b", 3, depth=7, tumour=7),), "train"),
        Case("c", "ct", (make_pair(folder, "c", 4),), "test"),
    ]
    return cut(cases, folder / "cache", image_size=SIZE).source("train")


def take(source, steps: int, **options) -> list[dict]:
    """The first batches; `options` are fields of `Augment` or arguments of `train_batches`."""
    fields = {field.name for field in dataclasses.fields(Augment)}
    limits = Augment(**{name: options.pop(name) for name in fields & options.keys()})
    batches = train_batches(source, limits, **{"batch_size": 8, "seed": 1} | options)
    return list(itertools.islice(batches, steps))


class Three:
    """The same records, each with its neighbours in a list of three images."""

    def __init__(self, source):
        self._source = source

    def __len__(self) -> int:
        return len(self._source)

    def __getitem__(self, index: int):
        others = [self._source[(index + step) % len(self)][0] for step in (-1, 0, 1)]
        return np.concatenate(others, axis=-1), self._source[index][1]


@pytest.mark.parametrize("policy", ["paper", "nnunet"])
def test_three_images_of_a_slice_are_changed_alike(source, policy):
    alike = {"policy": policy, "workers": 0}
    for own, three in zip(take(source, 6, **alike), take(Three(source), 6, **alike), strict=True):
        assert three["image"].shape == (8, SIZE, SIZE, 3)
        np.testing.assert_array_equal(three["mask"], own["mask"])
        gain, offset = np.split(three["photometric"], 2, axis=1)
        assert (gain == gain[:, :1]).all()  # neither hue nor saturation
        assert (offset == offset[:, :1]).all()
        if policy == "paper":  # the turn of the slice itself is that of a slice alone
            np.testing.assert_array_equal(three["image"][..., 1:2], own["image"])
            assert gain.std() > 0.01
            np.testing.assert_array_equal(offset, own["photometric"][:, 3:])


def assert_same(one: list[dict], two: list[dict]) -> None:
    assert len(one) == len(two)
    for a, b in zip(one, two, strict=True):
        assert a.keys() == b.keys()
        for name in a:
            assert a[name].dtype == b[name].dtype
            np.testing.assert_array_equal(a[name], b[name], err_msg=name)


def joined(shares: list[list[dict]]) -> list[dict]:
    return [
        {name: np.concatenate([batch[name] for batch in step]) for name in step[0]}
        for step in zip(*shares, strict=True)
    ]


def test_what_a_batch_holds(source):
    (batch,) = take(source, 1)
    found = {name: (value.shape, value.dtype.name) for name, value in batch.items()}
    assert found == {
        "image": ((8, SIZE, SIZE, 1), "uint8"),
        "mask": ((8, SIZE, SIZE, 1), "uint8"),
        "photometric": ((8, 6), "float32"),
        "record": ((8,), "int32"),
    }
    assert all(value.flags.writeable for value in batch.values())


def test_slices_are_turned_with_their_masks(source):
    turns = set()
    for batch in take(source, 8):
        for image, mask, record in zip(batch["image"], batch["mask"], batch["record"], strict=True):
            whole = source[int(record)]
            matches = [
                turn
                for turn in range(16)
                if np.array_equal(augment.apply_turn(whole[0], turn), image)
            ]
            assert matches
            np.testing.assert_array_equal(augment.apply_turn(whole[1], matches[0]), mask)
            turns.add(matches[0])
    assert len(turns) == 8  # of the 16 draws, two each are the same turn


def test_same_seed_same_batches(source):
    assert_same(take(source, 6), take(source, 6))
    other = take(source, 1, seed=2)[0]
    assert (other["record"] != take(source, 1)[0]["record"]).any()
    assert (other["photometric"] != take(source, 1)[0]["photometric"]).any()


@pytest.mark.parametrize("start", [1, 5, 1000])
def test_starting_later_continues(source, start):
    whole = take(source, start + 3)[start:] if start < 100 else None
    later = take(source, 3, start_step=start)
    if whole:
        assert_same(whole, later)
    assert_same(later[1:], take(source, 2, start_step=start + 1))


@pytest.mark.parametrize("processes", [2, 4, 8])
def test_processes_share_a_batch(source, processes):
    shares = [take(source, 6, process=(i, processes), start_step=2) for i in range(processes)]
    assert shares[0][0]["image"].shape[0] == 8 // processes
    assert_same(joined(shares), take(source, 6, start_step=2))


def test_another_number_of_processes_may_go_on(source):
    first = joined([take(source, 3, process=(i, 2)) for i in range(2)])
    rest = joined([take(source, 3, process=(i, 4), start_step=3) for i in range(4)])
    assert_same(first + rest, take(source, 6))


def test_worker_processes_change_nothing(source):
    options = {"start_step": 3, "process": (1, 2)}
    batches = take(source, 7, workers=2, **options)
    assert_same(batches, take(source, 7, **options))
    assert type(batches[0]["image"]) is np.ndarray


def test_every_epoch_has_every_record_once_in_another_order(source):
    records = np.concatenate([batch["record"] for batch in take(source, 11)])
    epochs = records.reshape(-1, LENGTH)  # 11 batches of 8 are 4 epochs of 22
    for epoch in epochs:
        assert sorted(epoch) == list(range(LENGTH))
    assert len({tuple(epoch) for epoch in epochs}) == 4


def test_a_record_is_augmented_anew_every_epoch(source):
    batches = take(source, 11)
    records = np.concatenate([batch["record"] for batch in batches])
    numbers = np.concatenate([batch["photometric"] for batch in batches])
    assert len(np.unique(numbers[records == 5], axis=0)) == 4
    assert len(np.unique(numbers, axis=0)) == 4 * LENGTH


def test_batch_larger_than_the_set(source):
    (batch,) = take(source, 1, batch_size=64)
    np.testing.assert_array_equal(
        np.bincount(batch["record"][: 2 * LENGTH], minlength=LENGTH), np.full(LENGTH, 2)
    )
    shares = [take(source, 2, batch_size=64, process=(i, 2)) for i in range(2)]
    assert_same(joined(shares), take(source, 2, batch_size=64))


def test_without_augmentation(source):
    for batch in take(source, 3, enabled=False):
        for i, record in enumerate(batch["record"]):
            np.testing.assert_array_equal(batch["image"][i], source[int(record)][0])
        np.testing.assert_array_equal(batch["photometric"], [[1, 1, 1, 0, 0, 0]] * 8)
    np.testing.assert_array_equal(batch["record"], take(source, 3)[2]["record"])


def test_limits_reach_the_draw(source):
    numbers = take(source, 1, hue=0, saturation=0, contrast=0, brightness=0.5)[0]["photometric"]
    np.testing.assert_array_equal(numbers[:, :3], 1)
    assert 0.2 * 255 < np.abs(numbers[:, 3:]).max() <= 0.5 * 255


def test_order_is_that_of_the_seed_and_the_epoch(source):
    records = np.concatenate([batch["record"] for batch in take(source, 11)])
    expected = [np.random.default_rng((1, epoch, 0)).permutation(LENGTH) for epoch in range(4)]
    np.testing.assert_array_equal(records.reshape(-1, LENGTH), expected)


def test_nnunet_augments_slices_with_their_masks_here(source):
    changed = 0
    for step, batch in enumerate(take(source, 6, policy="nnunet", start_step=2), 2):
        np.testing.assert_array_equal(batch["photometric"], [[1, 1, 1, 0, 0, 0]] * 8)
        for place, record in enumerate(batch["record"]):
            rng = np.random.default_rng((1, step, 3, place))
            expected = augment_nnunet.augment(*source[int(record)], rng)
            np.testing.assert_array_equal((batch["image"][place], batch["mask"][place]), expected)
            changed += not np.array_equal(batch["image"][place], source[int(record)][0])
    assert changed > 24
    paper = take(source, 3)[2]["record"]
    np.testing.assert_array_equal(
        take(source, 1, policy="nnunet", start_step=2)[0]["record"], paper
    )


def test_nnunet_is_a_function_of_seed_and_step(source):
    whole = take(source, 6, **NNUNET)
    for start in (1, 4):
        assert_same(whole[start:], take(source, 6 - start, start_step=start, **NNUNET))
    for processes in (2, 8):
        shares = [take(source, 6, process=(i, processes), **NNUNET) for i in range(processes)]
        assert_same(joined(shares), whole)
    assert_same(take(source, 6, workers=2, **NNUNET), whole)
    other = take(source, 1, seed=2, **NNUNET)[0]
    assert (other["image"] != whole[0]["image"]).any()


def test_nnunet_without_augmentation(source):
    for batch in take(source, 2, enabled=False, **NNUNET):
        for image, mask, record in zip(batch["image"], batch["mask"], batch["record"], strict=True):
            np.testing.assert_array_equal(image, source[int(record)][0])
            np.testing.assert_array_equal(mask, source[int(record)][1])
        np.testing.assert_array_equal(batch["photometric"], [[1, 1, 1, 0, 0, 0]] * 8)


@pytest.mark.parametrize(
    ("batch_size", "foreground", "kept"),
    # nnU-Net keeps what is beyond round(size · (1 - share)): half a place is rounded to even.
    [(8, 0.33, 3), (2, 0.33, 1), (12, 0.33, 4), (1, 0.33, 0), (5, 0.5, 3), (6, 1.0, 6)],
)
@pytest.mark.parametrize("policy", ["paper", "nnunet"])
def test_last_places_are_kept_for_tumour(source, batch_size, foreground, kept, policy):
    options = {"batch_size": batch_size, "foreground": foreground, "policy": policy}
    batches = take(source, 22, tumour=np.array(TUMOUR), **options)
    records = np.array([batch["record"] for batch in batches])
    free, tumour = np.split(records, [batch_size - kept], axis=1)
    for part, whole in ((free.ravel(), list(range(LENGTH))), (tumour.ravel(), TUMOUR)):
        epochs = [part[i : i + len(whole)].tolist() for i in range(0, len(part), len(whole))]
        for epoch in epochs[:-1]:
            assert sorted(epoch) == whole
        assert all(len(set(epoch)) == len(epoch) and set(epoch) <= set(whole) for epoch in epochs)
        assert len(epochs) < 4 or epochs[:2] != epochs[2:4]


def test_first_steps_show_tumour_alone(source):
    first, kept, tumour = 4, 3, np.array(TUMOUR)
    options = {"foreground": 0.33, "tumour_steps": first, "tumour": tumour}
    records = np.array([batch["record"] for batch in take(source, 30, **options)])
    assert set(records[:first].ravel()) == set(TUMOUR)
    free, later = np.split(records[first:], [8 - kept], axis=1)
    assert set(free.ravel()) == set(range(LENGTH))
    # Both are sequences without a gap: later steps end the epoch of tumour that the first began.
    for part, whole in (
        (free.ravel(), list(range(LENGTH))),
        (np.concatenate([records[:first].ravel(), later.ravel()]), TUMOUR),
    ):
        epochs = [part[i : i + len(whole)].tolist() for i in range(0, len(part), len(whole))]
        assert all(sorted(epoch) == whole for epoch in epochs[:-1])
    # The rest of the training is that of the batches without such a beginning.
    plain = take(source, 26, foreground=0.33, tumour=tumour)
    np.testing.assert_array_equal(free, [batch["record"][:5] for batch in plain])


def test_a_start_within_the_first_steps_and_after_goes_on(source):
    options = {"foreground": 0.33, "tumour_steps": 4, "tumour": np.array(TUMOUR)}
    whole = take(source, 8, **options)
    for start in (3, 4, 6):
        assert_same(take(source, 8 - start, start_step=start, **options), whole[start:])


@pytest.mark.parametrize("options", [{"foreground": 0.33}, {"tumour_steps": 3}])
def test_tumour_places_without_tumour(source, options):
    with pytest.raises(ValueError, match="need the indices of records with tumour"):
        train_batches(source, Augment(), batch_size=8, seed=0, **options)


def test_a_batch_that_cannot_be_shared(source):
    with pytest.raises(ValueError, match="8 cannot be shared evenly by 3 processes; take a mul"):
        train_batches(source, Augment(), batch_size=8, process=(0, 3), seed=0)


class Failing:
    """A source in whose worker process something fails, as if /dev/shm were full."""

    def __init__(self, error: int | OSError):
        self._error = error

    def __len__(self) -> int:
        return LENGTH

    def __getitem__(self, index: int):
        if isinstance(self._error, OSError):
            raise self._error
        os.kill(os.getpid(), self._error)


@pytest.mark.parametrize("error", [signal.SIGBUS, OSError(errno.ENOSPC, "No space left")])
def test_full_shared_memory_is_named_with_its_remedy(error):
    with pytest.raises(UserError, match=r"data\.workers = 1: .*/dev/shm is full.*workers=0"):
        take(Failing(error), 1, workers=1)


def test_other_failures_of_workers_keep_their_own_error():
    with pytest.raises(RuntimeError, match="exit code -9"):
        take(Failing(signal.SIGKILL), 1, workers=1)


def test_threads_end_with_the_iterator(source):
    # Threads of earlier tests may still be ending: only those that come with this one are watched.
    before = set(threading.enumerate())
    batches = train_batches(source, Augment(), batch_size=8, seed=0)
    next(batches)
    own = set(threading.enumerate()) - before
    assert own
    batches.close()
    for thread in own:
        thread.join(timeout=30)
    assert not any(thread.is_alive() for thread in own)


@pytest.mark.parametrize("batch_size", [4, 8, 22, 64])
def test_evaluation_counts_each_record_once_in_order(source, batch_size):
    batches = list(evaluation_batches(source, batch_size=batch_size))
    assert len(batches) == -(-LENGTH // batch_size)
    valid = np.concatenate([batch["valid"] for batch in batches])
    records = np.concatenate([batch["record"] for batch in batches])
    assert valid.dtype == bool
    np.testing.assert_array_equal(records[valid], np.arange(LENGTH))
    np.testing.assert_array_equal(records[~valid], LENGTH - 1)
    for batch in batches:
        assert batch["image"].shape == batch["mask"].shape == (batch_size, SIZE, SIZE, 1)
        for place, record in enumerate(batch["record"]):
            np.testing.assert_array_equal(batch["image"][place], source[int(record)][0])
            np.testing.assert_array_equal(batch["mask"][place], source[int(record)][1])


def test_evaluation_of_some_records(source):
    batches = list(evaluation_batches(source, batch_size=4, indices=[7, 3, 3, 20, 0]))
    assert [batch["record"].tolist() for batch in batches] == [[7, 3, 3, 20], [0, 0, 0, 0]]
    assert batches[1]["valid"].tolist() == [True, False, False, False]
    assert list(evaluation_batches(source, batch_size=4, indices=[])) == []


@pytest.mark.slow
def test_faster_than_albumentations():
    if importlib.util.find_spec("albumentations") is None:
        pytest.skip("albumentations (the extra 'benchmark') is not installed")
    script = Path(__file__).parents[1] / "benchmarks" / "pipeline.py"
    command = [sys.executable, str(script), "--repeats", "3", "--batches", "10"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    ratio = next(line for line in done.stdout.splitlines() if line.startswith("ratio"))
    assert float(ratio.split()[1]) >= 5, done.stdout
