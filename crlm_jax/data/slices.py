"""Prepared slices: which case, image and plane each record is, and random access to its pixels.

`slice_cache.prepare` makes them. `train` holds the slices with tumour, as in Xia et al., Cancer
Imaging 26:10 (2025), doi 10.1186/s40644-025-00964-z ("slices whose ROI sum is non-zero"), or all of
them. `validation` and `test` hold every slice of every image, because nobody sorts a clinical scan
by which slices show tumour.
"""

import dataclasses
import functools
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from crlm_jax.data.cohort.cases import SPLITS, Case, Split
from crlm_jax.system.text import listed

_NAMED = 8  # cases that a doubt names
DATASET, VERSION = "liver_slices", "1.0.0"  # the TFDS data set below `Slices.folder`
# An array of INDEX_DTYPE for each split, one of PRINT_DTYPE, and the digest.
INDEX_FILE = "index.npz"
INDEX_DTYPE = np.dtype(
    [("case", "i4"), ("image", "i4"), ("z", "i4"), ("tumour", "?"), ("too_small", "i4")]
)
PRINT_DTYPE = np.dtype([("case", "i4"), ("image", "i4"), ("print", "S16")])
# Image uint8 (S, S, C) and mask uint8 (S, S, 1) of a slice; C is `Data.planes`.
Pair = tuple[np.ndarray, np.ndarray]


@dataclasses.dataclass(frozen=True)
class Slices:
    """A prepared cohort: `cases` in the order in which records name them, `size` in pixels.

    `planes` is the number of images that a slice shows (`Data.planes`).
    """

    cases: tuple[Case, ...]
    folder: Path
    fingerprint: str
    size: int
    planes: int = 1

    def source(self, split: Split) -> "SliceSource":
        """Random access to the records of a split, in the order of `index(split)`."""
        return SliceSource(self.folder, split, self.size, len(self.index(split)), self.planes)

    def index(self, split: Split) -> np.ndarray:
        """A row of `INDEX_DTYPE` for each record: case, image of the case, z, tumour, too small.

        `tumour` is that of the mask as drawn. `too_small` counts the lesions of the slice that are
        smaller than a pixel of the record: they have one pixel there, or without `data.antialias`
        none.
        """
        return self._tables[split]

    @functools.cached_property
    def digest(self) -> str:
        """SHA-256 of all records: equal for equal slices, wherever the images are stored."""
        with np.load(self.folder / INDEX_FILE, allow_pickle=False) as tables:
            return str(tables["digest"])

    @functools.cached_property
    def prints(self) -> dict[tuple[int, int], str]:
        """What tells an image from others, by case and image of the case: 16 hexadecimal digits.

        That is the beginning of the SHA-256 of all its slices as the network sees them. So one
        image has one print under whatever name and in whatever format, as long as it is cut in the
        same way.
        """
        with np.load(self.folder / INDEX_FILE, allow_pickle=False) as tables:
            return {(int(c), int(i)): name.decode() for c, i, name in tables["prints"]}

    @functools.cached_property
    def doubts(self) -> tuple[str, ...]:
        """What the user should know of how images were cut, a line for each kind of doubt."""
        with np.load(self.folder / INDEX_FILE, allow_pickle=False) as tables:
            if "doubts" not in tables:  # cut by an earlier version
                return ()
            cases, texts = tables["doubtful"].tolist(), tables["doubts"].tolist()
        found: dict[str, list[str]] = {}
        for number, text in zip(cases, texts, strict=True):
            case = self.cases[number]
            found.setdefault(text, []).append(f"{case.patient}/{case.condition}")
        return tuple(
            f"{len(names)} image(s) ({listed(list(dict.fromkeys(names)), _NAMED)}): {text}"
            for text, names in found.items()
        )

    @functools.cached_property
    def _tables(self) -> dict[Split, np.ndarray]:
        with np.load(self.folder / INDEX_FILE, allow_pickle=False) as tables:
            return {split: tables[split] for split in SPLITS}


class SliceSource:
    """The records of a split: ``source[i]`` is the image and the mask of a slice.

    They are uint8 (S, S, C) and (S, S, 1), and read-only; the mask is 0 or 1. A source can be
    pickled, so that worker processes can read from it.
    """

    def __init__(self, folder: Path, split: Split, size: int, length: int, planes: int = 1):
        self._size, self._planes = size, planes
        self._length = length
        self._records = []
        if length:  # TFDS has no empty splits
            import tensorflow_datasets as tfds  # seconds; the types above do without

            builder = tfds.builder_from_directory(folder / DATASET / VERSION)
            raw = tfds.decode.DeserializeMethod.RAW_BYTES
            self._records = builder.as_data_source(split, deserialize_method=raw)

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, index: int) -> Pair:
        if not 0 <= index < self._length:
            raise IndexError(f"record {index} of {self._length}")
        from tensorflow_datasets.proto import tf_example_pb2

        # TFDS's own deserialize_example_np gives the same at several times the cost.
        feature: Mapping = tf_example_pb2.Example.FromString(self._records[index]).features.feature
        image = np.frombuffer(feature["image"].bytes_list.value[0], np.uint8)
        bits = np.frombuffer(feature["mask"].bytes_list.value[0], np.uint8)
        sides = (self._size, self._size)
        mask = np.unpackbits(bits, count=self._size**2)
        return image.reshape(*sides, self._planes), mask.reshape(*sides, 1)
