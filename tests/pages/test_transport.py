"""The explorer of transport in a real browser: its story, by mouse, keyboard and touch."""

import pytest
from playwright.sync_api import expect

from reparam.explorers import transport
from tests.pages.test_explorers import (  # noqa: F401
    GUESS,
    built,
    drag,
    files,
    handle,
    opened,
    status,
)


def samples(page):
    """Where the twenty samples stand on the page."""
    return sorted(
        page.locator("svg > g[aria-hidden] circle:is(.red, .green)").evaluate_all(
            "all => all.map((dot) => Number(dot.getAttribute('cx')))"
        )
    )


def test_doubling_the_rate_moves_the_largest_farthest(opened):  # noqa: F811
    page = opened("transport")
    before = samples(page)
    assert len(before) == 20
    drag(page, "Parameter θ", 150)
    assert samples(page) == before, "the prediction comes first"
    page.get_by_role("button", name=GUESS["transport"]).click()
    expect(page.get_by_text("Drag the dot to λ = 2")).to_be_visible()
    assert page.get_by_role("button", name="Weibull").count() == 0
    assert page.get_by_text("arrows:").count() == 0
    drag(page, "Parameter θ", 100)
    assert page.get_by_text("arrows:").count() == 0, "not yet doubled"
    drag(page, "Parameter θ", 600)
    assert handle(page, "Parameter θ").get_attribute("aria-valuetext") == "λ = 2.40"
    moved = [a - b for a, b in zip(before, samples(page), strict=True)]
    assert moved == sorted(moved) and moved[0] > 0
    expect(page.locator(".guess")).to_contain_text("Seen: the largest, from 3.69 to 1.84.")
    expect(page.locator(".story")).to_contain_text(transport().claim)
    expect(page.get_by_text("arrows: dz/dλ")).to_be_visible()
    expect(status(page)).to_contain_text("Fastest: u = 0.975")
    page.get_by_role("button", name="logistic").click()
    expect(status(page)).to_contain_text("logistic, μ = 1.00.")
    expect(status(page)).to_contain_text("All move alike.")
    page.get_by_role("button", name="Cauchy").click()
    handle(page, "Parameter θ").focus()
    page.keyboard.press("End")
    for edge in ("← 1 farther", "1 farther →"):
        assert page.get_by_text(edge).count() == 1
    assert len(samples(page)) == 18


def test_a_sample_races_between_the_hills(opened):  # noqa: F811
    page = opened("transport", "#transport:guess=alike&seen=yes&theta=2")
    expect(page.locator(".guess")).to_contain_text("look at the logistic's μ")
    page.get_by_role("button", name="two Gaussians").click()
    expect(page.get_by_text("Not yet.")).to_be_visible()
    expect(page.get_by_role("button", name="Parameter θ: more")).to_be_hidden()
    page.get_by_role("button", name="Weight π: more").click()
    expect(page.locator(".goal")).to_contain_text("Reached. It is between the hills")
    expect(status(page)).to_contain_text("two Gaussians, π = 0.525.")
    expect(status(page)).to_contain_text("Fastest: u = 0.475, dz/dπ = 103.6.")
    less = page.get_by_role("button", name="Traced sample: less")
    for _ in range(6):
        less.click()
    expect(status(page)).to_contain_text("Traced u = 0.475")
    page.get_by_role("button", name="exponential").click()
    expect(page.get_by_text("Not yet.")).to_be_visible()


def test_by_keyboard(opened):  # noqa: F811
    page = opened("transport")
    page.get_by_role("button", name="All alike").press("Enter")
    dot = handle(page, "Parameter θ")
    expect(dot).to_be_focused()
    for key, now in (("ArrowRight", 1.05), ("PageDown", 0.8), ("Home", 0.6), ("End", 2.4)):
        page.keyboard.press(key)
        assert float(dot.get_attribute("aria-valuenow")) == pytest.approx(now)
        assert dot.get_attribute("aria-valuetext") == f"λ = {now:.2f}"
    expect(page.locator(".guess")).to_contain_text("Seen: the largest")


def test_by_single_taps_on_a_small_screen(opened):  # noqa: F811
    page = opened("transport", viewport={"width": 320, "height": 780}, has_touch=True)
    page.get_by_role("button", name="The smallest z").tap()
    more = page.get_by_role("button", name="Parameter θ: more")
    for _ in range(20):
        more.tap()
    expect(page.locator(".guess")).to_contain_text("Seen: the largest, from 3.69 to 1.84.")
    page.get_by_role("button", name="Weibull").tap()
    less = page.get_by_role("button", name="Traced sample: less")
    for _ in range(3):
        less.tap()
    expect(status(page)).to_contain_text("Weibull, k = 1.00. Traced u = 0.625: z = 0.981")
