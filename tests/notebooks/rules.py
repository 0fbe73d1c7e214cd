"""The rules of a chapter's notebook, each a function `rule(page) -> list of faults`.

A fault is one sentence that names file and cell and says how to mend it. The tests apply every rule
to every notebook; `test_guards.py` breaks copies and sees that the rule notices.
"""

import ast
import hashlib
import json
import math
import re
from collections import Counter
from dataclasses import dataclass, field
from functools import cached_property
from html.parser import HTMLParser
from pathlib import Path

from markdown_it import MarkdownIt
from mdit_py_plugins.dollarmath import dollarmath_plugin

from tools import notebooks, repoint

MARKDOWN = MarkdownIt("commonmark").enable("table").use(dollarmath_plugin, double_inline=True)


@dataclass
class Page:
    """A notebook, its place, and the repository that it belongs to."""

    path: Path
    root: Path = notebooks.ROOT
    nb: object = field(init=False)

    def __post_init__(self):
        self.nb = notebooks.read(self.path)

    @property
    def name(self):
        return notebooks.shown(self.path, self.root)

    def at(self, index):
        return f"{self.name}, {notebooks.cell_name(self.nb, index)}"

    @cached_property
    def markdown(self):
        """(index, cell, its tokens) of the Markdown cells."""
        return [
            (i, cell, MARKDOWN.parse(cell.source))
            for i, cell in enumerate(self.nb.cells)
            if cell.cell_type == "markdown"
        ]

    @cached_property
    def code(self):
        """(index, cell, its syntax tree) of the code cells."""
        return [
            (i, cell, syntax(cell.source))
            for i, cell in enumerate(self.nb.cells)
            if cell.cell_type == "code"
        ]

    @cached_property
    def headings(self):
        """(cell index, level, text) of every heading."""
        return [
            (i, int(token.tag[1]), tokens[n + 1].content.strip())
            for i, _, tokens in self.markdown
            for n, token in enumerate(tokens)
            if token.type == "heading_open"
        ]


def syntax(source):
    """The tree of a cell, IPython's magics taken out; None if it does not parse."""
    plain = re.sub(r"(?m)^(\s*)[%!].*$", r"\1pass", source)
    try:
        return ast.parse(plain)
    except SyntaxError:
        return None


def tags(cell):
    return cell.metadata.get("tags", [])


def inline(tokens):
    """Every token of a cell, the children of its paragraphs included."""
    for token in tokens:
        yield token
        yield from inline(token.children or [])


def prose_only(source):
    """The source without code, so that a rule about Markdown is not set off by an example."""
    source = re.sub(r"(?ms)^(`{3,}|~{3,})(?!\s*\{).*?^\1\s*$", "", source)
    return re.sub(r"(?<![`}])(`{1,2})(?!`).+?(?<!`)\1(?!`)", "`code`", source, flags=re.DOTALL)


# ---------------------------------------------------------------- form


def form(page):
    """The file is in canonical form."""
    return notebooks.form_faults(page.path, page.root)


NOT_COMMONMARK = {
    r"(?m)^\s*(?:>\s*)*(`{3,}|~{3,})\s*\{": "a MyST directive",
    r"(?m)^\s*(?:>\s*)*:{3,}": "a colon fence",
    r"\{[A-Za-z][\w:.+-]*\}`": "a MyST role",
    r"(?m)^\([\w:. -]+\)=\s*$": "a MyST target",
    r"(?m)^%\s": "a MyST comment",
    r"(?m)^\+\+\+": "a MyST block break",
    r"\{(?:cite|eq|ref|numref|doc|term)(?::\w+)?\}": "a MyST role",
    r"[\])`]\{[.#][^}]*\}": "MyST attributes",
    r"\$\$\s*\([\w:-]+\)": "a MyST equation label",
    r"\[\^[^\]]+\]": "a footnote",
    r"(?m)^>\s*\[!\w+\]": "a GitHub alert",
    r"\{\{.*?\}\}": "a substitution",
    r"\\(?:label|eqref|ref|cite)\{": "a LaTeX reference (number equations with \\tag{})",
    r"\\[(\[](?![a-zA-Z])|\\[)\]](?![a-zA-Z])": "\\( \\) or \\[ \\] around math (write $…$)",
}
HTML_TAGS = {"details", "summary", "br", "sub", "sup", "kbd"}
LABELS = (
    "Predict first", "Try it", "Key idea", "Misconception", "Correction", "Watch out", "Why?",
    "Definition", "Theorem",
)  # fmt: skip
_LABEL = re.compile(rf"(?:{'|'.join(map(re.escape, LABELS))})(?: \d+)?(?: \(.+\))?[.?]?")


def commonmark(page):
    """The Markdown reads right in the built book, Colab, Jupyter and on GitHub."""
    faults = []
    for index, cell, tokens in page.markdown:
        source = prose_only(cell.source)
        for pattern, what in NOT_COMMONMARK.items():
            if what.startswith("\\("):
                # Inside $…$ a backslash bracket is TeX's own.
                found = re.search(pattern, re.sub(r"\$\$?.+?\$\$?", "", source, flags=re.DOTALL))
                if found and found.group(0) in (r"\[", r"\]"):
                    continue  # an escaped bracket is CommonMark
            else:
                found = re.search(pattern, source)
            if found:
                faults.append(
                    f"{page.at(index)}: {what} ({found.group(0).strip()[:40]!r}) shows as raw text "
                    "in Colab or on GitHub; write CommonMark: a blockquote with a bold label for a "
                    "box, <details> for a fold, a link for a reference"
                )
        outside = re.sub(r"\$\$.+?\$\$", "", source, flags=re.DOTALL)
        if found := re.search(r"\\begin\{\w+\*?\}", re.sub(r"\$.+?\$", "", outside)):
            faults.append(f"{page.at(index)}: {found.group(0)} outside $$ … $$; put it inside")
        for token in inline(tokens):
            if token.type not in ("html_block", "html_inline"):
                continue
            used = {t.lower() for t in re.findall(r"</?([A-Za-z][\w-]*)", token.content)}
            if unknown := sorted(used - HTML_TAGS):
                faults.append(
                    f"{page.at(index)}: HTML <{'>, <'.join(unknown)}> reads differently in Colab, "
                    "Jupyter and on GitHub; only <details>, <summary>, <br>, <sub>, <sup>, <kbd>"
                )
            if token.type == "html_block" and "<summary" in token.content:
                rest = re.sub(r"(?s)<summary.*?</summary>|<[^>]+>", "", token.content).strip()
                if rest:
                    faults.append(
                        f"{page.at(index)}: after </summary> a blank line is missing, so the "
                        "fold's Markdown is not read; add it"
                    )
        for n, token in enumerate(tokens):
            if token.type != "blockquote_open" or tokens[n + 1].type != "paragraph_open":
                continue
            children = [c for c in tokens[n + 2].children if c.type != "text" or c.content]
            if children and children[0].type == "strong_open":
                label = children[1].content
                if not _LABEL.fullmatch(label) or label[-1] not in ".?":
                    faults.append(
                        f"{page.at(index)}: no box has the label {label!r}; the labels are "
                        f"{', '.join(LABELS)}, each bold and ending in a period"
                    )
    return faults


def links(page):
    """Every link works in all four places.

    The rule: a link is absolute. To a page of ours it is the repository's own address, as
    `repoint.file_url` makes it (https://github.com/OWNER/NAME/blob/BRANCH/book/2-the-trick.ipynb):
    that opens from Colab, from Jupyter and on GitHub, `make repoint` keeps it right in a fork, and
    the Sphinx extension turns it into the page's own link in the built book, so it also works
    offline there. A relative link (`2-the-trick.ipynb`) is dead in Colab, which has no folder
    beside the notebook; an anchor (`#fig-x`) has no target there. Pictures are drawn by cells:
    a Markdown image is a request to another host, or a file that Colab does not have.
    """
    url, branch = repoint.setting(page.root)
    ours, faults = repoint.file_url(url, branch), []
    for index, _, tokens in page.markdown:
        for token in inline(tokens):
            if token.type == "image":
                faults.append(
                    f"{page.at(index)}: a Markdown image ({token.attrs['src'][:60]}) is fetched "
                    "from another host or missing in Colab; draw it in a code cell, or make it a "
                    "text link"
                )
            if token.type != "link_open":
                continue
            href = str(token.attrs["href"])
            if not re.match(r"https?://[^/]+|mailto:", href):
                faults.append(
                    f"{page.at(index)}: the link {href!r} is dead in Colab; write it absolute: "
                    f"{ours}book/PAGE"
                )
            elif href.startswith(ours):
                target = page.root / re.split(r"[#?]", href.removeprefix(ours))[0]
                if not target.exists():
                    faults.append(
                        f"{page.at(index)}: the link {href!r} leads to a file that is not in the "
                        "repository; mend the path"
                    )
            elif "colab.research.google.com/github/" in href:
                prefix = repoint.colab_url(url, branch)
                path = href.removeprefix(prefix)
                if path == href or not (page.root / path).is_file():
                    faults.append(
                        f"{page.at(index)}: the Colab link {href!r} opens no file of this "
                        f"repository; it should start with {prefix} (`make repoint` mends it)"
                    )
    return faults


def title(page):
    """The first cell holds the one H1 and the Colab link to this very file."""
    url, branch = repoint.setting(page.root)
    link = repoint.colab_url(url, branch, page.name)
    if not page.nb.cells or page.nb.cells[0].cell_type != "markdown":
        return [f"{page.name}: the first cell must be Markdown: '# Title' and the Colab link"]
    faults = []
    source = page.nb.cells[0].source
    if not source.startswith("# "):
        faults.append(f"{page.at(0)}: must start with the title, '# …'")
    if f"({link})" not in source:
        faults.append(
            f"{page.at(0)}: the Colab link is missing or wrong; write [Open in Colab]({link})"
        )
    return faults


SECTIONS = ("What you will be able to do", "Quiz", "Take-aways", "References")


def _slug(text):
    return re.sub(r"[^a-z]+", " ", text.lower().replace("take-away", "takeaway")).strip()


def headings(page):
    """One H1, no skipped level, and the sections that every chapter has, in their order."""
    faults, level = [], 0
    for index, now, text in page.headings:
        if now == 1 and level:
            faults.append(f"{page.at(index)}: a second H1 ({text!r}); use ## or deeper")
        elif now > level + 1:
            faults.append(f"{page.at(index)}: {text!r} skips from H{level} to H{now}")
        level = now
    found = [_slug(text) for _, now, text in page.headings if now == 2]
    for wanted in SECTIONS:
        if _slug(wanted) not in found:
            faults.append(f"{page.name}: the section '## {wanted}' is missing; add it")
    order = [s for s in found if s in map(_slug, SECTIONS)]
    if sorted(order, key=[_slug(s) for s in SECTIONS].index) != order:
        faults.append(f"{page.name}: the order of sections should be {', '.join(SECTIONS)}")
    return faults


# ---------------------------------------------------------------- code cells


def setup(page):
    """The first code cell is the setup cell, to the letter; imports stand in the second only."""
    url, branch = repoint.setting(page.root)
    if len(page.code) < 2:
        return [f"{page.name}: the setup cell and the import cell are missing"]
    faults = []
    (first, cell, _), (second, _, _) = page.code[:2]
    if cell.source != repoint.setup_source(url, branch):
        faults.append(
            f"{page.at(first)}: the first code cell must be the setup cell exactly (`make repoint` "
            f"mends the URL):\n{repoint.setup_source(url, branch)}"
        )
    if tags(cell) != ["setup", "hide-input"]:
        faults.append(f'{page.at(first)}: the setup cell\'s tags must be ["setup", "hide-input"]')
    for index, _, tree in page.code[1:]:
        if tree is None:
            faults.append(f"{page.at(index)}: this is not Python; mend the syntax")
            continue
        imports = [n for n in ast.walk(tree) if isinstance(n, ast.Import | ast.ImportFrom)]
        if imports and index != second:
            faults.append(
                f"{page.at(index)}: `{ast.unparse(imports[0])}` belongs into the import cell, the "
                "second code cell"
            )
        if index == second and not imports:
            faults.append(
                f"{page.at(index)}: the second code cell must be the one with the imports"
            )
    return faults


KNOWN_TAGS = {
    "setup", "hide-input", "hide-output", "hide-cell", "remove-input", "remove-output", "gpu",
    "skip-execution", "raises-exception",
}  # fmt: skip


def tag_form(page):
    """GPU cells carry both their tags; nothing switches a check off."""
    faults = []
    for index, cell, _ in page.code:
        both = {"gpu", "skip-execution"}
        if both & set(tags(cell)) and not both <= set(tags(cell)):
            faults.append(f'{page.at(index)}: a GPU cell has the tags ["gpu", "skip-execution"]')
        if unknown := set(tags(cell)) - KNOWN_TAGS:
            faults.append(f"{page.at(index)}: no such tag here: {', '.join(sorted(unknown))}")
        if found := re.search(r"#\s*((?:NBVAL|PYTEST_VALIDATE)_\w+)", cell.source):
            faults.append(f"{page.at(index)}: {found.group(1)} switches a check off; take it out")
    return faults


def _prints(tree):
    """Whether the cell surely leaves an output: a print outside functions and branches."""
    for node in tree.body:
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Call):
            function = node.value.func
            if isinstance(function, ast.Name) and function.id in ("print", "display"):
                return True
    return False


def outputs(page):
    """Committed executed: outputs are there, and none is an error that was not announced."""
    faults = []
    for index, cell, tree in page.code:
        errors = [o for o in cell.outputs if o.output_type == "error"]
        announced = "raises-exception" in tags(cell)
        if errors and not announced:
            faults.append(
                f"{page.at(index)}: stores the error {errors[0].ename}; mend the code and run "
                "`make notebooks`, or tag the cell raises-exception if the error is the lesson"
            )
        if announced and not errors:
            faults.append(f"{page.at(index)}: is tagged raises-exception and stores no error")
        if "gpu" not in tags(cell) and tree and _prints(tree) and not cell.outputs:
            faults.append(
                f"{page.at(index)}: prints, and no output is stored; run `make notebooks`"
            )
        for output in cell.outputs:
            data = output.get("data", {})
            text = data.get("text/plain", "")
            if set(data) == {"text/plain"} and re.match(r"\w+\((?:.*, )?(?:children|value)=", text):
                faults.append(
                    f"{page.at(index)}: a widget with no still picture ({text[:40]}…) is dead in "
                    "the built page; show it through reparam.live"
                )
    return faults


# ---------------------------------------------------------------- pictures

ALT_LENGTH = 40


def _is_picture(output):
    return bool({"image/png", "image/jpeg", "image/svg+xml"} & set(output.get("data", {})))


def image_alts(html):
    """The alt texts of the <img> elements of an output; "" where there is none."""
    found, parser = [], HTMLParser()
    parser.handle_starttag = lambda tag, attributes: (
        found.append(dict(attributes).get("alt") or "") if tag == "img" else None
    )
    parser.feed(html)
    return found


def pictures(page):
    """Every picture has alt text that says what it shows, a caption, a name of its own."""
    faults = []
    for index, cell, tree in page.code:
        for output in cell.outputs:
            for alt in image_alts(output.get("data", {}).get("text/html", "")):
                if len(alt) < ALT_LENGTH:
                    faults.append(f"{page.at(index)}: an <img> in its output lacks real alt text")
        drawn = [o for o in cell.outputs if _is_picture(o)]
        if not drawn:
            continue
        if len(drawn) > 1:
            faults.append(
                f"{page.at(index)}: draws {len(drawn)} pictures, and alt text and caption are the "
                "cell's; one picture a cell"
            )
        meta = cell.metadata.get("mystnb", {})
        alt = meta.get("image", {}).get("alt", "").strip()
        caption = meta.get("figure", {}).get("caption", "").strip()
        name = meta.get("figure", {}).get("name", "")
        where = 'the cell\'s metadata, "mystnb": {"image": {"alt": …}, "figure": {…}}'
        if not alt:
            faults.append(f"{page.at(index)}: the picture has no alt text; write it into {where}")
        elif re.search(r"\.(png|jpe?g|svg)$|^\S+$", alt) or len(alt) < ALT_LENGTH:
            faults.append(
                f"{page.at(index)}: the alt text {alt!r} does not say what the picture shows; "
                f"write at least {ALT_LENGTH} characters: what is drawn, and what one sees in it"
            )
        elif alt == caption:
            faults.append(
                f"{page.at(index)}: alt text and caption are the same; alt text describes"
            )
        if not caption:
            faults.append(f"{page.at(index)}: the picture has no caption; write it into {where}")
        if not re.fullmatch(r"fig-[a-z0-9]+(-[a-z0-9]+)*", name):
            faults.append(f'{page.at(index)}: the figure\'s name must look like "fig-frozen-noise"')
        matplotlib = any("<Figure" in o.data.get("text/plain", "") for o in drawn)
        if matplotlib and tree and ast.unparse(tree).splitlines()[-1].strip() != "plt.show()":
            faults.append(f"{page.at(index)}: a plotting cell ends with plt.show()")
    return faults


def figure_names(pages):
    """Names of figures are unique in the whole book."""
    places = {}
    for page in pages:
        for index, cell, _ in page.code:
            if name := cell.metadata.get("mystnb", {}).get("figure", {}).get("name"):
                places.setdefault(name, []).append(page.at(index))
    return [
        f"the figure name {name!r} is used twice: {'; '.join(where)}"
        for name, where in places.items()
        if len(where) > 1
    ]


# ---------------------------------------------------------------- minutes

WORDS_A_MINUTE = 225
SECONDS = {"figure": 12, "equation": 12, "line of code": 3}
SLACK = 0.35


def reading_minutes(page):
    """225 words a minute; 12 s for a figure, a displayed equation or an interactive output; 3 s for
    a line of code that is shown. References are not read, and folds are."""
    words = figures = equations = lines = 0
    references = False
    for index, cell in enumerate(page.nb.cells):
        if any(i == index and level == 2 for i, level, _ in page.headings):
            references = any(
                i == index and _slug(text) == "references" for i, _, text in page.headings
            )
        if references:
            continue
        if cell.cell_type == "markdown":
            tokens = MARKDOWN.parse(cell.source)
            equations += sum(t.type.startswith("math_block") for t in inline(tokens))
            words += len(re.findall(r"\w[\w’'-]*", _prose(tokens)))
        elif cell.cell_type == "code":
            figures += sum(_is_picture(o) or "text/html" in o.get("data", {}) for o in cell.outputs)
            if not {"hide-input", "remove-input", "hide-cell"} & set(tags(cell)):
                lines += sum(bool(line.strip()) for line in cell.source.splitlines())
    seconds = figures * SECONDS["figure"] + equations * SECONDS["equation"]
    return words / WORDS_A_MINUTE + (seconds + lines * SECONDS["line of code"]) / 60


def minutes(page):
    """The head says minutes to read and to run, and both are true."""
    head = "\n".join(cell.source for index, cell, _ in page.markdown if index < 8)
    read = re.search(r"(\d+)\s+minutes?\s+to\s+read", head)
    run = re.search(r"(\d+|one)\s+minutes?\s+to\s+run|(\d+)\s+seconds?\s+to\s+run", head)
    if not read or not run:
        return [
            f"{page.name}: its head does not say how long it takes; write '25 minutes to read, 1 "
            "minute to run on two CPU cores'"
        ]
    faults = []
    said, estimate = int(read.group(1)), reading_minutes(page)
    if abs(said - estimate) > max(1, SLACK * estimate):
        faults.append(
            f"{page.name}: says {said} minutes to read, and its words, figures and code come to "
            f"{estimate:.0f}; write about that"
        )
    status_file = page.root / notebooks.STATUS_DATA
    status = json.loads(status_file.read_text()) if status_file.exists() else {}
    if page.name not in status:
        faults.append(f"{page.name}: not in {notebooks.STATUS_PAGE}; run `make notebooks`")
        return faults
    seconds = status[page.name]["seconds"]
    said = int(run.group(2)) / 60 if run.group(2) else 1 if run.group(1) == "one" else int(run[1])
    if not seconds / 60 / 1.5 <= said <= max(1, 2.5 * seconds / 60):
        faults.append(
            f"{page.name}: says {run.group(0)!r}, and the run-status page has {seconds:.0f} s; "
            "write what that run took, rounded up to minutes"
        )
    return faults


# ---------------------------------------------------------------- numbers in the prose

SMALL = 12  # integers up to here are counts and exponents of the language, not measurements
SUMMARIES = {_slug(s) for s in ("What you need first", *SECTIONS)}
_DIGITS = r"\d{1,3}(?:,\d{3})+|\d+"
_NUMBER = re.compile(
    r"(?<![A-Za-z0-9_.])(?<!\^)(?<!\^\{)(?<!\^\{-)(?<!_)(?<!_\{)"
    rf"(?P<sign>-?)(?P<whole>{_DIGITS})(?P<fraction>\.\d+)?"
    r"(?:[eE](?P<e>[-+]?\d+))?(?:\s*×\s*10\^\{?(?P<times>-?\d+)\}?)?(?:\^\{?(?P<power>-?\d+)\}?)?"
    r"(?P<percent>\s*(?:%|percent\b))?(?!\.?\d)(?!(?:st|nd|rd|th|[Dd])\b)"
)
_SUPERSCRIPTS = str.maketrans("⁰¹²³⁴⁵⁶⁷⁸⁹⁻", "0123456789-")


@dataclass(frozen=True)
class Number:
    """A number as written: its value, and how far another may be and still round to it."""

    text: str
    value: float
    tolerance: float
    percent: bool = False
    decimal: bool = False
    year: bool = False
    power: bool = False

    def matches(self, candidate):
        for scale in (1, 100) if self.percent else (1,):
            value = candidate * scale
            if self.value >= 0:
                value = abs(value)  # "falls by 0.3" for a change of -0.3
            if abs(value - self.value) <= self.tolerance * (1 + 1e-9) + 1e-12 * abs(self.value):
                return True
        return False


def plain(text):
    """One spelling for what Unicode, TeX and typography spell in many."""
    text = text.replace("−", "-").replace("\\%", "%").replace("{,}", ",")
    text = re.sub(r"\\(?:times|cdot)\b", "×", text)
    text = re.sub(r"(?<=\d)(?:\\[,;:! ]|[\u2009\u202f])(?=\d{3}(?!\d))", ",", text)
    text = re.sub(r"\\[,;:!]", " ", text)
    return re.sub(
        r"(?<=[\w)])([⁻]?[⁰¹²³⁴⁵⁶⁷⁸⁹]+)", lambda m: "^{" + m[1].translate(_SUPERSCRIPTS) + "}", text
    )


def numbers(text):
    """Every number of a text. A minus counts as a sign where no operand stands before it."""
    text, found = plain(text), []
    for match in _NUMBER.finditer(text):
        sign = match["sign"]
        if sign:
            before = text[: match.start()].rstrip(" ")
            spaced = match.start() > len(before)
            if before and (before[-1].isalnum() or before[-1] in ")]}'") and not spaced:
                sign = ""
        whole, fraction = match["whole"].replace(",", ""), match["fraction"] or ""
        value = float(f"{sign}{whole}{fraction}")
        unit = 10.0 ** -(len(fraction) - 1) if fraction else 1.0
        exponent = int(match["e"] or 0) + int(match["times"] or 0)
        power = bool(match["power"])
        if power and whole == "10" and not fraction:
            value, unit = math.copysign(10.0 ** int(match["power"]), value), 0.0
        elif power:
            unit = 0.0
        found.append(
            Number(
                text=match.group(0).strip().removeprefix("" if sign else "-"),
                value=value * 10.0**exponent,
                tolerance=0.5 * unit * 10.0**exponent,
                percent=bool(match["percent"]),
                decimal=bool(fraction),
                year=not fraction
                and not exponent
                and "," not in match["whole"]
                and not power
                and 1900 <= value <= 2035,
                power=power,
            )
        )
    return found


def is_claim(number):
    """Whether the prose claims something with it: decimals, powers of ten, integers above 12."""
    if number.year:
        return False
    if number.power:
        return number.text.lstrip("-").startswith("10^")
    return number.decimal or abs(number.value) > SMALL or number.tolerance not in (0.5, 0.0)


def _prose(tokens):
    """What a reader reads of a cell, math included; code, addresses, tags and fold labels not."""
    parts = []
    for n, token in enumerate(tokens):
        if token.type == "inline":
            text = _prose(token.children)
            if tokens[n - 1].type == "heading_open":
                text = re.sub(r"^\s*\d+(\.\d+)*\.?\s+", "", text)
            parts.append(text + "\n")
        elif token.type in ("text", "math_inline", "math_inline_double"):
            content = token.content
            if token.type != "text":
                content = re.sub(r"\\tag\*?\{[^}]*\}", "", content)
            parts.append(content)
        elif token.type.startswith("math_block"):
            parts.append(re.sub(r"\\tag\*?\{[^}]*\}", "", token.content) + "\n")
        elif token.type == "code_inline":
            parts.append(" ` ")
        elif token.type in ("softbreak", "hardbreak"):
            parts.append(" ")
        elif token.type == "html_block":
            parts.append(
                re.sub(r"(?s)<summary.*?</summary>|<!--.*?-->|<[^>]+>", " ", token.content)
            )
    return "".join(parts)


def _constants(tree):
    """Numbers in code, with what arithmetic of constants alone gives (10**5, 1 / 3, -2)."""

    def value(node):
        if isinstance(node, ast.Constant) and type(node.value) in (int, float):
            return node.value
        if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
            inner = value(node.operand)
            return None if inner is None else -inner
        if isinstance(node, ast.BinOp):
            left, right = value(node.left), value(node.right)
            if left is None or right is None:
                return None
            operations = {
                ast.Add: lambda: left + right,
                ast.Sub: lambda: left - right,
                ast.Mult: lambda: left * right,
                ast.Div: lambda: left / right,
                ast.Pow: lambda: left**right if abs(right) <= 64 and abs(left) <= 1e6 else None,
            }
            try:
                return operations.get(type(node.op), lambda: None)()
            except (ArithmeticError, ValueError):
                return None
        return None

    return [float(v) for node in ast.walk(tree) if type(v := value(node)) in (int, float)]


def _output_text(output):
    """What an output says in words: no scripts, drawings, pictures."""
    texts = [output.get("text", ""), output.get("evalue", "")]
    data = output.get("data", {})
    texts += [re.sub(r"<Figure size.*?>", "", data.get("text/plain", ""))]
    html = re.sub(r"(?is)<(script|style|svg)\b.*?</\1>", " ", data.get("text/html", ""))
    texts += [
        re.sub(r"<[^>]+>", " ", html),
        data.get("text/latex", ""),
        data.get("text/markdown", ""),
    ]
    return "\n".join(texts)


def _sections(page):
    """For each cell the numbers of the `##` sections in which it starts and ends."""
    section, spans = 0, []
    for index, _cell in enumerate(page.nb.cells):
        start = section
        section += sum(i == index and level == 2 for i, level, _ in page.headings)
        spans.append((start, section))
    return spans


# Numbers that are names ("Figure 2.1", "quiz item 1.3"), and minutes, which have their own rule.
_LABELLED = re.compile(
    r"\b(?:chapter|section|figure|table|equation|theorem|definition|item|question)s?\s+\d+(?:\.\d+)*"
    r"|\b\d+\s+(?:minutes?|seconds?)\s+to\s+(?:read|run)",
    re.IGNORECASE,
)


@dataclass
class Claim:
    """A number in the prose, where it stands, and what may back it."""

    index: int
    number: Number
    pool: list
    given: set

    def holds(self, number=None):
        number = number or self.number
        return _key(number.text) in self.given or any(number.matches(c) for c in self.pool)


def _key(text):
    return plain(text).replace(",", "").replace(" ", "").rstrip("%").removesuffix("percent")


def claims(page):
    """Every checked number of the page's prose, captions and alt texts."""
    spans, pools = _sections(page), {}
    for index, cell, tree in page.code:
        pool = pools.setdefault(spans[index][1], [])
        pool += _constants(tree) if tree else []
        for output in cell.outputs:
            for number in numbers(_output_text(output)):
                pool += [number.value, number.value / 100] if number.percent else [number.value]
    everything = [value for pool in pools.values() for value in pool]
    names = [_slug(text) for _, level, text in page.headings if level == 2]

    def pool_of(section):
        name = names[section - 1] if section else ""
        return everything if not section or name in SUMMARIES else pools.get(section, [])

    equations = {  # of every chapter: "(1.3)" may be cited from chapter 2
        tag
        for path in notebooks.notebook_paths(page.root)
        for tag in re.findall(r"\\tag\*?\{([\d.]+)\}", path.read_text(encoding="utf-8"))
    }
    found = []
    for index, cell in enumerate(page.nb.cells):
        given = {_key(text) for text in cell.metadata.get("reparam", {}).get("given", [])}
        if cell.cell_type == "markdown":
            tokens, section, pieces, part = MARKDOWN.parse(cell.source), spans[index][0], [], []
            for token in tokens:
                if token.type == "heading_open" and token.tag == "h2":
                    pieces.append((section, part))
                    section, part = section + 1, []
                part.append(token)
            pieces.append((section, part))
        elif cell.cell_type == "code":
            meta = cell.metadata.get("mystnb", {})
            texts = [
                meta.get("image", {}).get("alt", ""),
                meta.get("figure", {}).get("caption", ""),
            ]
            pieces = [(spans[index][1], MARKDOWN.parse(text)) for text in texts]
        else:
            continue
        for section, part in pieces:
            if section and names[section - 1] == "references":
                continue  # volumes and pages are not measurements
            text = _LABELLED.sub(" ", _prose(part))
            text = re.sub(r"\((\d+\.\d+)\)", lambda m: "" if m[1] in equations else m[0], text)
            for number in numbers(text):
                if is_claim(number):
                    found.append(Claim(index, number, pool_of(section), given))
    return found


def prose_numbers(page):
    """A number in the prose is a number that a cell of its section printed or was given.

    Checked are decimals, powers of ten and integers above 12, in text, math, captions and alt text;
    not code spans, addresses, years, references, nor numbers that name a heading, an equation that
    is there, a figure or a quiz item. "Printed" means
    equal after rounding to the digits that the prose shows.
    """
    faults, used = [], Counter()
    for claim in claims(page):
        if _key(claim.number.text) in claim.given:
            used[claim.index, _key(claim.number.text)] += 1
        elif not claim.holds():
            near = min(claim.pool, key=lambda c: abs(c - claim.number.value), default=None)
            hint = f" (the nearest there is {near:.6g})" if near is not None else ""
            faults.append(
                f"{page.at(claim.index)}: the prose says {claim.number.text}, and no output or "
                f"code of its section does{hint}; mend the number, print it there, or list it in "
                f'the cell\'s metadata as given, not measured: "reparam": {{"given": '
                f'["{claim.number.text}"]}}'
            )
    for index, cell in enumerate(page.nb.cells):
        for text in cell.metadata.get("reparam", {}).get("given", []):
            if not used[index, _key(text)]:
                faults.append(
                    f'{page.at(index)}: "given" lists {text!r}, which its prose does not say; take '
                    "it out"
                )
    return faults


def _nudged(number, step):
    """The same number with the last digit of its mantissa moved."""
    last = re.match(r"-?[\d,]+(?:\.\d+)?", number.text).end() - 1
    moved = str((int(number.text[last]) + step) % 10)
    return numbers(number.text[:last] + moved + number.text[last + 1 :])[0]


def power(page):
    """(caught, tried): how many wrong last digits in the prose's numbers the rule notices.

    A number said several times in a cell counts once. One that is listed as given and said once is
    noticed always: its entry is then left over.
    """
    caught = tried = 0
    found = [claim for claim in claims(page) if not claim.number.power]
    said = Counter((claim.index, claim.number.text) for claim in found)
    for claim in {(claim.index, claim.number.text): claim for claim in found}.values():
        once = said[claim.index, claim.number.text] == 1
        left_over = once and _key(claim.number.text) in claim.given
        for step in (1, 9):
            tried += 1
            caught += left_over or not claim.holds(_nudged(claim.number, step))
    return caught, tried


# ---------------------------------------------------------------- long runs


def long_runs(folder):
    """Committed results are what their script, as it stands, wrote."""
    faults = []
    for data_file in sorted(Path(folder).glob("*.json")):
        record = json.loads(data_file.read_text(encoding="utf-8"))
        script = data_file.with_suffix(".py")
        again = f"run `python -m reparam.long_runs.{data_file.stem}` and commit both"
        if not script.is_file():
            faults.append(f"{data_file}: its script {script.name} is missing")
            continue
        code = script.read_bytes().replace(b"\r\n", b"\n")
        if sha256(code) != record.get("script_sha256"):
            faults.append(f"{script}: changed since it wrote {data_file.name}; {again}")
        if data_sha256(record.get("data")) != record.get("data_sha256"):
            faults.append(f"{data_file}: its data do not match their checksum; {again}")
        for key in ("seeds", "versions"):
            if not record.get(key):
                faults.append(f"{data_file}: does not say its {key}; {again}")
    return faults


def data_sha256(data):
    """The checksum of a long run's data: sorted keys, no spaces."""
    text = json.dumps(data, sort_keys=True, separators=(",", ":"))
    return sha256(text.encode())


def sha256(content):
    return hashlib.sha256(content).hexdigest()


PAGE_RULES = (
    form, commonmark, links, title, headings, setup, tag_form, outputs, pictures, minutes,
    prose_numbers,
)  # fmt: skip
#: An exercise sheet has no sections of a chapter; its numbers are given, and its minutes are the
#: exercises' own.
SHEET_RULES = (form, commonmark, links, title, setup, tag_form, outputs, pictures)
