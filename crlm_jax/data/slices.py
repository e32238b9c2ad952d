"""Cases to ArrayRecord: every axial slice as one uint8 record, prepared once for a cohort.

A TFDS builder without TensorFlow. `train` holds the slices with tumour, as in Xia et al., Cancer
Imaging 26:10 (2025), doi 10.1186/s40644-025-00964-z ("slices whose ROI sum is non-zero"), or all of
them; `validation` and `test` hold every slice of every image, since a scan that comes from the
clinic is not sorted by who has tumour. A slice counts as with tumour by the mask as it was drawn;
resampling comes after, and may lose a lesion of less than a pixel.

Records are not compressed and the mask is one bit a pixel: a slice of 224 × 224 takes 57 kB and is
read and decoded in some 50 µs, where zstd would save a fifth of the disk for thrice the time.
"""

import collections
import contextlib
import dataclasses
import functools
import hashlib
import itertools
import json
import os
import shutil
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from concurrent import futures
from pathlib import Path
from typing import ClassVar

import numpy as np
import tensorflow_datasets as tfds
from array_record.python.array_record_module import ArrayRecordWriter
from tensorflow_datasets.core import example_serializer
from tensorflow_datasets.proto import tf_example_pb2
from tqdm import tqdm

from crlm_jax.data.cohort.cases import SPLITS, Case
from crlm_jax.data.cohort.rows import CohortError, ImagePair
from crlm_jax.imaging import volumes
from crlm_jax.imaging.dicom import files
from crlm_jax.imaging.geometry import VolumeError
from crlm_jax.imaging.grey import to_uint8
from crlm_jax.imaging.resize import resize

SCHEMA = 3  # raise it when what is prepared changes: what was prepared before is then not used
INDEX_DTYPE = np.dtype([("case", "i4"), ("image", "i4"), ("z", "i4"), ("tumour", "?")])
_STALE_SECONDS = 24 * 3600
_WINDOW = (-150.0, 250.0)


@dataclasses.dataclass(frozen=True)
class Slices:
    """A prepared cohort: `cases` in the order in which records name them, `size` in pixels."""

    cases: tuple[Case, ...]
    folder: Path
    fingerprint: str
    size: int

    def source(self, split: str) -> "SliceSource":
        """Random access to the records of a split, in the order of `index(split)`."""
        return SliceSource(self.folder, split, self.size, len(self.index(split)))

    def index(self, split: str) -> np.ndarray:
        """What each record is, without reading it: case, image (of the case), z, tumour."""
        if split not in SPLITS:
            raise ValueError(f"split {split!r} is not one of {', '.join(SPLITS)}")
        return self._tables[split]

    @functools.cached_property
    def digest(self) -> str:
        """SHA-256 of all records: the same for the same slices, wherever they came from."""
        with np.load(self.folder / "index.npz", allow_pickle=False) as tables:
            return str(tables["digest"])

    @functools.cached_property
    def _tables(self) -> dict[str, np.ndarray]:
        with np.load(self.folder / "index.npz", allow_pickle=False) as tables:
            return {split: tables[split] for split in SPLITS}


class SliceSource:
    """The records of a split: ``source[i]`` is a dict of arrays.

    `image` uint8 (S, S, 1), read-only, `mask` uint8 0 or 1 (S, S, 1), and the integers that name
    it: `case`, `image_index` (within the case) and `z`.
    """

    def __init__(self, folder: Path, split: str, size: int, length: int):
        self._size = size
        self._length = length
        self._records = []
        if length:  # TFDS has no empty splits
            builder = tfds.builder_from_directory(
                folder / LiverSlices.name / str(LiverSlices.VERSION)
            )
            raw = tfds.decode.DeserializeMethod.RAW_BYTES
            self._records = builder.as_data_source(split, deserialize_method=raw)

    def __len__(self) -> int:
        """Returns the number of records."""
        return self._length

    def __getitem__(self, index: int) -> dict[str, np.ndarray]:
        """Reads record `index`."""
        feature = self._feature(index)
        names = {name: np.int32(feature[name].int64_list.value[0]) for name in _NAMES}
        return dict(zip(("image", "mask"), self._arrays(feature), strict=True)) | names

    def pixels(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        """Image and mask alone."""
        return self._arrays(self._feature(index))

    def _feature(self, index: int) -> Mapping:
        if not 0 <= index < self._length:
            raise IndexError(f"record {index} of {self._length}")
        # TFDS's own deserialize_example_np gives the same at several times the cost.
        return tf_example_pb2.Example.FromString(self._records[index]).features.feature

    def _arrays(self, feature: Mapping) -> tuple[np.ndarray, np.ndarray]:
        shape = (self._size, self._size, 1)
        image = np.frombuffer(feature["image"].bytes_list.value[0], np.uint8)
        bits = np.frombuffer(feature["mask"].bytes_list.value[0], np.uint8)
        mask = np.unpackbits(bits, count=image.size)
        return image.reshape(shape), mask.reshape(shape)


_NAMES = ("case", "image_index", "z")


@dataclasses.dataclass(frozen=True)
class _Job:
    """An image to cut: `case` and `image` are its indices."""

    case: int
    image: int
    condition: str
    pair: ImagePair


class LiverSlices(tfds.core.GeneratorBasedBuilder):
    """The TFDS builder; `prepare` is the way to use it."""

    name = "liver_slices"
    VERSION = tfds.core.Version("1.0.0")
    # Nothing to download; TFDS would look for checksums with a package it does not depend on.
    url_infos: ClassVar[dict] = {}

    def __init__(
        self,
        *,
        cases: Sequence[Case] = (),
        size: int = 224,
        ct_window: tuple[float, float] = _WINDOW,
        train_slices: str = "tumour",
        workers: int = 2,
        **kwargs,
    ):
        self._cases = cases
        self._size = size
        self._ct_window = ct_window
        self._train_slices = train_slices
        self._workers = workers
        self.tables: dict[str, list[tuple[int, int, int, bool]]] = {split: [] for split in SPLITS}
        self.digest = hashlib.sha256()
        super().__init__(file_format="array_record", **kwargs)

    def _info(self) -> tfds.core.DatasetInfo:
        pixels = self._size * self._size
        tensor = functools.partial(tfds.features.Tensor, dtype=np.uint8, encoding="bytes")
        features = {
            "image": tensor(shape=(self._size, self._size, 1), doc="grey levels"),
            "mask": tensor(shape=((pixels + 7) // 8,), doc="numpy.packbits of 0 and 1, by rows"),
            **dict.fromkeys(_NAMES, np.int32),
        }
        return tfds.core.DatasetInfo(
            builder=self,
            description="Axial slices with tumour masks.",
            features=tfds.features.FeaturesDict(features),
            disable_shuffling=True,
        )

    def _split_generators(self, dl_manager) -> dict[str, Iterator[tuple[int, dict]]]:
        del dl_manager
        jobs: dict[str, list[_Job]] = {split: [] for split in SPLITS}
        for case, about in enumerate(self._cases):
            jobs[about.split] += [
                _Job(case, image, about.condition, pair) for image, pair in enumerate(about.images)
            ]
        self._progress = tqdm(
            total=sum(map(len, jobs.values())), desc="cutting slices", unit="image", disable=None
        )
        later = {"train": jobs["validation"] + jobs["test"], "validation": jobs["test"], "test": []}
        some = [split for split in SPLITS if jobs[split]]
        return {split: self._generate_examples(split, jobs[split], later[split]) for split in some}

    def _generate_examples(
        self, split: str, jobs: Sequence[_Job], later: Sequence[_Job]
    ) -> Iterator[tuple[int, dict]]:
        """Yields the slices of a split; from the first unusable image on, only checks the rest."""
        problems: list[str] = []
        table = self.tables[split]
        for job, images, masks, tumour in self._cut(jobs, problems):
            for z in range(0 if problems else len(images)):
                if split != "train" or tumour[z] or self._train_slices == "all":
                    table.append((job.case, job.image, z, bool(tumour[z])))
                    names = zip(_NAMES, (job.case, job.image, z), strict=True)
                    yield len(table), {"image": images[z], "mask": masks[z], **dict(names)}
        if problems:
            collections.deque(self._cut(later, problems), maxlen=0)
            raise CohortError("\n".join(problems))
        if split == "train" and not any(row[3] for row in table):
            rows = ", ".join(str(job.pair.row) for job in jobs[:8]) + ", …" * (len(jobs) > 8)
            raise CohortError(
                f"no slice of the {len(jobs)} training images (cohort rows {rows}) holds tumour; "
                "correct the masks, mask_label or the split"
            )

    def _cut(self, jobs: Sequence[_Job], problems: list[str]) -> Iterator[tuple]:
        """Reads images ahead on `workers` threads; yields the usable ones in order."""
        cut = functools.partial(_cut_image, size=self._size, ct_window=self._ct_window)
        with futures.ThreadPoolExecutor(self._workers) as pool:
            # As many volumes are in memory as there are threads, however large the cohort.
            ahead = collections.deque((job, pool.submit(cut, job)) for job in jobs[: self._workers])
            later = iter(jobs[self._workers :])
            while ahead:
                job, result = ahead.popleft()
                try:
                    yield job, *result.result()
                except VolumeError as error:
                    problems.append(f"cohort row {job.pair.row}: {error}")
                self._progress.update()
                ahead.extend((job, pool.submit(cut, job)) for job in itertools.islice(later, 1))

    def _generate_splits(self, dl_manager, download_config) -> list[tfds.core.SplitInfo]:
        """Writes each record as it comes.

        TFDS's own way holds a split in memory to shuffle it, and beyond 1 GB spills it to disk
        through TensorFlow. Here the order is that of the cases, so nothing has to be held.
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
        """Nothing is downloaded, and there is a progress bar already."""

    _log_download_done = _log_download_bytes


def _cut_image(
    job: _Job, *, size: int, ct_window: tuple[float, float]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns images (Z, S, S, 1), masks (Z, bytes) and whether each slice holds tumour (Z,)."""
    volume = volumes.read_image(job.pair.image, b_value=job.pair.b_value)
    mask = volumes.read_mask(job.pair.mask, job.pair.mask_label, volume)
    grey = to_uint8(volume, job.condition, ct_window=ct_window)
    images = resize(grey, size)[..., None]
    masks = resize(mask, size, nearest=True)
    return images, np.packbits(masks.reshape(len(masks), -1), axis=1), mask.any(axis=(1, 2))


def prepare(
    cases: Sequence[Case],
    *,
    cache: str | Path,
    size: int = 224,
    ct_window: tuple[float, float] = _WINDOW,
    train_slices: str = "tumour",
    workers: int = 2,
) -> Slices:
    """Cuts the images of the cases into slices, or finds them cut already.

    They lie in ``cache/slices/<fingerprint>``, which appears in one step when it is complete: a
    process that is killed leaves nothing that looks finished, and of several that prepare the same
    at once, one keeps its work and the others use it.

    Args:
      cases: as from `read_cohort`.
      cache: folder of what can be made again.
      size: side of a slice in pixels.
      ct_window: lower and upper HU, shown as black and white.
      train_slices: "tumour" or "all".
      workers: images that are read at once, each in memory as a whole.

    Raises:
      CohortError: naming the row and the file of every image or mask that cannot be used.
    """
    if train_slices not in ("tumour", "all"):
        raise ValueError(f"train_slices {train_slices!r} is not 'tumour' or 'all'")
    cases = tuple(cases)
    ct_window = (float(ct_window[0]), float(ct_window[1]))
    fingerprint = _fingerprint(cases, size, ct_window, train_slices)
    root = Path(cache).expanduser().absolute() / "slices"
    slices = Slices(cases, root / fingerprint, fingerprint, size)
    if (slices.folder / "index.npz").is_file():
        return slices

    root.mkdir(parents=True, exist_ok=True)
    _clear_stale(root)
    partial = root / f"{fingerprint[:16]}-{uuid.uuid4().hex}.partial"
    options = {"size": size, "ct_window": ct_window, "train_slices": train_slices}
    try:
        builder = LiverSlices(cases=cases, workers=workers, data_dir=partial, **options)
        builder.download_and_prepare()
        shutil.rmtree(partial / "downloads", ignore_errors=True)  # empty
        tables = {split: np.array(rows, INDEX_DTYPE) for split, rows in builder.tables.items()}
        np.savez(partial / "index.npz", digest=builder.digest.hexdigest(), **tables)
        try:
            partial.rename(slices.folder)
        except OSError:
            if not (slices.folder / "index.npz").is_file():  # else another process was faster
                raise
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return slices


def _clear_stale(root: Path) -> None:
    """Removes what processes that were killed left behind, once nobody can be at work on it."""
    for left in root.glob("*.partial"):
        with contextlib.suppress(OSError):
            if time.time() - left.stat().st_mtime > _STALE_SECONDS:
                shutil.rmtree(left, ignore_errors=True)


def _fingerprint(
    cases: Sequence[Case], size: int, ct_window: tuple[float, float], train_slices: str
) -> str:
    """SHA-256 over everything that the records depend on; files by path, length and time."""
    content: list = [SCHEMA, size, ct_window, train_slices]
    problems = []
    for case in cases:
        content.append([case.patient, case.condition, case.split])
        for pair in case.images:
            content += [pair.mask_label, pair.b_value]
            for path in (pair.image, pair.mask):
                try:
                    for file in _files(path):
                        stat = file.stat()
                        content.append([str(file.resolve()), stat.st_size, stat.st_mtime_ns])
                except OSError:
                    problems.append(
                        f"cohort row {pair.row}: {path}: file not found; correct the path"
                    )
    if problems:
        raise CohortError("\n".join(problems))
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()


def _files(path: Path) -> list[Path]:
    """The files that an image consists of; a DICOM file stands for the series in its folder."""
    if path.is_dir() or files.is_dicom(path):
        return sorted(path.iterdir() if path.is_dir() else path.parent.iterdir())
    return [path]
