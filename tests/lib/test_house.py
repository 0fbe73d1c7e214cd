"""The house rules that code can break without noticing: arrows, docstrings, names."""

import ast
import importlib
import inspect
import tomllib
from pathlib import Path

import pytest

LIBRARY = Path(__file__).resolve().parents[2] / "lib" / "reparam"

#: From the ground up; a module may import from those above it in this list, never from below.
FLOORS = [
    {"_checks", "_embed", "_functions", "_progress"},
    {"noise", "data"},
    {"gaussian", "relaxed", "distributions", "flows"},
    {"estimators"},
    {"measure", "objectives"},
    {"vae", "checkup"},
    {"plots", "long_runs"},
    {"exercises", "explorers", "quiz", "live"},
]
PUBLIC = sorted(name for floor in FLOORS[1:] for name in floor)


def imported(path: Path) -> set[str]:
    """Modules of reparam that a file imports, wherever the import stands."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            module = node.module or ""
            names |= {module, *(f"{module}.{alias.name}" for alias in node.names)}
    return {name.split(".")[1] for name in names if name.startswith("reparam.")}


def files(module: str) -> list[Path]:
    folder = LIBRARY / module
    return sorted(folder.glob("*.py")) if folder.is_dir() else [LIBRARY / f"{module}.py"]


def test_the_oldest_versions_are_those_of_the_package():
    """`make oldest` tests what pyproject.toml allows."""
    root = LIBRARY.parents[1]
    wanted = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))
    wanted = dict(line.split(">=") for line in wanted["project"]["dependencies"])
    lines = (root / "tests/lib/oldest.txt").read_text(encoding="utf-8").splitlines()
    tested = dict(line.split("==") for line in lines if "==" in line)
    for name, version in wanted.items():
        digits = version.count(".") + 1
        assert tested[name].split(".")[:digits] == version.split("."), (
            f"{name}: pyproject.toml allows {version}, `make oldest` tests {tested[name]}"
        )


def test_every_module_has_its_floor():
    found = {p.stem if p.is_file() else p.name for p in LIBRARY.iterdir()}
    found = {name for name in found if not name.startswith("__")}
    assert found == set().union(*FLOORS), "put a new module into FLOORS, where it belongs"


@pytest.mark.parametrize("module", sorted(set().union(*FLOORS)))
def test_arrows_run_one_way(module):
    floor = next(i for i, names in enumerate(FLOORS) if module in names)
    below = set().union(*FLOORS[:floor])
    known = set().union(*FLOORS)
    for path in files(module):
        wrong = (imported(path) & known) - below - {module}
        assert not wrong, f"{path}: imports {sorted(wrong)}, which stand on the same floor or above"


def public_things():
    for module in PUBLIC:
        loaded = importlib.import_module(f"reparam.{module}")
        for name in getattr(loaded, "__all__", []):
            thing = getattr(loaded, name)
            if inspect.isfunction(thing) or inspect.isclass(thing):
                yield pytest.param(thing, id=f"{module}.{name}")


@pytest.mark.parametrize("thing", list(public_things()))
def test_a_public_thing_says_what_it_is(thing):
    assert inspect.getdoc(thing), f"{thing.__module__}.{thing.__qualname__} has no docstring"
    if inspect.isfunction(thing):
        text = inspect.getdoc(thing).lower()
        assert ">>>" in text, f"{thing.__qualname__}: its docstring has no example"
        assert "chapter" in text, f"{thing.__qualname__}: its docstring names no chapter"


def test_every_public_module_has_its_page_of_reference():
    book = LIBRARY.parents[1] / "book"
    pages = {path.stem for path in (book / "reference").glob("*.md")}
    assert pages == set(PUBLIC), "book/reference/MODULE.md, and its line in _toc.yml"
    toc = (book.parent / "_toc.yml").read_text(encoding="utf-8")
    assert all(f"book/reference/{page}\n" in toc for page in pages)
