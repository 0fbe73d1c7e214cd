"""The house rules that code can break without noticing: arrows, docstrings, names."""

import ast
import importlib
import inspect
import json
import re
import textwrap
import tomllib
from pathlib import Path

import pytest

from reparam import _checks

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
#: Whose functions and classes are formulas: each says where its formula is from.
FORMULAS = {"noise", "gaussian", "relaxed", "distributions", "flows", "estimators", "objectives"}
CHECKS = {name for name in vars(_checks) if name.startswith("check_")}
#: What runs when a class is called or made, or an `nn.Module` called.
CALLED = {"__init__", "__post_init__", "__call__", "forward"}

#: "Used in chapters 1, 2 and 7", "Used in chapter 5 through `survey`", "Used in every chapter", "in
#: no chapter". "From chapter 1 on" is no list, and fails.
USED = re.compile(
    r"[Uu]sed (?:in|from) (?P<which>chapters? \d(?:(?:, | and )\d)*|every chapter|no chapter)"
    r"(?: through `(?P<through>\w+)`)?"
)


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


def raises(thing) -> bool:
    """Whether a function raises or checks, or what runs when a class is made or called."""
    (node,) = ast.parse(textwrap.dedent(inspect.getsource(thing))).body
    if isinstance(node, ast.ClassDef):
        node.body = [part for part in node.body if getattr(part, "name", "") in CALLED]
    calls = {getattr(part.func, "id", "") for part in ast.walk(node) if isinstance(part, ast.Call)}
    return bool(calls & CHECKS) or any(isinstance(part, ast.Raise) for part in ast.walk(node))


@pytest.mark.parametrize("thing", list(public_things()))
def test_a_public_thing_says_what_it_is(thing, request):
    text = (thing.__doc__ or "").lower().replace("sources:", "source:")  # not an inherited one
    wanted = {">>>": "example", "chapter": "chapter"}
    if raises(thing):
        wanted["raises:"] = "`Raises:`, though it raises or checks"
    if request.node.callspec.id.split(".")[0] in FORMULAS:
        wanted["source:"] = "`Source:`"
    missing = [what for word, what in wanted.items() if word not in text]
    assert not missing, f"{thing.__qualname__}: its docstring has no {', no '.join(missing)}"


def used() -> dict[tuple[str, str], set[int]]:
    """{(module, name): numbers of the chapters whose code imports it}."""
    found = {}
    for path in (LIBRARY.parents[1] / "book").glob("[1-9]-*.ipynb"):
        for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]:
            code = re.sub(r"^( *)[%!].*", r"\1pass", "".join(cell["source"]), flags=re.MULTILINE)
            for node in ast.walk(ast.parse(code if cell["cell_type"] == "code" else "")):
                if isinstance(node, ast.ImportFrom) and node.module.startswith("reparam."):
                    for alias in node.names:
                        key = node.module.split(".")[1], alias.name
                        found.setdefault(key, set()).add(int(path.name[0]))
    return found


def claims():
    """Every "Used in chapter N" of a docstring: where it stands, module, name and the match."""
    for path in sorted(LIBRARY.rglob("*.py")):
        module = path.relative_to(LIBRARY).parts[0].removesuffix(".py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef | ast.ClassDef):
                text = " ".join((ast.get_docstring(node) or "").split())
                for claim in USED.finditer(text):
                    yield f"{path.relative_to(LIBRARY)}: {node.name}", module, node.name, claim


def test_what_is_used_in_a_chapter_is_used_there():
    """By its name in an import, or "through" the name of something that is."""
    uses, found, wrong = used(), list(claims()), []
    every = set().union(*uses.values())
    assert len(found) > 50 and len(every) == 8, "the search itself misses something"
    for where, module, name, claim in found:
        if claim["through"]:
            right = set().union(*(uses[key] for key in uses if key[1] == claim["through"]))
        else:
            right = uses.get((module, name), set())
        said = (
            every if claim["which"] == "every chapter" else {*map(int, re.findall(r"\d", claim[0]))}
        )
        if said != right:
            wrong.append(f"{where} says {claim[0]!r}, and is imported in {sorted(right) or 'none'}")
    assert not wrong, "\n".join(wrong)


def test_every_public_module_has_its_page_of_reference():
    book = LIBRARY.parents[1] / "book"
    pages = {path.stem for path in (book / "reference").glob("*.md")}
    assert pages == set(PUBLIC), "book/reference/MODULE.md, and its line in _toc.yml"
    toc = (book.parent / "_toc.yml").read_text(encoding="utf-8")
    assert all(f"book/reference/{page}\n" in toc for page in pages)
