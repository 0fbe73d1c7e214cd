"""A chapter and a sheet as a learner opens them in Colab: no checkout, torch already there.

Two stand for all. The setup cell is the same to the letter everywhere (tests/notebooks/rules.py),
and what comes after it runs in the strict nbval run as it does here: in an empty folder, with the
library as pip installs it (conftest.py).

What the learner's machine is here: a fresh virtual environment, and outside it a folder of links to
the packages of this one, `reparam` left out. That folder plays the image that Colab starts from:
pip sees its torch as installed and can neither change nor remove it, and the links that lead to our
checkout (the editable install's .pth) do not exist in it. `venv --system-site-packages` would not
do: it shows the base interpreter's packages, which have no torch. Installing torch anew would do,
at 200 MB a run.

The notebook is the committed one, re-pointed by `tools/repoint.py` to a clone of HEAD, so that the
setup cell truly installs, through `git+file://`, what a push would publish.
"""

import hashlib
import json
import os
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

from tools import notebooks, repoint

PACKAGES = Path(sysconfig.get_path("purelib"))
TRIAL = "trial"
pytestmark = pytest.mark.slow

# Runs a notebook in its folder by the interpreter that runs this, and reports what the kernel saw.
EXECUTE = """\
import json, sys
import nbformat
from nbclient import NotebookClient
from nbformat.v4 import new_code_cell
nb = nbformat.read(sys.argv[1], 4)
probe = new_code_cell(f'''import importlib.metadata as m, json
import reparam, torch
with open({sys.argv[2]!r}, "w") as file:
    json.dump({{"reparam": reparam.__file__, "file": torch.__file__,
               "direct_url": m.distribution("reparam").read_text("direct_url.json")}}, file)''')
nb.cells.append(probe)
try:
    NotebookClient(nb, timeout=600, kernel_name="learner", skip_cells_with_tag="gpu",
                   resources={"metadata": {"path": "."}}).execute()
except Exception:
    setup = next(c for c in nb.cells if c.cell_type == "code")
    print("The setup cell said:", [o.get("text") for o in setup.outputs])
    raise
"""


def run(*command, **more):
    done = subprocess.run(command, capture_output=True, text=True, timeout=900, **more)
    assert done.returncode == 0, f"{command}\n{done.stdout[-3000:]}\n{done.stderr[-6000:]}"
    return done.stdout


def git(*arguments):
    return run("git", *arguments, cwd=notebooks.ROOT).strip()


def fingerprint(package):
    """Names, sizes and times of a package's files."""
    lines = [
        f"{p.relative_to(PACKAGES)} {p.stat().st_size} {p.stat().st_mtime_ns}"
        for p in sorted((PACKAGES / package).rglob("*"))
        if p.is_file() and "__pycache__" not in p.parts
    ]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


@pytest.fixture(scope="session")
def clone(tmp_path_factory):
    """What a learner's pip would fetch: a clone of HEAD, on a branch of its own."""
    folder = tmp_path_factory.mktemp("remote") / "reparam"
    run("git", "clone", "--quiet", "--no-checkout", str(notebooks.ROOT), str(folder))
    run("git", "-C", str(folder), "checkout", "--quiet", "-B", TRIAL, git("rev-parse", "HEAD"))
    return folder


@pytest.fixture(scope="session")
def image(tmp_path_factory):
    """The packages that the learner's machine comes with: ours, without our own."""
    folder = tmp_path_factory.mktemp("image")
    for entry in PACKAGES.iterdir():
        ours = "reparam" in entry.name.lower() or entry.suffix == ".pth"
        if not ours and not entry.name.startswith("pip"):
            (folder / entry.name).symlink_to(entry)
    # Colab's pip is newer than that of Python 3.11, which refuses `name @ git+file://…`.
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    run(*pip, "--target", str(folder), "pip>=24.1")
    return folder


def learner(folder, image):
    """A fresh environment on that machine; returns its Python and how to call it."""
    environment = {
        k: v
        for k, v in os.environ.items()
        if not k.startswith(("PYTHON", "PIP_", "PYTEST_", "VIRTUAL_ENV", "JUPYTER"))
    }
    environment |= {
        "PYTHONNOUSERSITE": "1", "PIP_DISABLE_PIP_VERSION_CHECK": "1", "TQDM_DISABLE": "1",
        "JUPYTER_PATH": str(folder / "jupyter"), "IPYTHONDIR": str(folder / "ipython"),
    }  # fmt: skip
    run(sys.executable, "-m", "venv", "--without-pip", str(folder / "venv"))
    python = next((folder / "venv").glob("[bS]*/python*"))
    site = run(str(python), "-c", "import sysconfig; print(sysconfig.get_path('purelib'))").strip()
    Path(site, "image.pth").write_text(f"{image}\n")
    kernel = folder / "jupyter/kernels/learner"
    kernel.mkdir(parents=True)
    argv = [str(python), "-m", "ipykernel_launcher", "-f", "{connection_file}"]
    (kernel / "kernel.json").write_text(json.dumps({"argv": argv, "display_name": "learner"}))
    return python, site, environment


SHOWN = ["book/4-a-stable-implementation.ipynb", "book/exercises/1-the-gradient-blockage.ipynb"]


@pytest.mark.parametrize("name", SHOWN)
def test_every_cell_runs(name, clone, image, tmp_path):
    python, site, environment = learner(tmp_path, image)
    probe = "import importlib.util as u; print(u.find_spec('reparam'), u.find_spec('torch').origin)"
    before = run(str(python), "-c", probe, cwd=tmp_path, env=environment).split()
    assert before[0] == "None", f"the checkout shows through: {before}"
    torch_before = fingerprint("torch")

    folder = tmp_path / "content"
    folder.mkdir()
    text = (clone / name).read_text(encoding="utf-8")
    url, branch = repoint.setting(clone)
    here = clone.as_uri()
    moved = text.replace(f"git+{url}@{branch}", f"git+{here}@{TRIAL}")
    assert moved != text, f"{name}: its setup cell does not install from {url}@{branch}"
    (folder / Path(name).name).write_text(moved, encoding="utf-8")

    told = tmp_path / "seen.json"
    run(str(python), "-c", EXECUTE, Path(name).name, str(told), cwd=folder, env=environment)
    seen = json.loads(told.read_text(encoding="utf-8"))
    assert Path(seen["reparam"]).is_relative_to(site), f"not what was installed: {seen}"
    installed = json.loads(seen["direct_url"])
    assert installed["url"] == here and installed["vcs_info"]["requested_revision"] == TRIAL
    assert seen["file"] == before[1], "the setup cell brought another torch"
    assert not list(Path(site).glob("torch*")), "the setup cell installed torch"
    assert fingerprint("torch") == torch_before, "the preinstalled torch was touched"
    assert [p.name for p in folder.iterdir() if p.suffix != ".ipynb"] == []
