"""The reparameterization trick as an estimator."""

from dataclasses import dataclass

from torch import Tensor
from torch.distributions import Distribution

from reparam._checks import check_flag
from reparam.distributions.implicit import implicit_path, lacks_derivative
from reparam.estimators._contract import (
    Integrand,
    check_call,
    check_differentiable,
    innermost,
    is_discrete,
    name_of,
    refuse_forward_mode,
    support_of,
    values_of,
)


@dataclass(frozen=True)
class Pathwise:
    """The reparameterization trick: differentiate `f` along the path of each sample.

    With `z = g(eps; φ)` the gradient estimate is the mean of `∇_φ f(g(eps_k; φ))`.

    The path may be known without `g`: while `z` moves, its quantile `F_φ(z)` stays, so that
    `∇_φ z = -∇_φ F_φ(z) / q_φ(z)`. With `implicit=True` the samples come from `sample` and their
    path from `cdf` and `log_prob`, which a mixture has and `rsample` it has not.

    Needs: a distribution with `rsample`, and an `f` that is differentiable in `z`. If implicit:
    continuous variables of one dimension each, alone or inside `Independent`, with a `cdf` that
    torch can differentiate.
    Bias: none where `φ ↦ f(g(eps; φ))` is absolutely continuous for almost every `eps` with a
    dominated derivative; a step in `f` breaks that, silently (chapter 2 shows it, and
    `reparam.measure.compare` finds it).
    Cost: `num_samples` evaluations of `f`. If implicit, the variance has no bound for a mixture
    whose modes are far apart: nearly all of the slope in its weights then lies in the gap between
    them, where nearly no sample falls: an average can look settled, and miss it.
    Higher derivatives: right, where the distribution's own `rsample` has them. If implicit: the
    first and the second are right, a third is not.

    Args:
        implicit: take the path from the distribution function instead of from `rsample`.
        f: maps `[n, *batch_shape, *event_shape]` to `[n, *batch_shape]`.
        distribution: a `torch.distributions.Distribution`.
        num_samples: independent samples to average.

    Returns:
        A tensor of `batch_shape`.

    Raises:
        TypeError: if an argument is of the wrong kind.
        ValueError: if the distribution is discrete or has no `rsample`, or, if implicit, no `cdf`
            that torch can differentiate, if `f` returns a wrong shape or NaN, or if the value of
            `f` does not depend on the sample through a graph.

    Derived in chapter 2. Source: Kingma and Welling (2014), https://arxiv.org/abs/1312.6114;
    surveyed by Mohamed et al. (2020), section 5, https://arxiv.org/abs/1906.10652; implicit:
    Figurnov, Mohamed and Mnih (2018), https://arxiv.org/abs/1805.08498.

    >>> import torch
    >>> from torch.distributions import Normal
    >>> mu = torch.tensor(0.5, requires_grad=True)
    >>> Pathwise()(lambda z: 3 * z, Normal(mu, 1.0), num_samples=4).backward()
    >>> mu.grad
    tensor(3.)
    """

    implicit: bool = False

    def __post_init__(self):
        check_flag("implicit", self.implicit)

    def __call__(self, f: Integrand, distribution: Distribution, num_samples: int = 1) -> Tensor:
        check_call(f, distribution, num_samples)
        if self.implicit:
            refuse_forward_mode("Pathwise(implicit=True)")
            z = _implicit_sample(distribution, num_samples)
        elif distribution.has_rsample and is_discrete(distribution):
            raise ValueError(
                f"Pathwise needs samples that have a path, and those of {name_of(distribution)} are"
                " discrete, whatever its rsample hands on: use StraightThrough with the plain "
                "distribution, which says what its bias is"
            )
        elif distribution.has_rsample:
            z = distribution.rsample((num_samples,))
        else:
            raise ValueError(
                f"Pathwise needs a distribution with rsample, and {name_of(distribution)} has "
                "none: use ScoreFunction, or Enumeration if its support is finite"
            )
        values = values_of(f, z, distribution)
        check_differentiable("Pathwise", values, z, instead="ScoreFunction")
        return values.mean(0)


def _implicit_sample(distribution: Distribution, num_samples: int) -> Tensor:
    """Samples with the derivatives of `z` in `F_φ(z) = constant`."""
    base = innermost(distribution)
    if support_of(base).is_discrete or base.event_shape:
        raise ValueError(
            "Pathwise(implicit=True) needs continuous variables of one dimension each, alone or "
            f"inside Independent, got {name_of(distribution)}: use "
            + ("Pathwise()" if base.has_rsample else "ScoreFunction")
        )
    z = distribution.sample((num_samples,)).detach()
    quantile = _differentiable_cdf(base, z)
    if not quantile.requires_grad:
        return z
    density = base.log_prob(z).detach().exp()
    return implicit_path(z, quantile, base.cdf, lambda rise: rise / density)


def _differentiable_cdf(base: Distribution, z: Tensor) -> Tensor:
    try:
        cdf = base.cdf(z)
    except NotImplementedError:
        cdf = None
    if cdf is None or lacks_derivative(cdf):
        raise ValueError(
            "Pathwise(implicit=True) needs a cdf that torch can differentiate in the parameters, "
            f"and {name_of(base)} has none: use "
            + ("Pathwise(), whose rsample it has" if base.has_rsample else "ScoreFunction")
        )
    return cdf
