"""Estimators of `E[f(z)]` whose value and whose gradient are both right.

An estimator is a callable `estimator(f, distribution, num_samples=1)`. It hands `f` samples of
shape `[n, *batch_shape, *event_shape]`, wants values of shape `[n, *batch_shape]` back, and returns
a tensor of `batch_shape`: its value estimates `E[f(z)]`, and its gradient, with respect to the
distribution's parameters and to whatever else `f` depends on, is the one its name says. So

    estimator(f, q).sum().backward()

is all a user writes, and changing the estimator is changing one word.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.distributions import Distribution, Independent

from reparam._checks import any_true, check_count

__all__ = ["Enumeration", "Pathwise", "ScoreFunction"]

Integrand = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Pathwise:
    """The reparameterization trick: differentiate `f` along the path of each sample.

    With `z = g(eps; φ)` the gradient estimate is the mean of `∇_φ f(g(eps_k; φ))`.

    Needs: a distribution with `rsample`, and an `f` that is differentiable in `z`.
    Bias: none where `φ ↦ f(g(eps; φ))` is absolutely continuous for almost every `eps` with a
    dominated derivative; a step in `f` breaks that, silently (chapter 2 shows it, and
    `reparam.measure.compare` finds it).
    Cost: `num_samples` evaluations of `f`.
    Higher derivatives: right, where the distribution's own `rsample` has them.

    Args:
        f: maps `[n, *batch_shape, *event_shape]` to `[n, *batch_shape]`.
        distribution: a `torch.distributions.Distribution`.
        num_samples: independent samples to average.

    Returns:
        A tensor of `batch_shape`.

    Raises:
        TypeError: if an argument is of the wrong kind.
        ValueError: if the distribution has no `rsample`, if `f` returns a wrong shape or NaN, or
            if the value of `f` does not depend on the sample through a graph.

    Derived in chapter 2. Source: Kingma and Welling (2014), https://arxiv.org/abs/1312.6114;
    surveyed by Mohamed et al. (2020), section 5, https://arxiv.org/abs/1906.10652.

    >>> from torch.distributions import Normal
    >>> mu = torch.tensor(0.5, requires_grad=True)
    >>> Pathwise()(lambda z: 3 * z, Normal(mu, 1.0), num_samples=4).backward()
    >>> mu.grad
    tensor(3.)
    """

    def __call__(self, f: Integrand, distribution: Distribution, num_samples: int = 1) -> Tensor:
        _check_call(f, distribution, num_samples)
        if not distribution.has_rsample:
            raise ValueError(
                f"Pathwise needs a distribution with rsample, and {_name(distribution)} has none: "
                "use ScoreFunction, or Enumeration if its support is finite"
            )
        z = distribution.rsample((num_samples,))
        values = _values(f, z, distribution)
        if z.requires_grad and not _depends_on(values, z):
            raise ValueError(
                "the value of f does not depend on the sample through a graph, so Pathwise has "
                "no gradient to follow: look for .detach(), .item(), torch.no_grad() or a "
                "comparison such as z > 0 in f; for a function without a derivative use "
                "ScoreFunction"
            )
        return values.mean(0)


@dataclass(frozen=True)
class ScoreFunction:
    """REINFORCE, the likelihood-ratio estimator: differentiate the density, not `f`.

    The gradient estimate is the mean of `f(z_k) ∇_φ log q_φ(z_k) + ∇_φ f(z_k)`, the second
    term for parameters that `f` uses itself. Written with the factor
    `exp(log q - stop_gradient(log q))`, which is 1 and has the score as its derivative (DiCE).

    Needs: `log_prob`, and a density that is absolutely continuous in the parameters, which a
    support with a hard edge that moves with them breaks; `f` may be any function, also of
    discrete `z`.
    Bias: none under those conditions.
    Cost: `num_samples` evaluations of `f`. Its variance depends on the size of `f`, not only on
    its slope (chapter 3).
    Higher derivatives: right.

    Args and returns: as for every estimator (see `Pathwise`).

    Raises:
        TypeError: if an argument is of the wrong kind.
        ValueError: if `f` returns a wrong shape or NaN, or if the support of the distribution
            moves with its parameters.

    Derived in chapter 1. Source: Williams (1992), https://doi.org/10.1007/BF00992696; the form
    used here: Foerster et al. (2018), https://arxiv.org/abs/1802.05098.

    >>> from torch.distributions import Bernoulli
    >>> theta = torch.tensor(0.3, requires_grad=True)
    >>> _ = torch.manual_seed(0)
    >>> ScoreFunction()(lambda b: b, Bernoulli(theta), num_samples=100_000).backward()
    >>> bool((theta.grad - 1).abs() < 0.05)
    True
    """

    def __call__(self, f: Integrand, distribution: Distribution, num_samples: int = 1) -> Tensor:
        _check_call(f, distribution, num_samples)
        if _support_moves(distribution):
            raise ValueError(
                "ScoreFunction can be biased where the support moves with the parameters, as "
                f"that of {_name(distribution)} does: use Pathwise"
            )
        z = distribution.sample((num_samples,))
        values = _values(f, z, distribution)
        log_prob = distribution.log_prob(z)
        return (values * torch.exp(log_prob - log_prob.detach())).mean(0)


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

    Used from chapter 1 on; the subject of chapter 7.

    >>> from torch.distributions import Bernoulli
    >>> theta = torch.tensor(0.3, requires_grad=True)
    >>> Enumeration()(lambda b: (b - 0.45) ** 2, Bernoulli(theta)).backward()
    >>> theta.grad
    tensor(0.1000)
    """

    max_points: int = 2**20

    def __call__(self, f: Integrand, distribution: Distribution, num_samples: int = 1) -> Tensor:
        _check_call(f, distribution, num_samples)
        z = _support_points(distribution, self.max_points)
        values = _values(f, z, distribution)
        return (distribution.log_prob(z).exp() * values).sum(0)


def _name(distribution: Distribution) -> str:
    if isinstance(distribution, Independent):
        return f"Independent({_name(distribution.base_dist)})"
    return type(distribution).__name__


def _check_call(f: Integrand, distribution: Distribution, num_samples: int) -> None:
    if not callable(f):
        raise TypeError(f"f must be a function of the samples, got {type(f).__name__}")
    if not isinstance(distribution, Distribution):
        raise TypeError(
            "distribution must be a torch.distributions.Distribution, got "
            f"{type(distribution).__name__}"
        )
    check_count("num_samples", num_samples)
    if 0 in distribution.batch_shape or 0 in distribution.event_shape:
        raise ValueError(
            f"the distribution is empty: batch_shape {tuple(distribution.batch_shape)}, "
            f"event_shape {tuple(distribution.event_shape)}"
        )


def _values(f: Integrand, z: Tensor, distribution: Distribution) -> Tensor:
    """`f(z)`, checked: a floating-point tensor of shape `[n, *batch_shape]` without NaN."""
    values = f(z)
    wanted = (len(z), *distribution.batch_shape)
    if not isinstance(values, Tensor):
        raise TypeError(f"f must return a tensor of shape {wanted}, got {type(values).__name__}")
    if values.shape != wanted:
        raise ValueError(
            f"f must return one value for each sample, shape {wanted} for samples of shape "
            f"{tuple(z.shape)}, got shape {tuple(values.shape)}: sum event dimensions inside f, "
            "and declare variables that f mixes as one event with Independent(distribution, 1)"
        )
    if not values.is_floating_point():
        raise TypeError(f"f must return floating-point values, got {values.dtype}: use .float()")
    if values.device != z.device:
        raise ValueError(f"f must return values on {z.device}, where z is, got {values.device}")
    if any_true(values.detach().sum().isnan()) and any_true(nan := values.isnan()):  # sum is quick
        raise ValueError(f"f returned NaN for {int(nan.sum())} of {nan.numel()} samples")
    return values


def _depends_on(values: Tensor, z: Tensor) -> bool:
    """Whether the graph of `values` leads back to `z`."""
    if torch.compiler.is_compiling():
        return True  # the tracer has no graph to walk
    todo, seen = [values.grad_fn], set()
    while todo:
        node = todo.pop()
        if node is z.grad_fn:
            return node is not None
        if node is not None and node not in seen:
            seen.add(node)
            todo.extend(parent for parent, _ in node.next_functions)
    return False


def _support_moves(distribution: Distribution) -> bool:
    """Whether a bound of the support is a function of parameters that want a gradient."""
    support = distribution.support
    while hasattr(support, "base_constraint"):
        support = support.base_constraint
    bounds = (getattr(support, name, None) for name in ("lower_bound", "upper_bound"))
    return any(isinstance(bound, Tensor) and bound.requires_grad for bound in bounds)


def _support_points(distribution: Distribution, max_points: int) -> Tensor:
    """Every point of a finite support, shape `[n, *batch_shape, *event_shape]`."""
    base, copies = distribution, 1
    while isinstance(base, Independent):
        base = base.base_dist
        copies = base.batch_shape[len(distribution.batch_shape) :].numel()
    try:
        points = base.enumerate_support(expand=False)
    except NotImplementedError:
        raise ValueError(
            f"Enumeration needs a finite support, and that of {_name(distribution)} is not, or "
            "torch cannot list it: use Pathwise if it has rsample, else ScoreFunction"
        ) from None
    if len(points) ** copies > max_points:
        raise ValueError(
            f"Enumeration would visit {len(points)}**{copies} points, more than "
            f"max_points={max_points}: use ScoreFunction"
        )
    points = points.reshape(len(points), *base.event_shape)
    choices = torch.arange(len(points), device=points.device)
    index = torch.cartesian_prod(*[choices] * copies).reshape(-1, copies)
    event = points[index].reshape(
        len(index), *(1,) * len(distribution.batch_shape), *distribution.event_shape
    )
    return event.expand(-1, *distribution.batch_shape, *distribution.event_shape)
