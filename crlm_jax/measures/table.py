"""The table of all measures: what each is called, its unit, and which way is better.

Everything else that lists measures derives from `MEASURES`: the columns of `cases.csv`, the means
and sums of `results.json`, the tables and figures of reports and of studies. To add a measure, add
its line here and its value to the class that computes its group (`overlap`, `surfaces`,
`detection`).
"""

from dataclasses import dataclass, replace
from typing import Literal

# The paper does not say how it pools, so its protocol is measured both ways.
Protocol = Literal["clinical", "paper", "slices"]
SUFFIX: dict[Protocol, str] = {"paper": "_paper", "slices": "_slices", "clinical": ""}
_TITLES = {
    "clinical": "clinical protocol",
    "paper": "paper's protocol, pooled",
    "slices": "paper's protocol, mean of slices",
}
SHORT: dict[Protocol, str] = {
    "clinical": "clinical",
    "paper": "paper, pooled",
    "slices": "paper, slices",
}


@dataclass(frozen=True)
class Measure:
    """What is measured of a case.

    Args:
      name: column of `cases.csv`.
      group: what computes it.
      label: for people.
      unit: of the value; empty for shares and counts.
      better: "higher", "lower", or "zero" for an error with a sign; None: neither, as a count of
        the reference.
      protocol: "paper": the slices with tumour, pooled, at the size that the network sees;
        "slices": the mean over these slices; "clinical": every slice of the volume, at its own
        resolution.
      all_protocols: whether the other protocols have the same measure.
      tolerance: of a surface Dice.
      share: whether it lies between 0 and 1.
      averaged: whether `results.json` has its mean over the patients.
      summed: whether `results.json` has its sum over the patients.
      decimals: of one case's value, for people. `cases.csv` has six.
    """

    name: str
    group: Literal["overlap", "surface", "lesion", "volume"]
    label: str
    unit: str = ""
    better: Literal["higher", "lower", "zero"] | None = "higher"
    protocol: Protocol = "clinical"
    all_protocols: bool = False
    tolerance: str = ""
    share: bool = True
    averaged: bool = True
    summed: bool = False
    decimals: int = 2

    @property
    def header(self) -> str:
        """What stands above its column where the protocol is said elsewhere."""
        return " ".join(filter(None, (self.label, self.tolerance, self.unit)))

    @property
    def row_header(self) -> str:
        """What stands before its row, among measures of several protocols."""
        return f"{self.label} ({SHORT[self.protocol]})" if self.all_protocols else self.header

    @property
    def title(self) -> str:
        """What stands above its picture."""
        if self.all_protocols:
            return f"{self.label}, {_TITLES[self.protocol]}"
        tolerance = f" at {self.tolerance}" if self.tolerance else ""
        unit = f" ({self.unit})" if self.unit else ""
        return f"{self.label}{tolerance}{unit}"

    def format(self, value: float) -> str:
        """Writes one case's value, without its unit."""
        return f"{value:.{self.decimals}f}"


# Diameter of a reference lesion in mm: < 10, 10 to 20 with both bounds, > 20.
SIZES = {"lt10": "< 10 mm", "10to20": "10–20 mm", "gt20": "> 20 mm"}

_OVERLAP = tuple(
    Measure(name, "overlap", label, all_protocols=True)
    for name, label in (
        ("dsc", "DSC"),
        ("iou", "IoU"),
        ("recall", "recall"),
        ("precision", "precision"),
        ("f1", "F1"),
    )
)


def _by_protocol(protocol: Protocol) -> list[Measure]:
    return [
        replace(measure, name=measure.name + SUFFIX[protocol], protocol=protocol)
        for measure in _OVERLAP
    ]


def _count(name: str, label: str, better: Literal["higher", "lower"] | None = None) -> Measure:
    return Measure(
        name, "lesion", label, better=better, share=False, averaged=False, summed=True, decimals=0
    )


MEASURES = (
    *_OVERLAP,
    *_by_protocol("paper"),
    *_by_protocol("slices"),
    Measure("hd", "surface", "HD", "mm", "lower", share=False, decimals=0),
    Measure("hd95", "surface", "HD95", "mm", "lower", share=False, decimals=0),
    Measure("assd", "surface", "ASSD", "mm", "lower", share=False),
    Measure("nsd_2mm", "surface", "surface Dice", tolerance="2 mm"),
    Measure("nsd_voxel", "surface", "surface Dice", tolerance="1 voxel"),
    _count("lesions_reference", "lesions"),
    _count("lesions_predicted", "predicted lesions"),
    _count("lesions_found", "found lesions", "higher"),
    replace(_count("false_positives", "false lesions a case", "lower"), averaged=True),
    Measure("lesion_sensitivity", "lesion", "lesion sensitivity"),
    Measure("lesion_precision", "lesion", "lesion precision"),
    Measure("lesion_f1", "lesion", "lesion F1"),
    *(
        measure
        for size, text in SIZES.items()
        for measure in (
            _count(f"lesions_{size}", f"lesions {text}"),
            _count(f"found_{size}", f"found lesions {text}", "higher"),
        )
    ),
    Measure("volume_reference", "volume", "volume", "mm³", None, share=False, averaged=False),
    Measure("volume_predicted", "volume", "predicted volume", "mm³", None, share=False,
            averaged=False),
    Measure("volume_error", "volume", "volume error", "mm³", "zero", share=False),
    Measure("volume_error_relative", "volume", "volume error", better="zero", share=False),
)  # fmt: skip
BY_NAME = {measure.name: measure for measure in MEASURES}


def _names(group: str, protocol: Protocol = "clinical") -> tuple[str, ...]:
    return tuple(m.name for m in MEASURES if (m.group, m.protocol) == (group, protocol))


OVERLAP = _names("overlap")
OVERLAP_PAPER = _names("overlap", "paper")
OVERLAP_SLICES = _names("overlap", "slices")
SURFACE = _names("surface")
LESION = _names("lesion")
VOLUME = _names("volume")
