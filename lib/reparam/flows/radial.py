"""The radial flow: space stretched or squeezed around one point."""

import torch
from torch import Tensor, nn

from reparam.flows._contract import ByHand, Flow, amortized

__all__ = ["RadialFlow"]


class RadialFlow(Flow):
    """`z + β (z - c) / (α + r)` with `r = ‖z - c‖`: moves points to or from a center `c`.

    It can be inverted if `α > 0` and `β > -α`. Any two numbers are let in: `α = exp(asinh(a))` and
    `β = α expm1(asinh(b))`, so that b = 0 is the identity. The log-determinant is

        (D - 1) log(1 + β / (α + r)) + log(1 + α β / (α + r)²)

    with each logarithm taken of a number that does not cancel. The inverse is in closed form: `r`
    solves a quadratic equation.

    It starts with `c` at standard Gaussian noise, α = 1 and `b` of standard deviation 0.01 / D.

    Args, shapes, raises: as `Flow`; with a context, `c`, `a` and `b` get a linear function of it
    added.

    Derived in chapter 6. Source: Rezende and Mohamed (2015), section 4.1 and appendix A,
    https://arxiv.org/abs/1505.05770.

    >>> flow = RadialFlow(2)
    >>> z, log_det = flow(torch.zeros(5, 2))
    >>> z.shape, log_det.shape
    (torch.Size([5, 2]), torch.Size([5]))
    >>> torch.allclose(flow.inverse(z)[0], torch.zeros(5, 2), atol=1e-6)
    True
    """

    by_columns = True

    def __init__(self, dim: int, context_dim: int = 0):
        super().__init__(dim, context_dim)
        self.center = nn.Parameter(torch.randn(dim))
        self.a = nn.Parameter(torch.zeros(()))
        self.b = nn.Parameter(0.01 / dim * torch.randn(()))
        self.amortize = amortized(context_dim, dim + 2)

    def _parameters_for(self, context: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        """`c`, `a` and `b`, for all inputs or for each."""
        if context is None:
            return self.center, self.a, self.b
        center, a, b = self.amortize(context).split([self.dim, 1, 1], -1)
        return self.center + center, self.a + a.squeeze(-1), self.b + b.squeeze(-1)

    def _map(self, z: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor]:
        is_matrix = context is None and z.ndim == 2
        return (_Radial.call if is_matrix else radial)(z, *self._parameters_for(context))

    def _unmap(self, y: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor]:
        center, a, b = self._parameters_for(context)
        alpha, x = torch.exp(torch.asinh(a)), torch.asinh(b)
        away = y - center
        length = torch.linalg.vector_norm(away, dim=-1) / alpha
        # The positive root of s² + p s = length, without the difference that cancels.
        p = torch.exp(x) - length
        sign = torch.where(p > 0, 1.0, -1.0).to(p)
        larger = (sign * p + torch.sqrt(p * p + 4 * length)) / 2
        s = torch.where(p > 0, length / larger, larger)
        shorter = (1 + s) / (torch.exp(x) + s)
        return center + shorter[..., None] * away, -log_det(s, x, self.dim)


def radial(z: Tensor, center: Tensor, a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """The map and its log-determinant, in terms of `s = r / α` and of `β / α = expm1(x)`."""
    x = torch.asinh(b)
    away = z - center
    s = torch.linalg.vector_norm(away, dim=-1) / torch.exp(torch.asinh(a))
    h = torch.expm1(x) / (1 + s)
    return z + h[..., None] * away, log_det(s, x, z.shape[-1]) + s * 0  # as below


def log_det(s: Tensor, x: Tensor, dim: int) -> Tensor:
    """`(D - 1) log(1 + m / (1 + s)) + log(1 + m / (1 + s)²)` with `m = expm1(x)`.

    Where m is negative these are logarithms of differences; minus those of the inverse ratios are
    the same, `1 - m / (1 + m + s)` and `1 - m / (1 + m + s (s + 2))`.
    """
    m, is_negative = torch.expm1(x), x < 0
    sign = torch.where(is_negative, -1.0, 1.0).to(x)
    least = torch.where(is_negative, torch.exp(x), 1.0)
    across = torch.log1p(sign * m / (least + s))
    along = torch.log1p(sign * m / (least + s * (s + 2)))
    return sign * ((dim - 1) * across + along)


class _Radial(ByHand):
    """The same for a matrix z and one center, in a third of the calls."""

    plain = staticmethod(radial)

    @staticmethod
    def forward(ctx, z, center, a, b):
        width, x = torch.asinh(a), torch.asinh(b)
        alpha, m, g = torch.exp(width), torch.expm1(x), torch.exp(x)
        away = z - center
        squared = torch.mv(away * away, torch.ones_like(center))
        # A length of 0 would have no direction in the backward pass.
        s = squared.clamp_(min=torch.finfo(z.dtype).tiny).sqrt_().div_(alpha)
        reach = s + 1
        h = m / reach
        size, near = m.abs(), s + g.clamp(max=1)
        along = torch.div(size, torch.addcmul(near, s, reach)).log1p_()
        across = torch.div(size, near).log1p_()
        ctx.save_for_backward(z, center, a, b, width, x, alpha, g, s, reach, h)
        moved = torch.addcmul(z, away, h[:, None])
        total = along.add_(across, alpha=z.shape[-1] - 1).mul_(m.sign())
        return moved, total.add_(s * 0)  # NaN, which is refused, where the squares overflow

    @staticmethod
    def by_hand(saved, of_y, of_log_det):
        z, center, _, _, width, x, alpha, g, s, reach, h = saved
        away = z - center  # kept, it would double what all layers hold
        near = s + g
        along = of_log_det / torch.addcmul(near, s, reach)
        of_m = torch.mv(of_y * away, torch.ones_like(center)).div_(reach).add_(along)
        of_m.addcdiv_(of_log_det, near, value=z.shape[-1] - 1)
        minus_of_s = along.add_(of_m).mul_(h)
        per_length = minus_of_s / (s * (-alpha * alpha))
        of_away = away.mul_(per_length[:, None]).addcmul_(of_y, h[:, None])
        of_a = torch.dot(minus_of_s, s) / torch.cosh(width)
        of_b = of_m.sum() * g / torch.cosh(x)
        return of_y + of_away, -of_away.sum(0), of_a, of_b
