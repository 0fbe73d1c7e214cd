"""Every distribution of PyTorch and how its samples are reparameterized, asked of PyTorch."""

import html
import inspect
import itertools
import re
import textwrap
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.distributions import (
    Categorical,
    Distribution,
    ExpTransform,
    Independent,
    Normal,
    Transform,
    TransformedDistribution,
)
from torch.distributions.transforms import _InverseTransform
from torch.overrides import TorchFunctionMode

from reparam._functions import graph_of


@dataclass(frozen=True)
class Row:
    """What a distribution does; the fields of `Survey`.

    Attributes:
        name: the class.
        values: "continuous" or "discrete", as its support says.
        has_rsample: what the distribution says of itself.
        path: "location-scale", "inverse CDF", "transformation", "implicit", "relaxation",
            "straight-through", or "none" (see `survey`).
        source: the noise that is drawn, or the base distribution and its transforms.
        reached: parameters that a gradient of the samples reaches.
        missed: parameters that none reaches.
        second: whether the samples can be differentiated twice; None where once is refused.
        instead: what reparam has for it if it has no path.
        problem: what went wrong on the way; "" if nothing did.
    """

    name: str
    values: str = ""
    has_rsample: bool = False
    path: str = ""
    source: str = ""
    reached: tuple[str, ...] = ()
    missed: tuple[str, ...] = ()
    second: bool | None = None
    instead: tuple[str, ...] = ()
    problem: str = ""

    def in_words(self, named: Callable[[str], str] = str) -> str:
        """Which parameters gradients reach, or what to use instead, its names as `named` has them.

        Used in chapter 5 through `survey`, and in the reference.
        """
        words = ", ".join(self.reached)
        if self.missed:
            words += f"; not {', '.join(self.missed)}"
        if self.second is False:
            words += " (once)"
        if self.instead:
            words = "use " + ", ".join(map(named, self.instead))
        return "; ".join(filter(None, [words, self.problem]))


@dataclass(frozen=True)
class Survey:
    """The rows of the table; prints as text in 82 columns, and as a table in a notebook."""

    rows: tuple[Row, ...]

    _HEADER = ("distribution", "values", "path", "from", "gradients reach")
    _WIDTHS = (23, 10, 16, 13, 16)

    def __getitem__(self, name: str) -> Row:
        for row in self.rows:
            if row.name == name:
                return row
        raise KeyError(f"no distribution {name!r}; there are {[row.name for row in self.rows]}")

    def _cells(self) -> Iterator[tuple[str, ...]]:
        for row in self.rows:
            last = row.in_words(lambda name: name.rpartition(".")[2])
            yield row.name, row.values, row.path, row.source, last

    def __str__(self) -> str:
        lines = []
        for cells in (self._HEADER, *self._cells()):
            wrapped = [
                _wrapped(cell, width) for cell, width in zip(cells, self._WIDTHS, strict=True)
            ]
            for parts in itertools.zip_longest(*wrapped, fillvalue=""):
                pairs = zip(parts, self._WIDTHS, strict=True)
                lines.append(" ".join(part.ljust(width) for part, width in pairs).rstrip())
        return "\n".join(lines)

    __repr__ = __str__

    def _repr_html_(self) -> str:
        def line(tag: str, cells: tuple[str, ...]) -> str:
            return "<tr>" + "".join(f"<{tag}>{html.escape(c)}</{tag}>" for c in cells) + "</tr>"

        body = "".join(line("td", cells) for cells in self._cells())
        return f"<table><thead>{line('th', self._HEADER)}</thead><tbody>{body}</tbody></table>"


def _wrapped(text: str, width: int) -> list[str]:
    """Lines of at most `width`; a long name breaks before a capital letter."""
    words = text.split()
    mark = "\N{ZERO WIDTH SPACE}"  # where a name may break
    pieces = [re.sub(r"(?<=[a-z])(?=[A-Z])", f" {mark}", w) if len(w) > width else w for w in words]
    lines = textwrap.wrap(" ".join(pieces), width, break_on_hyphens=False)
    return [line.replace(f" {mark}", "").replace(mark, "") for line in lines] or [""]


def survey() -> Survey:
    """Every public distribution of PyTorch, whether its samples have a path, and how.

    Nothing is looked up in a list: each class is constructed with parameters that satisfy its
    constraints, `rsample` is called, and what it draws and the graph that it leaves are read.

    - straight-through: the samples are discrete, and gradients reach a parameter all the same.
    - implicit: the graph holds a derivative that somebody wrote, since the path of the values
      cannot be followed: that of gamma and Dirichlet samples, or an `autograd.Function`; or a
      discrete draw chose among continuous ones, as in a mixture.
    - relaxation: the distribution has a temperature.
    - location-scale: the samples are affine in the noise (a least-squares fit is exact).
    - inverse CDF: a monotone function of one uniform or exponential draw.
    - transformation: another function of its noise.
    - none: no `rsample`; the last column says what `reparam` has instead.

    A parameter is reached if it gets a gradient that is not 0. "once" means that a second
    derivative is refused.

    Returns:
        A table that prints in 82 columns; `table["Gamma"]` is one of its `rows`. A distribution
        that cannot be constructed this way stands in it and says so.

    Described in chapter 5. Source: our own.

    >>> table = survey()
    >>> table["Gamma"].path, table["Gamma"].reached, table["VonMises"].instead
    ('implicit', ('concentration', 'rate'), ('reparam.distributions.VonMises',))
    """
    import reparam.distributions as ours  # which imports this module

    kinds = [kind for kind in vars(torch.distributions).values() if _is_distribution(kind)]
    kinds.sort(key=lambda kind: kind.__name__)
    kinds += [kind for kind in vars(ours).values() if _is_distribution(kind)]
    with torch.random.fork_rng(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Wishart warns of singular samples
        torch.manual_seed(0)
        return Survey(tuple(_row(kind, vars(ours)) for kind in kinds))


def _is_distribution(thing: object) -> bool:
    """A class of distributions that has a density, as abstract ones have not."""
    is_class = isinstance(thing, type) and issubclass(thing, Distribution)
    return is_class and thing.log_prob is not Distribution.log_prob


def _row(kind: type[Distribution], ours: dict) -> Row:
    is_ours = kind.__module__.startswith("reparam.")
    name = kind.__name__ + (" (reparam)" if is_ours else "")
    try:
        distribution, parameters = _constructed(kind)
    except LookupError:
        return Row(name, problem="not known how to construct")
    is_discrete = distribution.support.is_discrete
    values = "discrete" if is_discrete else "continuous"
    if not distribution.has_rsample:
        return Row(name, values, path="none", instead=_instead(kind, distribution, ours))
    noise = _Noise()
    with noise:
        z = distribution.rsample((_COUNT,))
    path, source = _path(distribution, z, noise), _source(distribution, noise)
    problem = ""
    try:
        reached = _reached(z, parameters)
    except RuntimeError:
        problem = f"backward() of {_COUNT} samples at once raises an error"
        z = distribution.rsample()
        reached = _reached(z, parameters)
    return Row(
        name,
        values,
        True,
        path,
        source,
        reached=tuple(n for n in parameters if n in reached),
        missed=tuple(n for n in parameters if n not in reached),
        second=_has_second(z, [parameters[n] for n in parameters if n in reached]),
        problem=problem,
    )


# --- example parameters --------------------------------------------------------------------------

_COUNT = 64  # samples
_MATRIX = [[1.5, 0.0], [0.4, 0.8]]
#: Tried in this order against a parameter's constraint.
_CANDIDATES = [2.5, 0.3, 4.0, [0.3, 0.7], [[1.0, 0.0], [0.6, 0.8]], _MATRIX, [[2.0, 0.4], [0.4, 1]]]


def _arguments() -> dict:
    """Those that no constraint describes, by their names in constructors."""
    normal = Normal(_leaf([0.0, 1.0]), _leaf([1.0, 2.0]))
    return {
        "low": _leaf(-0.5),
        "high": _leaf(1.5),
        "df": _leaf(2.5),
        "scale_tril": _leaf(_MATRIX),
        "temperature": _leaf(0.5),
        "dim": 3,
        "base_distribution": normal,
        "base_dist": normal,
        "component_distribution": normal,
        "mixture_distribution": Categorical(logits=_leaf([0.0, 0.0])),
        "transforms": [ExpTransform()],
        "reinterpreted_batch_ndims": 1,
    }


def _constructed(kind: type[Distribution]) -> tuple[Distribution, dict[str, Tensor]]:
    """An example of `kind`, and the tensors with a gradient that it was made from, by name.

    Raises:
        LookupError: if no combination of arguments is accepted.
    """
    signature = inspect.signature(kind.__init__).parameters
    names = [n for n in signature if n not in ("self", "validate_args")]
    required = [n for n in names if signature[n].default is inspect.Parameter.empty]
    optional = [n for n in names if n not in required]
    # A location and a scale have defaults here and there, a shape may be given in several ways.
    for further in (optional, *([name] for name in reversed(optional)), []):
        try:
            arguments = {name: _example(kind, name) for name in required + further}
            distribution = kind(**arguments, validate_args=True)
            distribution.sample()
        except (LookupError, ValueError, TypeError, RuntimeError, AssertionError):
            continue  # older versions of torch assert what they want
        parameters = {}
        for name, value in arguments.items():
            inside = value if isinstance(value, Distribution) else None
            tensors = vars(inside) if inside else {name: value}
            parameters |= {
                n: t
                for n, t in tensors.items()
                if isinstance(t, Tensor) and t.requires_grad and not n.startswith("_")
            }
        return distribution, parameters
    raise LookupError(kind.__name__)


def _example(kind: type[Distribution], name: str):
    """A value for the argument `name`: known by it, or the first that its constraint takes."""
    known = _arguments()
    if name in known:
        return known[name]
    constraint = kind.arg_constraints[name]
    for candidate in _CANDIDATES:
        value = torch.tensor(candidate, dtype=torch.float64)
        try:
            if constraint.check(value).all():
                return value if constraint.is_discrete else _leaf(candidate)
        except (ValueError, RuntimeError, IndexError):  # too few dimensions
            continue
    raise LookupError(name)


def _leaf(value) -> Tensor:
    return torch.tensor(value, dtype=torch.float64, requires_grad=True)


# --- what a sample tells -------------------------------------------------------------------------


_WORDS = {
    "normal": "Gaussian",
    "randn": "Gaussian",
    "rand": "uniform",
    "rand_like": "uniform",
    "cauchy": "Cauchy",
    "dirichlet": "Dirichlet",
}


class _Noise(TorchFunctionMode):
    """Records what the operations return that move the random generator, and their names."""

    def __init__(self) -> None:
        super().__init__()
        self.draws: list[Tensor] = []
        self.names: list[str] = []

    def __torch_function__(self, func, types, args=(), kwargs=None):
        before = torch.random.get_rng_state()
        result = func(*args, **(kwargs or {}))
        if not torch.equal(before, torch.random.get_rng_state()):
            name = func.__name__.strip("_").removeprefix("standard_").removeprefix("sample_")
            self.draws.append(result.detach().clone())
            self.names.append(_WORDS.get(name, name))
        return result


def _path(distribution: Distribution, z: Tensor, noise: _Noise) -> str:
    if distribution.support.is_discrete:
        return "straight-through"
    from_choice = not all(draw.is_floating_point() for draw in noise.draws)
    if from_choice or any(_is_written(node) for node in graph_of(z)):
        return "implicit"
    if hasattr(distribution, "temperature"):
        return "relaxation"
    draws = [draw.reshape(_COUNT, -1).double() for draw in noise.draws]
    z = z.detach().reshape(_COUNT, -1)
    if _is_affine(z, torch.cat(draws, 1)):
        return "location-scale"
    is_one = len(draws) == 1 and draws[0].shape == z.shape
    if is_one and noise.names[0] in ("uniform", "exponential") and _is_monotone(z, draws[0]):
        return "inverse CDF"
    return "transformation"


def _is_written(node: torch.autograd.graph.Node) -> bool:
    """Whether a node's derivative is not that of its operations."""
    is_python = isinstance(node, torch.autograd.function.BackwardCFunction)
    return is_python or node.name().startswith(("StandardGamma", "DirichletGrad"))


def _is_affine(z: Tensor, noise: Tensor) -> bool:
    features = torch.cat([torch.ones(_COUNT, 1, dtype=noise.dtype), noise], 1)
    fit = features @ torch.linalg.lstsq(features, z).solution
    return torch.allclose(fit, z, rtol=1e-8, atol=1e-8)


def _is_monotone(z: Tensor, noise: Tensor) -> bool:
    steps = z.gather(0, noise.argsort(0)).diff(dim=0)
    return bool(((steps >= 0).all(0) | (steps <= 0).all(0)).all())


def _source(distribution: Distribution, noise: _Noise) -> str:
    if isinstance(distribution, TransformedDistribution):
        steps = [_name_of_transform(transform) for transform in distribution.transforms]
        return " → ".join([_name_of(distribution.base_dist), *steps])
    return ", ".join(dict.fromkeys(noise.names))


def _name_of_transform(transform: Transform) -> str:
    if isinstance(transform, _InverseTransform):
        return f"inverse {_name_of_transform(transform.inv)}"
    return type(transform).__name__.removesuffix("Transform")


def _name_of(distribution: Distribution) -> str:
    while isinstance(distribution, Independent):
        distribution = distribution.base_dist
    return type(distribution).__name__


def _reached(z: Tensor, parameters: dict[str, Tensor]) -> set[str]:
    """Names of the parameters that get a gradient other than 0."""
    weights = torch.randn_like(z)  # a plain sum of a simplex is 1
    gradients = torch.autograd.grad(
        (z * weights).sum(), list(parameters.values()), retain_graph=True, allow_unused=True
    )
    return {
        name
        for name, gradient in zip(parameters, gradients, strict=True)
        if gradient is not None and gradient.isfinite().all() and gradient.abs().max() > 1e-12
    }


def _has_second(z: Tensor, parameters: list[Tensor]) -> bool:
    """Whether the samples have a second derivative, be it 0, in each of the parameters."""
    first = torch.autograd.grad(z.square().sum(), parameters, create_graph=True)
    try:
        torch.autograd.grad(sum(g.square().sum() for g in first), parameters)
    except RuntimeError:  # NotImplementedError is one
        return False
    return True


def _instead(kind: type[Distribution], distribution: Distribution, ours: dict) -> tuple[str, ...]:
    """What `reparam` has for a distribution without a path."""
    for name in (kind.__name__, kind.__name__.removesuffix("SameFamily")):
        if _is_distribution(ours.get(name)):
            return (f"reparam.distributions.{name}",)
    if distribution.has_enumerate_support:
        return "reparam.relaxed", "reparam.estimators"
    if kind is torch.distributions.Poisson:
        return ("reparam.estimators.MeasureValued",)
    return ("reparam.estimators.ScoreFunction",)
