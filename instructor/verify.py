"""Show that an exercise's tests let every right answer through and no known wrong one.

    python -m instructor.verify [ID ...] [--seeds 20]

The reference and every `right` answer must get full marks, in the self-check and in the hidden
tests, in each seed; every `wrong` answer must fail a hidden test in each seed; and the blank must
get nothing. Answers run in this process, which is quick; the grader runs them apart.
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


def namespace(exercise, attempt=None, blank=False):
    """What an answer's cells define."""
    space = {"__name__": "__main__"}
    for name, source in exercise.program(attempt):
        with contextlib.redirect_stdout(io.StringIO()):
            exec(compile(source, f"<{exercise.id} {name}>", "exec"), space)
    if blank:
        for cell in exercise.of("answer"):
            exec(compile(exercise.blank(cell), f"<{exercise.id} blank>", "exec"), space)
    return space


def outcomes(exercise, space, seed, kind="hidden"):
    """The outcomes of one kind of tests on an answer's names."""
    visible, hidden = exercise.tests()
    answer = Answer(space, exercise.given)
    return [run(test, answer, seed) for test in checks_of(visible if kind == "visible" else hidden)]


def verify(exercise, seeds, each=lambda: None):
    """Faults of an exercise, a sentence each, and {what: how often it was noticed}."""
    faults, counts = [], Counter()
    _, hidden = exercise.tests()
    worth = sum(getattr(test, "points", 0) for test in checks_of(hidden))
    if worth != exercise.about["points"]:
        faults.append(f"the hidden tests are worth {worth} points, `about` says "
                      f"{exercise.about['points']}")  # fmt: skip
    if len(exercise.of("wrong")) < 3:
        faults.append(f"there are {len(exercise.of('wrong'))} known wrong answers; three are due")
    if not exercise.of("right"):
        faults.append("there is no second right answer")
    if len(exercise.of("hint")) < 2:
        faults.append("there are fewer than two hints")
    attempts = [("reference", None)]
    attempts += [(f"{cell.kind}: {cell.title}", cell) for cell in exercise.of("right", "wrong")]
    for label, attempt in [*attempts, ("blank", None)]:
        space = namespace(exercise, attempt, blank=label == "blank")
        wrong = attempt is not None and attempt.kind == "wrong"
        for seed in seeds:
            each()
            found = outcomes(exercise, space, seed)
            bad = [o for o in found if o.status != "passed"]
            if label == "blank":
                if len(bad) < len(found):
                    faults.append(f"blank, seed {seed}: gets points without an answer")
            elif wrong:
                counts[label] += bool(bad)
                if not bad:
                    faults.append(f"{label}, seed {seed}: passes every hidden test")
                continue
            else:
                bad += [o for o in outcomes(exercise, space, seed, "visible")
                        if o.status != "passed"]  # fmt: skip
                faults += [f"{label}, seed {seed}: {o.name}: {o.message} ({o.detail})" for o in bad]
    return faults, counts


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("ids", nargs="*", help="exercises such as 1.2, or chapters (default: all)")
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--show", action="store_true", help="what wrong answers are told")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    failed = 0
    for exercise in sources.load():
        if options.ids and not {exercise.id, str(exercise.chapter)} & set(options.ids):
            continue
        runs = options.seeds * (2 + len(exercise.of("right", "wrong")))
        begun = time.process_time()
        with tqdm(total=runs, desc=exercise.id, leave=False) as bar:
            faults, counts = verify(exercise, range(options.seeds), bar.update)
        seconds = (time.process_time() - begun) / runs
        print(f"{exercise.id} {exercise.title}: {len(faults)} faults, {1e3 * seconds:.0f} ms a run")
        for label, count in counts.items():
            print(f"    {label}: caught {count} of {options.seeds}")
        for fault in faults[:20]:
            print(f"    FAULT {fault}")
        failed += bool(faults)
        for cell in exercise.of("wrong") if options.show else []:
            print(f"    told about “{cell.title}”:")
            for kind in ("visible", "hidden"):
                for o in outcomes(exercise, namespace(exercise, cell), 0, kind):
                    if o.status != "passed":
                        print(f"        {kind} {o.title}: {o.message} [{o.detail}]")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
