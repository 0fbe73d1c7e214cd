"""Sphinx extension of this book: boxes, figure numbers, local assets, proof of every page.

`_config.yml` loads it. What it does, in the order in which Sphinx gets there:

- theme options that Jupyter Book 1.x has no setting for, the repository's address among them;
- a blockquote that opens with a bold label (`> **Key idea.** ...`) becomes a styled box;
- figures are numbered within their chapter, from the number that its file name starts with;
- scripts that the book does not use are dropped from every page, and their files from the build;
- MathJax is copied in, so that a page needs no other host;
- the build fails, naming the page, if a page of `_toc.yml` did not come out.
"""

from __future__ import annotations

import importlib.util
import re
import shutil
from pathlib import Path

import yaml
from docutils import nodes
from sphinx.application import Sphinx
from sphinx.config import Config
from sphinx.environment import BuildEnvironment
from sphinx.errors import ExtensionError
from sphinx.transforms import SphinxTransform
from sphinx.util import logging

logger = logging.getLogger(__name__)

# Label of a box -> its CSS class. A label may go on in parentheses: "Theorem (moved gradient)."
BOXES = {
    "Predict first": "predict",
    "Try it": "try",
    "Key idea": "key",
    "Misconception": "misconception",
    "Correction": "correction",
    "Watch out": "watch",
    "Why?": "why",
    "Definition": "definition",
    "Theorem": "theorem",
}

# Scripts and styles that come with Jupyter Book and serve nothing here.
UNUSED = (
    "thebe",
    "togglebutton",
    "design-tabs",
    "sphinx-design",
    "THEBE_JS_URL",
    "toggleHint",
    "toggleOpenOnPrint",
    "togglebuttonSelector",
)

UNUSED_FILES = (
    "vendor",
    "locales",
    "scripts/fontawesome.js",
    "sphinx-thebe.js",
    "sphinx-thebe.css",
    "togglebutton.js",
    "togglebutton.css",
    "design-tabs.js",
    "sphinx-design.min.css",
)

# What MathJax loads by itself, from a page with mathjax/startup.js; everything else stays out.
MATHJAX = (
    "startup.js",
    "core.js",
    "input/tex.js",
    "input/tex/extensions",
    "output/chtml.js",
    "output/chtml/fonts",
    "a11y/assistive-mml.js",
)


def set_theme_options(app: Sphinx, config: Config) -> None:
    """Set what cannot be set in _config.yml without losing its launch buttons."""
    config.html_theme_options.update(
        navbar_persistent=[],  # else a second search box on top
        back_to_top_button=False,
        article_header_end=["article-header-buttons.html"],
        footer_content_items=["extra-footer.html"],
        toc_title="On this page",
        search_bar_text="Search this book",
        show_toc_level=2,
        pygments_dark_style="github-dark",
    )


class Boxes(SphinxTransform):
    """Turn a blockquote that opens with a bold label into a box."""

    default_priority = 400

    def apply(self) -> None:
        for quote in list(self.document.findall(nodes.block_quote)):
            first = quote[0] if len(quote) else None
            if not isinstance(first, nodes.paragraph):
                continue
            while len(first) and not first[0].astext():  # the parser puts empty text in front
                first.pop(0)
            if not (len(first) and isinstance(first[0], nodes.strong)):
                continue
            label = first[0].astext().strip()
            kind = next((kind for name, kind in BOXES.items() if label.startswith(name)), None)
            if kind is None:
                logger.warning(
                    'a blockquote opens with the bold label "%s", which is no box of this book; '
                    "use one of: %s",
                    label,
                    ", ".join(BOXES),
                    location=quote,
                )
                continue
            quote.replace_self(self.box(kind, quote, first))

    def box(self, kind: str, quote: nodes.block_quote, first: nodes.paragraph) -> nodes.Element:
        title = nodes.paragraph(classes=["box-label"])
        strong = first.pop(0)
        title += strong.children
        last = title[-1]
        if isinstance(last, nodes.Text):  # on a line of its own, the label needs no period
            title[-1] = nodes.Text(last.astext().rstrip(". "))
        if len(first) and isinstance(first[0], nodes.Text):
            first[0] = nodes.Text(first[0].astext().lstrip())
        if not first.astext().strip():
            quote.remove(first)
        box = nodes.container(classes=["box", f"box-{kind}"])
        box.source, box.line = quote.source, quote.line
        box += title
        box += quote.children
        return box


class LocalBadges(SphinxTransform):
    """Let a badge that is a picture from another host be its text: pages fetch nothing."""

    default_priority = 400

    def apply(self) -> None:
        for image in list(self.document.findall(nodes.image)):
            if image["uri"].startswith("https://colab.research.google.com/"):
                image.replace_self(nodes.Text(image.get("alt") or "Open in Colab"))


class DisplayMath(SphinxTransform):
    """Hand display math to MathJax as written: Sphinx's own wrapping breaks \\tag beside \\\\."""

    default_priority = 400

    def apply(self) -> None:
        for block in self.document.findall(nodes.math_block):
            if not block.get("nowrap"):
                block["nowrap"] = True
                block.children = [nodes.Text(rf"\[{block.astext()}\]")]


def number_figures_by_chapter(app: Sphinx, env: BuildEnvironment) -> list[str]:
    """Number the k-th figure of book/2-name.ipynb 2.k; elsewhere Sphinx counts through the book."""
    changed = []
    for docname, kinds in env.toc_fignumbers.items():
        chapter = re.match(r"(\d+)-", docname.rpartition("/")[2])
        figures = kinds.get("figure", {})
        if chapter and figures:
            kinds["figure"] = {
                name: (int(chapter[1]), k) for k, name in enumerate(figures, start=1)
            }
            changed.append(docname)
    return changed if app.env.config.numfig else []


def drop_unused_assets(
    app: Sphinx, pagename: str, templatename: str, context: dict, doctree
) -> None:
    """Drop scripts and styles that nothing on the page uses (Thebe's is even emitted twice)."""

    def used(asset) -> bool:
        text = str(getattr(asset, "filename", asset) or "")
        text += (getattr(asset, "attributes", None) or {}).get("body") or ""
        return not any(name in text for name in UNUSED)

    for kind in ("script_files", "css_files"):
        context[kind] = [asset for asset in context.get(kind, []) if used(asset)]
    # The theme names every folded cell "Toggle hidden content", whatever its text says.
    context["body"] = context.get("body", "").replace(' aria-label="Toggle hidden content"', "")
    if pagename.startswith("book/exercises/") or pagename == "book/run-status":
        for group in context.get("header_buttons", []):  # nobody edits what is derived
            if "buttons" in group:
                group["buttons"] = [b for b in group["buttons"] if "/edit/" not in b.get("url", "")]
    context["chapter_links"] = [
        button
        for group in context.get("header_buttons", [])
        for button in group.get("buttons", [group])
        if "colab" in button.get("url", "")
    ]


def toc_pages(toc: dict) -> list[str]:
    """Return the files that a _toc.yml names, in reading order."""
    pages = [toc["root"]]

    def walk(entries: list[dict]) -> None:
        for entry in entries:
            if "file" in entry:
                pages.append(entry["file"])
            walk(entry.get("chapters", []) + entry.get("sections", []))

    walk(toc.get("parts", []) + toc.get("chapters", []))
    return [re.sub(r"\.(md|ipynb)$", "", page) for page in pages]


def finish(app: Sphinx, exception: Exception | None) -> None:
    """Copy MathJax, remove what no page loads, and prove that every page came out."""
    if exception or app.builder.format != "html":
        return
    out = Path(app.outdir)
    copy_mathjax(out / "_static" / "mathjax")
    static = out / "_static"
    for unused in UNUSED_FILES:
        path = static / unused
        shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
    for source_map in static.rglob("*.map"):
        source_map.unlink()
    # Our icons are drawings in the templates; without its rules the theme asks for no icon font.
    theme = static / "styles" / "pydata-sphinx-theme.css"
    theme.write_text(re.sub(r"@font-face\{[^}]*\}", "", theme.read_text("utf-8")), "utf-8")

    pages = toc_pages(yaml.safe_load(Path(app.srcdir, "_toc.yml").read_text(encoding="utf-8")))
    missing = [page for page in pages if not (out / f"{page}.html").is_file()]
    if missing:
        raise ExtensionError(
            "pages named in _toc.yml did not come out: "
            + ", ".join(missing)
            + ". Is the file there, under that name, and not in exclude_patterns of _config.yml?"
        )
    write_front_door(out, pages[0], app.config.html_title)


def copy_mathjax(target: Path) -> None:
    package = importlib.util.find_spec("sphinx-mathjax-offline")
    source = Path(package.origin).parent / "static" / "mathjax"
    if (target / MATHJAX[0]).exists():
        return
    for name in MATHJAX:
        if (source / name).is_dir():
            skip = shutil.ignore_patterns("all-packages.js")
            shutil.copytree(source / name, target / name, ignore=skip, dirs_exist_ok=True)
        else:
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(source / name, target / name)


def write_front_door(out: Path, root: str, title: str) -> None:
    """Write index.html, which sends on to the root page; Jupyter Book's own lacks a title."""
    (out / "index.html").write_text(
        f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<meta http-equiv="refresh" content="0; url={root}.html">
</head>
<body><main><h1>{title}</h1><p><a href="{root}.html">To the book</a></p></main></body>
</html>
""",
        encoding="utf-8",
    )


def setup(app: Sphinx) -> dict:
    app.add_transform(Boxes)
    app.add_transform(LocalBadges)
    app.add_transform(DisplayMath)
    app.connect("config-inited", set_theme_options, priority=900)
    app.connect("env-get-updated", number_figures_by_chapter, priority=900)
    app.connect("html-page-context", drop_unused_assets, priority=900)
    app.connect("build-finished", finish, priority=900)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
