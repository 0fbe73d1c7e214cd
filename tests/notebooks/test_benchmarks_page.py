"""The page of benchmarks: it shows all that was recorded, and types no number of its own."""

import copy
import math
import re

import pytest

from tools import benchmarks, notebooks

PAGE = (notebooks.ROOT / "book" / "benchmarks.md").read_text(encoding="utf-8")
RECORD = benchmarks.read()


def pair(ours, theirs, spread=0.1):
    times = [{"minimum": median, "median": median, "spread": spread} for median in (ours, theirs)]
    return benchmarks.Pair("work", "peer", *times, "run")


def test_the_page_asks_for_each_section_once():
    asked = re.findall(r"(?m)^```\{benchmarks\} (.*)$", PAGE)
    assert sorted(asked) == sorted(RECORD["sections"]), (
        "book/benchmarks.md: each section of tests/benchmarks/results/measured.json wants its "
        "```{benchmarks} NAME"
    )


def test_no_number_is_typed_by_hand():
    typed = re.findall(r"[^\n]*\d[^\n]*", PAGE)
    assert typed == [], "book/benchmarks.md: let the directive compute it from the record"


def test_every_row_names_a_run_that_is_described():
    named = {row["run"] for rows in RECORD["sections"].values() for row in rows}
    assert named == set(RECORD["runs"])


@pytest.mark.parametrize(
    ("theirs", "outcome"), [(2.0, "win"), (1.05, "draw"), (0.95, "draw"), (0.5, "loss")]
)
def test_the_middle_halves_decide(theirs, outcome):
    one = pair(1.0, theirs)
    assert one.outcome == outcome
    assert one.ratio == pytest.approx(theirs)
    low, high = one.range
    assert (low, high) == pytest.approx((theirs * 0.95 / 1.05, theirs * 1.05 / 0.95))


def test_ratios_are_those_of_the_record():
    for rows in RECORD["sections"].values():
        recorded = [ratio for row in rows for ratio in row.get("ratios", {}).values()]
        recorded += [row["time / first"] for row in rows if row.get("time / first", 1) != 1]
        shown = [one.by_minima for one in benchmarks.pairs(rows)]
        assert sorted(shown) == pytest.approx(sorted(recorded), rel=2e-3)


def test_what_chapter_5_says_of_the_price_of_its_slopes_is_in_the_record():
    cells = notebooks.read(notebooks.ROOT / "book/5-other-distributions.ipynb").cells
    (text,) = [cell.source for cell in cells if "book/benchmarks.md#" in cell.source]
    rows = {row["name"]: row for row in RECORD["sections"]["implicit gradients"]}
    middle, tail = (
        rows[f"TruncatedNormal on {where}, by loc: typed with erfinv"]
        for where in ("(0, 1)", "(12, 13)")
    )
    theirs = rows["VonMises, by κ: TFP on JAX"]

    def digits(row):
        return math.floor(-math.log10(row["largest error"]))

    said = {
        "dozens of times as long": all(24 < 1 / r["time / first"] < 144 for r in (middle, tail)),
        "right to ten digits in the middle": digits(middle) == 10,
        "fails in its tails": tail["not finite"] == tail["checked"],
        "several times as long": 3 <= 1 / theirs["time / first"] <= 12,
        "right to seven digits": digits(theirs) == 7,
    }
    for words, true in said.items():
        assert words in text and true, f"chapter 5, on PyTorch's Gamma family: {words!r}?"


def test_a_value_that_is_not_finite_loses_and_rounding_does_not_decide():
    ours = {"not finite": 0, "largest error": 1e-15}
    assert benchmarks.accuracy(ours, {"not finite": 1, "largest error": None}) == "win"
    assert benchmarks.accuracy(ours, ours | {"largest error": 2e-15}) == "draw"
    assert benchmarks.accuracy(ours, ours | {"largest error": 1e-9}) == "win"
    assert benchmarks.accuracy(ours | {"largest error": 1e-9}, ours) == "loss"
    assert benchmarks.accuracy(ours | {"not finite": 2}, ours) == "loss"


def test_counts_are_told():
    told = benchmarks.tally(["win", "loss", "win", "draw"])
    assert told == "Of 4 comparisons we win 2, draw 1 and lose 1."


def test_a_win_that_became_a_loss_is_told():
    after = copy.deepcopy(RECORD)
    section, rows = next(iter(after["sections"].items()))
    ours, theirs, *_ = rows[0]["seconds"].values()
    assert benchmarks.changes(RECORD, after) == []
    theirs["median"] = ours["median"] / 10
    (line,) = benchmarks.changes(RECORD, after)
    assert line.startswith(f"{section}, {rows[0]['name']}")
    assert line.endswith("win -> loss")
