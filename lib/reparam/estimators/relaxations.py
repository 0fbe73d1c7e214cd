"""Estimators that pretend a discrete sample is smooth: cheap, quiet and biased."""

from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor
from torch.distributions import Distribution

from reparam._checks import check_count, check_flag
from reparam._functions import Function
from reparam.estimators._contract import (
    Integrand,
    check_call,
    check_differentiable,
    draw,
    first_order,
    handed_on,
    values_of,
    widened,
)
from reparam.estimators._relaxing import Bits, check_number, relaxable
from reparam.relaxed import _wide, _zero_with_slope

_INSTEAD = "ScoreFunction, ARM or RELAX with eta=None"


@dataclass(frozen=True)
class GumbelSoftmax:
    """The Concrete relaxation: a softmax of logits and Gumbel noise in place of the sample.

    `y = softmax((logits + G) / τ)`, for bits `sigmoid((logits + L) / τ)` with logistic noise. The
    gradient estimate is that of `f(y)` along the path of `y`, the noise held fixed. With `hard`,
    `f` is evaluated and differentiated at the discrete sample and its slope handed to `y`.

    The value is the mean of `f(y)`: soft, it estimates the *relaxed* mean, not `E[f(b)]`; hard, it
    estimates `E[f(b)]`.

    Needs: Bernoulli or OneHotCategorical variables, alone or inside `Independent`, and an `f` that
    is differentiable, soft also between the outcomes.
    Bias: yes. That of the soft estimator vanishes as τ → 0 while its variance grows like 1/τ; that
    of the hard one does not vanish, unless `f` is at most quadratic in each variable, others held
    fixed.
    Cost: `num_samples` evaluations of `f`.
    Higher derivatives: soft, those of the relaxed mean; hard, none.

    Args:
        temperature: τ, positive; anneal it by making a new `GumbelSoftmax` (see
            `reparam.relaxed.annealed_temperature`).
        hard: evaluate `f` at the discrete sample.
        f, distribution, num_samples: as for every estimator (see `Pathwise`).

    Raises:
        TypeError: if an argument is of the wrong kind.
        ValueError: if the temperature is not positive, the variables cannot be relaxed, or `f`
            returns a wrong shape or NaN, or does not depend on the sample through a graph.
        NotImplementedError: for a second derivative of the hard estimator.

    Derived in chapter 5, compared in chapter 7. Source: Jang, Gu and Poole (2017),
    https://arxiv.org/abs/1611.01144; Maddison, Mnih and Teh (2017),
    https://arxiv.org/abs/1611.00712.

    >>> import torch
    >>> from torch.distributions import Bernoulli
    >>> logit = torch.tensor(0.4, requires_grad=True)
    >>> value = GumbelSoftmax(temperature=0.5, hard=True)(
    ...     lambda b: (b - 0.45) ** 2, Bernoulli(logits=logit), num_samples=1000
    ... )
    >>> value.backward()
    """

    temperature: float = 1.0
    hard: bool = False

    def __post_init__(self):
        check_number(self.temperature)
        check_flag("hard", self.hard)

    def __call__(self, f: Integrand, distribution: Distribution, num_samples: int = 1) -> Tensor:
        check_call(f, distribution, num_samples)
        logits, kind = relaxable("GumbelSoftmax", distribution)
        if self.hard:
            logits = first_order("GumbelSoftmax(hard=True)", logits)
        z = kind.sample(logits.expand(num_samples, *logits.shape), self.temperature, self.hard)
        values = values_of(f, z, distribution)
        check_differentiable("GumbelSoftmax", values, z, instead=_INSTEAD)
        return values.mean(0)


Through = Literal["probabilities", "identity", "argmax"]


@dataclass(frozen=True)
class StraightThrough:
    """Discrete samples in the forward pass, something smooth in the backward pass.

    Three estimators go by this name. `f` is evaluated and differentiated at `b`, and its slope
    `g = f'(b)` becomes the gradient of

    - `"probabilities"`: the probabilities of the sample, `b ~ q`, so that the logits get
      `θ (1 - θ) g` for a bit, `π ∘ (g - π·g)` for classes;
    - `"identity"`: the logits themselves, `b ~ q`, so that they get `g` as it is;
    - `"argmax"`: the logits themselves, with `b` the most likely outcome. It draws nothing.

    The value is the mean of `f(b)`, which estimates `E[f(b)]`; for `"argmax"` it is `f` at the
    mode.

    Needs: Bernoulli or OneHotCategorical variables, alone or inside `Independent`, and an `f` that
    has a slope at the outcomes. The logits are those the distribution has: normalized ones,
    `log π`, for OneHotCategorical, whatever it was made from.
    Bias: yes, and the mean can have the wrong sign. Through the probabilities it is none where `f`
    is linear in each variable.
    Cost: `num_samples` evaluations of `f`; 1 for `"argmax"`, where `num_samples` changes nothing.
    Higher derivatives: none; a second one raises.

    Args:
        through: which of the three.
        f, distribution, num_samples: as for every estimator (see `Pathwise`).

    Raises:
        TypeError: if an argument is of the wrong kind.
        ValueError: if `through` is none of the three, the variables are not discrete, or `f`
            returns a wrong shape or NaN, or does not depend on the sample through a graph.
        NotImplementedError: for a second derivative.

    Compared in chapter 7. Source: Bengio, Léonard and Courville (2013),
    https://arxiv.org/abs/1308.3432.

    >>> import torch
    >>> from torch.distributions import Bernoulli
    >>> logit = torch.tensor(0.0, requires_grad=True)
    >>> StraightThrough()(lambda b: 8 * b, Bernoulli(logits=logit)).backward()
    >>> logit.grad
    tensor(2.)
    """

    through: Through = "probabilities"

    def __post_init__(self):
        if self.through not in get_args(Through):
            raise ValueError(
                f"through must be 'probabilities', 'identity' or 'argmax', got {self.through!r}"
            )

    @widened
    def __call__(self, f: Integrand, distribution: Distribution, num_samples: int = 1) -> Tensor:
        check_call(f, distribution, num_samples)
        logits, kind = relaxable("StraightThrough", distribution)
        soft = kind.soften(logits, 1.0) if self.through == "probabilities" else logits
        if self.through == "argmax":
            hard = kind.harden(logits)[None]
        else:
            hard = draw(distribution, num_samples)
        z = handed_on("StraightThrough", hard, soft)
        values = values_of(f, z, distribution)
        check_differentiable("StraightThrough", values, z, instead=_INSTEAD)
        # A mean of one sample changes nothing, and costs a twentieth of a step.
        return values.squeeze(0) if self.through == "argmax" else values.mean(0)


@dataclass(frozen=True)
class GumbelRao:
    """Hard Gumbel-Softmax whose backward pass is averaged over the noise, given the sample.

    `b ~ q` exactly, and `f` is evaluated and differentiated at `b` once. Its slope goes back
    through the mean, over `conditional_samples` draws of the Gumbel noise given `b`, of the
    derivative of `softmax((logits + G) / τ)` with `G` held fixed. Its mean is that of
    `GumbelSoftmax(τ, hard=True)`, its variance at most as large: it is a Rao-Blackwellization.

    The value is the mean of `f(b)`, which estimates `E[f(b)]`.

    Needs: as `StraightThrough`.
    Bias: that of the hard Gumbel-Softmax, which vanishes as τ → 0 for quadratic `f` only. With
    infinitely many conditional samples the variance would stay bounded there; with K of them it
    grows like 1/(K τ).
    Cost: `num_samples` evaluations of `f`, and `conditional_samples` cheap relaxations for each.
    Higher derivatives: none; a second one raises.

    Args:
        temperature: τ, positive.
        conditional_samples: draws of the noise for each sample.
        f, distribution, num_samples: as for every estimator (see `Pathwise`).

    Raises:
        TypeError, ValueError: as `GumbelSoftmax` does.

    Compared in chapter 7. Source: Paulus, Maddison and Krause (2021),
    https://arxiv.org/abs/2010.04838.

    >>> import torch
    >>> from torch.distributions import OneHotCategorical
    >>> logits = torch.zeros(3, requires_grad=True)
    >>> w = torch.tensor([1.0, 2.0, 4.0])
    >>> value = GumbelRao(temperature=0.5)(
    ...     lambda b: (b * w).sum(-1) ** 2, OneHotCategorical(logits=logits), num_samples=8
    ... )
    >>> value.backward()
    """

    temperature: float = 1.0
    conditional_samples: int = 10

    def __post_init__(self):
        check_number(self.temperature)
        check_count("conditional_samples", self.conditional_samples)

    @widened
    def __call__(self, f: Integrand, distribution: Distribution, num_samples: int = 1) -> Tensor:
        check_call(f, distribution, num_samples)
        logits, kind = relaxable("GumbelRao", distribution)
        logits = _wide(first_order("GumbelRao", logits))
        b = draw(distribution, num_samples)
        z = kind.given(b, logits.detach(), (self.conditional_samples,))
        # z = logits + G: its value as drawn, its derivative 1, because the noise is held fixed.
        z = z + _zero_with_slope(logits)
        b = b + _zero_with_slope(kind.soften(z, self.temperature).mean(0).to(b))
        values = values_of(f, b, distribution)
        check_differentiable("GumbelRao", values, b, instead=_INSTEAD)
        return values.mean(0)


@dataclass(frozen=True)
class ReinMax:
    """Straight-through of second order: the trapezoidal rule between outcomes.

    With the slope `g = f'(b)` at the sample `b ~ q`, the logits get
    `2 J((b + π_τ) / 2) g - J(π) g / 2`, where `J(p) = diag(p) - p pᵀ` and
    `π_τ = softmax(logits / τ)`. At τ = 1 that is `(b ∘ (g - π·g) + π ∘ (g - b·g)) / 2`, whose mean
    replaces each difference `f(e_k) - f(e_i)` in the true gradient by
    `(f'(e_k) + f'(e_i))·(e_k - e_i) / 2`. A bit is a variable of two classes: `g (1 - θ) / 2` where
    it is 1, `g θ / 2` where it is 0.

    The value is the mean of `f(b)`, which estimates `E[f(b)]`.

    Needs: as `StraightThrough`.
    Bias: at τ = 1 none where `f` is at most quadratic in each variable, others held fixed; else
    that of the trapezoidal rule, of third order in the distance between the outcomes. Other
    temperatures, which the paper tunes, are biased for quadratics too.
    Cost: `num_samples` evaluations of `f`.
    Higher derivatives: none; a second one raises.

    Args:
        temperature: τ, positive.
        f, distribution, num_samples: as for every estimator (see `Pathwise`).

    Raises:
        TypeError, ValueError: as `GumbelSoftmax` does.

    Compared in chapter 7. Source: Liu et al. (2023), https://arxiv.org/abs/2304.08612.

    >>> import torch
    >>> from torch.distributions import Bernoulli
    >>> logit = torch.tensor(0.0, requires_grad=True)
    >>> ReinMax()(lambda b: 8 * b, Bernoulli(logits=logit)).backward()
    >>> logit.grad
    tensor(2.)
    """

    temperature: float = 1.0

    def __post_init__(self):
        check_number(self.temperature)

    @widened
    def __call__(self, f: Integrand, distribution: Distribution, num_samples: int = 1) -> Tensor:
        check_call(f, distribution, num_samples)
        logits, kind = relaxable("ReinMax", distribution)
        logits = first_order("ReinMax", logits)
        b = draw(distribution, num_samples)
        plain, cooled = logits.detach(), logits.detach() / self.temperature
        if kind is Bits:
            z = b + _bit_slope(b, plain, cooled) * _zero_with_slope(logits)
        else:
            z = _ClassStep.call(b, logits.expand_as(b), plain.softmax(-1), cooled.softmax(-1))
        values = values_of(f, z, distribution)
        check_differentiable("ReinMax", values, z, instead=_INSTEAD)
        return values.mean(0)


def _bit_slope(b: Tensor, plain: Tensor, cooled: Tensor) -> Tensor:
    """`2 m (1 - m) - θ (1 - θ) / 2` with `m = (b + θ_τ) / 2`: the rule for classes `(b, 1 - b)`."""
    one, zero = torch.sigmoid(cooled), torch.sigmoid(-cooled)  # zero = 1 - one does not cancel
    common = torch.sigmoid(plain) * torch.sigmoid(-plain) / 2
    return torch.lerp(one * (1 + zero) / 2 - common, zero * (1 + one) / 2 - common, b)


class _ClassStep(Function):
    """The sample, with the gradient of ReinMax for the logits; `p` is π and `cooled` π_τ."""

    @staticmethod
    def forward(b, logits, p, cooled):
        return b.clone()

    @staticmethod
    def setup_context(ctx, inputs, output):
        b, _, p, cooled = inputs
        ctx.save_for_backward(b, p, cooled)

    @staticmethod
    def backward(ctx, g):
        b, p, cooled = ctx.saved_tensors
        middle = b + cooled  # twice the middle
        step = middle * (g - (middle * g).sum(-1, keepdim=True) / 2)
        return None, step - p * (g - (p * g).sum(-1, keepdim=True)) / 2, None, None
