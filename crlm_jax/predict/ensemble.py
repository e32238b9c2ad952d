"""Several runs as one segmenter: the mean of their probabilities, and how far they disagree.

The members are added up in the order of their fingerprints, so that the result does not depend on
the order in which they are named, to the last bit. The weights of all are in memory; of a scan
there is the sum, and one member's probability at a time.
"""

import dataclasses
import hashlib
import itertools
import json
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from crlm_jax import __version__
from crlm_jax.config.notices import marks
from crlm_jax.imaging.resize import at_own_size
from crlm_jax.predict import segmenter as single
from crlm_jax.predict.engine.choice import Asked, Engine
from crlm_jax.predict.engine.doubt import Rounded, in_doubt
from crlm_jax.predict.segmenter import ScanSegmenter
from crlm_jax.runs.members import check_alike, find_members, twice

if TYPE_CHECKING:
    import jax

_NAMED = 64  # characters of a DICOM algorithm's name


@dataclasses.dataclass(frozen=True)
class EnsembleSegmenter(ScanSegmenter):
    """Two runs or more as one function from a scan to a mask, made by `load`.

    `config` is that of the first member; what a network sees is the same in all.
    """

    members: tuple[ScanSegmenter, ...] = ()  # in the order of their fingerprints
    folders: tuple[Path, ...] = ()  # of the members, in that order

    @property
    def networks(self) -> int:
        return len(self.members)

    @property
    def marks(self) -> list[str]:
        return list(dict.fromkeys(mark for each in self.members for mark in marks(each.config)))

    @property
    def algorithm(self) -> str:
        methods = "+".join(sorted({each.config.method for each in self.members}))
        return f"crlm_jax ensemble of {self.networks} ({methods})"[:_NAMED]

    def probability(
        self, slices: np.ndarray, progress: Callable[[int], object] = lambda done: None
    ) -> np.ndarray:
        """Maps (Z, S, S, C) uint8 to the members' mean probability (Z, S, S) float32.

        `progress` is called for every member and batch.
        """
        found = average(_fast(each).probability(slices, progress) for each in self.members)
        for z in self._doubtful(found):
            found[z] = average(self._exactly(slices[z : z + 1]))[0]
        return found

    def each(
        self, slices: np.ndarray, progress: Callable[[int], object] = lambda done: None
    ) -> list[np.ndarray]:
        """Returns what every member says, (Z, S, S) float32; `average` makes `probability` of it.

        All of them are in memory at once.
        """
        found = [_fast(each).probability(slices, progress) for each in self.members]
        for z in self._doubtful(average(found)):
            for own, exact in zip(found, self._exactly(slices[z : z + 1]), strict=True):
                own[z] = exact[0]
        return found

    def _doubtful(self, probability: np.ndarray) -> list[int]:
        """Returns the slices whose mask the rounding of a member may have changed."""
        if not any(isinstance(each.network, Rounded) for each in self.members):
            return []
        return [z for z, own in enumerate(probability) if in_doubt(own, self.threshold)]

    def _exactly(self, slices: np.ndarray) -> Iterator[np.ndarray]:
        return (_of_network(each, "exactly").probability(slices) for each in self.members)

    def record(self, liver: str = "") -> str:
        """Returns `ensemble.json`: the members, and how their mean becomes a mask.

        `liver` says how the masks are restricted to it.
        """
        members: list[dict[str, Any]] = [
            {
                "run": str(folder),
                "experiment": each.config.name,
                "method": each.config.method,
                "seed": each.config.train.seed,
                "fold": each.config.data.fold,
                "cohort": each.config.data.cohort,
                "checkpoint": each.step,
                "fingerprint": each.fingerprint,
            }
            for folder, each in zip(self.folders, self.members, strict=True)
        ]
        return json.dumps(
            {
                "ensemble": self.fingerprint,
                "crlm_jax": __version__,
                "engine": str(self.engine),
                "conditions": self.config.data.conditions,
                "threshold": self.threshold,
                "tta": self.tta,
                "min_lesion_mm3": self.min_lesion_mm3,
                "liver": liver or self.liver,
                "members": members,
            },
            indent=2,
        ) + "\n"  # fmt: skip


def _fast(member: ScanSegmenter) -> ScanSegmenter:
    """Returns a member without its own doubts: what counts is the mask of the mean."""
    return _of_network(member, "fast")


def _of_network(member: ScanSegmenter, part: str) -> ScanSegmenter:
    if not isinstance(member.network, Rounded):
        return member
    return dataclasses.replace(member, network=getattr(member.network, part))


def average(probabilities: Iterable[np.ndarray]) -> np.ndarray:
    """Returns the mean of arrays of one shape, float32, added up in their order."""
    following = iter(probabilities)
    total, count = next(following).copy(), 1
    for own in following:
        total += own
        count += 1
    return total / np.float32(count)


def spread(
    each: Sequence[np.ndarray], size: tuple[int, int], padding: np.ndarray | None = None
) -> np.ndarray:
    """Returns how far members disagree, at an image's own size, float32; 0 in its `padding`.

    That is the standard deviation of their probabilities in a voxel, with the number of members in
    the denominator: 0 where all agree, and at most 0.5.

    Args:
      each: what every member says, (Z, S, S).
      size: (H, W) of the image.
      padding: (Z, H, W) bool.
    """
    out = np.empty((len(each[0]), *size), np.float32)
    for z in range(len(out)):  # slice by slice: all members at the scan's size may be too large
        out[z] = np.std([at_own_size(own[z : z + 1], size)[0] for own in each], axis=0)
    if padding is not None:
        out[padding] = 0
    return out


def load(
    runs: str | Path | Sequence[str | Path],
    *,
    tta: bool = False,
    threshold: float | None = None,
    min_lesion_mm3: float | None = None,
    liver: Literal["none", "column"] | None = None,
    device: "jax.Device | None" = None,
    engine: Asked = "auto",
) -> ScanSegmenter:
    """Loads a run, or several as one, as a function from a SimpleITK image to a mask.

    Several runs are averaged: the mean of their probabilities is what the threshold is applied to.

    Args:
      runs: folder of a run, or its address (`gs://`); several of them; or a folder that holds runs,
        such as that of a cross-validation. They are only read, and nothing else is needed.
      tta: average the probabilities of the 8 flips and quarter turns of every slice.
      threshold: probability above which a voxel is tumour; None: that of the runs.
      min_lesion_mm3: lesions of a smaller volume are removed; None: as the runs do.
      liver: whether a cohort's liver masks restrict the prediction; None: as in the runs.
      device: to compute on; None: JAX's first.
      engine: what computes the networks (`engine.choice.choose`).

    Raises:
      ConfigError: a folder holds no run, or two runs cannot be averaged.
      FileNotFoundError: a run has no checkpoint.
      EngineError: the engine that is asked for cannot compute here.
    """
    folders = find_members([runs] if isinstance(runs, (str, os.PathLike)) else runs)
    if len(folders) > 1:
        given = {"threshold": threshold, "min_lesion_mm3": min_lesion_mm3, "liver": liver}
        check_alike(folders, [name for name, value in given.items() if value is not None])

    def load_all(asked: Asked) -> list[ScanSegmenter]:
        return [
            single.load(
                folder, tta=tta, threshold=threshold, min_lesion_mm3=min_lesion_mm3, liver=liver,
                device=device, engine=asked,
            )
            for folder in folders
        ]  # fmt: skip

    members = load_all(engine)
    if len(members) == 1:
        return members[0]
    note = "; ".join(dict.fromkeys(note for each in members if (note := each.engine.note)))
    if len({each.engine.name for each in members}) > 1:  # one engine for all, or none is faster
        members = load_all("xla")
    return of_members(members, folders, note)


def of_members(
    members: Sequence[ScanSegmenter], folders: Sequence[Path], note: str = ""
) -> EnsembleSegmenter:
    """Makes one segmenter of two or more, which see an image alike.

    Args:
      members: in any order.
      folders: of their runs.
      note: what the user should know of the engine.

    Raises:
      ConfigError: two members have the same weights and configuration.
    """
    ordered = sorted(zip(members, folders, strict=True), key=lambda pair: pair[0].fingerprint)
    for (one, folder), (other, same) in itertools.pairwise(ordered):
        if one.fingerprint == other.fingerprint:
            raise twice(folder, same)
    members, folders = zip(*ordered, strict=True)
    first = members[0]
    prints = "\n".join(each.fingerprint for each in members)
    precisions = dict.fromkeys(each.engine.precision for each in members)
    return EnsembleSegmenter(
        config=first.config,
        name=f"{first.name} and {len(members) - 1} more",
        step=max(each.step for each in members),
        fingerprint=hashlib.sha256(prints.encode()).hexdigest(),
        tta=first.tta,
        threshold=first.threshold,
        min_lesion_mm3=first.min_lesion_mm3,
        batch=first.batch,
        network=first.network,
        engine=Engine(first.engine.name, " and ".join(precisions), note),
        liver=first.liver,
        members=tuple(members),
        folders=tuple(folders),
    )
