"""Let nbgrader generate, validate and autograde the course that `build.teachers` wrote.

    .venv/nbgrader/bin/python -m instructor.try_nbgrader FOLDER

For each assignment: the released version holds no solution and no hidden test; the solved source
validates; handed in solved it gets full marks, and blank none.
"""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path


def nbgrader(folder, *words):
    done = subprocess.run(
        [sys.executable, "-m", "nbgrader", *words], cwd=folder, capture_output=True, text=True
    )
    if done.returncode:
        words = " ".join(words)
        raise SystemExit(f"nbgrader {words} failed:\n{done.stdout[-2000:]}{done.stderr[-4000:]}")
    return done.stdout + done.stderr


def scores(folder):
    """{(assignment, student): (points, of)} as nbgrader stored them."""
    from nbgrader.api import Gradebook

    with Gradebook(f"sqlite:///{folder / 'gradebook.db'}") as book:
        return {
            (a.name, s.student.id): (s.score, s.max_score)
            for a in book.assignments
            for s in a.submissions
        }


def main(folder):
    folder = Path(folder).resolve()
    # nbgrader calls alembic by its name.
    os.environ["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    for name in ("release", "submitted", "autograded", "gradebook.db"):
        path = folder / name
        shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
    assignments = sorted(path.name for path in (folder / "source").iterdir())
    for name in assignments:
        source = folder / "source" / name / f"{name}.ipynb"
        nbgrader(folder, "generate_assignment", name)
        released = (folder / "release" / name / source.name).read_text(encoding="utf-8")
        assert "BEGIN SOLUTION" not in released and "HIDDEN TESTS" not in released, name
        said = nbgrader(folder, "validate", str(source))
        assert "Success" in said, f"{name}: the solved notebook does not validate:\n{said}"
        for student, text in (("solved", source.read_text("utf-8")), ("blank", released)):
            handed_in = folder / "submitted" / student / name / source.name
            handed_in.parent.mkdir(parents=True, exist_ok=True)
            nb = json.loads(text)
            handed_in.write_text(json.dumps(nb), encoding="utf-8")
        nbgrader(folder, "autograde", name)
        print(f"{name}: generated, validated, autograded", flush=True)
    for (name, student), (points, of) in sorted(scores(folder).items()):
        print(f"{name} {student}: {points:g} of {of:g}")
        assert points == (of if student == "solved" else 0), (name, student)


if __name__ == "__main__":
    main(sys.argv[1])
