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
import time

if __name__ == "__main__":
    # The pipes move out of reach of print() and input() before anything else is imported.
    PIPES = os.dup(0), os.dup(1)
    NOTHING = os.open(os.devnull, os.O_RDWR)
    os.dup2(NOTHING, 0)
    os.dup2(NOTHING, 1)

import torch

sys.path.insert(0, os.path.dirname(__file__))
from limits import alarm, limit, limit_memory
from peer import Peer


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
        """Execute the cells; say what was found and what went wrong.

        One statement at a time: one that raises, or takes too long, is left out. What neither
        defines anything nor stands in a cell with an answer (plots, demonstrations, training) gets
        SPARE seconds in all. Self-checks are not run. A blank as it was handed out never replaces
        an answer.
        """
        self.problems, self.defined, self.spare = [], {}, SPARE
        for index, source in enumerate(cells(notebook), 1):
            try:
                tree = parsed(source)
            except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
                self.problems.append([index, type(error).__name__, str(error)[:200]])
                continue
            name = f"<cell {index}>"
            linecache.cache[name] = (len(source), None, source.splitlines(True), name)
            answers = any(n in blanks for node in tree.body for n in names(node))
            for node in tree.body:
                mine = [n for n in names(node) if n in blanks]
                untouched = [n for n in mine if is_blank(node, blanks[n])]
                if any(n in self.defined for n in untouched) or is_call_of(node, *PASSED_OVER):
                    continue
                if self.execute(node, index, name, answers) and not untouched:
                    for n in mine:
                        self.defined.setdefault(n, []).append(index)
            self.space.update(given)  # the cohort's own constants, whatever the notebook says
        state = {}
        for name in blanks:
            value = self.space.get(name)
            if value is None or value is Ellipsis:
                state[name] = "blank"
            else:
                state[name] = "function" if callable(value) else "value"
        again = {n: sorted(set(found)) for n, found in self.defined.items() if len(set(found)) > 1}
        return {"state": state, "again": again, "problems": self.problems[:50]}

    def execute(self, node, index, name, is_answer):
        """Run one statement of a cell, and say whether it came to its end."""
        optional = not is_answer and not names(node)
        seconds = self.spare if optional else OF_ANSWERS if is_answer else OF_OTHERS
        if seconds <= 0:
            return False
        begun = time.monotonic()
        try:
            code = compile(ast.Module([node], []), name, "exec")
            with contextlib.redirect_stdout(None), alarm(seconds, TookTooLong(seconds)):
                exec(code, self.space)
            return True
        except BaseException as error:
            self.problems.append([index, type(error).__name__, str(error)[:200]])
            return False
        finally:
            if optional:
                self.spare -= time.monotonic() - begun


SPARE = 4  # seconds for all statements that define nothing
OF_OTHERS = 4  # for one that defines something
OF_ANSWERS = 12  # for one in a cell with an answer
PASSED_OVER = ("check", "require", "get_ipython")  # what is called there is no part of an answer


class TookTooLong(BaseException):
    """A statement was ended, whatever exceptions it catches itself."""

    def __init__(self, seconds):
        super().__init__(f"a statement took longer than {seconds:.0f} s and was left out")


def cells(notebook):
    """The code cells' sources of a notebook's text, whatever else is missing in it."""
    sheets = json.loads(notebook)
    found = sheets.get("cells")
    if found is None:  # nbformat 3
        found = [cell for sheet in sheets.get("worksheets", []) for cell in sheet.get("cells", [])]
    for cell in found:
        if isinstance(cell, dict) and cell.get("cell_type") == "code":
            source = cell.get("source", cell.get("input", ""))
            source = "".join(source) if isinstance(source, list) else str(source)
            yield source.replace("\r\n", "\n").replace("\r", "\n")


def parsed(source):
    """The tree of a cell, without what only IPython understands."""
    try:
        return ast.parse(source)
    except SyntaxError:
        pass
    head, _, body = source.lstrip().partition("\n")
    if head.startswith("%%"):  # of a whole cell: it measures or hides, or is another language's
        return parsed(body if re.match(r"%%(time|timeit|capture|prun)\b", head) else "")
    source = re.sub(r"(?m)^(\s*)%time(it)?\s", r"\1", source)
    from IPython.core.inputtransformer2 import TransformerManager

    return ast.parse(TransformerManager().transform_cell(source))


def names(node):
    """What a statement defines, in whatever block it stands."""
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        return [node.name]
    if isinstance(node, ast.Name):
        return [node.id] if isinstance(node.ctx, ast.Store) else []
    if isinstance(node, ast.Import | ast.ImportFrom):
        return [(alias.asname or alias.name).split(".")[0] for alias in node.names]
    if isinstance(node, ast.Lambda | ast.ListComp | ast.SetComp | ast.DictComp | ast.GeneratorExp):
        return []  # what is named inside stays inside
    return [name for child in ast.iter_child_nodes(node) for name in names(child)]


def is_blank(node, blank):
    """Whether a statement is the blank that was handed out, comments and layout apart."""
    return any(ast.dump(node) == ast.dump(other) for other in ast.parse(blank).body)


def is_call_of(node, *functions):
    """Whether a statement only calls one of these, or a method of what it gives."""
    while isinstance(node, ast.Expr | ast.Call | ast.Attribute):
        node = node.func if isinstance(node, ast.Call) else node.value
    return isinstance(node, ast.Name) and node.id in functions


class Served(Peer):
    """This side also finds an answer by its name."""

    def __init__(self, *pipes, worker):
        super().__init__(*pipes, serves=worker.serve)
        self._space = worker.space

    def find(self, target):
        return self._space[target["name"]] if "name" in target else super().find(target)


def main():
    cpu, memory = int(sys.argv[1]), int(sys.argv[2])
    limit_memory(memory)
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
