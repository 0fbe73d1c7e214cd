"""Self-checks of exercise 3.2. Derived from the exercise's source; do not edit."""

import numpy as np
import torch

from reparam.exercises import expect


def exact(c):
    """By Gauss-Hermite quadrature."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(40)
    weights = weights / weights.sum()
    g = ((nodes - 0.5) ** 2 + c) * nodes
    return float((weights * g**2).sum() - (weights * g).sum() ** 2)


def test_without(answer, rng):
    """The variance at c = 0."""
    expect.close(
        answer.score_variance(0.0), exact(0.0), "The variance at c = 0",
        mistakes={
            "this is Var[f] times the variance of the score: the forecast's own answer": 3.0 / 2 + 1,
            "this is the second moment: the mean of the estimate is -1": exact(0.0) + 1,
        },
    )  # fmt: skip


def test_raised(answer, rng):
    """The variance at c = 10."""
    expect.close(
        answer.score_variance(10.0), exact(10.0), "The variance at c = 10",
        mistakes={
            "nothing has changed; a constant does not move the mean, but it moves this": exact(0.0),
            "the cross term 2c Cov[f₀ε, ε] is missing": exact(0.0) + 100,
        },
    )  # fmt: skip


def test_forecast(answer, rng):
    """The forecast notices a constant."""
    scores = torch.randn(1000, generator=rng)
    low = expect.number(
        answer.mended((scores - 0.5) ** 2, scores), "The forecast"
    )
    high = expect.number(
        answer.mended((scores - 0.5) ** 2 + 10, scores), "The forecast"
    )
    expect.that(
        high > 3 * low, "With 10 added to f your forecast hardly changes."
    )

TITLE = 'A forecast that fails'
GIVEN = {}
