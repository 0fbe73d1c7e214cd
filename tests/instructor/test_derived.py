"""What is derived from the sources is what they give, and nothing secret is in it."""

import functools
import re
import shutil
import subprocess
import sys

import nbformat
import pytest

from instructor import build, sources
from tools import notebooks

ROOT = build.ROOT
PLANTED = "zz_planted_secret"


def test_committed_files_are_what_the_sources_give():
    assert not build.faults(), "\n".join(build.faults())


def test_a_stale_file_is_noticed(monkeypatch, tmp_path):
    files = build.derived()
    path = next(p for p in files if p.name == "x1_1.py")
    monkeypatch.setattr(build, "derived", lambda: {**files, path: files[path] + "\n"})
    assert any("x1_1.py" in fault for fault in build.faults())


def plain(text):
    """A text without what HTML, JSON and layout make of its quotes and spaces."""
    for mark, meant in (("&quot;", '"'), ("&#39;", "'"), ("&lt;", "<"), ("&gt;", ">"),
                        ("&amp;", "&"), ('\\"', '"')):  # fmt: skip
        text = text.replace(mark, meant)
    return re.sub(r"\s+", "", text)


@functools.cache
def secrets():
    """Lines of solutions, hidden tests and attempts that stand in no public text on purpose."""
    public = plain("\n".join(
        p.read_text(encoding="utf-8")
        for folder in ("lib", "book")
        for p in (ROOT / folder).rglob("*")
        if (p.suffix in (".py", ".md") and p.parent.name != "checks")
        or (p.suffix == ".ipynb" and p.parent.name == "book")
    ))  # fmt: skip
    shown = plain("\n".join(
        text
        for exercise in sources.load()
        for text in [
            *(c.text for c in exercise.of("text", "code", "hint", "visible", "imports")),
            *(exercise.blank(c) for c in exercise.of("answer")),
        ]
    ))  # fmt: skip
    found = []
    for exercise in sources.load():
        for line in map(plain, exercise.solution_lines()):
            if len(line) >= 25 and line not in shown and line not in public:
                found.append((exercise.id, line))
    return found


def leaks(text):
    """Secret lines that a text holds, its markup apart."""
    text = plain(text) + plain(re.sub(r"<[^>]+>", "", text))
    return [(i, line) for i, line in secrets() if line in text]


def public_files(folder):
    kinds = {".ipynb", ".html", ".js", ".txt", ".json", ".md", ".py", ".inv", ".xml"}
    return [p for p in folder.rglob("*") if p.suffix in kinds and p.is_file()]


def test_there_are_secrets():
    assert len({exercise for exercise, _ in secrets()}) == len(sources.paths())
    line = next(line for exercise, line in secrets() if exercise == "7.5")
    assert leaks(f"<span>{line}</span>"), "the search below would find nothing"


@pytest.mark.parametrize("folder", ["book/exercises", build.CHECKS, "_build/html"])
def test_nothing_secret_is_public(folder):
    files = public_files(ROOT / folder)
    assert files, f"{folder} is empty: run `make exercises book`"
    for path in files:
        relative = str(path.relative_to(ROOT))
        if folder == "_build/html" and not (
            "exercises" in relative or path.name in ("searchindex.js", "genindex.html")
        ):
            continue
        found = leaks(path.read_text(encoding="utf-8", errors="ignore"))
        assert not found, f"{relative} gives away {found[:3]}"


def test_nothing_of_teachers_is_in_the_built_book():
    for path in public_files(ROOT / "_build/html"):
        assert "instructor/exercises" not in str(path) and "solutions" not in path.name
        text = path.read_text(encoding="utf-8", errors="ignore")
        assert "BEGIN SOLUTION" not in text and "BEGIN HIDDEN" not in text, path


def test_the_public_copy_does_not_point_to_what_it_has_not(tmp_path):
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "instructor/targets.mk").read_text(), re.M))
    targets -= {"test"}  # which the main Makefile has, too
    for name in build.MARKED:
        page = tmp_path / name
        page.parent.mkdir(exist_ok=True)
        page.write_text((ROOT / name).read_text(encoding="utf-8"), encoding="utf-8")
    assert build.main(["public", "--out", str(tmp_path)]) == 0
    for name in build.MARKED:
        before = (ROOT / name).read_text(encoding="utf-8")
        after = (tmp_path / name).read_text(encoding="utf-8")
        assert "instructor/" in before and 0.7 < len(after) / len(before) < 1
        assert "teachers -->" not in after
        missing = re.findall(r"\]\([^)]*instructor/[^)]*\)|`instructor/[^`]*`", after)
        assert not missing, f"{name} points to {missing}"
        called = targets.intersection(re.findall(r"\bmake ([a-z-]+)", after))
        assert not called, f"{name} calls {called}"


def test_what_the_public_copy_tests_is_there():
    others = [p for p in (ROOT / "tests").rglob("*.py") if p.parent != ROOT / "tests/instructor"]
    assert len(others) > 50
    reading = [p.name for p in others if "instructor/" in p.read_text(encoding="utf-8")]
    assert not reading, f"{reading} read what only teachers have"


@pytest.fixture
def planted(tmp_path):
    """Sources with a secret word in every part that is not for students."""
    folder = tmp_path / "sources"
    folder.mkdir()
    for path in sources.paths():
        text, kind = [], ""
        for line in path.read_text(encoding="utf-8").splitlines():
            if match := re.match(r"# %%\s*(\w+)", line):
                kind = match[1]
            text.append(line)
            if "BEGIN SOLUTION" in line:
                indent = line[: len(line) - len(line.lstrip())]
                text.append(f'{indent}_ = "{PLANTED}"')
            if kind in ("hidden", "right", "wrong") and line.startswith("# %%"):
                text.append(f'_ = "{PLANTED}"')
            if kind in ("solution", "rubric") and line.strip() in ('r"""', '"""') and (
                text[-2].startswith("# %%")
            ):  # fmt: skip
                text.append(PLANTED)
        (folder / path.name).write_text("\n".join(text) + "\n", encoding="utf-8")
    return folder


def test_a_planted_word_reaches_teachers_and_nobody_else(planted, monkeypatch, tmp_path):
    load = sources.load
    monkeypatch.setattr(sources, "load", lambda cohort="": load(cohort, planted))
    for path, text in build.derived().items():
        teachers = "solutions" in path.parts
        assert (PLANTED in text) == teachers, path
    for path in build.handout(tmp_path / "handout", cohort="x"):
        assert PLANTED not in path.read_text(encoding="utf-8")
    build.teachers(tmp_path / "teachers")
    assert PLANTED in next((tmp_path / "teachers/nbgrader/source").rglob("*.ipynb")).read_text()


def test_a_handout_is_a_selection_with_its_own_constants(tmp_path):
    (path,) = build.handout(tmp_path, ["7.4", "7.5"], cohort="autumn")
    nb = notebooks.read(path)
    nbformat.validate(nb)
    text = path.read_text(encoding="utf-8")
    assert "Exercise 7.4" in text and "Exercise 7.5" in text and "Exercise 7.1" not in text
    given = next(e for e in sources.load("autumn") if e.id == "7.4").given["T"]
    assert f"T = {given}" in text and f"$t = {given}$" in text and "«" not in text
    assert "Open in Colab" not in text  # the book's notebook has other constants


def test_the_command_names_what_there_is(capsys):
    with pytest.raises(SystemExit):
        build.main(["handout", "--exercises", "9.9"])
    assert "7.5" in capsys.readouterr().err


@pytest.mark.slow
def test_without_instructor_the_book_builds_and_passes(tmp_path):
    """A copy of the tree, instructor/ left out: targets are listed, it builds, its rules hold."""
    names = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard"], cwd=ROOT, capture_output=True, text=True,
        check=True,
    ).stdout.split("\n")  # fmt: skip
    for name in filter(None, names):
        if not name.startswith("instructor/") and (ROOT / name).is_file():
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, tmp_path / name)

    def run(*command):
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=600)
        assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
        return done.stdout

    assert "make grade" not in run("make", "help")
    jupyter_book = str(notebooks.Path(sys.executable).with_name("jupyter-book"))
    run(jupyter_book, "build", ".", "-W", "-n", "--keep-going")
    assert (tmp_path / "_build/html/book/exercises/1-the-gradient-blockage.html").exists()
    rules = ["tests/notebooks/test_rules.py", "tests/lib/test_house.py", "tests/instructor"]
    run(sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *rules)
