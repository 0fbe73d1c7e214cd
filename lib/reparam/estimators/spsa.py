"""Simultaneous perturbation: two evaluations, however many parameters there are."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.distributions import Distribution, Transform, biject_to, transform_to
from torch.distributions.constraints import Constraint

from reparam._checks import any_true, check_number
from reparam.estimators._contract import (
    Integrand,
    attach,
    beside,
    check_call,
    constraints_of,
    draw,
    draw_together,
    name_of,
    parameters_of,
    rebuilt,
    refuse_forward_mode,
    values_of,
    widened,
)


@dataclass(frozen=True)
class SPSA:
    """Simultaneous perturbation: a central difference along one random direction of all parameters.

    With parameters `u` in their unconstrained space, a step `c` and independent signs `Δ = ±1`,
    the estimate of each derivative `∂/∂u_i` is the mean of

        [f(z⁺) - f(z⁻)] / (2 c Δ_i),    z⁺ drawn at u + cΔ,    z⁻ at u - cΔ,

    and the chain rule leads from `u` (the logarithm of a scale, the logit of a probability) to the
    parameters. Both sides draw from the same state of the random number generator, so that `z⁺` and
    `z⁻` are near each other. Where the number of random numbers depends on the parameters, as for
    Gamma, Poisson and Binomial variables, the two sides may fall out of step, which costs variance
    and no bias.

    Needs: a distribution whose class is made from its parameters, alone or inside `Independent`;
    `f` may be any function.
    Bias: O(c²) in the gradient, that of the central difference with step `c`, and O(c²) in the
    value; both are exact where `E[f]` is a quadratic function (for the value: linear) of `u`.
    Cost: `2 num_samples` evaluations of `f`. The variance grows with the number of parameters that
    are perturbed together, and, where noise that is shared still leaves a jump, as `1/c`.
    Higher derivatives: none; a second one raises.

    The value is the mean over both sides, or over draws of the distribution itself where no
    parameter wants a gradient. Only parameters that want one are perturbed.

    Args:
        step: the step `c` in the unconstrained space.
        f, distribution, num_samples: as for every estimator (see `Pathwise`).

    Raises:
        TypeError: if an argument is of the wrong kind.
        ValueError: if the step is not positive, if a probability is 0 or 1, if the distribution
            cannot be made again from other parameters, or if `f` returns a wrong shape or NaN.
        NotImplementedError: if a second derivative is taken.

    Used in chapter 7. Source: Spall (1992), https://doi.org/10.1109/9.119632; common random
    numbers: Kleinman, Spall and Naiman (1999), https://doi.org/10.1287/mnsc.45.11.1570.

    >>> import torch
    >>> from torch.distributions import Normal
    >>> mu = torch.tensor(0.5, requires_grad=True)
    >>> SPSA(step=0.1)(lambda z: 3 * z, Normal(mu, 1.0)).backward()
    >>> round(mu.grad.item(), 3)
    3.0
    """

    step: float = 0.1

    def __post_init__(self):
        check_number("step", self.step)
        if not 0 < self.step < math.inf:
            raise ValueError(f"step must be positive and finite, got {self.step}")

    @widened
    def __call__(self, f: Integrand, distribution: Distribution, num_samples: int = 1) -> Tensor:
        check_call(f, distribution, num_samples)
        refuse_forward_mode("SPSA")
        parameters = parameters_of(distribution)
        free = _unconstrained(distribution, parameters)
        if not free:
            return values_of(f, draw(distribution, num_samples), distribution).mean(0)
        signs = {name: _signs(u, num_samples) for name, (_, u) in free.items()}

        def moved(side: int) -> Distribution:
            changed = {
                name: bijection(u.detach() + side * self.step * signs[name])
                for name, (bijection, u) in free.items()
            }
            kept = {name: p for name, p in parameters.items() if name not in free}
            return rebuilt(distribution, {**kept, **changed})

        z = torch.cat(draw_together([moved(1), moved(-1)]))
        values = values_of(f, z, distribution)
        above, below = values.split(num_samples)
        slope = (above - below) / (2 * self.step)
        estimate = values.mean(0)
        for name, (_, u) in free.items():
            each = beside(slope, 1 + u.ndim) * signs[name]
            estimate = attach("SPSA", estimate, u, each.mean(0))
        return estimate


def _unconstrained(distribution: Distribution, parameters: dict[str, Tensor]) -> dict:
    """For each parameter that wants a gradient: the way from the unconstrained space, and there."""
    wanted = [name for name, parameter in parameters.items() if parameter.requires_grad]
    if not (wanted and torch.is_grad_enabled()):
        return {}
    constraints, free = constraints_of(distribution), {}
    for name in wanted:
        bijection = _bijection(constraints[name])
        if bijection is None:
            raise ValueError(
                f"SPSA knows no unconstrained space for the {name} of {name_of(distribution)}: "
                "use Pathwise if it has rsample, else ScoreFunction"
            )
        if name == "probs" and any_true((parameters[name] == 0) | (parameters[name] == 1)):
            raise ValueError(
                "SPSA moves the logits of probabilities, which are infinite at 0 and 1: keep probs "
                "between them, or use Enumeration"
            )
        free[name] = bijection, bijection.inv(parameters[name])
    return free


def _bijection(constraint: Constraint) -> Transform | None:
    for registry in (biject_to, transform_to):  # only the second knows lower_cholesky
        try:
            return registry(constraint)
        except NotImplementedError:
            continue
    return None


def _signs(like: Tensor, num_samples: int) -> Tensor:
    """Independent signs, +1 or -1, one for each sample and each entry of `like`.

    They are the bits of random bytes, of which a generator makes eight times fewer.
    """
    shape = (num_samples, *like.shape)
    count = math.prod(shape)
    places = 2 ** torch.arange(8, dtype=torch.uint8, device=like.device)
    drawn = torch.randint(256, (-(-count // 8), 1), dtype=torch.uint8, device=like.device)
    bits = (drawn & places).clamp_(max=1).flatten()[:count].reshape(shape)
    return bits.to(like.dtype).mul_(2).sub_(1)
