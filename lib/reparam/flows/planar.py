"""The planar flow: space stretched or squeezed along one direction, at one hyperplane."""

import math

import torch
from torch import Tensor, nn

from reparam.flows._contract import ByHand, Flow, amortized, root

__all__ = ["PlanarFlow"]


class PlanarFlow(Flow):
    """`z + û tanh(w·z + b)`: moves points along `û`, by how far they are from a hyperplane.

    It can be inverted, with a differentiable inverse, if and only if `w·û > -1`. Any `u` is let in,
    and made `û = 2 σ(x) u` with `x = asinh(w·u)`, so that `1 + w·û = exp(x)`: a small `u` stays as
    it is, and nothing is divided by the length of `w`, which may be 0. The log-determinant is
    `log(tanh²a + sech²a exp(x))` with `a = w·z + b`, a sum of positive terms that does not cancel
    where `1 + w·û sech²a` does.

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

    by_columns = True

    def __init__(self, dim: int, context_dim: int = 0):
        super().__init__(dim, context_dim)
        self.u = nn.Parameter(0.01 * torch.randn(dim))
        self.w = nn.Parameter(torch.randn(dim) / math.sqrt(dim))
        self.b = nn.Parameter(torch.zeros(()))
        self.amortize = amortized(context_dim, 2 * dim + 1)

    def _parameters_for(self, context: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        """`u`, `w` and `b`, for all inputs or for each."""
        if context is None:
            return self.u, self.w, self.b
        u, w, b = self.amortize(context).split([self.dim, self.dim, 1], -1)
        return self.u + u, self.w + w, self.b + b.squeeze(-1)

    def _map(self, z: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor]:
        is_matrix = context is None and z.ndim == 2
        return (_Planar.call if is_matrix else planar)(z, *self._parameters_for(context))

    def _unmap(self, y: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor]:
        u, w, b = self._parameters_for(context)
        u, x = constrained(u, w)
        a = solved((y * w).sum(-1) + b, x)
        t = torch.tanh(a)
        return y - t[..., None] * u, -torch.log(slope(a, t, x))


def constrained(u: Tensor, w: Tensor) -> tuple[Tensor, Tensor]:
    """`û` and `x = log(1 + w·û)`."""
    x = torch.asinh((w * u).sum(-1))
    return 2 * torch.sigmoid(x)[..., None] * u, x


def planar(z: Tensor, u: Tensor, w: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """The map and its log-determinant."""
    u, x = constrained(u, w)
    a = (z * w).sum(-1) + b
    t = torch.tanh(a)
    return z + t[..., None] * u, torch.log(slope(a, t, x))


class _Planar(ByHand):
    """The same for a matrix z and vectors u and w, in a third of the calls."""

    plain = staticmethod(planar)

    @staticmethod
    def forward(ctx, z, u, w, b):
        x = torch.dot(w, u).asinh_()
        sigmoid, four_exp = torch.sigmoid(x), 4 * torch.exp(x)
        moved_by = u * (sigmoid + sigmoid)
        a = torch.addmv(b, z, w)
        t = torch.tanh(a)
        a.add_(a)
        quarter_sech2 = torch.sigmoid(a).mul_(a.neg_().sigmoid_())
        total = torch.addcmul(t * t, quarter_sech2, four_exp)
        kept = x, sigmoid, four_exp, moved_by, t, quarter_sech2, total
        ctx.save_for_backward(z, u, w, b, *kept)
        return torch.addr(z, t, moved_by), torch.log(total)

    @staticmethod
    def by_hand(saved, of_y, of_log_det):
        z, u, w, _, x, sigmoid, four_exp, moved_by, t, quarter_sech2, total = saved
        ratio = of_log_det / total
        # d tanh(a) = sech²(a) da, and d total = 2 tanh(a) sech²(a) (1 - exp(x)) da
        of_a = torch.mv(of_y, moved_by).addcmul_(t * ratio, 2 - four_exp / 2)
        of_a.mul_(quarter_sech2).mul_(4)
        of_moved_by = torch.mv(of_y.t(), t)
        # dû = 2 sigmoid(x) du + û (1 - sigmoid(x)) dx, and dx = d(w·u) / cosh(x)
        of_x = torch.dot(of_moved_by, moved_by) * (1 - sigmoid)
        of_x = (of_x + torch.dot(ratio, quarter_sech2) * four_exp) / torch.cosh(x)
        of_u = torch.addcmul(of_x * w, of_moved_by, sigmoid + sigmoid)
        of_w = torch.addcmul(torch.mv(z.t(), of_a), u, of_x)
        return torch.addr(of_y, of_a, w), of_u, of_w, of_a.sum()


def slope(a: Tensor, t: Tensor, x: Tensor) -> Tensor:
    """The slope of `a + expm1(x) tanh(a)`, `tanh²a + sech²a exp(x)`, given `t = tanh(a)`.

    `sech²a` as `1 - t²` would cancel, and as `1 / cosh²a` overflow in the backward pass.
    """
    twice = a + a
    quarter_sech2 = torch.sigmoid(twice) * torch.sigmoid(-twice)
    return torch.addcmul(t * t, quarter_sech2, 4 * torch.exp(x))


def solved(c: Tensor, x: Tensor) -> Tensor:
    """The root of `a + expm1(x) tanh(a) = c`, which has the sign of `c`.

    Between 0 and infinity the function is convex if `x < 0` and concave if not, so that from where
    we start Newton's method goes to the root without a step across it.
    """

    def step(a: Tensor) -> Tensor:
        t = torch.tanh(a)
        return a - (a + torch.expm1(x) * t - c) / slope(a, t, x)

    size = c.abs()
    bounds = size * torch.exp(-x), size - torch.expm1(x)
    start = torch.where(x > 0, torch.maximum(*bounds), torch.minimum(*bounds))
    return root(step, torch.copysign(start, c))
