"""The glossary against the chapters: a term is defined in the chapter in which it first occurs.

What counts as an occurrence is the term in the Markdown of a chapter, singular or plural, before
its references; capitals matter where the term has some.
"""

import functools
import re

import pytest
import rules

from tools import notebooks

CHAPTERS = [path for path in notebooks.notebook_paths() if path.parent.name == "book"]
GLOSSARY = (notebooks.ROOT / "book" / "glossary.md").read_text(encoding="utf-8")
ENTRIES = re.findall(r"(?m)^\*\*.*$", GLOSSARY)


def names(entry):
    return re.findall(r"\*\*(.+?)\*\*", entry)


def name(entry):
    return names(entry)[0]


def home(entry):
    """The chapter that an entry names first; None if it names none."""
    found = re.search(r"\[Chapter (\d)\]", entry)
    return int(found[1]) if found else None


def order(entry):
    """Letters and digits of an entry's name, β as b."""
    return re.sub(r"[\W_]", "", name(entry).lower().replace("β", "beta"))


@functools.cache
def prose(number):
    """The Markdown of a chapter up to its references, without the marks of emphasis."""
    cells = notebooks.read(CHAPTERS[number - 1]).cells
    text = "\n".join(cell.source for cell in cells if cell.cell_type == "markdown")
    return text.partition("\n## References")[0].replace("*", "")


def occurs(term, text):
    words = re.escape(term).replace(r"\ ", r"[\s-]+")
    flags = 0 if re.search("[A-Z]", term) else re.IGNORECASE
    return re.search(rf"(?<![\w-]){words}(?:e?s)?(?!\w)", text, flags) is not None


@pytest.mark.parametrize("entry", ENTRIES, ids=name)
def test_an_entry_says_something_and_leads_somewhere(entry):
    text = re.sub(r"\[[^]]*\]\([^)]*\)|\*\*", "", entry)
    assert 30 < len(text) < 420, "one or two sentences"
    assert re.search(r"\]\(https://", entry), "an entry leads to what defines it"


def test_the_entries_are_sorted_and_stand_under_their_letters():
    assert sorted(ENTRIES, key=order) == ENTRIES
    for part in re.split(r"(?m)^## ", GLOSSARY)[1:]:
        letter = part[0].lower()
        assert {order(entry)[0] for entry in re.findall(r"(?m)^\*\*.*$", part)} == {letter}


def test_no_term_has_two_entries():
    every = [term for entry in ENTRIES for term in names(entry)]
    assert len(every) == len(set(every))


@pytest.mark.parametrize("entry", [e for e in ENTRIES if home(e)], ids=name)
def test_the_chapter_that_an_entry_names_has_the_term(entry):
    text = notebooks.read(CHAPTERS[home(entry) - 1])
    everything = "\n".join(cell.source for cell in text.cells).replace("*", "")
    assert any(occurs(term, everything) for term in names(entry))


@pytest.mark.parametrize("entry", ENTRIES, ids=name)
def test_no_chapter_uses_a_term_before_it_is_defined(entry):
    early = {
        (term, number)
        for term in names(entry)
        for number in range(1, home(entry) or len(CHAPTERS) + 1)
        if occurs(term, prose(number))
    }
    assert not early, (
        "define the term there, or write another word, or let the entry name that chapter"
    )


def test_a_use_before_the_definition_is_noticed():
    assert occurs("control variate", "It can be a *control variates* by luck.".replace("*", ""))
    assert occurs("variance × time", "the\nvariance × time of it")
    assert not occurs("law", "lawn") and not occurs("score", "underscore")
    assert not occurs("RELAX", "relax")


def bold(tokens):
    """What stands in bold in the course of a sentence.

    What opens a paragraph labels it, with or without a period at its end.
    """
    found = []
    for token in tokens:
        for n, child in enumerate(token.children or []):
            if child.type == "strong_open" and "".join(c.content for c in token.children[:n]):
                close = [c.type for c in token.children[n:]].index("strong_close")
                found.append("".join(c.content for c in token.children[n : n + close]))
    return [text for text in found if text[-1] not in ".?"]


TERMS = {term.lower() for entry in ENTRIES for term in names(entry)}


def has_an_entry(text):
    """Whether it is a term, in the plural perhaps, or opens the name of one: *hybrid* code."""
    text = text.lower()
    return any(term in (text, text.removesuffix("s")) for term in TERMS) or any(
        term.startswith(f"{text} ") for term in TERMS
    )


@pytest.mark.parametrize("path", CHAPTERS, ids=lambda path: path.name)
def test_what_a_chapter_sets_in_bold_in_a_sentence_has_an_entry(path):
    found = {text for *_, tokens in rules.Page(path).markdown for text in bold(tokens)}
    assert found, "no term is in bold"
    missing = sorted(text for text in found if not has_an_entry(text))
    assert not missing, "a term wants an entry in book/glossary.md; what is no term, italics"


def test_a_term_without_an_entry_is_noticed():
    text = "**Worked.** It is a **cost**, not a **score**. **Type.** This is **implicit**."
    shown = bold(rules.MARKDOWN.parse(text))
    assert shown == ["cost", "score", "implicit"]
    assert [has_an_entry(text) for text in shown] == [False, True, True]
