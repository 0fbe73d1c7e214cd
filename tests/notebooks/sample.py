"""A small book of one made-up chapter, faultless, for tests that break copies of it."""

import json
import shutil
from pathlib import Path

import nbformat
import rules
from nbformat.v4 import new_code_cell, new_markdown_cell

from tools import notebooks, repoint

URL, BRANCH = "https://github.com/someone/course", "main"
NAME = "book/1-a-sample.ipynb"
ALT = "A blue line that rises straight from zero at the left to four at the right."


def _cells():
    colab = repoint.colab_url(URL, BRANCH, NAME)
    neighbour = repoint.file_url(URL, BRANCH, "book/2-next.ipynb")
    figure = {"image": {"alt": ALT}, "figure": {"caption": "A line.", "name": "fig-line"}}
    words = "The slope is what we want to know here, and we say so in plain words. " * 25
    return [
        new_markdown_cell(f"# A sample\n\n[Open in Colab]({colab})\n\n2 minutes to read, 1 minute "
                          "to run on two CPU cores."),
        new_code_cell(repoint.setup_source(URL, BRANCH),
                      metadata={"tags": ["setup", "hide-input"]}),
        new_code_cell("import matplotlib.pyplot as plt"),
        new_markdown_cell("## What you will be able to do\n\nRead a slope of 0.352."),
        new_markdown_cell(f"## Slopes\n\n{words}\n\n> **Predict first.** How steep?\n\n"
                          "<details><summary>Hint</summary>\n\nLook at *it*.\n\n</details>"),
        new_code_cell("slope = 0.3519\nprint(f'slope {slope:.3f} in 10000 draws')"),
        new_markdown_cell("The slope is 0.352, about $3.52\\times 10^{-1}$, from 10⁴ draws, within "
                          f"a 95 % interval. More in [the next chapter]({neighbour}).",
                          metadata={"reparam": {"given": ["95"]}}),
        new_code_cell("plt.plot([0, 2, 4])\nplt.show()", metadata={"mystnb": figure}),
        new_markdown_cell("## Quiz\n\nWhich?\n\n## Take-aways\n\nThe slope is 0.352.\n\n"
                          "## References\n\nA. Author (2014), volume 32, pages 1278–1286."),
    ]  # fmt: skip


def make(root):
    """Write the book under `root`, execute its chapter, and return the chapter's path."""
    root = Path(root)
    (root / "book").mkdir(parents=True)
    runs = root / "lib/reparam/long_runs"
    runs.mkdir(parents=True)
    (root / "_config.yml").write_text(
        f"title: A sample\n\nrepository:\n  url: {URL}  # named here\n  branch: {BRANCH}\n"
    )
    (root / "README.md").write_text(f"Install: `pip install git+{URL}@{BRANCH}`, see {URL}.\n")
    for name in ("1-a-sample", "2-next"):
        nb = nbformat.v4.new_notebook(cells=_cells() if name.startswith("1") else [])
        (root / f"book/{name}.ipynb").write_text(notebooks.dumps(notebooks.canonical(nb)))
    (runs / "run.py").write_text("SEED = 1\n")
    data = {"loss": [1.5, 0.5]}
    record = {
        "script_sha256": rules.sha256((runs / "run.py").read_bytes()),
        "data_sha256": rules.data_sha256(data),
        "seeds": [1],
        "versions": {"torch": "2"},
        "data": data,
    }
    (runs / "run.json").write_text(json.dumps(record))
    assert notebooks.main(["run", "--root", str(root), str(root / NAME)]) == 0
    return root / NAME


def copy(book, root):
    """A copy of the book to break; returns its chapter's path."""
    shutil.copytree(book, root, dirs_exist_ok=True)
    return Path(root) / NAME
