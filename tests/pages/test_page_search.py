"""Search finds the book's words, over HTTP and from a file."""

import pytest

from .conftest import CHAPTERS


@pytest.mark.parametrize("by_file", [False, True], ids=["http", "file"])
def test_search_finds_a_word_of_a_chapter(visit, by_file):
    page = visit(CHAPTERS[0], by_file=by_file)
    page.get_by_role("button", name="Search").first.click()
    page.get_by_role("searchbox").fill("gradient")
    page.keyboard.press("Enter")
    page.wait_for_selector("#search-results ul.search li a")
    page.wait_for_function("/finished|found/i.test(document.body.innerText)")
    found = page.eval_on_selector_all(
        "#search-results ul.search li a", "all => all.map(e => e.getAttribute('href'))"
    )
    name = CHAPTERS[0].rpartition("/")[2]
    assert any(name in link for link in found), f"'gradient' leads to {found}, not to {name}"
    assert page.problems == [], f"searching left errors in the console: {page.problems}"
    page.wait_for_load_state("networkidle")  # it fetches a summary from each page that it found
    page.locator("#search-results ul.search li a").first.click()
    page.wait_for_load_state("load")
    assert page.locator(".bd-article h1").first.is_visible()
    assert page.problems == []
