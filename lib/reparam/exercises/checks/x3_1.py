"""Self-checks of exercise 3.1. Derived from the exercise's source; do not edit."""

import math

from reparam.exercises import expect


def test_pathwise(answer, rng):
    """The pathwise variance at μ = 0, σ = 1/2."""
    # At t = 1 and at t = 2 the statement's moment is e^(1/8) and e^(1/2).
    mean, second = math.exp(1 / 8), math.exp(1 / 2)
    right = second - mean**2
    expect.close(
        answer.variance_pathwise(0.0, 0.5), right, "The pathwise variance",
        mistakes={
            "this is the second moment: take the square of the mean away": second,
            "σ² for σ, or the other way round": math.exp(1 / 8) - math.exp(1 / 16),
        },
    )  # fmt: skip


def test_score(answer, rng):
    """The score function's variance at μ = 0, σ = 1/2."""
    # Under the weight e^(2z) = e^ε noise of mean 0 gets the mean 1: the weight's mean is
    # e^(1/2), and E[e^ε ε²] = e^(1/2) (1 + 1²). The estimate is 2 e^z ε.
    mean, weight = math.exp(1 / 8), math.exp(1 / 2)
    second = 4 * 2 * weight
    right = second - mean**2
    expect.close(
        answer.variance_score(0.0, 0.5), right, "The score function's variance",
        mistakes={
            "this is the second moment: take the square of the mean away": second,
            "the score is (z - μ)/σ², whose second moment is 1/σ²; a factor σ² is lost":
                second / 4 - mean**2,
            "e^{2z} and (z - μ)² are not independent: the weight moves the mean by 2σ²":
                4 * weight - mean**2,
            "this is Var[f] times the variance of the score; f and score depend on one z, and "
            "the height of f counts, not its spread":
                4 * (weight - mean**2),
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
