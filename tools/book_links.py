"""Sphinx extension: a link to a file of this repository that is a page of the book leads there.

Notebooks link to each other by the repository's own address, the one form that also works in Colab
and on GitHub (`tests/notebooks/rules.py`, `links`). In the built book that link would leave it, and
be dead without a network; here it becomes the link between the two pages. A link to a page that is
not there is a warning, and warnings fail the build.
"""

import html

import repoint
from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util import logging

logger = logging.getLogger(__name__)


def link_pages(app: Sphinx, doctree: nodes.document, docname: str) -> None:
    prefix = repoint.file_url(*repoint.setting(app.srcdir))
    for node in doctree.findall(nodes.reference):
        # MyST escapes an address that the writer escapes again: "&" between an explorer's settings.
        path, mark, anchor = html.unescape(node.get("refuri", "")).partition("#")
        if not path.startswith(prefix):
            continue
        name, _, kind = path.removeprefix(prefix).rpartition(".")
        if kind not in ("ipynb", "md"):
            continue
        if name in app.env.found_docs:
            node["refuri"] = app.builder.get_relative_uri(docname, name) + mark + anchor
            node["internal"] = True
            node["classes"] = [c for c in node["classes"] if c != "external"]
        elif name.startswith("book/"):
            logger.warning("the book has no page %s", name, location=node)


def setup(app: Sphinx) -> dict:
    app.connect("doctree-resolved", link_pages)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
