"""Self-checks of exercise 2.5. Derived from the exercise's source; do not edit."""

import math

import torch

from reparam.exercises import expect


def exact(g, h, c, mu, sigma):
    """E[f] differentiated on a fine grid of the density: its derivative times f."""
    z = torch.linspace(
        mu - 9 * sigma, mu + 9 * sigma, 400_001, dtype=torch.float64
    )
    z = (z[1:] + z[:-1]) / 2
    u = (z - mu) / sigma
    weights = (
        torch.exp(-u * u / 2)
        / math.sqrt(2 * math.pi)
        / sigma
        * (18 * sigma / 400_000)
    )
    f = torch.where(z < c, g(z), h(z))
    return float((f * weights * u).sum() / sigma), float(
        (f * weights * (u * u - 1)).sum() / sigma
    )


def test_step(answer, rng):
    """A plain step at 0 under N(0.5, 1)."""
    eps = torch.randn(1000, generator=rng)
    found = answer.mended_gradients(
        lambda z: 0 * z, lambda z: 0 * z + 1, 0.0, 0.5, 1.0, eps
    )
    expect.that(
        isinstance(found, (tuple, list)) and len(found) == 2,
        "Two tensors are expected.",
    )
    density = math.exp(-0.125) / math.sqrt(2 * math.pi)
    by_mu = expect.tensor(found[0], (1000,), "The derivative by μ")
    expect.close(
        by_mu, torch.full((1000,), density), "The derivative by μ of a step", rtol=1e-3,
        mistakes={
            "this is the pathwise gradient: the samples that cross the edge are not counted":
                torch.zeros(1000),
            "the sign of the jump: h(c) - g(c)": torch.full((1000,), -density),
        },
    )  # fmt: skip
    expect.close(
        expect.tensor(found[1], (1000,), "The derivative by σ"),
        torch.full((1000,), -0.5 * density), "The derivative by σ of a step", rtol=1e-3,
        mistakes={
            "by σ the edge moves with (c - μ)/σ, the term of μ does not serve":
                torch.full((1000,), density),
            "the sign: raising σ takes samples below an edge that lies below μ":
                torch.full((1000,), 0.5 * density),
        },
    )  # fmt: skip


def test_no_jump(answer, rng):
    """Where the pieces meet, nothing is added."""
    eps = torch.randn(500, generator=rng)
    by_mu, _ = answer.mended_gradients(torch.abs, torch.abs, 0.0, 0.3, 1.0, eps)
    z = 0.3 + eps
    expect.close(by_mu, torch.sign(z), "The derivative by μ of |z|", atol=1e-3)

TITLE = 'Paying for the jump'
GIVEN = {}
