"""The viewer of cases inside `report.html`: slices, outlines and maps, offline, in one file.

It draws on a plain canvas. NiiVue, the usual viewer, reads NIfTI, in which 45 noisy cases would not
fit a report, and axial slices need neither WebGL nor a library of megabytes.

A grey slice is stored as a JPEG (8 bits between the ends of `window`, quality 85), a map as a JPEG
of quality 75, a mask as its bits, deflated, and an empty slice of a layer as nothing. The grey
values and maps that the page shows are therefore close to the image's own but not exact; masks are
exact. The browser decodes a slice when it is shown. The fragment loads no other file.
"""

import base64
import io
import json
import math
import zlib
from collections.abc import Iterable
from typing import Any

import matplotlib
import numpy as np
from markupsafe import Markup
from PIL import Image

from crlm_jax.measures.view import CaseView, describe
from crlm_jax.report.html import templates

_SCRIPTS = (  # joined to one block, in this order
    "viewer_slices.js", "viewer_paint.js", "viewer.js", "viewer_lists.js", "viewer_controls.js",
)  # fmt: skip
_GREY_QUALITY, _MAP_QUALITY = 85, 75


def render(cases: Iterable[CaseView]) -> Markup:
    """Renders the viewer.

    Args:
      cases: in any order. They are encoded one by one, so that a generator keeps memory low.

    Returns:
      An HTML fragment with its style, script and data, to be placed once inside a `<body>`.
    """
    coded = [(case.order, _json(_index(case)), _json(_pixels(case))) for case in cases]
    coded.sort(key=lambda case: (not math.isfinite(case[0]), case[0]))
    environment = templates("crlm_jax.report")

    def source(name: str) -> Markup:
        """Returns a file as it stands: its braces are not a template's."""
        assert environment.loader is not None
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
    """Returns what the page needs of a case before the case is opened."""
    return describe(case) | {"shape": case.grey.shape}


def _pixels(case: CaseView) -> dict[str, Any]:
    """Returns the voxels of the image and of each layer, slice by slice, in base64."""
    return {
        "grey": [_jpeg(plane, _GREY_QUALITY) for plane in case.grey],
        "layers": [
            [_layer_plane(layer.kind, plane) if plane.any() else "" for plane in layer.voxels]
            for layer in case.layers
        ],
    }


def _layer_plane(kind: str, plane: np.ndarray) -> str:
    """Encodes one slice (H, W) of a layer: a mask as bits, row by row, the first one highest."""
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
    """Returns RGB from low to high: viridis, and Okabe and Ito's blue to yellow for signed maps."""
    viridis = matplotlib.colormaps["viridis"](np.linspace(0, 1, 17), bytes=True)[:, :3]
    return {"map": viridis.tolist(), "signed": [[0, 114, 178], [128, 171, 122], [240, 228, 66]]}


def _json(value: Any) -> Markup:
    """Returns JSON that cannot end the script element which holds it."""
    text = json.dumps(value, allow_nan=False, separators=(",", ":"))
    return Markup(text.replace("<", "\\u003c"))
