"""Angles with a preferred direction, and a path to how strongly they keep to it."""

import math
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor
from torch.distributions import Distribution, constraints
from torch.distributions.utils import broadcast_all

from reparam._checks import check_alike, check_float, check_probability, is_infinite
from reparam._functions import Function, wide_dtype
from reparam.distributions._quadrature import (
    COARSE,
    EXACT,
    Rule,
    halley,
    in_blocks,
    log_odds_of,
    summed,
)
from reparam.noise import logistic_noise


class VonMises(Distribution):
    """Angles in `[-π, π)` with density `exp(κ cos(z - loc)) / (2π I₀(κ))`, `κ = concentration`.

    A sample is `loc` plus an angle `x` with `F(x) = u`, modulo 2π. So `dz/dloc = 1`, and
    differentiating `F(x) = u` gives, for `x > 0` and with `v = 2u - 1`,

        dz/dκ = -(1 - v) ∫₀ˣ (cos s - cos x) p(s) / p(x) ds - v ∫ₓ^π (cos x - cos s) p(s) / p(x) ds

    and the mirror image of it for `x < 0`. Nothing cancels, and a Gauss-Legendre rule over where
    `p` is not 0 knows both integrals to all digits, at every concentration. The same integrals
    without the cosines give `F` on both sides of `x`, from which a few steps of Halley's method
    find the sample: it is a smooth function of the parameters at fixed noise, with right second
    derivatives. `torch.distributions.VonMises` draws by rejection and has no `rsample`.

    Args:
        loc: the preferred angle in radians, any real number.
        concentration: `κ >= 0`; at 0 all angles are alike, for large ones `x` is nearly Gaussian
            with variance `1/κ`. Both are tensors that broadcast, or numbers.
        validate_args: whether to check parameters and values; torch's default if None.

    Raises:
        TypeError: if a parameter is a tensor without floating-point numbers.
        ValueError: if dtypes or devices differ, or a parameter is NaN, infinite or negative.

    `mean` and `variance` are the circular ones, `loc` and `1 - I₁(κ)/I₀(κ)`. `log_prob` and `cdf`
    take angles modulo 2π; `cdf` counts from -π.

    Derived in chapter 5. Source: Figurnov, Mohamed and Mnih (2018),
    https://arxiv.org/abs/1805.08498; Mardia and Jupp (2000), https://doi.org/10.1002/9780470316979.

    >>> kappa = torch.tensor(2.0, requires_grad=True)
    >>> z = VonMises(torch.tensor(3.0), kappa).rsample((100_000,))
    >>> (1 - torch.cos(z - 3)).mean().backward()  # the gradient of the circular variance
    >>> bool((kappa.grad + 0.1642).abs() < 0.003)
    True
    """

    arg_constraints: ClassVar = {"loc": constraints.real, "concentration": constraints.nonnegative}
    support = constraints.interval(-math.pi, math.pi)
    has_rsample = True

    def __init__(
        self,
        loc: Tensor | float,
        concentration: Tensor | float,
        validate_args: bool | None = None,
    ) -> None:
        given = dict(loc=loc, concentration=concentration)
        tensors = {name: value for name, value in given.items() if isinstance(value, Tensor)}
        if tensors:
            check_float(**tensors)
            check_alike(**tensors)
        self.loc, self.concentration = broadcast_all(loc, concentration)
        super().__init__(self.loc.shape, validate_args=validate_args)
        if self._validate_args:
            for name in given:
                if is_infinite(getattr(self, name)):
                    raise ValueError(f"{name} must be finite, got {getattr(self, name)}")

    def expand(self, batch_shape, _instance=None):
        new = self._get_checked_instance(VonMises, _instance)
        new.loc = self.loc.expand(batch_shape)
        new.concentration = self.concentration.expand(batch_shape)
        super(VonMises, new).__init__(torch.Size(batch_shape), validate_args=False)
        new._validate_args = self._validate_args
        return new

    def rsample(self, sample_shape=()) -> Tensor:
        loc, concentration = self._wide()
        shape = self._extended_shape(sample_shape)
        noise = logistic_noise(shape, dtype=loc.dtype, device=loc.device)
        angle = loc + _Quantile.call(concentration, noise)[0]
        # -π and the largest number below π are as far as the dtype goes.
        z = _wrapped(angle).to(self.loc.dtype)
        return torch.where(z >= math.pi, z - 2 * math.pi, z).clamp(min=-math.pi)

    def _validate_sample(self, value: Tensor) -> None:
        """Any angle will do; torch refuses what is no tensor."""
        super()._validate_sample(_wrapped(value) if isinstance(value, Tensor) else value)

    def log_prob(self, value: Tensor) -> Tensor:
        loc, concentration = self._wide()
        if self._validate_args:
            self._validate_sample(value)
        half = (value.to(loc.dtype) - loc) / 2
        return (-2 * concentration * half.sin().square() - self._log_normalizer()).to(
            self.loc.dtype
        )

    def cdf(self, value: Tensor) -> Tensor:
        loc, concentration = self._wide()
        if self._validate_args:
            self._validate_sample(value)
        value = _wrapped(value.to(loc.dtype))
        start = _turns_and_cdf(-math.pi - loc, concentration)
        return (_turns_and_cdf(value - loc, concentration) - start).to(self.loc.dtype)

    def icdf(self, value: Tensor) -> Tensor:
        if self._validate_args:
            check_probability(value)
        loc, concentration = self._wide()
        # From -π to the cut opposite of `loc`, then on from there.
        u = value.to(loc.dtype) + _turns_and_cdf(-math.pi - loc, concentration)
        turns = u.floor()
        u = u - turns
        inside = (u > 0) & (u < 1)
        angle = _Quantile.call(concentration, log_odds_of(torch.where(inside, u, 0.5)))[0]
        angle = torch.where(inside | u.isnan(), angle, -math.pi)
        z = (loc + angle + 2 * math.pi * turns).to(self.loc.dtype)
        return z.clamp(-math.pi, math.pi)

    @property
    def mean(self) -> Tensor:
        return self.loc

    @property
    def mode(self) -> Tensor:
        return self.loc

    @property
    def variance(self) -> Tensor:
        return self._mean_of_versine().to(self.loc.dtype)

    def entropy(self) -> Tensor:
        _, concentration = self._wide()
        entropy = self._log_normalizer() + concentration * self._mean_of_versine()
        return entropy.to(self.loc.dtype)

    def _wide(self) -> tuple[Tensor, Tensor]:
        dtype = wide_dtype(self.loc.dtype)
        return _wrapped(self.loc.to(dtype)), self.concentration.to(dtype)

    def _log_normalizer(self) -> Tensor:
        """`log(2π I₀(κ)) - κ`."""
        return (2 * self._half_circle()[0]).log()

    def _mean_of_versine(self) -> Tensor:
        """`E[1 - cos x] = 1 - I₁(κ)/I₀(κ)`, which does not cancel at large κ."""
        mass, versine = self._half_circle()
        return versine / mass

    def _half_circle(self) -> tuple[Tensor, Tensor]:
        """The integrals of `p(s)/p(0)` and of `(1 - cos s) p(s)/p(0)` over `[0, π]`."""
        _, concentration = self._wide()
        half_circle = torch.full_like(concentration, math.pi)
        return _from_mode(half_circle, concentration, EXACT[concentration.dtype])


class _Side(NamedTuple):
    """Over one side of `x`: `∫ p(s)/p* ds` and `∫ |cos s - cos x| p(s)/p* ds`, `p*` the largest."""

    mass: Tensor
    cosines: Tensor


def _from_mode(x: Tensor, concentration: Tensor, rule: Rule) -> tuple[Tensor, Tensor]:
    """The integrals of `p(s)/p(0)` and of `(1 - cos s) p(s)/p(0)` over `[0, x]`."""
    nodes, weights, folds = rule.on(x.device)
    reach = 2 * _arcsine_of_root(folds / (2 * concentration)).detach()
    end = torch.minimum(x, reach)
    versine = 2 * (end[..., None] * (nodes / 2)).sin().square()
    density = (versine * -concentration[..., None]).exp_()
    weights = weights[:, 0]
    return end * summed(density, weights), end * summed(density * versine, weights)


def _left(x: Tensor, concentration: Tensor, rule: Rule) -> _Side:
    """Over `[0, x]`; `p* = p(0)`."""
    mass, versine = _from_mode(x, concentration, rule)
    return _Side(mass, 2 * (x / 2).sin().square() * mass - versine)


def _right(x: Tensor, rest: Tensor, concentration: Tensor, rule: Rule) -> _Side:
    """Over `[x, π]`, where `rest = π - x`; `p* = p(x)`."""
    nodes, weights, folds = rule.on(x.device)
    rise = folds / (2 * concentration)
    height = (x / 2).sin().square() + rise
    # sin²((x + v)/2) - sin²(x/2) = sin(x + v/2) sin(v/2), since arcsines would cancel at large κ.
    middle = x / 2 + _arcsine_of_root(height)
    reach = 2 * torch.asin((rise / middle.sin()).clamp(max=1)).detach()
    # Where it reaches π, `rest` is the finer number.
    end = torch.where(height < 1, torch.minimum(rest, reach), rest)
    sine = (end[..., None] * (nodes / 2)).sin()
    # cos x - cos(x + v) = 2 sin(v/2) sin(x + v/2), with few sines, which take most of the time
    sine_of_x = torch.where(x < rest, x.sin(), rest.sin())[..., None]
    across = sine_of_x * (1 - sine.square()).sqrt() + x.cos()[..., None] * sine
    cosines = 2 * sine * across
    density = (cosines * -concentration[..., None]).exp_()
    weights = weights[:, 0]
    return _Side(end * summed(density, weights), end * summed(density * cosines, weights))


def _arcsine_of_root(square: Tensor) -> Tensor:
    return square.clamp(max=1).sqrt().asin()


def _wrapped(angle: Tensor) -> Tensor:
    """`angle` modulo 2π, in [-π, π); what lies there is left as it is."""
    inside = (angle >= -math.pi) & (angle < math.pi)
    return torch.where(inside, angle, (angle + math.pi).remainder(2 * math.pi) - math.pi)


def _turns_and_cdf(angle: Tensor, concentration: Tensor) -> Tensor:
    """Whole turns of `angle`, plus the probability of what is below the rest of it around 0."""
    wrapped = _wrapped(angle)
    turns = ((angle - wrapped) / (2 * math.pi)).round()
    x = torch.where(wrapped < 0, -wrapped, wrapped)
    rule = EXACT[x.dtype]
    left, right = _left(x, concentration, rule), _right(x, math.pi - x, concentration, rule)
    fall = torch.exp(-2 * concentration * (x / 2).sin().square())
    tail = right.mass * fall / (left.mass + right.mass * fall) / 2
    return turns + torch.where(wrapped < 0, tail, 1 - tail)


class _Quantile(Function):
    """The angle around 0 with `log(F / (1 - F)) = log_odds`; its size, and the rest of it to π."""

    @staticmethod
    def forward(concentration, log_odds):
        return in_blocks(_solve, concentration, log_odds)

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.save_for_backward(inputs[0], *output)
        ctx.mark_non_differentiable(*output[1:])
        ctx.shapes = [i.shape for i in inputs]

    @staticmethod
    def backward(ctx, slope, *_):
        concentration, z, x, rest = ctx.saved_tensors
        side = torch.where(z < 0, -1.0, 1.0).to(z.dtype)
        if torch.is_grad_enabled():  # their values as they are, with the derivatives of z's
            change = side * (z - z.detach())
            x, rest = x + change, rest - change
        slopes = in_blocks(_slopes, x, rest, concentration)
        return tuple(
            (slope * one).sum_to_size(shape)
            for one, shape in zip((side * slopes[0], slopes[1]), ctx.shapes, strict=True)
        )


def _slopes(x, rest, concentration) -> tuple[Tensor, Tensor]:
    """Derivatives of `x > 0` with respect to the concentration and to the log-odds of the angle."""
    rule = EXACT[x.dtype]
    left, right = _left(x, concentration, rule), _right(x, rest, concentration, rule)
    fall = torch.exp(-2 * concentration * (x / 2).sin().square())
    total = left.mass + right.mass * fall
    from_concentration = -(left.cosines * right.mass + right.cosines * left.mass) / total
    return from_concentration, right.mass * (1 + left.mass / total) / 2


def _solve(concentration, log_odds) -> tuple[Tensor, Tensor, Tensor]:
    size = log_odds.abs().clamp(min=math.sqrt(torch.finfo(log_odds.dtype).tiny))
    # The log-odds of x = |angle|: F_x = 2F - 1.
    wanted = size + torch.log(-torch.expm1(-size)) - math.log(2)
    x, rest = _first_guess(concentration, wanted)
    for rule in (*[COARSE[x.dtype]] * 3, EXACT[x.dtype]):
        left, right = _left(x, concentration, rule), _right(x, rest, concentration, rule)
        height = 2 * concentration * (x / 2).sin().square()
        error = (left.mass / right.mass).log() + height - wanted
        drift = concentration * torch.sin(torch.minimum(x, rest))
        step = halley(error, torch.exp(-height) / left.mass, 1 / right.mass, drift)
        step = torch.maximum(torch.minimum(step, rest / 2), -x / 2)
        x, rest = x + step, rest - step
    return torch.where(log_odds < 0, -x, x), x, rest


def _first_guess(concentration, log_odds) -> tuple[Tensor, Tensor]:
    """An angle from 0 and the rest of it to π, roughly."""
    u, v = log_odds.sigmoid(), (-log_odds).sigmoid()
    # As if 2 sin(x/2) were Gaussian: the height of the chord, whose square is in the exponent.
    root = concentration.clamp(min=0.1).sqrt()
    beyond = torch.special.erfc(math.sqrt(2) * root)
    tail = -torch.special.ndtri((v + u * beyond) / 2)
    chord = torch.where(u < 0.01, u * (1 - beyond) * math.sqrt(math.pi / 2), tail) / root
    x = 2 * torch.asin((chord / 2).clamp(max=1))
    rest = math.pi - x
    # Close to π: as if the density were that of π.
    close = v * math.pi * torch.special.i0e(concentration) * torch.exp(2 * concentration)
    is_close = close < 0.5
    x, rest = torch.where(is_close, math.pi - close, x), torch.where(is_close, close, rest)
    is_flat = concentration < 1
    x, rest = torch.where(is_flat, math.pi * u, x), torch.where(is_flat, math.pi * v, rest)
    tiny = torch.finfo(x.dtype).tiny
    return x.clamp(min=tiny), rest.clamp(min=tiny)
