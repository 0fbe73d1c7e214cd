"""Everything that is derived from the exercises' sources.

    python -m instructor.build write       notebooks and self-checks that are committed
    python -m instructor.build check       say which of them are not what the sources give
    python -m instructor.build handout [--exercises 3.1,3.4 | --chapter 3] [--cohort NAME] [--out F]
    python -m instructor.build teachers [--cohort NAME] [--out F]
                                              solutions, and a course folder for nbgrader
    python -m instructor.build public --out F   mend the pages of a copy without this folder

Committed are `book/exercises/N-….ipynb` (the learner's notebook and its page in the book),
`lib/reparam/exercises/checks/xN_M.py` (the self-checks) and `instructor/solutions/N-….ipynb` (the
same with solutions, rubrics and known wrong answers). Outputs of notebooks come from running them,
`make notebooks`, and strict nbval proves them; everything else is reproduced here to the byte.
"""

import argparse
import functools
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import nbformat
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

from instructor import sources
from reparam.exercises import _running
from tools import notebooks, repoint

ROOT = Path(__file__).resolve().parents[1]
CHECKS = "lib/reparam/exercises/checks"
LEARNERS, TEACHERS = "book/exercises", "instructor/solutions"
# Public pages that speak of this folder, in lines and passages that are marked.
MARKED = ("README.md", "CONTRIBUTING.md", "book/lecturing.md")
KINDS = {
    "derivation": "a derivation, checked numerically", "implementation": "an implementation",
    "bug": "find the bug", "measurement": "a measurement that ends in a decision",
    "harder": "a harder problem",
}  # fmt: skip

HOW = """\
Fill in the cells that say *your lines go here* or `None`, run them, then the `check(…)` below \
them: it looks at your answer, says what is wrong with it, and sends nothing anywhere. Hints open \
one by one. Graded work is tested with other inputs than `check` has, so an answer that is fitted \
to them gains nothing.

**If your runtime is cut off**, only the text of the notebook survives: keep it in Colab with \
*File, Save a copy in Drive*, later open that copy and choose *Runtime, Run all*. To hand it in, \
choose *File, Download, Download .ipynb*; that file is graded as it is."""


@functools.cache
def chapters():
    """{number: {file, title}}"""
    found = tomllib.loads((Path(__file__).parent / "chapters.toml").read_text(encoding="utf-8"))
    return {int(number): about for number, about in found.items()}


# ---------------------------------------------------------------- notebooks


def _cell(kind, cell_id, source, **metadata):
    make = new_code_cell if kind == "code" else new_markdown_cell
    return make(source, id=cell_id, metadata=metadata)


def _head(exercises, path, solved, linked):
    chapter = chapters()[exercises[0].chapter]
    url, branch = repoint.setting(ROOT)
    link = repoint.file_url(url, branch, f"book/{chapter['file']}.ipynb")
    minutes = sum(e.about["minutes"] for e in exercises)
    points = sum(e.about["points"] for e in exercises)
    where = (
        f"[Open in Colab]({repoint.colab_url(url, branch, path)})"
        if linked
        else "To work in Colab: *File, Upload notebook*"
    )
    title = f"Exercises {exercises[0].chapter}: {chapter['title']}"
    text = f"# {'Solutions to e' + title[1:] if solved else title}\n\n{where}"
    text += f" · {minutes} minutes, {points} points\n\nThey belong to [chapter "
    text += f"{exercises[0].chapter}]({link}). {HOW}"
    if solved:
        text += "\n\n> **Watch out.** For teachers: solutions, rubrics and hidden tests' titles."
    return text


def _imports(exercises):
    """The import cell: what the exercises need, each line once, in isort's order."""
    lines = {line for e in exercises for line in e.one("imports").splitlines() if line.strip()}
    lines.add("from reparam.exercises import check")
    done = subprocess.run(
        [sys.executable, "-m", "ruff", "check", "--select", "I", "--fix-only", "--quiet", "-",
         "--stdin-filename", str(ROOT / LEARNERS / "imports.py")],
        input="\n".join(sorted(lines)) + "\n", capture_output=True, text=True, check=True,
    )  # fmt: skip
    return done.stdout.strip()


def about_line(exercise):
    about = exercise.about
    return (
        f"Difficulty {about['difficulty']} of 5 · {about['minutes']} minutes · {about['points']} "
        f"points · {KINDS[about['kind']]} · after *{about['after']}*"
    )


def _exercise_cells(exercise, solved):
    """The cells of one exercise, answers blank or solved."""
    stem = f"x{exercise.id.replace('.', '-')}"
    head = f"## Exercise {exercise.id}: {exercise.title}\n\n{about_line(exercise)}"
    counts, started = {}, False

    def name(kind):
        counts[kind] = counts.get(kind, 0) + 1
        return f"{stem}-{kind}-{counts[kind]}"

    if exercise.cells[2].kind not in ("text", "given"):
        exercise.fail("after `imports` comes `given` or `text`")
    for cell in exercise.of("text", "code", "answer"):
        text = exercise.fill(cell.text) if cell.kind == "text" else cell.text
        if not started:
            if cell.kind != "text":
                exercise.fail("the statement begins with `text`", cell)
            yield _cell("markdown", name("text"), f"{head}\n\n{text}")
            if exercise.given:
                yield _cell("code", name("given"), exercise.given_source)
            started = True
        elif cell.kind == "text":
            yield _cell("markdown", name("text"), text)
        elif cell.kind == "code":
            yield _cell("code", name("code"), text.strip("\n"))
        else:
            source = exercise.solved(cell) if solved else exercise.blank(cell)
            yield _cell("code", name("answer"), source.strip("\n"))
    hints = [
        f'<details class="hint"><summary>Hint {number}</summary>\n\n'
        f"{exercise.fill(cell.text)}\n\n</details>"
        for number, cell in enumerate(exercise.of("hint"), 1)
    ]
    yield _cell("markdown", name("hints"), "\n\n".join(hints))
    yield _cell("code", name("check"), f'check("{exercise.id}")')
    if solved:
        yield _cell("markdown", name("solution"), _for_teachers(exercise))


def _for_teachers(exercise):
    _, hidden = exercise.tests()
    lines = ["### Why", "", exercise.fill(exercise.one("solution")), "", "### Rubric", ""]
    lines += [exercise.fill(exercise.one("rubric")), "", "| hidden test | points |", "|---|--:|"]
    for test in _running.checks_of(hidden):
        lines.append(f"| {_running.about(test)['title']} | {getattr(test, 'points', 0):g} |")
    lines += ["", "Known wrong answers, each caught by the hidden tests:", ""]
    lines += [f"- {cell.title}" for cell in exercise.of("wrong")]
    lines += ["", f"Objective: {exercise.about['objective']}."]
    return "\n".join(lines)


def notebook(exercises, path="", *, solved=False, linked=True):
    """The notebook of some exercises of one chapter, without outputs."""
    cells = [
        _cell("markdown", "head", _head(exercises, path, solved, linked)),
        _cell("code", "setup", repoint.setup_source(*repoint.setting(ROOT)),
              tags=["setup", "hide-input"]),
        _cell("code", "imports", _imports(exercises)),
    ]  # fmt: skip
    for exercise in exercises:
        cells += _exercise_cells(exercise, solved)
    return notebooks.canonical(new_notebook(cells=cells))


def plain_notebook(exercises, solved):
    """The text of a notebook with some exercises' answers, as a grader's canary hands it in."""
    cells = [new_code_cell("\n".join(e.one("imports") for e in exercises))]
    for exercise in exercises:
        cells.append(new_code_cell(exercise.given_source))
        cells += _exercise_cells(exercise, solved)
    return nbformat.writes(new_notebook(cells=cells))


def by_chapter(exercises):
    """{chapter: its exercises}"""
    found = {}
    for exercise in exercises:
        found.setdefault(exercise.chapter, []).append(exercise)
    return found


def overview(exercises):
    """The table of all exercises, for teachers."""
    lines = [
        "# The exercises",
        "",
        f"{len(exercises)} exercises, {sum(e.about['minutes'] for e in exercises)} minutes, "
        f"{sum(e.about['points'] for e in exercises)} points. Derived by `make exercises`.",
        "",
        "| exercise | kind | difficulty | minutes | points | variants | learning objective |",
        "|---|---|--:|--:|--:|---|---|",
    ]
    for e in exercises:
        about, variants = e.about, ", ".join(f"`{name}`" for name in e.given)
        lines.append(
            f"| {e.id} {e.title} | {about['kind']} | {about['difficulty']} | {about['minutes']} | "
            f"{about['points']} | {variants} | {about['objective']} |"
        )
    return "\n".join(lines) + "\n"


def derived():
    """{path: text} of every committed file that comes from the sources, without outputs."""
    files = {ROOT / "instructor/EXERCISES.md": overview(sources.load())}
    for exercise in sources.load():
        name = f"x{exercise.id.replace('.', '_')}.py"
        files[ROOT / CHECKS / name] = exercise.checks_module()
    for chapter, exercises in by_chapter(sources.load()).items():
        for folder, solved in ((LEARNERS, False), (TEACHERS, True)):
            path = f"{folder}/{chapters()[chapter]['file']}.ipynb"
            files[ROOT / path] = notebooks.dumps(notebook(exercises, path, solved=solved))
    return files


def _with_outputs(text, path):
    """The text of a derived notebook with the outputs that the file there has for equal cells."""
    if path.suffix != ".ipynb" or not path.exists():
        return text
    stored = {cell.id: cell for cell in notebooks.read(path).cells}
    fresh = nbformat.reads(text, as_version=4)
    for cell in fresh.cells:
        before = stored.get(cell.id)
        if cell.cell_type == "code" and before and before.source == cell.source:
            cell.outputs = before.outputs
    return notebooks.dumps(fresh)


def faults():
    """Which committed files are not what the sources give: a sentence each."""
    files = derived()
    found = []
    for path, text in files.items():
        if not path.exists() or path.read_text(encoding="utf-8") != _with_outputs(text, path):
            found.append(
                f"{notebooks.shown(path)}: not what its source gives; run `make exercises`"
            )
    for folder, pattern in ((CHECKS, "x*.py"), (LEARNERS, "*.ipynb"), (TEACHERS, "*.ipynb")):
        found += [
            f"{notebooks.shown(path)}: has no source; `make exercises`"
            for path in sorted((ROOT / folder).glob(pattern))
            if path not in files
        ]
    return found


def write():
    """Write what is derived; returns the notebooks whose code changed, which want a run."""
    files = derived()
    for folder, pattern in ((CHECKS, "x*.py"), (LEARNERS, "*.ipynb"), (TEACHERS, "*.ipynb")):
        for path in (ROOT / folder).glob(pattern):
            if path not in files:
                path.unlink()
    for path, text in files.items():
        text = _with_outputs(text, path)
        if not path.exists() or path.read_text(encoding="utf-8") != text:
            notebooks.write(path, text)
            print(f"wrote {notebooks.shown(path)}")
    return [path for path in files if path.suffix == ".ipynb"]


# ---------------------------------------------------------------- what goes out


def handout(out, ids=None, cohort=""):
    """Write the notebooks that students get: nothing in them is secret. Returns their paths."""
    chosen = [e for e in sources.load(cohort) if ids is None or e.id in ids]
    paths = []
    for chapter, exercises in by_chapter(chosen).items():
        name = chapters()[chapter]["file"]
        whole = ids is None and not cohort
        nb = notebook(exercises, f"{LEARNERS}/{name}.ipynb", linked=whole)
        paths.append(Path(out) / f"{name}.ipynb")
        notebooks.write(paths[-1], notebooks.dumps(nb))
    return paths


def _nbgrader_cell(cell, grade_id, *, solution=False, grade=False, points=0):
    about = {
        "grade": grade, "grade_id": grade_id, "locked": not solution, "schema_version": 3,
        "solution": solution, "task": False,
    }  # fmt: skip
    if grade:
        about["points"] = points
    cell.metadata["nbgrader"] = about
    return cell


def nbgrader_notebook(exercises):
    """One assignment in nbgrader's format: solutions and hidden tests between its marks."""
    out = [_nbgrader_cell(cell, cell.id) for cell in notebook(exercises, linked=False).cells[:3]]
    for exercise in exercises:
        stem = f"x{exercise.id.replace('.', '-')}"
        answers = iter(exercise.of("answer"))
        number = 0
        for cell in _exercise_cells(exercise, solved=False):
            if "-answer-" in cell.id:
                number += 1
                cell.source = next(answers).text.strip("\n")
                out.append(_nbgrader_cell(cell, cell.id, solution=True))
            elif "-check-" in cell.id:
                cell.source = f'from reparam.exercises import require\n\nrequire("{exercise.id}")'
                out.append(_nbgrader_cell(cell, cell.id, grade=True))
                out += _hidden_cells(exercise, stem)
            else:
                out.append(_nbgrader_cell(cell, cell.id))
    nb = new_notebook(cells=out, metadata=notebooks.NOTEBOOK_METADATA)
    nb.nbformat_minor = 5
    return nb


def _hidden_cells(exercise, stem):
    """One cell for the code of the hidden tests, then one for the points of each."""
    begin, end = "### BEGIN HIDDEN TESTS", "### END HIDDEN TESTS"
    common = (
        f"{begin}\nfrom reparam.exercises._running import Answer, run\n\n"
        f"{exercise.one('visible')}\n\n\n{exercise.one('hidden')}\n{end}"
    )
    yield _nbgrader_cell(_cell("code", f"{stem}-tests", common), f"{stem}-tests", grade=True)
    _, hidden = exercise.tests()
    for number, test in enumerate(_running.checks_of(hidden), 1):
        source = (
            f"{begin}\nfound = run({test.__name__}, Answer(globals(), {exercise.given!r}), "
            f'{number})\nassert found.status == "passed", found.message\n{end}'
        )
        cell = _cell("code", f"{stem}-test-{number}", source)
        yield _nbgrader_cell(cell, cell.id, grade=True, points=getattr(test, "points", 0))


NBGRADER_CONFIG = """\
# A course folder for nbgrader: `nbgrader generate_assignment NAME`, then release/ is for students.
c = get_config()
c.CourseDirectory.course_id = "reparam"
c.ClearSolutions.code_stub = {"python": 'raise NotImplementedError("your lines go here")'}
# An assignment is one notebook with the outputs of nobody; learners may add cells of their own.
c.ExecutePreprocessor.timeout = 120
"""


def nbgrader(out, cohort=""):
    """Write a course folder that nbgrader takes as it is."""
    out = Path(out)
    notebooks.write(out / "nbgrader_config.py", NBGRADER_CONFIG)
    for chapter, exercises in by_chapter(sources.load(cohort)).items():
        name = chapters()[chapter]["file"]
        text = nbformat.writes(nbgrader_notebook(exercises))
        notebooks.write(out / "source" / name / f"{name}.ipynb", text + "\n")
    return out


def teachers(out, cohort=""):
    """Write what stays with teachers: solved notebooks and nbgrader's course. Returns the paths."""
    out, paths = Path(out), []
    for chapter, exercises in by_chapter(sources.load(cohort)).items():
        nb = notebook(exercises, solved=True, linked=False)
        paths.append(out / "solutions" / f"{chapters()[chapter]['file']}.ipynb")
        notebooks.write(paths[-1], notebooks.dumps(nb))
    return [*paths, nbgrader(out / "nbgrader", cohort)]


def without_teachers(text):
    """A page as it stands in the public copy, where this folder and its targets are not."""
    text = re.sub(r"<!-- teachers -->\n.*?<!-- end of teachers -->\n\n?", "", text, flags=re.S)
    return re.sub(r".*<!-- for teachers -->\n", "", text)


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("command", choices=["write", "check", "handout", "teachers", "public"])
    parser.add_argument("--exercises", help="such as 3.1,3.4")
    parser.add_argument("--chapter", type=int)
    parser.add_argument("--cohort", default="", help="a word: constants are drawn from it")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args(arguments)
    if options.command == "check":
        found = faults()
        print("\n".join(found), file=sys.stderr)
        return 1 if found else 0
    if options.command == "write":
        for path in write():
            print(notebooks.shown(path))
        return 0
    if options.command == "teachers":
        for path in teachers(options.out or ROOT / "_build/instructor", options.cohort):
            print(path)
        return 0
    if options.command == "public":
        for name in MARKED:
            page = options.out / name
            page.write_text(without_teachers(page.read_text(encoding="utf-8")), encoding="utf-8")
        return 0
    known = [e.id for e in sources.load()]
    ids = options.exercises.split(",") if options.exercises else None
    if options.chapter is not None:
        ids = [i for i in known if i.split(".")[0] == str(options.chapter)]
    if unknown := [i for i in ids or known if i not in known] or (["such"] if ids == [] else []):
        parser.exit(2, f"There is no exercise {', '.join(unknown)}; there are {', '.join(known)}\n")
    for path in handout(options.out or ROOT / "_build/handout", ids, options.cohort):
        print(path)
    print(
        f"They install the library from {repoint.setting()[0]}: students must be able to read it, "
        "and it must not hold instructor/ (see the top of instructor/GUIDE.md)"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
