"""The reparameterization trick as an estimator."""

from dataclasses import dataclass

from torch import Tensor
from torch.distributions import Distribution

from reparam.estimators._contract import (
    Integrand,
    check_call,
    check_differentiable,
    name_of,
    values_of,
)


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

    >>> import torch
    >>> from torch.distributions import Normal
    >>> mu = torch.tensor(0.5, requires_grad=True)
    >>> Pathwise()(lambda z: 3 * z, Normal(mu, 1.0), num_samples=4).backward()
    >>> mu.grad
    tensor(3.)
    """

    def __call__(self, f: Integrand, distribution: Distribution, num_samples: int = 1) -> Tensor:
        check_call(f, distribution, num_samples)
        if not distribution.has_rsample:
            raise ValueError(
                f"Pathwise needs a distribution with rsample, and {name_of(distribution)} has "
                "none: use ScoreFunction, or Enumeration if its support is finite"
            )
        z = distribution.rsample((num_samples,))
        values = values_of(f, z, distribution)
        check_differentiable("Pathwise", values, z, instead="ScoreFunction")
        return values.mean(0)
