"""The explorer of chapter 4 in a real browser: its story, by mouse, keyboard and touch."""

import pytest
from playwright.sync_api import expect

from reparam.explorers import raw_to_sigma
from reparam.explorers.build import run_javascript
from tests.pages.test_explorers import (  # noqa: F401
    GUESS,
    built,
    center,
    files,
    handle,
    opened,
    status,
)


def slide(page, raw):
    """Drag the dot to this raw output."""
    dot = handle(page, "Raw output r")
    x, y = center(dot)
    now = float(dot.get_attribute("aria-valuenow"))
    left, right = (
        float(page.locator("svg text").get_by_text(tick, exact=True).last.get_attribute("x"))
        for tick in ("−10", "10")
    )
    per_unit = (right - left) / 20
    page.mouse.move(x, y)
    page.mouse.down()
    page.mouse.move(x + (raw - now) * per_unit, y, steps=10)
    page.mouse.up()


def test_sliding_left_snaps_to_zero(opened):  # noqa: F811
    page = opened("raw_to_sigma")
    assert page.get_by_role("button", name="float16").count() == 0
    slide(page, -8)
    assert handle(page, "Raw output r").get_attribute("aria-valuenow") == "-2"  # the guess first
    page.get_by_role("button", name="nowhere").click()
    expect(page.locator(".guess")).to_have_text("Your guess: nowhere: eʳ > 0.")
    expect(page.get_by_text("Drag the dot left")).to_be_visible()
    assert page.get_by_text("exactly 0", exact=True).count() == 0
    slide(page, -7)
    expect(page.get_by_text("exactly 0", exact=True)).to_be_visible()
    expect(page.get_by_text("up to r = −5.55").first).to_be_visible()
    expect(page.locator(".guess")).to_contain_text("Seen: from r = −5.55 down.")
    expect(status(page)).to_contain_text("σ = 0, KL = ∞, gradient −∞;")
    expect(page.locator(".story")).to_contain_text(raw_to_sigma().claim)
    # The dot stands below the panel, on the row of zeros.
    zero = page.locator("svg text tspan").get_by_text("0", exact=True).first.bounding_box()
    assert abs(center(handle(page, "Raw output r"))[1] - zero["y"] - zero["height"] / 2) < 6


def test_the_goal_by_buttons_alone(opened):  # noqa: F811
    page = opened("raw_to_sigma", viewport={"width": 360, "height": 780}, has_touch=True)
    page.get_by_role("button", name=GUESS["raw_to_sigma"]).tap()
    less = page.get_by_role("button", name="Raw output r: less")
    for _ in range(20):
        less.tap()
    expect(page.get_by_text("Not yet.")).to_be_visible()
    for name, dtype, done in (
        ("exp(r/2)", "float16", False),
        ("clamp", "float16", False),
        ("bound", "bfloat16", False),
        ("bound", "float16", True),
    ):
        page.get_by_role("button", name=name, exact=True).tap()
        page.get_by_role("button", name=dtype, exact=True).tap()
        expect(status(page)).to_contain_text(f"{name} in {dtype} at r = −12.00: ")
        assert ("Reached." in page.locator(".goal").inner_text()) is done
    expect(status(page)).to_contain_text("The goal is reached.")
    page.get_by_role("button", name="Reset").tap()
    expect(page.locator(".goal")).to_be_hidden()


def test_by_keyboard(opened):  # noqa: F811
    page = opened("raw_to_sigma")
    page.get_by_role("button", name=GUESS["raw_to_sigma"]).press("Enter")
    dot = handle(page, "Raw output r")
    expect(dot).to_be_focused()  # its button is gone
    for key, now in (("ArrowLeft", -2.05), ("PageUp", -1.8), ("End", 20), ("Home", -20)):
        page.keyboard.press(key)
        assert float(dot.get_attribute("aria-valuenow")) == pytest.approx(now)
    assert dot.get_attribute("aria-valuetext") == "r = −20.00, σ = 0"
    expect(page.locator(".guess")).to_contain_text("Seen:")


def test_one_map_is_bold_and_its_breaks_are_named(opened):  # noqa: F811
    page = opened("raw_to_sigma", "#raw-to-sigma:guess=snap&seen=yes&dtype=float16&r=12")
    for words in ("exactly 0", "∞", "NaN"):
        assert page.locator("svg text.bold").get_by_text(words, exact=True).count() >= 1
    expect(status(page)).to_contain_text("σ = ∞, KL = NaN, gradient NaN")
    page.get_by_role("button", name="clamp", exact=True).click()
    assert page.locator("svg text.bold").get_by_text("exactly 0", exact=True).count() == 2
    page.locator("summary").click()
    explorer = raw_to_sigma()
    explorer.state.update(guess="snap", seen="yes", dtype="float16", r=12.0, map="clamp")
    table = run_javascript(explorer, "widget.spec.table(widget.spec.model(state))")
    cells = [str(cell) for row in table["rows"] for cell in row]
    assert page.locator("td").all_inner_texts() == cells
