"""What a source may hold, and what is said when it does not."""

import pytest

from instructor import sources

ABOUT = '''# %% about
"""
title = "A title"
kind = "bug"
difficulty = 1
minutes = 5
points = 3
objective = "See it"
after = "Quiz"
"""
'''
REST = '''
# %% imports
import torch
# %% given
SIGMA = 0.5  # or 2.0, 4.0
# %% text
r"""
Take $\\sigma = «SIGMA»$.
"""
# %% answer
def double(x):
    """2x."""
    y = 0
    ### BEGIN SOLUTION
    y = x
    return 2 * y
    ### END SOLUTION
# %% answer
### BEGIN SOLUTION
_helper = 1
choice = "a"
### END SOLUTION
'''


@pytest.fixture
def read(tmp_path):
    def read(text, cohort=""):
        path = tmp_path / "3_1_x.py"
        path.write_text(text, encoding="utf-8")
        return sources.read(path, cohort)

    return read


def test_a_source_is_read(read):
    exercise = read(ABOUT + REST)
    assert (exercise.id, exercise.chapter, exercise.title) == ("3.1", 3, "A title")
    assert exercise.names == ["double", "choice"]
    assert exercise.given == {"SIGMA": 0.5}
    assert "= 0.5$" in exercise.fill(exercise.one("text"))


def test_blank_and_solved(read):
    exercise = read(ABOUT + REST)
    function, value = exercise.of("answer")
    blank = exercise.blank(function)
    assert 'raise NotImplementedError("3.1: your lines go here")' in blank
    assert "2 * y" not in blank and "y = 0" in blank
    assert exercise.blank(value) == "choice = None  # your answer"
    solved = exercise.solved(function)
    assert "return 2 * y" in solved and "SOLUTION" not in solved


def test_cohorts_draw_from_the_choices(read):
    drawn = {read(ABOUT + REST, cohort).given["SIGMA"] for cohort in "abcdefghij"}
    assert drawn == {0.5, 2.0, 4.0}
    assert read(ABOUT + REST, "a").given == read(ABOUT + REST, "a").given


@pytest.mark.parametrize(
    "text, message",
    [
        (ABOUT.replace('kind = "bug"', 'kind = "riddle"'), "`kind` is one of"),
        (ABOUT.replace("minutes = 5", ""), "`about` needs minutes"),
        (ABOUT + "# %% riddle\n", "no cell is called 'riddle'"),
        (ABOUT + "# %% text\nnot a string\n", "one string literal"),
        (ABOUT + "# %% answer\ndef f(): pass\n", "lacks `### BEGIN SOLUTION`"),
        (REST, "exactly one `about` cell"),
    ],
)
def test_a_fault_is_named(read, text, message):
    with pytest.raises(sources.SourceError, match=message) as caught:
        read(text)
    assert "3_1_x.py" in str(caught.value)


def test_an_unknown_constant_is_named(read):
    with pytest.raises(sources.SourceError, match="«TAU» is not among the given names"):
        read(ABOUT + REST).fill("«TAU»")


def test_numbers_of_exercises_are_unique(tmp_path):
    for name in ("1_1_a.py", "1_1_b.py"):
        (tmp_path / name).write_text(ABOUT + REST, encoding="utf-8")
    with pytest.raises(sources.SourceError, match=r"1_1_b\.py: there is another exercise 1\.1"):
        sources.load(folder=tmp_path)


# ---------------------------------------------------------------- what a worker reads
