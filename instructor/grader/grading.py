"""Grade one notebook: its answers run in a sandbox, the tests here.

The tests are the exercises' own `hidden` cells, ordinary PyTorch. An answer is at the other end of
a pipe (`peer`), so nothing that it does can reach a test, an expected value or a mark; the worst
that it can do is to give no answer.
"""

import contextlib
import functools
import hashlib
import json
import re
import time
from dataclasses import asdict, dataclass, field

from instructor import sources
from instructor.grader import sandbox
from instructor.grader.limits import alarm
from instructor.grader.peer import Broken, RemoteError
from reparam.exercises._running import Outcome, about, checks_of, run
from reparam.exercises.expect import Unanswered

TEST_SECONDS = 10  # of one test; a right answer takes hundredths of one
LOAD_SECONDS = 30  # to execute the cells of a notebook
NOTEBOOK_SECONDS = 300  # of a whole notebook; what is not tested by then counts as no answer
LOSSES = 2  # of the sandbox in one exercise, before the rest of it counts as no answer
SIZE_LIMIT = 20 * 2**20  # bytes of a notebook


@dataclass
class Graded:
    """What one notebook got, exercise by exercise."""

    points: float = 0
    of: float = 0
    exercises: list = field(default_factory=list)
    problems: list = field(default_factory=list)
    seconds: float = 0

    def as_dict(self):
        return asdict(self)


class Unreadable(Exception):
    """The file is no notebook."""


class RemoteAnswer:
    """An answer in its sandbox, as tests see any answer (`reparam.exercises._running.Answer`)."""

    def __init__(self, session, given):
        self._session, self.given = session, given

    def __getattr__(self, name):
        state = self._session.state.get(name, "blank")
        if state == "blank":
            raise Unanswered("Not answered yet.")
        if state == "value":
            return self._session.peer.request({"op": "value", "name": name})
        return functools.partial(self._call, name)

    def _call(self, name, *args, **kwargs):
        return self._session.peer.call({"name": name}, args, kwargs)

    def seed(self, seed):
        peer = self._session.ready()
        peer.deadline = time.monotonic() + TEST_SECONDS
        peer.forget()
        peer.request({"op": "seed", "seed": seed})

    def parameters(self, module):
        return self._of(module, gradients=False)

    def parameter_gradients(self, module):
        return self._of(module, gradients=True)

    def _of(self, module, gradients):
        target = {"ref": module._number}
        message = {"op": "parameters", "target": target, "gradients": gradients}
        return self._session.peer.request(message)


class Session:
    """The sandbox of one notebook; started again when an answer has brought it down."""

    def __init__(self, notebook, exercises, slot, until):
        self._notebook, self._exercises, self._slot = notebook, exercises, slot
        self._until = until
        self._stack = contextlib.ExitStack()
        self.peer, self.state, self.again, self.problems = None, {}, {}, []
        self.loads = True  # until executing the cells has brought it down

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._stack.close()

    def stop(self):
        self._stack.close()
        self.peer = None

    @property
    def over(self):
        """Whether the time of the whole notebook is used up."""
        return time.monotonic() > self._until

    def ready(self):
        """The peer, with the notebook's cells executed."""
        if self.over:
            raise Broken("the notebook as a whole took too long")
        if self.peer is None:
            self.peer = self._stack.enter_context(sandbox.process(self._slot))
            self.peer.deadline = time.monotonic() + LOAD_SECONDS
            blanks = {
                name: source
                for exercise in self._exercises
                for name, source in blanks_of(exercise).items()
            }
            given = {k: v for exercise in self._exercises for k, v in exercise.given.items()}
            message = {"op": "load", "notebook": self._notebook, "blanks": blanks, "given": given}
            try:
                found = self.peer.request(message)
                self.state = {str(name): str(state) for name, state in found["state"].items()}
                self.again = {str(n): [int(i) for i in at] for n, at in found["again"].items()}
                self.problems = [clean(f"Cell {n}: {k}: {t}") for n, k, t in found["problems"]]
            except RemoteError as error:
                raise Unreadable(clean(str(error))) from None
            except Broken:
                self.loads = False
                raise
            except Exception:  # whatever a forged message leads to
                self.loads = False
                raise Broken("the answer sent what is no message") from None
        return self.peer


def blanks_of(exercise):
    """{name: the blank cell that defines it}."""
    found = {}
    for cell in exercise.of("answer"):
        blank = exercise.blank(cell)
        found |= {name: blank for name in exercise.names if re.search(rf"\b{name}\b", blank)}
    return found


def grade(notebook, exercises, seed, slot=0):
    """Run every hidden test of the exercises on a notebook's text."""
    begun = time.monotonic()
    until = begun + NOTEBOOK_SECONDS
    graded = Graded()
    with Session(notebook, exercises, slot, until) as whole:
        try:
            whole.ready()
        except Unreadable as why:
            graded.problems.append(f"This is not a notebook that can be read: {why}.")
            graded.exercises = [_record(e, [_nothing(t) for t in _hidden(e)]) for e in exercises]
            exercises = []
        except Broken as broken:
            graded.problems.append(f"Your cells could not be executed together: {broken.text}.")
            whole.stop()
        together = whole.peer is not None
        for exercise in exercises:
            if together:
                graded.exercises.append(_grade_one(exercise, whole, seed))
            else:  # each by itself, so that one cell takes nothing from the others
                with Session(notebook, [exercise], slot, until) as alone:
                    graded.exercises.append(_grade_one(exercise, alone, seed))
        for name, cells in whole.again.items():
            where = ", ".join(map(str, cells))
            graded.problems.append(clean(f"`{name}` is defined in cells {where}; the last counts."))
        graded.problems += whole.problems
        if whole.over:
            graded.problems.append(f"After {NOTEBOOK_SECONDS} s the rest was not tested.")
    graded.points = sum(e["points"] for e in graded.exercises)
    graded.of = sum(e["of"] for e in graded.exercises)
    graded.seconds = round(time.monotonic() - begun, 2)
    return graded


def _grade_one(exercise, session, seed):
    answer, outcomes, losses = RemoteAnswer(session, exercise.given), [], 0
    for test in _hidden(exercise):
        if losses == LOSSES or not session.loads:
            outcomes.append(_nothing(test, "failed", Broken.message))
            continue
        try:
            # Ends our own part of a test, where an answer made it endless.
            with alarm(2 * TEST_SECONDS + LOAD_SECONDS, Broken("the test took too long")):
                outcome = run(test, answer, seed_of(seed, exercise.id, test.__name__))
        except Broken as broken:
            losses += 1
            session.stop()
            outcome = _nothing(test, "failed", Broken.message, broken.text)
        outcomes.append(outcome)
    return _record(exercise, outcomes)


def _nothing(test, status="unanswered", message="Not answered yet.", detail=""):
    """The outcome of a test that is not run to its end."""
    return Outcome(status=status, message=message, detail=detail, **about(test))


def _record(exercise, outcomes):
    tests = [
        {
            "title": outcome.title,
            "status": outcome.status,
            "points": outcome.points if outcome.status == "passed" else 0,
            "of": outcome.points,
            "message": safe(outcome.message),
            "detail": clean(outcome.detail),
        }
        for outcome in outcomes
    ]
    return {
        "id": exercise.id,
        "title": exercise.title,
        "points": sum(t["points"] for t in tests),
        "of": sum(t["of"] for t in tests),
        "tests": tests,
    }


@functools.cache
def _compiled(path, cohort):
    return checks_of(sources.read(path, cohort).tests()[1])


def _hidden(exercise):
    """The hidden tests of an exercise, compiled once a process."""
    return _compiled(exercise.path, exercise.cohort)


#: Errors whose names a learner is told. Every further name could carry a hidden input out.
TOLD = ("AttributeError", "IndexError", "NameError", "RuntimeError", "TypeError", "ValueError")


def safe(message):
    """A message for a learner: of an error only a name that is among `TOLD`."""
    found = re.fullmatch(r"Your code raised (.*)\.", message, re.DOTALL)
    if found and found[1] not in TOLD:
        return "Your code raised an error."
    return clean(message)


def clean(text, limit=400):
    """Text of an answer without control characters, cut."""
    return "".join(c if c.isprintable() else " " for c in str(text))[:limit]


def seed_of(seed, *names):
    """A seed for one test: the same for every student of a batch, unknown to all of them."""
    digest = hashlib.sha256(json.dumps([seed, *names]).encode()).digest()
    return int.from_bytes(digest[:6], "big")
