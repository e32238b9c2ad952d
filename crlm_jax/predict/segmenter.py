"""A trained segmenter as a function from a scan to a mask on the scan's own grid."""

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import SimpleITK as sitk

from crlm_jax import __version__, method, predict, system
from crlm_jax.config.notices import marks
from crlm_jax.config.schema import Config, ConfigError, Data
from crlm_jax.imaging import volumes
from crlm_jax.imaging.channels import lay_over, three_channels
from crlm_jax.imaging.conditions import is_ct
from crlm_jax.imaging.context import context_doubt, find_neighbours, with_neighbours
from crlm_jax.imaging.decision import MaskRule, outside_of
from crlm_jax.imaging.dicom.results import Algorithm
from crlm_jax.imaging.geometry import Geometry, check_same_grid
from crlm_jax.imaging.grey import image_doubts, to_uint8
from crlm_jax.imaging.lesions import Lesion, label_lesions, measure_lesions
from crlm_jax.imaging.resize import resize
from crlm_jax.predict.engine.choice import XLA, Asked, Engine, EngineError, choose
from crlm_jax.predict.turns import average_turns
from crlm_jax.runs.folder import read_run
from crlm_jax.system.files import locate

if TYPE_CHECKING:
    import jax

    from crlm_jax.method.segment import TrainedSegmenter


@dataclasses.dataclass(frozen=True)
class Prediction:
    """The lesions of a scan, as axial slices at the scan's own resolution."""

    mask: np.ndarray  # (Z, H, W) bool
    labels: np.ndarray  # (Z, H, W) int32: the lesions, numbered from 1
    lesions: list[Lesion]


@dataclasses.dataclass(frozen=True)
class Sight:
    """What a network sees of a scan, made by `ScanSegmenter.look`."""

    grey: np.ndarray  # (Z, H, W) uint8, of the scan at its own size
    slices: np.ndarray  # (Z, S, S, C) uint8; C is `Data.planes`
    doubts: list[str]  # about what lies beside the slices


@dataclasses.dataclass(frozen=True)
class ScanSegmenter:
    """A function from a SimpleITK image to a SimpleITK mask, made by `load` or `for_scans`."""

    config: Config  # of the run
    name: str  # of the run
    step: int  # of the checkpoint
    fingerprint: str  # SHA-256 of configuration and weights
    tta: bool  # average over the 8 flips and quarter turns
    threshold: float  # probability above which a voxel is tumour
    min_lesion_mm3: float  # lesions below it are removed
    batch: int  # slices in one call of the network
    # (batch, S, S, C) uint8 -> (batch, S, S) float32; C is `Data.planes`
    network: Callable[[np.ndarray], np.ndarray]
    engine: Engine = XLA  # what computes the network
    liver: Literal["none", "column"] = "none"  # whether a cohort's liver masks restrict it

    @property
    def rule(self) -> MaskRule:
        """How a probability becomes a mask."""
        return MaskRule(self.threshold, self.min_lesion_mm3)

    @property
    def networks(self) -> int:
        """How many networks each slice goes through."""
        return 1

    @property
    def marks(self) -> list[str]:
        """The words that stand on every picture of a prediction."""
        return marks(self.config)

    @property
    def algorithm(self) -> str:
        """What a DICOM object calls the segmenter."""
        return f"crlm_jax {self.config.method}"

    def made_by(self, *, one_segment: bool = False, beside: Sequence[str] = ()) -> Algorithm:
        """Returns what DICOM objects say of their origin, from which their UIDs are derived.

        Args:
          one_segment: all lesions are in one segment.
          beside: what else decided the masks: prints of other images and of the liver.
        """
        settings = [
            f"threshold {self.threshold:g}",
            *(["8 flips and turns averaged"] if self.tta else []),
            *([f"lesions from {self.min_lesion_mm3:g} mm3"] if self.min_lesion_mm3 else []),
            *(["one segment"] if one_segment else []),
            *beside,
            str(self.engine),
        ]
        return Algorithm(self.algorithm, __version__, self.fingerprint, "; ".join(settings))

    def __call__(
        self,
        image: sitk.Image | Sequence[sitk.Image],
        condition: str | None = None,
        liver: sitk.Image | None = None,
    ) -> sitk.Image:
        """Segments one scan.

        Args:
          image: 3D, or a single slice in 2D. For a run that sees several sequences together
            (`data.channels`): one of each, in that order.
          condition: of the scan, such as `ct`; None: that of the run.
          liver: its mask, outside which nothing is marked; None: not known.

        Returns:
          Mask of 0 and 1 (uint8) with the (first) image's size, spacing, origin and direction.

        Raises:
          VolumeError: the image cannot be segmented, for example because it has no contrast; or the
            liver lies on another grid.
          ConfigError: `condition` is None, and the run's conditions are windowed differently; or
            the number of images is not that of the run's channels.
        """
        given = [image] if isinstance(image, sitk.Image) else list(image)
        self.check_images(len(given))
        images = [volumes.from_image(each) for each in given]
        volume = images[0]
        probability = self.probability(self.look(images, condition).slices)
        geometry, inside = volume.geometry, None
        if liver is not None:
            own, _ = volumes.read_geometry(liver, Path("liver"))
            check_same_grid("the liver mask and the image", own, geometry)
            voxels = sitk.GetArrayFromImage(liver) > 0
            inside = geometry.to_axial(voxels.reshape((*geometry.size, 1)[2::-1]))
        found = self.finish(probability, geometry, outside_of(volume.padding, inside))
        return volumes.to_original_grid(found.mask, geometry)

    def windowed_as(self, condition: str | None) -> str:
        """Returns the condition that decides a scan's window: the given one, or the run's.

        Raises:
          ConfigError: none is given, and the run's conditions are windowed differently.
        """
        own = self.config.data.conditions
        if condition is None and len({is_ct(name) for name in own}) > 1:
            raise ConfigError(
                f"the run {self.name} was trained on {', '.join(own)}, which are windowed "
                "differently; say which the scan is with --condition"
            )
        return condition or own[0]

    def grey(self, volume: volumes.Volume, condition: str | None = None) -> np.ndarray:
        """Windows a scan at its own resolution: grey levels (Z, H, W) uint8."""
        return to_uint8(volume, self.windowed_as(condition), self.config.data)

    def check_images(self, count: int) -> None:
        """Raises ConfigError unless a scan has as many images as the network sees together."""
        channels = self.config.data.channels
        if count == (len(channels) or 1):
            return
        if not channels:
            raise ConfigError(
                f"{count} images are given for one scan, but the run {self.name} sees one image at "
                "a time; give one"
            )
        raise ConfigError(
            f"the run {self.name} sees {', '.join(channels)} of a patient together, but "
            f"{count} image(s) of a scan are given; give one of each, in this order (--image "
            f"{' '.join(name.upper() for name in channels)}), or a cohort file with all of them"
        )

    def look(self, images: Sequence[volumes.Volume], condition: str | None = None) -> Sight:
        """Makes of a scan what the network sees.

        Args:
          images: the scan, and behind it those of the run's other channels (`data.channels`).
          condition: of the first; None: that of the run.

        Raises:
          VolumeError: the images cannot be laid over each other.
          ConfigError: their number is not that of the run's channels, or as in `windowed_as`.
        """
        self.check_images(len(images))
        data, (first, *others) = self.config.data, images
        grey = self.grey(first, condition)
        small = resize(grey, data.image_size, antialias=data.antialias)
        if data.context:
            doubt = context_doubt(grey, first.geometry)
            seen = with_neighbours(small, find_neighbours(grey, first.geometry))
            return Sight(grey, seen, [doubt] if doubt else [])
        if not data.channels:
            return Sight(grey, small[..., None], [])
        channels, doubts = [small], list[str]()
        for name, other in zip(data.channels[1:], others, strict=True):
            laid, found = lay_over(to_uint8(other, name, data), other, first)
            channels.append(resize(laid, data.image_size, antialias=data.antialias))
            doubts += [*(f"{other.path}: {d}" for d in image_doubts(other, name)), *found]
        return Sight(grey, three_channels(channels), doubts)

    def probability(
        self, slices: np.ndarray, progress: Callable[[int], object] = lambda done: None
    ) -> np.ndarray:
        """Maps (Z, S, S, C) uint8 to the probability of tumour (Z, S, S) float32, in batches.

        `progress` is called after each batch with its number of slices.
        """
        out = np.empty(slices.shape[:3], np.float32)
        for start in range(0, len(slices), self.batch):
            batch = slices[start : start + self.batch]
            full = np.zeros((self.batch, *batch.shape[1:]), np.uint8)  # one shape, one program
            full[: len(batch)] = batch
            found = average_turns(self.network, full) if self.tta else self.network(full)
            out[start : start + len(batch)] = found[: len(batch)]
            progress(len(batch))
        return out

    def each(
        self, slices: np.ndarray, progress: Callable[[int], object] = lambda done: None
    ) -> list[np.ndarray]:
        """Returns the probability by every network, as `probability` does that of all together."""
        return [self.probability(slices, progress)]

    def finish(
        self, probability: np.ndarray, geometry: Geometry, outside: np.ndarray | None = None
    ) -> Prediction:
        """Decides on the scan's own grid where the probability (Z, S, S) is of a lesion.

        Where `outside` (Z, H, W) bool is True, there is no lesion.
        """
        mask = self.rule.decide(probability, geometry, outside)
        labels, _ = label_lesions(mask)
        return Prediction(mask, labels, measure_lesions(labels, geometry))


def load(
    run: str | Path,
    *,
    tta: bool = False,
    threshold: float | None = None,
    min_lesion_mm3: float | None = None,
    liver: Literal["none", "column"] | None = None,
    device: "jax.Device | None" = None,
    engine: Asked = "auto",
) -> ScanSegmenter:
    """Loads the best checkpoint of a run as a function from a SimpleITK image to a mask.

    Args:
      run: folder of the run, or its address (`gs://`); it is only read, and nothing else is needed.
      tta: average the probabilities of the 8 flips and quarter turns of every slice.
      threshold: probability above which a voxel is tumour; None: that of the run.
      min_lesion_mm3: lesions of a smaller volume are removed; None: as the run does.
      liver: whether a cohort's liver masks restrict the prediction; None: as in the run.
      device: to compute on; None: JAX's first.
      engine: what computes the network (`engine.choice.choose`).

    Raises:
      ConfigError: the folder holds no run.
      FileNotFoundError: the run has no checkpoint.
      EngineError: the engine that is asked for cannot compute here.
    """
    run = locate(run)
    config, name = read_run(run), run.resolve().name
    threshold = config.evaluation.threshold if threshold is None else threshold
    decided: dict[str, Any] = {"min_lesion_mm3": min_lesion_mm3, "liver": liver}
    chosen = choose(engine, device)
    if chosen.name == "OpenVINO":
        try:
            found = predict.engine.load_translated(
                run, config.data.image_size, threshold, chosen, Data.cache
            )
        except EngineError as error:
            if engine == "openvino":
                raise EngineError(f"{error}; give --engine xla") from error
            chosen = Engine(note=f"{error}; XLA computes instead")
        else:
            note = "; ".join(filter(None, (chosen.note, found.note)))
            return ScanSegmenter(
                config, name, found.step, found.fingerprint, tta=tta,
                threshold=threshold, batch=1, network=found.network,
                engine=dataclasses.replace(chosen, note=note), **_decided(config, **decided),
            )  # fmt: skip
    made = for_scans(
        predict.engine.xla.load_run(run, device), name, tta=tta, threshold=threshold, **decided
    )
    return dataclasses.replace(made, engine=dataclasses.replace(made.engine, note=chosen.note))


def for_scans(
    trained: "TrainedSegmenter",
    name: str,
    *,
    tta: bool = False,
    threshold: float | None = None,
    min_lesion_mm3: float | None = None,
    liver: Literal["none", "column"] | None = None,
) -> ScanSegmenter:
    """Makes a function on scans of a segmenter on slices, by XLA; `name` is that of its run.

    The other arguments are those of `load`.
    """
    xla = predict.engine.xla
    computing = xla.in_own_precision(trained)
    return ScanSegmenter(
        config=trained.config,
        name=name,
        step=trained.step,
        fingerprint=xla.fingerprint(trained.config, trained.variables),
        tta=tta,
        threshold=trained.config.evaluation.threshold if threshold is None else threshold,
        batch=method.slices_at_once(system.parallel.platform(trained.mesh)),
        network=lambda batch: np.asarray(computing.probability(batch)),
        engine=Engine("XLA", computing.config.train.precision),
        **_decided(trained.config, min_lesion_mm3, liver),
    )


def _decided(
    config: Config, min_lesion_mm3: float | None, liver: Literal["none", "column"] | None
) -> dict[str, Any]:
    """Returns how lesions are removed: as the user says, or as the run does."""
    own = config.evaluation
    return {
        "min_lesion_mm3": own.min_lesion_mm3 if min_lesion_mm3 is None else min_lesion_mm3,
        "liver": liver or own.liver,
    }


def use_compile_cache() -> None:
    """Keeps programs that XLA compiled in the default cache folder, for the next process.

    The run's own `data.cache` is not used: a run may come from elsewhere, and cached programs are
    executed.
    """
    system.parallel.use_compile_cache(Data.cache)
