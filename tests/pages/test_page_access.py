"""Each page is for everyone: axe finds nothing, pictures are described, no control is dead."""

import re

from .conftest import CHAPTERS, EVERY_PAGE, PAGES, look_at, open_folds, show, violations

COLOR_RULES = ["color-contrast", "link-in-text-block"]
SHEETS = [page for page in PAGES if page.startswith("book/exercises/")]


@look_at(EVERY_PAGE)
def test_axe_finds_nothing(page):
    """All rules; the colors of code and formulas, which all pages share, on one chapter."""
    show(page)
    open_folds(page)
    found = violations(page, tokens=page.name == CHAPTERS[0])
    assert found == [], f"{page.name}: " + "\n".join(found)


@look_at([page for page in EVERY_PAGE if page not in SHEETS[1:]])
def test_axe_finds_nothing_in_the_dark(page):
    """Only colors can differ there; those of one sheet of exercises are those of all."""
    show(page, theme="dark")
    open_folds(page)
    found = violations(page, COLOR_RULES, tokens=page.name == CHAPTERS[0])
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
