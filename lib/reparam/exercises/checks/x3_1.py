"""Self-checks of exercise 3.1. Derived from the exercise's source; do not edit."""

import math

import numpy as np
import torch

from reparam.exercises import expect

NODES, WEIGHTS = np.polynomial.hermite_e.hermegauss(120)
WEIGHTS = WEIGHTS / WEIGHTS.sum()


def moments(function, mu, sigma):
    """Mean and variance of function(z, ε), by Gauss-Hermite quadrature."""
    values = function(mu + sigma * NODES, NODES)
    mean = float((WEIGHTS * values).sum())
    return mean, float((WEIGHTS * (values - mean) ** 2).sum())


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
            "this is Var[f] times the variance of the score; f and score depend on one z, and "
            "the height of f counts, not its spread":
                moments(lambda z, e: np.exp(z), 0.0, 0.5)[1] / 0.25,
        },
    )  # fmt: skip


def test_place(answer, rng):
    """From μ = 0 to μ = 1 both variances grow alike."""
    for name in ("variance_pathwise", "variance_score"):
        function = getattr(answer, name)
        low = expect.number(function(0.0, 0.5), f"{name} at μ = 0")
        expect.that(low > 0, f"{name}: a variance is positive.")
        expect.close(
            function(1.0, 0.5) / low, math.exp(2), f"What μ does to {name}",
            mistakes={
                "nothing happens; e^z is taller and steeper to the right": 1.0,
                "the estimate grows like e^μ, and a variance is its square": math.e,
            },
        )  # fmt: skip

TITLE = 'An exponential cost'
GIVEN = {}
