"""The Sylvester flow: several planar flows at once, along directions at right angles."""

import math

import torch
from torch import Tensor, nn

from reparam._checks import check_count
from reparam.flows._contract import Flow, amortized
from reparam.flows.planar import slope, solved

__all__ = ["SylvesterFlow"]


class SylvesterFlow(Flow):
    """`z + Q R1 tanh(R2 Qᵀz + b)`: M bends at once, where a planar flow has one.

    `Q` is `[D, M]` with orthonormal columns, a product of M Householder reflections; `R1` and `R2`
    are upper triangular. The Jacobian's determinant is that of an M by M triangular matrix, the
    product of `1 + tanh'(a_i) R1_ii R2_ii` with `a = R2 Qᵀz + b`, and the map can be inverted if
    each `R1_ii R2_ii > -1`. Any diagonals are let in: with `x = asinh(r1 r2)` those of `R1` are
    `2 σ(x) r1`, so that `1 + R1_ii R2_ii = exp(x)`, as in `PlanarFlow`.

    The inverse solves for `a` from the last row up, M monotone equations in one unknown.

    It starts with `R2 = I`, b = 0 and `r1` of standard deviation 0.01 / √M.

    Args:
        dim: D, the length of z.
        num_vectors: M, from 1 to D; D if None.
        context_dim: as in `Flow`; reflections, `R1`, `R2` and b get a linear function of the
            context added.

    Shapes, raises: as `Flow`; ValueError if `num_vectors` exceeds `dim`.

    Derived in chapter 6. Source: van den Berg et al. (2018), https://arxiv.org/abs/1803.05649.

    >>> flow = SylvesterFlow(3, num_vectors=2)
    >>> z, log_det = flow(torch.zeros(5, 3))
    >>> z.shape, log_det.shape
    (torch.Size([5, 3]), torch.Size([5]))
    >>> torch.allclose(flow.inverse(z)[0], torch.zeros(5, 3), atol=1e-6)
    True
    """

    def __init__(self, dim: int, num_vectors: int | None = None, context_dim: int = 0):
        super().__init__(dim, context_dim)
        m = dim if num_vectors is None else num_vectors
        check_count("num_vectors", m)
        if m > dim:
            raise ValueError(f"num_vectors must be at most dim = {dim}, got {m}")
        self.reflectors = nn.Parameter(torch.randn(m, dim))
        self.r1 = nn.Parameter(0.01 / math.sqrt(m) * torch.randn(m, m))
        self.r2 = nn.Parameter(torch.eye(m))
        self.b = nn.Parameter(torch.zeros(m))
        self.amortize = amortized(context_dim, m * (dim + 2 * m + 1))

    def _parameters_for(self, context: Tensor | None) -> tuple[Tensor, ...]:
        """`Q`, `R1`, `R2`, `b` and `x`, for all inputs or for each."""
        given = [self.reflectors, self.r1, self.r2, self.b]
        if context is not None:
            parts = self.amortize(context).split([p.numel() for p in given], -1)
            given = [p + part.unflatten(-1, p.shape) for p, part in zip(given, parts, strict=True)]
        reflectors, r1, r2, b = given
        r1_diagonal, r2 = r1.diagonal(dim1=-2, dim2=-1), r2.triu()
        x = torch.asinh(r1_diagonal * r2.diagonal(dim1=-2, dim2=-1))
        r1 = r1.triu(1) + torch.diag_embed(2 * torch.sigmoid(x) * r1_diagonal)
        return _orthonormal(reflectors), r1, r2, b, x

    def _map(self, z: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor]:
        q, r1, r2, b, x = self._parameters_for(context)
        a = _times(r2, _times(q.mT, z)) + b
        t = torch.tanh(a)
        return z + _times(q, _times(r1, t)), torch.log(slope(a, t, x)).sum(-1)

    def _unmap(self, y: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor]:
        q, r1, r2, b, x = self._parameters_for(context)
        # Row i reads v_i + R1_ii tanh(a_i) = left_i with a_i = R2_ii v_i + right_i, as soon as the
        # rows below it are known and have been taken to the other side.
        left, right, rows = _times(q.mT, y), b, []
        for i in reversed(range(len(self.b))):
            c = r2[..., i, i] * left[..., i] + right[..., i]
            rows.append(solved(c, x[..., i].expand_as(c)))
            t = torch.tanh(rows[-1])
            v = left[..., i] - r1[..., i, i] * t
            left = left - r1[..., :, i] * t[..., None]
            right = right + r2[..., :, i] * v[..., None]
        a = torch.stack(rows[::-1], -1)
        t = torch.tanh(a)
        return y - _times(q, _times(r1, t)), -torch.log(slope(a, t, x)).sum(-1)


def _times(matrix: Tensor, vector: Tensor) -> Tensor:
    """One matrix for all vectors, or one for each."""
    if matrix.ndim == 2:
        return vector @ matrix.mT
    return (matrix @ vector[..., None]).squeeze(-1)


def _orthonormal(reflectors: Tensor) -> Tensor:
    """The first columns of the product of the reflections `I - 2 n nᵀ`, n the unit vectors."""
    m, dim = reflectors.shape[-2:]
    normals = nn.functional.normalize(reflectors, dim=-1)
    q = torch.eye(dim, m, dtype=reflectors.dtype, device=reflectors.device)
    for k in reversed(range(m)):
        n = normals[..., k, :, None]
        q = q - 2 * n * (n.mT @ q)
    return q
