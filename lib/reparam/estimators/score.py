"""The score function estimator."""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.distributions import Distribution

from reparam.estimators._contract import Integrand, check_call, name_of, values_of


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

    >>> import torch
    >>> from torch.distributions import Bernoulli
    >>> theta = torch.tensor(0.3, requires_grad=True)
    >>> _ = torch.manual_seed(0)
    >>> ScoreFunction()(lambda b: b, Bernoulli(theta), num_samples=100_000).backward()
    >>> bool((theta.grad - 1).abs() < 0.05)
    True
    """

    def __call__(self, f: Integrand, distribution: Distribution, num_samples: int = 1) -> Tensor:
        check_call(f, distribution, num_samples)
        if _support_moves(distribution):
            raise ValueError(
                "ScoreFunction can be biased where the support moves with the parameters, as "
                f"that of {name_of(distribution)} does: use Pathwise"
            )
        z = distribution.sample((num_samples,))
        values = values_of(f, z, distribution)
        log_prob = distribution.log_prob(z)
        return (values * torch.exp(log_prob - log_prob.detach())).mean(0)


def _support_moves(distribution: Distribution) -> bool:
    """Whether a bound of the support is a function of parameters that want a gradient."""
    support = distribution.support
    while hasattr(support, "base_constraint"):
        support = support.base_constraint
    bounds = (getattr(support, name, None) for name in ("lower_bound", "upper_bound"))
    return any(isinstance(bound, Tensor) and bound.requires_grad for bound in bounds)
