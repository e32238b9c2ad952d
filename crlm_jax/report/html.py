"""HTML pages that work offline: templates, and figures as data URLs."""

import base64
from pathlib import Path

import jinja2
from matplotlib.figure import Figure

from crlm_jax.imaging import overlay
from crlm_jax.system.files import write_whole


def templates(package: str) -> jinja2.Environment:
    """Returns the templates in a package's folder `templates/`; the values they get are escaped."""
    return jinja2.Environment(loader=jinja2.PackageLoader(package, "templates"), autoescape=True)


def embed(figure: Figure, path: Path | None) -> str:
    """Returns a figure as a data URL, and writes it as a PNG file if `path` is given."""
    png = overlay.to_png(figure)
    if path:
        write_whole(path, png)
    return _url(png)


def embed_file(path: Path) -> str:
    """Returns a PNG file as a data URL; empty if there is none."""
    return _url(path.read_bytes()) if path.is_file() else ""


def _url(png: bytes) -> str:
    return "data:image/png;base64," + base64.b64encode(png).decode()
