"""Sphinx extension: the glossary's terms can be linked to, and the index is made from them.

A paragraph of `book/glossary.md` that opens in bold is an entry, and what it has in bold are its
terms; GitHub shows the page as it stands. Here each term gets an anchor, `#term-baseline`, and an
entry in the search. The page `book/index-of-terms.md` asks for the index itself, `{the-index}`:
every term, with the sections that its entry leads to, and every public name of the library, from
autodoc's entries.
"""

import re
from collections import defaultdict

import repoint
from docutils import nodes
from sphinx import addnodes
from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment
from sphinx.transforms import SphinxTransform
from sphinx.util.docutils import SphinxDirective

GLOSSARY = "book/glossary"
PAGE = "book/index-of-terms"


class TheIndex(nodes.General, nodes.Element):
    """Where the index will stand: it can be made only when every page has been read."""


class IndexDirective(SphinxDirective):
    """`the-index`: the place of the index."""

    def run(self) -> list[nodes.Node]:
        return [TheIndex()]


class GlossaryTerms(SphinxTransform):
    """Give each term of the glossary an anchor and an entry."""

    default_priority = 400

    def apply(self) -> None:
        if self.env.docname != GLOSSARY:
            return
        for paragraph in list(self.document.findall(nodes.paragraph)):
            for term in terms(paragraph):
                anchor = "term-" + nodes.make_id(sorting(term.astext()))
                term["ids"].append(anchor)
                entry = ("single", term.astext(), anchor, "", None)
                paragraph.insert(0, addnodes.index(entries=[entry]))


def terms(paragraph: nodes.paragraph) -> list[nodes.strong]:
    """What a paragraph of the glossary has in bold, if it opens with that."""
    shown = [child for child in paragraph if child.astext()]
    if not (shown and isinstance(shown[0], nodes.strong)):
        return []
    return [child for child in shown if isinstance(child, nodes.strong)]


def places(env: BuildEnvironment) -> dict[str, list[tuple[str, str, str]]]:
    """{entry: [(what its link says, page, anchor)]}."""
    found = defaultdict(list)
    chapters = repoint.file_url(*repoint.setting(env.srcdir))
    for paragraph in env.get_doctree(GLOSSARY).findall(nodes.paragraph):
        for term in terms(paragraph):
            found[term.astext()].append(("glossary", GLOSSARY, term["ids"][0]))
            for link in paragraph.findall(nodes.reference):
                path, _, anchor = link["refuri"].partition("#")
                page = re.sub(r"\.\w+$", "", path.removeprefix(chapters))
                found[term.astext()].append((link.astext().lower(), page, anchor))
    for page, entries in env.domains["index"].entries.items():
        if page == GLOSSARY:
            continue
        for _, text, anchor, _, _ in entries:
            found[re.sub(r"^module; (.*)", r"\1 (module)", text)].append(("", page, anchor))
    return found


def make_index(app: Sphinx, doctree: nodes.document, docname: str) -> None:
    for mark in list(doctree.findall(TheIndex)):
        found = places(app.env)
        letters = defaultdict(list)
        for name in sorted(found, key=sorting):
            letters[sorting(name)[0].upper()].append(name)
        jump = nodes.paragraph(classes=["index-letters"])
        sections = []
        for letter, names in letters.items():
            section = nodes.section("", nodes.title("", letter), ids=[f"index-{letter.lower()}"])
            section += nodes.bullet_list(
                "", *(item(app, name, found[name]) for name in names), classes=["index-entries"]
            )
            jump += [nodes.reference("", letter, refid=section["ids"][0]), nodes.Text(" ")]
            sections.append(section)
        mark.replace_self([jump, *sections])


def sorting(name: str) -> str:
    """What an entry is sorted by: letters, β as b."""
    return re.sub(r"^\W+|_", "", name.lower().replace("β", "beta"))


def item(app: Sphinx, name: str, links: list[tuple[str, str, str]]) -> nodes.list_item:
    """A term and its places, or a name of the library that is itself the link."""
    line = nodes.paragraph("", name if links[0][0] else "")
    for said, page, anchor in links:
        address = f"{app.builder.get_relative_uri(PAGE, page)}#{anchor}".rstrip("#")
        link = nodes.reference("", said, refuri=address, internal=True)
        if said:
            line += nodes.Text(", ")
        else:
            called, _, rest = name.partition(" ")
            link += [nodes.literal("", called), nodes.Text(f" {rest}")]
        line += link
    return nodes.list_item("", line)


def setup(app: Sphinx) -> dict:
    app.add_node(TheIndex)
    app.add_directive("the-index", IndexDirective)
    app.add_transform(GlossaryTerms)
    app.connect("doctree-resolved", make_index)
    # The index changes with any page.
    app.connect("env-get-updated", lambda app, env: [PAGE])
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
