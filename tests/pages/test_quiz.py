"""The quiz in a real browser: by mouse and by keyboard, light and dark, wide and narrow."""

import itertools

import pytest

from reparam.quiz import check, quiz

from .conftest import COLOR_RULES, violations

CHAPTERS = (1, 2, 3, 7, "concept")
THEMES = {"light": ("#fff", "#212121"), "dark": ("#121212", "#ececec")}
ANSWERS = [
    (chapter, item["id"], item["kind"] == "number", n, option["text"])
    for chapter in CHAPTERS
    for item in quiz(chapter).items
    for n, option in enumerate(item["options"])
]


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Pages that hold nothing but a quiz, on the paper of each theme."""
    folder = tmp_path_factory.mktemp("quiz")
    for chapter, (theme, (paper, ink)) in itertools.product(CHAPTERS, THEMES.items()):
        (folder / f"{chapter}-{theme}.html").write_text(
            '<!doctype html><html lang="en"><meta charset="utf-8"><title>Quiz</title>'
            '<meta name="viewport" content="width=device-width">'
            f"<style>body{{background:{paper};color:{ink};font-family:sans-serif}}</style>"
            f"<main><h1>Quiz</h1>{quiz(chapter)._repr_html_()}</main></html>",
            encoding="utf-8",
        )
    return folder


def opened(browser, files, chapter, theme="light", **options):
    page = browser.new_page(**options)
    page.problems = []
    page.on("pageerror", lambda error: page.problems.append(str(error)))
    page.on("console", lambda m: m.type == "error" and page.problems.append(m.text))
    page.goto((files / f"{chapter}-{theme}.html").as_uri())
    return page


@pytest.fixture(scope="module")
def pages(browser, files):
    pages = {chapter: opened(browser, files, chapter) for chapter in CHAPTERS}
    yield pages
    for page in pages.values():
        assert page.problems == []
        page.close()


def question(page, name):
    """A question's form, found by what its legend says: the group's accessible name."""
    return page.locator("form").filter(has=page.locator(f'legend:has-text("{name}")'))


@pytest.mark.parametrize(("chapter", "name", "numeric", "n", "text"), ANSWERS)
def test_each_answer_gets_the_words_that_check_prints(
    pages, capsys, chapter, name, numeric, n, text
):
    form = question(pages[chapter], name)
    if numeric:
        form.get_by_label("Your number").fill(text)
    else:
        form.get_by_role("radio").nth(n).check()
    assert form.get_by_role("status").inner_text() == "", "the last answer's words must go"
    form.get_by_role("button", name="Check").click()
    check(name, float(text) if numeric else "abc"[n])
    printed = " ".join(capsys.readouterr().out.split()).split(": ", 1)[1]
    shown = " ".join(form.get_by_role("status").text_content().split())
    for mark in "`_":  # `code` and q_φ are marked up in the page
        printed = printed.replace(mark, "")
        shown = shown.replace(mark, "")
    assert shown == printed


def test_it_works_by_keyboard_alone(browser, files):
    page = opened(browser, files, 1)
    page.get_by_label("Your number").first.focus()
    page.keyboard.type("13")
    page.keyboard.press("Enter")
    assert "13 is the derivative" in page.get_by_role("status").first.inner_text()
    page.keyboard.press("Tab")  # to its button
    page.keyboard.press("Tab")  # to the next question's radios
    page.keyboard.press("Space")
    page.keyboard.press("ArrowDown")
    page.keyboard.press("ArrowDown")
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    said = question(page, "1.2").get_by_role("status").inner_text()
    assert said.startswith("Right.")
    assert page.problems == []
    page.close()


def test_an_empty_answer_and_an_unknown_number_are_met_with_a_hint(browser, files):
    page = opened(browser, files, 1)
    for name, words in [("1.1", "Type a number first."), ("1.2", "Choose an answer first.")]:
        form = question(page, name)
        form.get_by_role("button").click()
        assert form.get_by_role("status").inner_text() == words
    form = question(page, "1.1")
    form.get_by_label("Your number").fill("77")
    form.get_by_role("button").click()
    assert "Work out the mean of z²" in form.get_by_role("status").inner_text()
    page.close()


def test_without_scripts_every_answer_is_a_fold(browser, files):
    page = opened(browser, files, 2, java_script_enabled=False)
    fold = page.locator("details").first
    fold.locator("summary").click()
    assert fold.locator("p").is_visible()
    assert page.locator("form").count() == 0
    assert page.locator("details").count() == sum(chapter == 2 for chapter, *_ in ANSWERS)
    page.close()


@pytest.mark.parametrize("theme", list(THEMES))
@pytest.mark.parametrize("chapter", CHAPTERS)
@pytest.mark.parametrize("scripts", [True, False])
def test_no_violation_and_no_sideways_scroll(browser, files, chapter, theme, scripts):
    page = opened(browser, files, chapter, theme, java_script_enabled=scripts)
    if scripts:
        for button in page.get_by_role("button", name="Check").all():
            button.click()
    for width in (320, 360, 1280):
        page.set_viewport_size({"width": width, "height": 800})
        assert page.locator("html").evaluate("e => e.scrollWidth") <= width
        if scripts:  # axe is a script itself
            boxes = page.get_by_role("radio").evaluate_all(
                "all => all.map(e => e.parentElement.getBoundingClientRect().toJSON())"
            )
            assert boxes and all(b["height"] >= 24 and b["right"] <= width for b in boxes)
            found = violations(page, COLOR_RULES if theme == "dark" else None)
            assert found == [], f"{width} px: " + "\n".join(found)
    page.close()
