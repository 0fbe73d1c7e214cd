"""Samples by the inverse of a distribution function: `z = F⁻¹(U)`, a formula of the parameters.

Every continuous law on the line has one, and where it is a formula it is a path: with `U` held
fixed, `z` moves with the parameters. Written in `U` it loses a tail, as floating-point numbers
below 1 are no finer than a rounding step. So each law here starts from the noise in which its
formula has no cancellation: with `E = -log(1 - U)`, which is exponential noise, that of the
exponential law is `E / rate`, and both its tails are whole.

Parameters broadcast, and every entry of the result has noise of its own. The 16-bit types are
computed in float32, and the finished sample is rounded. Where that, or any rounding, would put
a sample of a bounded law on its bound, it stays at the nearest number inside; `E ** 100` and the
like end where the dtype does, at 0 or infinity.

Derived in chapter 5.
"""

import math

import torch
from torch import Tensor

from reparam._checks import any_true, check_alike, check_finite, check_generator, is_infinite
from reparam._functions import joint_shape, wide_dtype
from reparam.noise import (
    exponential_noise,
    gumbel_noise,
    logistic_noise,
    open_uniform_noise,
)

__all__ = [
    "reparameterize_cauchy",
    "reparameterize_exponential",
    "reparameterize_gumbel",
    "reparameterize_kumaraswamy",
    "reparameterize_laplace",
    "reparameterize_log_normal",
    "reparameterize_logistic",
    "reparameterize_pareto",
    "reparameterize_uniform",
    "reparameterize_weibull",
]


def reparameterize_uniform(
    low: Tensor, high: Tensor, generator: torch.Generator | None = None
) -> Tensor:
    """Draw `z` uniformly between `low` and `high`, so that gradients reach both.

    `z = low + (high - low) U`, with `dz/dlow = 1 - U` and `dz/dhigh = U`.

    Args:
        low, high: the bounds, tensors of shapes that broadcast, one dtype and device.
        generator: source of randomness, on the same device; torch's global one if None.

    Returns:
        Samples strictly between the bounds, of the shape that both have together.

    Raises:
        TypeError: if a bound is not a floating-point tensor.
        ValueError: if shapes do not broadcast, dtypes or devices differ, a value is NaN or
            infinite, or `low` is not below `high`, with a number of the dtype between them, or
            their distance is infinite in it.

    Derived in chapter 5. Source: Kingma and Welling (2014), section 2.4,
    https://arxiv.org/abs/1312.6114.

    >>> z = reparameterize_uniform(torch.zeros(1000), torch.tensor(2.0))
    >>> bool(((z > 0) & (z < 2)).all())
    True
    """
    wide_low, wide_high = _prepared(generator, low=low, high=high)
    first = torch.nextafter(low.detach(), high.detach())  # the smallest number above low
    if any_true(~(first < high)):
        raise ValueError(
            "low must be below high, with numbers between them, got low up to "
            f"{low.max().item():g} and high down to {high.min().item():g}"
        )
    if is_infinite(wide_high - wide_low):
        raise ValueError(f"the distance of low and high overflows {wide_low.dtype}")
    u = _drawn(open_uniform_noise, wide_low, generator)
    z = torch.lerp(wide_low, wide_high, u).to(low.dtype)
    return _kept_inside(z, first, torch.nextafter(high.detach(), low.detach()))


def reparameterize_exponential(rate: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """Draw exponential `z`, of density `rate * exp(-rate * z)`, so that gradients reach `rate`.

    `z = F⁻¹(U) = -log(1 - U) / rate = E / rate`, with `dz/drate = -z / rate`.

    Args:
        rate: positive, any shape.
        generator: source of randomness, on the same device; torch's global one if None.

    Returns:
        Samples of the shape and dtype of `rate`.

    Raises:
        TypeError: if `rate` is not a floating-point tensor.
        ValueError: if a value is NaN, infinite or not positive.

    Derived in chapter 5. Source: Devroye (1986), chapter 2,
    https://luc.devroye.org/rnbookindex.html; Kingma and Welling (2014), section 2.4,
    https://arxiv.org/abs/1312.6114.

    >>> rate = torch.tensor([2.0, 2.0], requires_grad=True)
    >>> z = reparameterize_exponential(rate)
    >>> z.sum().backward()
    >>> torch.allclose(rate.grad, -z / 2)
    True
    """
    (wide_rate,) = _prepared(generator, rate=rate)
    return (_drawn(exponential_noise, wide_rate, generator) / wide_rate).to(rate.dtype)


def reparameterize_logistic(
    loc: Tensor, scale: Tensor, generator: torch.Generator | None = None
) -> Tensor:
    """Draw logistic `z`, of distribution function `sigmoid((z - loc) / scale)`.

    `z = F⁻¹(U) = loc + scale * log(U / (1 - U))`, with `dz/dloc = 1` and
    `dz/dscale = (z - loc) / scale`.

    Args:
        loc: any finite numbers.
        scale: positive; shapes broadcast, dtype and device are those of `loc`.
        generator: source of randomness, on the same device; torch's global one if None.

    Returns:
        Samples of the shape that both have together.

    Raises:
        TypeError: if an argument is not a floating-point tensor.
        ValueError: if shapes do not broadcast, dtypes or devices differ, a value is NaN or
            infinite, or `scale` is not positive.

    Derived in chapter 5. Source: Devroye (1986), chapter 2,
    https://luc.devroye.org/rnbookindex.html; Kingma and Welling (2014), section 2.4,
    https://arxiv.org/abs/1312.6114.

    >>> reparameterize_logistic(torch.zeros(3, 1), torch.ones(2)).shape
    torch.Size([3, 2])
    """
    return _located(logistic_noise, loc, scale, generator)


def reparameterize_gumbel(
    loc: Tensor, scale: Tensor, generator: torch.Generator | None = None
) -> Tensor:
    """Draw Gumbel `z`, of distribution function `exp(-exp(-(z - loc) / scale))`.

    `z = F⁻¹(U) = loc - scale * log(-log U)`, with `dz/dloc = 1` and
    `dz/dscale = (z - loc) / scale`. Args, returns, raises: as for `reparameterize_logistic`.

    Derived in chapter 5. Source: Devroye (1986), chapter 2,
    https://luc.devroye.org/rnbookindex.html; Kingma and Welling (2014), section 2.4,
    https://arxiv.org/abs/1312.6114.

    >>> reparameterize_gumbel(torch.zeros(3), torch.ones(3)).shape
    torch.Size([3])
    """
    return _located(gumbel_noise, loc, scale, generator)


def reparameterize_laplace(
    loc: Tensor, scale: Tensor, generator: torch.Generator | None = None
) -> Tensor:
    """Draw Laplace `z`, of density `exp(-|z - loc| / scale) / (2 * scale)`.

    `F⁻¹(U)` is `loc + scale * log(2 U)` in the lower half and `loc - scale * log(2 - 2 U)` in the
    upper one: exponential noise with a sign. `dz/dloc = 1` and `dz/dscale = (z - loc) / scale`.
    Args, returns, raises: as for `reparameterize_logistic`.

    Derived in chapter 5. Source: Kingma and Welling (2014), section 2.4,
    https://arxiv.org/abs/1312.6114.

    >>> reparameterize_laplace(torch.zeros(3), torch.ones(3)).shape
    torch.Size([3])
    """
    return _located(_laplace_noise, loc, scale, generator)


def reparameterize_cauchy(
    loc: Tensor, scale: Tensor, generator: torch.Generator | None = None
) -> Tensor:
    """Draw Cauchy `z`, of density `1 / (pi * scale * (1 + ((z - loc) / scale)²))`.

    `z = F⁻¹(U) = loc + scale * tan(pi (U - 1/2))`, with `dz/dloc = 1` and
    `dz/dscale = (z - loc) / scale`; computed as `±1 / tan(pi V / 2)` from uniform noise `V` and a
    sign, so that both tails are as long as the dtype allows. Args, returns, raises: as for
    `reparameterize_logistic`.

    Derived in chapter 5. Source: Devroye (1986), chapter 2,
    https://luc.devroye.org/rnbookindex.html; Kingma and Welling (2014), section 2.4,
    https://arxiv.org/abs/1312.6114.

    >>> reparameterize_cauchy(torch.zeros(3), torch.ones(3)).shape
    torch.Size([3])
    """
    return _located(_cauchy_noise, loc, scale, generator)


def reparameterize_weibull(
    scale: Tensor, concentration: Tensor, generator: torch.Generator | None = None
) -> Tensor:
    """Draw Weibull `z`, of distribution function `1 - exp(-(z / scale) ** concentration)`.

    `z = F⁻¹(U) = scale * (-log(1 - U)) ** (1 / k) = scale * E ** (1 / k)`, with `k` the
    concentration, `dz/dscale = z / scale` and `dz/dk = -(z / k) log(z / scale)`.

    Args:
        scale, concentration: positive; shapes broadcast, one dtype and device.
        generator: source of randomness, on the same device; torch's global one if None.

    Returns:
        Samples of the shape that both have together.

    Raises:
        TypeError: if an argument is not a floating-point tensor.
        ValueError: if shapes do not broadcast, dtypes or devices differ, a value is NaN, infinite
            or not positive, or an exponent too small for a gradient (1e-17 in float32).

    Derived in chapter 5. Source: Devroye (1986), chapter 2,
    https://luc.devroye.org/rnbookindex.html; Kingma and Welling (2014), section 2.4,
    https://arxiv.org/abs/1312.6114.

    >>> bool((reparameterize_weibull(torch.ones(9), torch.tensor(2.0)) > 0).all())
    True
    """
    wide_scale, k = _prepared(generator, scale=scale, concentration=concentration)
    e = _drawn(exponential_noise, k, generator)
    return (wide_scale * e ** (1 / k)).to(scale.dtype)


def reparameterize_kumaraswamy(
    concentration1: Tensor, concentration0: Tensor, generator: torch.Generator | None = None
) -> Tensor:
    """Draw `z` in (0, 1), of distribution function `1 - (1 - z**a) ** b`: nearly a Beta(a, b).

    `a` is `concentration1`, `b` is `concentration0`. With `1 - U = exp(-E)`,
    `z = F⁻¹(U) = (1 - (1 - U) ** (1 / b)) ** (1 / a) = (1 - exp(-E / b)) ** (1 / a)`, so that
    `dz/da = -z log(z) / a` and `dz/db = -(z**(1 - a) - z) E / (a b²)`. The difference would cancel
    on either side: its logarithm is taken without (`log(-expm1(-t))` and `log1p(-exp(-t))`).

    Args, returns, raises: as for `reparameterize_weibull`.

    Derived in chapter 5. Source: Kumaraswamy (1980), https://doi.org/10.1016/0022-1694(80)90036-0.

    >>> z = reparameterize_kumaraswamy(torch.full((9,), 0.5), torch.tensor(0.5))
    >>> bool(((z > 0) & (z < 1)).all())
    True
    """
    given = dict(concentration1=concentration1, concentration0=concentration0)
    a, b = _prepared(generator, **given)
    e = _drawn(exponential_noise, a, generator)
    z = torch.exp(_log_one_minus_exp(e / b) / a).to(concentration1.dtype)
    limits = torch.finfo(z.dtype)
    return _kept_inside(z, limits.tiny * limits.eps, 1 - limits.eps / 2)


def reparameterize_log_normal(
    loc: Tensor, scale: Tensor, generator: torch.Generator | None = None
) -> Tensor:
    """Draw `z = exp(loc + scale * eps)`, `eps ~ N(0, 1)`: its logarithm is Gaussian.

    `F⁻¹(U) = exp(loc + scale * Φ⁻¹(U))`, `dz/dloc = z` and `dz/dscale = z * eps`. Args, returns,
    raises: as for `reparameterize_logistic`.

    Derived in chapter 5. Source: Kingma and Welling (2014), section 2.4,
    https://arxiv.org/abs/1312.6114.

    >>> bool((reparameterize_log_normal(torch.zeros(9), torch.ones(9)) > 0).all())
    True
    """
    wide_loc, wide_scale = _prepared(generator, loc=loc, scale=scale)
    eps = _drawn(_normal_noise, wide_loc, generator)
    return torch.exp(wide_loc + wide_scale * eps).to(loc.dtype)


def reparameterize_pareto(
    scale: Tensor, alpha: Tensor, generator: torch.Generator | None = None
) -> Tensor:
    """Draw Pareto `z >= scale`, of distribution function `1 - (scale / z) ** alpha`.

    `z = F⁻¹(U) = scale * (1 - U) ** (-1 / alpha) = scale * exp(E / alpha)`, with
    `dz/dscale = z / scale` and `dz/dalpha = -(z / alpha) log(z / scale)`. Args, returns, raises:
    as for `reparameterize_weibull`.

    Derived in chapter 5. Source: Devroye (1986), chapter 2,
    https://luc.devroye.org/rnbookindex.html; Kingma and Welling (2014), section 2.4,
    https://arxiv.org/abs/1312.6114.

    >>> bool((reparameterize_pareto(torch.full((9,), 3.0), torch.tensor(2.0)) >= 3).all())
    True
    """
    wide_scale, wide_alpha = _prepared(generator, scale=scale, alpha=alpha)
    e = _drawn(exponential_noise, wide_alpha, generator)
    return (wide_scale * torch.exp(e / wide_alpha)).to(scale.dtype)


# --- details -------------------------------------------------------------------------------------

_ANY_SIGN = ("loc", "low", "high")  # the parameters that need not be positive
_EXPONENTS = ("concentration", "concentration1", "concentration0", "alpha")


def _prepared(generator: torch.Generator | None, **parameters: Tensor) -> list[Tensor]:
    """The parameters, checked, in the shape that they have together, in float32 at least."""
    check_finite(**parameters)
    check_alike(**parameters)
    first = next(iter(parameters.values()))
    check_generator(generator, first.device)
    wide = wide_dtype(first.dtype)
    for name, parameter in parameters.items():
        if name not in _ANY_SIGN and any_true(parameter <= 0):
            raise ValueError(
                f"{name} must be positive, got {parameter.min().item():g}: pass it through an "
                "exponential or a softplus"
            )
        least = 100 * math.sqrt(torch.finfo(wide).tiny)
        if name in _EXPONENTS and any_true(parameter < least):
            raise ValueError(
                f"{name} must be at least {least:.0e}, got {parameter.min().item():g}: the square "
                "of its inverse, which gradients hold, would overflow"
            )
    shapes = [parameter.shape for parameter in parameters.values()]
    shape = joint_shape(*shapes)
    if shape is None:
        raise ValueError(
            f"{' and '.join(parameters)} must have shapes that broadcast, got "
            + " and ".join(str(tuple(shape)) for shape in shapes)
        )
    return [parameter.to(wide).expand(shape) for parameter in parameters.values()]


def _drawn(noise, like: Tensor, generator: torch.Generator | None) -> Tensor:
    return noise(like.shape, dtype=like.dtype, device=like.device, generator=generator)


def _located(noise, loc: Tensor, scale: Tensor, generator: torch.Generator | None) -> Tensor:
    """`loc + scale * noise`."""
    wide_loc, wide_scale = _prepared(generator, loc=loc, scale=scale)
    z = torch.addcmul(wide_loc, wide_scale, _drawn(noise, wide_loc, generator))
    return z.to(loc.dtype)


def _laplace_noise(size, *, dtype, device, generator) -> Tensor:
    options = dict(dtype=dtype, device=device, generator=generator)
    return exponential_noise(size, **options).copysign_(_sign_noise(size, **options))


def _cauchy_noise(size, *, dtype, device, generator) -> Tensor:
    options = dict(dtype=dtype, device=device, generator=generator)
    angle = open_uniform_noise(size, **options).mul_(math.pi / 2)
    return angle.tan_().reciprocal_().copysign_(_sign_noise(size, **options))


def _normal_noise(size, *, dtype, device, generator) -> Tensor:
    return torch.randn(size, dtype=dtype, device=device, generator=generator)


def _sign_noise(size, *, dtype, device, generator) -> Tensor:
    """Below 0 with probability 1/2, else not."""
    return torch.rand(size, dtype=dtype, device=device, generator=generator).mul_(2).sub_(1)


def _log_one_minus_exp(t: Tensor) -> Tensor:
    """`log(1 - exp(-t))` for `t > 0`, without cancellation, nor in its gradient."""
    middle = math.log(2)
    small = torch.log(-torch.expm1(-t))
    large = torch.log1p(-torch.exp(-t.clamp(min=middle)))
    return torch.where(t < middle, small, large)


def _kept_inside(z: Tensor, first: Tensor | float, last: Tensor | float) -> Tensor:
    """`z` between `first` and `last`, with its slope also where rounding led out."""
    value = z.detach()
    return z + (value.clamp(first, last) - value)
