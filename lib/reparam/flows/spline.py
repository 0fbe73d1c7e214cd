"""Monotone rational-quadratic splines: as a function, and as a coupling flow."""

import math
from collections.abc import Iterable

import torch
from torch import Tensor
from torch.nn import functional as F

from reparam._checks import (
    any_true,
    check_alike,
    check_count,
    check_flag,
    check_float,
    check_number,
    is_infinite,
)
from reparam._functions import wide_dtype
from reparam.flows._networks import bounded
from reparam.flows.coupling import CouplingFlow

__all__ = ["SplineFlow", "rational_quadratic_spline"]

LEAST_SHARE = 0.01  # of an even bin's width and height
LOG_SLOPE_BOUND = math.log(1000)


def rational_quadratic_spline(
    z: Tensor, widths: Tensor, heights: Tensor, slopes: Tensor, inverse: bool = False
) -> tuple[Tensor, Tensor]:
    """A monotone map of each number through K bins, and the logarithm of its slope there.

    The bins fill the box `[-B, B]²`, and outside the map is the identity. With `θ ∈ [0, 1]` the
    place in a bin of width w and height h that begins at `(x_k, y_k)`, slopes `δ_k` and `δ_{k+1}`
    at its ends and `s = h / w`, it is the quotient of two quadratics

    `y = y_k + h (s θ² + δ_k θ (1 - θ)) / (s + (δ_k + δ_{k+1} - 2 s) θ (1 - θ))`.

    Everything is computed as sums of positive terms: also the discriminant of the quadratic that
    the inverse solves, so that rounding cannot make it negative.

    Args:
        z: any shape.
        widths, heights: of the bins, `[..., K]`, positive, both of the same sum 2 B.
        slopes: at the K - 1 knots inside the box, `[..., K - 1]`, positive; at its ends it is 1.
        inverse: from y to z instead.

    Returns:
        Values and logarithms of the slope of the map just applied, both of the shape of `z`.

    Raises:
        TypeError: if an argument is no floating-point tensor, or `inverse` no bool.
        ValueError: if shapes do not fit or broadcast, a bin or a slope is not positive, a slope
            is beyond 1e11 or 1e-11 in float32, or widths and heights have different sums.

    Described in chapter 6. Source: Durkan et al. (2019), https://arxiv.org/abs/1906.04032; Gregory
    and Delbourgo (1982).

    >>> widths, heights = torch.tensor([1.0, 2.0, 1.0]), torch.tensor([2.0, 1.0, 1.0])
    >>> z = torch.tensor([-5.0, -1.0, 0.0, 1.0])
    >>> y, log_slopes = rational_quadratic_spline(z, widths, heights, torch.tensor([1.0, 0.5]))
    >>> y
    tensor([-5.0000,  0.0000,  0.6000,  1.0000])
    >>> rational_quadratic_spline(y, widths, heights, torch.tensor([1.0, 0.5]), inverse=True)[0]
    tensor([-5., -1.,  0.,  1.])
    """
    _check_spline(z, widths, heights, slopes, inverse)
    wide = wide_dtype(z.dtype)
    bins = torch.stack([widths, heights], -2).to(wide)
    knots = F.pad(bins.cumsum(-1), (1, 0)) - bins.sum(-1, keepdim=True) / 2
    slopes = F.pad(slopes.to(wide), (1, 1), value=1.0)
    values, log_slopes = _spline(
        z.to(wide).unsqueeze(-1), knots.unsqueeze(-1), slopes.unsqueeze(-1), inverse
    )
    return values.squeeze(-1).to(z.dtype), log_slopes.squeeze(-1).to(z.dtype)


def _spline(z, knots, slopes, inverse) -> tuple[Tensor, Tensor]:
    """The same for z `[..., D]`, with knots `[..., 2, K + 1, D]` and slopes `[..., K + 1, D]`.

    The bins do not come last, because torch's operations along a last dimension of a few entries
    are slow: a softmax takes 20 times as long.
    """
    source = knots[..., 1 if inverse else 0, :, :]
    # What is outside goes through the box's edge, where the slope is 1: no branch to be masked.
    # The edge is where rounding put it: in a steep bin one step beside it the slope is not 1.
    inside = z.clamp(source[..., 0, :], source[..., -1, :])
    inner = source[..., 1:-1, :]
    left = (inside.unsqueeze(-2) >= inner).sum(-2, keepdim=True)
    ends = torch.cat([left, left + 1], -2)
    *lead, dim = z.shape
    slope0, slope1 = slopes.expand(*lead, -1, dim).gather(-2, ends).unbind(-2)
    ends = ends.unsqueeze(-3).expand(*lead, 2, 2, dim)
    corners = knots.expand(*lead, 2, -1, dim).gather(-2, ends)
    (x0, x1), (y0, y1) = (axis.unbind(-2) for axis in corners.unbind(-3))
    width, height = x1 - x0, y1 - y0
    s = height / width
    if inverse:
        theta, rest = _solve((inside - y0) / height, (y1 - inside) / height, s, slope0, slope1)
        values = x0 + width * theta
    else:
        theta, rest = (inside - x0) / width, (x1 - inside) / width
    both = theta * rest
    below = s * (theta * theta + rest * rest) + (slope0 + slope1) * both
    if not inverse:
        values = y0 + height * theta * (s * theta + slope0 * rest) / below
    above = slope1 * theta * theta + 2 * s * both + slope0 * rest * rest
    log_slopes = torch.log((s / below).square() * above)
    return values + (z - inside), -log_slopes if inverse else log_slopes


def _solve(part, rest, s, slope0, slope1) -> tuple[Tensor, Tensor]:
    """`θ` and `1 - θ` at which the spline has risen through `part` of its bin; `rest` is left.

    `θ / (1 - θ) = 2 s part / (p + r)` with `p = slope0 rest - slope1 part` and
    `r² = p² + 4 s² part rest`. Where p is negative the same is `(r - p) / (2 s rest)`.
    """
    p = slope0 * rest - slope1 * part
    q = (p * p + 4 * s * s * part * rest).sqrt() + p.abs()
    up = torch.where(p < 0, q, 2 * s * part)
    down = torch.where(p < 0, 2 * s * rest, q)
    return up / (up + down), down / (up + down)


def _check_spline(z, widths, heights, slopes, inverse) -> None:
    given = dict(z=z, widths=widths, heights=heights, slopes=slopes)
    check_float(**given)
    check_alike(**given)
    check_flag("inverse", inverse)
    bins = widths.shape[-1] if widths.ndim else 0
    if bins < 2 or heights.shape != widths.shape or slopes.shape != (*widths.shape[:-1], bins - 1):
        raise ValueError(
            "K bins, 2 or more, want widths and heights of shape [..., K] and slopes of shape "
            f"[..., K - 1], got {tuple(widths.shape)}, {tuple(heights.shape)} and "
            f"{tuple(slopes.shape)}"
        )
    try:
        joint = torch.broadcast_shapes(z.shape, widths.shape[:-1])
    except RuntimeError:
        joint = None
    if joint != z.shape:
        raise ValueError(
            f"splines of shape {tuple(widths.shape[:-1])} do not broadcast to those of z, shape "
            f"{tuple(z.shape)}"
        )
    eps = torch.finfo(z.dtype).eps
    for name, tensor in given.items():
        if is_infinite(tensor):
            raise ValueError(f"{name} holds infinite values")
        least = 0 if name == "slopes" else eps * widths.sum(-1, keepdim=True)
        if name != "z" and any_true(tensor <= least):
            raise ValueError(
                f"{name} must be positive, and bins no narrower than rounding, got "
                f"{tensor.min().item():g}: a softmax makes widths and heights, a softplus or an "
                "exponential makes slopes"
            )
    most = torch.finfo(wide_dtype(z.dtype)).max ** 0.3  # what is squared must not overflow
    if any_true((slopes > most) | (slopes < 1 / most)):
        raise ValueError(
            f"slopes must lie between {1 / most:.0e} and {most:.0e}, got {slopes.min().item():g} "
            f"to {slopes.max().item():g}: bound their logarithms"
        )
    sums = widths.sum(-1), heights.sum(-1)
    differ = (sums[0] - sums[1]).abs() > 10 * bins * eps * sums[0]
    if any_true(differ):
        raise ValueError(
            "widths and heights must have the same sum, since they fill one box, got "
            f"{sums[0][differ][0].item():.8g} and {sums[1][differ][0].item():.8g}"
        )


class SplineFlow(CouplingFlow):
    """A coupling flow whose changed half goes through rational-quadratic splines, one for each.

    `forward` and `inverse` are one pass each; `rational_quadratic_spline` is the map of an entry.
    A network of the kept half gives the spline's 3 K - 1 numbers; those that are 0 make it the
    identity, and a fresh flow's are, because the last layer of its network starts at 0. Outside of
    `[-bound, bound]` every spline is the identity.

    Args:
        dim: D, the length of z; the first `D // 2` variables are kept. If D is 1, the variable goes
            through a spline of its own, which depends on the context alone.
        bins: K, at least 2.
        bound: half the side of the box.
        hidden: widths of the network's hidden layers, each with a ReLU.
        context_dim: length of the context, which the network sees beside the kept half.
        reverse: keep the last `D // 2` variables instead. In a stack every other flow should,
            since what no flow changes keeps its law.

    Shapes and errors are those of `Flow`.

    Raises:
        TypeError: if `bins` is no int, `bound` no number, `hidden` no sequence of ints, or
            `reverse` no bool.
        ValueError: if `bins` is below 2, `bound` is not positive and finite, or a width is below 1.

    Described in chapter 6. Source: Durkan et al. (2019), https://arxiv.org/abs/1906.04032.

    >>> flow = SplineFlow(3)
    >>> flow(torch.tensor([[1.0, 2.0, 100.0]]))
    (tensor([[  1.,   2., 100.]], grad_fn=...), tensor([0.], grad_fn=...))
    """

    def __init__(
        self,
        dim: int,
        bins: int = 8,
        bound: float = 4.0,
        hidden: Iterable[int] = (128, 128),
        context_dim: int = 0,
        reverse: bool = False,
    ):
        check_count("bins", bins, least=2)
        check_number("bound", bound)
        if not 0 < bound < math.inf:
            raise ValueError(f"bound must be positive and finite, got {bound}")
        super().__init__(dim, hidden, context_dim, reverse, raw_size=3 * bins - 1)
        self.bins, self.bound = bins, bound
        left_of = torch.ones(bins + 1, bins).tril(-1)  # 1 where a bin lies left of a knot
        self.register_buffer("_left_of", left_of, persistent=False)

    def _change(self, z: Tensor, raw: Tensor, inverse: bool) -> tuple[Tensor, Tensor]:
        raw = raw.unflatten(-1, (-1, z.shape[-1]))
        shares = raw[..., : 2 * self.bins, :].unflatten(-2, (2, self.bins)).softmax(-2)
        left_of, side = self._left_of.to(z.dtype), 2 * self.bound
        even = left_of.sum(-1, keepdim=True) * (side * LEAST_SHARE / self.bins) - self.bound
        knots = torch.add(even, left_of @ shares, alpha=side * (1 - LEAST_SHARE))
        ends_too = F.pad(raw[..., 2 * self.bins :, :], (0, 0, 1, 1))
        slopes = bounded(ends_too, LOG_SLOPE_BOUND).exp()
        return _spline(z, knots, slopes, inverse)
