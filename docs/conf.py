"""The site, built by Sphinx: `python -m sphinx -W --keep-going -b html docs docs/_build`."""

import os
import posixpath
import re
import sys
from pathlib import Path

DOCS = Path(__file__).parent
ROOT = DOCS.parent
sys.path[:0] = [str(ROOT), str(DOCS)]
os.environ["JAX_PLATFORMS"] = "cpu"  # the code is imported, and must look for no accelerator

import generate  # noqa: E402
from docutils import nodes  # noqa: E402
from docutils.utils.math import latex2mathml  # noqa: E402

import crlm_jax  # noqa: E402

project = "crlm_jax"
author = "the authors of crlm_jax"
copyright = f"2026, {author}"
version = release = crlm_jax.__version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
exclude_patterns = ["_build", "plan.md"]
source_suffix = {".md": "markdown"}
root_doc = "index"

myst_heading_anchors = 4  # as on the pages of a repository
myst_enable_extensions = ["colon_fence"]
myst_links_external_new_tab = False

autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_preserve_defaults = True
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_rtype = False
default_role = "literal"  # docstrings write code between single backticks

html_theme = "furo"
html_title = f"crlm_jax {version}"
html_static_path = ["_static"]
html_css_files = ["own.css"]
html_show_sphinx = False
html_copy_source = False
html_math_renderer = "mathml"

# Pages of the site that stand outside docs/ in the project.
OUTSIDE = {
    "README.md": "index.md",
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
    "launch/README.md": "how-to/launching.md",
}
_LINK = re.compile(r"(!?\[[^\]]*\])\(([^)\s:#]+)(#[^)\s]*)?\)")
_PLACE = re.compile(r"^<!-- (generated|include): (\S+) ?(\S*) -->$", re.MULTILINE)


def relink(text: str, written: str, page: str) -> str:
    """Turns the relative links of a Markdown file into those of the page that holds its text.

    Args:
      text: of the file.
      written: the file's path in the project, for which its links were written.
      page: path of the page in the project.
    """

    def turn(match: re.Match) -> str:
        label, target, anchor = match[1], match[2], match[3] or ""
        path = posixpath.normpath(posixpath.join(posixpath.dirname(written), target))
        folder = path if (ROOT / path).is_dir() else ""
        if folder and f"{folder}/README.md" in OUTSIDE:
            path = f"{folder}/README.md"
        elif folder and (ROOT / folder / "index.md").exists():
            path = f"{folder}/index.md"
        if path in OUTSIDE:
            path = f"docs/{OUTSIDE[path]}"
        return f"{label}({posixpath.relpath(path, posixpath.dirname(page))}{anchor})"

    blocks = re.split(r"(^```.*?^```$)", text, flags=re.MULTILINE | re.DOTALL)
    return "".join(b if b.startswith("```") else _LINK.sub(turn, b) for b in blocks)


def _fill(app, docname: str, source: list[str]) -> None:
    """Puts generated text and the project's other files in their places, and turns the links."""
    page = f"docs/{docname}.md"

    def place(match: re.Match) -> str:
        kind, name, argument = match.groups()
        if kind == "generated":
            return generate.PAGES[name](*filter(None, [argument]))
        app.env.note_dependency(str(ROOT / name))
        return relink((ROOT / name).read_text(encoding="utf-8"), name, page)

    source[0] = _PLACE.sub(place, relink(source[0], page, page))


_LIST = re.compile(r"\s*(?:[-*•]|\d+\.) ")
_ITEM = re.compile(r"\s*(?:[-*•] |\d+\. |:[\w ]+.*?:|\.\. |>>> )")


def _docstring(app, what, name, obj, options, lines: list[str]) -> None:
    """Makes reStructuredText of a docstring whose prose is Markdown's.

    An indented block is shown as it is written; bars and stars are themselves.
    """
    out: list[str] = []
    literal: int | None = None  # indent of the text before a block that is shown as it is
    before = ""  # the last line with text
    for line in lines:
        indent = len(line) - len(line.lstrip())
        if literal is not None:
            if not line.strip() or indent > literal:
                out.append(line)
                continue
            literal = None
            out.append("")
        if not line.strip():
            out.append(line)
            continue
        deeper = before and indent > len(before) - len(before.lstrip())
        if deeper and not _ITEM.match(before):
            literal = len(before) - len(before.lstrip())
            while out and not out[-1].strip():
                out.pop()
            out += ["", " " * literal + "::", "", line]
            before = ""
            continue
        item = _LIST.match(line)
        level = indent == len(before) - len(before.lstrip())
        if item and out and out[-1].strip() and level and not _LIST.match(before):
            out.append("")
        mark = item[0] if item else ""
        out.append(mark + _escape(line[len(mark) :]))
        if line.lstrip().startswith(".. "):
            literal = indent
        before = line
    lines[:] = out


def _escape(line: str) -> str:
    """Writes code as reStructuredText does, and takes bars, stars and underscores literally."""
    parts = re.split(r"(``[^`]*``|:\w+:`[^`]*`|`[^`]*`)", line)
    for i, part in enumerate(parts):
        if i % 2 == 0:
            parts[i] = re.sub(r"(?<!\\)([|*]|_(?!\w))", r"\\\1", part)
        elif part.startswith("`") and not part.startswith("``"):
            glued = i + 1 < len(parts) and re.match(r"\w", parts[i + 1])
            parts[i] = f"`{part}`" + ("\\ " if glued else "")
    return "".join(parts)


# -- Formulas, as MathML, which asks no other machine for a script --------------------------------


def _mathml(latex: str, block: bool) -> str:
    tree = latex2mathml.tex2mathml(latex, as_block=block)
    return f'<div class="math">{tree}</div>' if block else tree


def _visit_inline(self, node) -> None:
    self.body.append(_mathml(node.astext(), block=False))
    raise nodes.SkipNode


def _visit_block(self, node) -> None:
    self.body.append(_mathml(node.astext(), block=True))
    raise nodes.SkipNode


def setup(app) -> None:
    """Connects the above to Sphinx."""
    app.connect("source-read", _fill)
    app.connect("autodoc-process-docstring", _docstring, priority=900)
    app.add_html_math_renderer("mathml", (_visit_inline, None), (_visit_block, None))
