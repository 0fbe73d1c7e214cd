"""The path of a sample whose distribution function is known, and its inverse is not."""

from collections.abc import Callable

import torch
from torch import Tensor

from reparam._checks import any_true, check_finite
from reparam._functions import graph_of, is_plain

__all__ = ["implicit_reparameterization"]


def implicit_reparameterization(
    z: Tensor, cdf: Callable[[Tensor], Tensor], log_prob: Callable[[Tensor], Tensor] | None = None
) -> Tensor:
    """The sample `z`, unchanged, with a path to the parameters of its distribution function.

    While `z` moves with the parameters φ, its quantile stays where it is: `F_φ(z) = u` with `u`
    fixed. Differentiated, that is `dz/dφ = -(dF_φ(z)/dφ) / p_φ(z)`, in which no inverse of `F`
    occurs. First and second derivatives are right, a third is not.

    For variables that depend on one another, take one after the other: `cdf` may be conditional on
    earlier results of this function, whose path then goes on through it (Rosenblatt's transform).

    Args:
        z: samples, any shape. Where they come from does not matter; a graph of their own is cut.
        cdf: maps a tensor like `z` to its distribution function, entry by entry, and closes over
            the parameters. torch must be able to differentiate it, in `z` and in the parameters.
        log_prob: maps alike to the logarithm of its density, where that is known better than by
            autograd of `cdf`, as in a far tail.

    Returns:
        A tensor equal to `z`.

    Raises:
        TypeError: if `z` is not a floating-point tensor, or `cdf` or `log_prob` no function.
        ValueError: if `z` holds NaN or infinity, or if `cdf` gives another shape, dtype or device,
            a value outside [0, 1], no graph, a derivative that torch lacks (that of the incomplete
            gamma function in its first argument), if it mixes entries, if it does not increase at
            a sample (in a far tail its density may round to 0), or contradicts `log_prob`.

    Derived in chapter 5. Source: Graves (2016), https://arxiv.org/abs/1607.05690; Figurnov,
    Mohamed and Mnih (2018), https://arxiv.org/abs/1805.08498; Jankowiak and Obermeyer (2018),
    https://arxiv.org/abs/1806.01851.

    >>> scale = torch.tensor(2.0, requires_grad=True)
    >>> half_normal = lambda z: torch.erf(z / (scale * 2**0.5))
    >>> z = implicit_reparameterization(torch.tensor([1.0, 6.0]), half_normal)
    >>> z.sum().backward()
    >>> scale.grad  # the sum of z / scale
    tensor(3.5000)
    """
    for name, function in (("cdf", cdf), ("log_prob", log_prob or cdf)):
        if not callable(function):
            raise TypeError(f"{name} must be a function of z, got {type(function).__name__}")
    check_finite(z=z)
    z = z.detach()
    quantile = _checked_quantile(cdf(z), z)
    if lacks_derivative(quantile):
        raise ValueError(
            "cdf needs a derivative that torch does not have, that of the incomplete gamma "
            "function in its first argument: use rsample of torch's Gamma, Beta, Dirichlet or "
            "StudentT, which find it by other means"
        )
    density = _checked_density(z, quantile.detach(), pull_back_of(cdf, z), log_prob)
    return implicit_path(z, quantile, cdf, lambda rise: rise / density)


def implicit_path(
    z: Tensor,
    quantile: Tensor,
    cdf: Callable[[Tensor], Tensor],
    steps_for: Callable[[Tensor], Tensor],
) -> Tensor:
    """`implicit_reparameterization` without its checks.

    `quantile` is `cdf(z)`, and `steps_for(rise)` the step in `z` that makes it rise by as much.

    Each step of Newton's method, from a sample that is there already, leaves its value alone and
    makes one more derivative right.
    """
    if not (quantile.requires_grad or torch.autograd.forward_ad._current_level >= 0):
        return z
    fixed = quantile.detach()
    path = z - steps_for(quantile - fixed)
    path = path - steps_for(cdf(path) - fixed)
    return z + (path - path.detach())  # whatever rounding did, the value is the sample's


def pull_back_of(function: Callable[[Tensor], Tensor], z: Tensor) -> Callable[[Tensor], Tensor]:
    """What maps slopes in `function(z)` to slopes in `z`, as `torch.func.vjp`, which is slow."""
    if not is_plain():
        pull_back = torch.func.vjp(function, z)[1]
        return lambda slope: pull_back(slope)[0]
    with torch.enable_grad():
        point = z.detach().requires_grad_()
        value = function(point)
    if not value.requires_grad:  # then it does not depend on z, and on nothing else
        return torch.zeros_like
    return lambda slope: torch.autograd.grad(
        value, point, slope, retain_graph=True, materialize_grads=True
    )[0]


def lacks_derivative(value: Tensor) -> bool:
    """Whether a derivative that torch does not have is on the way to what wants a gradient.

    That is the derivative of the incomplete gamma function in its first argument.
    """
    if torch.compiler.is_compiling():
        return False  # the tracer has no graph to walk
    return any(
        "Igamma" in type(node).__name__ and node.next_functions[0][0] is not None
        for node in graph_of(value)
    )


def _checked_quantile(quantile: Tensor, z: Tensor) -> Tensor:
    _like(z, "cdf", quantile)
    rounding = 100 * torch.finfo(z.dtype).eps
    outside = ~((quantile >= -rounding) & (quantile <= 1 + rounding))
    if any_true(outside):
        raise ValueError(
            "cdf must return probabilities, got "
            f"{quantile[outside][0].item():g} at z = {z[outside][0].item():g}"
        )
    return quantile


@torch.no_grad()
def _checked_density(
    z: Tensor,
    quantile: Tensor,
    pull_back: Callable[[Tensor], Tensor],
    log_prob: Callable[[Tensor], Tensor] | None,
) -> Tensor:
    """The derivative of `cdf` in each entry of `z`, or `exp(log_prob)`, which must be the same."""
    # A sign for each entry comes back as it is where no entry has a part in another's value.
    signs = torch.arange(z.numel(), device=z.device).cos().sign().to(z.dtype).reshape(z.shape)
    slope = signs * pull_back(signs)
    if log_prob is None:
        density = pull_back(torch.ones_like(z))
        wrong = (slope - density).abs() > 1e-3 * density.abs()
    else:
        density = _like(z, "log_prob", log_prob(z)).exp()
        tolerance = max(1e-2, 10 * torch.finfo(z.dtype).eps ** 0.5)
        in_bulk = (quantile - 0.5).abs() < 0.499  # in a tail, the slope may suffer from rounding
        wrong = in_bulk & ~((slope - density).abs() <= tolerance * density)
    if any_true(wrong):
        raise ValueError(
            "cdf must take each entry of z by itself, and it mixes them"
            if log_prob is None
            else "log_prob must be the logarithm of the derivative of cdf, entry by entry: at z = "
            f"{z[wrong][0].item():g} they are {density[wrong][0].log().item():g} and "
            f"log({slope[wrong][0].item():g})"
        )
    flat = ~((slope > 0) & (density > 0) & density.isfinite())
    if any_true(flat):
        raise ValueError(
            f"cdf must increase, and its slope is {slope[flat][0].item():g} at {int(flat.sum())} "
            f"of {z.numel()} samples, the first of them z = {z[flat][0].item():g}. If that is a "
            "far tail, rounding has made it flat: use float64, or write cdf so that its slope "
            "stays. If all are concerned, cdf depends on z through no graph: look for .detach(), "
            ".item(), NumPy or torch.no_grad()"
        )
    return density


def _like(z: Tensor, name: str, value: Tensor) -> Tensor:
    """What function `name` gave for `z`, of its shape, dtype and device."""
    if not isinstance(value, Tensor):
        raise ValueError(f"{name} must return a tensor like z, got {type(value).__name__}")
    for trait in ("shape", "dtype", "device"):
        got, wanted = getattr(value, trait), getattr(z, trait)
        if got != wanted:
            raise ValueError(
                f"{name} must return a tensor like z, of {trait} {wanted}, got {got}: each entry "
                "of z is a variable of its own, to which the parameters broadcast"
            )
    return value
