"""The notation page: a letter that two chapters, or the glossary, use stands on it."""

import re
from collections import Counter

import rules

from tools import notebooks

BOOK = notebooks.ROOT / "book"
CHAPTERS = [path for path in notebooks.notebook_paths() if path.parent == BOOK]
GREEK = re.compile(
    r"\\(?:var)?(?:alpha|beta|gamma|delta|epsilon|zeta|eta|theta|iota|kappa|lambda|mu|nu|xi|pi|rho"
    r"|sigma|tau|upsilon|phi|chi|psi|omega)",
    re.IGNORECASE,
)
#: What stands in these is a word, or the number of an equation.
WORDS = re.compile(r"\\(?:begin|end|mathrm|operatorname|tag|text)\*?\{[^}]*\}")


def letters(markdown):
    """The letters, Latin and Greek, in the math of a text."""
    tokens = rules.inline(rules.MARKDOWN.parse(markdown))
    math = " ".join(token.content for token in tokens if token.type.startswith("math"))
    found = re.findall(r"\\[A-Za-z]+|[A-Za-z]", WORDS.sub(" ", math))
    return {one for one in found if len(one) == 1 or GREEK.fullmatch(one)}


def of_chapter(path):
    """The letters of a chapter, without what its first table says of other people's."""
    cells = [cell.source for cell in notebooks.read(path).cells if cell.cell_type == "markdown"]
    found = set()
    for text in cells:
        if "\n| here | meaning |" in text:
            text = re.sub(r"(?m)^(\|[^|\n]*\|[^|\n]*\|).*", r"\1", text)
        found |= letters(text)
    return found


def page(name):
    return letters((BOOK / name).read_text(encoding="utf-8"))


def test_a_letter_that_two_chapters_use_stands_on_the_page():
    used = Counter(letter for path in CHAPTERS for letter in of_chapter(path))
    again = {letter for letter, chapters in used.items() if chapters > 1}
    assert len(again) > 40
    missing = sorted(again - page("notation.md"))
    assert not missing, "give it a row in book/notation.md, or write another letter"


def test_the_letters_of_the_glossary_are_those_of_the_page():
    missing = sorted(page("glossary.md") - page("notation.md"))
    assert not missing, "the glossary's first paragraph says so: add a row to book/notation.md"


def test_letters_are_told_from_words_and_commands():
    text = r"a $\hat g_\phi = \mathrm{Var}[f]$, `$x$`" + "\n\n$$\\frac1K\\sum_k \\tag{2.1}$$\n"
    assert letters(text) == {"g", r"\phi", "f", "K", "k"}
