"""The exact expectation over a finite support."""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.distributions import Distribution, Independent

from reparam.estimators._contract import Integrand, check_call, name_of, values_of


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

    >>> import torch
    >>> from torch.distributions import Bernoulli
    >>> theta = torch.tensor(0.3, requires_grad=True)
    >>> Enumeration()(lambda b: (b - 0.45) ** 2, Bernoulli(theta)).backward()
    >>> theta.grad
    tensor(0.1000)
    """

    max_points: int = 2**20

    def __call__(self, f: Integrand, distribution: Distribution, num_samples: int = 1) -> Tensor:
        check_call(f, distribution, num_samples)
        z = _support_points(distribution, self.max_points)
        values = values_of(f, z, distribution)
        return (distribution.log_prob(z).exp() * values).sum(0)


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
            f"Enumeration needs a finite support, and that of {name_of(distribution)} is not, or "
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
