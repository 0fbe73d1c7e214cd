"""The tests of the tests: each fault, planted in a copy of a faultless chapter, turns a guard red.

Every message must name the file and the cell, so that whoever reads it knows where to go.
"""

import json
import os
import re
import signal
import subprocess
import sys
import time

import nbformat
import pytest
import rules

from tools import notebooks, repoint


def page(chapter):
    return rules.Page(chapter, chapter.parents[1])


def edit(chapter, find, change, kind=None):
    """Change the first cell whose source holds `find`, and keep the file canonical."""
    nb = notebooks.read(chapter)
    cell = next(c for c in nb.cells if find in c.source and kind in (None, c.cell_type))
    change(cell)
    nb = nbformat.from_dict(nb)
    chapter.write_text(notebooks.dumps(notebooks.canonical(nb)), encoding="utf-8")


def say(find, new):
    return lambda cell: cell.update(source=cell.source.replace(find, new))


def append(text):
    return lambda cell: cell.update(source=cell.source + "\n\n" + text)


def test_the_sample_is_faultless(chapter):
    for rule in rules.PAGE_RULES:
        assert rule(page(chapter)) == []
    root = chapter.parents[1]
    assert rules.long_runs(root / "lib/reparam/long_runs") == []
    assert repoint.faults(root) == []


def _alt(value):
    def change(cell):
        cell.metadata["mystnb"]["image"] = {"alt": value} if value else {}

    return change


def _figure(**values):
    return lambda cell: cell.metadata["mystnb"]["figure"].update(values)


def _tags(*tags):
    return lambda cell: cell.metadata.update(tags=list(tags))


def _outputs(outputs):
    return lambda cell: cell.update(outputs=outputs)


ERROR = [{"output_type": "error", "ename": "ValueError", "evalue": "no", "traceback": []}]
BUTTON = "https://colab.research.google.com/github/someone/course/blob/main/book/1-a-sample.ipynb"
# rule, the cell that holds this text, what is done to it, a word of the message
FAULTS = {
    "directive": (rules.commonmark, "The slope is", append(":::{note}\nx\n:::"), "fence"),
    "MyST fence": (rules.commonmark, "The slope is", append("```{note}\nx\n```"), "directive"),
    "role": (rules.commonmark, "The slope is", append("see {cite}`kingma`"), "role"),
    "html admonition": (
        rules.commonmark, "The slope is",
        append('<div class="admonition note">\n\nx\n\n</div>'), "<div>",
    ),
    "target": (rules.commonmark, "The slope is", append("(here)=\n"), "target"),
    "footnote": (rules.commonmark, "The slope is", append("so[^1]"), "footnote"),
    "fold without blank line": (
        rules.commonmark, "<details>", say("</summary>\n\n", "</summary>\n"), "blank line",
    ),
    "unknown box": (rules.commonmark, "Predict first", say("Predict first", "Guess"), "labels"),
    "relative link": (
        rules.links, "next chapter",
        lambda c: c.update(source=re.sub(r"\(https://github[^)]*\)", "(2-next.ipynb)", c.source)),
        "Colab",
    ),
    "broken link": (rules.links, "next chapter", say("2-next", "3-none"), "not in the repository"),
    "markdown image": (rules.links, "The slope is", append("![a line](line.png)"), "image"),
    "button to another file": (rules.title, "# A sample", say("1-a-sample", "2-next"), BUTTON),
    "button to another fork": (rules.links, "# A sample", say("someone", "other"), "Colab link"),
    "second title": (rules.headings, "## Slopes", say("## Slopes", "# Slopes"), "second H1"),
    "skipped level": (rules.headings, "## Slopes", append("#### Deep"), "skips"),
    "setup cell": (rules.setup, "# Setup", say("--quiet ", ""), "exactly"),
    "import below": (rules.setup, "slope = ", say("slope =", "import math\n\nslope ="), "import"),
    "gpu tag": (rules.tag_form, "slope = ", _tags("gpu"), "skip-execution"),
    "check switched off": (rules.tag_form, "slope = ", _tags("nbval-skip"), "no such tag"),
    "check commented off": (
        rules.tag_form, "slope = ", append("# NBVAL_IGNORE_OUTPUT"), "switches a check off",
    ),
    "stored error": (rules.outputs, "slope = ", _outputs(ERROR), "ValueError"),
    "output missing": (rules.outputs, "slope = ", _outputs([]), "make notebooks"),
    "alt missing": (rules.pictures, "plt.plot", _alt(""), "no alt text"),
    "alt is a file name": (
        rules.pictures, "plt.plot", _alt("a/long/folder/name/for/a/line/plot.png"), "does not say",
    ),
    "alt too short": (rules.pictures, "plt.plot", _alt("A line."), "40 characters"),
    "caption missing": (rules.pictures, "plt.plot", _figure(caption=""), "caption"),
    "figure name": (rules.pictures, "plt.plot", _figure(name="Line 1"), "name"),
    "no plt.show()": (rules.pictures, "plt.plot", say("\nplt.show()", ""), "plt.show()"),
    "wrong number": (rules.prose_numbers, "More in", say("0.352", "0.353"), "0.353"),
    "wrong sign": (rules.prose_numbers, "More in", say("0.352", "−0.352"), "-0.352"),
    "wrong exponent": (rules.prose_numbers, "More in", say("10⁴", "10⁵"), "10^{5}"),
    "wrong integer": (rules.prose_numbers, "More in", say("10⁴", "10,001"), "10,001"),
    "wrong number in the take-aways": (rules.prose_numbers, "## Quiz", say("352", "362"), "0.362"),
    "wrong number in a caption": (
        rules.prose_numbers, "plt.plot", _figure(caption="Slope 0.36."), "0.36",
    ),
    "given and not said": (
        rules.prose_numbers, "More in",
        lambda cell: cell.metadata["reparam"]["given"].append("0.99"), "take it out",
    ),
}  # fmt: skip


@pytest.mark.parametrize("fault", FAULTS)
def test_fault_is_noticed(chapter, fault):
    rule, find, change, word = FAULTS[fault]
    edit(chapter, find, change)
    faults = rule(page(chapter))
    assert faults, f"{fault}: nothing noticed it"
    message = "\n".join(faults)
    assert word in message
    assert re.search(r"book/1-a-sample\.ipynb, cell \d+ \(", message)


def test_reading_minutes_are_checked(chapter):
    edit(chapter, "minutes to read", say("2 minutes to read", "20 minutes to read"))
    assert "come to" in rules.minutes(page(chapter))[0]


def test_run_minutes_are_checked(chapter):
    edit(chapter, "minutes to read", say("1 minute to run", "9 minutes to run"))
    assert "run-status" in rules.minutes(page(chapter))[0]


@pytest.mark.parametrize("section", rules.SECTIONS)
def test_missing_section_is_noticed(chapter, section):
    edit(chapter, f"## {section}", say(f"## {section}", "## Else"))
    assert any(section in fault for fault in rules.headings(page(chapter)))


def test_figure_name_used_twice_is_noticed(chapter):
    nb = notebooks.read(chapter)
    twin = chapter.with_name("2-next.ipynb")
    twin.write_text(notebooks.dumps(nb))
    faults = rules.figure_names([page(chapter), page(twin)])
    assert "1-a-sample" in faults[0] and "2-next" in faults[0]


@pytest.mark.parametrize(
    "find, new",
    [
        ('"execution_count": null', '"execution_count": 3'),
        ('"tags": [', '"collapsed": true,\n    "tags": ['),
        ('"name": "python3"', '"name": "mine"'),
        ("\n}\n", "\n}"),
    ],
    ids=["execution count", "editor metadata", "kernel", "last newline"],
)
def test_other_than_canonical_form_is_noticed(chapter, find, new):
    text = chapter.read_text(encoding="utf-8")
    assert find in text
    chapter.write_text(text.replace(find, new, 1), encoding="utf-8")
    fault = rules.form(page(chapter))[0]
    assert "book/1-a-sample.ipynb" in fault and "make notebooks" in fault
    assert notebooks.main(["check", "--root", str(chapter.parents[1])]) == 1


@pytest.mark.parametrize(
    "name, find, new, word",
    [
        ("run.json", "0.5", "0.6", "checksum"),
        ("run.py", "SEED = 1", "SEED = 2", "changed since"),
        ("run.json", '"seeds": [1]', '"seeds": []', "seeds"),
    ],
)
def test_tampered_long_run_is_noticed(chapter, name, find, new, word):
    folder = chapter.parents[1] / "lib/reparam/long_runs"
    file = folder / name
    file.write_text(file.read_text().replace(find, new))
    faults = rules.long_runs(folder)
    assert word in faults[0] and "reparam.long_runs.run" in faults[0]


def test_long_run_without_its_script_is_noticed(chapter):
    folder = chapter.parents[1] / "lib/reparam/long_runs"
    (folder / "run.py").unlink()
    assert "run.py is missing" in rules.long_runs(folder)[0]


# ---------------------------------------------------------------- strict nbval, with pictures


def nbval(chapter):
    """The nbval run of `make test`, on a copy."""
    return subprocess.run(
        [
            sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "conftest",
            "--nbval", "--nbval-current-env", "--color=no", "--confcutdir", str(chapter.parent),
            "--nbval-sanitize-with", str(notebooks.ROOT / "tests/notebooks/sanitize.cfg"),
            "-c", os.devnull, "--rootdir", str(chapter.parents[1]), str(chapter),
        ],
        cwd=notebooks.ROOT, capture_output=True, text=True, timeout=120,
        env={k: v for k, v in os.environ.items() if not k.startswith("PYTEST_")},
    )  # fmt: skip


def replace_output(chapter, find, change):
    nb = notebooks.read(chapter)
    cell = next(c for c in nb.cells if find in c.source)
    change(cell.outputs[0])
    chapter.write_text(notebooks.dumps(nb), encoding="utf-8")


def test_strict_run_passes_what_is_right(chapter):
    run = nbval(chapter)
    assert run.returncode == 0, run.stdout + run.stderr


def test_edited_stored_number_is_noticed(chapter):
    replace_output(chapter, "slope =", lambda o: o.update(text=o.text.replace("0.352", "0.353")))
    run = nbval(chapter)
    assert run.returncode == 1
    assert "1-a-sample.ipynb, code cell 2" in run.stdout and "make notebooks" in run.stdout
    assert "1 failed" in run.stdout


def test_stale_picture_is_noticed(chapter):
    """The code draws another line, and the stored picture is still the old one."""
    edit(chapter, "plt.plot", say("[0, 2, 4]", "[0, 2, 4.1]"))
    run = nbval(chapter)
    assert run.returncode == 1
    assert "1-a-sample.ipynb, code cell 3: picture 1" in run.stdout
    assert "make notebooks" in run.stdout


def test_missing_picture_is_noticed(chapter):
    replace_output(chapter, "plt.plot", lambda o: o.data.pop("image/png"))
    run = nbval(chapter)
    assert run.returncode == 1 and "stores 0 pictures and now draws 1" in run.stdout


# ---------------------------------------------------------------- make notebooks


def run_notebooks(chapter, *options, **more):
    command = [sys.executable, str(notebooks.ROOT / "tools/notebooks.py"), "run", "--root"]
    command += [str(chapter.parents[1]), *options]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, **more)


def test_only_what_changed_is_executed(chapter):
    first = run_notebooks(chapter, str(chapter))
    assert "unchanged" in first.stdout
    edit(chapter, "More in", append("More words, no other code."))
    assert "unchanged" in run_notebooks(chapter, str(chapter)).stdout
    (chapter.parents[1] / "lib/reparam/new.py").write_text("x = 1\n")
    again = run_notebooks(chapter, str(chapter))
    assert "unchanged" not in again.stdout and again.returncode == 0


def test_a_run_heals_a_stored_number_and_leaves_the_rest(chapter):
    whole = chapter.read_bytes()
    replace_output(chapter, "slope =", lambda o: o.update(text="slope 9\n"))
    assert run_notebooks(chapter, str(chapter)).returncode == 0
    assert chapter.read_bytes() == whole


def test_failing_cell_is_named_and_the_other_notebook_written(chapter):
    whole = chapter.read_bytes()
    twin = chapter.with_name("2-next.ipynb")
    twin.write_bytes(whole)
    edit(chapter, "slope =", append("slope / 0"))
    broken = chapter.read_bytes()
    edit(twin, "slope =", say("0.3519", "0.3529"))
    run = run_notebooks(chapter)
    assert run.returncode == 1
    assert "book/1-a-sample.ipynb, cell 6 (code 2: “slope = 0.3519”) failed" in run.stderr
    assert "ZeroDivisionError: " in run.stderr
    assert chapter.read_bytes() == broken
    assert "0.353" in twin.read_text()


def test_gpu_cell_keeps_its_stored_output_without_a_gpu(chapter):
    def change(cell):
        cell.metadata["tags"] = ["gpu", "skip-execution"]
        cell.source = "raise SystemError('no GPU here')"
        cell.outputs = [{"output_type": "stream", "name": "stdout", "text": "from a GPU\n"}]

    edit(chapter, "slope =", change)
    environment = {k: v for k, v in os.environ.items() if k != "COURSE_GPU"}
    run = run_notebooks(chapter, str(chapter), env=environment)
    assert run.returncode == 0 and "from a GPU" in chapter.read_text()
    run = run_notebooks(chapter, str(chapter), env=environment | {"COURSE_GPU": "1"})
    assert run.returncode == 1 and "no GPU here" in run.stderr


def test_stderr_is_a_fault(chapter):
    edit(chapter, "import matplotlib", append("import warnings\nwarnings.warn('old')"))
    run = run_notebooks(chapter, str(chapter))
    assert run.returncode == 1 and "wrote to stderr" in run.stderr and "cell 3" in run.stderr


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_a_kill_leaves_every_notebook_whole(chapter, how, tmp_path):
    """Killed while a cell runs: the notebook is the old one, to the byte, and no litter stays."""
    started = tmp_path / "started"
    code = f"import pathlib, time\npathlib.Path({str(started)!r}).touch()\ntime.sleep(60)"
    edit(chapter, "import matplotlib", append(code))
    whole = chapter.read_bytes()
    process = subprocess.Popen(
        [sys.executable, str(notebooks.ROOT / "tools/notebooks.py"), "run", "--root",
         str(chapter.parents[1]), str(chapter)],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    deadline = time.monotonic() + 60
    while not started.exists():
        assert process.poll() is None and time.monotonic() < deadline, process.communicate()
        time.sleep(0.05)
    process.send_signal(how)
    out, _ = process.communicate(timeout=30)
    assert process.returncode == (-9 if how == signal.SIGKILL else 130)
    assert how == signal.SIGKILL or "Stopped" in out
    assert chapter.read_bytes() == whole
    assert not [p.name for p in chapter.parent.iterdir() if p.name.endswith(".tmp")]


def test_a_kill_while_writing_leaves_the_notebook_whole(chapter, monkeypatch):
    """Stopped at the last moment, when the new text lies beside the old file."""
    whole = chapter.read_bytes()
    monkeypatch.setattr(os, "replace", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt()))
    with pytest.raises(KeyboardInterrupt):
        notebooks.write(chapter, "half")
    assert chapter.read_bytes() == whole


# ---------------------------------------------------------------- one setting for a fork


def test_repoint_reaches_every_place_and_only_once(chapter, capsys):
    root = chapter.parents[1]
    new = "https://github.com/fork-er/My.course"
    assert repoint.main([new, "dev", "--root", str(root)]) == 0
    assert repoint.setting(root) == (new, "dev")
    for file in (chapter, root / "README.md", root / "_config.yml"):
        assert "someone/course" not in file.read_text(), file
        assert "fork-er/My.course" in file.read_text(), file
    for rule in (rules.form, rules.links, rules.title, rules.setup):
        assert rule(page(chapter)) == []
    before = {p: p.read_bytes() for p in root.rglob("*") if p.is_file()}
    assert repoint.main([new, "dev", "--root", str(root)]) == 0
    assert "0 files changed" in capsys.readouterr().out
    assert before == {p: p.read_bytes() for p in root.rglob("*") if p.is_file()}
    assert repoint.main(["file:///tmp/a/clone", "--root", str(root)]) == 0
    assert "git+file:///tmp/a/clone@main" in chapter.read_text()
    assert repoint.main(["https://github.com/someone/course.git/", "--root", str(root)]) == 0
    assert repoint.faults(root) == []
    assert (root / "README.md").read_text() == (
        "Install: `pip install git+https://github.com/someone/course@main`, see "
        "https://github.com/someone/course.\n"
    )


def test_repoint_after_a_hand_edit_of_the_setting(chapter):
    config = chapter.parents[1] / "_config.yml"
    config.write_text(config.read_text().replace("someone/course", "me/mine"))
    faults = repoint.faults(config.parent)
    assert any("1-a-sample.ipynb, line" in f and "make repoint" in f for f in faults)
    assert any("README.md, line 1" in f for f in faults)
    assert repoint.main(["--root", str(config.parent)]) == 0
    assert repoint.faults(config.parent) == []
    assert "me/mine" in (config.parent / "README.md").read_text()


@pytest.mark.parametrize("url", ["", "github.com/a/b", "https://github.com/a", "git@x:a/b"])
def test_repoint_refuses_what_pip_cannot_install_from(chapter, url, capsys):
    before = chapter.read_bytes()
    with pytest.raises(SystemExit) as exit_:
        repoint.main([url or "x", "--root", str(chapter.parents[1])])
    assert exit_.value.code == 2 and "https://github.com/OWNER/NAME" in capsys.readouterr().err
    assert chapter.read_bytes() == before


@pytest.mark.filterwarnings("ignore:Non-unique cell id")
def test_canonical_form_of_what_editors_leave(chapter):
    """Once canonical, always canonical; and nothing that a reader sees is lost."""
    nb = json.loads(chapter.read_text())
    nb["metadata"]["widgets"] = {"state": {}}
    code = next(c for c in nb["cells"] if c["cell_type"] == "code" and c["outputs"])
    code["execution_count"] = 7
    code["outputs"] = [
        {"output_type": "stream", "name": "stdout", "text": ["a\n"]},
        {"output_type": "stream", "name": "stdout", "text": ["b\n"]},
        {"output_type": "stream", "name": "stderr", "text": ["warning\n"]},
        {"output_type": "display_data", "metadata": {},
         "data": {notebooks.WIDGET_VIEW: {"model_id": "1"}, "text/html": "<b>x</b>"}},
    ]  # fmt: skip
    nb["cells"][0]["id"] = nb["cells"][1]["id"]
    chapter.write_text(json.dumps(nb))
    once = notebooks.canonical(notebooks.read(chapter))
    assert notebooks.dumps(notebooks.canonical(once)) == notebooks.dumps(once)
    outputs = next(c for c in once.cells if c.cell_type == "code" and c.outputs).outputs
    assert outputs[0].text == "a\nb\n"
    assert [dict(o.data) for o in outputs[1:]] == [{"text/html": "<b>x</b>"}]
    assert len({c.id for c in once.cells}) == len(once.cells)
