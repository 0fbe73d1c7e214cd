"""The built page of benchmarks has each name, contestant, verdict and run of the record."""

import pytest

from tools import benchmarks

RECORD = benchmarks.read()


@pytest.fixture
def page(visit):
    return visit("book/benchmarks")


def test_all_that_was_recorded_is_there(page):
    text = page.locator(".bd-article").text_content()
    names = set(RECORD["runs"])
    for rows in RECORD["sections"].values():
        for row in rows:
            names |= {row.get("verdict", ""), row.get("problem", "")}
            names |= set(row.get("ratios", {}))
            is_by_law = "largest error" in row
            names |= set(benchmarks.split_law(row) if is_by_law else (row["name"],))
    for run in RECORD["runs"].values():
        names |= {f"{name} {version}" for name, version in run["versions"].items()}
    missing = {name for name in names if name not in text}
    assert not missing, f"not on the page, see tools/book_benchmarks.py: {sorted(missing)}"


def test_wins_and_losses_are_told_in_words_and_in_one_weight(page):
    outcomes = [
        one.outcome for rows in RECORD["sections"].values() for one in benchmarks.pairs(rows)
    ]
    for word in benchmarks.OUTCOMES:
        shown = page.locator(f"table .outcome-{word}").filter(has_text=word)
        assert shown.count() >= outcomes.count(word) > 0
        assert shown.first.evaluate("e => getComputedStyle(e).fontWeight") == "600"


def test_the_picture_says_what_the_tables_count(page):
    alt = page.locator(".bd-article figure img").get_attribute("alt")
    for name, rows in RECORD["sections"].items():
        found = benchmarks.pairs(rows)
        if found:
            told = benchmarks.tally(one.outcome for one in found)
            assert f"{name}: {told.rstrip('.')}" in alt
            assert page.get_by_text(told).count() > 0
