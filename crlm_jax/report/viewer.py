"""A viewer of cases inside `report.html`: slices, outlines and maps, offline, in one file.

Drawn on a plain canvas, not with NiiVue: these are axial slices, which need neither WebGL nor a
library of megabytes, and NiiVue reads NIfTI, in which 45 noisy cases would not fit a report.

What a case costs: a grey slice is a JPEG (8 bits between the ends of `window`, quality 85), a map
a JPEG of quality 75, a mask its bits, deflated; slices where a layer is empty cost nothing. So the
values that the page shows are near the image's own, never exact, and masks are exact. The browser
decodes a slice when it is looked at. Nothing in the fragment asks for another file.
"""

import base64
import io
import json
import math
import zlib
from collections.abc import Iterable
from typing import Any

import jinja2
import matplotlib
import numpy as np
from markupsafe import Markup
from PIL import Image

from crlm_jax.measures.view import CaseView, describe

_SCRIPTS = ("viewer_slices.js", "viewer_paint.js", "viewer.js")  # one block, in this order
_GREY_QUALITY, _MAP_QUALITY = 85, 75


def templates(package: str = "crlm_jax.report") -> jinja2.Environment:
    """Gives the HTML templates of a package; what is put into them is escaped."""
    return jinja2.Environment(loader=jinja2.PackageLoader(package, "templates"), autoescape=True)


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


def _index(case: CaseView) -> dict[str, Any]:
    """What the page knows of a case before it is opened."""
    return describe(case) | {"shape": case.grey.shape}


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
