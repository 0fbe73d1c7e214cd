"""Each page loads whole: from here alone, without an error, small, and with its math set."""

import pytest

from .conftest import CHAPTERS, EVERY_PAGE, HTML, PAGES, look_at

MEGABYTE = 1_000_000


@pytest.mark.parametrize("page", PAGES)
def test_every_page_of_the_toc_came_out(page):
    assert (HTML / f"{page}.html").is_file(), (
        f"{page} stands in _toc.yml, and _build/html/{page}.html is missing; "
        "is the file there, under that name? Then: make clean book"
    )


def no_fault(page, name):
    assert page.elsewhere == [], (
        f"{name} asks another host; keep a copy in _static/, or make it a link: {page.elsewhere}"
    )
    assert page.problems == [], f"{name}: errors in the browser's console: {page.problems}"


@look_at(EVERY_PAGE)
def test_page_needs_no_other_host_and_shows_no_error(page):
    no_fault(page, page.name)


@pytest.mark.parametrize("name", EVERY_PAGE)
def test_page_opened_as_a_file_needs_no_server(visit, name):
    no_fault(visit(name, by_file=True), name)


@look_at(PAGES)
def test_math_is_set(page):
    raw = page.evaluate(
        """() => [...document.querySelectorAll('.bd-article .math')]
            .filter(e => !e.querySelector('mjx-container')).map(e => e.textContent)"""
    )
    errors = page.evaluate(
        """() => [...document.querySelectorAll('mjx-merror, mjx-container [data-mml-node=merror]')]
            .map(e => e.getAttribute('title') || e.textContent)"""
    )
    assert raw == [], f"{page.name}: math left as TeX: {raw[:3]}"
    assert errors == [], f"{page.name}: MathJax could not set: {errors[:3]}"
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
    assert left == [], f"{page.name}: dollar signs that were not read as math: {left[:3]}"


@look_at(CHAPTERS)
def test_first_visit_is_small(page):
    total = sum(page.loaded.values())
    heaviest = sorted(page.loaded.items(), key=lambda item: -item[1])[:5]
    print(f"{page.name}: {total / MEGABYTE:.2f} MB in {len(page.loaded)} files")
    assert total < 3 * MEGABYTE, (
        f"{page.name}: a first visit loads {total / MEGABYTE:.2f} MB, and 3 MB is the limit. "
        f"The heaviest: {heaviest}"
    )


def test_the_front_door_leads_in(visit, site):
    page = visit(PAGES[-1])
    page.goto(f"{site}/index.html")
    page.wait_for_url(f"**/{PAGES[0]}.html")
    assert page.locator(".bd-article h1").first.is_visible()
