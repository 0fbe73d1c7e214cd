"""Re-execute notebooks and keep them in canonical form.

    python tools/notebooks.py run [PATH ...] [--all] [--jobs 2]    what `make notebooks` does
    python tools/notebooks.py check [PATH ...]                     canonical form only

`run` executes the notebooks whose code, stored outputs, library or pins changed since they last ran
*on this machine*. The stamp of that run lies in `_build/`, outside git: a fresh clone re-executes
everything once instead of trusting what another machine claimed, and no commit carries stamp noise.
A notebook is replaced in one step, after it ran through, so a kill at any moment leaves it whole.
"""

import argparse
import asyncio
import base64
import copy
import datetime
import hashlib
import importlib.metadata
import io
import json
import os
import platform
import re
import signal
import sys
import time
from pathlib import Path

import nbformat

ROOT = Path(__file__).resolve().parents[1]
STAMPS = "_build/notebooks-ran.json"
STATUS_DATA = "book/run-status.json"
STATUS_PAGE = "book/run-status.md"
MEND = "mend it with `make notebooks`"

NOTEBOOK_METADATA = {
    "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
    "language_info": {"name": "python"},
}
# What a cell may carry for its readers; editors add the rest (collapsed, trusted, outputId, ...).
CELL_METADATA = ("mystnb", "reparam", "tags")
WIDGET_VIEW = "application/vnd.jupyter.widget-view+json"
CELL_ID = re.compile(r"[a-zA-Z0-9_-]{1,64}")


# ---------------------------------------------------------------- naming things


def notebook_paths(root=ROOT):
    """Every notebook of the book, in reading order of the file names."""
    book = Path(root) / "book"
    return sorted(p for p in book.rglob("*.ipynb") if ".ipynb_checkpoints" not in p.parts)


def shown(path, root=ROOT):
    """The path as a reader of a message types it."""
    path = Path(path).resolve()
    return str(path.relative_to(root)) if path.is_relative_to(root) else str(path)


def cell_name(nb, index):
    """A cell as a person finds it: its number, nbval's number if it is code, its first words."""
    cell = nb.cells[index]
    first = next((line.strip() for line in cell.source.splitlines() if line.strip()), "empty")
    kind = cell.cell_type
    if kind == "code":
        kind += f" {sum(c.cell_type == 'code' for c in nb.cells[:index])}"
    return f"cell {index + 1} ({kind}: “{first[:50]}”)"


# ---------------------------------------------------------------- canonical form


def _lines(text):
    return text.replace("\r\n", "\n").replace("\r", "\n")


def _canonical_outputs(outputs):
    kept = []
    for output in copy.deepcopy(outputs):
        if output.output_type == "stream":
            if output.name == "stderr":
                continue
            if kept and kept[-1].output_type == "stream":
                kept[-1].text += output.text
                continue
        elif output.output_type == "error":
            # The full traceback holds paths and line numbers of one machine.
            output.traceback = [f"{output.ename}: {output.evalue}"]
        else:
            output.data.pop(WIDGET_VIEW, None)
            if not output.data:
                continue
            output.metadata = {k: v for k, v in output.metadata.items() if k in output.data and v}
            output.pop("transient", None)
            if output.output_type == "execute_result":
                output.execution_count = None
            for mime in ("image/png", "image/jpeg"):
                if mime in output.data:
                    output.data[mime] = "".join(output.data[mime].split())
        kept.append(output)
    return kept


def canonical(nb):
    """A copy of the notebook in the form in which it is committed.

    No execution counts, timings or editor metadata; fixed kernel description; valid unique cell ids
    (kept where they are); no stderr and no widget model ids; neighbouring prints merged.
    """
    cells, ids = [], set()
    for cell in nb.cells:
        source = _lines(cell.source).strip("\n")
        metadata = {k: cell.metadata[k] for k in CELL_METADATA if cell.metadata.get(k)}
        if "tags" in metadata:
            metadata["tags"] = list(dict.fromkeys(metadata["tags"]))
        cell_id, salt = cell.get("id", ""), 0
        while not CELL_ID.fullmatch(cell_id) or cell_id in ids:
            text = f"{cell.cell_type}\n{source}\n{salt}"
            cell_id, salt = hashlib.sha256(text.encode()).hexdigest()[:8], salt + 1
        ids.add(cell_id)
        new = {"cell_type": cell.cell_type, "id": cell_id, "metadata": metadata, "source": source}
        if cell.cell_type == "code":
            new |= {"execution_count": None, "outputs": _canonical_outputs(cell.outputs)}
        elif cell.get("attachments"):
            new["attachments"] = cell.attachments
        cells.append(new)
    return nbformat.from_dict(
        {"cells": cells, "metadata": NOTEBOOK_METADATA, "nbformat": 4, "nbformat_minor": 5}
    )


def dumps(nb):
    """The text of a notebook file: sorted keys, indent 1, sources by line, a newline at the end."""
    return nbformat.writes(nb, version=4).rstrip("\n") + "\n"


def read(path):
    return nbformat.reads(Path(path).read_text(encoding="utf-8"), as_version=4)


def write(path, text):
    """Replace a file in one step: whoever looks sees the old one or the new one, never a part."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(temporary, "w", encoding="utf-8", newline="\n") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def form_faults(path, root=ROOT):
    """What keeps a notebook file from canonical form: the first line that differs."""
    stored = Path(path).read_text(encoding="utf-8")
    nb = nbformat.reads(stored, as_version=4)
    wanted = dumps(canonical(nb))
    if stored == wanted:
        return []
    fixed = canonical(nb)
    for index, (cell, form) in enumerate(zip(nb.cells, fixed.cells, strict=True)):
        if cell != form:
            keys = sorted(k for k in {*cell, *form} if cell.get(k) != form.get(k))
            return [
                f"{shown(path, root)}, {cell_name(nb, index)}: not in canonical form "
                f"({', '.join(keys)}): {MEND}"
            ]
    return [f"{shown(path, root)}: not in canonical form (file metadata or layout): {MEND}"]


# ---------------------------------------------------------------- pictures

# A fresh picture equals the stored one if, after a 3 x 3 mean that absorbs antialiasing, at most
# CHANGED_SHARE of the pixels moved by more than CHANGED_LEVELS of 255 and the mean difference is
# at most MEAN_LEVELS. Measured on a 600 x 400 figure (tests/notebooks/test_pictures.py holds both
# sides): rounding or another simplification of a path leaves 0.000 % and 0.03, a dot that snaps to
# the next pixel 0.011 % and 0.01; one moved dot is 0.036 % and 0.04, a curve higher by 1 % 0.30 %
# and 0.20, a band wider by a tenth 0.00 % and 0.10. Letters of another FreeType (0.4 %, 0.8) count
# as a change: the pinned matplotlib brings its own.
CHANGED_LEVELS = 40
CHANGED_SHARE = 0.0002
MEAN_LEVELS = 0.06


def picture_difference(stored, fresh):
    """Why two base64 PNGs are not the same picture, or an empty string."""
    import numpy as np
    from PIL import Image

    try:
        images = [
            Image.open(io.BytesIO(base64.b64decode(text))).convert("RGBA")
            for text in (stored, fresh)
        ]
    except Exception as error:
        return f"a picture that cannot be read ({error})"
    if images[0].size != images[1].size:
        sizes = ["{} x {}".format(*image.size) for image in images]
        return f"stored {sizes[0]} pixels, fresh {sizes[1]}"
    a, b = (np.asarray(image, dtype=np.float32) for image in images)
    delta = np.pad(a - b, ((1, 1), (1, 1), (0, 0)), mode="edge")
    rows = delta[:-2] + delta[1:-1] + delta[2:]
    blurred = np.abs(rows[:, :-2] + rows[:, 1:-1] + rows[:, 2:]).max(axis=2) / 9
    mean, share = float(np.abs(a - b).mean()), float((blurred > CHANGED_LEVELS).mean())
    if mean <= MEAN_LEVELS and share <= CHANGED_SHARE:
        return ""
    return (
        f"{share:.3%} of the pixels changed (at most {CHANGED_SHARE:.3%}), mean difference "
        f"{mean:.2f} levels of 255 (at most {MEAN_LEVELS})"
    )


def pictures(outputs):
    """The PNGs of a cell's outputs, in order."""
    return [o.data["image/png"] for o in outputs if "image/png" in o.get("data", {})]


def picture_faults(stored_outputs, fresh_outputs):
    """The pictures of one cell, stored against fresh: one sentence per fault."""
    stored, fresh = pictures(stored_outputs), pictures(fresh_outputs)
    if len(stored) != len(fresh):
        return [f"the cell stores {len(stored)} pictures and now draws {len(fresh)}"]
    return [
        f"picture {number}: {why}"
        for number, (old, new) in enumerate(zip(stored, fresh, strict=True), 1)
        if (why := picture_difference(old, new))
    ]


def _keep_equal_pictures(old, new):
    """Where only antialiasing changed, the stored bytes stay: no diff without a difference."""
    stored = {c.id: c.outputs for c in old.cells if c.cell_type == "code" and "id" in c}
    for cell in new.cells:
        before = stored.get(cell.get("id"), [])
        if cell.cell_type != "code" or not pictures(before):
            continue
        if not picture_faults(before, cell.outputs):
            drawn = [o for o in cell.outputs if "image/png" in o.get("data", {})]
            for output, png in zip(drawn, pictures(before), strict=True):
                output.data["image/png"] = png


# ---------------------------------------------------------------- what changed


def _digest(*parts):
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()


def ground(root):
    """A digest of everything under the notebooks: the library's files and the pins."""
    library = sorted(
        p
        for p in (root / "lib" / "reparam").rglob("*")
        if p.is_file() and "__pycache__" not in p.parts
    )
    files = [*library, root / "requirements.txt", root / "constraints.txt", root / "pyproject.toml"]
    return _digest(
        platform.python_version(),
        *(f"{p.relative_to(root)} {hashlib.sha256(p.read_bytes()).hexdigest()}"
          for p in files if p.exists()),
    )  # fmt: skip


def digest(nb, ground_digest, gpu):
    """A digest of what a run depends on and of what it stored; prose is free to change."""
    code = [
        [c.source, c.metadata.get("tags", []), c.outputs] for c in nb.cells if c.cell_type == "code"
    ]
    return _digest(ground_digest, str(gpu), json.dumps(code, sort_keys=True))


# ---------------------------------------------------------------- execution


class CellFailed(Exception):
    """A cell that did not run as a page's cell must; the message says which and how."""


def kernel_environment():
    """What every execution of the book's notebooks has in common, here and under nbval.

    No progress bars in outputs; one thread per kernel, so that sums come in the same order and two
    kernels do not fight for two cores; matplotlib's inline backend, whatever the caller exported.
    """
    os.environ["TQDM_DISABLE"] = "1"
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    os.environ.pop("MPLBACKEND", None)


async def _execute(nb, path, gpu, on_cell, on_start):
    """Run a notebook in place, in a kernel of this interpreter, in the notebook's folder."""
    import traitlets
    from jupyter_client.manager import AsyncKernelManager
    from nbclient import NotebookClient
    from nbclient.exceptions import CellExecutionError, CellTimeoutError
    from nbval.kernel import CURRENT_ENV_KERNEL_NAME, NbvalKernelspecManager

    class Kernel(AsyncKernelManager):
        """A kernel of the interpreter that runs this, whatever kernels the user has installed."""

        @traitlets.default("kernel_spec_manager")
        def _this_interpreter(self):
            return NbvalKernelspecManager()

    running = {"index": 0}

    def start_cell(cell, cell_index, **_):
        running["index"] = cell_index

    client = NotebookClient(
        nb,
        kernel_manager_class=Kernel,
        kernel_name=CURRENT_ENV_KERNEL_NAME,
        extra_arguments=["--IPKernelApp.log_level=ERROR"],
        timeout=900,
        allow_errors=False,
        record_timing=False,
        store_widget_state=False,
        skip_cells_with_tag="" if gpu else "gpu",
        resources={"metadata": {"path": str(Path(path).parent)}},
        on_cell_start=start_cell,
        on_cell_executed=lambda **_: on_cell(),
        on_notebook_start=lambda **_: on_start(),
    )
    try:
        await client.async_execute()
    except CellExecutionError as error:
        trace = re.sub(r"\x1b\[[0-9;]*m", "", error.traceback).strip().splitlines()
        tail = "\n".join(f"    {line}" for line in trace[-12:])
        raise CellFailed(f"{cell_name(nb, running['index'])} failed:\n{tail}") from None
    except (CellTimeoutError, RuntimeError) as error:  # too slow, dead, or never started
        raise CellFailed(f"{cell_name(nb, running['index'])}: {error}") from None
    for index, cell in enumerate(nb.cells):
        for output in cell.get("outputs", []):
            if output.output_type == "stream" and output.name == "stderr":
                text = "\n".join(f"    {line}" for line in output.text.strip().splitlines()[-6:])
                raise CellFailed(
                    f"{cell_name(nb, index)} wrote to stderr, which a page does not show "
                    f"(mend the cause, or catch the warning and print it):\n{text}"
                )


def _cores():
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()


def environment():
    """The machine and the versions of a run, for the run-status page."""
    model = ""
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        found = re.search(r"^model name\s*:\s*(.+)$", cpuinfo.read_text(), re.MULTILINE)
        model = found.group(1).strip() if found else ""
    names = ["torch", "numpy", "scipy", "matplotlib", "seaborn", "scikit-learn", "ipywidgets"]
    return {
        "machine": f"{platform.system()} {platform.machine()}, {_cores()} CPU cores"
        + (f" ({model})" if model else ""),
        "versions": {"Python": platform.python_version()}
        | {name: importlib.metadata.version(name) for name in names},
    }


def _record(nb, seconds, gpu):
    code = [c for c in nb.cells if c.cell_type == "code"]
    skipped = 0 if gpu else sum("gpu" in c.metadata.get("tags", []) for c in code)
    return {
        "date": datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M"),
        "seconds": round(seconds, 1),
        "cells": len(code) - skipped,
        "gpu_cells_skipped": skipped,
        "outputs": sum(len(c.outputs) for c in code),
        "pictures": sum(len(pictures(c.outputs)) for c in code),
        **environment(),
    }


def status_page(status):
    """The run-status page: one table per machine and set of versions."""
    lines = [
        "# Run status",
        "",
        "Every output in this book comes from running its notebook from top to bottom, and this "
        "page is written by that run (`make notebooks`). Each notebook had one thread; cells that "
        "need a GPU are counted apart where they did not run.",
        "",
    ]
    groups = {}
    for name, record in sorted(status.items()):
        # Python first, whatever order the data file has.
        versions = sorted(record["versions"].items(), key=lambda v: (v[0] != "Python", v[0]))
        key = (record["machine"], ", ".join(f"{name} {version}" for name, version in versions))
        groups.setdefault(key, []).append((name, record))
    for (machine, versions), rows in groups.items():
        lines += [
            f"**Machine.** {machine}.",
            "",
            f"**Versions.** {versions}.",
            "",
            "| Notebook | Run (UTC) | Seconds | Cells | GPU cells not run | Outputs | Pictures |",
            "|---|---|--:|--:|--:|--:|--:|",
        ]
        lines += [
            f"| {name} | {r['date']} | {r['seconds']:.1f} | {r['cells']} | "
            f"{r['gpu_cells_skipped']} | {r['outputs']} | {r['pictures']} |"
            for name, r in rows
        ]
        lines.append("")
    return "\n".join(lines)


def _load(path):
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}


def _dump(path, data):
    write(path, json.dumps(data, indent=1, sort_keys=True, ensure_ascii=False) + "\n")


def _wants_gpu():
    return os.environ.get("COURSE_GPU") == "1"


async def _run_all(paths, root, everything, jobs):
    from tqdm import tqdm

    gpu, ground_digest = _wants_gpu(), ground(root)
    stamps, faults, todo, records = _load(root / STAMPS), [], [], {}
    for path in paths:
        name = shown(path, root)
        try:
            nb = read(path)
        except Exception as error:
            faults.append(f"{name}: not a notebook that can be read ({error})")
            continue
        if everything or stamps.get(name) != digest(canonical(nb), ground_digest, gpu):
            todo.append((path, name, nb))
        elif (text := dumps(canonical(nb))) != path.read_text(encoding="utf-8"):
            write(path, text)
            print(f"{name}: canonical form, not executed")
        else:
            print(f"{name}: unchanged")

    main = asyncio.current_task()

    def listen():
        # nbclient points Ctrl-C at the kernel that started last; it is to stop them all.
        for number in (signal.SIGINT, signal.SIGTERM):
            asyncio.get_running_loop().add_signal_handler(number, main.cancel)

    slots = asyncio.Semaphore(max(1, jobs))
    cells = sum(c.cell_type == "code" and bool(c.source) for _, _, nb in todo for c in nb.cells)
    # The bar is for people; kernels are told to draw none.
    with tqdm(total=cells, unit="cell", disable=not todo) as bar:
        kernel_environment()

        async def one(path, name, old):
            async with slots:
                nb, begun = copy.deepcopy(old), time.monotonic()
                try:
                    await _execute(nb, path, gpu, bar.update, listen)
                except CellFailed as error:
                    faults.append(f"{name}, {error}")
                    tqdm.write(f"{name}: FAILED, left as it was", file=sys.stderr)
                    return
                seconds = time.monotonic() - begun
            _keep_equal_pictures(old, nb)
            nb = canonical(nb)
            if shown_now(path) != old:
                faults.append(f"{name}: edited while it ran, left as it is; run it again")
                return
            write(path, dumps(nb))
            # Read again: another run may have written its own notebooks meanwhile.
            stamp = digest(nb, ground_digest, gpu)
            _dump(root / STAMPS, _load(root / STAMPS) | {name: stamp})
            records[name] = _record(nb, seconds, gpu)
            tqdm.write(f"{name}: {seconds:.1f} s", file=sys.stderr)

        def shown_now(path):
            try:
                return read(path)
            except Exception:
                return None

        await asyncio.gather(*(one(*job) for job in todo))
    if records:
        status = _load(root / STATUS_DATA) | records
        present = {shown(p, root) for p in notebook_paths(root)}
        status = {name: record for name, record in status.items() if name in present}
        _dump(root / STATUS_DATA, status)
        write(root / STATUS_PAGE, status_page(status))
    return faults


def main(arguments=None, root=ROOT):
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("command", choices=["run", "check"])
    parser.add_argument("paths", nargs="*", type=Path, help="notebooks (default: all of book/)")
    parser.add_argument("--all", action="store_true", help="re-execute what did not change, too")
    parser.add_argument("--jobs", type=int, default=2, help="notebooks at the same time")
    parser.add_argument("--root", type=Path, default=root, help=argparse.SUPPRESS)
    options = parser.parse_intermixed_args(arguments)
    root = options.root.resolve()
    paths = [p.resolve() for p in options.paths] or notebook_paths(root)
    if not paths:
        parser.exit(1, "No notebook found under book/.\n")
    if missing := [str(p) for p in paths if not p.is_file()]:
        parser.exit(1, f"No such notebook: {', '.join(missing)}\n")
    if options.command == "check":
        faults = [fault for path in paths for fault in form_faults(path, root)]
    else:
        try:
            faults = asyncio.run(_run_all(paths, root, options.all, options.jobs))
        except (KeyboardInterrupt, asyncio.CancelledError):
            print(
                "\nStopped. Notebooks that had finished are written, the others are as they were."
            )
            return 130
    for fault in faults:
        print(fault, file=sys.stderr)
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
