"""Sphinx extension: the reference comes from the docstrings, and the book leads to it.

autodoc and napoleon make the pages `book/reference/MODULE.md`. Here docstrings and chapters are
tied together, in the built book only: in a docstring, "chapter 3" leads to that chapter, and each
number of "chapters 1 and 3" to its own; anywhere, the name of a public thing of `reparam` in code
type (`Pathwise`, `reparam.noise`, `measure()`) leads to its entry. A name that two modules share
leads nowhere, unless the module stands before it. Each entry leads to its lines in the repository.
"""

import importlib
import inspect
import re
import sys
from functools import cache
from pathlib import Path

import repoint
import yaml
from book_setup import toc_pages
from docutils import nodes
from sphinx import addnodes
from sphinx.application import Sphinx
from sphinx.transforms import SphinxTransform
from sphinx.util.docutils import SphinxDirective

FOLDER = "book/reference"
# Lines of an estimator's docstring that stand for themselves, "Bias: none."
FIELDS = re.compile(r"^(Needs|Bias|Cost|Higher derivatives|Precision|Shapes): ")


@cache
def targets(source: Path) -> dict[str, str]:
    """{how a public thing may be called: its full name}, without what would be ambiguous."""
    found: dict[str, set[str]] = {}
    for page in (source / FOLDER).glob("*.md"):
        module = page.stem
        full = f"reparam.{module}"
        found.setdefault(full, set()).add(full)
        loaded = importlib.import_module(full)
        for name in getattr(loaded, "__all__", []):
            thing = getattr(loaded, name)
            if not (inspect.isfunction(thing) or inspect.isclass(thing)):
                continue
            for called in (name, f"{module}.{name}", f"{full}.{name}"):
                found.setdefault(called, set()).add(f"{full}.{name}")
    return {called: names.pop() for called, names in found.items() if len(names) == 1}


@cache
def chapters(source: Path) -> dict[str, str]:
    """{number of a chapter: its page}."""
    toc = yaml.safe_load((source / "_toc.yml").read_text(encoding="utf-8"))
    pages = [page for page in toc_pages(toc) if re.match(r"book/\d+-", page)]
    return {page.removeprefix("book/").split("-")[0]: page for page in pages}


def link_chapters(app: Sphinx, what, name, thing, options, lines: list[str]) -> None:
    """Let "chapter 3" in a docstring lead there, and the numbers of "chapters 1, 3 and 4"."""
    known = chapters(Path(app.srcdir))

    def link(match):
        page = known.get(match[0].split()[-1])
        return f":doc:`{match[0]} </{page}>`" if page else match[0]

    def link_each(match):
        return re.sub(r"\d+", link, match[0])

    for number, line in enumerate(lines):
        line = re.sub(r"\b[Cc]hapter \d+\b", link, line)
        lines[number] = re.sub(r"\b[Cc]hapters \d+(?:(?:, | and )\d+)*", link_each, line)


def make_fields(app: Sphinx, what, name, thing, options, lines: list[str]) -> None:
    """Let "Bias: none." be a field, as napoleon makes them of "Args:"."""
    inside = False
    for number, line in enumerate(lines):
        inside = bool(FIELDS.match(line)) or (inside and bool(line.strip()))
        if inside:
            field = FIELDS.sub(r":\1: ", line)
            lines[number] = field if field != line else f"    {line}"


class NamesLead(SphinxTransform):
    """Turn a public name in code type into a link to its entry."""

    default_priority = 500

    def apply(self) -> None:
        known = targets(Path(self.app.srcdir))
        for literal in list(self.document.findall(nodes.literal)):
            called = re.sub(r"\(.*\)$", "", literal.astext(), flags=re.DOTALL)
            linked = any(
                isinstance(up, nodes.reference | addnodes.pending_xref | nodes.title)
                for up in ancestors(literal)
            )
            if called in known and not linked:
                literal.replace_self(self.reference(known[called], literal))

    def reference(self, full: str, literal: nodes.literal) -> addnodes.pending_xref:
        kind = "mod" if full.count(".") == 1 else "obj"
        return addnodes.pending_xref(
            "", literal.deepcopy(), refdomain="py", reftype=kind, reftarget=full,
            refdoc=self.env.docname, refexplicit=True, refwarn=True,
        )  # fmt: skip


def ancestors(node: nodes.Node):
    while node.parent is not None:
        node = node.parent
        yield node


def to_source(app: Sphinx, config) -> None:
    """Let each entry lead to its lines in the repository that `_config.yml` names."""
    repository = repoint.setting(app.confdir)

    def resolve(domain: str, info: dict[str, str]) -> str | None:
        if not info["module"]:
            return None
        thing = importlib.import_module(info["module"])
        for part in info["fullname"].split("."):
            thing = getattr(thing, part, None)
        thing = inspect.unwrap(getattr(thing, "fget", thing))
        if not (inspect.isfunction(thing) or inspect.isclass(thing)):
            return None  # an attribute, which has no lines of its own
        lines, first = inspect.getsourcelines(thing)
        path = Path(inspect.getsourcefile(thing)).relative_to(app.srcdir).as_posix()
        return repoint.file_url(*repository, f"{path}#L{first}-L{first + len(lines) - 1}")

    config.linkcode_resolve = resolve


class GeneratedTable(SphinxDirective):
    """`.. generated-table:: estimators` or `distributions`: what the library says of itself."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        kinds = {"estimators": estimators, "distributions": distributions}
        lines = [".. list-table::", "   :header-rows: 1", "   :class: generated", ""]
        for row in kinds[self.arguments[0]]():
            lines += [f"   * - {row[0]}", *(f"     - {cell}" for cell in row[1:])]
        return self.parse_text_to_nodes("\n".join(lines))


def estimators() -> list[tuple[str, ...]]:
    """A header and a row for each estimator, in RST."""
    from reparam.explorers.methods import METHODS, formula

    def evaluations(method):
        normal = method.evaluations_normal
        return formula(method.evaluations) + (f"; {formula(normal)} for a Normal" if normal else "")

    rows = [
        (re.sub(r"^\w+", r"`\g<0>`", m.name), m.needs, m.bias, m.variance, evaluations(m))
        for m in METHODS
    ]
    return [("estimator", "needs", "bias", "variance comes from", "evaluations of f"), *rows]


def distributions() -> list[tuple[str, ...]]:
    """A header and a row for each distribution of PyTorch, in RST."""
    from reparam.distributions import survey

    rows = [
        (row.name, row.values, row.path, row.in_words(lambda name: f"`{name}`"))
        for row in survey().rows
    ]
    return [("distribution", "values", "path", "gradients reach"), *rows]


def setup(app: Sphinx) -> dict:
    sys.path.insert(0, str(Path(app.srcdir) / "lib"))
    app.connect("config-inited", to_source)
    app.setup_extension("sphinx.ext.linkcode")
    app.connect("autodoc-process-docstring", link_chapters)
    app.connect("autodoc-process-docstring", make_fields)
    app.add_directive("generated-table", GeneratedTable)
    app.add_transform(NamesLead)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
