"""Run the checks of an exercise on an answer, wherever the answer lives."""

import ast
import hashlib
import linecache
import traceback
from dataclasses import dataclass

import torch

from reparam.exercises.expect import NotYet, Unanswered

_OURS = ("reparam", "torch", "importlib", "IPython", "ipykernel")


@dataclass(frozen=True)
class Outcome:
    """What one check found. `message` is for everyone; `detail` holds numbers and names of inputs.

    `status` is "passed", "not yet" (an expectation was not met), "failed" (the answer's own code
    raised) or "unanswered".

    Used in the exercises of every chapter.

    >>> def test_total(answer, rng):
    ...     "The total is right."
    ...     if answer.total != 3:
    ...         raise NotYet("The total is 3.", f"yours {answer.total}")
    >>> outcome = run(test_total, Answer({"total": 2}, given={}), seed=0)
    >>> outcome.status, outcome.message, outcome.detail
    ('not yet', 'The total is 3.', 'yours 2')
    """

    name: str
    title: str
    status: str
    message: str = ""
    detail: str = ""
    points: float = 0


class Answer:
    """The names that an answer defines, as attributes, and what the exercise gave, in `given`."""

    def __init__(self, namespace, given):
        self._namespace = namespace
        self.given = given

    def __getattr__(self, name):
        value = self._namespace.get(name)
        if value is None or value is Ellipsis:
            raise Unanswered(f"`{name}` has no answer yet: fill it in and run its cell.")
        return value

    def seed(self, seed):
        """Fix the noise that the answer draws from torch."""
        torch.manual_seed(seed)

    def parameters(self, module):
        """{name: value} of the parameters of a module that the answer made."""
        return {name: value.detach().clone() for name, value in module.named_parameters()}

    def parameter_gradients(self, module):
        """{name: gradient or None} of the parameters of a module that the answer made."""
        return {name: value.grad for name, value in module.named_parameters()}


def points(number):
    """Decorator: what a hidden test is worth, in points.

    Args:
        number: any number; it is not checked.

    Returns:
        A decorator that gives a test the attribute `points`, and raises nothing.

    Used in the sources of the exercises of every chapter.

    >>> @points(2)
    ... def test_sum(answer, rng):
    ...     "The sum is right."
    >>> test_sum.points
    2
    """

    def mark(test):
        test.points = number
        return test

    return mark


def checks_of(namespace):
    """The checks of a module, in the order in which they stand there."""
    return [thing for name, thing in namespace.items() if name.startswith("test_")]


def about(test):
    """What an outcome says of its test."""
    return {
        "name": test.__name__,
        "title": (test.__doc__ or test.__name__).strip().splitlines()[0].rstrip("."),
        "points": getattr(test, "points", 0),
    }


def run(test, answer, seed):
    """Run one check: `test(answer, rng)`, with `rng` for its own random inputs.

    The answer is told another seed, from which the check's own cannot be computed.
    """
    named = about(test)
    try:
        torch.manual_seed(seed)
        answer.seed(int(hashlib.sha256(b"%d" % seed).hexdigest()[:12], 16))
        test(answer, torch.Generator().manual_seed(seed))
    except NotYet as fault:
        return Outcome(status="not yet", message=fault.message, detail=fault.detail, **named)
    except (Unanswered, NotImplementedError) as blank:
        message = str(blank) if isinstance(blank, Unanswered) else "Not answered yet."
        return Outcome(status="unanswered", message=message, **named)
    except Exception as error:
        kind = getattr(error, "kind", type(error).__name__)
        if kind == "NotImplementedError":
            return Outcome(status="unanswered", message="Not answered yet.", **named)
        message = getattr(error, "message", f"Your code raised {kind}.")
        detail = getattr(error, "text", str(error)).strip()[:300]
        where = getattr(error, "where", "") or _place(error)
        return Outcome(
            status="failed", message=message, detail="; ".join(filter(None, [detail, where])),
            **named,
        )  # fmt: skip
    return Outcome(status="passed", **named)


def _place(error):
    """The last line of the learner's own code in a traceback."""
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        library = any(f"/{name}/" in frame.filename.replace("\\", "/") for name in _OURS)
        if not library and not frame.filename.startswith("<frozen"):
            line = (frame.line or linecache.getline(frame.filename, frame.lineno)).strip()
            return f"at line {frame.lineno} of `{frame.name}`: `{line[:80]}`"
    return ""


def names_in(source):
    """Names that a cell defines at its top level: functions, classes, variables."""
    names = []
    for node in ast.parse(source).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            names.append(node.name)
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            for target in targets:
                parts = target.elts if isinstance(target, ast.Tuple) else [target]
                names += [part.id for part in parts if isinstance(part, ast.Name)]
    return list(dict.fromkeys(names))
