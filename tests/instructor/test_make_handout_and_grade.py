"""The two commands for teachers do what the README says, as it writes them."""

import csv
import os
import re
import shutil
import subprocess

import pytest

from tools.notebooks import ROOT

README = (ROOT / "README.md").read_text(encoding="utf-8")
INSTALLED = (ROOT / ".venv" / "bin" / "python").exists()


def make(*words):
    """Not as a part of the make that runs these tests."""
    environment = {name: value for name, value in os.environ.items() if "MAKE" not in name}
    done = subprocess.run(
        ["make", *words], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]


@pytest.mark.slow
@pytest.mark.skipif(not INSTALLED, reason="make would set up another environment here first")
def test_a_sheet_is_handed_out_and_graded(tmp_path):
    handout, grade = re.findall(r"(?m)^make ((?:handout|grade)[^#\n]*)", README)
    make(*handout.split(), f"OUT={tmp_path / 'handout'}")
    (sheet,) = (tmp_path / "handout").glob("*.ipynb")
    assert f"# _build/handout/{sheet.name}" in README

    submissions = tmp_path / "folder"
    submissions.mkdir()
    shutil.copy(sheet, submissions / "ann.ipynb")
    words = grade.replace("SUBMISSIONS=folder", f"SUBMISSIONS={submissions}").split()
    make(*words, f"OUT={tmp_path / 'grades'}")
    with open(tmp_path / "grades" / "grades.csv", newline="", encoding="utf-8") as file:
        (row,) = csv.DictReader(file)
    assert row["file"] == "ann.ipynb" and float(row["points"]) == 0 < float(row["of"])
    assert any((tmp_path / "grades" / "reports").iterdir())
