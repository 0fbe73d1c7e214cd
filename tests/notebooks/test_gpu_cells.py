"""GPU cells run: on the CPU, small, with those statements of their notebook that they need."""

import ast
import contextlib
import io

import pytest
from IPython.core.inputtransformer2 import TransformerManager

from tools import notebooks

FEW = 64  # in the place of a thousand and more: hidden units, samples, replicates


class Small(ast.NodeTransformer):
    """The same code without a GPU, in a second."""

    def visit_Constant(self, node):
        if node.value == "cuda":
            return ast.Constant("cpu")
        is_large = type(node.value) is int and node.value >= 1000
        return ast.Constant(FEW) if is_large else node

    def visit_Call(self, node):
        if ast.unparse(node) == "range(3)":  # seeds
            return ast.parse("range(2)", mode="eval").body
        return self.generic_visit(node)

    def visit_keyword(self, node):
        if node.arg == "epochs":
            return ast.keyword("epochs", ast.Constant(1))
        return self.generic_visit(node)


def gpu_cells():
    """(statements of all code cells before it, its own) of each, named by notebook and number."""
    for path in notebooks.notebook_paths():
        before = []
        for number, cell in enumerate(notebooks.read(path).cells):
            if cell.cell_type != "code":
                continue
            statements = ast.parse(TransformerManager().transform_cell(cell.source)).body
            if "gpu" in cell.metadata.get("tags", []):
                yield pytest.param(list(before), statements, id=f"{path.stem}, cell {number}")
            before += statements


def needed(before, own):
    """Those of the statements before that define, directly or not, what the last ones use."""
    kept, wanted = [], used(ast.Module(own, []))
    for statement in reversed(before):
        is_import = isinstance(statement, ast.Import | ast.ImportFrom)
        if is_import or defined(statement) & wanted:
            kept.insert(0, statement)
            wanted |= used(statement)
    return kept


def used(statement):
    """What it takes from elsewhere: of a loop, a function or a cell nothing that it sets itself."""
    nodes = list(ast.walk(statement))
    whole = isinstance(statement, ast.For | ast.FunctionDef | ast.ClassDef | ast.Module)
    sets = [node for node in nodes if whole or isinstance(node, ast.comprehension)]
    names = [n for node in sets for n in ast.walk(node) if isinstance(n, ast.Name)]
    own = {n.id for n in names if isinstance(n.ctx, ast.Store)}
    own |= {n.arg for n in nodes if isinstance(n, ast.arg)}
    loaded = {n.id for n in nodes if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Load)}
    return loaded - own


def defined(statement):
    if isinstance(statement, ast.FunctionDef | ast.ClassDef):
        return {statement.name}
    stored = (n for n in ast.walk(statement) if isinstance(n, ast.Name))
    return {n.id for n in stored if isinstance(n.ctx, ast.Store)}


def test_there_are_some():
    assert len(list(gpu_cells())) > 3


@pytest.mark.parametrize(("before", "own"), list(gpu_cells()))
def test_it_runs_small_and_on_the_cpu(before, own):
    program = Small().visit(ast.Module([*needed(before, own), *own], []))
    said = io.StringIO()
    with contextlib.redirect_stdout(said):
        exec(compile(ast.fix_missing_locations(program), "<gpu cell>", "exec"), {})
    assert said.getvalue().strip()
    assert "nan" not in said.getvalue()
