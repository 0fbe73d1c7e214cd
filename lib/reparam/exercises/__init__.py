"""Self-checks of the exercises: `check("1.2")` looks at your answer and says what is wrong.

The exercises stand in `book/exercises/`, one notebook a chapter. Each answer is found by its name
in the notebook that calls `check`; nothing is sent anywhere, and there is no score. Graded work is
run again elsewhere, with inputs that the notebook does not contain.
"""

import functools
import importlib
import pkgutil
import sys
import textwrap

import torch

from reparam.exercises import checks as _checks
from reparam.exercises import expect
from reparam.exercises._running import Answer, Outcome, checks_of, points, run

__all__ = ["Outcome", "check", "expect", "points", "require"]

_SEED = 20260101


def check(exercise, answer=None):
    """Print what the self-check of an exercise says of your answer, as it stands.

    Each check is one line, "passed" or "not yet", and below "not yet" stands what is wrong. Your
    answers are taken from the notebook by name, so run their cells first.

    Args:
        exercise: its number as a text, such as `"1.2"`.
        answer: to be left out. The answer to a question of a quiz, whose numbers are similar, goes
            to `reparam.quiz.check`.

    Raises:
        TypeError: if there is an `answer`.
        ValueError: if there is no such exercise; the message lists those that there are.

    Used in the exercises of every chapter.

    >>> check("1.1")
    Exercise 1.1 is not answered yet: fill in its cells, run them, then this one.
    """
    if answer is not None:
        raise TypeError(
            f"check({exercise!r}) takes the answer to an exercise from your cells; the answer to a "
            f"question of a quiz goes to reparam.quiz.check({exercise!r}, {answer!r})"
        )
    print(_report(exercise, sys._getframe(1).f_globals)[0])


def require(exercise):
    """As `check`, and raise if a check does not pass: what autograders call.

    Raises:
        AssertionError: with the text of the report, unless every check passes.
        ValueError: if there is no such exercise.

    Used in the exported assignments of every chapter.

    >>> require("1.1")
    Traceback (most recent call last):
    ...
    AssertionError: Exercise 1.1 is not answered yet: fill in its cells, run them, then this one.
    """
    text, passed = _report(exercise, sys._getframe(1).f_globals)
    if not passed:
        raise AssertionError(text)
    print(text)


def _report(exercise, namespace):
    module = _load(exercise)
    given = {name: namespace.get(name, value) for name, value in module.GIVEN.items()}
    answer = Answer(namespace, given)
    # The learner's own random numbers go on afterwards as if nothing had been checked.
    with torch.random.fork_rng(devices=[]):
        outcomes = [run(test, answer, _SEED) for test in checks_of(vars(module))]
    if all(outcome.status == "unanswered" for outcome in outcomes):
        return (
            f"Exercise {exercise} is not answered yet: fill in its cells, run them, then this one.",
            False,
        )
    return _text(f"Exercise {exercise}: {module.TITLE}", outcomes)


def _text(head, outcomes):
    lines = [head]
    for outcome in outcomes:
        label = "passed" if outcome.status == "passed" else "not yet"
        lines.append(f"  {label}  {outcome.title}")
        if outcome.message:
            detail = f" ({outcome.detail})" if outcome.detail else ""
            lines.append(textwrap.indent(textwrap.fill(outcome.message + detail, 72), " " * 11))
    count = sum(outcome.status == "passed" for outcome in outcomes)
    passed = count == len(outcomes)
    lines.append(
        f"All {count} checks pass." if passed else f"{count} of {len(outcomes)} checks pass so far."
    )
    return "\n".join(lines), passed


@functools.cache
def _known():
    names = [module.name for module in pkgutil.iter_modules(_checks.__path__)]
    return sorted(names, key=lambda name: [int(part) for part in name[1:].split("_")])


def _load(exercise):
    name = "x" + str(exercise).replace(".", "_")
    if not isinstance(exercise, str) or name not in _known():
        known = ", ".join(name[1:].replace("_", ".") for name in _known())
        raise ValueError(f"there is no exercise {exercise!r}; there are {known}")
    return importlib.import_module(f"{_checks.__name__}.{name}")
