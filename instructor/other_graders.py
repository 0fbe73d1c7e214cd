"""Let nbgrader and otter-grader grade the battery of hostile and broken submissions.

    .venv/nbgrader/bin/python -m instructor.other_graders OUT.json

The same notebooks as in tests/instructor/battery.py, with the same hidden tests; none implements
anything. Both tools run a submission beside its tests, on the machine as it is, so each run is
shut into a sandbox of its own here: what a submission gets is what the tool gives it, and what it
breaks is a copy. Where a tool is to be fooled, an attack may know its files, as a student would.
"""

import json
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import nbformat
from tqdm import tqdm

from instructor import build
from instructor.grader import sandbox
from instructor.try_nbgrader import nbgrader, scores

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests/instructor"))
from battery import ATTACKS, CALLED, EXERCISES, NOTEBOOKS  # noqa: E402

SECONDS = 100  # for one submission
USER = 62000
SOLVED = "the solution"
OF = sum(exercise.about["points"] for exercise in EXERCISES)

# The attack on files, for whoever knows where the tool keeps them.
READS = """
import json, pathlib
for top in (pathlib.Path.cwd(), *pathlib.Path.cwd().parents[:4]):
    for path in sorted(top.rglob("*")):
        if path.suffix == ".ipynb" and "source" in path.parts:
            for cell in json.loads(path.read_text())["cells"]:
                if "BEGIN SOLUTION" in "".join(cell["source"]):
                    exec("".join(cell["source"]), globals())
"""
# The attack on the judge, likewise: an answer's cell runs in the process that holds the tests.
JUDGES = """
import reparam.exercises._running as running
class Passed:
    status, message = "passed", ""
running.run = lambda *a, **k: Passed
running.Outcome = lambda **k: Passed
"""


# What stands in the answers' cells, by name.
IN_ANSWERS = {name: f"{attack}\n{CALLED}" for name, attack in ATTACKS.items()} | {
    "reads the solutions and tests": READS,
    "tampers with the checks": f"{JUDGES}\n{CALLED}\nact = len",
}


def for_nbgrader(name, released):
    """A submission in nbgrader's form: the attack stands in the cells for answers."""
    if name not in ATTACKS:
        return NOTEBOOKS[name]
    nb = nbformat.reads(released, 4)
    for cell in nb.cells:
        if cell.metadata.get("nbgrader", {}).get("solution"):
            cell.source = IN_ANSWERS[name]
    return nbformat.writes(nb)


def shut_in(folder, words):
    """Run a command that can write to nothing but a folder; (output, whether it ended in time)."""
    for path in (folder, *Path(folder).rglob("*")):
        os.chown(path, USER, USER, follow_symlinks=False)
    bwrap = ["bwrap", "--unshare-pid", "--unshare-ipc", "--die-with-parent", "--new-session"]
    bwrap += ["--ro-bind", "/", "/", "--proc", "/proc", "--dev", "/dev", "--tmpfs", "/tmp"]
    bwrap += ["--size", str(2**28), "--perms", "1777", "--tmpfs", "/dev/shm"]
    seen = [ROOT / ".venv", ROOT / "lib", Path(sys.base_prefix)]  # no tests, no solutions
    for top in {f"/{path.parts[1]}" for path in seen} - {"/usr"}:
        bwrap += ["--perms", "0755", "--tmpfs", top]
    for path in seen:
        bwrap += [] if path.parts[1] == "usr" else sandbox.visible(path, path)
    bwrap += ["--bind", str(folder), "/tmp/here", "--chdir", "/tmp/here", "--unshare-net"]
    bwrap += ["--setenv", "HOME", "/tmp/here", "--setenv", "OMP_NUM_THREADS", "1"]
    bwrap += ["--setenv", "TMPDIR", "/tmp/here", "--setenv", "TQDM_DISABLE", "1"]
    bwrap += sandbox.as_user(USER)
    limits = ["prlimit", "--nproc=400", f"--as={12 * 2**30}", f"--fsize={2**28}", "--"]
    with tempfile.TemporaryFile() as said:
        child = subprocess.Popen(
            [*bwrap, *limits, *map(str, words)], stdout=said, stderr=said, stdin=subprocess.DEVNULL
        )
        try:
            child.wait(SECONDS)
            ended = True
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()
            ended = False
        said.seek(0)
        return said.read()[-100_000:].decode(errors="replace"), ended


def by_nbgrader(course, name):
    """What nbgrader's autograde gives one submission, in words."""
    with tempfile.TemporaryDirectory() as top:
        folder = Path(top, "course")
        shutil.copytree(course, folder)
        released = (folder / "release/battery/battery.ipynb").read_text("utf-8")
        handed_in = folder / "submitted/mallory/battery/battery.ipynb"
        handed_in.parent.mkdir(parents=True)
        solved = (folder / "source/battery/battery.ipynb").read_text("utf-8")
        _write(handed_in, solved if name == SOLVED else for_nbgrader(name, released))
        said, ended = shut_in(folder, [sys.executable, "-m", "nbgrader", "autograde", "battery"])
        try:
            points = {student: p for (_, student), (p, _) in scores(folder).items()}.get("mallory")
        except Exception as error:  # whatever a submission made of the database
            return f"grade book unreadable ({type(error).__name__})"
        return _words(points, said, ended)


def by_otter(autograder, name):
    """What `otter run` gives one submission, in words."""
    with tempfile.TemporaryDirectory() as top:
        folder = Path(top, "run")
        folder.mkdir()
        shutil.copy(autograder, folder / "autograder.zip")
        text = NOTEBOOKS[name]
        if name == "tampers with the checks":
            nb = json.loads(NOTEBOOKS["blank"])
            nb["cells"].append({"cell_type": "code", "source": IN_ANSWERS[name], "metadata": {}})
            text = json.dumps(nb)
        _write(folder / "handed_in.ipynb", text)
        otter = Path(sys.executable).with_name("otter")
        said, ended = shut_in(folder, [otter, "run", "-a", "autograder.zip", "handed_in.ipynb"])
        try:
            results = json.loads((folder / "results.json").read_text("utf-8"))
            points = sum(test.get("score", 0) for test in results["tests"])
        except (OSError, ValueError, KeyError):
            points = None
        return _words(points, said, ended)


def _words(points, said, ended):
    if not ended:
        return f"hangs (stopped after {SECONDS} s)"
    if points is None:
        last = [line for line in said.strip().splitlines() if line.strip()]
        return f"no result ({last[-1].strip()[:80] if last else 'nothing said'})"
    return f"{points:g}"


def _write(path, text):
    if isinstance(text, bytes):
        path.write_bytes(text)
    else:
        path.write_text(text, encoding="utf-8")


def nbgrader_course(folder):
    """A course with one assignment, the battery's three exercises, released."""
    os.environ["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    build.notebooks.write(
        folder / "nbgrader_config.py",
        build.NBGRADER_CONFIG.replace("timeout = 120", "timeout = 20"),
    )
    text = nbformat.writes(build.nbgrader_notebook(EXERCISES))
    build.notebooks.write(folder / "source/battery/battery.ipynb", text)
    nbgrader(folder, "generate_assignment", "battery")
    return folder


def otter_autograder(folder):
    """The same tests in otter-grader's form, zipped."""
    tests = folder / "tests"
    tests.mkdir(parents=True)
    for exercise in EXERCISES:
        _, hidden = exercise.tests()
        lines = [
            "OK_FORMAT = False",
            "from otter.test_files import test_case",
            "from reparam.exercises._running import Answer, run",
            exercise.one("visible"),
            exercise.one("hidden"),
            f"name = 'x{exercise.id}'",
            "points = None",
        ]
        for number, test in enumerate(build._running.checks_of(hidden), 1):
            lines += [
                f"@test_case(points={test.points}, hidden=True)",
                f"def case_{number}(env):",
                f"    found = run({test.__name__}, Answer(env, {exercise.given!r}), {number})",
                "    assert found.status == 'passed', found.message",
            ]
        (tests / f"x{exercise.id}.py").write_text("\n\n".join(lines), encoding="utf-8")
    (folder / "otter_config.json").write_text('{"show_stdout": true}', encoding="utf-8")
    archive = folder / "autograder.zip"
    with zipfile.ZipFile(archive, "w") as zipped:
        for path in [*tests.iterdir(), folder / "otter_config.json"]:
            zipped.write(path, path.relative_to(folder))
    return archive


def main(out):
    names = list(NOTEBOOKS)
    found = {}
    with tempfile.TemporaryDirectory() as top, ThreadPoolExecutor(2) as pool:
        os.chmod(top, 0o755)
        course = nbgrader_course(Path(top, "course"))
        autograder = otter_autograder(Path(top, "otter"))
        NOTEBOOKS[SOLVED] = build.plain_notebook(EXERCISES, solved=True)
        jobs = {}
        for name in [SOLVED, *names]:
            jobs[name, "nbgrader"] = pool.submit(by_nbgrader, course, name)
            jobs[name, "otter-grader"] = pool.submit(by_otter, autograder, name)
        for (name, tool), job in tqdm(jobs.items(), desc="submissions"):
            found.setdefault(name, {})[tool] = job.result()
            Path(out).write_text(json.dumps(found, indent=1, ensure_ascii=False) + "\n")
    print(f"{'points, of ' + str(OF):46s}{'nbgrader':>34s}{'otter-grader':>34s}")
    for name, by_tool in found.items():
        print(f"{name:46s}{by_tool['nbgrader'][:33]:>34s}{by_tool['otter-grader'][:33]:>34s}")


if __name__ == "__main__":
    main(sys.argv[1])
