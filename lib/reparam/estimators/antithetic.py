"""Estimators for discrete variables that evaluate `f` at samples coupled through one noise."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.distributions import Bernoulli, Categorical, Distribution, OneHotCategorical

from reparam._functions import below
from reparam.estimators._contract import (
    Integrand,
    attach,
    beside,
    check_call,
    discrete_logits,
    innermost,
    uniform_noise,
    values_of,
    widened,
)
from reparam.noise import exponential_noise

_KINDS = (Bernoulli, OneHotCategorical, Categorical)


@dataclass(frozen=True)
class ARM:
    """Augment-REINFORCE-merge: the difference of `f` between two samples that share their noise.

    A Bernoulli variable with logit φ is `1[u > σ(-φ)]`, and as well `1[u < σ(φ)]`. With `b` the
    one and `b~` the other, the gradient estimate is the mean of `(f(b) - f(b~)) (u - 1/2)`.

    For classes (ARSM, with swap): `ϖ ~ Dirichlet(1, …, 1)`, and `z` is the class with the least
    `ϖ_i exp(-φ_i)`. Where `f_cj` is `f(z)` after `ϖ_c` and `ϖ_j` have changed places, in all
    variables of the event together, the estimate for class c of a variable is the mean of
    `Σ_j (f_cj - mean_m f_mj) (1/C - ϖ_j)`.

    Needs: Bernoulli, OneHotCategorical or Categorical variables, alone or inside `Independent`;
    `f` may be any function.
    Bias: none.
    Cost: 2 evaluations of `f` for each of `num_samples`; with C classes `C (C - 1) / 2 + 1`. The
    value is the mean over all of them. `DisARM` is never worse for Bernoulli variables.
    Precision: bits in float32 are as probable as they should be to 6e-8, as `torch.bernoulli`'s.
    Higher derivatives: refused.

    Args and returns: as for every estimator (see `Pathwise`).

    Raises:
        TypeError: if an argument is of the wrong kind.
        ValueError: if the variables are of another kind, or if `f` returns a wrong shape or NaN.
        NotImplementedError: at a second derivative.

    Derived in chapter 7. Source: Yin and Zhou (2019), https://arxiv.org/abs/1807.11143; for
    classes Yin, Yue and Zhou (2019), https://arxiv.org/abs/1905.01413.

    >>> import torch
    >>> from torch.distributions import Bernoulli
    >>> logit = torch.tensor(0.0, requires_grad=True)
    >>> _ = torch.manual_seed(0)
    >>> ARM()(lambda b: (b - 0.45) ** 2, Bernoulli(logits=logit), num_samples=10_000).backward()
    >>> round(logit.grad.item(), 3)  # (1 - 2 * 0.45) / 4
    0.025
    """

    @widened
    def __call__(self, f: Integrand, distribution: Distribution, num_samples: int = 1) -> Tensor:
        check_call(f, distribution, num_samples)
        logits, kind = discrete_logits("ARM", distribution, _KINDS)
        if kind is not Bernoulli:
            return _swap_and_merge(f, distribution, logits, num_samples)
        u, b, antithetic = _antithetic_bits(logits, num_samples)
        values = values_of(f, torch.cat([b, antithetic]), distribution)
        gradient = _difference(values, logits) * (u - 0.5)
        return attach("ARM", values.mean(0), logits, gradient.mean(0))


@dataclass(frozen=True)
class DisARM:
    """ARM without the noise that it leaves in: its mean given the two samples, in closed form.

    With `b` and `b~` as in `ARM`, the gradient estimate for a Bernoulli variable of logit φ is the
    mean of `1/2 (f(b) - f(b~)) (-1)^{b~} 1[b ≠ b~] σ(|φ|)`. The same estimator was found
    independently as U2G (Yin et al. 2020).

    C classes are C - 1 bits on a stick: the class is the place of the first 1, and bit i has logit
    `φ_i - log Σ_{j>i} exp(φ_j)`. Bits that both samples reach get the term above; bits that only
    one of them reaches get `1/2 (f(z) - f(z~)) (b - σ)` for that one, the mean over the other; and
    bits that neither reaches get nothing.

    Needs: Bernoulli, OneHotCategorical or Categorical variables, alone or inside `Independent`;
    `f` may be any function.
    Bias: none.
    Cost: 2 evaluations of `f` for each of `num_samples`, which counts pairs; the value is the mean
    over both. For Bernoulli variables the variance is never above that of `ARM`. For classes it
    depends on their order.
    Precision: bits in float32 are as probable as they should be to 6e-8, as `torch.bernoulli`'s.
    Higher derivatives: refused.

    Args and returns: as for every estimator (see `Pathwise`).

    Raises:
        TypeError: if an argument is of the wrong kind.
        ValueError: if the variables are of another kind, or if `f` returns a wrong shape or NaN.
        NotImplementedError: at a second derivative.

    Derived in chapter 7. Source: Dong, Mnih and Tucker (2020), https://arxiv.org/abs/2006.10680;
    for classes Dong, Mnih and Tucker (2021), https://arxiv.org/abs/2106.08056.

    >>> import torch
    >>> from torch.distributions import Bernoulli
    >>> logit = torch.tensor(0.0, requires_grad=True)
    >>> DisARM()(lambda b: (b - 0.45) ** 2, Bernoulli(logits=logit)).backward()
    >>> logit.grad  # exact at logit 0, where the two samples always differ
    tensor(0.0250)
    """

    @widened
    def __call__(self, f: Integrand, distribution: Distribution, num_samples: int = 1) -> Tensor:
        check_call(f, distribution, num_samples)
        logits, kind = discrete_logits("DisARM", distribution, _KINDS)
        if kind is not Bernoulli:
            return _coupled_sticks(f, distribution, logits, num_samples)
        _, b, antithetic = _antithetic_bits(logits, num_samples)
        values = values_of(f, torch.cat([b, antithetic]), distribution)
        gradient = (_difference(values, logits) * (b - antithetic)).mean(0)
        return attach("DisARM", values.mean(0), logits, gradient * _both(logits.detach()))


def _antithetic_bits(logits: Tensor, num_samples: int) -> tuple[Tensor, Tensor, Tensor]:
    """Uniform noise, and the two samples of every bit that come out of it."""
    logits = logits.detach()
    shape = (num_samples, *logits.shape)
    u = uniform_noise(shape, dtype=logits.dtype, device=logits.device)
    b, antithetic = 1 - below(u, (-logits).sigmoid()), below(u, logits.sigmoid())
    return tuple(x.to(logits.dtype) for x in (u, b, antithetic))


def _difference(values: Tensor, logits: Tensor) -> Tensor:
    """`f(b) - f(b~)` of each pair, with dimensions of size 1 for the event."""
    first, second = values.detach().chunk(2)
    return beside(first - second, 1 + logits.ndim)


def _both(logits: Tensor) -> Tensor:
    """The factor of `(f(b) - f(b~)) (b - b~)` for a bit that both samples depend on."""
    return logits.abs().sigmoid() / 2


# --- classes -------------------------------------------------------------------------------------


def _samples(classes: Tensor, distribution: Distribution, logits: Tensor) -> Tensor:
    """Class indices as samples of the distribution: as they are, or one-hot."""
    if isinstance(innermost(distribution), Categorical):
        return classes
    return F.one_hot(classes, logits.shape[-1]).to(logits.dtype)


def _swap_and_merge(
    f: Integrand, distribution: Distribution, logits: Tensor, num_samples: int
) -> Tensor:
    """ARSM: every pair of classes swaps its noise, in all variables of the event together."""
    batch, classes = len(distribution.batch_shape), logits.shape[-1]
    weights = exponential_noise(
        (num_samples, *logits.shape), dtype=logits.dtype, device=logits.device
    )
    weights = weights / weights.sum(-1, keepdim=True)  # Dirichlet(1, …, 1)
    swaps, which = _swaps(classes, logits.device)
    costs = weights.log()[..., swaps].movedim(-2, 0) - logits.detach()
    z = _samples(costs.argmin(-1), distribution, logits)  # [swaps, num_samples, …]
    values = values_of(f, z.flatten(0, 1), distribution)
    swapped = values.detach().unflatten(0, (len(swaps), num_samples))[which]  # f_cj
    merged = (swapped - swapped.mean(0)).movedim((0, 1), (-1, -2))  # [n, *batch, j, c]
    noise = 1 / classes - weights.reshape(*weights.shape[: 1 + batch], -1, classes)
    gradient = (noise @ merged).mean(0).reshape(logits.shape)  # [*batch, variables, c]
    return attach("ARM", values.mean(0), logits, gradient)


def _swaps(classes: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """The permutations that swap two classes or none, and for each pair which of them it is."""
    first, second = torch.triu_indices(classes, classes, 1, device=device)
    number = torch.arange(1, len(first) + 1, device=device)
    swaps = torch.arange(classes, device=device).repeat(len(first) + 1, 1)
    swaps[number, first], swaps[number, second] = second, first
    which = torch.zeros(classes, classes, dtype=torch.long, device=device)
    which[first, second] = which[second, first] = number
    return swaps, which


def _coupled_sticks(
    f: Integrand, distribution: Distribution, logits: Tensor, num_samples: int
) -> Tensor:
    """DisARM for the bits of a stick that is broken class by class."""
    # An impossible class has a logit so low that no sample meets it, and differences stay finite.
    logits = logits.clamp(min=torch.finfo(logits.dtype).min / 4)
    rest = logits.flip(-1).logcumsumexp(-1).flip(-1)  # of this class and those after it
    sticks = logits[..., :-1] - rest[..., 1:]
    _, *bits = _antithetic_bits(sticks, num_samples)
    # The first 1 of a stick is its class; a 1 behind the last bit stands for the last class.
    classes = [F.pad(b, (0, 1), value=1.0).argmax(-1) for b in bits]
    z = _samples(torch.cat(classes), distribution, logits)
    values = values_of(f, z, distribution)
    place = torch.arange(sticks.shape[-1], device=logits.device)
    reached, other_reached = (place <= c[..., None] for c in classes)
    b, antithetic = bits
    fixed = sticks.detach()
    alone = torch.where(reached, b - fixed.sigmoid(), fixed.sigmoid() - antithetic) / 2
    weight = torch.where(reached & other_reached, (b - antithetic) * _both(fixed), alone)
    weight = weight * (reached | other_reached)
    gradient = _difference(values, sticks) * weight
    return attach("DisARM", values.mean(0), sticks, gradient.mean(0))
