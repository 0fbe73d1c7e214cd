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
    """Both have the right mean at k = 2, σ = 0.5."""
    n = 40_000
    mean, path, height = variances(2.0, 0.5)
    told = {
        "pathwise": {
            "the slope of sin kz has a factor k": mean / 2,
            "this averages the height of f; the pathwise estimate is its slope": 0.0,
            "this is the slope by ε, with a factor σ too much": 0.5 * mean,
        },
        "score": {
            "the score is ε/σ, with σ below": 0.5 * mean,
            "the score is (z - μ)/σ², which is ε/σ; a σ too many stands below": 2
            * mean,
            "f is not weighted with the score": 0.0,
        },
    }
    for name, variance in (("pathwise", path), ("score", height)):
        found = expect.tensor(
            getattr(answer, name)(2.0, 0.5, n), (n,), f"What {name} returns"
        )
        expect.mean(
            found, mean, f"The mean of the {name} estimates",
            deviation=max(4.0, 1.1 * variance**0.5), mistakes=told[name],
        )  # fmt: skip
        expect.variance(
            found, variance, f"The variance of the {name} estimates", within=0.35
        )


def test_crossing(answer, rng):
    """At the crossover neither variance is far above the other."""
    sigma = answer.given["SIGMA"]
    found = expect.number(answer.crossover, "crossover")
    expect.that(found > 0, "crossover should be positive.")
    _, path, height = variances(found, sigma)
    if abs(path / height - 1) < 0.3:
        return
    why = ""
    if abs(found * sigma - 1) < 0.01:
        why = " kσ = 1 is the right order, and no more: measure."
    elif 0.7 < variances(found, 1.0)[1] / variances(found, 1.0)[2] < 1.4:
        why = " It would be right for σ = 1; what counts is how many waves lie under the law."
    elif (
        0.7
        < variances(found / sigma, 1.0)[1] / variances(found / sigma, 1.0)[2]
        < 1.4
    ):
        why = " A wider law covers more waves at the same k: which way must k go?"
    louder = "pathwise" if path > height else "score function"
    expect.that(
        False,
        f"At your crossover the {louder} estimates are clearly louder.{why}",
    )


def test_form(answer, rng):
    """Three words."""
    words = answer.use
    right = isinstance(words, (list, tuple)) and len(words) == 3
    expect.that(right, "use should hold three words.")
    expect.that(
        all(w in ("pathwise", "score") for w in words), "use holds other words."
    )
    expect.that(
        len(set(words)) > 1,
        "use: one estimator for all three. Does its variance stay below the other's as k grows "
        "from less than one wave under the law to many?",
    )

TITLE = 'Where the winner changes'
GIVEN = {'SIGMA': 0.5}
