"""The metastases of the phantom's version 2: what they are made of, and how each one responds.

A metastasis of version 1 is one tissue with perhaps a core. Here it has parts: living tumour at the
rim, another density of it inside, dead or liquid tissue in the centre, calcium, scars after
chemotherapy, a border with fingers, and a halo in the liver around it. Sources:
  [V] "Colorectal liver metastases: radiopathological correlation", Insights Imaging 2020;11:99, doi
      10.1186/s13244-020-00904-4: images beside pathology, before and after chemotherapy.
  [P] "Appearances of colorectal hepatic metastases at diffusion-weighted MRI compared with
      histopathology", Br J Radiol 2012;85:225, doi 10.1259/bjr/11597735: of 84 lesions at b = 500,
      55 have a bright rim (54 of them above 1 cm), 23 are uniform, 6 variegate.
  [N] Ann Surg Oncol 2022, PMC10089972, 783 patients before resection: median of 1 metastasis and of
      3.6 cm for the largest.
  [D] "Disappearing colorectal liver metastases …", Eur J Surg Oncol 2023: 20 % of patients have
      some; their median size was 10 mm.
  [X] Chin J Radiol 2002;27:73: 12 to 27 % of colorectal liver metastases hold calcium.
What has no source beside it is set by eye.
"""

from dataclasses import dataclass, replace
from enum import IntEnum
from typing import Literal

import numpy as np

from crlm_jax.data.phantom.anatomy import Tissue, grid_axes, smooth_field
from crlm_jax.data.phantom.lesions import (
    DIAMETERS,
    LARGEST,
    LESION_LABEL,
    MOST_LESIONS,
    Blob,
    draw_blob,
    levels,
)

# Label of part p of metastasis i: LESION_LABEL + STRIDE * i + p.
Part = IntEnum("Part", "HALO EDGE RIM BODY CORE CALCIUM SCAR", start=0)
STRIDE = 8
COUNTS = (0.35, 0.25, 0.18, 0.12, 0.10)  # of patients with 1, 2, … lesions; their median is 2
LARGEST_BEFORE = (18.0, 70.0)  # mm
NEW = 0.2  # share of the patients with a new lesion after chemotherapy
GROWS = 0.15  # share of the patients in whom lesions grow under chemotherapy
LEAST_NEW, MOST_NEW = 8.0, 16.0  # mm, largest diameter of a new lesion


@dataclass(frozen=True)
class Tumour:
    """A metastasis: its shape and sizes, and what it is made of."""

    blob: Blob  # pre is 0 where it is new after chemotherapy
    kind: Literal["usual", "isointense", "mucinous"]
    pattern: Literal["uniform", "rim", "variegate"]
    core: float  # radius of the centre as a fraction of the lesion's
    liquid: bool  # the centre is liquid (bright on T2), not clotted (dark)
    calcified: bool
    ragged: float  # mm, one standard deviation of how far the border wanders
    edge: float  # mm, depth of the mixed tissue along the border
    halo: float  # mm, depth of the altered liver around it
    scarred: float  # share that chemotherapy turns into scar
    seed: int  # of the fields that shape its inside
    jitter: np.ndarray  # (2, 3), standard normal: T2, ADC, HU, before and after


def respond(rng: np.random.Generator, blob: Blob, largest: bool, grows: bool) -> Blob:
    """Draws the diameter after chemotherapy: smaller, about the same, larger, or 0.

    Of the small lesions a fifth vanishes; in [D] 20 % of the patients have such lesions, of about
    10 mm. Most others shrink; the frequencies are set by eye. The largest never vanishes.
    """
    low, high = (1.1, 1.6) if grows else (0.45, 0.85) if rng.uniform() < 0.72 else (0.88, 1.08)
    after = float(np.clip(blob.pre * rng.uniform(low, high), DIAMETERS[0], DIAMETERS[1]))
    if not largest and blob.pre < 18 and rng.uniform() < 0.2:
        after = 0.0
    return replace(blob, post=max(after, LARGEST[1]) if largest else after)


def _draw_before(rng: np.random.Generator) -> list[Blob]:
    """Draws 1 to 5 metastases, the largest first, whose median is 36 mm [N]."""
    largest = float(np.clip(36 * np.exp(0.4 * rng.standard_normal()), *LARGEST_BEFORE))
    count = int(rng.choice(MOST_LESIONS, p=COUNTS)) + 1
    sizes = largest * rng.uniform(0.25, 0.9, count - 1)
    others = np.clip(np.sort(sizes)[::-1], *DIAMETERS)
    return [
        draw_blob(rng, Tissue.METASTASIS, float(size), i == 0)
        for i, size in enumerate((largest, *others))
    ]


def draw_shapes(rng: np.random.Generator) -> list[Blob]:
    """Draws the metastases of a patient without their places: sizes before and after.

    Lesions that grow and lesions that are new are the two ways to progress under RECIST 1.1; how
    many patients do is set by eye, near the rates of neoadjuvant trials.
    """
    grows = rng.uniform() < GROWS
    drawn = _draw_before(rng)
    # In a patient who progresses most lesions grow, and others shrink all the same: mixed response.
    blobs = [
        respond(rng, blob, i == 0, grows and (i == 0 or rng.uniform() < 0.6))
        for i, blob in enumerate(drawn)
    ]
    if rng.uniform() < NEW:
        for _ in range(int(rng.integers(1, 3))):
            size = float(rng.uniform(LEAST_NEW, MOST_NEW))
            blobs.append(
                replace(draw_blob(rng, Tissue.METASTASIS, size, False), pre=0.0, post=size)
            )
    return blobs


def draw_tumour(rng: np.random.Generator, blob: Blob, mucinous: bool) -> Tumour:
    """Draws what a metastasis is made of.

    Above 1 cm two thirds have a rim and a tenth is variegate, and the rest and the small ones are
    uniform [P]. Every tenth tumour is mucinous, the most common of the rare subtypes [V]; that is
    a trait of the patient. A fifth holds calcium [X]. Scars replace much of what responded [V].
    """
    size = max(blob.pre, blob.post)
    draw = rng.uniform()
    pattern: Literal["uniform", "rim", "variegate"] = "uniform"
    if size > 10:
        pattern = "rim" if draw < 0.68 else "variegate" if draw < 0.80 else "uniform"
    isointense = rng.uniform() < 0.2
    shrunk = 1.0 if not blob.pre else blob.post / blob.pre
    return Tumour(
        blob=blob,
        kind="mucinous" if mucinous else "isointense" if isointense else "usual",
        pattern=pattern,
        core=float(rng.uniform(0.42, 0.70)) if pattern == "rim" else 0.0,
        liquid=bool(rng.uniform() < 0.4),
        calcified=bool(rng.uniform() < 0.2),
        ragged=float(rng.uniform(0.6, 2.2)),
        edge=float(rng.uniform(0.8, 2.6)),
        halo=float(rng.uniform(1.5, 5.0)) if rng.uniform() < 0.6 else 0.0,
        scarred=float(np.clip(0.9 - shrunk + rng.normal(0, 0.12), 0.05, 0.8)),
        seed=int(rng.integers(1 << 31)),
        jitter=rng.standard_normal((2, 3)),
    )


def paint_tumour(
    labels: np.ndarray, mask: np.ndarray, liver: np.ndarray, tumour: Tumour, post: bool, label: int
) -> None:
    """Draws a metastasis of a time point into labels and mask (z, y, x), in place, in the liver.

    The mask is what a reader outlines: the smooth body of the lesion. Its signal wanders about that
    outline, as the infiltrating and the desmoplastic border do [V].
    """
    blob, diameter = tumour.blob, tumour.blob.diameter(post)
    if not diameter:
        return
    where, level = levels(blob, diameter)
    inside = (level < 1.0) & liver[where]
    part = labels[where]
    radius = diameter / 2
    rng = np.random.default_rng([tumour.seed, post])
    axes = [axis[w] for axis, w in zip(grid_axes(), where, strict=True)]
    wander, grain = smooth_field(rng, axes, 5.0), smooth_field(rng, axes, 3.5)
    rough = level + (tumour.ragged / radius) * wander
    open_liver = liver[where] & (part < LESION_LABEL)
    edge = tumour.edge * (1.5 if post else 1.0) / radius  # treated borders are less sharp
    for p, within in (
        (Part.HALO, rough < 1.0 + tumour.halo / radius),
        (Part.EDGE, rough < 1.0),
        (Part.RIM, rough < 1.0 - edge),
        (Part.BODY, rough < 0.85 - edge),
        (Part.CORE, _centre(tumour, rough, grain)),
        (Part.SCAR, _scars(tumour, rough, grain, edge) if post else None),
        (Part.CALCIUM, (rough < 0.6) & (grain > 1.15) if tumour.calcified else None),
    ):
        if within is not None:
            part[within & open_liver] = label + p
    mask[where] |= inside


def _centre(tumour: Tumour, rough: np.ndarray, grain: np.ndarray) -> np.ndarray | None:
    """Where a lesion is dead or liquid: its centre, or patches of a variegate one; None: nowhere.

    Necrosis is what a dark centre on DWI stands for [P].
    """
    if tumour.pattern == "rim":
        return rough + 0.06 * grain < tumour.core
    if tumour.pattern == "variegate":
        return (rough < 0.85) & (grain > 0.3)
    return None


def _scars(tumour: Tumour, rough: np.ndarray, grain: np.ndarray, edge: float) -> np.ndarray:
    """Where chemotherapy left a scar: patches, more inside; living cells remain at the rim [V]."""
    threshold = 2.6 * (tumour.scarred - 0.5) + 0.5 * (0.7 - rough)
    return (rough < 1.0 - edge) & (-grain < threshold)
