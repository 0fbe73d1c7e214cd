"""Read an exercise from its one source, `instructor/exercises/CHAPTER_NUMBER_name.py`.

A source is a Python file of cells; `# %% KIND` (or `# %% KIND: TITLE`) begins one:

    about      TOML: title, kind, difficulty (1-5), minutes, points, objective, after
    imports    what the notebook must import for this exercise
    given      constants of the exercise, `NAME = value  # or other, another`: the others are for
               other cohorts; `«NAME»` in a text stands for the value
    text       Markdown of the statement
    code       a cell that is given
    answer     a cell to be filled in: what stands between `### BEGIN SOLUTION` and
               `### END SOLUTION` is the solution
    hint       Markdown; one fold each, in their order
    visible    self-checks: functions `test_…(answer, rng)`, public
    hidden     tests of the grader, with `@points(n)`; they stand after `visible`
    right: …   another correct answer, a cell that redefines what differs
    wrong: …   a known wrong answer, likewise; the hidden tests must catch it
    idle: …    an answer that implements nothing, likewise; no hidden test may let it pass
    solution   Markdown for teachers: why it is so
    rubric     Markdown for teachers: what the points are for, partial credit

Texts are (raw) string literals.
"""

import ast
import random
import re
import tomllib
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from reparam.exercises._running import names_in

FOLDER = Path(__file__).parent / "exercises"
KINDS = ("derivation", "implementation", "bug", "measurement", "harder")
CELLS = (
    "about", "imports", "given", "text", "code", "answer", "hint", "visible", "hidden", "right",
    "wrong", "idle", "solution", "rubric",
)  # fmt: skip
WANTED = {
    "title": str, "kind": str, "difficulty": int, "minutes": int, "points": int, "objective": str,
    "after": str,
}  # fmt: skip
_BEGIN, _END = "### BEGIN SOLUTION", "### END SOLUTION"
_SOLUTION = re.compile(rf"^([ \t]*){_BEGIN}\n(.*?)^[ \t]*{_END}\n?", re.MULTILINE | re.DOTALL)


class SourceError(Exception):
    """What is wrong with a source: file, line and how to mend it."""


@dataclass
class Cell:
    """One cell of a source."""

    kind: str
    title: str
    text: str
    line: int


@dataclass
class Exercise:
    """An exercise as its source has it, for one cohort."""

    path: Path
    cells: list[Cell]
    cohort: str = ""
    about: dict = field(init=False)

    def __post_init__(self):
        self.about = tomllib.loads(self.one("about"))
        for key, kind in WANTED.items():
            if type(self.about.get(key)) is not kind:
                self.fail(f"`about` needs {key} = a {kind.__name__}")
        if self.about["kind"] not in KINDS:
            self.fail(f"`kind` is one of {', '.join(KINDS)}; got {self.about['kind']!r}")
        for cell in self.of("answer"):
            if not _SOLUTION.search(cell.text):
                self.fail(f"an answer cell lacks `{_BEGIN}` … `{_END}`", cell)

    def fail(self, message, cell=None):
        line = f", line {cell.line}" if cell else ""
        raise SourceError(f"{self.path.name}{line}: {message}")

    @property
    def id(self):
        chapter, number, _ = self.path.name.split("_", 2)
        return f"{chapter}.{number}"

    @property
    def chapter(self):
        return int(self.id.split(".")[0])

    def of(self, *kinds):
        return [cell for cell in self.cells if cell.kind in kinds]

    def one(self, kind, default=None):
        found = self.of(kind)
        if len(found) > 1 or (not found and default is None):
            self.fail(f"there must be exactly one `{kind}` cell, and there are {len(found)}")
        return found[0].text if found else default

    @property
    def title(self):
        return self.about["title"]

    @cached_property
    def names(self):
        """What the learner has to define."""
        found = [name for cell in self.of("answer") for name in names_in(cell.text)]
        return [name for name in dict.fromkeys(found) if not name.startswith("_")]

    @cached_property
    def given(self):
        """{name: value} of the constants, as this cohort gets them."""
        values = {}
        draw = random.Random(f"{self.id} {self.cohort}")
        for line in self.one("given", "").splitlines():
            match = re.fullmatch(r"(\w+) = (.+?)(?:\s+# or (.+))?", line.strip())
            if not match:
                if line.strip():
                    self.fail(f"`given` holds lines `NAME = value  # or other`; got {line!r}")
                continue
            name, value, others = match.groups()
            choices = [value, *(others.split(", ") if others else [])]
            values[name] = ast.literal_eval(draw.choice(choices) if self.cohort else value)
        return values

    def fill(self, text):
        """A text with its «NAME»s replaced."""

        def value(match):
            if match[1] not in self.given:
                self.fail(f"«{match[1]}» is not among the given names")
            return str(self.given[match[1]])

        return re.sub(r"«(\w+)»", value, text)

    @property
    def given_source(self):
        return "\n".join(f"{name} = {value!r}" for name, value in self.given.items())

    def blank(self, cell):
        """An answer cell as a learner gets it."""

        def replace(match):
            indent, solution = match.groups()
            if indent:
                return f'{indent}raise NotImplementedError("{self.id}: your lines go here")\n'
            names = [name for name in names_in(solution) if not name.startswith("_")]
            if not names:
                self.fail("a solution at top level assigns a name without underscore", cell)
            return "".join(f"{name} = None  # your answer\n" for name in names)

        return _SOLUTION.sub(replace, cell.text + "\n").rstrip("\n")

    def solved(self, cell):
        """An answer cell with its solution, without the marks."""
        return _SOLUTION.sub(lambda m: m[2], cell.text + "\n").rstrip("\n")

    def solution_lines(self):
        """Every line that must not get out: solutions, hidden tests, attempts."""
        texts = [m[2] for c in self.of("answer") for m in _SOLUTION.finditer(c.text + "\n")]
        texts += [c.text for c in self.of("hidden", "right", "wrong", "idle", "solution", "rubric")]
        return [line.strip() for text in texts for line in text.splitlines() if line.strip()]

    def checks_module(self):
        """The text of the public module with the self-checks."""
        return (
            f'"""Self-checks of exercise {self.id}. Derived from the exercise\'s source; do not '
            f'edit."""\n\n{self.one("visible")}\n\nTITLE = {self.title!r}\nGIVEN = '
            f"{self.given!r}\n"
        )

    def tests(self):
        """Two namespaces: of the visible and of the hidden tests (which may use the former's)."""
        visible = {"__name__": f"visible_{self.id}"}
        exec(compile(self.one("visible"), f"<{self.id} visible>", "exec"), visible)
        hidden = dict(visible, __name__=f"hidden_{self.id}")
        before = set(hidden)
        exec(compile(self.one("hidden"), f"<{self.id} hidden>", "exec"), hidden)
        return visible, {name: hidden[name] for name in hidden if name not in before}

    def program(self):
        """[(name, source)] of the cells of the reference answer."""
        parts = [("imports", self.one("imports")), ("given", self.given_source)]
        return parts + [
            (cell.kind, self.solved(cell) if cell.kind == "answer" else cell.text)
            for cell in self.of("code", "answer")
        ]


def read(path, cohort=""):
    """The exercise in a source file."""
    path = Path(path)
    cells, kind, title, lines, start = [], None, "", [], 0

    def close():
        if kind is None:
            return
        text = "\n".join(lines).strip("\n")
        if kind in ("about", "text", "hint", "solution", "rubric"):
            try:
                text = ast.literal_eval(text.strip()).strip("\n")
            except (SyntaxError, ValueError):
                raise SourceError(
                    f"{path.name}, line {start}: a `{kind}` cell is one string literal"
                ) from None
        cells.append(Cell(kind, title, text, start))

    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        if match := re.match(r"# %%\s*(\w+)(?::\s*(.+))?$", line):
            close()
            kind, title, lines, start = match[1], (match[2] or "").strip(), [], number
            if kind not in CELLS:
                raise SourceError(
                    f"{path.name}, line {number}: no cell is called {kind!r}; there are "
                    f"{', '.join(CELLS)}"
                )
        else:
            lines.append(line)
    close()
    return Exercise(path, cells, cohort)


def paths(folder=FOLDER):
    """Every source, in the order of the exercises' numbers."""
    found = [p for p in Path(folder).glob("*.py") if re.match(r"\d+_\d+_\w+\.py$", p.name)]
    return sorted(found, key=lambda p: [int(n) for n in p.name.split("_")[:2]])


def load(cohort="", folder=FOLDER):
    """Every exercise, for one cohort ("" is the book's own)."""
    found = {}
    for exercise in (read(path, cohort) for path in paths(folder)):
        if exercise.id in found:
            exercise.fail(f"there is another exercise {exercise.id}; number it anew")
        found[exercise.id] = exercise
    return list(found.values())
