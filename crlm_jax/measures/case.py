"""What is measured of one test case, and what the report's viewer shows of it."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from crlm_jax.data.cohort.cases import Case
from crlm_jax.imaging import grey, volumes
from crlm_jax.imaging import lesions as lesion_tools
from crlm_jax.imaging.conditions import is_ct
from crlm_jax.imaging.lesions import Lesion
from crlm_jax.imaging.resize import resize
from crlm_jax.measures import overlap
from crlm_jax.measures.detection import LesionScores
from crlm_jax.measures.overlap import Counts, Volumes
from crlm_jax.measures.surfaces import Surfaces
from crlm_jax.measures.view import CaseView, Layer, Mark
from crlm_jax.recist.rules import TimePoint

READERS = ("reference", "prediction")  # whose mask a lesion is of


@dataclass(frozen=True)
class Attribution:
    """Where the segmenter looked in one slice `z`: `map` (S, S) float, signed, any unit."""

    z: int
    map: np.ndarray


@dataclass(frozen=True)
class CaseResult:
    """What was measured of one case."""

    row: dict[str, Any]  # its line of `cases.csv`; `_paper` is None without tumour slices
    lesion_rows: list[dict[str, Any]]  # its lines of `lesions.csv`
    points: dict[str, list[TimePoint]]  # by reader, one an image
    empty_prediction: bool
    empty_reference: bool

    @property
    def patient(self) -> str:
        """Who it is."""
        return self.row["patient"]

    @property
    def condition(self) -> str:
        """Under which it was imaged."""
        return self.row["condition"]

    def to_json(self) -> dict[str, Any]:
        """Returns what JSON can hold, for another process."""
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> "CaseResult":
        """Returns what `to_json` was called on; JSON knows no tuples."""
        points = {who: [_point(**point) for point in values["points"][who]] for who in READERS}
        return cls(**values | {"points": points})


def _point(lesions: list[dict[str, Any]], slice_spacing: float) -> TimePoint:
    found = (
        Lesion(**x | {"centre": tuple(x["centre"]), "ends": tuple(map(tuple, x["ends"]))})
        for x in lesions
    )
    return TimePoint(tuple(found), slice_spacing)


@dataclass
class Measurement:
    """Measures one case, image by image, and pools them.

    The paper's protocol pools the slices with tumour at the size that the network sees; all else is
    clinical: every slice of the volumes, at their own resolution.
    """

    case: Case
    slices: int = 0
    tumour_slices: int = 0
    paper: Counts = field(default_factory=Counts)
    clinical: Counts = field(default_factory=Counts)
    surfaces: Surfaces = field(default_factory=Surfaces)
    tumour: Volumes = field(default_factory=Volumes)
    scores: LesionScores = field(default_factory=LesionScores)
    points: dict[str, list[TimePoint]] = field(default_factory=lambda: {who: [] for who in READERS})
    lesion_rows: list[dict[str, Any]] = field(default_factory=list)

    def result(self) -> CaseResult:
        """Returns what was measured."""
        paper = overlap.overlap(self.paper) if self.tumour_slices else {}
        row = {
            "patient": self.case.patient,
            "condition": self.case.condition,
            "slices": self.slices,
            "tumour_slices": self.tumour_slices,
            **overlap.overlap(self.clinical),
            **{f"{name}_paper": paper.get(name) for name in overlap.OVERLAP},
            **self.surfaces.values(),
            **self.scores.values(),
            **self.tumour.values(),
        }
        return CaseResult(
            row=row,
            lesion_rows=self.lesion_rows,
            points=self.points,
            empty_prediction=self.clinical.empty_prediction,
            empty_reference=self.clinical.empty_reference,
        )

    def add_slice(self, prediction: np.ndarray, reference: np.ndarray, *, tumour: bool) -> None:
        """Counts a slice, by the paper's protocol if it has tumour; masks (S, S) bool."""
        self.slices += 1
        if tumour:
            self.tumour_slices += 1
            self.paper.add(prediction, reference)

    def measure(
        self,
        image: int,
        probability: np.ndarray,
        threshold: float,
        ct_window: Sequence[float],
        attribution: Attribution | None = None,
        view: Path | None = None,
    ) -> None:
        """Measures one image at its own resolution, and writes what the viewer shows of it.

        Args:
          image: its index within the case.
          probability: (Z, S, S) float32, of tumour, at the size that the network sees.
          threshold: above which a voxel is tumour.
          ct_window: HU, shown as black and white.
          attribution: where the segmenter looked.
          view: file for the viewer; None: not wanted.
        """
        pair = self.case.images[image]
        volume = volumes.read_image(pair.image, b_value=pair.b_value)
        reference = volumes.read_mask(pair.mask, pair.mask_label, volume)
        probability = resize(probability, volume.voxels.shape[1:])
        masks = {"reference": reference, "prediction": probability > threshold}
        counts, surfaces = Counts(), Surfaces()
        counts.add(masks["prediction"], reference)
        surfaces.add(masks["prediction"], reference, volume.spacing)
        self.clinical.pool(counts)
        self.surfaces.pool(surfaces)
        self.tumour.add(masks["prediction"], reference, volume.spacing)
        labels = {who: lesion_tools.label(mask)[0] for who, mask in masks.items()}
        found = {who: lesion_tools.measure(labels[who], volume.geometry) for who in READERS}
        pairs = self.scores.add(
            labels["prediction"], labels["reference"], found["prediction"], found["reference"]
        )
        partner = {
            "prediction": dict(pairs),
            "reference": {reference: prediction for prediction, reference in pairs},
        }
        for who in READERS:
            self.points[who].append(TimePoint(tuple(found[who]), volume.spacing[0]))
            self.lesion_rows += [
                self._lesion_row(image, who, number, lesion, partner[who].get(number))
                for number, lesion in enumerate(found[who], start=1)
            ]
        if view is not None:
            marks = tuple(
                _mark(who, number, lesion, number in partner[who])
                for who in READERS
                for number, lesion in enumerate(found[who], start=1)
            )
            dsc = overlap.overlap(counts)["dsc"]
            facts = (
                ("condition", self.case.condition),
                ("DSC", f"{dsc:.2f}"),
                ("HD95 mm", f"{surfaces.values()['hd95']:.0f}"),
                ("lesions found", f"{len(pairs)} of {len(found['reference'])}"),
            )
            layers = _layers(masks, probability, attribution)
            self._view(image, volume, layers, marks, facts, dsc, ct_window).save(view)

    def _lesion_row(
        self, image: int, who: str, number: int, lesion: lesion_tools.Lesion, partner: int | None
    ) -> dict[str, Any]:
        left, back, up = lesion.centre
        return {
            "patient": self.case.patient,
            "condition": self.case.condition,
            "image": image,
            "mask": who,
            "lesion": number,
            "partner": partner,
            "volume_mm3": lesion.volume,
            "diameter_mm": lesion.diameter,
            "short_axis_mm": lesion.short_axis,
            "slice": lesion.slice,
            "centre_l_mm": left,
            "centre_p_mm": back,
            "centre_s_mm": up,
        }

    def _view(
        self,
        image: int,
        volume: volumes.Volume,
        layers: tuple[Layer, ...],
        marks: tuple[Mark, ...],
        facts: tuple[tuple[str, str], ...],
        order: float,
        ct_window: Sequence[float],
    ) -> CaseView:
        condition, window = self.case.condition, tuple(ct_window)
        number = f" · image {image + 1}" if len(self.case.images) > 1 else ""
        return CaseView(
            title=f"{self.case.patient} · {condition}{number}",
            facts=facts,
            grey=grey.to_uint8(volume, condition, ct_window=window),
            spacing=volume.spacing,
            window=grey.find_window(volume, condition, window),
            unit="HU" if is_ct(condition) and not volume.eight_bit else "",
            layers=layers,
            marks=marks,
            first_slice=_key_slice({layer.kind: layer.voxels for layer in layers}),
            order=order,
        )


def _layers(
    masks: dict[str, np.ndarray], probability: np.ndarray, attribution: Attribution | None
) -> tuple[Layer, ...]:
    layers = [
        Layer("probability", "map", np.rint(probability * 255).astype(np.uint8), shown=False),
        *(Layer(who, who, masks[who]) for who in READERS),
    ]
    if attribution is not None:
        layers.insert(0, _attribution_layer(attribution, probability.shape))
    return tuple(layers)


def _mark(who: str, number: int, lesion: lesion_tools.Lesion, paired: bool) -> Mark:
    words = {"reference": ("found", "missed"), "prediction": ("right", "false")}[who]
    text = (
        f"{who} {number}: {lesion.diameter:.1f} mm, {lesion.volume:,.0f} mm³, "
        f"{words[0] if paired else words[1]}"
    )
    (top, left), (bottom, right) = lesion.ends
    return Mark(text, who, lesion.slice, (top + bottom) / 2, (left + right) / 2)


def _key_slice(masks: dict[str, np.ndarray]) -> int:
    """The slice with most tumour by the reference, else by the prediction, else the middle one."""
    for who in READERS:
        if masks[who].any():
            return int(masks[who].sum(axis=(1, 2)).argmax())
    return len(masks["reference"]) // 2


def _attribution_layer(attribution: Attribution, shape: tuple[int, ...]) -> Layer:
    voxels = np.zeros(shape, np.int8)
    own_size = resize(attribution.map[None].astype(np.float32), shape[1:])[0]
    # A few pixels at an edge would leave the rest too faint to be seen.
    largest = np.quantile(np.abs(own_size), 0.999) or 1.0
    voxels[attribution.z] = np.rint(np.clip(own_size / largest, -1, 1) * 127)
    return Layer(f"attribution of slice {attribution.z + 1}", "signed", voxels, shown=False)
