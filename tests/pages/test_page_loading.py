"""Each page loads whole: from here alone, without an error, small, and with its math set."""

import pytest

from .conftest import CHAPTERS, EVERY_PAGE, HTML, PAGES

MEGABYTE = 1_000_000


@pytest.mark.parametrize("page", PAGES)
def test_every_page_of_the_toc_came_out(page):
    assert (HTML / f"{page}.html").is_file(), (
        f"{page} stands in _toc.yml, and _build/html/{page}.html is missing; "
        "is the file there, under that name? Then: make clean book"
    )


@pytest.mark.parametrize("by_file", [False, True], ids=["http", "file"])
@pytest.mark.parametrize("name", EVERY_PAGE)
def test_page_needs_no_other_host_and_shows_no_error(visit, name, by_file):
    page = visit(name, by_file=by_file)
    assert page.elsewhere == [], (
        f"{name} asks another host; keep a copy in _static/, or make it a link: {page.elsewhere}"
    )
    assert page.problems == [], f"{name}: errors in the browser's console: {page.problems}"


@pytest.mark.parametrize("name", PAGES)
def test_math_is_set(visit, name):
    page = visit(name)
    raw = page.evaluate(
        """() => [...document.querySelectorAll('.bd-article .math')]
            .filter(e => !e.querySelector('mjx-container')).map(e => e.textContent)"""
    )
    errors = page.evaluate(
        """() => [...document.querySelectorAll('mjx-merror, mjx-container [data-mml-node=merror]')]
            .map(e => e.getAttribute('title') || e.textContent)"""
    )
    assert raw == [], f"{name}: math left as TeX: {raw[:3]}"
    assert errors == [], f"{name}: MathJax could not set: {errors[:3]}"
    left = page.evaluate(
        r"""() => {
            const text = [];
            const walk = document.createTreeWalker(document.querySelector('.bd-article'), 4);
            for (let n; (n = walk.nextNode());) {
                if (n.parentElement.closest('pre, code, script, style, mjx-container')) continue;
                if (/\$[^$\n]*[\\_^][^$\n]*\$/.test(n.data)) text.push(n.data.trim());
            }
            return text;
        }"""
    )
    assert left == [], f"{name}: dollar signs that were not read as math: {left[:3]}"


@pytest.mark.parametrize("name", CHAPTERS)
def test_first_visit_is_small(visit, name):
    page = visit(name)
    total = sum(page.loaded.values())
    heaviest = sorted(page.loaded.items(), key=lambda item: -item[1])[:5]
    print(f"{name}: {total / MEGABYTE:.2f} MB in {len(page.loaded)} files")
    assert total < 3 * MEGABYTE, (
        f"{name}: a first visit loads {total / MEGABYTE:.2f} MB, and 3 MB is the limit. "
        f"The heaviest: {heaviest}"
    )


def test_the_front_door_leads_in(visit, site):
    page = visit(PAGES[-1])
    page.goto(f"{site}/index.html")
    page.wait_for_url(f"**/{PAGES[0]}.html")
    assert page.locator(".bd-article h1").first.is_visible()
