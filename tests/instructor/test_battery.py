"""Submissions that implement nothing get nothing, and leave nothing behind."""

import os
import sysconfig
import time
from pathlib import Path

import pytest
from battery import EXERCISES, IDS, NOTEBOOKS

from instructor.grader import grading, sandbox

pytestmark = pytest.mark.slow
NAMES = list(NOTEBOOKS)


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


@pytest.mark.parametrize("name", NAMES)
def test_it_gets_nothing(name, sandboxed, monkeypatch):
    monkeypatch.setattr(grading, "TEST_SECONDS", 2)  # those who wait for its end, wait less here
    notebook = NOTEBOOKS[name]
    if isinstance(notebook, bytes):
        notebook = notebook.decode("utf-8", errors="replace")
    before, begun = outside(), time.monotonic()
    slot = 900 + NAMES.index(name) % 80
    graded = grading.grade(notebook, EXERCISES, seed=1, slot=slot)
    ended = time.monotonic()
    got = {
        f"{e['id']} {t['title']}": t["points"] for e in graded.exercises for t in e["tests"]
        if t["points"]
    }  # fmt: skip
    assert graded.points == 0, f"points for: {got}"
    assert [e["id"] for e in graded.exercises] == list(IDS)
    assert graded.of == sum(e.about["points"] for e in EXERCISES)
    assert outside() == before, "a file of ours was changed"
    while mine := [p for p in in_sandbox() if p[1] == sandbox.USER + slot]:
        assert time.monotonic() < ended + 5, f"processes outlive their grading: {mine}"
        time.sleep(0.05)  # the kernel takes a moment to bury them
    assert ended - begun < 120


def test_words_of_an_answer_do_not_reach_its_report(sandboxed):
    """An exception's text and class could carry hidden inputs out."""
    from battery import with_cells

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
