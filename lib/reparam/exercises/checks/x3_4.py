"""Self-checks of exercise 3.4. Derived from the exercise's source; do not edit."""

import math

import torch

from reparam.exercises import expect


def variances(k, sigma):
    """Both variances in closed form, at μ = 0."""
    s = (k * sigma) ** 2
    mean = k * math.exp(-s / 2)
    path = k**2 * (1 + math.exp(-2 * s)) / 2 - mean**2
    height = (1 - (1 - 4 * s) * math.exp(-2 * s)) / (2 * sigma**2) - mean**2
    return mean, path, height


def test_estimates(answer, rng):
    """Both have the right mean at k = 1, σ = 1."""
    n = 40_000
    mean, path, height = variances(1.0, 1.0)
    for name, variance in (("pathwise", path), ("score", height)):
        found = expect.tensor(
            getattr(answer, name)(1.0, 1.0, n), (n,), f"The {name} estimates"
        )
        expect.mean(
            found, mean, f"The mean of the {name} estimates", deviation=1.1 * variance**0.5,
            mistakes={"the slope of sin kz has a factor k, or f is not weighted with the score":
                      0.0},
        )  # fmt: skip


def test_form(answer, rng):
    """A number and three words."""
    expect.that(
        expect.number(answer.crossover, "crossover") > 0,
        "crossover should be positive.",
    )
    words = answer.use
    right = isinstance(words, (list, tuple)) and len(words) == 3
    expect.that(right, "use should hold three words.")
    expect.that(
        all(w in ("pathwise", "score") for w in words), "use holds other words."
    )

TITLE = 'Where the winner changes'
GIVEN = {'SIGMA': 1.0}
