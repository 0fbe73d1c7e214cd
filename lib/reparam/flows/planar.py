"""The planar flow: space stretched or squeezed along one direction, at one hyperplane."""

import math

import torch
from torch import Tensor, nn

from reparam.flows._contract import Flow, amortized, root

__all__ = ["PlanarFlow"]


class PlanarFlow(Flow):
    """`z + û tanh(w·z + b)`: moves points along `û`, by how far they are from a hyperplane.

    It can be inverted if and only if `w·û > -1`. Any `u` is let in, and made `û = 2 σ(x) u` with
    `x = asinh(w·u)`, so that `1 + w·û = exp(x)`: a small `u` stays as it is, and nothing is divided
    by the length of `w`, which may be 0. The log-determinant is `log(tanh²a + sech²a exp(x))` with
    `a = w·z + b`, a sum of positive terms that does not cancel where `1 + w·û sech²a` does.

    The inverse solves `a + w·û tanh(a) = w·y + b`, a monotone equation in one unknown.

    It starts with `log_det` within 0.01 or so: `w·z` has variance 1 for standard Gaussian z, `u` a
    standard deviation of 0.01 in each entry, and `b` is 0.

    Args, shapes, raises: as `Flow`; with a context, `u`, `w` and `b` get a linear function of it
    added.

    Derived in chapter 6. Source: Rezende and Mohamed (2015), section 4.1 and appendix A,
    https://arxiv.org/abs/1505.05770, whose own constraint moves `u` however small it is.

    >>> flow = PlanarFlow(2)
    >>> z, log_det = flow(torch.zeros(5, 2))
    >>> z.shape, log_det.shape
    (torch.Size([5, 2]), torch.Size([5]))
    >>> torch.allclose(flow.inverse(z)[0], torch.zeros(5, 2), atol=1e-6)
    True
    """

    def __init__(self, dim: int, context_dim: int = 0):
        super().__init__(dim, context_dim)
        self.u = nn.Parameter(0.01 * torch.randn(dim))
        self.w = nn.Parameter(torch.randn(dim) / math.sqrt(dim))
        self.b = nn.Parameter(torch.zeros(1))
        self.amortize = amortized(context_dim, 2 * dim + 1)

    def _constrained(self, context: Tensor | None) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """`û`, `w`, `b` and `log(1 + w·û)`, for all inputs or for each."""
        u, w, b = self.u, self.w, self.b
        if context is not None:
            du, dw, db = self.amortize(context).split([self.dim, self.dim, 1], -1)
            u, w, b = u + du, w + dw, b + db
        x = torch.asinh((w * u).sum(-1))
        return 2 * torch.sigmoid(x)[..., None] * u, w, b.squeeze(-1), x

    def _map(self, z: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor]:
        u, w, b, x = self._constrained(context)
        a = _dot(z, w) + b
        return z + u * torch.tanh(a)[..., None], _log_slope(a, x)

    def _unmap(self, y: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor]:
        u, w, b, x = self._constrained(context)
        a = solved(_dot(y, w) + b, x)
        return y - u * torch.tanh(a)[..., None], -_log_slope(a, x)


def _dot(z: Tensor, w: Tensor) -> Tensor:
    return z @ w if w.ndim == 1 else (z * w).sum(-1)


def sech2(a: Tensor) -> Tensor:
    """`sech²(a)`, neither cancelling as `1 - tanh²` nor overflowing as `1 / cosh²`."""
    return 4 * torch.sigmoid(2 * a) * torch.sigmoid(-2 * a)


def _log_slope(a: Tensor, x: Tensor) -> Tensor:
    """The logarithm of the slope of `a + expm1(x) tanh(a)`."""
    return torch.log(torch.tanh(a).square() + sech2(a) * torch.exp(x))


def solved(c: Tensor, x: Tensor) -> Tensor:
    """The root of `a + expm1(x) tanh(a) = c`, of the sign of `c`.

    Beside the root, on the side where we start, the function is convex if `x < 0` and concave if
    not, so that Newton's method goes to the root without a step across it.
    """

    def step(a: Tensor) -> Tensor:
        t = torch.tanh(a)
        return a - (a + torch.expm1(x) * t - c) / (t.square() + sech2(a) * torch.exp(x))

    size = c.abs()
    one, other = size * torch.exp(-x), size - torch.expm1(x)
    start = torch.where(x > 0, torch.maximum(one, other), torch.minimum(one, other))
    return root(step, torch.copysign(start, c))
