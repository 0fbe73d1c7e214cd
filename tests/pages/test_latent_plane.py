"""The explorer of the latent plane in a real browser: its story, by mouse, keyboard and touch."""

import pytest
from playwright.sync_api import expect

from reparam.explorers import latent_plane
from reparam.explorers.build import run_javascript
from tests.pages.test_explorers import (  # noqa: F401
    DRAGGED,
    GUESS,
    built,
    center,
    drag,
    files,
    handle,
    opened,
    status,
)

SIGMA = DRAGGED["latent_plane"]
SEEN = "#latent-plane:guess=one&seen=yes"
START = latent_plane().state


def strokes(page):
    """The pixels of x and of the nine tiles, by gray: one path for each."""
    return page.locator("g.tiles path").evaluate_all("all => all.map(p => p.getAttribute('d'))")


def tiles(page):
    """The gray of each pixel of each tile, as drawn."""
    grays = {}
    for gray, path in enumerate(strokes(page), 1):
        for pixel in path.split("M")[1:]:
            x, y = (int(part) for part in pixel.removesuffix("h1").split())
            grays[x, y] = gray
    return [
        [grays.get((9 + 9 * (i % 3) + x, 10 * (i // 3) + y), 0) for y in range(8) for x in range(8)]
        for i in range(9)
    ]


def offset(page):
    """Tile 3's offset from μ, on the screen: the thick line of the plane."""
    ends = "line => ['x1', 'x2', 'y1', 'y2'].map((a) => Number(line.getAttribute(a)))"
    x1, x2, y1, y2 = page.locator("line.red.thick").evaluate(ends)
    return x2 - x1, y2 - y1


def test_pulling_sigma_to_0_leaves_one_image(opened):  # noqa: F811
    page = opened("latent_plane")
    drag(page, SIGMA, -300)
    assert float(handle(page, SIGMA).get_attribute("aria-valuenow")) == 1, "first the prediction"
    page.get_by_role("button", name=GUESS["latent_plane"]).click()
    expect(page.get_by_text("Pull σ to 0")).to_be_visible()
    assert len({tuple(tile) for tile in tiles(page)}) == 9
    assert page.get_by_role("button", name="Mean μ₁: more").count() == 0
    expect(page.locator(".goal")).to_be_hidden()
    drag(page, SIGMA, -300)
    assert len({tuple(tile) for tile in tiles(page)}) == 1
    expect(page.locator(".guess")).to_contain_text("Seen: one.")
    expect(page.locator(".story")).to_contain_text(latent_plane().claim)
    expect(status(page)).to_contain_text("1 of 9 images differ.")
    expect(status(page)).to_contain_text("ELBO −∞")
    expect(page.get_by_text("Pull it back")).to_be_visible()
    drag(page, SIGMA, 400)
    assert len({tuple(tile) for tile in tiles(page)}) == 9
    expect(status(page)).to_contain_text("9 of 9 images differ.")


def test_the_tiles_show_the_models_grays(opened):  # noqa: F811
    page = opened("latent_plane", SEEN + "&s=1.7&mu1=0.4&mu2=-0.9")
    explorer = latent_plane()
    explorer.state.update(s=1.7, mu1=0.4, mu2=-0.9)
    images = "widget.spec.model(state).tiles.map((t) => t.image.map((p) => Math.round(15 * p)))"
    assert tiles(page) == run_javascript(explorer, images)


def test_mu_moves_both_ways_and_tile_3_keeps_its_offset(opened):  # noqa: F811
    page = opened("latent_plane", SEEN + "&s=2")
    before, images = offset(page), tiles(page)
    x, y = center(handle(page, "Mean μ"))
    page.mouse.move(x + 4, y + 6)  # off its middle: it must not jump
    page.mouse.down()
    page.mouse.move(x + 4, y + 6 + 40, steps=5)
    assert center(handle(page, "Mean μ")) == pytest.approx((x, y + 40), abs=1.5)
    page.mouse.move(x + 4 + 60, y + 6 + 40, steps=5)
    words = status(page).inner_text()
    page.mouse.up()
    assert center(handle(page, "Mean μ")) == pytest.approx((x + 60, y + 40), abs=1.5)
    assert offset(page) == pytest.approx(before, abs=0.25)
    assert tiles(page) != images
    assert status(page).inner_text() != words, "the status waits for the end of the gesture"
    assert "mu1=" in page.url and "mu2=" in page.url


def test_the_encoder_is_beaten_by_moving_mu(opened):  # noqa: F811
    page = opened("latent_plane", SEEN)
    expect(page.get_by_text("Not yet.")).to_be_visible()
    for name in ("Mean μ₁: less", "Mean μ₂: more"):
        for _ in range(4):
            page.get_by_role("button", name=name).click()
    expect(page.locator(".goal")).to_contain_text("Reached. One network serves all images")
    expect(page.locator(".goal")).to_contain_text("amortization gap")


def test_by_keyboard(opened):  # noqa: F811
    page = opened("latent_plane")
    page.get_by_role("button", name="one", exact=True).press("Enter")
    grip = handle(page, SIGMA)
    expect(grip).to_be_focused()
    for key, now in (("ArrowRight", 1.1), ("PageDown", 0.6), ("End", 3), ("Home", 0)):
        page.keyboard.press(key)
        assert float(grip.get_attribute("aria-valuenow")) == pytest.approx(now)
    expect(page.locator(".guess")).to_contain_text("Seen: one.")
    mu = handle(page, "Mean μ")
    mu.focus()
    now = [START["mu1"], START["mu2"]]
    for key, axis, by in (
        ("ArrowRight", 0, 0.05), ("ArrowUp", 1, 0.05), ("ArrowDown", 1, -0.05),
        ("ArrowDown", 1, -0.05), ("ArrowLeft", 0, -0.05), ("ArrowLeft", 0, -0.05),
    ):  # fmt: skip
        page.keyboard.press(key)
        now[axis] += by
        words = "({:.2f}, {:.2f})".format(*now).replace("-", "−")
        assert mu.get_attribute("aria-valuetext") == words
        expect(mu).to_be_focused()


def test_by_touch_and_single_taps_on_a_small_screen(opened):  # noqa: F811
    page = opened(
        "latent_plane", viewport={"width": 360, "height": 780}, has_touch=True, is_mobile=True
    )
    page.get_by_role("button", name="a few").tap()
    for _ in range(10):
        page.get_by_role("button", name=f"{SIGMA}: less").tap()
    expect(page.locator(".guess")).to_contain_text("Seen: one.")
    grip = handle(page, "Mean μ")
    grip.scroll_into_view_if_needed()
    x, y = center(grip)
    touch, scrolled = page.context.new_cdp_session(page), page.evaluate("scrollY")
    for kind, points in (
        ("touchStart", [(x, y)]), *(("touchMove", [(x, y + 5 * i)]) for i in range(1, 9)),
        ("touchEnd", []),
    ):  # fmt: skip
        points = [{"x": a, "y": b} for a, b in points]
        touch.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": points})
    assert center(grip) == pytest.approx((x, y + 40), abs=1.5)
    assert page.evaluate("scrollY") == scrolled
    page.get_by_role("button", name="Reset").tap()
    assert float(handle(page, SIGMA).get_attribute("aria-valuenow")) == 1
    expect(page.locator(".guess")).to_be_hidden()
