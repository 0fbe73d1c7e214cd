"""Runs inside the sandbox, one process a submission: execute an answer, serve calls to it.

Everything here can be tampered with by the answer that runs in it. That is harmless: what comes out
is data, which the tests on the other side judge.
"""

import ast
import contextlib
import json
import linecache
import os
import re
import resource
import sys

if __name__ == "__main__":
    # The pipes move out of reach of print() and input() before anything else is imported.
    PIPES = os.dup(0), os.dup(1)
    NOTHING = os.open(os.devnull, os.O_RDWR)
    os.dup2(NOTHING, 0)
    os.dup2(NOTHING, 1)

import torch

sys.path.insert(0, os.path.dirname(__file__))
from peer import Peer


def limit(name, value):
    """Lower a limit for good; where the machine's own is lower, it stays."""
    hard = resource.getrlimit(name)[1]
    value = value if hard == resource.RLIM_INFINITY else min(value, hard)
    resource.setrlimit(name, (value, value))


class Worker:
    """The names that an answer defined, and what may be asked about them."""

    def __init__(self):
        self.space = {"__name__": "__main__"}

    def serve(self, message, peer):
        op = message["op"]
        if op == "load":
            return self.load(message["notebook"], message["blanks"], message["given"])
        if op == "seed":
            torch.manual_seed(message["seed"])
            peer.forget()
            return None
        if op == "get":
            return getattr(peer.find(message["target"]), message["name"])
        if op == "value":
            return self.space[message["name"]]
        if op == "parameters":
            module = peer.find(message["target"])
            pairs = module.named_parameters()
            return {n: p.grad if message["gradients"] else p.detach() for n, p in pairs}
        raise ValueError(f"no such request: {op}")

    def load(self, notebook, blanks, given):
        """Execute what defines the answers; say what was found and what went wrong.

        Imports, functions, classes and assignments of every cell are executed, one statement at a
        time, and a statement that raises is left out. Cells that define a wanted name run as a
        whole. Prints, plots, self-checks, magics and loops elsewhere do not matter. A wanted
        definition that is the blank as it was handed out never replaces an answer.
        """
        problems, defined = [], {}
        for index, source in enumerate(cells(notebook), 1):
            source, skipped = plain(source)
            if skipped:
                continue
            try:
                tree = ast.parse(source)
            except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
                problems.append([index, type(error).__name__, str(error)[:200]])
                continue
            name = f"<cell {index}>"
            linecache.cache[name] = (len(source), None, source.splitlines(True), name)
            wanted = [n for node in tree.body for n in names(node) if n in blanks]
            for node in tree.body:
                mine = [n for n in names(node) if n in blanks]
                if any(is_blank(node, blanks[n]) and defined.get(n) for n in mine):
                    continue  # an untouched blank further down
                if not wanted and not isinstance(node, KEPT):
                    continue
                if isinstance(node, ast.Expr) and is_check(node):
                    continue
                try:
                    code = compile(ast.Module([node], []), name, "exec")
                    with contextlib.redirect_stdout(None):
                        exec(code, self.space)
                except BaseException as error:
                    problems.append([index, type(error).__name__, str(error)[:200]])
                    continue
                for n in mine:
                    if not is_blank(node, blanks[n]):
                        defined.setdefault(n, []).append(index)
            self.space.update(given)  # the cohort's own constants, whatever the notebook says
        state = {}
        for name in blanks:
            value = self.space.get(name)
            if value is None or value is Ellipsis or not defined.get(name):
                state[name] = "blank"
            else:
                state[name] = "function" if callable(value) else "value"
        again = {name: found for name, found in defined.items() if len(found) > 1}
        return {"state": state, "again": again, "problems": problems[:50]}


KEPT = (ast.Import, ast.ImportFrom, ast.FunctionDef, ast.ClassDef, ast.Assign, ast.AnnAssign)


def cells(notebook):
    """The code cells' sources of a notebook's text, whatever else is missing in it."""
    sheets = json.loads(notebook)
    found = sheets.get("cells")
    if found is None:  # nbformat 3
        found = [cell for sheet in sheets.get("worksheets", []) for cell in sheet.get("cells", [])]
    for cell in found:
        if isinstance(cell, dict) and cell.get("cell_type") == "code":
            source = cell.get("source", cell.get("input", ""))
            yield "".join(source) if isinstance(source, list) else str(source)


def plain(source):
    """The source without IPython's magics, and whether the cell is another language's."""
    source = source.replace("\r\n", "\n").replace("\r", "\n")
    first = source.lstrip().split("\n", 1)[0]
    if re.match(r"%%(?!time|timeit|capture|prun)", first):
        return "", True
    source = re.sub(r"(?m)^\s*%%.*$", "", source)
    return re.sub(r"(?m)^(\s*)[%!].*$", r"\1pass", source), False


def names(node):
    """What a statement defines."""
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        return [node.name]
    if isinstance(node, ast.Assign | ast.AnnAssign | ast.AugAssign):
        targets = node.targets if isinstance(node, ast.Assign) else [node.target]
        return [n.id for t in targets for n in ast.walk(t) if isinstance(n, ast.Name)]
    return []


def is_blank(node, blank):
    """Whether a statement is the blank that was handed out, comments and layout apart."""
    return any(ast.dump(node) == ast.dump(other) for other in ast.parse(blank).body)


def is_check(node):
    """A self-check's call: it is not part of the answer."""
    function = node.value.func if isinstance(node.value, ast.Call) else None
    return isinstance(function, ast.Name) and function.id in ("check", "require")


class Served(Peer):
    """This side also finds an answer by its name."""

    def __init__(self, *pipes, worker):
        super().__init__(*pipes, serves=worker.serve)
        self._space = worker.space

    def find(self, target):
        return self._space[target["name"]] if "name" in target else super().find(target)


def main():
    cpu, memory = int(sys.argv[1]), int(sys.argv[2])
    with open("/proc/self/statm") as file:
        now = int(file.read().split()[0]) * resource.getpagesize()
    limit(resource.RLIMIT_AS, now + memory)
    limit(resource.RLIMIT_CPU, cpu)
    limit(resource.RLIMIT_FSIZE, 16 * 2**20)
    limit(resource.RLIMIT_NPROC, 64)
    limit(resource.RLIMIT_NOFILE, 128)
    limit(resource.RLIMIT_CORE, 0)
    torch.set_num_threads(1)
    sys.path.pop(0)
    os.dup2(NOTHING, 2)  # until here, what went wrong was worth reading
    Served(*PIPES, worker=Worker()).serve_forever()


if __name__ == "__main__":
    main()
