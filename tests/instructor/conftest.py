"""Tests of the exercises and the grader; without instructor/ there is nothing to test."""

import platform
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
HERE = (ROOT / "instructor").is_dir()
collect_ignore_glob = [] if HERE else ["*.py"]


def pytest_collection_modifyitems(items):
    skip = pytest.mark.skip(reason="the sandbox needs Linux")
    for item in items:
        if "sandboxed" in getattr(item, "fixturenames", ()) and platform.system() != "Linux":
            item.add_marker(skip)


@pytest.fixture
def sandboxed(monkeypatch):
    """Answers run in the sandbox, with less patience than for students."""
    from instructor.grader import grading

    monkeypatch.setattr(grading, "TEST_SECONDS", 2)
    monkeypatch.setattr(grading, "LOAD_SECONDS", 6)
