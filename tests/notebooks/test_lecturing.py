"""The lecturer's page: its snippets run, its plans add up, its figures are where it says."""

import doctest
import re

import pytest

from reparam import explorers
from tools import notebooks, repoint

PAGE = (notebooks.ROOT / "book" / "lecturing.md").read_text(encoding="utf-8")
PARTS = re.split(r"(?m)^## Chapter ", PAGE)[1:]
SNIPPETS = re.findall(r"(?s)```pycon\n(.*?)```", PAGE)
CHAPTERS = [path for path in notebooks.notebook_paths() if path.parent.name == "book"]
BOOK = repoint.file_url(*repoint.setting(), "book/")
SOURCES = {path.name for path in (notebooks.ROOT / "lib/reparam/explorers").glob("*.js")}
#: (notebook, explorer, its state) of every link to a figure.
LINKS = re.findall(rf"{re.escape(BOOK)}([\w.-]+)#([\w-]+):([^)]*)\)", PAGE)


def test_every_chapter_has_its_part():
    assert [part[0] for part in PARTS] == [path.name[0] for path in CHAPTERS]
    for path, part in zip(CHAPTERS, PARTS, strict=True):
        assert f"({BOOK}{path.name})" in part
        assert f"```{{vote}} {path.name[0]}\n" in part


@pytest.mark.parametrize("part", PARTS, ids=lambda part: part[0])
def test_the_minutes_of_a_plan_add_up(part):
    total = int(re.search(r"A plan for (\d+) minutes", part)[1])
    assert sum(map(int, re.findall(r"(?m)^\| (\d+) \|", part))) == total


@pytest.mark.parametrize("part", PARTS, ids=lambda part: part[0])
def test_the_end_of_a_chapter_has_the_links_and_the_minutes_of_its_part(part):
    cells = notebooks.read(CHAPTERS[int(part[0]) - 1]).cells
    text = "\n".join(cell.source for cell in cells if cell.cell_type == "markdown")
    links = re.findall(r"`#([\w-]+:present[^`]*)`", text)
    assert links == re.findall(r"#([\w-]+:present[^)]*)\)", part)
    plan = re.search(r"\*\*Plan\*\* for (.+)", text)[1]
    minutes = re.findall(r"\d+", re.sub(r"\(\d\.\d+\)", "", plan))
    of_part = re.findall(r"(?m)A plan for (\d+)|^\| (\d+)", part)
    assert minutes == ["".join(one) for one in of_part]


@pytest.mark.parametrize("number", range(1, 1 + len(CHAPTERS)))
def test_a_snippet_runs_as_printed_and_fits_on_a_slide(number):
    examples = doctest.DocTestParser().get_examples(SNIPPETS[number])
    assert sum(example.source.count("\n") for example in examples) <= 10
    test = doctest.DocTestParser().get_doctest(
        SNIPPETS[0] + SNIPPETS[number], {}, f"snippet {number}", "book/lecturing.md", 0
    )
    runner = doctest.DocTestRunner()
    runner.run(test)
    assert runner.summarize().failed == 0, "mend it in book/lecturing.md; above is what differs"


def test_every_explorer_is_linked_before_and_after_and_its_still_is_there():
    linked = sorted(name.replace("-", "_") for _, name, _ in LINKS)
    stills = re.findall(r"\(\.\./(lib/reparam/explorers/stills/(\w+)\.svg)\)", PAGE)
    names = sorted(name for path, name in stills if (notebooks.ROOT / path).is_file())
    assert linked == sorted(2 * names)
    made = {name for name in explorers.__all__ if f"{name}.js" in SOURCES}
    assert set(names) == made


@pytest.mark.parametrize(("notebook", "name", "state"), LINKS)
def test_a_link_leads_to_an_explorer_of_that_chapter_in_a_state_that_it_has(notebook, name, state):
    made = name.replace("-", "_")
    nb = notebooks.read(notebooks.ROOT / "book" / notebook)
    calls = "\n".join(cell.source for cell in nb.cells if cell.cell_type == "code")
    assert re.search(rf"\b{made}\(", calls), f"{notebook} shows no {made}"
    present, *settings = state.split("&")
    assert present == "present"
    known = getattr(explorers, made)().state
    assert {setting.partition("=")[0] for setting in settings} <= set(known)
