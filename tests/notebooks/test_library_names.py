"""From a chapter to the reference: what the library derives from a chapter, that chapter names.

A name in code type leads to its entry in the built book (`tools/book_reference.py`).
"""

import inspect
import re

import pytest

from tests.lib.test_house import public_things
from tools import notebooks

CHAPTERS = {path.name[0]: path for path in notebooks.notebook_paths() if path.parent.name == "book"}


def derived():
    """(number of a chapter, module, public name whose docstring names that chapter as its own)."""
    for public in public_things():
        (thing,) = public.values
        said = " ".join((inspect.getdoc(thing) or "").split())
        for places in re.findall(r"De(?:rived|scribed) in chapters? ([\d, and]+)", said):
            for number in re.findall(r"\d+", places):
                yield number, *public.id.split(".")


@pytest.mark.parametrize("number", CHAPTERS)
def test_a_chapter_names_what_the_library_has_from_it(number):
    cells = notebooks.read(CHAPTERS[number]).cells
    text = "\n".join(cell.source for cell in cells if cell.cell_type == "markdown")
    code = {re.sub(r"\(.*\)$", "", part) for part in re.findall(r"`([^`\n]+)`", text)}
    names = [(module, name) for chapter, module, name in derived() if chapter == number]
    missing = [
        f"{module}.{name}" for module, name in names if not {name, f"{module}.{name}"} & code
    ]
    assert not missing, f"add to **In the library**, before the references: {', '.join(missing)}"
    assert text.index("**In the library**") < text.index("## References")


def test_there_are_many():
    assert len(list(derived())) > 50
