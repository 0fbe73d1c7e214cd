"""Grade a folder of notebooks.

    python -m instructor.grader SUBMISSIONS [--out FOLDER] [--chapter 3 | --exercises 3.1,3.4]
                                [--cohort NAME] [--seed N] [--jobs 2] [--again]

what `make grade SUBMISSIONS=…` does. SUBMISSIONS is only read: a folder of notebooks named by
student, or of one folder a student, as JupyterHub, Moodle, Canvas and a shared drive hand them
over. FOLDER gets grades.csv, a report for each learner, a Gradescope-style JSON file for each, and
results/, which holds everything and is for teachers. A run that was stopped goes on where it was.
"""

import argparse
import concurrent.futures as futures
import csv
import ctypes
import fcntl
import hashlib
import itertools
import json
import multiprocessing
import os
import re
import secrets
import signal
from collections import Counter
from pathlib import Path

import torch
from tqdm import tqdm

from instructor import sources
from instructor.grader import grading, report, sandbox
from instructor.grader.limits import limit_memory
from tools import notebooks

MEMORY = 4 * 2**30  # bytes that our side of a test may take beyond what torch takes
ROOT = Path(__file__).resolve().parents[2]


class Refused(Exception):
    """Nothing is graded; the message says why."""


# ---------------------------------------------------------------- what there is to grade


def submissions(folder):
    """{student: path} of the notebooks in a folder.

    A notebook in a folder of its own has the name of that folder (the first below `folder`), any
    other its file's name.
    """
    found = {}
    for path in sorted(Path(folder).rglob("*.ipynb")):
        parts = path.relative_to(folder).parts
        if not any(part.startswith(".") for part in parts):
            found.setdefault(parts[0] if len(parts) > 1 else path.stem, []).append(path)
    named = {}
    for student, paths in found.items():
        for path in paths:
            name = _printable(student if len(paths) == 1 else f"{student} {path.stem}")
            while name in named:
                name += "'"
            named[name] = path
    return named


def _printable(name):
    """A file's name, which may be any bytes, as text that can be written to a file."""
    return os.fsencode(name).decode("utf-8", errors="backslashreplace")


def read(path):
    """(text, fault) of a notebook file."""
    if path.is_symlink() or not path.is_file():
        return "", "this is a link or no file, and is not followed"
    if path.stat().st_size > grading.SIZE_LIMIT:
        return "", f"the file is larger than {grading.SIZE_LIMIT >> 20} MB: clear its outputs"
    return path.read_bytes().decode("utf-8", errors="replace"), ""


def texts_of_students(folder, found):
    """All that each student handed in, as one text: many files are still one vote."""
    texts = {}
    for path in found.values():
        student = path.relative_to(folder).parts[0]
        texts[student] = texts.get(student, "") + read(path)[0]
    return list(texts.values())


def chapter_of(texts):
    """The chapter whose exercises most students' texts name, and how many do."""
    votes = Counter()
    for text in texts:
        found = Counter(re.findall(r"Exercise (\d{1,2})\.\d", text))
        votes.update(int(chapter) for chapter, _ in found.most_common(1))
    if not votes:
        raise Refused("no notebook here names an exercise; say which: CHAPTER=3")
    return votes.most_common(1)[0]


# ---------------------------------------------------------------- one, in a process of its own


def _begin(counter):
    with counter.get_lock():
        counter.value += 1
        _begin.slot = counter.value
    # Killed with the run that it belongs to (prctl's PR_SET_PDEATHSIG), and its sandbox with it.
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)
    torch.set_num_threads(1)
    # An answer may send shapes that a test of ours makes large tensors of.
    limit_memory(MEMORY, for_good=False)  # the sandbox has a limit of its own


def _grade(text, ids, cohort, seed):
    exercises = [e for e in sources.load(cohort) if e.id in ids]
    return grading.grade(text, exercises, seed, slot=_begin.slot).as_dict()


def _pool(jobs):
    context = multiprocessing.get_context("spawn")  # a fork would copy torch's threads half
    counter = context.Value("i", 0)
    return futures.ProcessPoolExecutor(
        jobs, mp_context=context, initializer=_begin, initargs=(counter,)
    )


def in_parallel(work, ids, cohort, seed, jobs):
    """Yield (key, result or exception) as they come; a process that dies takes one with it."""
    left, alone = dict(work), False
    while left:
        broken = False
        with _pool(1 if alone else jobs) as pool:
            waiting = {}
            todo = itertools.islice(left.items(), 1) if alone else left.items()
            for key, text in list(todo):
                waiting[pool.submit(_grade, text, ids, cohort, seed)] = key
            try:
                for future in futures.as_completed(waiting):
                    key = waiting[future]
                    try:
                        result = future.result()
                    except futures.process.BrokenProcessPool as error:
                        broken = True
                        if not alone:
                            continue  # whose fault it was shows when each runs alone
                        result = error
                    except (Exception, sandbox.NoSandbox) as error:
                        result = error
                    left.pop(key)
                    yield key, result
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                raise
        alone = alone or broken


# ---------------------------------------------------------------- all of them


def canary(exercises, cohort, seed, jobs):
    """The reference must get full marks and the blank none, or no grade here means anything."""
    from instructor import build

    work = {
        "the reference solution": build.plain_notebook(exercises, solved=True),
        "the blank notebook": build.plain_notebook(exercises, solved=False),
    }
    for name, result in in_parallel(work, [e.id for e in exercises], cohort, seed, jobs):
        if isinstance(result, sandbox.NoSandbox):
            raise result
        if isinstance(result, BaseException):
            raise Refused(f"{name} could not be graded: {result}")
        wanted = result["of"] if name == "the reference solution" else 0
        if result["points"] != wanted:
            faults = [
                f"{e['id']} {t['title']}: {t['status']} {t['message']} {t['detail']}"
                for e in result["exercises"]
                for t in e["tests"]
                if (t["status"] == "passed") != (wanted > 0)
            ]
            raise Refused(
                f"{name} got {result['points']:g} of {result['of']:g} points, so nothing was "
                "graded:\n  " + "\n  ".join(faults)
            )


def fingerprint(exercises, *more):
    """What a result depends on besides the notebook."""
    parts = [e.path.read_text(encoding="utf-8") for e in exercises]
    parts += [p.read_text(encoding="utf-8") for p in sorted(Path(__file__).parent.glob("*.py"))]
    return hashlib.sha256(json.dumps([*parts, *more]).encode()).hexdigest()


def grade_all(folder, out, ids, cohort, seed, jobs, again=False):
    """Grade every notebook of a folder; returns the results by student."""
    exercises = [e for e in sources.load(cohort) if e.id in ids]
    owners = {}
    for exercise in exercises:
        for name in exercise.names:
            if owners.setdefault(name, exercise.id) != exercise.id:
                raise Refused(
                    f"exercises {owners[name]} and {exercise.id} both ask for `{name}`, and a "
                    "notebook has one; grade them one after the other"
                )
    results_folder = out / "results"
    results_folder.mkdir(parents=True, exist_ok=True)
    base = fingerprint(exercises, cohort, seed)
    todo, results = {}, {}
    files = {student: report.file_name(student) for student in submissions(folder)}
    for student, path in submissions(folder).items():
        text, fault = read(path)
        key = hashlib.sha256(f"{base} {fault} {text}".encode()).hexdigest()
        about = {"student": student, "file": _printable(path.relative_to(folder)), "key": key}
        stored = results_folder / f"{files[student]}.json"
        if stored.exists() and not again:
            with open(stored, encoding="utf-8") as file:
                before = json.load(file)
            if before.get("key") == key:
                results[student] = before
                continue
        todo[student] = about, text, fault
    if todo:
        canary(exercises, cohort, seed, jobs)  # which also shows that there is a sandbox
    bar = tqdm(total=len(results) + len(todo), initial=len(results), unit="notebook",
               disable=os.environ.get("TQDM_DISABLE") == "1")  # fmt: skip

    def keep(student, result):
        record = {**todo[student][0], **result}
        notebooks.write(
            results_folder / f"{files[student]}.json",
            json.dumps(record, indent=1, ensure_ascii=False) + "\n",
        )
        results[student] = record
        bar.update()

    with bar:
        for student, (_, _, fault) in todo.items():
            if fault:
                keep(student, nothing(exercises, fault))
        work = {student: text for student, (_, text, fault) in todo.items() if not fault}
        for student, result in in_parallel(work, ids, cohort, seed, jobs):
            if isinstance(result, BaseException):  # the next run tries again
                fault = f"it could not be graded ({type(result).__name__})"
                result = nothing(exercises, fault) | {"key": ""}
            keep(student, result)
    return dict(sorted(results.items()))


def nothing(exercises, fault):
    """The result of a file that cannot be graded."""
    of = sum(e.about["points"] for e in exercises)
    parts = [
        {"id": e.id, "title": e.title, "points": 0, "of": e.about["points"], "tests": []}
        for e in exercises
    ]
    return grading.Graded(0, of, parts, [f"Nothing was graded: {fault}."]).as_dict()


def write_reports(out, results, ids):
    """grades.csv, and a report and a Gradescope-style file for each learner."""
    for student, result in results.items():
        name = report.file_name(student)
        notebooks.write(out / "reports" / f"{name}.md", report.for_learner(result))
        scores = json.dumps(report.for_gradescope(result), indent=1, ensure_ascii=False)
        notebooks.write(out / "gradescope" / f"{name}.json", scores + "\n")
    with open(out / "grades.csv.tmp", "w", encoding="utf-8", newline="") as file:
        table = csv.writer(file)
        table.writerow(["student", "file", "points", "of", *ids, "remarks"])
        for student, result in results.items():
            points = {e["id"]: e["points"] for e in result["exercises"]}
            row = [student, result["file"], result["points"], result["of"]]
            row += [points[i] for i in ids] + [" ".join(result["problems"])[:500]]
            table.writerow([report.for_table(cell) for cell in row])
    os.replace(out / "grades.csv.tmp", out / "grades.csv")


def _seed(out, given):
    """The batch's seed: what was given, or that of the run which began it, or a new secret."""
    file = out / "seed.txt"
    if given is None and file.exists():
        return int(file.read_text())
    seed = secrets.randbits(48) if given is None else given
    notebooks.write(file, f"{seed}\n")
    return seed


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("submissions", type=Path)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--chapter", type=int)
    parser.add_argument("--exercises", help="such as 3.1,3.4")
    parser.add_argument("--cohort", default="", help="as given to `make handout`")
    parser.add_argument("--seed", type=int, help="of hidden inputs (default: a new secret)")
    parser.add_argument("--jobs", type=int, default=notebooks._cores())
    parser.add_argument("--again", action="store_true", help="grade what is graded already")
    options = parser.parse_args(arguments)
    folder = options.submissions
    if not folder.is_dir():
        parser.exit(2, f"There is no folder {folder}. It should hold the notebooks to grade.\n")
    out = options.out or ROOT / "_build" / "grades" / folder.resolve().name
    try:
        found = submissions(folder)
        if not found:
            raise Refused(f"{folder} holds no notebook (*.ipynb); unpack archives first")
        known = [e.id for e in sources.load(options.cohort)]
        if options.exercises:
            ids = options.exercises.split(",")
        else:
            chapter, count = options.chapter, None
            if chapter is None:
                texts = texts_of_students(folder, found)
                chapter, count = chapter_of(texts)
            ids = [i for i in known if i.split(".")[0] == str(chapter)]
            why = f" (named by {count} of {len(texts)} students)" if count else ""
            print(f"grading chapter {chapter}{why}: exercises {', '.join(ids)}")
        if unknown := [i for i in ids if i not in known] or ([] if ids else ["of that chapter"]):
            raise Refused(f"there is no exercise {', '.join(unknown)}")
        out.mkdir(parents=True, exist_ok=True)
        with open(out / ".lock", "w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise Refused(f"another run is grading into {out}") from None
            seed = _seed(out, options.seed)
            results = grade_all(folder, out, ids, options.cohort, seed, options.jobs, options.again)
            write_reports(out, results, ids)
    except (Refused, sandbox.NoSandbox, sources.SourceError) as why:
        parser.exit(2, f"Nothing was graded: {why}\n")
    except KeyboardInterrupt:
        parser.exit(130, "\nStopped. What was graded is kept; run it again to go on.\n")
    print(f"{len(results)} notebooks graded: {out / 'grades.csv'}")
    return 0
