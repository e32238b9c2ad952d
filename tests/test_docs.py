"""The documents: the README is short, links lead somewhere, and what they say of the code is so.

The site itself is built by `.ci/run`; here stands what takes no Sphinx.
"""

import dataclasses
import re
import sys
from pathlib import Path

import pytest

import crlm_jax
from crlm_jax.config import Config, flatten
from crlm_jax.measures.table import MEASURES
from crlm_jax.runs.folder import RunFolder
from crlm_jax.runs.results import ConditionSummary
from crlm_jax.runs.rows import CalibrationRow, CaseRow, FrocRow, LesionRow, ResponseRow

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = sorted(
    [*DOCS.rglob("*.md"), *ROOT.glob("*.md"), ROOT / "launch" / "README.md"],
    key=lambda path: str(path),
)
PAGES = [page for page in PAGES if "_build" not in page.parts]
ROWS = (CaseRow, LesionRow, ResponseRow, CalibrationRow, FrocRow)
sys.path.insert(0, str(DOCS))

import generate  # noqa: E402, it lies beside the documents


def text_of(page: Path) -> str:
    return page.read_text(encoding="utf-8")


def prose(text: str) -> str:
    """A page without its blocks of code."""
    return re.sub(r"^```.*?^```$", "", text, flags=re.MULTILINE | re.DOTALL)


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as repositories and the site make them."""
    text = prose(text_of(page))
    for kind, name in re.findall(r"^<!-- (generated|include): (\S+)", text, re.MULTILINE):
        if kind == "include":
            return anchors(ROOT / name) | {slug(title) for title in headings(text)}
        if name != "api":
            text += generate.PAGES[name]() if name == "configuration" else command_headings()
    return {slug(title) for title in headings(text)}


def command_headings() -> str:
    """The headings of the generated page, without running the commands."""
    return "".join(
        f"## `{name}`\n" + "".join(f"### `{name} {sub}`\n" for sub in subcommands)
        for name, subcommands in generate.COMMANDS.items()
    )


def headings(text: str) -> list[str]:
    return re.findall(r"^#{1,4} (.*)$", text, re.MULTILINE)


def slug(title: str) -> str:
    words = re.sub(r"[^\w\- ]", "", title.lower().replace("`", ""))
    return words.replace(" ", "-")


def links(page: Path) -> list[str]:
    found = re.findall(r"!?\[[^\]]*\]\(([^)\s]+)\)", prose(text_of(page)))
    return [link for link in found if not re.match(r"https?:|mailto:", link)]


def test_the_readme_is_short():
    assert len((ROOT / "README.md").read_bytes()) <= 8192


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_relative_link_leads_to_a_file_and_an_anchor(page):
    for link in links(page):
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), f"{page.name}: {link}"
        assert not anchor or anchor in anchors(target), f"{page.name}: {link} has no such heading"


def test_every_page_stands_in_the_table_of_contents():
    listed = set()
    for index in (DOCS / "index.md", DOCS / "reference" / "api.md"):
        for block in re.findall(r"```{toctree}\n(.*?)```", text_of(index), re.DOTALL):
            names = [line for line in block.split("\n") if line and not line.startswith(":")]
            listed |= {(index.parent / f"{name}.md").resolve() for name in names}
    pages = {page.resolve() for page in PAGES if DOCS in page.parents}
    assert pages - listed == {(DOCS / "index.md").resolve()}


def test_every_module_and_file_that_a_page_names_is_there():
    for page in PAGES:
        if page.name == "CHANGELOG.md":  # it names what was
            continue
        for name in re.findall(r"python3? -m (crlm_jax[\w.]*\w|tests[\w.]*\w)", text_of(page)):
            module = ROOT.joinpath(*name.split("."))
            runs = module.with_suffix(".py"), module / "__main__.py"
            # What a page writes for any of them is in capitals.
            assert name.endswith("NAME") or any(map(Path.is_file, runs)), f"{page.name}: {name}"
        for name in re.findall(
            r"`((?:crlm_jax|tests|configs|launch|docs)/[\w./-]+)`", text_of(page)
        ):
            there = "NAME" in name or name.startswith("docs/_build") or (ROOT / name).exists()
            assert there, f"{page.name}: {name}"


def test_names_that_a_page_places_in_a_file_stand_there():
    """As in "one line in `MEASURES` of `crlm_jax/measures/table.py`"."""
    found = 0
    for page in PAGES:
        text = " ".join(text_of(page).split())
        for name, file in re.findall(
            r"`([A-Za-z_][\w.]*)` (?:of|in) `(crlm_jax/[\w/]+\.py)`", text
        ):
            code = text_of(ROOT / file)
            for part in name.split("."):
                assert re.search(rf"\b{part}\b", code), f"{page.name}: {name} is not in {file}"
            found += 1
    assert found > 8


def test_files_that_the_architecture_names_are_there():
    table = text_of(DOCS / "explanation" / "architecture.md").split("## Where is …?")[1]
    table = table.split("\n## ")[0]
    names = re.findall(r"`([\w/]+(?:\.py|/))`", table)
    assert len(names) > 20
    for name in names:
        assert (ROOT / name).exists() or (ROOT / "crlm_jax" / name).exists(), name


def test_the_configuration_page_has_every_field_with_its_default():
    page = generate.configuration()
    for name, value in flatten(Config()).items():
        (row,) = (line for line in page.splitlines() if line.startswith(f"| `{name}` |"))
        assert f"| `{generate._written(value)}` |" in row
    for allowed in ("`unetpp`", "above 0", "in [0, 1)"):
        assert allowed in page
    groups = [f.name for f in dataclasses.fields(Config) if dataclasses.is_dataclass(f.type)]
    assert all(f"## `{group}`" in page for group in groups)


def test_the_command_line_page_has_every_command():
    package = ROOT / "crlm_jax"
    there = {
        ".".join(path.parent.relative_to(package).parts)
        for path in package.rglob("__main__.py")
        if path.parent != package
    }
    assert set(generate.COMMANDS) == there | {"main"}
    usage = generate.usage("predict")
    assert usage.startswith("usage: python -m crlm_jax.predict")
    assert "--min-lesion-mm3" in usage


def test_every_package_has_a_page_of_the_api():
    pages = {page.stem for page in (DOCS / "reference" / "api").glob("*.md")}
    assert pages == set(generate.packages())


def test_the_version_is_the_same_everywhere():
    citation = text_of(ROOT / "CITATION.cff")
    (version,) = re.findall(r"^version: (\S+)$", citation, re.MULTILINE)
    (date,) = re.findall(r"^date-released: (\S+)$", citation, re.MULTILINE)
    newest = re.search(r"^## (\S+) – (\S+)$", text_of(ROOT / "CHANGELOG.md"), re.MULTILINE)
    assert version == crlm_jax.__version__ == newest[1]
    assert date == newest[2]


def test_every_measure_is_explained_with_its_unit():
    page = text_of(DOCS / "reference" / "measures.md")
    for measure in MEASURES:
        (row,) = (
            line for line in page.splitlines() if re.match(rf"\|.*`{measure.name}`.*\|", line)
        )
        assert measure.unit in row, measure.name


def test_every_file_and_column_of_a_run_is_specified():
    page = text_of(DOCS / "reference" / "run-folder.md")
    folder = RunFolder(Path("run"))
    paths = [getattr(folder, name) for name, of in vars(RunFolder).items() if type(of) is property]
    assert all(path.name in page for path in paths if isinstance(path, Path))
    fields = [field for row in ROWS for field in dataclasses.fields(row)]
    columns = [field.name for field in fields if "dict" not in str(field.type)]
    for name in [*columns, *(measure.name for measure in MEASURES)]:
        assert f"`{name}`" in page, name
    for field in dataclasses.fields(ConditionSummary):
        assert f"{field.name}`" in page or field.name == "means", field.name


def test_the_pages_name_no_path_of_a_machine():
    for page in PAGES:
        assert not re.search(r"(?<![\w.}])/(work|root|tmp/(?!crlm|matplotlib))", text_of(page)), (
            page
        )
