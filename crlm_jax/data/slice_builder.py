"""The TFDS builder of slices: reads all images and writes each axial slice as one uint8 record.

TFDS is used without TensorFlow. Records are not compressed and the mask has one bit a pixel: a
slice of 224 × 224 takes 57 kB and is read and decoded in about 50 µs. zstd would save a fifth of
the disk and take three times as long. With its neighbours (`data.context`) a slice takes 157 kB:
the slices beside one with tumour are often in no other record.
"""

import collections
import contextlib
import dataclasses
import functools
import hashlib
import itertools
import os
from collections.abc import Iterator, Sequence
from concurrent import futures
from typing import Any, ClassVar

import numpy as np
import tensorflow_datasets as tfds
from array_record.python.array_record_module import ArrayRecordWriter
from tensorflow_datasets.core import example_serializer
from tqdm import tqdm

from crlm_jax.config.schema import Data
from crlm_jax.data.cohort.cases import SPLITS, Case, Split
from crlm_jax.data.cohort.reference import read_reference
from crlm_jax.data.cohort.rows import CohortError, ImagePair
from crlm_jax.data.slices import DATASET, VERSION
from crlm_jax.imaging import volumes
from crlm_jax.imaging.context import context_doubt, find_neighbours, with_neighbours
from crlm_jax.imaging.geometry import VolumeError
from crlm_jax.imaging.grey import to_uint8
from crlm_jax.imaging.resize import resize, resize_mask

_NAMES = ("case", "image_index", "z")  # integers of a record, beside `image` and `mask`


@dataclasses.dataclass(frozen=True)
class _Job:
    """An image to cut: `case` and `image` are its indices."""

    case: int
    image: int
    condition: str
    pair: ImagePair


@dataclasses.dataclass(frozen=True)
class _Cut:
    """The slices of an image: images uint8 (Z, S, S, C), masks uint8 (Z, bytes), tumour bool (Z,).

    The masks are `numpy.packbits` of 0 and 1, by rows. `tumour` tells which slices hold tumour, and
    `too_small` (Z,) how many lesions of a slice are smaller than a pixel there. `print` is that of
    `Slices.prints`, `doubt` one of `Slices.doubts`.
    """

    images: np.ndarray
    masks: np.ndarray
    tumour: np.ndarray
    too_small: np.ndarray
    print: str
    doubt: str | None


class LiverSlices(tfds.core.GeneratorBasedBuilder):
    """The TFDS builder; `slice_cache.prepare` is the way to use it.

    Args:
      cases: as from `read_cohort`.
      data: `image_size`, `antialias`, both windows, `train_slices`, `resample_masks` and `context`
        are read.
      workers: images that are read at once, each in memory as a whole.
      data_dir: folder of the data set.
    """

    name = DATASET
    VERSION = tfds.core.Version(VERSION)
    # Nothing is downloaded. TFDS would look for checksums with a package it does not depend on.
    url_infos: ClassVar[dict] = {}

    def __init__(
        self,
        *,
        cases: Sequence[Case],
        data: Data,
        workers: int,
        data_dir: os.PathLike,
    ):
        self._cases = cases
        self._data = data
        self._workers = workers
        self.tables: dict[Split, list[tuple[int, int, int, bool, int]]] = {s: [] for s in SPLITS}
        self.digest = hashlib.sha256()
        self.prints: list[tuple[int, int, str]] = []  # case, image, `Slices.prints`
        self.doubts: list[tuple[int, str]] = []  # case, what is doubtful of an image
        super().__init__(file_format="array_record", data_dir=data_dir)

    def _info(self) -> tfds.core.DatasetInfo:
        size = self._data.image_size
        tensor = functools.partial(tfds.features.Tensor, dtype=np.uint8, encoding="bytes")
        features = {
            "image": tensor(shape=(size, size, self._data.planes), doc="grey levels"),
            "mask": tensor(
                shape=((size * size + 7) // 8,), doc="numpy.packbits of 0 and 1, by rows"
            ),
            **dict.fromkeys(_NAMES, np.int32),
        }
        return tfds.core.DatasetInfo(
            builder=self,
            description="Axial slices with tumour masks.",
            features=tfds.features.FeaturesDict(features),
            disable_shuffling=True,
        )

    def _split_generators(self, dl_manager: Any) -> dict[Split, Iterator[tuple[int, dict]]]:
        del dl_manager
        jobs: dict[Split, list[_Job]] = {split: [] for split in SPLITS}
        for number, case in enumerate(self._cases):
            jobs[case.split] += [
                _Job(number, image, case.condition, pair) for image, pair in enumerate(case.images)
            ]
        self._progress = tqdm(
            total=sum(map(len, jobs.values())), desc="cutting slices", unit="image", disable=None
        )
        later: dict[Split, list[_Job]] = {
            "train": jobs["validation"] + jobs["test"],
            "validation": jobs["test"],
            "test": [],
        }
        some = [split for split in SPLITS if jobs[split]]  # TFDS has no empty splits
        return {split: self._generate_examples(split, jobs[split], later[split]) for split in some}

    def _generate_examples(
        self, split: Split, jobs: Sequence[_Job], later: Sequence[_Job]
    ) -> Iterator[tuple[int, dict]]:
        """Yields the slices of a split; after the first unusable image, only checks the others.

        `later` are the images of the splits that follow: they are checked too, so that one error
        lists all unusable images.
        """
        problems: list[str] = []
        table = self.tables[split]
        for job, cut in self._cut(jobs, problems):
            self.prints.append((job.case, job.image, cut.print))
            self.doubts += [(job.case, cut.doubt)] if cut.doubt else []
            for z in range(0 if problems else len(cut.images)):
                if split != "train" or cut.tumour[z] or self._data.train_slices == "all":
                    about = bool(cut.tumour[z]), int(cut.too_small[z])
                    table.append((job.case, job.image, z, *about))
                    names = zip(_NAMES, (job.case, job.image, z), strict=True)
                    yield len(table), {"image": cut.images[z], "mask": cut.masks[z], **dict(names)}
        if problems:
            collections.deque(self._cut(later, problems), maxlen=0)
            raise CohortError("\n".join(problems))
        if split == "train" and not any(row[3] for row in table):
            rows = ", ".join(str(job.pair.row) for job in jobs[:8]) + ", …" * (len(jobs) > 8)
            raise CohortError(
                f"no slice of the {len(jobs)} training images (cohort rows {rows}) holds tumour; "
                "correct the masks, mask_label or the split"
            )

    def _cut(self, jobs: Sequence[_Job], problems: list[str]) -> Iterator[tuple[_Job, _Cut]]:
        """Reads images ahead on `workers` threads; yields the usable ones in order."""
        cut = functools.partial(_cut_image, data=self._data)
        with futures.ThreadPoolExecutor(self._workers) as pool:
            # Each thread has at most one volume in memory, however large the cohort.
            ahead = collections.deque((job, pool.submit(cut, job)) for job in jobs[: self._workers])
            later = iter(jobs[self._workers :])
            while ahead:
                job, result = ahead.popleft()
                try:
                    yield job, result.result()
                except VolumeError as error:
                    problems.append(f"cohort row {job.pair.row}: {error}")
                self._progress.update()
                ahead.extend((job, pool.submit(cut, job)) for job in itertools.islice(later, 1))

    def _generate_splits(self, dl_manager: Any, download_config: Any) -> list[tfds.core.SplitInfo]:
        """Writes each record at once.

        TFDS's own way holds a split in memory to shuffle it, and beyond 1 GB spills it to disk
        through TensorFlow. Here the records stay in the order of the cases, so nothing is held.
        """
        del download_config
        features = self.info.features
        serializer = example_serializer.ExampleSerializer(features.get_serialized_info())
        infos = []
        for split, examples in self._split_generators(dl_manager).items():
            template = self._get_filename_template(split_name=split)
            path = template.sharded_filepath(shard_index=0, num_shards=1)
            writer = ArrayRecordWriter(os.fspath(path), "group_size:1,uncompressed")
            count = size = 0
            self.digest.update(split.encode())
            with contextlib.closing(writer):
                for _, example in examples:
                    record = serializer.serialize_example(features.encode_example(example))
                    writer.write(record)
                    # Not the record: the order of its fields differs from process to process.
                    for name in ("image", "mask", *_NAMES):
                        self.digest.update(np.asarray(example[name]).tobytes())
                    count, size = count + 1, size + len(record)
            about = {"num_bytes": size, "filename_template": template}
            infos.append(tfds.core.SplitInfo(name=split, shard_lengths=[count], **about))
        self._progress.close()
        return infos

    def _log_download_bytes(self) -> None:
        """Prints nothing: nothing is downloaded, and a progress bar is shown already."""

    _log_download_done = _log_download_bytes


def _cut_image(job: _Job, *, data: Data) -> _Cut:
    volume = volumes.read_image(job.pair.image, b_value=job.pair.b_value)
    mask = read_reference(job.pair, volume, resample=data.resample_masks).voxels
    grey = to_uint8(volume, job.condition, data)
    masks, too_small = resize_mask(mask, data.image_size, antialias=data.antialias)
    images = resize(grey, data.image_size, antialias=data.antialias)
    own, doubt = images[..., None], None
    if data.context:
        doubt = context_doubt(grey, volume.geometry)
        own = with_neighbours(images, find_neighbours(grey, volume.geometry))
    return _Cut(
        images=own,
        masks=np.packbits(masks.reshape(len(masks), -1), axis=1),
        tumour=np.any(mask, axis=(1, 2)),
        too_small=too_small,
        print=hashlib.sha256(images.tobytes()).hexdigest()[:16],  # the same without neighbours
        doubt=doubt,
    )
