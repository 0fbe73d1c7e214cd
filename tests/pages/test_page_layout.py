"""Each page fits a phone and reads well in the dark."""

import io
from collections import Counter

import pytest
from PIL import Image

from .conftest import CHAPTERS, EVERY_PAGE, PAGES, look_at, open_folds, show

DARK_PAGE = (0x12, 0x12, 0x12)


@pytest.mark.parametrize("width", [320, 360])
@look_at(EVERY_PAGE)
def test_no_sideways_scroll(page, width):
    open_folds(page)
    show(page, width=width)
    wide = page.evaluate("document.documentElement.scrollWidth - window.innerWidth")
    culprits = page.evaluate(
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


@look_at(CHAPTERS)
def test_panels_and_wide_tables_scroll_on_a_phone(page):
    """In a box of their own, which the keyboard reaches; other pictures fit."""
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


def luminance(color):
    """Relative luminance of an sRGB color, as WCAG defines it."""
    linear = [
        c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in color_parts(color)
    ]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def color_parts(color):
    return [channel / 255 for channel in color[:3]]


def contrast(one, other):
    light, dark = sorted((luminance(one), luminance(other)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


@look_at(PAGES)
def test_figures_are_legible_in_the_dark(page):
    show(page, theme="dark")
    for picture in page.locator(".cell_output img").all():
        picture.scroll_into_view_if_needed()
        shot = Image.open(io.BytesIO(picture.screenshot())).convert("RGB")
        colors = Counter(shot.get_flattened_data())
        paper = colors.most_common(1)[0][0]
        source = picture.get_attribute("src")
        assert max(abs(a - b) for a, b in zip(paper, DARK_PAGE, strict=True)) <= 8, (
            f"{page.name}: in dark mode {source} has the background {paper}, the page {DARK_PAGE}. "
            "Draw on opaque white; _static/book.css turns that dark"
        )
        # Axis labels are thin, so look at what stands out from the paper, not at the average.
        ink = max(contrast(color, paper) for color in colors)
        assert ink >= 7, f"{page.name}: in dark mode nothing in {source} stands out ({ink:.1f}:1)"


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


def test_paper_has_no_frame(visit):
    page = visit(PAGES[1], theme="dark")
    page.emulate_media(media="print")
    for part in (".bd-sidebar-primary", ".bd-header-article", ".prev-next-footer"):
        assert page.locator(part).first.is_hidden(), f"{part} would be printed"
    assert page.locator("h1").first.is_visible()
