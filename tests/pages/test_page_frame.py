"""The frame around each page: its buttons do what they say, and paper has none."""

import pytest

from .conftest import PAGES


def test_the_frame_s_buttons_do_what_they_say(visit):
    page = visit(PAGES[1], width=1280)
    modes = set()
    for _ in range(3):
        page.get_by_role("button", name="Color mode").click()
        modes.add(page.evaluate("document.documentElement.dataset.mode"))
    assert modes == {"light", "dark", "auto"}

    sidebar = page.locator("#pst-primary-sidebar")
    assert sidebar.is_visible()
    page.get_by_role("button", name="Chapters").click()
    page.wait_for_function(
        """() => {
            const style = getComputedStyle(document.querySelector("#pst-primary-sidebar"));
            return style.display === "none" || style.visibility === "hidden";
        }"""
    )

    page.keyboard.press("Control+k")
    assert page.locator("#pst-search-dialog").is_visible()
    page.keyboard.press("Escape")
    assert page.locator("#pst-search-dialog").is_hidden()

    phone = visit(PAGES[1], width=360)
    phone.get_by_role("button", name="On this page").click()
    assert phone.locator("#pst-secondary-sidebar-modal").is_visible()
    phone.keyboard.press("Escape")
    phone.get_by_role("button", name="Chapters").click()
    assert phone.locator("#pst-primary-sidebar-modal").is_visible()
    assert phone.locator("#pst-primary-sidebar-modal a", has_text="Reparam").first.is_visible()


def test_a_copy_button_copies_the_cell(visit):
    page = visit(PAGES[1])
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    cell = page.locator("div.cell:not(.tag_setup) div.highlight").first
    cell.hover()
    cell.locator("xpath=..").locator("button.copybtn").first.click()
    copied = page.evaluate("navigator.clipboard.readText()")
    assert copied.strip() == cell.locator("pre").inner_text().strip()


def test_paper_has_no_frame(visit):
    page = visit(PAGES[1], theme="dark")
    page.emulate_media(media="print")
    for part in (".bd-sidebar-primary", ".bd-header-article", ".prev-next-footer"):
        assert page.locator(part).first.is_hidden(), f"{part} would be printed"
    assert page.locator("h1").first.is_visible()


OPEN = """(folds) => [...document.querySelectorAll(folds)].map(
    (fold) => fold.offsetHeight > fold.querySelector("summary").offsetHeight + 10
)"""  # without what stands in a figure's shadow


@pytest.mark.parametrize(("name", "hints"), [("3-variance", 0), ("exercises/3-variance", 10)])
def test_on_paper_what_is_folded_stands_open_but_for_hints(visit, name, hints):
    page = visit(f"book/{name}")
    folded, hinted = "section > details:not(.hint)", "section > details.hint"
    assert not any(page.evaluate(OPEN, "section > details"))
    page.emulate_media(media="print")
    assert all(page.evaluate(OPEN, folded)) and bool(page.evaluate(OPEN, folded)) == (not hints)
    closed = page.evaluate(OPEN, hinted)
    assert len(closed) >= hints and not any(closed)


def test_a_formula_on_a_phone_starts_at_the_left_and_fades_where_it_goes_on(visit):
    wide = 'mjx-container[display="true"]'
    first = "(boxes) => boxes.findIndex((box) => box.scrollWidth > box.clientWidth + 20)"
    page = visit("book/1-the-gradient-blockage", width=375)
    box = page.locator(wide).nth(page.locator(wide).evaluate_all(first))
    left = box.evaluate("(e) => e.querySelector('mjx-mtd').getBoundingClientRect().left")
    assert left - box.bounding_box()["x"] < 2
    assert "goes-on" in box.get_attribute("class")
    assert "linear-gradient" in box.evaluate("(e) => getComputedStyle(e).maskImage")
    box.evaluate("(e) => { e.scrollLeft = e.scrollWidth; }")
    page.wait_for_function("(e) => !e.classList.contains('goes-on')", arg=box.element_handle())

    desk = visit("book/8-putting-it-together", width=1280)
    assert desk.locator(wide).count() >= 6
    assert desk.locator(wide).evaluate_all(first) == -1
    assert desk.locator(f"{wide}.goes-on").count() == 0
