"""A folder of notebooks: names, reports, tables, resuming, and refusing."""

import csv
import json
import os
import signal
import subprocess
import sys
import time

import pytest

from instructor import build, sources
from instructor.grader import batch, report

EXERCISES = [e for e in sources.load() if e.id in ("1.1", "7.3")]
SOLVED = build.plain_notebook(EXERCISES, solved=True)
BLANK = build.plain_notebook(EXERCISES, solved=False)
OPTIONS = ["--exercises", "1.1,7.3", "--jobs", "2", "--seed", "5"]


@pytest.fixture(scope="module")
def graded(tmp_path_factory):
    """A class, graded once."""
    folder, out = tmp_path_factory.mktemp("class"), tmp_path_factory.mktemp("out")
    (folder / "alice").mkdir()
    (folder / "alice" / "homework (2).ipynb").write_text(SOLVED)
    nb = json.loads(SOLVED)
    for cell in nb["cells"]:
        cell["metadata"], cell["id"] = {}, "x"
    nb["cells"].append({"cell_type": "code", "source": "!pip install x\n%matplotlib inline\n1/0"})
    nb["cells"].append(nb["cells"][1])
    nb.pop("metadata")
    (folder / "without metadata.ipynb").write_text(json.dumps(nb))
    wrong = json.loads(SOLVED)
    attempt = EXERCISES[0].of("wrong")[0].text
    wrong["cells"].append({"cell_type": "code", "source": attempt, "metadata": {}})
    (folder / "carol.ipynb").write_text(json.dumps(wrong))
    blank_below = json.loads(SOLVED)
    blank_below["cells"] += json.loads(BLANK)["cells"]
    (folder / "dora.ipynb").write_text(json.dumps(blank_below))
    (folder / "=1+1|cmd.ipynb").write_text(BLANK)
    (folder / ".ipynb_checkpoints").mkdir()
    (folder / ".ipynb_checkpoints" / "alice.ipynb").write_text(SOLVED)
    os.symlink(folder / "alice" / "homework (2).ipynb", folder / "link.ipynb")
    (folder / "huge.ipynb").write_text(" " * (21 * 2**20))
    before = sorted(p.name for p in folder.rglob("*"))
    assert batch.main([str(folder), "--out", str(out), *OPTIONS]) == 0
    assert sorted(p.name for p in folder.rglob("*")) == before, "submissions are only read"
    with open(out / "grades.csv", encoding="utf-8", newline="") as file:
        rows = {row["student"]: row for row in csv.DictReader(file)}
    return folder, out, rows


def test_points_of_a_class(graded):
    _, _, rows = graded
    of = sum(e.about["points"] for e in EXERCISES)
    assert {name: int(row["points"]) for name, row in rows.items()} == {
        "alice": of, "without metadata": of, "carol": of - 1, "dora": of, "'=1+1|cmd": 0,
        "link": 0, "huge": 0,
    }  # fmt: skip
    assert all(int(row["of"]) == of for row in rows.values())
    assert "link" in rows["link"]["remarks"] and "20 MB" in rows["huge"]["remarks"]


def test_a_report_can_be_acted_on_and_gives_nothing_away(graded):
    _, out, _ = graded
    text = (out / "reports" / "carol.md").read_text(encoding="utf-8")
    assert "not yet (0/1): A gradient of zero is told from a missing one" in text
    assert "yours" not in text and "Points are left in 1.1" in text
    stored = json.loads((out / "results" / "carol.json").read_text(encoding="utf-8"))
    details = [t["detail"] for e in stored["exercises"] for t in e["tests"]]
    assert any("yours is 'gradient'" in detail for detail in details)


def test_the_gradescope_file_has_its_form(graded):
    _, out, _ = graded
    found = json.loads((out / "gradescope" / "carol.json").read_text(encoding="utf-8"))
    assert found["score"] == sum(t["score"] for t in found["tests"])
    assert {"name", "score", "max_score", "status", "output"} <= set(found["tests"][0])
    assert "yours" not in json.dumps(found)


def test_what_is_graded_is_not_graded_again(graded, monkeypatch):
    folder, out, _ = graded
    times = {p: p.stat().st_mtime_ns for p in (out / "results").iterdir()}
    monkeypatch.setattr(batch, "_pool", lambda *a: pytest.fail("graded twice"))
    assert batch.main([str(folder), "--out", str(out), *OPTIONS]) == 0
    assert {p: p.stat().st_mtime_ns for p in (out / "results").iterdir()} == times


def test_a_run_that_was_killed_goes_on(tmp_path):
    folder, out = tmp_path / "class", tmp_path / "out"
    folder.mkdir()
    for number in range(4):
        (folder / f"student {number}.ipynb").write_text(SOLVED)
    command = [sys.executable, "-m", "instructor.grader", str(folder), "--out", str(out), *OPTIONS]
    run = subprocess.Popen(command, cwd=build.ROOT, start_new_session=True)
    results = out / "results"
    until = time.monotonic() + 120
    while time.monotonic() < until and not list(results.glob("[!.]*.json")):
        time.sleep(0.02)
    run.send_signal(signal.SIGKILL)
    run.wait()
    done = {p: p.stat().st_mtime_ns for p in results.glob("[!.]*.json")}
    assert 1 <= len(done) < 4
    time.sleep(1)
    listed = subprocess.run(["ps", "-eo", "pgid=,stat=,args="], capture_output=True, text=True)
    lines = [line.split(maxsplit=2) for line in listed.stdout.splitlines()]
    alive = [line for line in lines if line[0] == str(run.pid) and line[1][0] != "Z"]
    assert not alive, f"grading processes outlive a killed run: {alive}"
    assert subprocess.run(command, cwd=build.ROOT).returncode == 0
    assert {p: p.stat().st_mtime_ns for p in done} == done, "graded twice"
    assert len(list(results.glob("[!.]*.json"))) == 4


def test_a_reference_that_fails_stops_everything(tmp_path, monkeypatch, capsys):
    (tmp_path / "a.ipynb").write_text(SOLVED)
    monkeypatch.setattr(build, "plain_notebook", lambda exercises, solved: BLANK)
    with pytest.raises(SystemExit) as stop:
        batch.main([str(tmp_path), "--out", str(tmp_path / "out"), *OPTIONS])
    assert stop.value.code == 2
    assert "the reference solution got 0 of" in capsys.readouterr().err
    assert not list((tmp_path / "out").rglob("*.csv"))


def test_the_chapter_is_read_off_the_notebooks():
    texts = ["## Exercise 3.1: x", "## Exercise 3.2: x Exercise 3.1", "## Exercise 1.1", ""]
    assert batch.chapter_of(texts) == (3, 2)
    with pytest.raises(batch.Refused, match="CHAPTER=3"):
        batch.chapter_of([""])


@pytest.mark.parametrize(
    "words, message",
    [
        (["/nowhere"], "no folder"),
        (["EMPTY"], "holds no notebook"),
        (["ONE", "--exercises", "9.9"], "no exercise 9.9"),
        (["ONE", "--chapter", "99"], "no exercise"),
    ],
)
def test_it_says_what_is_wrong(words, message, tmp_path, capsys):
    (tmp_path / "EMPTY").mkdir()
    (tmp_path / "ONE").mkdir()
    (tmp_path / "ONE" / "a.ipynb").write_text(BLANK)
    folder = words[0] if words[0].startswith("/") else str(tmp_path / words[0])
    with pytest.raises(SystemExit) as stop:
        batch.main([folder, *words[1:], "--out", str(tmp_path / "out")])
    assert stop.value.code == 2 and message in capsys.readouterr().err


@pytest.mark.parametrize("name", ["a", "../../etc/passwd", "名前", "x" * 300, "..", "a b", "A/b"])
def test_file_names_are_harmless_and_different(name):
    found = report.file_name(name)
    assert found == os.path.basename(found) and 0 < len(found) < 100
    assert not found.startswith(".") and found != report.file_name(name + " ")


@pytest.mark.parametrize("cell", ["=1+1", "+1", "-1", "@x", " =1", "\t=1", "\n=1"])
def test_a_table_holds_no_formula(cell):
    assert report.for_table(cell)[0] == "'"


def test_no_name_becomes_another_s():
    hashed = report.file_name("a b")
    assert report.file_name(hashed) != hashed
    assert len(report.file_name("字" * 300).encode()) < 200


def test_a_name_of_any_bytes_can_be_written(tmp_path):
    (tmp_path / os.fsdecode(b"\xff.ipynb")).write_text(BLANK)
    (name,) = batch.submissions(tmp_path)
    assert name.encode() == b"\\xff"


def test_an_absurd_number_of_an_exercise_is_no_vote():
    assert batch.chapter_of(["Exercise " + "9" * 5000 + ".1", "Exercise 3.2"]) == (3, 1)


def _takes(gigabytes):
    """Runs in a grading process."""
    import torch

    return torch.ones(gigabytes * 2**28).numel()


def test_our_side_of_a_test_has_a_limit_of_memory():
    """An answer may choose shapes that a test makes tensors of."""
    with batch._pool(1) as pool:
        with pytest.raises(RuntimeError, match="memory"):
            pool.submit(_takes, 12).result()
        assert pool.submit(_takes, 1).result() == 2**28


def test_many_files_are_one_vote(tmp_path):
    for number in range(5):
        (tmp_path / "eve").mkdir(exist_ok=True)
        (tmp_path / "eve" / f"{number}.ipynb").write_text('"Exercise 7.1"')
        (tmp_path / f"{number}.ipynb").write_text('"Exercise 3.2"')
    texts = batch.texts_of_students(tmp_path, batch.submissions(tmp_path))
    assert batch.chapter_of(texts) == (3, 5)


def test_exercises_that_ask_for_one_name_are_not_graded_together(tmp_path, capsys):
    (tmp_path / "a.ipynb").write_text(BLANK)
    with pytest.raises(SystemExit) as stop:
        batch.main([str(tmp_path), "--exercises", "1.2,3.4", "--out", str(tmp_path / "out")])
    assert stop.value.code == 2 and "both ask for `score`" in capsys.readouterr().err


def test_what_could_not_be_graded_is_tried_again(tmp_path, monkeypatch):
    """A sandbox that does not start is no fault of an answer."""
    (tmp_path / "a.ipynb").write_text(SOLVED)
    words = [str(tmp_path), "--out", str(tmp_path / "out"), *OPTIONS]
    with monkeypatch.context() as patch:
        patch.setattr(batch, "canary", lambda *a: None)
        patch.setattr(
            batch, "in_parallel", lambda work, *a: [(k, batch.sandbox.NoSandbox("")) for k in work]
        )
        batch.main(words)
        assert "could not be graded" in (tmp_path / "out" / "grades.csv").read_text()
    batch.main(words)
    with open(tmp_path / "out" / "grades.csv", encoding="utf-8") as file:
        (row,) = csv.DictReader(file)
    assert row["points"] == row["of"]
