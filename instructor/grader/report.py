"""What comes out of grading: for the learner, for Gradescope, for a table.

A learner's report says which hidden test failed, by its title, and what the test says of a mistake
that it knows; never the numbers, which would give hidden inputs away. Those are in results/, for
teachers.
"""

import hashlib
import re

_WORDS = {"passed": "passed", "not yet": "not yet", "failed": "not yet", "unanswered": "no answer"}


def for_learner(result):
    """A Markdown report that a learner can act on."""
    lines = [f"# {_plain(result['student'])}", ""]
    lines += [f"**{result['points']:g} of {result['of']:g} points**", ""]
    if result["problems"]:
        lines += ["## Before you look at the points", ""]
        lines += [f"- {_plain(problem)}" for problem in result["problems"]] + [""]
    for exercise in result["exercises"]:
        head = f"{exercise['id']} {exercise['title']}"
        lines += [f"## {head}: {exercise['points']:g} of {exercise['of']:g} points", ""]
        for test in exercise["tests"]:
            lines.append(
                f"- {_WORDS[test['status']]} ({test['points']:g}/{test['of']:g}): {test['title']}"
            )
            if test["message"]:
                lines.append(f"  {_plain(test['message'])}")
        lines.append("")
    lost = [e["id"] for e in result["exercises"] if e["points"] < e["of"]]
    if lost:
        lines += [
            "## What to do next",
            "",
            "Open the notebook, mend the answer, and run its `check(...)` cell: it runs similar "
            f"tests and shows their numbers. Points are left in {', '.join(lost)}.",
            "",
        ]
    return "\n".join(lines)


def for_gradescope(result):
    """The results.json of a Gradescope autograder."""
    tests = []
    for exercise in result["exercises"]:
        for number, test in enumerate(exercise["tests"], 1):
            tests.append(
                {
                    "name": f"{exercise['title']}: {test['title']}",
                    "number": f"{exercise['id']}.{number}",
                    "score": test["points"],
                    "max_score": test["of"],
                    "status": "passed" if test["status"] == "passed" else "failed",
                    "output": test["message"],
                    "visibility": "visible",
                }
            )
    return {
        "score": result["points"],
        "output": "\n".join(result["problems"]),
        "tests": tests,
    }


def for_table(cell):
    """A cell that no spreadsheet takes for a formula."""
    if isinstance(cell, str):
        cell = " ".join(cell.split())
        return f"'{cell}" if cell.startswith(("=", "+", "-", "@")) else cell
    return cell


def file_name(student):
    """A file name for a student: readable, harmless, and different for different students."""
    kept = re.sub(r"[^\w.-]+", "-", student).strip("-.").encode()[:90].decode(errors="ignore")
    if kept == student and not re.search(r"-[0-9a-f]{6}$", kept):  # which another name may become
        return kept
    return f"{kept}-{hashlib.sha256(student.encode()).hexdigest()[:6]}"


def _plain(text):
    """Text in Markdown that is not Markdown."""
    return re.sub(r"([\\*_<>\[\]#|])", r"\\\1", text)
