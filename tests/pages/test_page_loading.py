"""The pages came out, need no server, and have a front door."""

import pytest

from .conftest import CHAPTERS, EVERY_PAGE, HTML, PAGES, no_fault

FIRST = CHAPTERS[0], next(page for page in PAGES if page.startswith("book/exercises/"))


@pytest.mark.parametrize("page", PAGES)
def test_every_page_of_the_toc_came_out(page):
    assert (HTML / f"{page}.html").is_file(), (
        f"{page} stands in _toc.yml, and _build/html/{page}.html is missing; "
        "is the file there, under that name? Then: make clean book"
    )


@pytest.mark.parametrize("name", EVERY_PAGE)
def test_page_opened_as_a_file_needs_no_server(visit, name):
    """Formulas are set on the first page of each folder; the others load the same script."""
    math = name in FIRST
    page = visit(name, by_file=True, math=math)
    no_fault(page, name)
    assert not math or page.locator(".bd-article mjx-container").count() > 0


def test_the_front_door_leads_in(visit, site):
    page = visit(PAGES[-1])
    page.goto(f"{site}/index.html")
    page.wait_for_url(f"**/{PAGES[0]}.html")
    assert page.locator(".bd-article h1").first.is_visible()
