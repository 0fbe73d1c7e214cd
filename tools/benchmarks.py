"""What `make benchmarks` has recorded, as the book tells it: ratios, outcomes, counts, changes.

Run as a script after a measurement, it says what differs from the record before:

    python tools/benchmarks.py BEFORE.json
"""

import json
import sys
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

RECORD = Path(__file__).parents[1] / "tests" / "benchmarks" / "results" / "measured.json"
OUTCOMES = ("win", "draw", "loss")
#: Errors of rounding differ by such a factor without meaning anything.
ALIKE = 10


@dataclass(frozen=True)
class Pair:
    """The same work done by us and by another, in one run.

    Attributes:
        work: What was done.
        peer: Who else did it.
        ours, theirs: "minimum" and "median" seconds, and "spread", the interquartile range over
            the median.
        run: Which run measured both.
    """

    work: str
    peer: str
    ours: dict[str, float]
    theirs: dict[str, float]
    run: str

    @property
    def ratio(self) -> float:
        """Their median over ours: above 1 we are faster."""
        return self.theirs["median"] / self.ours["median"]

    @property
    def by_minima(self) -> float:
        return self.theirs["minimum"] / self.ours["minimum"]

    @property
    def range(self) -> tuple[float, float]:
        """Their lower quartile over our upper one, and their upper one over our lower one.

        It holds 1 where the middle halves of the two times overlap.
        """
        (our_low, our_high), (their_low, their_high) = middle(self.ours), middle(self.theirs)
        return their_low / our_high, their_high / our_low

    @property
    def outcome(self) -> str:
        low, high = self.range
        return "win" if low > 1 else "loss" if high < 1 else "draw"


def middle(seconds: dict[str, float]) -> tuple[float, float]:
    """The quartiles, taken to lie evenly about the median: the record holds their distance."""
    half = seconds["spread"] / 2
    return seconds["median"] * (1 - half), seconds["median"] * (1 + half)


def read(path: Path = RECORD) -> dict:
    return json.loads(path.read_text(encoding="utf-8"))


def work_of(row: dict) -> str:
    return f"{row['name']}, {row['problem']}" if row.get("problem") else row["name"]


def pairs(rows: Iterable[dict]) -> list[Pair]:
    """Every comparison of times in a section, whose first way is ours."""
    found = []
    for row in rows:
        if "ratios" in row:
            ours, *others = row["seconds"].items()
            found += [
                Pair(work_of(row), peer, ours[1], theirs, row["run"]) for peer, theirs in others
            ]
    for ours, *others in by_law(rows).values():
        found += [
            Pair(*split_law(row), ours["seconds"], row["seconds"], row["run"]) for row in others
        ]
    return found


def by_law(rows: Iterable[dict]) -> dict[str, list[dict]]:
    """{law: its ways}, of rows that record accuracy beside time."""
    laws = {}
    for row in rows:
        if "largest error" in row:
            laws.setdefault(split_law(row)[0], []).append(row)
    return laws


def split_law(row: dict) -> tuple[str, str]:
    """("Gamma, by α", "torch") from "Gamma, by α: torch"."""
    law, _, way = row["name"].rpartition(": ")
    return law, way


def accuracy(ours: dict, theirs: dict) -> str:
    """Who is nearer to the exact slope, in the worst case; a value that is not finite loses."""
    if ours["not finite"] != theirs["not finite"]:
        return "win" if ours["not finite"] < theirs["not finite"] else "loss"
    if theirs["largest error"] > ALIKE * ours["largest error"]:
        return "win"
    return "loss" if ours["largest error"] > ALIKE * theirs["largest error"] else "draw"


def tally(outcomes: Iterable[str]) -> str:
    """ "Of 10 comparisons we win 8, draw 1 and lose 1." """
    counts = Counter(outcomes)
    win, draw, loss = (counts[outcome] for outcome in OUTCOMES)
    return f"Of {counts.total()} comparisons we win {win}, draw {draw} and lose {loss}."


def verdicts(rows: Iterable[dict]) -> str:
    """ "Of 3 gradients 2 right, 1 wrong." """
    counts = Counter(row["verdict"] for row in rows)
    told = ", ".join(f"{count} {verdict}" for verdict, count in counts.most_common())
    return f"Of {counts.total()} gradients: {told}."


def results(record: dict) -> dict[str, str]:
    """{what was compared: what came out}, to say what a new run has changed."""
    told = {}
    for section, rows in record["sections"].items():
        for pair in pairs(rows):
            told[f"{section}, {pair.work}, against {pair.peer}"] = pair.outcome
        for row in rows:
            if "verdict" in row:
                told[f"{section}, {work_of(row)}"] = row["verdict"]
            if "lost" in row:
                told[f"{section}, {row['name']}"] = f"{len(row['lost'])} of {row['cases']} lost"
    return told


def changes(before: dict, after: dict) -> list[str]:
    """A line for each result that is new, gone or another than before."""
    old, new = results(before), results(after)
    return [
        f"{name}: {old.get(name, 'not there')} -> {new.get(name, 'gone')}"
        for name in dict.fromkeys([*old, *new])
        if old.get(name) != new.get(name)
    ]


if __name__ == "__main__":
    found = changes(read(Path(sys.argv[1])), read())
    print(f"==> results that are not as before: {len(found)}", *found, sep="\n    ")
