"""A Gaussian between two bounds, right however far into a tail the bounds lie."""

import math
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor
from torch.distributions import Distribution, constraints
from torch.distributions.utils import broadcast_all

from reparam._checks import any_true, check_alike, check_float, check_probability, is_infinite
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


class TruncatedNormal(Distribution):
    """The Gaussian `N(loc, scale²)` given that it lies between `low` and `high`.

    A sample solves `F(z) = u` with `F(z) = (Φ(x) - Φ(a)) / (Φ(b) - Φ(a))`, where `x`, `a` and `b`
    are `z`, `low` and `high` in units of `scale` from `loc`. Differentiating that equation gives
    `dz/dhigh = u φ(b) / φ(x)`, `dz/dlow = (1 - u) φ(a) / φ(x)`, and

        dz/dloc   = (1 - u) ∫ₐˣ (x - s) φ(s) / φ(x) ds   + u ∫ₓᵇ (s - x) φ(s) / φ(x) ds
        dz/dscale = (1 - u) ∫ₐˣ (x² - s²) φ(s) / φ(x) ds + u ∫ₓᵇ (s² - x²) φ(s) / φ(x) ds

    The first equals `1 - dz/dlow - dz/dhigh`, whose terms cancel in a tail; the integrals do not,
    and a Gauss-Legendre rule knows them to all digits. The same integrals without their weights
    give `F` on both sides of `x`, from which a few steps of Halley's method find the sample.

    Second derivatives are right as well. The support moves with `low` and `high`: `ScoreFunction`
    refuses them where they want a gradient.

    Args:
        loc, scale: of the Gaussian before truncation, tensors that broadcast, or numbers.
        low, high: the bounds, `low < high`; `-inf` and `inf` leave a side open.
        validate_args: whether to check parameters and values; torch's default if None.

    Raises:
        TypeError: if a parameter is a tensor without floating-point numbers.
        ValueError: if dtypes or devices differ, a parameter is NaN, `loc` or `scale` infinite,
            `scale` not positive, `low` not below `high`, or the bounds out of reach, more than 1e15
            scales away or closer than 1e-15 of them in float32.

    Derived in chapter 5. Source: Figurnov, Mohamed and Mnih (2018),
    https://arxiv.org/abs/1805.08498; Burkardt (2014),
    https://people.sc.fsu.edu/~jburkardt/presentations/truncated_normal.pdf.

    >>> loc = torch.tensor(0.0, requires_grad=True)
    >>> q = TruncatedNormal(loc, 1.0, low=40.0, high=math.inf)
    >>> z = q.rsample((1000,))
    >>> bool((z >= 40).all() and (z < 41).all())
    True
    >>> q.mean
    tensor(40.0250, grad_fn=<AddBackward0>)
    """

    arg_constraints: ClassVar = {
        "loc": constraints.real,
        "scale": constraints.positive,
        "low": constraints.real,
        "high": constraints.real,
    }
    has_rsample = True

    def __init__(
        self,
        loc: Tensor | float,
        scale: Tensor | float,
        low: Tensor | float = -math.inf,
        high: Tensor | float = math.inf,
        validate_args: bool | None = None,
    ) -> None:
        given = dict(loc=loc, scale=scale, low=low, high=high)
        tensors = {name: value for name, value in given.items() if isinstance(value, Tensor)}
        if tensors:
            check_float(**tensors)
            check_alike(**tensors)
        self.loc, self.scale, self.low, self.high = broadcast_all(loc, scale, low, high)
        super().__init__(self.loc.shape, validate_args=validate_args)
        if not self._validate_args:
            return
        for name in ("loc", "scale"):
            if is_infinite(getattr(self, name)):
                raise ValueError(f"{name} must be finite; only low and high may be infinite")
        if any_true(self.low >= self.high):
            raise ValueError(
                f"low must be below high, got "
                f"{self._first(self.low >= self.high, 'low', 'high')}: for a law at one point use "
                "that point"
            )
        loc, scale, low, high = (p.detach() for p in self._wide())
        limit = _LIMIT[loc.dtype]
        distance = (loc.clamp(low, high) - loc).abs() / scale
        out_of_reach = (distance > limit) | ((high - low) / scale < 1 / limit)
        if any_true(out_of_reach):
            raise ValueError(
                f"the bounds must begin within {limit:.0e} scales of loc, and lie {1 / limit:.0e} "
                "of them apart, got "
                f"{self._first(out_of_reach, 'loc', 'scale', 'low', 'high')}: look for an overflow "
                "upstream, or use float64"
            )

    def _first(self, where: Tensor, *names: str) -> str:
        """Parameters at the first place where it is true."""
        return " and ".join(f"{name}={getattr(self, name)[where][0].item()}" for name in names)

    @constraints.dependent_property(is_discrete=False, event_dim=0)
    def support(self):
        return constraints.interval(self.low, self.high)

    def expand(self, batch_shape, _instance=None):
        new = self._get_checked_instance(TruncatedNormal, _instance)
        for name in ("loc", "scale", "low", "high"):
            setattr(new, name, getattr(self, name).expand(batch_shape))
        super(TruncatedNormal, new).__init__(torch.Size(batch_shape), validate_args=False)
        new._validate_args = self._validate_args
        return new

    def rsample(self, sample_shape=()) -> Tensor:
        shape = self._extended_shape(sample_shape)
        dtype = wide_dtype(self.loc.dtype)
        return self._at_log_odds(logistic_noise(shape, dtype=dtype, device=self.loc.device))

    def icdf(self, value: Tensor) -> Tensor:
        if self._validate_args:
            check_probability(value)
        u = value.to(wide_dtype(value.dtype))
        inside = (u > 0) & (u < 1)
        z = self._at_log_odds(log_odds_of(torch.where(inside, u, 0.5)))
        edge = torch.where(u <= 0, self.low, self.high)
        return torch.where(inside, z, edge).masked_fill(u.isnan(), math.nan)

    def cdf(self, value: Tensor) -> Tensor:
        if self._validate_args:
            self._validate_sample(value)
        loc, scale, low, high = self._wide()
        value = value.to(loc.dtype).clamp(low, high)
        far = value.isinf()
        inside = torch.where(far, loc.clamp(low, high), value)
        x, below, above = _standardized(inside, loc, scale, low, high)
        left, right = _side(-x, below), _side(x, above)
        mass_left = left.mass * torch.exp(-right.log_peak)
        mass_right = right.mass * torch.exp(-left.log_peak)
        cdf = mass_left / (mass_left + mass_right)
        return torch.where(far, (value > 0).to(cdf), cdf).to(self.loc.dtype)

    def log_prob(self, value: Tensor) -> Tensor:
        if self._validate_args:
            self._validate_sample(value)
        loc, scale, low, high = self._wide()
        value = value.to(loc.dtype)
        mode, left, right = self._around_mode()
        # x² - x*² as a product: the square of neither is asked for.
        squares = ((value - mode) / scale) * ((value - loc + (mode - loc)) / scale)
        log_prob = -squares / 2 - (left.mass + right.mass).log() - scale.log()
        inside = (value >= low) & (value <= high)
        return torch.where(inside, log_prob, -math.inf).to(self.loc.dtype)

    @property
    def mode(self) -> Tensor:
        return self.loc.clamp(self.low, self.high)

    @property
    def mean(self) -> Tensor:
        mode, left, right = self._around_mode()
        mean = (right.first - left.first) / (left.mass + right.mass)
        return (mode + self.scale * mean).to(self.loc.dtype)

    @property
    def variance(self) -> Tensor:
        _, left, right = self._around_mode()
        mass = left.mass + right.mass
        mean = (right.first - left.first) / mass
        variance = (left.second + right.second) / mass - mean.square()
        scale = self.scale.to(variance.dtype)  # whose square may overflow
        return (scale * variance * scale).to(self.loc.dtype)

    def entropy(self) -> Tensor:
        loc, scale, *_ = self._wide()
        mode, left, right = self._around_mode()
        x = (mode - loc) / scale
        mass = left.mass + right.mass
        squares = 2 * x * (right.first - left.first) + left.second + right.second
        return (squares / (2 * mass) + mass.log() + scale.log()).to(self.loc.dtype)

    def _wide(self) -> list[Tensor]:
        dtype = wide_dtype(self.loc.dtype)
        return [p.to(dtype) for p in (self.loc, self.scale, self.low, self.high)]

    def _around_mode(self):
        """The mode of the density and the integrals at its two sides."""
        loc, scale, low, high = self._wide()
        mode = loc.clamp(low, high)
        x, below, above = _standardized(mode, loc, scale, low, high)
        return mode, _side(-x, below), _side(x, above)

    def _at_log_odds(self, log_odds: Tensor) -> Tensor:
        z = _Quantile.call(*self._wide(), log_odds)[0]
        return z.to(self.loc.dtype).clamp(self.low, self.high)


class _Side(NamedTuple):
    """Integrals over `[x, x + length]` of `v^n φ(x + v) / φ(x)`, each divided by `exp(log_peak)`.

    `log_peak >= 0` is the logarithm of the largest `φ(x + v) / φ(x)` there, `edge` what it is at
    the far end, divided likewise.
    """

    log_peak: Tensor
    edge: Tensor
    mass: Tensor
    first: Tensor
    second: Tensor


def _side(x: Tensor, length: Tensor, rule: Rule | None = None) -> _Side:
    """The integrals to the right of `x`; those to its left are `_side(-x, length)`."""
    nodes, weights, folds = (rule or EXACT[x.dtype]).on(x.device)
    # Where `φ` peaks, as a distance from `x`, and how far from there it is not 0. They decide on
    # nodes, not on values: no derivative.
    peak = torch.minimum((-x).clamp(min=0), length).detach()
    start, rest = x + peak, length - peak
    reach = 2 * folds / (start.abs() + (start.square() + 2 * folds).sqrt()).detach()
    low, high = torch.maximum(-peak, -reach), torch.minimum(rest, reach)
    width = high - low
    step = torch.addcmul(low[..., None], width[..., None], nodes)
    density = torch.addcmul(step * -start[..., None], step, step, value=-0.5).exp_()
    # The powers of v = near + width * node, from those of the nodes: a sum of what is positive.
    near = peak + low
    mass, first, second = (width[..., None] * summed(density, weights)).unbind(-1)
    second = near.square() * mass + width * (2 * near * first + width * second)
    edge = torch.exp(-rest * (start + rest / 2))
    return _Side(-peak * (x + peak / 2), edge, mass, near * mass + width * first, second)


def _standardized(z, loc, scale, low, high) -> tuple[Tensor, Tensor, Tensor]:
    """`z` in units of `scale`: its distances from `loc`, from `low` and to `high`."""
    distances = []
    for bound, sign in ((low, 1), (high, -1)):
        far = sign * (z - bound) / scale > _LIMIT[z.dtype]
        # No infinity in the branch that is not taken, nor in its gradient.
        distances.append(torch.where(far, _FAR, sign * (z - torch.where(far, z, bound)) / scale))
    return (z - loc) / scale, *distances


_FAR = 1e6  # standard deviations; beyond is nothing, in any floating-point type
# Standard deviations whose squares, and those of their inverses, are far from the dtype's end.
_LIMIT = {dtype: torch.finfo(dtype).max ** 0.4 for dtype in (torch.float32, torch.float64)}


class _Quantile(Function):
    """`z` with `log(F(z) / (1 - F(z))) = log_odds`, and the three distances of `_standardized`."""

    @staticmethod
    def forward(loc, scale, low, high, log_odds):
        return in_blocks(_solve, loc, scale, low, high, log_odds)

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.save_for_backward(*inputs[:4], *output)
        ctx.mark_non_differentiable(*output[1:])
        ctx.shapes = [i.shape for i in inputs]

    @staticmethod
    def backward(ctx, slope, *_):
        *parameters, z, x, below, above = ctx.saved_tensors
        scale = parameters[1]
        if torch.is_grad_enabled():  # their values as they are, with the derivatives of z's
            x, below, above = (
                exact + (again - again.detach())
                for exact, again in zip(
                    (x, below, above), _standardized(z, *parameters), strict=True
                )
            )
        slopes = in_blocks(_slopes, x, below, above, scale)
        return tuple(
            (slope * one).sum_to_size(shape) for one, shape in zip(slopes, ctx.shapes, strict=True)
        )


def _slopes(x, below, above, scale) -> tuple[Tensor, ...]:
    """Derivatives of `z` with respect to `loc`, `scale`, `low`, `high` and the log-odds."""
    left, right = _side(-x, below), _side(x, above)
    total = left.mass * torch.exp(-right.log_peak) + right.mass * torch.exp(-left.log_peak)
    left_square = 2 * x * left.first - left.second  # of x² - s²
    right_square = 2 * x * right.first + right.second  # of s² - x²
    return (
        (left.first * right.mass + right.first * left.mass) / total,
        (left_square * right.mass + right_square * left.mass) / total,
        left.edge * right.mass / total,
        right.edge * left.mass / total,
        scale * left.mass * right.mass / total,
    )


def _solve(loc, scale, low, high, log_odds) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    _, a, b = _standardized(loc, loc, scale, low, high)
    a, width = -a, _standardized(high, loc, scale, low, high)[1]
    width = torch.where(high.isfinite(), width, _FAR)
    # The denser end stands on the left, at a positive distance or one below -b.
    sign = torch.where(a + b < 0, -1.0, 1.0).to(loc.dtype)
    near, far = torch.where(sign > 0, a, -b), torch.where(sign > 0, b, -a)
    log_odds = sign * log_odds
    x, below, above = _first_guess(near, far, width, log_odds)
    for rule in (*[COARSE[x.dtype]] * 3, EXACT[x.dtype]):
        x, below, above = _improved(x, below, above, log_odds, rule)
    x, below, above = (
        sign * x,
        *(torch.where(sign > 0, *pair) for pair in ((below, above), (above, below))),
    )
    # Of three ways back to z the one that rounds least.
    z = torch.where(below < above, low + scale * below, high - scale * above)
    z = torch.where(x.abs() <= torch.minimum(below, above), loc + scale * x, z)
    return z.clamp(low, high), x, below, above


def _improved(x, below, above, log_odds, rule) -> tuple[Tensor, Tensor, Tensor]:
    """One step of Halley's method for the log-odds of `x`, each distance to its own precision."""
    left, right = _side(-x, below, rule), _side(x, above, rule)
    error = (left.mass / right.mass).log() + left.log_peak - right.log_peak - log_odds
    inverse = (torch.exp(-side.log_peak) / side.mass for side in (left, right))
    step = halley(error, *inverse, x)
    step = torch.maximum(torch.minimum(step, above / 2), -below / 2)
    return x + step, below + step, above - step


def _first_guess(near, far, width, log_odds) -> tuple[Tensor, Tensor, Tensor]:
    """`x` and its distances from `near`, the denser end, and from `far`, roughly."""
    u, v = log_odds.sigmoid(), (-log_odds).sigmoid()
    tiny = torch.finfo(near.dtype).tiny
    # With the peak inside: by the quantile function, from the side that is closer.
    ndtr, ndtri = torch.special.ndtr, torch.special.ndtri
    lower = ndtri((ndtr(near) * v + ndtr(far) * u).clamp(min=tiny))
    upper = -ndtri((ndtr(-near) * v + ndtr(-far) * u).clamp(min=tiny))
    middle = torch.where(lower < 0, lower, upper)
    # In a tail: -log(1 - Φ) as a parabola, whose slope at `near` is the hazard.
    hazard = math.sqrt(2 / math.pi) / torch.special.erfcx(near.clamp(min=0) / math.sqrt(2))
    bend = 0.8
    end = width * (hazard + bend * width / 2)
    depth = torch.where(u < 0.5, -torch.log1p(u * torch.expm1(-end)), -(v + u * (-end).exp()).log())
    tail = 2 * depth / (hazard + (hazard.square() + 2 * bend * depth).sqrt())
    # Between narrow bounds: as if uniform.
    is_flat = torch.where(near < 0, width, end) < 1
    below = torch.where(is_flat, width * u, torch.where(near < 0, middle - near, tail))
    above = torch.where(is_flat, width * v, torch.where(near < 0, far - middle, width - tail))
    x = torch.where((near < 0) & ~is_flat, middle, near + below)
    # Close to a bound: as if the density were the bound's.
    root = math.sqrt(2 * math.pi)
    mass = (ndtr(far) - ndtr(near)) * root
    close = u * mass * (near.square() / 2).exp()
    is_close = (near < 0) & ~is_flat & (close * (1 - near) < 0.1)
    x, below = torch.where(is_close, near + close, x), torch.where(is_close, close, below)
    above = torch.where(is_close, width - close, above)
    decay = -torch.expm1(-end) / hazard * (width * (near + width / 2)).exp()
    close = v * torch.where(near < 0, mass * (far.square() / 2).exp(), decay)
    is_close = ~is_flat & (close * (1 + far.abs()) < 0.1)
    x, above = torch.where(is_close, far - close, x), torch.where(is_close, close, above)
    below = torch.where(is_close, width - close, below)
    return x, below.clamp(min=tiny), above.clamp(min=tiny)
