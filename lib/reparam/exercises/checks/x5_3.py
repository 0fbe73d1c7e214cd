"""Self-checks of exercise 5.3. Derived from the exercise's source; do not edit."""

import numpy as np
import torch

from reparam.exercises import expect

TAUS = (0.05, 0.1, 0.2, 0.4, 0.8, 1.6)
RULES = ("K^-1", "K^-1/2", "K^-1/3")


def exact_moments(slope, rise, logit, tau):
    """Bias, variance and more by the trapezoid rule in (λ + L)/τ, with f' by hand.

    slope is f', rise is f(1) - f(0).
    """
    s = np.linspace(-45.0, 45.0, 20001)
    L = np.abs(tau * s - logit)
    weight = tau * (s[1] - s[0]) * np.exp(-L - 2 * np.log1p(np.exp(-L)))
    y = 1 / (1 + np.exp(-s))
    g = slope(y) * y * (1 - y) / tau
    theta = 1 / (1 + np.exp(-logit))
    truth = rise * theta * (1 - theta)
    mean, square = (weight * g).sum(), (weight * g**2).sum()
    return {
        "bias": mean - truth,
        "variance": square - mean**2,
        "mean": mean,
        "square": square,
        "blunt bias": mean - rise,
        "by the sample's mean": mean - slope(theta) * theta * (1 - theta),
    }


def held(answer, f, slope, rise, logit, tau):
    """`moments` against the truth."""
    found = answer.moments(f, logit, tau)
    expect.that(
        isinstance(found, (tuple, list)) and len(found) == 2,
        "`moments` should return two numbers, the bias and the variance.",
    )
    exact = exact_moments(slope, rise, logit, tau)
    expect.close(
        found[0], exact["bias"], "The bias", rtol=0.01, atol=2e-4,
        mistakes={
            "it is the mean of the estimate. A bias is that minus the truth":
                exact["mean"],
            "the sign is turned around. A bias is mean minus truth": -exact["bias"],
            "the truth is dE/dθ. By the logit it has the factor θ(1 - θ)":
                exact["blunt bias"],
            "the estimate has a factor τ too many: y depends on λ/τ":
                tau * exact["mean"] - (exact["mean"] - exact["bias"]),
            "the truth is taken as the slope of f at θ. f of the mean is not the "
            "mean of f; the bit is 0 or 1": exact["by the sample's mean"],
        },
    )  # fmt: skip
    expect.close(
        found[1], exact["variance"], "The variance", rtol=0.01, atol=2e-4,
        mistakes={
            "it is the second moment. The square of the mean comes off":
                exact["square"],
            "it is the standard deviation": exact["variance"] ** 0.5,
            "it is the variance of a mean already. That of one estimate is wanted":
                exact["variance"] / answer.given["K"],
        },
    )  # fmt: skip


def test_linear(answer, rng):
    """A linear f, at one temperature."""
    held(answer, lambda y: 2 * y, lambda y: 2 + 0 * y, 2.0, 0.5, 0.5)


def test_exponential(answer, rng):
    """The exercise's f, at two temperatures."""
    for tau in (0.3, 1.0):
        held(answer, torch.exp, np.exp, np.e - 1, -1.0, tau)


def test_best(answer, rng):
    """The best temperature is one of the six."""
    best = expect.number(answer.best, "`best`")
    expect.that(
        any(abs(best - tau) < 1e-9 for tau in TAUS), "`best` is not one of TAUS."
    )
    every = {tau: exact_moments(np.exp, np.e - 1, -1.0, tau) for tau in TAUS}
    for name, which in {
        "one sample, not the mean of K: the variance is divided by K": min(
            TAUS, key=lambda t: every[t]["bias"] ** 2 + every[t]["variance"]
        ),
        "the least bias alone": TAUS[0],
    }.items():
        expect.that(
            abs(best - which) > 1e-9,
            f"That would be the best temperature for {name}.",
        )

TITLE = 'As cold as K allows'
GIVEN = {'K': 100}
