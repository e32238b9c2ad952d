"""What differs between the patients of the phantom's version 2: livers, vessels, bowel, tumours.

`draw_case` draws a patient: the body of `anatomy`, other contents of bowel and gallbladder, areas
of the liver that are perfused or hold fat otherwise, and metastases. `signals` gives every label
its signal in a scan. Sources:
  [S] Starekova et al., Radiology 2021;301:250: liver without contrast 65, 23 and -3 HU at a fat
      fraction of 0.5, 25 and 40 %, so that 1 % of fat takes about 1.7 HU.
  [M] "…differentiating metastatic mucinous colorectal adenocarcinomas from simple cysts", Br J
      Radiol 2018 (PMID 30040437): ADC 1.92 ± 0.81 against 2.99 ± 0.75.
  [U] Mungai et al., Medicine 2014;93:e40: mean ADC of solid malignant lesions 0.98.
  [V] "Colorectal liver metastases: radiopathological correlation", Insights Imaging 2020;11:99.
What has no source beside it is set by eye.
"""

from dataclasses import dataclass
from enum import IntEnum
from functools import cached_property

import numpy as np
from scipy import ndimage

from crlm_jax.data.phantom.anatomy import STEP, Tissue, draw_body, grid_axes, smooth_field
from crlm_jax.data.phantom.lesions import (
    LESION_LABEL,
    Blob,
    draw_benign,
    paint,
    place,
)
from crlm_jax.data.phantom.scanner import TABLE, Scanner, signal
from crlm_jax.data.phantom.tumours import (
    STRIDE,
    Part,
    Tumour,
    draw_shapes,
    draw_tumour,
    paint_tumour,
)

# Further labels, which version 1 does not have.
Extra = IntEnum("Extra", "FLUID PASTE SLUDGE STONE FATTY PERFUSED", start=40)
_EXTRA = {
    # tissue:        PD    T1    T2    ADC   HU
    Extra.FLUID:  (1.00, 2500, 300., 2.7, 12),
    Extra.PASTE:  (0.60, 700., 55.0, 1.0, 55),  # stool: dark, and bright on DWI
    Extra.SLUDGE: (0.90, 900., 130., 1.7, 30),
    Extra.STONE:  (0.02, 500., 10.0, 1.0, 90),
}  # fmt: skip
_ORGANS = (Tissue.SPLEEN, Tissue.CORTEX, Tissue.MEDULLA, Tissue.PANCREAS, Tissue.WALL)


@dataclass(frozen=True)
class Traits:
    """What a patient has for all scans."""

    fat: float  # fraction of the liver's signal that is fat, before chemotherapy
    more_fat: float  # what chemotherapy adds to it
    iron: float  # factor of the liver's T2
    uptake: float  # factor of contrast medium in CT
    patch: float  # fat fraction of the areas that differ, more or less than around them
    mucinous: bool  # the tumour makes mucin
    t2: float  # factors of the liver's T2 and ADC
    adc: float
    restless: float  # how unevenly the patient breathes; 1: usual


@dataclass(frozen=True)
class Case:
    """A patient of version 2: labels (z, y, x) without metastases, the liver, and the lesions."""

    labels: np.ndarray  # uint8
    liver: np.ndarray  # bool, with vessels and lesions in it
    tumours: list[Tumour]
    benign: list[Blob]
    traits: Traits

    @cached_property
    def before(self) -> tuple[np.ndarray, np.ndarray]:
        """Labels with the metastases before chemotherapy, and a mask of these (bool)."""
        return self._at(False)

    @cached_property
    def after(self) -> tuple[np.ndarray, np.ndarray]:
        """As `before`, after chemotherapy."""
        return self._at(True)

    def _at(self, post: bool) -> tuple[np.ndarray, np.ndarray]:
        labels, mask = self.labels.copy(), np.zeros(self.labels.shape, bool)
        for index, tumour in enumerate(self.tumours):
            label = LESION_LABEL + STRIDE * index
            paint_tumour(labels, mask, self.liver, tumour, post, label)
        return labels, mask


def draw_traits(rng: np.random.Generator) -> Traits:
    """Draws a patient's liver and habits.

    A third of the livers is fatty and a tenth holds iron. Chemotherapy adds fat in half of the
    patients, as irinotecan does. Iron halves the T2 of a liver at most. Its other
    spread is that of de Bazelaire et al., 46 ± 6 ms.
    """
    fatty = rng.uniform() < 0.35
    return Traits(
        fat=float(rng.uniform(0.06, 0.22)) if fatty else float(rng.uniform(0.0, 0.05)),
        more_fat=float(rng.uniform(0.0, 0.12)) if rng.uniform() < 0.5 else 0.0,
        iron=float(rng.uniform(0.5, 0.8)) if rng.uniform() < 0.1 else 1.0,
        uptake=float(rng.uniform(0.80, 1.15)),
        patch=float(rng.uniform(0.05, 0.15)),
        t2=float(np.exp(0.12 * rng.standard_normal())),
        adc=float(np.exp(0.10 * rng.standard_normal())),
        mucinous=bool(rng.uniform() < 0.1),
        restless=float(np.exp(rng.normal(0, 0.35))),
    )


def draw_case(rng: np.random.Generator) -> Case:
    """Draws a body with 1 to 5 metastases, up to 2 new ones, and 1 to 5 benign lesions."""
    labels, liver = draw_body(rng)
    traits = draw_traits(rng)
    _fill_bowel(rng, labels)
    _fill_gallbladder(rng, labels)
    _vary_liver(rng, labels)
    placed = place(rng, liver, draw_shapes(rng) + draw_benign(rng), margin=12.0)
    benign = [blob for blob in placed if blob.kind != Tissue.METASTASIS]
    for blob in benign:
        paint(labels, liver, blob, False, int(blob.kind))
    metastases = [blob for blob in placed if blob.kind == Tissue.METASTASIS]
    tumours = [draw_tumour(rng, blob, traits.mucinous) for blob in metastases]
    return Case(labels, liver, tumours, benign, traits)


def _fill_bowel(rng: np.random.Generator, labels: np.ndarray) -> None:
    """Fills each loop of bowel and the stomach with food, fluid, stool or gas."""
    coarse = labels[::2, ::3, ::3] == Tissue.CONTENT
    loops, count = ndimage.label(coarse)
    kinds = [Tissue.CONTENT, Extra.FLUID, Extra.PASTE, Tissue.GAS]
    filling = rng.choice(np.array(kinds, np.uint8), count + 1, p=(0.3, 0.25, 0.3, 0.15))
    filling[0] = Tissue.CONTENT  # slivers that the coarser grid misses
    at = np.nonzero(labels == Tissue.CONTENT)
    labels[at] = filling[loops[at[0] // 2, at[1] // 3, at[2] // 3]]


def _fill_gallbladder(rng: np.random.Generator, labels: np.ndarray) -> None:
    """Lets sludge settle at the back of the gallbladder, and stones below it, in some patients."""
    at = np.nonzero(labels == Tissue.BILE)
    if not len(at[0]):
        return
    low, high = at[1].min(), at[1].max()
    if rng.uniform() < 0.4:
        settled = at[1] > high - rng.uniform(0.2, 0.6) * (high - low)
        labels[tuple(a[settled] for a in at)] = Extra.SLUDGE
    if rng.uniform() < 0.15:
        pick = rng.integers(len(at[0]))
        gap = sum(((a - a[pick]) * step) ** 2 for a, step in zip(at, STEP, strict=True))
        stone = gap < rng.uniform(3, 6) ** 2
        labels[tuple(a[stone] for a in at)] = Extra.STONE


def _vary_liver(rng: np.random.Generator, labels: np.ndarray) -> None:
    """Gives parts of the liver other fat, in geographic areas, and others another perfusion.

    Both are known causes of false lesions; areas and frequencies are set by eye.
    """
    axes = [axis[::2] for axis in grid_axes()]
    fine = np.ix_(*(np.arange(n) // 2 for n in labels.shape))
    for label, chance in ((Extra.FATTY, 0.5), (Extra.PERFUSED, 0.6)):
        field = smooth_field(rng, axes, rng.uniform(16.0, 30.0))
        if rng.uniform() < chance:
            area = (field > rng.uniform(0.9, 1.6))[fine]
            labels[area & (labels == Tissue.LIVER)] = label


def _liver_rows(traits: Traits, post: bool) -> dict[int, np.ndarray]:
    """Returns the rows of the liver and of its areas that differ.

    Fat has no signal where it is suppressed, lowers the ADC a little (set by eye), and takes 1.7 HU
    a per cent [S]. Contrast medium adds 50 HU to a normal liver.
    """
    rows = {}
    for label, more in ((Tissue.LIVER, 0.0), (Extra.FATTY, traits.patch), (Extra.PERFUSED, 0.0)):
        fat = max(traits.fat + more + traits.more_fat * post, 0.0)
        density, t1, t2, adc, _ = TABLE[Tissue.LIVER]
        uptake = traits.uptake * (1.25 if label == Extra.PERFUSED else 1.0)
        hu = 62.0 - 170.0 * fat + 50.0 * uptake
        t2 *= traits.t2 * traits.iron * (1.04 if label == Extra.PERFUSED else 1.0)
        adc *= traits.adc * (1 - 0.6 * fat)
        rows[int(label)] = np.array([density * (1 - fat), t1, t2, adc, hu])
    return rows


def _tumour_rows(tumour: Tumour, post: bool, uptake: float) -> dict[Part, np.ndarray]:
    """Returns the rows of a metastasis' parts; those of edge and halo come from a mixture.

    ADC of living tumour is about 0.98 [U], of mucin 1.92 [M]; it rises after chemotherapy, as in
    version 1. A clotted centre and a scar are dark on T2, a liquid centre is bright [V].
    """
    density, t1, t2, adc, hu = TABLE[Tissue.METASTASIS_POST if post else Tissue.METASTASIS]
    # Less apart from the liver on T2 than in version 1; ADC rises by a tenth after chemotherapy.
    t2, adc = (0.80 * t2, 0.77 * adc) if post else (0.86 * t2, 0.85 * adc)
    if tumour.kind == "isointense":
        t2, adc, hu = 0.82 * t2, 1.10 * adc, hu + 10
    elif tumour.kind == "mucinous":
        t2, adc, hu = 2.2 * t2, 1.85 * adc, hu - 18
    jitter = tumour.jitter[int(post)]
    t2, adc = t2 * np.exp(0.13 * jitter[0]), adc * np.exp(0.12 * jitter[1])
    hu = hu - 12 + 7.0 * jitter[2] + 12.0 * (uptake - 1)
    centre = (0.80, 800, 52.0, 1.35, hu - 8)
    if tumour.liquid and not post:  # chemotherapy leaves infarct-like necrosis [V]
        centre = (0.92, 1700, 1.7 * t2, 2.1, 32.0)
    rows = {
        Part.RIM: (density, t1, t2, adc, hu + 10),  # the rim takes contrast medium
        Part.BODY: (density, t1, 0.94 * t2, 1.08 * adc, hu - 4),
        Part.CORE: centre,
        Part.CALCIUM: (0.25, 500, 30.0, 1.0, 260.0),
        Part.SCAR: (0.74, 700, 48.0, 1.32, 90.0),
    }
    return {part: np.array(row, float) for part, row in rows.items()}


def signals(rng: np.random.Generator, scanner: Scanner, case: Case, post: bool) -> np.ndarray:
    """Returns the signal of every label (256), as drawn for this scan of this patient.

    Blood in veins is anything from a void to bright, by its speed; organs differ between patients
    more than in version 1. A halo is liver that is a little like the lesion on MRI; on CT it takes
    contrast medium.
    """
    rows = {int(tissue): np.array(row, float) for tissue, row in (TABLE | _EXTRA).items()}
    for row in rows.values():
        row[1:4] *= np.exp(0.06 * rng.standard_normal(3))
        row[4] += 5.0 * rng.standard_normal()
    for organ in _ORGANS:
        rows[organ][3] *= np.exp(0.12 * rng.standard_normal())
        rows[organ][4] += 60 * (case.traits.uptake - 1)
    for vessel, least, most in ((Tissue.ARTERY, 0.03, 0.3), (Tissue.VEIN, 0.1, 0.9)):
        rows[vessel][0] = rng.uniform(least, most)
    rows[Tissue.PORTAL][0] = rows[Tissue.VEIN][0] * rng.uniform(0.8, 1.2)
    for vessel in (Tissue.ARTERY, Tissue.VEIN, Tissue.PORTAL):
        rows[vessel][4] += 110 * (case.traits.uptake - 1)
    rows[Tissue.HAEMANGIOMA][2] *= rng.uniform(0.8, 1.5)  # shines through on DWI where T2 is long
    rows |= _liver_rows(case.traits, post)
    rows[Tissue.AIR][4], rows[Tissue.GAS][4] = TABLE[Tissue.AIR][4], TABLE[Tissue.GAS][4]
    table = np.zeros(256)
    table[list(rows)] = signal(scanner, np.array(list(rows.values())))
    liver = table[Tissue.LIVER]
    for index, tumour in enumerate(case.tumours):
        first = LESION_LABEL + STRIDE * index
        parts = _tumour_rows(tumour, post, case.traits.uptake)
        for part, row in parts.items():
            table[first + part] = signal(scanner, row[None])[0]
        rim = table[first + Part.RIM]
        table[first + Part.EDGE] = (rim + liver) / 2
        mixed = 0.75 * liver + 0.25 * rim
        table[first + Part.HALO] = mixed if scanner.mri else liver + 8.0
    return table.astype(np.float32)
