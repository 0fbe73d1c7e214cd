"""The explorer of the warped grid in a real browser: its story, by mouse, keyboard and touch."""

import pytest
from playwright.sync_api import expect

from reparam.explorers import warped_grid
from tests.pages.test_explorers import (  # noqa: F401
    GUESS,
    built,
    drag,
    files,
    handle,
    opened,
    status,
)

PULL = "w·u or β"


def hatched(page):
    """How many cells are hatched; the legend's swatch is none."""
    return page.locator("svg > g[aria-hidden] path.faint").evaluate_all(
        """all => all.filter((p) => p.style.fill.includes("hatch"))
            .reduce((sum, p) => sum + p.getAttribute("d").split("M").length - 1, 0)"""
    )


def test_pulling_u_back_folds_the_grid(opened):  # noqa: F811
    page = opened("warped_grid")
    drag(page, PULL, -120)
    assert float(handle(page, PULL).get_attribute("aria-valuenow")) == 1, "first the prediction"
    page.get_by_role("button", name=GUESS["warped_grid"]).click()
    expect(page.get_by_text("Drag the dot")).to_be_visible()
    assert page.get_by_role("button", name="radial", exact=True).count() == 0
    drag(page, PULL, -45)
    assert -1 < float(handle(page, PULL).get_attribute("aria-valuenow")) < 1
    assert hatched(page) == 0 and page.get_by_text("turned over").count() == 0
    expect(status(page)).to_contain_text("no fold.")
    expect(page.locator(".goal")).to_be_hidden()
    drag(page, PULL, -300)
    assert float(handle(page, PULL).get_attribute("aria-valuenow")) == -2.5
    folded = hatched(page)
    assert folded > 20
    expect(status(page)).to_contain_text(f"folded, {folded} of 144 cells have turned over.")
    expect(status(page)).to_contain_text("Its middle lands on 2 more points")
    expect(page.locator(".guess")).to_contain_text("below −1. Seen: below −1 cells turn over")
    expect(page.locator(".story")).to_contain_text(warped_grid().claim)
    expect(page.get_by_text("Not yet.")).to_be_visible()
    page.get_by_role("button", name="yes", exact=True).click()
    assert hatched(page) == 0, "constrained as in the library, it cannot fold"
    expect(status(page)).to_contain_text("w·u = −2.50, made −0.807: no fold.")
    expect(page.get_by_text("Not yet.")).to_be_visible()
    page.get_by_role("button", name="no", exact=True).click()
    more = page.get_by_role("button", name=f"{PULL}: more")
    for _ in range(30):
        more.click()
    assert hatched(page) == 0
    expect(page.locator(".goal")).to_contain_text("Reached. Half the area, twice the density.")
    expect(page.locator(".goal")).to_contain_text("near the line")


def test_the_radial_layer_folds_at_the_same_number(opened):  # noqa: F811
    page = opened("warped_grid", "#warped-grid:guess=never&seen=yes&pull=-1")
    page.get_by_role("button", name="radial", exact=True).click()
    expect(page.get_by_role("button", name="u across w: more")).to_be_hidden()
    expect(status(page)).to_contain_text("β = −1.00: no fold.")
    less = page.get_by_role("button", name=f"{PULL}: less")
    for _ in range(6):
        less.click()
    expect(status(page)).to_contain_text("β = −1.30: folded, 4 of 144")
    assert hatched(page) == 4


def test_across_w_shears_and_changes_no_density(opened):  # noqa: F811
    page = opened("warped_grid", "#warped-grid:guess=one&seen=yes&pull=-0.5")
    page.locator("summary").click()
    before = page.locator("table").inner_text()
    grid = page.locator("path.faint").first.get_attribute("d")
    more = page.get_by_role("button", name="u across w: more")
    for _ in range(5):
        more.click()
    assert page.locator("path.faint").first.get_attribute("d") != grid
    assert page.locator("table").inner_text() == before


def test_by_keyboard(opened):  # noqa: F811
    page = opened("warped_grid")
    page.get_by_role("button", name="Never").press("Enter")
    dot = handle(page, PULL)
    expect(dot).to_be_focused()
    for key, now in (("ArrowLeft", 0.95), ("PageDown", 0.7), ("End", 1.5), ("Home", -2.5)):
        page.keyboard.press(key)
        assert float(dot.get_attribute("aria-valuenow")) == pytest.approx(now)
    assert dot.get_attribute("aria-valuetext") == "w·u = −2.50"
    expect(page.locator(".guess")).to_contain_text("Seen: below −1 cells turn over")


def test_by_touch_and_single_taps_on_a_small_screen(opened):  # noqa: F811
    page = opened("warped_grid", viewport={"width": 320, "height": 780}, has_touch=True)
    page.get_by_role("button", name="Below −2").tap()
    less = page.get_by_role("button", name=f"{PULL}: less")
    for _ in range(43):
        less.tap()
    expect(page.locator(".guess")).to_contain_text("Seen: below −1 cells turn over")
    assert hatched(page) > 10
    page.get_by_role("button", name="Reset").tap()
    assert float(handle(page, PULL).get_attribute("aria-valuenow")) == 1
    expect(page.locator(".guess")).to_be_hidden()
