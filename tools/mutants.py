"""Break the library one line at a time; its tests must notice. Run by `make mutants`.

Each mutant is one change of a syntax tree (a comparison, an operator, a number, a condition, a
dropped call such as `.detach()`, a dropped statement, a returned value). It runs in a fork of a
process that has imported torch once, against those tests of its file that execute the changed line,
those first that have noticed the most mutants per second so far. Survivors are printed as they are
found, with their difference, and --skip goes on where a run was stopped. A survivor is a missing
test, or a change that changes nothing: then tests/lib/mutants.toml says why.
"""

import argparse
import ast
import difflib
import functools
import gc
import importlib.abc
import importlib.util
import itertools
import json
import os
import random
import resource
import sys
import tempfile
import threading
import tomllib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import pytest
import torch
from tqdm import tqdm

ROOT = Path(__file__).resolve().parents[1]
LIBRARY = ROOT / "lib" / "reparam"
EXPLAINED = ROOT / "tests" / "lib" / "mutants.toml"  # survivors that change nothing, and why
TESTS = {  # module of reparam: the files of tests/lib that mirror it
    "_checks": ["test_checks"],
    "_functions": ["test_functions"],
    "noise": ["test_noise"],
    "gaussian": ["test_gaussian"],
    "relaxed": ["test_relaxed"],
    "estimators._contract": [
        "estimators/test_contract",
        "estimators/test_parameters",
        "estimators/test_basics",
        "estimators/test_contract_parts",
    ],
    "estimators.pathwise": [
        "estimators/test_pathwise",
        "estimators/test_basics",
        "estimators/test_contract",
    ],
    "estimators.score": [
        "estimators/test_score",
        "estimators/test_basics",
        "estimators/test_contract",
    ],
    "estimators.enumeration": [
        "estimators/test_enumeration",
        "estimators/test_basics",
        "estimators/test_contract",
    ],
    "estimators.antithetic": ["estimators/test_antithetic", "estimators/test_contract"],
    "estimators.measure_valued": ["estimators/test_measure_valued", "estimators/test_contract"],
    "estimators.spsa": ["estimators/test_spsa", "estimators/test_contract"],
    "estimators.relaxations": ["estimators/test_relaxations", "estimators/test_contract"],
    "estimators.control_variates": ["estimators/test_control_variates", "estimators/test_contract"],
    **{
        f"distributions.{name}": [f"distributions/test_{name}"]
        for name in (
            "inverse_cdf",
            "implicit",
            "logistic",
            "mixture",
            "truncated_normal",
            "von_mises",
        )
    },
    **{
        f"flows.{name}": [f"flows/test_{name}", "flows/test_every_flow"]
        for name in (
            "planar",
            "radial",
            "sylvester",
            "posterior",
            "coupling",
            "autoregressive",
            "spline",
        )
    },
    "flows._contract": ["flows/test_every_flow", "flows/test_posterior", "flows/test_radial"],
    "flows._networks": [
        "flows/test_every_flow",
        "flows/test_autoregressive",
        "flows/test_spline",
    ],
    "distributions._quadrature": ["distributions/test_quadrature", "distributions/test_von_mises"],
    "distributions.survey": ["distributions/test_survey"],
    "estimators._relaxing": ["estimators/test_relaxations", "estimators/test_control_variates"],
    "objectives": ["test_objectives"],
    "measure": ["test_measure", "test_exact_gradient"],
    "vae": ["test_vae", "test_vae_codes", "test_vae_flows"],
    "checkup.encoder": ["test_checkup_encoder"],
    "checkup.sampler": ["test_checkup"],
    "checkup.kl": ["test_checkup_encoder"],
    "checkup.gradients": ["test_checkup"],
}
# What tests import, once for all forks.
PRELOADED = (
    "hypothesis", "matplotlib.pyplot", "mpmath", "scipy.stats", "sklearn.datasets", "torch._dynamo",
)  # fmt: skip
SECONDS = 180  # of processor time for one mutant; an endless loop is a mutant that was noticed
SWAPS = {
    ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt, ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq, ast.Is: ast.IsNot, ast.IsNot: ast.Is, ast.In: ast.NotIn, ast.NotIn: ast.In,
    ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Div, ast.Div: ast.Mult, ast.Pow: ast.Mult,
    ast.FloorDiv: ast.Mult, ast.And: ast.Or, ast.Or: ast.And,
}  # fmt: skip
COMMUTATIVE = (
    "promote_types", "broadcast_shapes", "joint_shape", "maximum", "minimum", "logaddexp", "max",
    "min", "dot", "addcmul_", "equal",
)  # fmt: skip
DROPPED_CALLS = ("detach", "clamp", "clamp_", "abs", "clone", "requires_grad_", "neg_", "sqrt")


def changes(node: ast.AST):
    """Functions that each change a copy of `node` in place, or return its replacement."""
    if isinstance(node, ast.Compare) and type(node.ops[0]) in SWAPS:
        yield lambda n: n.ops.__setitem__(0, SWAPS[type(n.ops[0])]())
    if isinstance(node, ast.BinOp | ast.BoolOp | ast.AugAssign) and type(node.op) in SWAPS:
        yield lambda n: setattr(n, "op", SWAPS[type(n.op)]())
    if isinstance(node, ast.Constant) and type(node.value) in (int, float):
        yield lambda n: setattr(n, "value", n.value + 1)
    if isinstance(node, ast.Constant) and type(node.value) is bool:
        yield lambda n: setattr(n, "value", not n.value)
    if isinstance(node, ast.If | ast.While | ast.IfExp):
        yield lambda n: setattr(n, "test", ast.UnaryOp(ast.Not(), n.test))
    if isinstance(node, ast.Return) and node.value is not None:
        yield lambda n: setattr(n, "value", ast.Constant(None))
    if isinstance(node, ast.Expr) and not isinstance(node.value, ast.Constant):
        yield lambda n: ast.Pass()
    if isinstance(node, ast.UnaryOp):
        yield lambda n: n.operand
    if isinstance(node, ast.Call):
        name = node.func.attr if isinstance(node.func, ast.Attribute) else ast.unparse(node.func)
        starred = any(isinstance(a, ast.Starred) for a in node.args)
        if isinstance(node.func, ast.Attribute) and name in DROPPED_CALLS:
            yield lambda n: n.func.value
        if len(node.args) == 2 and not starred and name not in COMMUTATIVE:
            yield lambda n: n.args.reverse()


def places(source: str) -> list[tuple[int, int]]:
    """Every mutant, as the place of its node and the number of the change there.

    Annotations and messages of errors are left alone.
    """
    tree = ast.parse(source)
    untouched = set()
    for node in ast.walk(tree):
        skip = [node] if isinstance(node, ast.JoinedStr | ast.Raise) else []
        skip += [getattr(node, name, None) for name in ("annotation", "returns")]
        untouched.update(id(n) for root in skip if root for n in ast.walk(root))
    nodes = [(at, node) for at, node in enumerate(ast.walk(tree)) if id(node) not in untouched]
    return [(at, number) for at, node in nodes for number in range(len(list(changes(node))))]


def mutant(source: str, place: tuple[int, int]) -> tuple[int, str]:
    """Its line, and its source."""
    tree, (at, number) = ast.parse(source), place
    target = list(ast.walk(tree))[at]
    replacement = list(changes(target))[number](target)
    if isinstance(replacement, ast.AST):
        for parent in ast.walk(tree):
            for name, value in ast.iter_fields(parent):
                if value is target:
                    setattr(parent, name, replacement)
                elif isinstance(value, list) and any(v is target for v in value):
                    setattr(parent, name, [replacement if v is target else v for v in value])
    return target.lineno, ast.unparse(ast.fix_missing_locations(tree))


def source_of(module: str) -> Path:
    return LIBRARY.joinpath(*module.split(".")).with_suffix(".py")


@functools.cache
def text_of(module: str) -> str:
    return source_of(module).read_text(encoding="utf-8")


@functools.cache
def plain(module: str) -> str:
    """The module without mutation, in the form that mutants are printed in."""
    return ast.unparse(ast.parse(text_of(module)))


class Reached:
    """Plugin for pytest, for the run without a mutant: the module's lines that each test executes.

    What runs at the import, for a fixture of several tests, or where no line is seen (in what
    `torch.compile` makes) is no test's own: it is written under the name "", for all tests.
    """

    def __init__(self, module: str, reports: BinaryIO):
        self.module, self.path, self.reports = module, str(source_of(module)), reports
        self.shared = self.lines = set()

    def trace(self, frame, event, _argument):
        if frame.f_code.co_filename != self.path:
            return None
        if event == "line":
            self.lines.add(frame.f_lineno)
        return self.trace

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item: pytest.Item):
        for module in (item.module, sys.modules[f"reparam.{self.module}"]):
            for value in vars(module).values():
                if isinstance(value, functools._lru_cache_wrapper):
                    value.cache_clear()  # or the first test alone would reach what it calls
        self.lines, compiled = set(), frames_compiled()
        result = yield
        if frames_compiled() != compiled:
            self.lines.add(ANY)
        self.write(item.nodeid, self.lines)
        self.lines = self.shared
        return result

    @pytest.hookimpl(wrapper=True)
    def pytest_fixture_setup(self, fixturedef):
        own = self.lines
        if fixturedef.scope != "function":
            self.lines = self.shared
        result = yield
        self.lines = own
        return result

    def pytest_sessionfinish(self) -> None:
        self.write("", self.shared)

    def write(self, test: str, lines: set[int]) -> None:
        self.reports.write(json.dumps({"test": test, "lines": sorted(lines)}).encode() + b"\n")
        self.reports.flush()


ANY = 0  # in place of a line's number: perhaps every line


def frames_compiled() -> int:
    return torch._dynamo.utils.counters["frames"]["total"]


class BestFirst:
    """Plugin for pytest: what noticed the most mutants per second comes first.

    Tests that do not execute any of `changed` are left out. Runs in the forks; `learn` takes what
    one of them has written to `reports`.
    """

    def __init__(self):
        self.noticing, self.seconds = Counter(), {}  # by test, and `noticing` by function, too
        self.lines = {}  # by test
        self.changed: set[int] = set()
        self.reports: BinaryIO | None = None

    def reaches(self, test: str) -> bool:
        lines = self.lines.get(test, {ANY}) | self.lines.get("", set())
        return not lines.isdisjoint({ANY} | self.changed)

    @pytest.hookimpl(trylast=True)
    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        items[:] = [item for item in items if self.reaches(item.nodeid)]
        cases = Counter(function_of(item.nodeid) for item in items)

        def rank(item):
            test, function = item.nodeid, function_of(item.nodeid)
            count = self.noticing[test] + (1 + self.noticing[function]) / cases[function]
            return count / (0.01 + self.seconds.get(test, 0))

        items.sort(key=rank, reverse=True)  # stable: the others keep their order

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.failed or report.when == "call":
            line = {"test": report.nodeid, "seconds": report.duration, "failed": report.failed}
            self.reports.write(json.dumps(line).encode() + b"\n")
            self.reports.flush()  # an endless loop is killed

    def learn(self, reports: BinaryIO) -> None:
        reports.seek(0)
        for line in map(json.loads, reports):
            test = line["test"]
            if "lines" in line:
                self.lines[test] = set(line["lines"])
                continue
            self.seconds[test] = line["seconds"]
            if line["failed"]:
                self.noticing.update({test, function_of(test)})


def function_of(test: str) -> str:
    return test.partition("[")[0]


def noticed(module: str, sources: list[str], best_first: BestFirst) -> Iterator[tuple[int, bool]]:
    """For each source, as it is tried: its place, and whether the tests fail on it.

    It stands in for the module. Two forks run at a time, all from one thread: a fork copies the
    locks that others hold.
    """
    running = {}
    todo = iter(enumerate(sources))
    with tqdm(total=len(sources), desc=module, unit="mutant", leave=False) as bar:
        while True:
            for at, source in itertools.islice(todo, 2 - len(running)):
                reports = tempfile.TemporaryFile()  # noqa: SIM115 (closed where the fork ends)
                best_first.reports, best_first.changed = reports, changed(module, source)
                running[fork(module, source, best_first)] = at, reports
            if not running:
                return
            child, status = os.wait()
            at, reports = running.pop(child)
            with reports:
                best_first.learn(reports)
            bar.update()
            yield at, status != 0


def fork(module: str, source: str, plugin: BestFirst) -> int:
    """A process that runs the tests on `source` in place of the module; 0 is that they pass."""
    child = os.fork()
    if child:
        return child
    resource.setrlimit(resource.RLIMIT_CPU, (SECONDS, SECONDS))
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    os.dup2(1, 2)
    try:
        run_tests(module, source, plugin)
    finally:
        os._exit(1)  # a fork must never return into the parent's stack


def run_tests(module: str, source: str, plugin: BestFirst) -> None:
    name, path, plugins = f"reparam.{module}", source_of(module), [plugin]
    if not plugin.lines:
        plugins.append(Reached(module, plugin.reports))
        threading.settrace(plugins[-1].trace)
        sys.settrace(plugins[-1].trace)

    class Finder(importlib.abc.MetaPathFinder, importlib.abc.Loader):
        def find_spec(self, fullname, _path, _target=None):
            return importlib.util.spec_from_loader(fullname, self) if fullname == name else None

        def exec_module(self, loaded):
            exec(compile(source, str(path), "exec"), loaded.__dict__)

    sys.meta_path.insert(0, Finder())
    files = [str(ROOT / "tests" / "lib" / f"{test}.py") for test in TESTS[module]]
    options = ["-x", "-q", "-p", "no:cacheprovider", "-m", "not slow"]
    status = pytest.main([*files, *options], plugins=plugins)
    unreached = plugin.lines and status == pytest.ExitCode.NO_TESTS_COLLECTED
    os._exit(0 if unreached else int(status))


def chosen(modules: list[str], sample: int | None, seed: int) -> dict[str, list]:
    """The mutants to try, by module: all, or a random sample of all."""
    every = [(module, place) for module in modules for place in places(text_of(module))]
    if sample is not None:
        at = random.Random(seed).sample(range(len(every)), min(sample, len(every)))
        every = [every[i] for i in sorted(at)]
    found = {}
    for module, place in every:
        line, source = mutant(text_of(module), place)
        if source != plain(module):  # arguments that are the same may change places
            found.setdefault(module, []).append((line, source))
    return found


def changed(module: str, source: str) -> set[int]:
    """The lines of the plain module that `source` has otherwise; a mutant adds and drops none."""
    pairs = zip(plain(module).splitlines(), source.splitlines(), strict=True)
    return {number for number, (before, after) in enumerate(pairs, 1) if before != after}


def difference(module: str, source: str) -> list[str]:
    before, after = plain(module).splitlines(), source.splitlines()
    lines = difflib.unified_diff(before, after, n=0, lineterm="")
    return [line for line in lines if not line.startswith(("---", "+++", "@@"))]


def reasons() -> list[dict[str, str]]:
    """What is known to change nothing: module, difference, and why."""
    return tomllib.loads(EXPLAINED.read_text(encoding="utf-8"))["same"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", choices=TESTS, help="one module of the library")
    parser.add_argument("--sample", type=int, help="try so many of all mutants, drawn at random")
    parser.add_argument("--seed", type=int, default=0, help="of the sample")
    parser.add_argument("--skip", type=int, default=0, help="so many of each module's first ones")
    arguments = parser.parse_args()
    os.chdir(ROOT)
    torch.set_num_threads(1)
    tqdm.monitor_interval = 0  # its thread would hold locks
    tqdm.set_lock(threading.RLock())  # not the usual one, which forks share with whoever dies in it
    for package in PRELOADED:
        importlib.import_module(package)
    gc.freeze()  # what is imported here is searched by no fork's collector of garbage
    os.environ["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"  # each fork would import them anew
    modules = [arguments.only] if arguments.only else list(TESTS)
    explained = {(known["module"], known["difference"].strip()) for known in reasons()}
    total = killed = same = 0
    for module, found in chosen(modules, arguments.sample, arguments.seed).items():
        best_first = BestFirst()
        found = found[arguments.skip :]
        if any(failed for _, failed in noticed(module, [plain(module)], best_first)):
            sys.exit(f"{module}: its tests fail without any mutation; mend them first")
        killed_here = 0
        for at, was_noticed in noticed(module, [source for _, source in found], best_first):
            if was_noticed:
                killed_here += 1
                continue
            line, source = found[at]
            lines = difference(module, source)
            removed = [line for line in lines if line.startswith("-")]
            if not {(module, "\n".join(part)) for part in (lines, removed)}.isdisjoint(explained):
                same += 1
                continue
            place = f"  {source_of(module).name}:{line} (mutant {arguments.skip + at})"
            tqdm.write("\n    ".join([place, *lines]))
            sys.stdout.flush()
        print(f"{module}: {killed_here} of {len(found)} mutants noticed", flush=True)
        total, killed = total + len(found), killed + killed_here
    print(f"score: {killed} of {total} noticed, {same} more are known to change nothing")


if __name__ == "__main__":
    main()
