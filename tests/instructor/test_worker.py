"""What is executed of a notebook, and what counts as an answer."""

import json
import time

import pytest

from instructor.grader import worker

BLANK = 'def f(x):\n    raise NotImplementedError("9.1: your lines go here")\n'
BLANKS = {"f": BLANK, "n": "n = None  # your answer\n"}


def load(*sources, given=None):
    """(what is said, the names) after a notebook of these cells."""
    cells = [{"cell_type": "code", "source": source} for source in sources]
    served = worker.Worker()
    return served.load(json.dumps({"cells": cells}), BLANKS, given or {}), served.space


@pytest.mark.parametrize(
    "source",
    [
        "if True:\n    n = 3",
        "for n in range(4):\n    pass",
        "import contextlib\nwith contextlib.nullcontext():\n    n = 3",
        "try:\n    import nowhere\n    n = 0\nexcept ImportError:\n    n = 3",
        "print(n := 3)",
        "n = 0\nwhile n < 3:\n    n += 1",
        "kept = []\nkept.append(3)\nn = kept[0]",
        "globals()['n'] = 3",
        "%time n = 3",
        "%%time\nn = 3",
        "!ls\n%matplotlib inline\nn = (10\n% 7)",
        "n = 3\nn?",
        "n = (10\n     % 7)",
        "x = 1/0\nn = 3",
        "class A: pass\nn = 3\ncheck('9.1')\nraise KeyboardInterrupt",
    ],
)
def test_an_answer_is_found_however_it_is_assigned(source):
    found, space = load(*BLANKS.values(), source)
    assert found["state"]["n"] == "value" and space["n"] == 3


@pytest.mark.parametrize("source", ["n = None", "n = ...", "pass", "%%bash\nn = 3", "f = 3 3"])
def test_no_answer_is_none(source):
    assert load(*BLANKS.values(), source)[0]["state"]["n"] == "blank"


@pytest.mark.parametrize(
    "source, names",
    [
        ("%matplotlib inline\nx = 1", ["x"]),
        ("!pip install torch", []),
        ("%%time\nx = 1", ["x"]),
        ("%%bash\nx = 1", []),
        ("%%html\n<b>", []),
        ("%%writefile x.py\nx = 1", []),
        ("if True:\n    %time x = 1", ["x"]),
        ("%time x = 1\ny = (7\n% 2)", ["x", "y"]),
    ],
)
def test_magics_are_no_part_of_an_answer(source, names):
    tree = worker.parsed(source)
    assert [name for node in tree.body for name in worker.names(node)] == names


def test_a_helper_of_another_cell_may_be_in_a_block():
    source = "try:\n    from math import tau as turn\nexcept ImportError:\n    turn = 0"
    _, space = load(source, "def f(x): return turn * x")
    assert space["f"](1) > 6


def test_a_blank_further_down_replaces_nothing():
    found, space = load("def f(x): return 2 * x", BLANK + "# a comment\n", "n = 1", BLANKS["n"])
    assert space["f"](2) == 4 and space["n"] == 1 and found["again"] == {}


def test_the_last_of_several_answers_counts_and_is_told():
    found, space = load("n = 1", "n = 2", "n = 2\nn += 1")
    assert space["n"] == 3 and found["again"] == {"n": [1, 2, 3]}


def test_a_cohort_has_its_own_constants():
    assert load("SIGMA = 1", "n = SIGMA", given={"SIGMA": 4})[1]["n"] == 4


def test_time_is_kept_for_answers(monkeypatch):
    """A training loop or a demonstration is ended; what follows is executed."""
    monkeypatch.setattr(worker, "SPARE", 0.2)
    monkeypatch.setattr(worker, "OF_OTHERS", 0.2)
    slow = "import time\nfor _ in range(100):\n    time.sleep(0.1)"
    stubborn = "try:\n    time.sleep(9)\nexcept Exception:\n    time.sleep(9)"
    begun = time.monotonic()
    found, space = load(slow, stubborn, "loss = time.sleep(9)", "time.sleep(9)", "n = 3")
    assert time.monotonic() - begun < 3
    assert space["n"] == 3 and found["state"]["n"] == "value"
    assert "left out" in found["problems"][0][2]


def test_self_checks_are_not_run():
    source = "from reparam.exercises import check\ndef check(x): raise SystemExit\ncheck('1.1')"
    assert load(source)[0]["problems"] == []
