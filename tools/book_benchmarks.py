"""Sphinx extension: the tables and the picture of the benchmarks' page come from the record.

`{benchmarks} flows` is a section of `tests/benchmarks/results/measured.json`: a sentence that
counts, the table, and when and on what it was measured. `{benchmarks-picture}` shows all ratios.
"""

import hashlib
import math
import os
import textwrap
from collections import Counter
from pathlib import Path

import benchmarks
from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

MARKS = {"win": "▲", "draw": "○", "loss": "▼"}
FOLDER = "_build/benchmarks"


class Section(SphinxDirective):
    """`benchmarks`: one section of the record."""

    required_arguments = 1
    final_argument_whitespace = True

    def run(self) -> list[nodes.Node]:
        record = recorded(self)
        rows = record["sections"][self.arguments[0]]
        shown = next(show for key, show in SHOWN.items() if key in rows[0])(rows)
        runs = sorted({row["run"] for row in rows})
        return [*shown, *(run_line(run, record["runs"][run]) for run in runs)]


class Picture(SphinxDirective):
    """`benchmarks-picture`: every ratio with its range, by section."""

    def run(self) -> list[nodes.Node]:
        sections = recorded(self)["sections"]
        all_pairs = {name: benchmarks.pairs(rows) for name, rows in sections.items()}
        all_pairs = {name: found for name, found in all_pairs.items() if found}
        # Sphinx complains of a picture that changes under its name.
        digest = hashlib.sha256(repr(all_pairs).encode()).hexdigest()[:16]
        path = Path(self.env.srcdir, FOLDER, f"ratios-{digest}.svg")
        draw(all_pairs, path)
        uri = os.path.relpath(path, Path(self.env.doc2path(self.env.docname)).parent)
        return [nodes.figure("", nodes.image(uri=uri, alt=in_words(all_pairs)))]


def recorded(directive: SphinxDirective) -> dict:
    directive.env.note_dependency(str(benchmarks.RECORD))
    return benchmarks.read()


# --- tables ------------------------------------------------------------------------------------


def times(rows: list[dict]) -> list[nodes.Node]:
    found = benchmarks.pairs(rows)
    body = [
        (pair.work, *ratio_cells(pair), pair.peer, duration(pair.ours["median"])) for pair in found
    ]
    header = ("work", "outcome", "ratio", "of minima", "against", "ours")
    told = benchmarks.tally(pair.outcome for pair in found)
    return [paragraph(told), table(header, body, "of-numbers")]


def implicit(rows: list[dict]) -> list[nodes.Node]:
    """Two tables: who is nearer to the exact slope, and who is faster."""
    accuracies, errors = [], []
    for law, (ours, *others) in benchmarks.by_law(rows).items():
        errors.append((law, benchmarks.split_law(ours)[1], "", *precision(ours)))
        for row in others:
            accuracies.append(benchmarks.accuracy(ours, row))
            way = benchmarks.split_law(row)[1]
            errors.append((law, way, outcome(accuracies[-1]), *precision(row)))
    told = (
        f"Accuracy. {benchmarks.tally(accuracies)} Largest errors within a factor of "
        f"{benchmarks.ALIKE} count as a draw, and a value that is not finite loses."
    )
    header = ("law", "way", "outcome", "largest error", "median error", "not finite", "time")
    speed, by_time = times(rows)
    said = paragraph(f"Time. {speed.astext()}")
    return [paragraph(told), table(header, errors, "of-numbers"), said, by_time]


def precision(row: dict) -> tuple[str, ...]:
    """Errors and time of one way."""
    errors = (row["largest error"], row["median error"])
    told = ("none finite" if error is None else scientific(error) for error in errors)
    return *told, f"{row['not finite']} of {row['checked']}", duration(row["seconds"]["median"])


def gradients(rows: list[dict]) -> list[nodes.Node]:
    problems = list(dict.fromkeys(row["problem"] for row in rows))
    by_name = {}
    for row in rows:
        by_name.setdefault(row["name"], {})[row["problem"]] = row
    body = [
        (name, *(verdict(of[problem]) if problem in of else "" for problem in problems))
        for name, of in by_name.items()
    ]
    causes = {(row["name"], row["cause"]): None for row in rows if row["cause"]}
    listed = [nodes.list_item("", paragraph(f"{name}: {cause}")) for name, cause in causes]
    shown = [paragraph(benchmarks.verdicts(rows)), table(("gradient", *problems), body)]
    if listed:
        shown += [paragraph("Where it goes wrong:"), nodes.bullet_list("", *listed)]
    replicates = " or ".join(str(n) for n in sorted({row["replicates"] for row in rows}))
    return [*shown, paragraph(f"Each mean is over {replicates} gradients.")]


def verdict(row: dict) -> list[nodes.Node]:
    """The verdict, and by how much where the mean is not the exact gradient."""
    said = row["verdict"]
    if said == "right":
        return [nodes.Text(said)]
    kind = "draw" if said == "biased by design" else "loss"
    word = nodes.inline("", said, classes=[f"outcome-{kind}"])
    return [word, nodes.Text(f": {row['error'] if 'error' in row else distance(row)}")]


def distance(row: dict) -> str:
    """How far off, by the parameter where that is furthest beyond chance and rounding."""

    def beyond(part: str) -> float:
        return abs(row[part]["bias"]) / (row[part]["standard_error"] + 1e-5)

    part = max(("logits", "t"), key=beyond)
    off = row[part]
    return (
        f"off by {off['bias']:.2g} ± {off['standard_error']:.1g} of {off['exact']:.2g}, by {part}"
    )


def extremes(rows: list[dict]) -> list[nodes.Node]:
    body = [
        (row["name"], f"{len(row['lost'])} of {row['cases']}", "; ".join(map(str, row["lost"])))
        for row in rows
    ]
    ours, *others = rows
    fewer = Counter(
        "win" if len(row["lost"]) > len(ours["lost"])
        else "draw" if len(row["lost"]) == len(ours["lost"]) else "loss"
        for row in others
    )  # fmt: skip
    header = ("library", "cases lost", "which")
    return [paragraph(benchmarks.tally(fewer.elements())), table(header, body)]


def log_determinants(rows: list[dict]) -> list[nodes.Node]:
    places = list(rows[0]["error at w·u"])
    body = [
        (row["name"], *(signed(row["error at w·u"][place]) for place in places)) for row in rows
    ]
    return [table(("library", *(f"w·u = {place}" for place in places)), body)]


def training(rows: list[dict]) -> list[nodes.Node]:
    header = ("what", "time", "allowed", "held-out ELBO, nats an image", "at least")
    body = [
        (
            row["name"], duration(row["took"]), duration(row["allowed"]),
            f"{row['held-out ELBO']:.2f}", f"{row['at least']:.2f}",
        )
        for row in rows
    ]  # fmt: skip
    return [table(header, body)]


#: {a field that only rows of this kind have: what shows them}.
SHOWN = {
    "ratios": times,
    "largest error": implicit,
    "verdict": gradients,
    "lost": extremes,
    "error at w·u": log_determinants,
    "took": training,
}


def ratio_cells(pair: benchmarks.Pair) -> tuple:
    low, high = map(digits, pair.range)
    ratio = f"{digits(pair.ratio)} ({low}–{high})"
    return outcome(pair.outcome), ratio, digits(pair.by_minima)


def outcome(word: str) -> list[nodes.Node]:
    return [nodes.inline("", f"{MARKS[word]} {word}", classes=[f"outcome-{word}"])]


def table(header: tuple, body: list[tuple], *classes: str) -> nodes.table:
    """A table whose cells are text or nodes."""
    columns = [nodes.colspec(colwidth=1) for _ in header]
    head = nodes.thead("", table_row(header))
    group = nodes.tgroup("", *columns, head, nodes.tbody("", *map(table_row, body)))
    group["cols"] = len(header)
    return nodes.table("", group, classes=["generated", "benchmarks", *classes])


def table_row(cells: tuple) -> nodes.row:
    return nodes.row("", *(nodes.entry("", paragraph(cell)) for cell in cells))


def paragraph(content: str | list[nodes.Node]) -> nodes.paragraph:
    return (
        nodes.paragraph("", content)
        if isinstance(content, str)
        else nodes.paragraph("", "", *content)
    )


def run_line(run: str, of: dict) -> nodes.paragraph:
    """When and on what a run measured."""
    machine = of["machine"]
    load = f"load {machine['load']:.2g}" if "load" in machine else "load not recorded"
    versions = ", ".join(f"{name} {version}" for name, version in of["versions"].items())
    where = f"{machine['processor']}, {machine['cores']} cores, {load}"
    line = paragraph(f"Recorded {run} on {where}; {versions}.")
    line["classes"].append("benchmarks-run")
    return line


def duration(seconds: float) -> str:
    for unit, size in (("s", 1), ("ms", 1e-3)):
        if seconds >= size:
            return f"{digits(seconds / size)} {unit}"
    return f"{digits(seconds / 1e-6)} µs"


def digits(value: float) -> str:
    """Three digits, never in powers of ten."""
    places = max(0, 2 - math.floor(math.log10(value)))
    return f"{value:,.{places}f}"


def scientific(value: float) -> str:
    return f"{value:.1e}" if value else "0"


def signed(value: float | str) -> str:
    return value if isinstance(value, str) else f"{value:+.1e}"


# --- the picture -------------------------------------------------------------------------------


def in_words(all_pairs: dict[str, list[benchmarks.Pair]]) -> str:
    """What the picture shows, for those who do not see it."""
    counted = "; ".join(f"{name}: {counts_and_ends(found)}" for name, found in all_pairs.items())
    return f"Ratios of times on a logarithmic axis with a line at 1, by comparison. {counted}."


def counts_and_ends(found: list[benchmarks.Pair]) -> str:
    ratios = [pair.ratio for pair in found]
    told = benchmarks.tally(pair.outcome for pair in found).rstrip(".")
    return f"{told}, ratios from {digits(min(ratios))} to {digits(max(ratios))}"


def draw(all_pairs: dict[str, list[benchmarks.Pair]], path: Path) -> None:
    import matplotlib.pyplot as plt

    from reparam.plots import GREEN, GREY, INK, VERMILLION, use_style

    use_style()
    looks = {"win": (GREEN, "^"), "draw": (GREY, "o"), "loss": (VERMILLION, "v")}
    gap = 4
    height = sum(map(len, all_pairs.values())) + gap * len(all_pairs)
    figure, axes = plt.subplots(figsize=(3.8, 0.09 * height))
    axes.axvline(1, color=INK, linewidth=1)
    place, ticks = 0, {}
    for name, found in all_pairs.items():
        ticks[textwrap.fill(name, 12)] = place + (len(found) - 1) / 2
        for pair in sorted(found, key=lambda pair: pair.ratio):
            color, marker = looks[pair.outcome]
            axes.plot(pair.range, [place, place], color=color, linewidth=1)
            axes.plot(pair.ratio, place, marker, color=color, markersize=4.5)
            place += 1
        place += gap
    for word, (color, marker) in looks.items():
        axes.plot([], [], marker, color=color, label=word)
    axes.legend(loc="lower right", handletextpad=0.1, fontsize=11)
    axes.set(xscale="log", ylim=(place - gap + 1, -2))
    axes.set_xlabel("their time / our time", fontsize=11)
    axes.set_yticks(list(ticks.values()), list(ticks), fontsize=11)
    axes.tick_params(axis="x", labelsize=11)
    axes.xaxis.set_major_formatter("{x:g}")
    path.parent.mkdir(parents=True, exist_ok=True)
    with plt.rc_context({"svg.hashsalt": "benchmarks"}):
        figure.savefig(path, metadata={"Date": None})
    plt.close(figure)


def setup(app: Sphinx) -> dict:
    app.add_directive("benchmarks", Section)
    app.add_directive("benchmarks-picture", Picture)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
