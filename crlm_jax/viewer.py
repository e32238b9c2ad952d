"""A viewer of cases inside `report.html`: slices, outlines and maps, offline, in one file.

Drawn on a plain canvas, not with NiiVue: these are axial slices, which need neither WebGL nor a
library of megabytes, and NiiVue reads NIfTI, in which 45 noisy cases would not fit a report.

What a case costs: a grey slice is a JPEG (8 bits between the ends of `window`, quality 85), a map
a JPEG of quality 75, a mask its bits, deflated; slices where a layer is empty cost nothing. So the
values that the page shows are near the image's own, never exact, and masks are exact. The browser
decodes a slice when it is looked at. Nothing in the fragment asks for another file.
"""

import base64
import contextlib
import io
import json
import math
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
import matplotlib
import numpy as np
from markupsafe import Markup
from PIL import Image

from crlm_jax.files import write_whole

_DTYPES = {"reference": np.bool_, "prediction": np.bool_, "map": np.uint8, "signed": np.int8}
_SCRIPTS = ("viewer_slices.js", "viewer_paint.js", "viewer.js")  # one block, in this order
_GREY_QUALITY, _MAP_QUALITY = 85, 75


@dataclass(frozen=True)
class Layer:
    """What can be laid over a case.

    Args:
      name: shown, such as "reference", "prediction", "probability".
      kind: "reference" or "prediction" (bool masks, outlined), "map" (uint8, 0 … 255 stands for
        0 … 1, transparent at 0) or "signed" (int8, −127 … 127 stands for −1 … 1, transparent at 0).
      voxels: (Z, H, W), bool, uint8 or int8 as `kind` says.
      shown: whether it is switched on at first.
    """

    name: str
    kind: str
    voxels: np.ndarray
    shown: bool = True

    def __post_init__(self):
        """Refuses an unknown kind and a dtype that is not its own."""
        if self.kind not in _DTYPES:
            raise ValueError(f"layer {self.name!r}: kind {self.kind!r} is none of {[*_DTYPES]}")
        if self.voxels.dtype != _DTYPES[self.kind]:
            wanted = np.dtype(_DTYPES[self.kind])
            raise ValueError(f"layer {self.name!r}: {self.voxels.dtype}, a {self.kind} is {wanted}")


@dataclass(frozen=True)
class Mark:
    """A line of the list of lesions.

    Args:
      text: such as "reference 1: 23.4 mm, 5,210 mm³, found".
      layer: name of its layer.
      slice: where a click leads to, counted from 0.
      row: of its centre, in voxels; whole at the middle of a voxel, as `np.argwhere` counts.
      column: the same.
    """

    text: str
    layer: str
    slice: int
    row: float
    column: float


@dataclass(frozen=True)
class CaseView:
    """What the viewer shows of one case.

    Args:
      title: such as "phantom-003 · pre_dwi"; stands in the list and on the picture.
      facts: (name, value), such as ("DSC", "0.81"); the columns of the list of cases.
      grey: (Z, H, W) uint8, seen from the feet: rows from front to back, columns from the
        patient's right to left.
      spacing: (z, y, x) mm.
      window: the image's values at grey 0 and 255.
      unit: of these values, "HU" or "".
      layers: over the image, bottom first.
      marks: the list of lesions.
      first_slice: shown at first, counted from 0.
      order: cases are listed by it, ascending: worst first. Not a number: last.
    """

    title: str
    facts: tuple[tuple[str, str], ...]
    grey: np.ndarray
    spacing: tuple[float, float, float]
    window: tuple[float, float]
    unit: str
    layers: tuple[Layer, ...]
    marks: tuple[Mark, ...]
    first_slice: int
    order: float

    def __post_init__(self):
        """Refuses what could not be shown; the message names the case."""

        def check(good: bool, problem: str) -> None:
            if not good:
                raise ValueError(f"{self.title!r}: {problem}")

        shape, names = self.grey.shape, [layer.name for layer in self.layers]
        check(len(shape) == 3 and min(shape) > 0, f"grey is {shape}, not (Z, H, W)")
        check(self.grey.dtype == np.uint8, f"grey is {self.grey.dtype}, not uint8")
        check(min(self.spacing) > 0, f"spacing {self.spacing} mm")
        check(self.window[0] < self.window[1], f"window {self.window} is empty")
        check(len(set(names)) == len(names), f"layers {names}: a name stands twice")
        for layer in self.layers:
            got = layer.voxels.shape
            check(got == shape, f"layer {layer.name!r} is {got}, the image {shape}")
        for mark in self.marks:
            check(mark.layer in names, f"mark {mark.text!r}: no layer {mark.layer!r} in {names}")
        for z in (self.first_slice, *(mark.slice for mark in self.marks)):
            check(0 <= z < shape[0], f"no slice {z} in {shape[0]}")

    def save(self, path: Path) -> None:
        """Writes one compressed `.npz`, without pickle, whole or not at all."""
        arrays = {f"layer_{i}": layer.voxels for i, layer in enumerate(self.layers)}
        facts = _describe(self) | {"order": float(self.order)}
        text = np.frombuffer(json.dumps(facts).encode(), np.uint8)  # json here may hold NaN
        file = io.BytesIO()
        np.savez_compressed(file, facts=text, grey=self.grey, **arrays)
        write_whole(path, file.getvalue())

    @staticmethod
    def count_voxels(path: Path) -> int:
        """Returns how many voxels the image of a saved case has, without reading them."""
        with (
            _whole(path),
            path.open("rb") as opened,
            np.load(opened, allow_pickle=False) as file,
            file.zip.open("grey.npy") as stream,
        ):
            np.lib.format.read_magic(stream)
            shape, _, _ = np.lib.format.read_array_header_1_0(stream)
        return math.prod(shape)

    @staticmethod
    def load(path: Path) -> "CaseView":
        """Reads what `save` wrote.

        Raises:
          ValueError: the file is cut off, or something else; nothing of it is ever executed.
        """
        with (
            _whole(path),
            path.open("rb") as opened,
            np.load(opened, allow_pickle=False) as file,
        ):
            facts = json.loads(file["facts"].tobytes())
            layers = [
                Layer(voxels=file[f"layer_{i}"], **layer) for i, layer in enumerate(facts["layers"])
            ]
            return CaseView(
                title=facts["title"],
                facts=tuple((name, value) for name, value in facts["facts"]),
                grey=file["grey"],
                spacing=tuple(facts["spacing"]),
                window=tuple(facts["window"]),
                unit=facts["unit"],
                layers=tuple(layers),
                marks=tuple(Mark(**mark) for mark in facts["marks"]),
                first_slice=facts["first_slice"],
                order=facts["order"],
            )


@contextlib.contextmanager
def _whole(path: Path) -> Iterator[None]:
    """Turns what damage leads to, in NumPy and zipfile many kinds, into an error with the file."""
    try:
        yield
    except Exception as error:
        raise ValueError(
            f"{path}: not a case of the report's viewer, or damaged ({error}); take the folder "
            "views/ away, and the report is written without its viewer"
        ) from error


def templates() -> jinja2.Environment:
    """Gives the package's HTML templates; what is put into them is escaped."""
    return jinja2.Environment(loader=jinja2.PackageLoader("crlm_jax", "templates"), autoescape=True)


def render(cases: Iterable[CaseView]) -> Markup:
    """Renders the viewer.

    Args:
      cases: in any order; taken one after the other, so that a generator keeps memory low.

    Returns:
      An HTML fragment with its style, script and data, to be placed once inside a `<body>`.
    """
    coded = [(case.order, _json(_index(case)), _json(_pixels(case))) for case in cases]
    coded.sort(key=lambda case: (not math.isfinite(case[0]), case[0]))
    environment = templates()

    def source(name: str) -> Markup:
        return Markup(environment.loader.get_source(environment, name)[0])

    html = environment.get_template("viewer.html").render(
        css=source("viewer.css"),
        script=Markup("\n").join(map(source, _SCRIPTS)),
        index=Markup("[" + ",\n".join(index for _, index, _ in coded) + "]"),
        colours=_json(_colours()),
        pixels=[pixels for _, _, pixels in coded],
    )
    return Markup(html)


def _describe(case: CaseView) -> dict[str, Any]:
    """All of a case but its voxels and its order."""
    return {
        "title": case.title,
        "facts": case.facts,
        "spacing": [float(mm) for mm in case.spacing],
        "window": [float(value) for value in case.window],
        "unit": case.unit,
        "layers": [{"name": x.name, "kind": x.kind, "shown": bool(x.shown)} for x in case.layers],
        "marks": [
            {"text": mark.text, "layer": mark.layer, "slice": int(mark.slice),
             "row": float(mark.row), "column": float(mark.column)}
            for mark in case.marks
        ],
        "first_slice": int(case.first_slice),
    }  # fmt: skip


def _index(case: CaseView) -> dict[str, Any]:
    """What the page knows of a case before it is opened."""
    return _describe(case) | {"shape": case.grey.shape}


def _pixels(case: CaseView) -> dict[str, Any]:
    """The voxels of a case in base64: of the image and each layer, slice by slice."""
    return {
        "grey": [_jpeg(plane, _GREY_QUALITY) for plane in case.grey],
        "layers": [
            [_layer_plane(layer.kind, plane) if plane.any() else "" for plane in layer.voxels]
            for layer in case.layers
        ],
    }


def _layer_plane(kind: str, plane: np.ndarray) -> str:
    """Encodes one slice (H, W) of a layer: bits row by row, first one highest, or a picture."""
    if kind in ("reference", "prediction"):
        return base64.b64encode(zlib.compress(np.packbits(plane).tobytes(), 9)).decode()
    if kind == "signed":
        plane = (plane.astype(np.int16) + 128).astype(np.uint8)
    return _jpeg(plane, _MAP_QUALITY)


def _jpeg(plane: np.ndarray, quality: int) -> str:
    file = io.BytesIO()
    Image.fromarray(plane).save(file, "JPEG", quality=quality, optimize=True)
    return base64.b64encode(file.getvalue()).decode()


def _colours() -> dict[str, list[list[int]]]:
    """RGB from low to high: viridis, and from blue to yellow for signed maps (Okabe and Ito)."""
    viridis = matplotlib.colormaps["viridis"](np.linspace(0, 1, 17), bytes=True)[:, :3]
    return {"map": viridis.tolist(), "signed": [[0, 114, 178], [128, 171, 122], [240, 228, 66]]}


def _json(value: Any) -> Markup:
    """JSON that cannot end the script element which holds it."""
    text = json.dumps(value, allow_nan=False, separators=(",", ":"))
    return Markup(text.replace("<", "\\u003c"))
