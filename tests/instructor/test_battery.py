"""Submissions that implement nothing get nothing, and leave nothing behind.

They are graded two at a time, with right answers among them: many wait for a limit of time to end
them, and what one of them does must not cost the others their marks.
"""

import os
import sysconfig
import time
from pathlib import Path

import pytest
from battery import EXERCISES, IDS, NOTEBOOKS, with_cells

from instructor import build
from instructor.grader import batch, grading, sandbox

pytestmark = pytest.mark.slow
JOBS = 2
SLOT = 900  # and above: slots that no other test grades in
PATIENCE = grading.TEST_SECONDS, grading.LOAD_SECONDS, grading.LOSSES
SOLVED = [f"solved {number}" for number in range(JOBS)]


def outside():
    """What an answer must not touch: the grader, the checks, and what the next worker imports."""
    root, packages = sandbox.HERE.parents[1], Path(sysconfig.get_path("purelib"))
    kept = [
        p for folder in ("instructor", "lib/reparam/exercises") for p in (root / folder).rglob("*")
    ]
    kept += [*packages.glob("*.py"), *packages.glob("*.pth"), packages / "torch/__init__.py"]
    return {p: p.stat().st_mtime_ns for p in kept if p.suffix in (".py", ".pth")}


def in_sandbox():
    """Processes that run a worker."""
    found = []
    for name in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{name}/cmdline", "rb") as file:
                words = file.read()
            owner = os.stat(f"/proc/{name}").st_uid
        except OSError:
            continue
        if b"/worker/worker.py" in words or sandbox.USER + 900 <= owner < sandbox.USER + 990:
            found.append((name, owner, words))
    return found


def grade(notebook, patient):
    """In a grading process: the grade, and the processes that outlive it by five seconds."""
    grading.TEST_SECONDS, grading.LOAD_SECONDS, grading.LOSSES = PATIENCE if patient else (2, 6, 1)
    slot, begun = SLOT + batch._begin.slot, time.monotonic()
    graded = grading.grade(notebook, EXERCISES, seed=1, slot=slot)
    ended = time.monotonic()
    while left := [p for p in in_sandbox() if p[1] == sandbox.USER + slot]:
        if time.monotonic() > ended + 5:
            break
        time.sleep(0.05)  # the kernel takes a moment to bury them
    return graded, ended - begun, left


@pytest.fixture(scope="module")
def grades():
    """{name: future of its grade} of all of them, graded side by side."""
    solved = build.plain_notebook(EXERCISES, solved=True)
    hostile = {
        name: text if isinstance(text, str) else text.decode("utf-8", errors="replace")
        for name, text in NOTEBOOKS.items()
    }
    step = len(hostile) // len(SOLVED)
    order = list(hostile)
    for number, name in enumerate(SOLVED):
        order.insert(number * (step + 1), name)
    before = outside()
    with batch._pool(JOBS) as pool:
        yield {
            name: pool.submit(grade, hostile.get(name, solved), name in SOLVED) for name in order
        }
    assert outside() == before, "a file of ours was changed"


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_it_gets_nothing(name, sandboxed, grades):
    graded, seconds, left = grades[name].result()
    assert graded.points == 0, [t for e in graded.exercises for t in e["tests"] if t["points"]]
    assert [e["id"] for e in graded.exercises] == list(IDS)
    assert graded.of == sum(e.about["points"] for e in EXERCISES)
    assert not left, f"processes outlive their grading: {left}"
    assert seconds < 120


@pytest.mark.parametrize("name", SOLVED)
def test_right_answers_beside_them_get_everything(name, sandboxed, grades):
    graded, _, left = grades[name].result()
    lost = [t for e in graded.exercises for t in e["tests"] if t["status"] != "passed"]
    assert not lost and graded.points == graded.of, lost
    assert not left


def test_words_of_an_answer_do_not_reach_its_report(sandboxed):
    """An exception's text and class could carry hidden inputs out."""
    attack = """
def reaches_mu(program):
    import torch
    name = "Secret" + str(torch.initial_seed())
    raise type(name, (ValueError,), {})("hidden input: 42")
"""
    graded = grading.grade(with_cells(attack), EXERCISES, seed=1, slot=901)
    tests = graded.exercises[0]["tests"]
    assert all(t["status"] == "failed" for t in tests)
    assert all("Secret" not in t["message"] and "42" not in t["message"] for t in tests)
    assert "hidden input" in tests[0]["detail"]  # for teachers
