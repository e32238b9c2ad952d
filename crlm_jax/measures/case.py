"""The measures of one test case: its images are measured one by one and pooled."""

import dataclasses
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from crlm_jax.config.schema import Config
from crlm_jax.data.cohort.cases import Case
from crlm_jax.data.cohort.reference import read_reference
from crlm_jax.imaging import volumes
from crlm_jax.imaging.lesions import Lesion, label_lesions, measure_lesions
from crlm_jax.imaging.masks import LesionMask
from crlm_jax.imaging.regions import measure_regions
from crlm_jax.imaging.volumes import Volume
from crlm_jax.measures.calibration import Reliability
from crlm_jax.measures.case_view import MeasuredImage, SliceAttribution, show_image
from crlm_jax.measures.detection import LesionScores
from crlm_jax.measures.froc import Sweep
from crlm_jax.measures.overlap import Counts, Volumes, overlap
from crlm_jax.measures.predicted import PredictedImage, mask_rule
from crlm_jax.measures.surfaces import Surfaces
from crlm_jax.measures.table import MEASURES, OVERLAP, SUFFIX
from crlm_jax.measures.view import READERS
from crlm_jax.recist.places import LesionPlaces
from crlm_jax.recist.registration import Registration
from crlm_jax.recist.rules import TimePoint
from crlm_jax.recist.thickness import slice_thickness
from crlm_jax.runs.rows import CalibrationRow, CaseRow, FrocRow, LesionRow


@dataclass(frozen=True)
class CaseResult:
    """What was measured of one case."""

    row: CaseRow
    lesions: list[LesionRow]  # of both masks, image by image
    points: dict[str, list[TimePoint]]  # by reader, one an image
    empty_prediction: bool
    empty_reference: bool
    # Where the lesions lie, by reader, and in which frame of reference (DICOM); of a case of one
    # image, since the places of several are not compared.
    places: dict[str, LesionPlaces] = field(default_factory=dict)
    frame: str | None = None
    registration: Registration | None = None  # of a follow-up, with its baseline
    calibration: list[CalibrationRow] = field(default_factory=list)  # empty: no probability
    froc: list[FrocRow] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        """Returns values that JSON can hold, for another process.

        A registration is found after the results of all processes are gathered.
        """
        return dataclasses.asdict(dataclasses.replace(self, registration=None))

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> "CaseResult":
        """Builds the result that `to_json` was called on, whose tuples JSON turned into lists."""
        return cls(
            row=CaseRow(**values["row"]),
            lesions=[LesionRow(**lesion) for lesion in values["lesions"]],
            points={who: [_point(**point) for point in values["points"][who]] for who in READERS},
            empty_prediction=values["empty_prediction"],
            empty_reference=values["empty_reference"],
            places={who: LesionPlaces.from_json(each) for who, each in values["places"].items()},
            frame=values["frame"],
            calibration=[CalibrationRow(**each) for each in values["calibration"]],
            froc=[FrocRow(**each) for each in values["froc"]],
        )


def _point(
    lesions: list[dict[str, Any]], slice_spacing: float, slice_thickness: float | None
) -> TimePoint:
    found = (
        Lesion(**x | {"centre": tuple(x["centre"]), "ends": tuple(map(tuple, x["ends"]))})
        for x in lesions
    )
    return TimePoint(tuple(found), slice_spacing, slice_thickness)


@dataclass
class Measurement:
    """Measures one case, image by image, and pools the images.

    The paper's protocol takes the slices with tumour at the size that the network sees, pooled and
    one by one. All else is clinical: every slice of the volumes, at their own resolution.
    """

    case: Case
    slices: int = 0
    tumour_slices: int = 0
    paper: Counts = field(default_factory=Counts)
    each_slice: list[dict[str, float]] = field(default_factory=list)  # overlap of each of them
    clinical: Counts = field(default_factory=Counts)
    surfaces: Surfaces = field(default_factory=Surfaces)
    tumour: Volumes = field(default_factory=Volumes)
    scores: LesionScores = field(default_factory=LesionScores)
    points: dict[str, list[TimePoint]] = field(default_factory=lambda: {who: [] for who in READERS})
    lesions: list[LesionRow] = field(default_factory=list)
    places: dict[str, LesionPlaces] = field(default_factory=dict)
    frame: str | None = None
    reliability: Reliability = field(default_factory=Reliability)
    sweep: Sweep = field(default_factory=Sweep)

    def add_slice(self, prediction: np.ndarray, reference: np.ndarray, *, tumour: bool) -> None:
        """Counts a slice, by the paper's protocol if it has tumour; masks (S, S) bool."""
        self.slices += 1
        if tumour:
            self.tumour_slices += 1
            counts = Counts()
            counts.add_tumour_slice(prediction, reference)
            self.paper.pool(counts)
            self.each_slice.append(overlap(counts))

    def add_image(
        self,
        predicted: PredictedImage,
        config: Config,
        attribution: SliceAttribution | None = None,
        view: Path | None = None,
    ) -> None:
        """Measures one image at its own resolution, and writes what the viewer shows of it.

        Args:
          predicted: the image, which is one of the case.
          config: of the run: windows, and how masks are read.
          attribution: where the segmenter looked.
          view: file for the viewer; None: no file is written.
        """
        image = predicted.image
        pair = self.case.images[image]
        volume = volumes.read_image(pair.image, b_value=pair.b_value)
        drawn = read_reference(pair, volume, resample=config.data.resample_masks)
        own = predicted.at_own_size(volume)
        prediction = own.prediction
        measured = self._measure(volume, prediction, drawn)
        self.clinical.pool(measured.counts)
        self.surfaces.pool(measured.surfaces)
        self.tumour.add(prediction, drawn.voxels, volume.spacing)
        for who in READERS:
            found = measured.lesions[who]
            point = TimePoint(tuple(found), volume.spacing[0], slice_thickness(volume))
            self.points[who].append(point)
            self.lesions += [
                self._lesion_row(image, who, number, lesion, measured.partners[who].get(number))
                for number, lesion in enumerate(found, start=1)
            ]
        if own.probability is not None:
            rule = mask_rule(config)
            self.reliability.add(own.probability, drawn.voxels, volume.padding)
            self.sweep.add(
                own.probability, drawn.lesions, len(drawn.regions), rule.threshold,
                rule.fewest(volume.geometry),
            )  # fmt: skip
        if len(self.case.images) == 1:
            self.frame = volume.frame_of_reference
        if view is not None:
            shown = show_image(
                self.case, image, measured, own.probability, attribution, config.data
            )
            shown.save(view)

    def _measure(self, volume: Volume, prediction: np.ndarray, drawn: LesionMask) -> MeasuredImage:
        """Measures one image, whose lesions are added to the scores of the case.

        Lesions of the reference are those that its reader drew, lesions of the prediction are its
        connected parts.
        """
        reference = drawn.voxels
        counts, surfaces = Counts(), Surfaces()
        counts.add(prediction, reference)
        surfaces.add(prediction, reference, volume.spacing)
        labels, _ = label_lesions(prediction)
        lesions = {
            "reference": measure_regions(drawn.regions, volume.geometry),
            "prediction": measure_lesions(labels, volume.geometry),
        }
        if len(self.case.images) == 1:
            own = {"reference": drawn.lesions, "prediction": labels}
            self.places = {who: LesionPlaces.pack(own[who], volume.geometry) for who in READERS}
        pairs = self.scores.add(labels, drawn.lesions, lesions["prediction"], lesions["reference"])
        masks = {"reference": reference, "prediction": prediction}
        partners = {
            "prediction": dict(pairs),
            "reference": {theirs: ours for ours, theirs in pairs},
        }
        return MeasuredImage(volume, masks, counts, surfaces, lesions, partners)

    def _lesion_row(
        self, image: int, who: str, number: int, lesion: Lesion, partner: int | None
    ) -> LesionRow:
        left, posterior, superior = lesion.centre
        return LesionRow(
            patient=self.case.patient,
            condition=self.case.condition,
            image=image,
            mask=who,
            lesion=number,
            partner=partner,
            volume_mm3=lesion.volume,
            diameter_mm=lesion.diameter,
            short_axis_mm=lesion.short_axis,
            slice=lesion.slice,
            centre_l_mm=left,
            centre_p_mm=posterior,
            centre_s_mm=superior,
        )

    def _paper_values(self) -> dict[str, float]:
        """Computes the overlap of the slices with tumour, pooled and as their mean."""
        if not self.tumour_slices:
            return {}
        pooled = {name + SUFFIX["paper"]: value for name, value in overlap(self.paper).items()}
        means = {
            name + SUFFIX["slices"]: float(np.mean([values[name] for values in self.each_slice]))
            for name in OVERLAP
        }
        return pooled | means

    def result(self) -> CaseResult:
        """Returns what was measured. Without tumour slices the paper's measures are None."""
        values = {
            **overlap(self.clinical),
            **self._paper_values(),
            **self.surfaces.values(),
            **self.scores.values(),
            **self.tumour.values(),
        }
        row = CaseRow(
            patient=self.case.patient,
            condition=self.case.condition,
            slices=self.slices,
            tumour_slices=self.tumour_slices,
            measures={measure.name: values.get(measure.name) for measure in MEASURES},
        )
        return CaseResult(
            row=row,
            lesions=self.lesions,
            points=self.points,
            empty_prediction=self.clinical.empty_prediction,
            empty_reference=self.clinical.empty_reference,
            places=self.places,
            frame=self.frame,
            calibration=self.reliability.rows(self.case.patient, self.case.condition),
            froc=self.sweep.rows(self.case.patient, self.case.condition),
        )
