"""What is kept of a measured case for the report's viewer: slices, masks, maps and marks."""

import contextlib
import io
import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from crlm_jax.errors import UserError
from crlm_jax.system.files import write_whole

READERS = ("reference", "prediction")  # whose mask
_DTYPES: dict[str, type[np.generic]] = {
    "reference": np.bool_,
    "prediction": np.bool_,
    "map": np.uint8,
    "signed": np.int8,
}


@dataclass(frozen=True)
class Layer:
    """A mask or a map that the viewer draws over the image.

    Args:
      name: for people, such as "reference", "prediction", "probability".
      kind: "reference" or "prediction" (bool masks, outlined), "map" (uint8, 0 … 255 stands for
        0 … 1, transparent at 0) or "signed" (int8, −127 … 127 stands for −1 … 1, transparent at 0).
      voxels: (Z, H, W), bool, uint8 or int8 as `kind` says.
      shown: whether it is visible at first.
      note: what stands under the picture about it; empty: nothing.
    """

    name: str
    kind: str
    voxels: np.ndarray
    shown: bool = True
    note: str = ""

    def __post_init__(self) -> None:
        """Refuses a damaged file's layer: an unknown kind, or voxels of the wrong dtype."""
        if self.kind not in _DTYPES:
            raise ValueError(f"layer {self.name!r}: kind {self.kind!r} is none of {[*_DTYPES]}")
        if self.voxels.dtype != _DTYPES[self.kind]:
            wanted = np.dtype(_DTYPES[self.kind])
            raise ValueError(f"layer {self.name!r}: {self.voxels.dtype}, a {self.kind} is {wanted}")


@dataclass(frozen=True)
class Mark:
    """A lesion in the viewer's list.

    Args:
      text: such as "reference 1: 23.4 mm, 5,210 mm³, found".
      layer: name of its layer.
      slice: shown after a click, counted from 0.
      row: of its centre, in voxels; a whole number is the middle of a voxel (`np.argwhere`).
      column: of its centre, likewise.
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
      title: such as "phantom-003 · pre_dwi", in the list of cases and on the picture.
      facts: (name, value), such as ("DSC", "0.81"): the columns of the list of cases.
      grey: (Z, H, W) uint8, seen from the feet: rows from front to back, columns from the
        patient's right to left.
      spacing: (z, y, x) mm.
      window: the image's values at grey 0 and 255.
      unit: of these values, "HU" or "".
      layers: over the image, bottom first.
      marks: the list of lesions.
      first_slice: shown at first, counted from 0.
      order: the list of cases is sorted by it, ascending, so that the worst case is first. A case
        whose order is NaN is last.
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

    def __post_init__(self) -> None:
        """Refuses a damaged file's case, which could not be shown; the message names the case."""

        def check(good: bool, problem: str) -> None:
            if not good:
                raise ValueError(f"{self.title!r}: {problem}")

        shape, names = self.grey.shape, [layer.name for layer in self.layers]
        check(len(shape) == 3 and min(shape) > 0, f"grey is {shape}, not (Z, H, W)")
        check(self.grey.dtype == np.uint8, f"grey is {self.grey.dtype}, not uint8")
        check(min(self.spacing) > 0, f"spacing {self.spacing} mm")
        check(self.window[0] < self.window[1], f"window {self.window} is empty")
        check(len(set(names)) == len(names), f"layers {names}: two have the same name")
        for layer in self.layers:
            got = layer.voxels.shape
            check(got == shape, f"layer {layer.name!r} is {got}, the image {shape}")
        for mark in self.marks:
            check(mark.layer in names, f"mark {mark.text!r}: no layer {mark.layer!r} in {names}")
        for z in (self.first_slice, *(mark.slice for mark in self.marks)):
            check(0 <= z < shape[0], f"no slice {z} in {shape[0]}")

    def save(self, path: Path) -> None:
        """Writes one compressed `.npz`, without pickle; an interrupted write leaves no file."""
        arrays = {f"layer_{i}": layer.voxels for i, layer in enumerate(self.layers)}
        facts = describe(self) | {"order": float(self.order)}
        text = np.frombuffer(json.dumps(facts).encode(), np.uint8)  # `order` may be NaN
        file = io.BytesIO()
        # An array's name could be taken for an option of the function; none of these is.
        np.savez_compressed(file, facts=text, grey=self.grey, **arrays)  # type: ignore[arg-type]
        write_whole(path, file.getvalue())

    @staticmethod
    def count_voxels(path: Path) -> int:
        """Returns how many voxels the image of a saved case has, without reading them."""
        with (
            _named_error(path),
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
          UserError: the file is damaged or something else. Nothing in a file is executed.
        """
        with (
            _named_error(path),
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
def _named_error(path: Path) -> Iterator[None]:
    """Turns the many errors of NumPy and zipfile on a damaged file into one that names it."""
    try:
        yield
    except Exception as error:
        raise UserError(
            f"{path}: not a case of the report's viewer, or damaged "
            f"({' '.join(str(error).split())}); move the folder {path.parent.name}/ away, and the "
            "report is written without its viewer"
        ) from error


def describe(case: CaseView) -> dict[str, Any]:
    """Returns all of a case but its voxels and its order, for JSON."""
    return {
        "title": case.title,
        "facts": case.facts,
        "spacing": [float(mm) for mm in case.spacing],
        "window": [float(value) for value in case.window],
        "unit": case.unit,
        "layers": [
            {"name": x.name, "kind": x.kind, "shown": bool(x.shown), "note": x.note}
            for x in case.layers
        ],
        "marks": [
            {"text": mark.text, "layer": mark.layer, "slice": int(mark.slice),
             "row": float(mark.row), "column": float(mark.column)}
            for mark in case.marks
        ],
        "first_slice": int(case.first_slice),
    }  # fmt: skip
