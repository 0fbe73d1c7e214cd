"""The radial flow: space stretched or squeezed around one point."""

import torch
from torch import Tensor, nn

from reparam.flows._contract import Flow, amortized

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

    def __init__(self, dim: int, context_dim: int = 0):
        super().__init__(dim, context_dim)
        self.center = nn.Parameter(torch.randn(dim))
        self.a = nn.Parameter(torch.zeros(1))
        self.b = nn.Parameter(0.01 / dim * torch.randn(1))
        self.amortize = amortized(context_dim, dim + 2)

    def _constrained(self, context: Tensor | None) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """`c`, `α`, `β` and `α + β`, for all inputs or for each."""
        center, a, b = self.center, self.a, self.b
        if context is not None:
            dc, da, db = self.amortize(context).split([self.dim, 1, 1], -1)
            center, a, b = center + dc, a + da, b + db
        alpha, x = torch.exp(torch.asinh(a.squeeze(-1))), torch.asinh(b.squeeze(-1))
        return center, alpha, alpha * torch.expm1(x), alpha * torch.exp(x)

    def _map(self, z: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor]:
        center, alpha, beta, together = self._constrained(context)
        away = z - center
        r = torch.linalg.vector_norm(away, dim=-1)
        h = beta / (alpha + r)
        return z + h[..., None] * away, self._log_det(r, alpha, beta, together)

    def _unmap(self, y: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor]:
        center, alpha, beta, together = self._constrained(context)
        away = y - center
        length = torch.linalg.vector_norm(away, dim=-1)
        # r² + p r - α length = 0, of which we want the positive root
        p = together - length
        sign = torch.where(p > 0, 1.0, -1.0).to(p)
        larger = (sign * p + torch.sqrt(p.square() + 4 * alpha * length)) / 2
        r = torch.where(p > 0, alpha * length / larger, larger)
        h = beta / (together + r)
        return y - h[..., None] * away, -self._log_det(r, alpha, beta, together)

    def _log_det(self, r: Tensor, alpha: Tensor, beta: Tensor, together: Tensor) -> Tensor:
        """Of both sides of `1 + β/(α + r) = (α + β + r) / (α + r)`, that without a cancellation."""
        sign = torch.where(beta < 0, -1.0, 1.0).to(beta)
        smaller = torch.where(beta < 0, together, alpha)
        size = sign * beta
        across = torch.log1p(size / (smaller + r))
        along = torch.log1p(size * alpha / (r * (r + 2 * alpha) + alpha * smaller))
        return sign * ((self.dim - 1) * across + along)
