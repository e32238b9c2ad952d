"""The house: which package may import which, what importing costs, and how long files may be.

The table of floors stands here once; `docs/explanation/architecture.md` explains it.
"""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "crlm_jax"

# A module may import from lower floors and from its own package, and from nothing else.
FLOORS = (
    ("errors", "models"),
    ("system",),
    ("config", "imaging", "stats"),
    ("recist", "data", "method"),
    ("runs",),
    ("measures",),
    ("export",),
    ("predict", "report"),
    ("training", "explain"),
    ("main", "study", "plan", "evaluate", "serve"),
    ("__main__",),
)
# What the floors alone would allow.
FORBIDDEN = {
    "models": {"system"},
    "method": {"data", "imaging"},
    "data": {"method", "models"},
    "predict": {"training", "report"},
    "export": {"training", "report"},
    "explain": {"training", "report"},
}
FREE = {"errors", ""}  # "": the package itself, which holds the version
MOST_LINES, MOST_LINES_OF_A_FUNCTION = 350, 60
LONGER: dict[str, str] = {}  # file or file:function -> why it may be longer

Imports = set[tuple[str, str]]  # (module, imported module), without "crlm_jax."


def modules(package: Path) -> dict[str, Path]:
    """Every module of the package by its dotted name; stubs count as the modules they describe."""
    found = {}
    for path in [*package.rglob("*.py"), *package.rglob("*.pyi")]:
        parts = path.relative_to(package).with_suffix("").parts
        if "templates" not in parts:
            name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
            found[f"{name}{'.pyi' * (path.suffix == '.pyi')}"] = path
    return found


def imports(package: Path) -> Imports:
    """Every import of the package's own modules, those in functions and type checks included."""
    found: Imports = set()
    names = modules(package)
    for name, path in names.items():
        module = name.removesuffix(".pyi")
        home = module if path.stem == "__init__" else module.rpartition(".")[0]
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            targets = []
            if isinstance(node, ast.Import):
                targets = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                base = node.module or ""
                if node.level:
                    parent = home.split(".")[: len(home.split(".")) - node.level + 1]
                    base = ".".join(["crlm_jax", *parent, *([base] if base else [])])
                targets = [f"{base}.{alias.name}" for alias in node.names]
            for target in targets:
                if target.split(".")[0] == "crlm_jax":
                    found.add(
                        (module, _module_of(target.removeprefix("crlm_jax").strip("."), names))
                    )
    return found


def _module_of(target: str, names: dict[str, Path]) -> str:
    """The module that a dotted name is, or is a name of."""
    return target if target in names else target.rpartition(".")[0]


def room(module: str) -> str:
    return module.split(".")[0]


def wrong_arrows(found: Imports) -> list[str]:
    """Imports upward, within a floor, or forbidden besides."""
    floor = {name: i for i, names in enumerate(FLOORS) for name in names}
    wrong = []
    for module, target in sorted(found):
        here, there = room(module), room(target)
        if here == there or there in FREE or here == "":
            continue
        if floor[there] >= floor[here] or there in FORBIDDEN.get(here, ()):
            wrong.append(f"{module} imports {target}")
    return wrong


def circles(found: Imports) -> list[list[str]]:
    """Groups of modules that import each other; a package's face is left out."""
    arrows: dict[str, set[str]] = {}
    for module, target in found:
        if module != target and not target.startswith(module + "."):
            arrows.setdefault(module, set()).add(target)

    def reached(start: str) -> set[str]:
        seen, ahead = set(), [start]
        while ahead:
            for target in arrows.get(ahead.pop(), ()):
                if target not in seen:
                    seen.add(target)
                    ahead.append(target)
        return seen

    reach = {module: reached(module) for module in arrows}
    return sorted({tuple(sorted(m for m in reach if m in reach[n] and n in reach[m]))
                   for n in reach if n in reach[n]})  # fmt: skip


def test_every_top_level_module_has_a_floor():
    there = {room(name) for name in modules(PACKAGE)} - {""}
    there = {name.removesuffix(".pyi") for name in there}
    assert there == {name for names in FLOORS for name in names}


def test_no_import_goes_up_or_stays_on_its_floor():
    assert wrong_arrows(imports(PACKAGE)) == []


def test_no_modules_import_each_other_in_a_circle():
    assert circles(imports(PACKAGE)) == []


def write(package: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        path = package / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return package


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("data/slices.py", "from crlm_jax.report import page", "data.slices imports report.page"),
        ("stats/x.py", "def f():\n    import crlm_jax.config.schema",
         "stats.x imports config.schema"),
        ("method/x.py", "from crlm_jax.imaging.resize import resize",
         "method.x imports imaging.resize"),
        ("models/x.py", "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n"
         "    from crlm_jax.system import files", "models.x imports system.files"),
        ("config/x.py", "from ..imaging import resize", "config.x imports imaging.resize"),
    ],
)  # fmt: skip
def test_a_wrong_import_is_found_wherever_it_stands(tmp_path, name, text, said):
    files = {"config/schema.py": "", "imaging/resize.py": "", "report/page.py": "",
             "system/files.py": ""}  # fmt: skip
    assert wrong_arrows(imports(write(tmp_path, {**files, name: text}))) == [said]


def test_a_circle_is_found(tmp_path):
    files = {
        "imaging/a.py": "from crlm_jax.imaging.b import x",
        "imaging/b.py": "from crlm_jax.imaging import c",
        "imaging/c.py": "def f():\n    from crlm_jax.imaging.a import y",
    }
    assert circles(imports(write(tmp_path, files))) == [("imaging.a", "imaging.b", "imaging.c")]


@pytest.mark.parametrize(
    ("statement", "absent"),
    [
        ("import crlm_jax.imaging.conditions", ("SimpleITK", "pydicom", "highdicom")),
        ("import crlm_jax.predict; crlm_jax.predict.load", ("tensorflow_datasets", "grain")),
        (
            "import crlm_jax.predict.command, crlm_jax.serve.command",
            (
                "pynetdicom",
                "jax",
                "flax",
                "orbax",
                "matplotlib",
                "highdicom.seg",
                "tensorflow_datasets",
                "grain",
            ),
        ),
        ("import crlm_jax.method.step", ("orbax", "tensorflow_datasets", "SimpleITK")),
        ("import crlm_jax.__main__ as m; m.main([])", ("jax", "numpy")),
        (
            "import crlm_jax.study.command as m; "
            "m.main(['--study', 'configs/studies/stages.py', '--workdir', 'none', '--list'])",
            ("jax",),
        ),
    ],
)
def test_what_importing_a_module_does_not_load(statement, absent):
    code = f"import sys; {statement}; print(sorted(set(sys.modules) & set({absent!r})))"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=PACKAGE.parent
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "[]"


def test_files_and_functions_fit_on_a_screen_or_a_few():
    long = {}
    for path in modules(PACKAGE).values():
        text, name = path.read_text(encoding="utf-8"), str(path.relative_to(PACKAGE))
        if (lines := len(text.splitlines())) > MOST_LINES:
            long[name] = lines
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                lines = (node.end_lineno or 0) - node.lineno + 1
                if lines > MOST_LINES_OF_A_FUNCTION:
                    long[f"{name}:{node.name}"] = lines
    assert {name: lines for name, lines in long.items() if name not in LONGER} == {}
    assert set(LONGER) <= set(long), "an exception that nothing needs any longer"


def test_tests_lie_where_the_code_lies():
    """Every folder of tests is named after a package; the rest of the tests concern all of them."""
    tests = Path(__file__).parent
    packages = {str(p.parent.relative_to(PACKAGE)) for p in PACKAGE.rglob("__init__.py")}
    own = {"fixtures", "benchmarks"}
    folders = {str(p.parent.relative_to(tests)) for p in tests.rglob("test_*.py")} - {"."}
    assert {folder for folder in folders if folder.split("/")[0] not in own} <= packages
