"""The pages came out, need no server, and have a front door."""

import pytest

from .conftest import EVERY_PAGE, HTML, PAGES, no_fault


@pytest.mark.parametrize("page", PAGES)
def test_every_page_of_the_toc_came_out(page):
    assert (HTML / f"{page}.html").is_file(), (
        f"{page} stands in _toc.yml, and _build/html/{page}.html is missing; "
        "is the file there, under that name? Then: make clean book"
    )


@pytest.mark.parametrize("name", EVERY_PAGE)
def test_page_opened_as_a_file_needs_no_server(visit, name):
    no_fault(visit(name, by_file=True), name)


def test_the_front_door_leads_in(visit, site):
    page = visit(PAGES[-1])
    page.goto(f"{site}/index.html")
    page.wait_for_url(f"**/{PAGES[0]}.html")
    assert page.locator(".bd-article h1").first.is_visible()
