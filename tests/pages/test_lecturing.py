"""The links of the lecturer's page, in the built book: each opens its figure alone."""

import pytest
from playwright.sync_api import expect

from .conftest import HTML
from .test_page_links import read

PAGE = HTML / "book" / "lecturing.html"
LINKS = [link for link in read(PAGE).links if ":present" in link] if PAGE.exists() else []


def test_there_are_links():
    assert len(LINKS) >= 16, "run  make book"


@pytest.mark.parametrize("link", LINKS)
def test_a_link_opens_its_figure_alone_and_in_its_state(visit, link):
    page = visit("book/lecturing", math=False)
    page.locator(f'.bd-article a[href="{link}"]').click()
    expect(page.get_by_role("dialog")).to_be_visible(timeout=15_000)
    name, _, state = link.partition("#")[2].partition(":")
    shown = page.url.partition("#")[2]
    assert shown.startswith(f"{name}:")
    assert set(state.split("&")) <= set(shown.partition(":")[2].split("&"))
    assert page.problems == []
