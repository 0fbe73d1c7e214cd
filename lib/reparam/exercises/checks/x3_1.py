"""Self-checks of exercise 3.1. Derived from the exercise's source; do not edit."""

import math

import numpy as np

from reparam.exercises import expect


def moments(function, mu, sigma):
    """Mean and variance of function(z, ε), by Gauss-Hermite quadrature."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(120)
    weights = weights / weights.sum()
    values = function(mu + sigma * nodes, nodes)
    mean = float((weights * values).sum())
    return mean, float((weights * values**2).sum()) - mean**2


def test_pathwise(answer, rng):
    """The pathwise variance at μ = 0, σ = 1/2."""
    mean, right = moments(lambda z, e: np.exp(z), 0.0, 0.5)
    expect.close(
        answer.variance_pathwise(0.0, 0.5), right, "The pathwise variance",
        mistakes={
            "this is the second moment: take the square of the mean away": right + mean**2,
            "σ² for σ, or the other way round": moments(lambda z, e: np.exp(z), 0.0, 0.25)[1],
        },
    )  # fmt: skip


def test_score(answer, rng):
    """The score function's variance at μ = 0, σ = 1/2."""
    mean, right = moments(lambda z, e: np.exp(z) * e / 0.5, 0.0, 0.5)
    expect.close(
        answer.variance_score(0.0, 0.5), right, "The score function's variance",
        mistakes={
            "this is the second moment: take the square of the mean away": right + mean**2,
            "the score is (z - μ)/σ², whose second moment is 1/σ²; a factor σ² is lost":
                (right + mean**2) * 0.25 - mean**2,
            "e^{2z} and (z - μ)² are not independent: the weight moves the mean by 2σ²":
                math.exp(0.5) / 0.25 - mean**2,
        },
    )  # fmt: skip

TITLE = 'An exponential cost'
GIVEN = {}
