"""The bibliography has each work of the chapters once, and the start page the chapters' minutes."""

import importlib
import re

import pytest
from nbformat.v4 import new_markdown_cell, new_notebook

from tools import notebooks

CHAPTERS = [path for path in notebooks.notebook_paths() if path.parent.name == "book"]


@pytest.fixture
def extension(monkeypatch):
    monkeypatch.syspath_prepend(notebooks.ROOT / "tools")  # as _config.yml has it
    return importlib.import_module("book_bibliography")


def prose(path):
    cells = notebooks.read(path).cells
    return "\n\n".join(cell.source for cell in cells if cell.cell_type == "markdown")


def test_a_work_stands_once_with_the_chapters_that_cite_it(extension, tmp_path):
    lists = (
        "- B. Zed and A. Al, [One](https://a/1), 2001.\n- C. de Ypsilon, *A book*, 1999.",
        "- A. Alpha et al., [Two](https://a/2), 2002.\n- B. Zed, A. Al, [One](https://a/1).",
    )
    paths = [tmp_path / "1-a.ipynb", tmp_path / "2-b.ipynb"]
    for path, items in zip(paths, lists, strict=True):
        cells = [
            new_markdown_cell("## Before\n- no, [work](https://a/3)"),
            new_markdown_cell(f"## References\n\n{items}\n\n## After\n- no"),
        ]
        path.write_text(notebooks.dumps(new_notebook(cells=cells)))
    found = extension.works(paths)
    assert [line.split(",")[0] for line, _ in found] == [
        "A. Alpha et al.", "C. de Ypsilon", "B. Zed and A. Al"
    ]  # fmt: skip
    assert [citing for _, citing in found] == [[paths[1]], [paths[0]], paths]


def test_every_reference_of_the_book_is_in_it(extension):
    lines = {line for line, _ in extension.works(CHAPTERS)}
    addresses = {address for line in lines for address in re.findall(r"\]\(([^)]+)\)", line)}
    for path in CHAPTERS:
        (section,) = extension.SECTION.findall(prose(path))
        own = [line.removeprefix("- ") for line in section.splitlines() if line.startswith("- ")]
        assert len(own) >= 5
        for line in own:
            known_by = re.search(r"\]\(([^)]+)\)", line)
            assert known_by[1] in addresses if known_by else line in lines


@pytest.mark.parametrize("path", CHAPTERS, ids=lambda path: path.name[0])
def test_the_start_page_has_the_minutes_of_each_chapter(path):
    start = (notebooks.ROOT / "book" / "index.md").read_text(encoding="utf-8")
    (minutes,) = re.findall(rf"{re.escape(path.name)}\).*\| (\d+) \|", start)
    assert f"{minutes} minutes to read" in prose(path)
