"""The explorer of the simplex in a real browser: its story, by mouse, keyboard and touch."""

import pytest
from playwright.sync_api import expect

from reparam.explorers import simplex
from tests.pages.test_explorers import (  # noqa: F401
    GUESS,
    built,
    drag,
    files,
    handle,
    opened,
    status,
)


def labels(page):
    """How many marks of each class the triangle shows: disks, squares and triangles."""
    return page.locator("svg > g[aria-hidden] path").evaluate_all(
        """all => ["blue", "red", "green"].map((kind) => Math.max(...all
            .filter((p) => p.classList.contains(kind) && (p.style.strokeWidth || kind === "green"))
            .map((p) => p.getAttribute("d").split("M").length - 1)))"""
    )


def test_pulling_the_temperature_down_changes_no_label(opened):  # noqa: F811
    page = opened("simplex")
    assert labels(page) == [36, 18, 6]
    before = handle(page, "Temperature τ").get_attribute("aria-valuenow")
    drag(page, "Temperature τ", -200)
    assert handle(page, "Temperature τ").get_attribute("aria-valuenow") == before
    page.get_by_role("button", name=GUESS["simplex"]).click()
    expect(page.get_by_text("Pull τ to 0.1")).to_be_visible()
    assert page.locator("svg line.faint").count() == 2  # the two rulers: nothing has moved yet
    assert page.locator("path.red.thick").count() == 0
    drag(page, "Temperature τ", -400)
    assert float(handle(page, "Temperature τ").get_attribute("aria-valuenow")) == -1.3
    assert labels(page) == [36, 18, 6]
    assert page.locator("svg line.faint").count() > 50  # each has left a trail
    assert page.locator("path.red.thick").count() == 1
    expect(page.locator(".guess")).to_contain_text("Seen: none.")
    expect(page.locator(".story")).to_contain_text(simplex().claim)
    page.get_by_role("button", name="1", exact=True).click()
    expect(status(page)).to_contain_text("of all (0.52, 0.33, 0.15)")
    page.get_by_role("button", name="0.5", exact=True).click()
    expect(page.get_by_text("Not yet.")).to_be_visible()
    handle(page, "Temperature τ").focus()
    page.keyboard.press("ArrowLeft")
    expect(page.locator(".goal")).to_contain_text("Reached.")
    page.get_by_role("button", name="0.1", exact=True).click()
    expect(page.get_by_text("Not yet.")).to_be_visible()


def test_by_keyboard(opened):  # noqa: F811
    page = opened("simplex")
    page.get_by_role("button", name="none", exact=True).press("Enter")
    dot = handle(page, "Temperature τ")
    expect(dot).to_be_focused()
    for key, now, words in (
        ("ArrowLeft", -0.05, "0.89"),
        ("PageDown", -0.3, "0.5"),
        ("End", 0.7, "5"),
        ("Home", -1.3, "0.05"),
    ):
        page.keyboard.press(key)
        assert float(dot.get_attribute("aria-valuenow")) == pytest.approx(now)
        assert dot.get_attribute("aria-valuetext") == f"τ = {words}"


def test_by_single_taps_on_a_small_screen(opened):  # noqa: F811
    page = opened("simplex", viewport={"width": 320, "height": 780}, has_touch=True)
    page.get_by_role("button", name="most: they gather where π is largest").tap()
    less = page.get_by_role("button", name="Temperature τ: less")
    for _ in range(20):
        less.tap()
    expect(page.locator(".guess")).to_contain_text("Seen: none.")
    assert labels(page) == [36, 18, 6]
