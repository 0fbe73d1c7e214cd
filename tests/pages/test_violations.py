"""The helper `violations` asks axe about one text of each look: no other look may slip through."""

import pytest

from .conftest import violations

FINE = "<div>" + "<p>Black on white.</p>" * 3 + "</div>"
LIFTED = "<div style='position: relative; {}'><p style='position: absolute'>Text.</p></div>"
BAD = {
    "its own color": "<div><p style='color: #bbb'>Text.</div>",
    "its own size": "<p style='color: #888; font-size: 30px'>Big</p><p style='color: #888'>It.</p>",
    "an ancestor's paper": "<div style='background: #333'><p>Text.</div>",
    "an ancestor's opacity": "<div style='opacity: 0.3'><p>Text.</div>",
    "what it is lifted over": LIFTED.format("height: 4em")
    + "<div style='background: #333; height: 4em'></div>"
    + LIFTED.format("height: 4em; margin-top: -4em"),
    "its shadow root's style": "<div><template shadowrootmode=open><style>p { color: #bbb }</style>"
    "<p>Text.</template></div>",
}


@pytest.mark.parametrize("what", BAD)
def test_a_text_is_judged_by(browser, tmp_path, what):
    file = tmp_path / "page.html"
    file.write_text(
        f"<!doctype html><html lang=en><title>Page</title><main><h1>Page</h1>{FINE}{BAD[what]}",
        encoding="utf-8",
    )
    page = browser.new_page()
    page.goto(file.as_uri())
    for _ in range(2):  # what passed in one run must not count in the next
        found = violations(page)
        assert len(found) == 1 and found[0].startswith("color-contrast"), found
        assert "Element has insufficient color contrast" in found[0]
    page.close()
