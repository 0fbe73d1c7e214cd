"""Quadrature over the noise of relaxations, so that no test of them needs Monte Carlo."""

import itertools

import numpy as np
import torch

F64 = torch.float64
FAR = 40.0  # logistic noise lies beyond with probability 4e-18


def logistic_nodes(breaks=(), count=40):
    """Nodes and weights of `E[g(L)]`, `L` standard logistic, for `g` smooth between `breaks`."""
    x, w = (torch.tensor(a, dtype=F64) for a in np.polynomial.legendre.leggauss(count))
    ends = sorted({-FAR, -8.0, 0.0, 8.0, FAR, *(float(b) for b in breaks if abs(b) < FAR)})
    nodes, weights = [], []
    for low, high in itertools.pairwise(ends):
        node = (high + low) / 2 + (high - low) / 2 * x
        nodes.append(node)
        weights.append((high - low) / 2 * w * torch.sigmoid(node) * torch.sigmoid(-node))
    return torch.cat(nodes), torch.cat(weights)


def product(first, second):
    """All pairs of two rules: nodes of both, and the products of their weights."""
    (x, u), (y, v) = first, second
    pairs = torch.cartesian_prod(torch.arange(len(x)), torch.arange(len(y)))
    return x[pairs[:, 0]], y[pairs[:, 1]], u[pairs[:, 0]] * v[pairs[:, 1]]


def simplex_nodes(count=12):
    """Three exponential times over their sum, uniform on the simplex: `[n, 3]` and weights.

    The triangle is folded out of the square; nodes crowd at its edges, where logarithms end.
    """
    x, w = (torch.tensor(a, dtype=F64) for a in np.polynomial.legendre.leggauss(count))
    x, w = (x + 1) / 2, w / 2
    x, w = x**2 * (3 - 2 * x), w * 6 * x * (1 - x)
    s, t, weights = product((x, w), (x, w))
    return torch.stack([s, (1 - s) * t, (1 - s) * (1 - t)], -1), 2 * (1 - s) * weights


def patch_noise(monkeypatch, name, *draws):
    """The next draws of this noise are those given, in turn; each must have the shape asked for."""
    draws = list(draws)

    def draw(size, *, dtype, device):
        noise = draws.pop(0)
        assert tuple(size) == tuple(noise.shape), f"asked for {tuple(size)}"
        return noise.to(device=device, dtype=dtype)

    monkeypatch.setattr(f"reparam.relaxed.{name}", draw)
    return draws


def patch_outcomes(monkeypatch, kind, outcomes):
    """`sample` of this distribution returns these outcomes, one for each entry of the batch."""
    monkeypatch.setattr(
        kind, "sample", lambda self, shape=(): outcomes.expand(*shape, *outcomes.shape)
    )
