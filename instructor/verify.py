"""Show that an exercise's tests let every right answer through and no known wrong one.

    python -m instructor.verify [ID ...] [--seeds 20] [--cohorts spring autumn]

The reference and every `right` answer must get full marks, in the self-check and in the hidden
tests, in each seed; every `wrong` answer must fail a hidden test in each seed; and an answer that
implements nothing must fail every hidden test: the blank, each `idle` answer, and `IDLE`, functions
that give a constant, their input, a truth value, or an error. Answers run in this process, which
is quick; the grader runs them apart.
"""

import argparse
import contextlib
import io
import sys
import time
from collections import Counter

import torch
from tqdm import tqdm

from instructor import sources
from reparam.exercises._running import Answer, checks_of, run

#: What a function can do without implementing anything.
IDLE = {
    "returns 0": lambda *args, **_: 0.0,
    "returns 1": lambda *args, **_: torch.ones(()),
    "returns its first argument": lambda *args, **_: args[0] if args else 0.0,
    "returns its last argument": lambda *args, **_: args[-1] if args else 0.0,
    "returns zeros like its last tensor": lambda *args, **_: _last_tensor(args) * 0,
    "returns two zeros like its last tensor": lambda *args, **_: (_last_tensor(args) * 0,) * 2,
    "returns True": lambda *args, **_: True,
    "returns nothing": lambda *args, **_: None,
    "raises ValueError": lambda *args, **_: float("no number"),
}


def _last_tensor(args):
    return ([a for a in args if isinstance(a, torch.Tensor)] or [torch.zeros(())])[-1]


def namespace(exercise, attempt=None, blank=False):
    """What an answer's cells define."""
    space = {"__name__": "__main__"}
    parts = exercise.program()
    if blank:
        parts += [("blank", exercise.blank(cell)) for cell in exercise.of("answer")]
    parts += [(attempt.kind, attempt.text)] if attempt else []
    for name, source in parts:
        with contextlib.redirect_stdout(io.StringIO()):
            exec(compile(source, f"<{exercise.id} {name}>", "exec"), space)
    return space


def idle(exercise):
    """(title, namespace) of answers that implement nothing."""
    blank = namespace(exercise, blank=True)
    functions = [name for name in exercise.names if callable(blank[name])]
    yield "blank", blank
    for title, function in IDLE.items() if functions else ():
        yield title, {**blank, **dict.fromkeys(functions, function)}
    for attempt in exercise.of("idle"):
        yield attempt.title, namespace(exercise, attempt, blank=True)


def first_fault(tests, answer, seed):
    """The first test that an answer does not pass, or None. That test is the first to run next."""
    for test in tests:
        if run(test, answer, seed).status != "passed":
            tests.remove(test)
            tests.insert(0, test)
            return test
    return None


def shape_faults(exercise, hidden):
    """What an exercise lacks, a sentence each."""
    worth = sum(getattr(test, "points", 0) for test in hidden)
    if worth != exercise.about["points"]:
        yield f"the hidden tests are worth {worth} points, `about` says {exercise.about['points']}"
    if len(exercise.of("wrong")) < 3:
        yield f"there are {len(exercise.of('wrong'))} known wrong answers; three are due"
    if not exercise.of("right"):
        yield "there is no second right answer"
    if len(exercise.of("hint")) < 2:
        yield "there are fewer than two hints"


def verify(exercise, seeds):
    """Faults of an exercise, a sentence each, and {wrong answer: how often it was caught}."""
    visible, hidden = (checks_of(tests) for tests in exercise.tests())
    faults, caught, idles = list(shape_faults(exercise, hidden)), Counter(), list(idle(exercise))
    answers = 1 + len(exercise.of("right", "wrong")) + len(idles)
    bar = tqdm(total=len(seeds) * answers, desc=exercise.id, leave=False)

    for attempt in [None, *exercise.of("right")]:
        label = f"right: {attempt.title}" if attempt else "reference"
        answer = Answer(namespace(exercise, attempt), exercise.given)
        for seed in seeds:
            bar.update()
            found = [run(test, answer, seed) for test in [*hidden, *visible]]
            faults += [
                f"{label}, seed {seed}: {o.name}: {o.message} ({o.detail})"
                for o in found
                if o.status != "passed"
            ]
    for attempt in exercise.of("wrong"):
        answer, tests = Answer(namespace(exercise, attempt), exercise.given), list(hidden)
        for seed in seeds:
            bar.update()
            if first_fault(tests, answer, seed):
                caught[attempt.title] += 1
            else:
                faults.append(f"wrong: {attempt.title}, seed {seed}: passes every hidden test")
    for title, space in idles:
        answer = Answer(space, exercise.given)
        for seed in seeds:
            bar.update()
            faults += [
                f"idle: {title}, seed {seed}: {test.__name__} gives points for nothing"
                for test in hidden
                if run(test, answer, seed).status == "passed"
            ]
    bar.close()
    return faults, caught


def told(exercise, attempt, kind="visible"):
    """What the self-check, or the hidden tests, say of an attempt."""
    visible, hidden = exercise.tests()
    answer = Answer(namespace(exercise, attempt), exercise.given)
    found = [run(test, answer, 0) for test in checks_of(visible if kind == "visible" else hidden)]
    return [outcome for outcome in found if outcome.status != "passed"]


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("ids", nargs="*", help="exercises such as 1.2, or chapters (default: all)")
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--cohorts", nargs="*", default=[""], help="whose constants to take")
    parser.add_argument("--show", action="store_true", help="what wrong answers are told")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    failed = 0
    for exercise in (e for cohort in options.cohorts for e in sources.load(cohort)):
        if options.ids and not {exercise.id, str(exercise.chapter)} & set(options.ids):
            continue
        begun = time.process_time()
        faults, caught = verify(exercise, range(options.seeds))
        seconds = time.process_time() - begun
        cohort = f" (cohort {exercise.cohort})" if exercise.cohort else ""
        print(f"{exercise.id} {exercise.title}{cohort}: {len(faults)} faults in {options.seeds} "
              f"seeds, {seconds:.0f} s")  # fmt: skip
        for wrong in exercise.of("wrong"):
            named = "" if told(exercise, wrong) else "; the self-check does not notice it"
            print(f"    {wrong.title}: caught {caught[wrong.title]} of {options.seeds}{named}")
            for kind in ("visible", "hidden") if options.show else ():
                for o in told(exercise, wrong, kind):
                    print(f"        {kind} {o.title}: {o.message} [{o.detail}]")
        for fault in faults[:20]:
            print(f"    FAULT {fault}")
        failed += bool(faults)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
