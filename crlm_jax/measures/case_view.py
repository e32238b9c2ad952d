"""What the report's viewer shows of a measured image: layers, marks and facts."""

from dataclasses import dataclass

import numpy as np

from crlm_jax.data.cohort.cases import Case
from crlm_jax.imaging import grey
from crlm_jax.imaging.conditions import is_ct
from crlm_jax.imaging.lesions import Lesion
from crlm_jax.imaging.resize import resize
from crlm_jax.imaging.volumes import Volume
from crlm_jax.measures.overlap import Counts, overlap
from crlm_jax.measures.surfaces import Surfaces
from crlm_jax.measures.table import BY_NAME
from crlm_jax.measures.view import READERS, CaseView, Layer, Mark
from crlm_jax.method.attribution import TOLERANCE, Attribution, error_text


@dataclass(frozen=True)
class SliceAttribution:
    """Where the segmenter looked in one slice `z`."""

    z: int
    found: Attribution

    def note(self) -> str:
        """Says how far the map adds up to what it distributes."""
        found = self.found
        text = (
            f"Attribution of slice {self.z + 1}: integrated gradients, {found.steps} steps. They "
            f"sum to {found.total:.4g} logits; the score less the baseline's is "
            f"{found.score - found.baseline_score:.4g}. Completeness error "
            f"{error_text(found.error)}"
        )
        if found.by_image is not None:
            text += "; each pixel has the sum over the images that the network sees together"
        if found.complete:
            return f"{text}."
        return (
            f"{text}: NOT COMPLETE, above {error_text(TOLERANCE)}, so read the map with caution; "
            "more evaluation.attribution_steps may mend the sum."
        )


@dataclass(frozen=True)
class MeasuredImage:
    """What was measured of one image; dictionaries are by reader."""

    volume: Volume
    masks: dict[str, np.ndarray]  # (Z, H, W) bool
    counts: Counts
    surfaces: Surfaces
    lesions: dict[str, list[Lesion]]
    partners: dict[str, dict[int, int]]  # number of a lesion -> that of its partner, from 1


def show_image(
    case: Case,
    image: int,
    measured: MeasuredImage,
    probability: np.ndarray | None,
    attribution: SliceAttribution | None,
    windows: grey.Windows,
) -> CaseView:
    """Returns what the viewer shows of an image.

    Args:
      case: of the image.
      image: its index within the case.
      measured: what was measured of it.
      probability: (Z, H, W) float32, of tumour; None: not known, as of masks.
      attribution: where the segmenter looked.
      windows: how the image is shown.
    """
    volume, condition = measured.volume, case.condition
    number = f" · image {image + 1}" if len(case.images) > 1 else ""
    dsc, hd95 = overlap(measured.counts)["dsc"], measured.surfaces.values()["hd95"]
    found, there = len(measured.partners["reference"]), len(measured.lesions["reference"])
    return CaseView(
        title=f"{case.patient} · {condition}{number}",
        facts=(
            ("condition", condition),
            (BY_NAME["dsc"].header, BY_NAME["dsc"].format(dsc)),
            (BY_NAME["hd95"].header, BY_NAME["hd95"].format(hd95)),
            ("lesions found", f"{found} of {there}"),
        ),
        grey=grey.to_uint8(volume, condition, windows),
        spacing=volume.spacing,
        window=grey.find_window(volume, condition, windows),
        unit="HU" if is_ct(condition) and not volume.eight_bit else "",
        layers=_layers(measured.masks, probability, attribution),
        marks=tuple(
            _mark(who, number, lesion, number in measured.partners[who])
            for who in READERS
            for number, lesion in enumerate(measured.lesions[who], start=1)
        ),
        first_slice=_key_slice(measured.masks),
        order=dsc,
    )


def _layers(
    masks: dict[str, np.ndarray],
    probability: np.ndarray | None,
    attribution: SliceAttribution | None,
) -> tuple[Layer, ...]:
    layers = [Layer(who, who, masks[who]) for who in READERS]
    if probability is not None:
        voxels = np.rint(probability * 255).astype(np.uint8)
        layers.insert(0, Layer("probability", "map", voxels, shown=False))
    if attribution is not None:
        layers.insert(0, _attribution_layer(attribution, masks["reference"].shape))
    return tuple(layers)


def _attribution_layer(attribution: SliceAttribution, shape: tuple[int, int, int]) -> Layer:
    voxels = np.zeros(shape, np.int8)
    own_size = resize(attribution.found.map[None].astype(np.float32), shape[1:])[0]
    # A few pixels at an edge would leave the rest too faint to be seen.
    largest = np.quantile(np.abs(own_size), 0.999) or 1.0
    voxels[attribution.z] = np.rint(np.clip(own_size / largest, -1, 1) * 127)
    name = f"attribution of slice {attribution.z + 1}"
    return Layer(name, "signed", voxels, shown=False, note=attribution.note())


def _mark(who: str, number: int, lesion: Lesion, paired: bool) -> Mark:
    words = {"reference": ("found", "missed"), "prediction": ("right", "false")}[who]
    text = (
        f"{who} {number}: {lesion.diameter:.1f} mm, {lesion.volume:,.0f} mm³, "
        f"{words[0] if paired else words[1]}"
    )
    (top, left), (bottom, right) = lesion.ends
    return Mark(text, who, lesion.slice, (top + bottom) / 2, (left + right) / 2)


def _key_slice(masks: dict[str, np.ndarray]) -> int:
    """Returns the slice with most tumour by the reference, else by the prediction, else the middle.

    `masks` are (Z, H, W) bool by reader.
    """
    for who in READERS:
        if masks[who].any():
            return int(masks[who].sum(axis=(1, 2)).argmax())
    return len(masks["reference"]) // 2
