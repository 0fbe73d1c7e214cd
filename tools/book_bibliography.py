"""Sphinx extension: the bibliography, gathered from the chapters' own lists of references.

`book/bibliography.md` asks for it by `{the-bibliography}`. A work is told from others by its
address, and stands once, with the chapters that cite it; whatever a chapter adds or drops shows
here with the next build.
"""

import re
from pathlib import Path

import notebooks
import repoint
from docutils import nodes
from docutils.statemachine import StringList
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

CHAPTERS = "book/[1-9]*-*.ipynb"
SECTION = re.compile(r"^## References\n(.*?)(?=^## |\Z)", re.S | re.M)
ADDRESS = re.compile(r"\]\(([^)]+)\)")


def works(paths: list[Path]) -> list[tuple[str, list[Path]]]:
    """Each work as its Markdown, by authors, and the chapters that cite it."""
    found: dict[str, tuple[str, list[Path]]] = {}
    for path in paths:
        cells = notebooks.read(path).cells
        text = "\n\n".join(cell.source for cell in cells if cell.cell_type == "markdown")
        for line in "".join(SECTION.findall(text)).splitlines():
            if line.startswith("- "):
                known_by = ADDRESS.search(line)  # a book may have none
                key = known_by[1] if known_by else line
                found.setdefault(key, (line.removeprefix("- "), []))[1].append(path)
    return sorted(found.values(), key=lambda work: by_author(work[0]))


def by_author(line: str) -> str:
    """The first author's family name, then everything: "D. P. Kingma and M. Welling, ..."."""
    first = re.split(r", | and | et al\.", line)[0]
    return f"{first.split()[-1]} {line}".lower()


class BibliographyDirective(SphinxDirective):
    """`the-bibliography`: all works that chapters cite."""

    def run(self) -> list[nodes.Node]:
        root = Path(self.env.srcdir)
        paths = sorted(root.glob(CHAPTERS))
        for path in paths:
            self.env.note_dependency(str(path))
        address = repoint.setting(root)
        lines = []
        for line, citing in works(paths):
            links = ", ".join(
                f"[{path.name.split('-')[0]}]"
                f"({repoint.file_url(*address, path.relative_to(root).as_posix())}#references)"
                for path in dict.fromkeys(citing)
            )
            lines.append(f"- {line} *In chapter{'s' * (len(set(citing)) > 1)}* {links}.")
        box = nodes.container(classes=["bibliography"])
        self.state.nested_parse(StringList(lines, source=self.env.docname), 0, box)
        return [box]


def setup(app: Sphinx) -> dict:
    app.add_directive("the-bibliography", BibliographyDirective)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
