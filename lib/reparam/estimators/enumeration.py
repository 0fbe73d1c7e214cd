"""The exact expectation over a finite support, and over some of several variables."""

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.distributions import (
    Bernoulli,
    Categorical,
    Distribution,
    OneHotCategorical,
)

from reparam._checks import any_true, check_count
from reparam.estimators._contract import (
    Integrand,
    beside,
    check_call,
    innermost,
    name_of,
    parameters_of,
    rebuilt,
    refuse_class,
    values_of,
    widened,
)


@dataclass(frozen=True)
class Enumeration:
    """The expectation itself, as the sum of `q_φ(z) f(z)` over a finite support.

    Several variables that `f` mixes are one event: for `Independent(Bernoulli(θ), 1)` every
    combination of the D variables is visited, `2**D` of them.

    Needs: a distribution with `enumerate_support` (or `Independent` of one) and at most
    `max_points` points.
    Bias: none; variance: none.
    Cost: one evaluation of `f` for each point of the support; `num_samples` changes nothing.
    Higher derivatives: right.

    Args:
        max_points: the largest support that is still enumerated.
        f, distribution, num_samples: as for every estimator (see `Pathwise`).

    Raises:
        TypeError: if an argument is of the wrong kind.
        ValueError: if the support is not finite or has too many points, or if `f` returns a
            wrong shape or NaN.

    Used in chapters 1 and 7. Source: Kingma et al. (2014),
    https://arxiv.org/abs/1406.5298, who sum over a class so.

    >>> import torch
    >>> from torch.distributions import Bernoulli
    >>> theta = torch.tensor(0.3, requires_grad=True)
    >>> Enumeration()(lambda b: (b - 0.45) ** 2, Bernoulli(theta)).backward()
    >>> theta.grad
    tensor(0.1000)
    """

    max_points: int = 2**20

    def __post_init__(self) -> None:
        check_count("max_points", self.max_points)

    @widened
    def __call__(self, f: Integrand, distribution: Distribution, num_samples: int = 1) -> Tensor:
        check_call(f, distribution, num_samples)
        z = support_points(distribution, self.max_points)
        weights = distribution.log_prob(z).exp()
        finite_for = "Enumeration" if weights.requires_grad else None
        values = values_of(f, _with_mass(z, weights), distribution, finite_for=finite_for)
        return (weights * values).sum(0)


@dataclass(frozen=True)
class RaoBlackwell:
    """Some of several variables enumerated, the others left to another estimator.

    `E[f(z)] = E_rest[ Σ q(some) f(some, rest) ]`: the estimator `outer` is handed the inner sum as
    its integrand, a function of the rest alone, and gives the gradient of the parameters of the
    rest; those of the enumerated variables get that of the sum, the exact one given the rest.

    Needs: `Independent` of Bernoulli, Categorical or OneHotCategorical variables, and what `outer`
    needs.
    Bias: that of `outer`. With `ScoreFunction()` outside, the variance of no parameter is above
    that of `ScoreFunction()` alone: the estimate is the mean of that one given the rest.
    Cost: for each of the evaluations that `outer` asks for, one for each combination of the
    enumerated variables.
    Higher derivatives: those of `outer`.

    Args:
        outer: the estimator of the other variables.
        enumerate: indices of the enumerated variables along the last dimension of variables, that
            which `Independent(…, 1)` made part of the event; negative ones count from the end.
        f, distribution, num_samples: as for every estimator (see `Pathwise`).

    Raises:
        TypeError: if an argument is of the wrong kind.
        ValueError: if the indices are empty, repeated, out of range or all there are, if there are
            too many combinations, or as `outer` does.

    Derived in chapter 7. Source: Casella and Robert (1996),
    https://doi.org/10.1093/biomet/83.1.81; Liu et al. (2019), https://arxiv.org/abs/1810.04777.

    >>> import torch
    >>> from torch.distributions import Bernoulli, Independent
    >>> from reparam.estimators import ScoreFunction
    >>> theta = torch.tensor([0.3, 0.6, 0.5], requires_grad=True)
    >>> estimator = RaoBlackwell(ScoreFunction(), enumerate=[0, 1])
    >>> estimator(lambda b: b[..., 0] - b[..., 1], Independent(Bernoulli(theta), 1)).backward()
    >>> [round(g, 4) for g in theta.grad[:2].tolist()]  # exact
    [1.0, -1.0]
    """

    outer: Callable
    enumerate: Sequence[int]

    def __post_init__(self) -> None:
        refuse_class("outer", self.outer, "an estimator")
        forward = getattr(type(self.outer), "forward", None)  # a module has one, of its own or not
        if forward is nn.Module.forward or not callable(self.outer):
            raise TypeError(
                "outer must be an estimator such as ScoreFunction(), got "
                f"{type(self.outer).__name__}"
            )
        try:
            indices = tuple(self.enumerate)
        except TypeError:
            indices = ()
        if not indices or not all(type(i) is int for i in indices):
            raise TypeError(
                f"enumerate must list the indices of variables, such as [0, 2], got "
                f"{self.enumerate!r}"
            )
        object.__setattr__(self, "enumerate", indices)

    @widened
    def __call__(self, f: Integrand, distribution: Distribution, num_samples: int = 1) -> Tensor:
        check_call(f, distribution, num_samples)
        variables = _last_variables(distribution)
        some, rest = self._split(variables)
        dim = len(innermost(distribution).batch_shape) - 1  # of the variables, in a parameter
        parameters = parameters_of(distribution)
        places = [torch.tensor(indices) for indices in (some, rest)]
        inner, outer = (
            rebuilt(
                distribution,
                {name: p.index_select(dim, place.to(p.device)) for name, p in parameters.items()},
            )
            for place in places
        )
        points = support_points(
            inner, Enumeration.max_points, "RaoBlackwell", "enumerate fewer variables"
        )
        weights = inner.log_prob(points).exp()  # [points, *batch_shape]
        points = _with_mass(points, weights)

        def expectation(z: Tensor) -> Tensor:
            """`Σ q(some) f(some, z)` for samples `z` of the rest."""
            count = len(points), len(z)
            of_some = points.to(z.dtype)[:, None].expand(*count, *points.shape[1:])
            of_rest = z.expand(*count, *z.shape[1:])
            joint = _woven(of_some, of_rest, some, variables, 2 + dim)
            values = values_of(f, joint.flatten(0, 1), distribution).unflatten(0, count)
            return (weights[:, None] * values).sum(0)

        return self.outer(expectation, outer, num_samples)

    def _split(self, variables: int) -> tuple[list[int], list[int]]:
        """Indices of the variables that are enumerated, and of the others."""
        wrong = [i for i in self.enumerate if not -variables <= i < variables]
        if wrong:
            raise ValueError(
                f"RaoBlackwell enumerates variables {list(self.enumerate)}, and there are "
                f"{variables}: {wrong} is out of range"
            )
        some = sorted(i % variables for i in self.enumerate)
        if len(set(some)) < len(some):
            raise ValueError(f"RaoBlackwell enumerates a variable twice: {list(self.enumerate)}")
        rest = [i for i in range(variables) if i not in some]
        if not rest:
            raise ValueError(
                f"RaoBlackwell leaves none of the {variables} variables to "
                f"{type(self.outer).__name__}: use Enumeration"
            )
        return some, rest


def _woven(of_some: Tensor, of_rest: Tensor, some: list[int], variables: int, dim: int) -> Tensor:
    """All variables along `dim`, in order: runs of them, copied once."""
    runs, start = [], {True: 0, False: 0}
    for is_some, run in itertools.groupby(range(variables), key=set(some).__contains__):
        length = len(list(run))
        runs.append((of_some if is_some else of_rest).narrow(dim, start[is_some], length))
        start[is_some] += length
    return torch.cat(runs, dim)


def _last_variables(distribution: Distribution) -> int:
    """How many variables the last dimension of variables has."""
    base = innermost(distribution)
    if not isinstance(base, Bernoulli | Categorical | OneHotCategorical) or len(
        base.batch_shape
    ) == len(distribution.batch_shape):
        raise ValueError(
            "RaoBlackwell needs several Bernoulli, Categorical or OneHotCategorical variables in "
            f"one event, such as Independent(Bernoulli(...), 1), got {name_of(distribution)}: use "
            "the outer estimator by itself"
        )
    return base.batch_shape[-1]


def _with_mass(points: Tensor, weights: Tensor) -> Tensor:
    """The points; where a weight is 0, `f` need not be finite, and gets the likeliest instead."""
    if not any_true(weights == 0):
        return points
    best = beside(weights.argmax(0, keepdim=True), points.ndim).expand(1, *points.shape[1:])
    return torch.where(beside(weights == 0, points.ndim), points.gather(0, best), points)


def support_points(
    distribution: Distribution,
    max_points: int,
    name: str = "Enumeration",
    instead: str = "use ScoreFunction",
) -> Tensor:
    """Every point of a finite support, shape `[n, *batch_shape, *event_shape]`."""
    base = innermost(distribution)
    copies = base.batch_shape[len(distribution.batch_shape) :].numel()
    try:
        points = base.enumerate_support(expand=False)
    except NotImplementedError:
        raise ValueError(
            f"{name} needs a finite support, and that of {name_of(distribution)} is not, or "
            "torch cannot list it: use Pathwise if it has rsample, else ScoreFunction"
        ) from None
    if len(points) ** copies > max_points:
        raise ValueError(
            f"{name} would visit {len(points)}**{copies} points, more than "
            f"max_points={max_points}: {instead}"
        )
    points = points.reshape(len(points), *base.event_shape)
    choices = torch.arange(len(points), device=points.device)
    index = torch.cartesian_prod(*[choices] * copies).reshape(-1, copies)
    event = points[index].reshape(
        len(index), *(1,) * len(distribution.batch_shape), *distribution.event_shape
    )
    return event.expand(-1, *distribution.batch_shape, *distribution.event_shape)
