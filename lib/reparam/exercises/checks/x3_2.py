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
            "this is Var[f] times the variance of the score: the forecast's own answer": 3.0,
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


def test_best_constant(answer, rng):
    """The best constant is looked for where it matters."""
    found = expect.number(answer.best_c, "best_c")
    expect.that(
        abs(found + 1.25) > 0.01,
        "best_c: this makes E[f] zero. What should be small is f times the score, so that f "
        "counts most where the score is large.",
    )


def test_forecast(answer, rng):
    """A coin with scores ±1 on which f is 11 and 13: the estimates are -11 and 13."""
    scores = torch.tensor([-1.0, 1.0]).repeat(1000)
    expect.close(
        answer.mended(scores + 12, scores), 144.0, "The forecast for the coin", rtol=0.003,
        mistakes={
            "these are the two variances multiplied; f and score come from one sample": 1.0,
            "this is the mean of the squares; the mean of the estimates is 1, not 0": 145.0,
        },
    )  # fmt: skip

TITLE = 'A forecast that fails'
GIVEN = {}
