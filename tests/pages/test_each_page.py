"""Each page of the book, opened once: it loads whole, is for everyone, fits a phone, reads well.

All these tests share one file so that a page is loaded and its math set once for all of them. The
first ones want the page as it came; the later ones change its folds, theme and width.
"""

import io
import re
from urllib.parse import unquote, urlsplit

import numpy as np
import pytest
from PIL import Image

from tests.contrast import contrast

from .conftest import (
    CHAPTERS,
    COLOR_RULES,
    EVERY_PAGE,
    HTML,
    PAGES,
    look_at,
    no_fault,
    open_folds,
    show,
    violations,
)

MEGABYTE = 1_000_000
SHEETS = [page for page in PAGES if page.startswith("book/exercises/")]
DARK_PAGE = (0x12, 0x12, 0x12)


# As it comes: whole, from here alone, small, with its math set.


@look_at(EVERY_PAGE)
def test_page_needs_no_other_host_and_shows_no_error(page):
    no_fault(page, page.name)


@look_at(CHAPTERS)
def test_first_visit_is_small(page):
    paths = {unquote(urlsplit(address).path).lstrip("/") for address in page.loaded}
    sizes = {path: (HTML / path).stat().st_size for path in paths}
    assert f"{page.name}.html" in sizes, f"what {page.name} loads was not noted: {page.loaded}"
    total = sum(sizes.values())
    heaviest = sorted(sizes.items(), key=lambda item: -item[1])[:5]
    print(f"{page.name}: {total / MEGABYTE:.2f} MB in {len(sizes)} files")
    assert total < 3 * MEGABYTE, (
        f"{page.name}: a first visit loads {total / MEGABYTE:.2f} MB, and 3 MB is the limit. "
        f"The heaviest: {heaviest}"
    )


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


# For everyone: axe finds nothing, pictures are described, no control is dead.


@look_at(EVERY_PAGE)
def test_axe_finds_nothing(page):
    """All rules; the parts of formulas, which all pages share, on one chapter."""
    show(page)
    open_folds(page)
    found = violations(page, formulas=page.name == CHAPTERS[0])
    assert found == [], f"{page.name}: " + "\n".join(found)


@look_at(PAGES)
def test_pictures_are_described(page):
    pictures = page.eval_on_selector_all(
        ".bd-article img", "all => all.map(e => [e.getAttribute('alt'), e.getAttribute('src')])"
    )
    for alt, source in pictures:
        real = alt and " " in alt.strip() and not re.search(r"\.(png|svg|jpe?g)$|/", alt.strip())
        assert real, (
            f'{page.name}: the picture {source} has the alt text "{alt}"; say in words what it '
            'shows, in the cell\'s metadata: "mystnb": {"image": {"alt": "..."}}'
        )
    nameless = page.eval_on_selector_all(
        ".bd-article svg[role=img]",
        "all => all.filter(e => !e.getAttribute('aria-label') && "
        "!e.getAttribute('aria-labelledby') && !e.querySelector(':scope > title'))"
        ".map(e => e.outerHTML.slice(0, 120))",
    )
    assert nameless == [], f"{page.name}: drawings without a name: {nameless}"


@look_at(PAGES)
def test_no_control_is_dead(page):
    kernel = page.eval_on_selector_all(
        ".widget-view, .jupyter-widgets, .widget-slider, script[type*='jupyter.widget'], "
        "[data-mime-type*='jupyter.widget'], .thebe-launch-button, [class*='thebe']",
        "all => all.map(e => e.outerHTML.slice(0, 120))",
    )
    assert kernel == [], f"{page.name}: needs a kernel, and a built page has none: {kernel}"
    stray = page.eval_on_selector_all(
        ".bd-article :is(input, select, textarea, button)",
        """all => all.filter(e => {
            const outer = e.getRootNode().host ?? e; // an explorer may draw into a shadow root
            return !outer.closest('[data-embed]') && !e.matches('.copybtn');
        }).map(e => e.outerHTML.slice(0, 120))""",
    )
    assert stray == [], f"{page.name}: a control that no script of ours stands behind: {stray}"
    empty = page.eval_on_selector_all(
        "[data-embed]",
        "all => all.filter(e => !(e.shadowRoot ?? e).children.length).map(e => e.dataset.embed)",
    )
    assert empty == [], f"{page.name}: embedded outputs that drew nothing: {empty}"
    leaked = page.locator(".bd-article .output.stderr").all_inner_texts()
    assert leaked == [], f"{page.name}: a cell's error stream shows: {leaked}"


@look_at(PAGES)
def test_boxes_have_their_label_and_icon(page):
    boxes = page.eval_on_selector_all(
        "div.box",
        """all => all.map(e => {
            const label = e.querySelector(":scope > p.box-label");
            const icon = label && getComputedStyle(label, "::before").maskImage;
            return [label?.innerText.trim(), icon];
        })""",
    )
    for label, icon in boxes:
        assert label, f"{page.name}: a box without a label"
        assert "svg" in icon, (
            f'{page.name}: the box "{label}" has no icon; give its class one in book.css'
        )
    quoted = page.eval_on_selector_all(
        "blockquote > p:first-child > strong:first-child", "all => all.map(e => e.textContent)"
    )
    assert quoted == [], f"{page.name}: meant to be boxes, and shown as quotations: {quoted}"
    if page.name in CHAPTERS:
        assert boxes, f"{page.name} shows no box: does tools/book_setup.py still make them?"


# In the dark.


@look_at([page for page in EVERY_PAGE if page not in SHEETS[1:]])
def test_axe_finds_nothing_in_the_dark(page):
    """Only colors differ there; those of one sheet of exercises are those of all."""
    show(page, theme="dark")
    open_folds(page)
    found = violations(page, COLOR_RULES, formulas=page.name == CHAPTERS[0])
    assert found == [], f"{page.name}: " + "\n".join(found)


@look_at(PAGES)
def test_figures_are_legible_in_the_dark(page):
    open_folds(page)
    show(page, theme="dark")
    for picture in page.locator(".cell_output img").all():
        picture.scroll_into_view_if_needed()
        shot = Image.open(io.BytesIO(picture.screenshot())).convert("RGB")
        counted = shot.getcolors(shot.width * shot.height)
        paper = max(counted)[1]
        source = picture.get_attribute("src")
        assert max(abs(a - b) for a, b in zip(paper, DARK_PAGE, strict=True)) <= 8, (
            f"{page.name}: in dark mode {source} has the background {paper}, the page {DARK_PAGE}. "
            "Draw on opaque white; _static/book.css turns that dark"
        )
        # Axis labels are thin, so look at what stands out from the paper, not at the average.
        ink = contrast(np.array([c for _, c in counted]) / 255, np.array(paper) / 255).max()
        assert ink >= 7, f"{page.name}: in dark mode nothing in {source} stands out ({ink:.1f}:1)"


# On a phone.


@look_at(CHAPTERS)
def test_panels_and_wide_tables_scroll_on_a_phone(page):
    """In a box of their own, which the keyboard reaches; other pictures fit."""
    open_folds(page)
    show(page, width=375)
    page.wait_for_timeout(500)  # the theme waits for the end of the resizing
    for alt, width, scrolls, tab in page.eval_on_selector_all(
        ".cell_output figure > a > img",
        """all => all.map(e => {
            const box = e.parentElement;
            return [e.alt, e.getBoundingClientRect().width,
                    getComputedStyle(box).overflowX, box.tabIndex];
        })""",
    ):
        if "panels" in alt.lower():
            assert width >= 560 and scrolls == "auto" and tab == 0, f"{page.name}: {alt}"
        else:
            assert width <= 375, f"{page.name}: {alt}"
    for words, wide, scrolls, tab in page.eval_on_selector_all(
        ".bd-article table",
        """all => all.map(e => {
            const box = e.parentElement;
            return [e.textContent.trim().slice(0, 60), box.scrollWidth > box.clientWidth,
                    getComputedStyle(box).overflowX, box.tabIndex];
        })""",
    ):
        assert not wide or (scrolls == "auto" and tab == 0), f"{page.name}: the table {words}"


def test_there_are_panels_and_wide_tables(visit):
    """The test before this one would pass on pages without any."""
    page = visit("book/3-variance", width=375)
    assert page.locator(".cell_output figure > a > img[alt*=anels]").count() > 0
    wide = (
        "all => all.filter(e => e.parentElement.scrollWidth > e.parentElement.clientWidth).length"
    )
    assert page.eval_on_selector_all(".bd-article table", wide) > 0


@pytest.mark.parametrize("width", [320, 360])
@look_at(EVERY_PAGE)
def test_no_sideways_scroll(page, width):
    open_folds(page)
    show(page, width=width)
    wide = page.evaluate("document.documentElement.scrollWidth - window.innerWidth")
    culprits = wide > 0 and page.evaluate(
        """() => [...document.querySelectorAll('.bd-main *')].filter(e => {
            const box = e.getBoundingClientRect();
            if (box.right <= innerWidth + 1 || !box.width) return false;
            for (let up = e.parentElement; up; up = up.parentElement) {
                if (up.matches('main, body')) return true;
                if (getComputedStyle(up).overflowX !== 'visible') return false;
            }
        }).slice(0, 4).map(e => e.outerHTML.slice(0, 100))"""
    )
    assert wide <= 0, (
        f"{page.name} is {wide} px too wide for a {width} px screen. Let it wrap, or scroll inside "
        f"its own box (_static/book.css). Sticking out: {culprits}"
    )
